//! A new session with Discord: what its READY and guild stream mean for the state, for waiting clients, and for those who knew the
//! session before.
//!
//! After Discord forgot a session clients stay. They are told the difference: GUILD_DELETE for a guild that has gone, and of the
//! guilds that come again only those that are not as they were, each behind an outage, so that a client that takes a second GUILD_CREATE
//! for a mistake believes it. What happened in between is lost: `known_gaps` counts that. These decisions rest on the
//! state of the moment, so they are in the store before a client sees what follows them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::log::Audience;
use super::record::{Epoch, Known, Record};
use super::seat::Phase;
use super::{Action, Shard};
use crate::cache::Touch;
use crate::wire::GuildId;
use crate::wire::scan::Envelope;

/// After READY, clients wait for the guild stream until it has been silent for this long.
pub(super) const GUILDS_SILENCE_MAX: Duration = Duration::from_secs(2);

/// Intent GUILDS: without it Discord sends no guilds after READY.
pub(super) const INTENT_GUILDS: u64 = 1;

/// A guild of READY that clients have, on its GUILD_CREATE. What becomes of that depends on more than Discord's stream.
pub(super) struct Awaited {
    guild: GuildId,
    /// What clients know of it; `None` while the state is on its way back.
    old: Option<Vec<u8>>,
}

impl Shard {
    pub(super) fn on_ready(&mut self, now: Instant, envelope: &Envelope, payload: &[u8]) {
        self.events.add(b"READY");
        let data = envelope.data.clone().map_or(&b"{}"[..], |it| &payload[it]);
        let sequence = self.upstream.session().map_or(1, |it| it.sequence);
        let old_head = self.log.head();
        self.log.skip_to(self.reserved);
        let known = if self.cache.has_ready() && self.restoring.is_none() {
            self.carry_over(now, data)
        } else {
            self.start_over(data);
            BTreeMap::new()
        };
        self.pending.clear();
        if self.guilds_come() {
            let listed = self.cache.guilds();
            self.pending.extend(listed.map(|it| (it, known.get(&it).copied().unwrap_or(Known::Nothing))));
        }
        self.guilds_due = Some(now + GUILDS_SILENCE_MAX);
        self.base = self.log.head();
        self.log.skip_to(self.base + sequence + 1);
        self.gates.restart_sequence(Some(sequence));
        if self.journal.is_some() {
            self.upstream.acknowledge(Some(sequence));
        }
        for seat in self.seats.iter_mut().filter(|it| it.is_ghost) {
            seat.known_to.get_or_insert(old_head);
        }
        if !self.commands.has_presence() {
            // IDENTIFY carried it. One that waits is told next.
            self.presence_told = super::clients::presence_d(&self.settings.upstream);
        }
        // What waits for the store is about to be asked anew.
        self.held = None;
        let Self { commands, seats, .. } = self;
        commands.on_new_session(now, |client| seats.iter().any(|it| it.key.0 == client));
        self.tell_requests_done();
        if self.beginning.is_none() {
            self.write_epoch();
            if let Some(journal) = &mut self.journal {
                journal.push(&Record::Presence(&self.presence_told));
            }
            if self.dirty.floor().is_none() {
                // No dispatch has the numbers up to here: a replay that began there would look for one in vain.
                self.floor = self.log.head();
                self.write(&Record::Floor(self.floor));
            }
            for at in 0..self.seats.len() {
                if self.seats[at].is_ghost {
                    self.write_seat(at);
                }
            }
            self.gate_log(old_head);
        }
        self.settle(now);
    }

    /// Whether the guild stream still matters, and until when it may be silent.
    pub(super) fn settling_due(&self) -> Option<Instant> {
        self.guilds_due.filter(|_| self.restoring.is_none() && self.upstream.is_live())
    }

    /// Ends the wait for guilds when all have come or no more do, and seats those that waited with it.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.guilds_due.is_some() {
            let Some(due) = self.settling_due() else { return };
            if !self.pending.is_empty() && now < due {
                return;
            }
            self.guilds_due = None;
            let pending = std::mem::take(&mut self.pending);
            let some_are_new = pending.values().any(|it| *it == Known::Nothing);
            for (guild, _) in pending.into_iter().filter(|it| it.1 == Known::Whole) {
                // It was there before Discord forgot the session, and now it does not come.
                self.insert_guild_delete(now, guild, true);
            }
            if some_are_new && self.beginning.is_none() {
                // Whoever identifies from now on knows of them.
                self.write_epoch();
            }
        }
        if !self.is_settled() || self.holds_snapshots {
            return;
        }
        for at in 0..self.seats.len() {
            if matches!(self.seats[at].phase, Phase::Waiting) {
                self.begin_seat(at);
            }
        }
    }

    /// Called before the event changes anything: the guild of READY that it brings, if clients have it already.
    pub(super) fn awaited(&mut self, name: &[u8], data: &[u8]) -> Option<Awaited> {
        if !matches!(name, b"GUILD_CREATE" | b"GUILD_DELETE") {
            return None;
        }
        let Touch::Guild(guild) = self.cache.touches(name, data) else { return None };
        let known = self.pending.remove(&guild)?;
        if known != Known::Whole || name == b"GUILD_DELETE" {
            return None;
        }
        let old = self.restoring.is_none().then(|| {
            let mut form = Vec::new();
            self.cache.write_guild(guild, &mut form);
            form
        });
        Some(Awaited { guild, old })
    }

    /// Called when the event has changed the state. False: clients know the guild just like this. While the state is on its way back nobody can
    /// say so, and clients are told as of one that has changed.
    pub(super) fn tell_difference(&mut self, now: Instant, awaited: &Awaited) -> bool {
        if let Some(old) = &awaited.old {
            let mut new = Vec::new();
            self.cache.write_guild(awaited.guild, &mut new);
            if new == *old {
                return false;
            }
        }
        self.insert(now, &guild_delete(awaited.guild, true));
        true
    }

    /// Dispatches from `index` on wait until everything so far is in the store.
    pub(super) fn gate_log(&mut self, index: u64) {
        if let Some(journal) = &mut self.journal
            && self.beginning.is_none()
        {
            self.gates.close_log(index, journal.ask());
        }
    }

    /// The state of before is no use: what clients know cannot be compared with anything.
    fn start_over(&mut self, data: &[u8]) {
        self.restoring = None;
        self.dirty.clear();
        for seat in std::mem::take(&mut self.seats) {
            if matches!(seat.phase, Phase::Waiting) {
                self.seats.push(seat);
                continue;
            }
            self.commands.drop_client(seat.key.0);
            self.write(&Record::SeatEnded(seat.key.0));
            if seat.connected {
                self.actions.push_back(Action::InvalidSession(seat.key));
            }
        }
        self.snapshots = 0;
        if self.cache.on_ready(data).is_err() {
            self.cache_errors += 1;
        }
        self.state_from = self.log.head();
        self.floor = self.state_from;
    }

    /// Clients keep what they know, which is returned: they are told what has gone, and later what has changed.
    fn carry_over(&mut self, now: Instant, data: &[u8]) -> BTreeMap<GuildId, Known> {
        self.known_gaps += 1;
        let known = self.known();
        match self.cache.replace_ready(data) {
            Ok(gone) => {
                for guild in gone {
                    if known.contains_key(&guild) {
                        self.insert_guild_delete(now, guild, false);
                    } else {
                        // Only the READY before this one named it: clients have never heard of it.
                        self.change_state(now, b"GUILD_DELETE", guild_delete(guild, false).as_bytes());
                    }
                }
            }
            Err(_) => self.cache_errors += 1,
        }
        known
    }

    /// The guilds that clients have heard of.
    fn known(&self) -> BTreeMap<GuildId, Known> {
        let heard_of = self.cache.guilds().filter(|it| self.pending.get(it) != Some(&Known::Nothing));
        heard_of.map(|it| (it, if self.cache.is_available(it) { Known::Whole } else { Known::Outage })).collect()
    }

    /// A GUILD_DELETE of ours: in the state and for every client.
    fn insert_guild_delete(&mut self, now: Instant, guild: GuildId, is_outage: bool) {
        let d = guild_delete(guild, is_outage);
        self.change_state(now, b"GUILD_DELETE", d.as_bytes());
        self.insert(now, &d);
    }

    /// A GUILD_DELETE of ours goes between Discord's: all that follows has one index more.
    fn insert(&mut self, now: Instant, d: &str) {
        let index = self.log.head();
        let audience = if self.guilds_come() { Audience::Everyone } else { Audience::Nobody };
        let (head, tail) = (br#"{"t":"GUILD_DELETE","s":"#, [br#","op":0,"d":"#, d.as_bytes(), b"}"]);
        if let Some(journal) = &mut self.journal {
            journal.push_dispatch([self.log.covered(), index], true, audience, head, &tail);
        }
        self.log.append(now, index, head, &tail, audience);
        self.base += 1;
        self.gate_log(index);
    }

    /// What the session with Discord is now.
    pub(super) fn write_epoch(&mut self) {
        if self.restoring.is_none() {
            self.ready_as_of = self.log.head();
        }
        let Some(journal) = self.journal.as_mut().filter(|_| self.cache.has_ready()) else { return };
        let session = self.upstream.session();
        let mut ready = Vec::new();
        match &self.restoring {
            Some(restoring) => ready.extend_from_slice(&restoring.ready),
            None => self.cache.write_ready("", "", [0, 0], &mut ready),
        }
        journal.push(&Record::Epoch(Epoch {
            session_id: session.map_or("", |it| &it.id),
            resume_url: session.map_or("", |it| &it.resume_url),
            sequence: session.map_or(0, |it| it.sequence),
            base: self.base,
            head: self.log.head(),
            covered: self.log.covered(),
            as_of: self.ready_as_of,
            state_from: self.state_from,
            pending: self.pending.iter().map(|(guild, is_known)| (*guild, *is_known)).collect(),
            ready: &ready,
        }));
    }

    pub(super) fn guilds_come(&self) -> bool {
        self.settings.upstream.intents & INTENT_GUILDS != 0
    }
}

fn guild_delete(guild: GuildId, is_outage: bool) -> String {
    let id = guild.0;
    if is_outage { format!(r#"{{"id":"{id}","unavailable":true}}"#) } else { format!(r#"{{"id":"{id}"}}"#) }
}
