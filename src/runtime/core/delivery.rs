//! What clients are sent: the end of a turn, when whoever has something waiting is pumped, and what becomes of one that does not read.
//!
//! It does not know payloads; the shard writes them. Snapshots are written a few clients a turn: what one turn writes, the kernel takes
//! while it still lies in the processor's cache, and whoever has live events to get waits for a few guilds and not for hundreds.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::warn;

use super::{Core, Fate};
use crate::runtime::client::{Blocked, Client, OUTBOX_BYTES_MAX, Seated};
use crate::runtime::conns::Conn;
use crate::runtime::net::{Net, Token};
use crate::shard::seat::Pumped;
use crate::wire::CloseCode;

/// A client whose socket took no byte for this long while its outbox was full is closed; its session waits for RESUME.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// While memory is short one of so many slow clients, at least one, is closed each second.
const LAGGARDS_PART: usize = 8;

/// Bytes of a snapshot that are put into an outbox at once, and a part of a guild more. So much is held for each client that takes its time.
const SNAPSHOT_BYTES_PER_FILL: usize = 128 * 1024;
/// Bytes of snapshots written in one turn, the last fill of an outbox more; the other clients come in the next turns, in their order.
const SNAPSHOT_BYTES_PER_TURN: usize = 512 * 1024;

/// Clients whose snapshot goes on in a turn to come, each once (`Client::in_line`), and what this turn has written of snapshots.
#[derive(Default)]
pub struct Snapshots {
    waiting: VecDeque<Token>,
    written: usize,
}

impl Snapshots {
    pub fn begin_turn(&mut self) {
        self.written = 0;
    }

    /// Whether the next turn must not sleep.
    pub fn are_due(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl<N: Net> Core<N> {
    /// The outbox has run empty.
    pub(super) fn on_drained(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        client.blocked = None;
        self.pump(now, token, client)
    }

    /// Those whose snapshot had to wait come first.
    pub(super) fn pump_snapshots(&mut self, now: Instant) {
        for _ in 0..self.snapshots.waiting.len() {
            if self.snapshots.written >= SNAPSHOT_BYTES_PER_TURN {
                return;
            }
            let Some(token) = self.snapshots.waiting.pop_front() else { return };
            self.with_client(token, |core, client| {
                client.in_line = false;
                core.pump(now, token, client)
            });
        }
    }

    pub(super) fn pump_dirty(&mut self, now: Instant) {
        if self.dirty.is_empty() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        for &at in &dirty {
            self.places[at].dirty = false;
            for n in (0..self.places[at].clients.len()).rev() {
                let Some(&(_, token)) = self.places[at].clients.get(n) else { continue };
                self.with_client(token, |core, client| core.pump(now, token, client));
            }
        }
        self.group.trim_changed(&dirty);
        if self.dirty.is_empty() {
            let mut dirty = dirty;
            dirty.clear();
            self.dirty = dirty;
        }
    }

    pub(super) fn pump(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        let Some(Seated { shard, key }) = client.seated else { return Fate::Stays };
        // Until its outbox has run empty: filled up meanwhile, it would never show whether the client reads.
        if client.blocked.is_some() {
            return Fate::Stays;
        }
        let pending = client.pending(&self.net, token);
        let room = OUTBOX_BYTES_MAX.saturating_sub(pending);
        if room == 0 {
            self.note_blocked(now, token, client);
            return Fate::Stays;
        }
        let is_in_snapshot = self.group.shards[shard].is_in_snapshot(key);
        if is_in_snapshot && self.snapshots.written >= SNAPSHOT_BYTES_PER_TURN {
            if !std::mem::replace(&mut client.in_line, true) {
                self.snapshots.waiting.push_back(token);
            }
            return Fate::Stays;
        }
        let room = if is_in_snapshot { room.min(SNAPSHOT_BYTES_PER_FILL) } else { room };
        self.touch(shard);
        let (encoder, out) = client.encoder_and_out(&mut self.net, token);
        let pumped = self.group.shards[shard].pump(key, encoder, out, room);
        if is_in_snapshot {
            self.snapshots.written += client.pending(&self.net, token) - pending;
        }
        if self.group.shards[shard].has_actions() && self.pumped.last() != Some(&shard) {
            self.pumped.push(shard);
        }
        match pumped {
            Pumped::Current | Pumped::Reading => Fate::Stays,
            Pumped::Full => {
                self.note_blocked(now, token, client);
                Fate::Stays
            }
            Pumped::FellOff => {
                warn!(shard = self.shard_id(shard).0, "a client fell behind the log's window: its session is over");
                client.seated = None;
                self.places[shard].clients.retain(|it| it.0 != key);
                self.dismiss(now, token, client, CloseCode::UNKNOWN_ERROR, "Too slow.")
            }
        }
    }

    pub(super) fn note_blocked(&mut self, now: Instant, token: Token, client: &mut Client) {
        if client.blocked.is_none() {
            // Only what is in the outbox is awaited. A failure shows at the end of the step.
            self.seal(token, client);
            client.blocked = Some(Blocked { since: now, pending: usize::MAX });
            self.conns.note_blocked(token);
            self.net.await_drained(token);
        }
    }

    /// Once a second for a client with a full outbox: has its socket taken anything?
    pub(super) fn on_blocked_tick(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        let (Some(blocked), Some(Seated { shard, key })) = (client.blocked, client.seated) else { return Fate::Stays };
        let pending = self.net.pending(token);
        if pending == 0 {
            client.blocked = None;
            return self.pump(now, token, client);
        }
        if pending < blocked.pending {
            client.blocked = Some(Blocked { since: now, pending });
        } else if now.saturating_duration_since(blocked.since) >= STALL_MAX || self.group.is_endangered(shard, key) {
            return self.cut_off(now, token, client, "a client does not read: closed, its session waits for RESUME");
        }
        Fate::Stays
    }

    /// Memory is short: closes a part of the clients that do not keep up, those that lag most. Once a second.
    pub(super) fn cut_laggards(&mut self, now: Instant) {
        let blocked = self.conns.blocked();
        let lag = |token: &Token| match self.conns.get(*token) {
            Some(Conn::Client(client)) => {
                client.seated.map_or(0, |seated| self.group.shards[seated.shard].lag_bytes(seated.key))
            }
            _ => 0,
        };
        let mut laggards: Vec<_> = blocked.into_iter().map(|token| (lag(&token), token)).collect();
        laggards.sort_unstable_by_key(|it| Reverse(it.0));
        laggards.truncate(laggards.len().div_ceil(LAGGARDS_PART));
        for (_, token) in laggards {
            self.with_client(token, |core, client| {
                core.cut_off(
                    now,
                    token,
                    client,
                    "memory is short: a slow client is closed, its session waits for RESUME",
                )
            });
        }
    }

    /// Ends the connection, not the session, of a client that is not keeping up.
    fn cut_off(&mut self, now: Instant, token: Token, client: &mut Client, why: &str) -> Fate {
        let Some(Seated { shard, key }) = client.seated.take() else { return Fate::Stays };
        let lag_bytes = self.group.shards[shard].lag_bytes(key);
        warn!(shard = self.shard_id(shard).0, lag_bytes, "{why}");
        self.places[shard].clients.retain(|it| it.0 != key);
        self.group.shards[shard].on_lagging(now, key);
        self.closes.to_clients.add(Some(CloseCode::UNKNOWN_ERROR));
        client.say_goodbye(CloseCode::UNKNOWN_ERROR, "Too slow.", &mut self.net, token);
        // It does not read: waiting for it to take the rest would only hold memory.
        self.net.close(token, Duration::ZERO);
        Fate::Gone
    }
}
