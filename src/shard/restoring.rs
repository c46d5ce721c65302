//! The state of a shard on its way back after a restart: checkpoints first, then the log from where they end.
//!
//! Meanwhile dispatches go into the log and to clients as ever, and change no state: the replay gets to them. Each event is applied to the
//! guilds whose checkpoint is older. Which guilds there are, and in which order, follows from READY and the log alone.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Shard;
use super::log::Dispatch;
use crate::cache::Touch;
use crate::store::StateBlob;
use crate::wire::GuildId;
use crate::wire::json;

/// Bytes of log replayed before the core may do something else.
const REPLAY_BYTES_MAX: usize = 16 * 1024;

/// An IDENTIFY waits this long for the state and for the store: with the state, clients that stay can be told what READY changes; without it their sessions end.
pub(super) const IDENTIFY_HELD_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Restoring {
    /// The index as of which each guild was stored.
    as_of: BTreeMap<GuildId, u64>,
    /// The guilds as they come to be, and the same sorted.
    order: Vec<GuildId>,
    known: BTreeSet<GuildId>,
    /// The next index to be applied; `None` while checkpoints come in.
    at: Option<u64>,
    due: Option<Instant>,
    /// Something is missing for good: Discord must send the state anew.
    is_lost: bool,
    /// READY as it was stored.
    pub ready: Vec<u8>,
}

impl Restoring {
    /// `order`: READY's guilds.
    pub fn new(ready: Vec<u8>, order: Vec<GuildId>) -> Self {
        let known = order.iter().copied().collect();
        Self { as_of: BTreeMap::new(), order, known, at: None, due: None, is_lost: false, ready }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What was missing of the log has come: it is applied from then on.
    pub fn go_on_at(&mut self, now: Instant) {
        if self.at.is_some() && !self.is_lost {
            self.due = Some(now);
        }
    }

    /// Whether the state may still come back.
    pub fn is_under_way(&self) -> bool {
        !self.is_lost
    }

    /// Follows which guilds there are. `guild` is the one that the event creates or deletes.
    fn follow_order(&mut self, name: &[u8], guild: GuildId, data: &[u8]) {
        match name {
            b"GUILD_CREATE" if self.known.insert(guild) => self.order.push(guild),
            b"GUILD_DELETE" => {
                let is_outage = json::pick(data, ["unavailable"]).is_ok_and(|[it]| it == Some(b"true"));
                if !is_outage && self.known.remove(&guild) {
                    self.order.retain(|it| *it != guild);
                }
            }
            _ => {}
        }
    }
}

impl Shard {
    /// A checkpoint of this shard, in any order; each guild's newest alone.
    pub fn on_state(&mut self, blob: &StateBlob) {
        let (guild, as_of) = (GuildId(blob.guild), blob.as_of);
        let Some(restoring) = self.restoring.as_mut().filter(|it| it.at.is_none() && !it.is_lost) else { return };
        if as_of < self.state_from {
            return;
        }
        restoring.as_of.insert(guild, as_of);
        if self.cache.restore_guild(guild, &blob.bytes).is_err() {
            self.cache_errors += 1;
        }
    }

    /// A checkpoint of this shard cannot be read any more.
    pub fn on_state_lost(&mut self, now: Instant) {
        self.lose_state(now);
    }

    /// All checkpoints were given: the log is applied from where they end.
    pub fn on_state_complete(&mut self, now: Instant) {
        let from = self.floor.min(self.ready_as_of);
        let Some(restoring) = self.restoring.as_mut().filter(|it| it.at.is_none() && !it.is_lost) else { return };
        restoring.at = Some(from);
        self.go_on_restoring(now);
    }

    /// Applies some of the log, or asks for more of it.
    pub(super) fn go_on_restoring(&mut self, now: Instant) {
        let mut room = REPLAY_BYTES_MAX;
        loop {
            let readable_from = self.readable_from();
            let Some(restoring) = self.restoring.as_mut().filter(|it| !it.is_lost) else { return };
            let Some(at) = restoring.at else { return };
            restoring.due = None;
            if at >= self.log.head() {
                break;
            }
            if room == 0 {
                restoring.due = Some(now);
                return;
            }
            if at < readable_from {
                return self.lose_state(now);
            }
            if at < self.log.tail() && self.loaded.find(at).is_none() {
                return self.read_log(at);
            }
            self.apply_log(now, at, &mut room);
        }
        let Some(restoring) = self.restoring.take() else { return };
        self.cache.restore_order(restoring.order);
        self.let_go_of_loaded();
        if let Some(due) = &mut self.guilds_due {
            *due = now + super::epoch::GUILDS_SILENCE_MAX;
        }
        self.settle(now);
    }

    /// Part of the state cannot be had: the session with Discord goes with it, and READY starts over.
    pub(super) fn lose_state(&mut self, now: Instant) {
        if let Some(restoring) = &mut self.restoring {
            restoring.is_lost = true;
            restoring.due = None;
            self.cache_errors += 1;
            self.upstream.forget_session(now);
        }
    }

    /// Applies dispatches from `at` on, as far as they are at hand, for `room` bytes.
    fn apply_log(&mut self, now: Instant, at: u64, room: &mut usize) {
        let Self { restoring: Some(restoring), cache, log, loaded, dirty, cache_errors, ready_as_of, .. } = self else {
            return;
        };
        let mut next = at;
        let mut visit = |index: u64, dispatch: Dispatch<'_>| {
            if *room == 0 {
                return false;
            }
            *room = room.saturating_sub(dispatch.head.len() + dispatch.tail.len());
            next = index + 1;
            let Some((name, data)) = dispatch.event() else { return true };
            let touch = cache.touches(name, data);
            let applies = match touch {
                Touch::Nothing => false,
                Touch::Ready => index >= *ready_as_of,
                Touch::Guild(guild) => {
                    if index >= *ready_as_of {
                        restoring.follow_order(name, guild, data);
                    }
                    let applies = restoring.as_of.get(&guild).is_none_or(|as_of| index >= *as_of);
                    if applies {
                        dirty.mark(guild, index, log.appended() - log.bytes_from(index), now);
                    }
                    applies
                }
            };
            if applies && cache.apply(name, data).is_err() {
                *cache_errors += 1;
            }
            true
        };
        let (seen_to, all) = if at >= log.tail() {
            (log.head(), log.read(at, u64::MAX, &mut visit))
        } else if let Some((segment, end)) = loaded.find(at) {
            (end, segment.read(at, u64::MAX, &mut visit))
        } else {
            return;
        };
        restoring.at = Some(if all { seen_to } else { next });
    }
}
