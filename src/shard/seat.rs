//! A client's session at one shard: a cursor into the log, and while it is young, the snapshot that comes before it.
//!
//! It outlives the client's connection: that is what RESUME means. It does not know sockets; whoever pumps it hands in an encoder.

use std::collections::VecDeque;
use std::time::Instant;

use super::log::{Audience, Log};
use super::runs::Runs;
use crate::cache::{Cache, GuildForm};
use crate::wire::GuildId;
use crate::wire::encode::Encoder;

/// Names a session inside one shard; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeatKey(pub u64);

/// What is left of READY and the guild stream.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Written out already: READY, and guilds that were about to change.
    rendered: VecDeque<(&'static str, Vec<u8>)>,
    /// Still to be written from the cache.
    guilds: VecDeque<GuildId>,
}

/// What a seat does next.
#[derive(Debug)]
pub(super) enum Phase {
    /// Identified, but the shard has no READY yet or its guilds are still streaming in.
    Waiting,
    /// READY and guilds are being sent; live dispatches are held back by the cursor.
    Snapshot(Snapshot),
    /// Following the log. `resumed_at`: RESUMED is due when the cursor gets there.
    Following { resumed_at: Option<u64> },
}

/// What one pump came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// The client has everything that there is.
    Current,
    /// There is more, the room is used up.
    Full,
    /// What comes next has left the log: this session is over.
    FellOff,
}

/// `next_sequence` rises by one per dispatch sent; `cursor` is the log index looked at next; while the snapshot runs
/// it stays where the session joined.
#[derive(Debug)]
pub(super) struct Seat {
    pub key: SeatKey,
    /// 32 hex digits.
    pub session_id: String,
    pub phase: Phase,
    /// `[shard_id, num_shards]` as the client will read it in READY.
    pub shard: [u32; 2],
    /// Whether the client asked for guilds at all (intent GUILDS).
    pub wants_guilds: bool,
    next_sequence: u64,
    pub cursor: u64,
    runs: Runs,
    pub connected: bool,
    /// When the client left; `None` while it is connected.
    pub left_at: Option<Instant>,
}

impl Seat {
    pub fn new(key: SeatKey, session_id: String, shard: [u32; 2], wants_guilds: bool) -> Self {
        Self {
            key,
            session_id,
            phase: Phase::Waiting,
            shard,
            wants_guilds,
            next_sequence: 1,
            cursor: 0,
            runs: Runs::default(),
            connected: true,
            left_at: None,
        }
    }

    /// The sequence number sent last; 0 before READY.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Snapshot and subscription in one step: READY is written from the state of this moment, the guilds are noted, and the
    /// cursor is set to the head. A guild that changes before it was written is written first (`before_change`).
    pub fn begin(&mut self, cache: &Cache, log: &Log, resume_gateway_url: &str) {
        let mut ready = Vec::new();
        cache.write_ready(&self.session_id, resume_gateway_url, self.shard, &mut ready);
        let guilds = if self.wants_guilds { cache.guilds().collect() } else { VecDeque::new() };
        self.cursor = log.head();
        self.phase = Phase::Snapshot(Snapshot { rendered: VecDeque::from([("READY", ready)]), guilds });
    }

    /// `guild` is about to change: write it down as it is, if it was not sent yet.
    pub fn before_change(&mut self, cache: &Cache, guild: GuildId) {
        let Phase::Snapshot(snapshot) = &mut self.phase else { return };
        if let Some(at) = snapshot.guilds.iter().position(|it| *it == guild) {
            snapshot.guilds.remove(at);
            let mut d = Vec::new();
            if let Some(form) = cache.write_guild(guild, &mut d) {
                snapshot.rendered.push_back((event_name(form), d));
            }
        }
    }

    /// Puts the cursor behind `sequence`. False when what followed it is no longer known.
    pub fn rewind(&mut self, sequence: u64, log: &Log) -> bool {
        // Who has everything goes on at the cursor: between it and the last dispatch there were only others', which may be gone.
        let index = if sequence == self.last_sequence() { Some(self.cursor) } else { self.runs.index_after(sequence) };
        let Some(index) = index else { return false };
        if index < log.tail() || !matches!(self.phase, Phase::Following { .. }) {
            return false;
        }
        self.runs.rewind(sequence);
        self.cursor = index;
        self.next_sequence = sequence + 1;
        self.phase = Phase::Following { resumed_at: Some(log.head()) };
        true
    }

    /// Whether there is something to send.
    pub fn has_more(&self, log: &Log) -> bool {
        match &self.phase {
            Phase::Waiting => false,
            Phase::Snapshot(_) => true,
            Phase::Following { resumed_at } => resumed_at.is_some() || self.cursor < log.head(),
        }
    }

    /// Writes frames to `out` until it has grown by `room` or nothing is left. One dispatch may overshoot the room.
    pub fn pump(&mut self, cache: &Cache, log: &Log, encoder: &mut Encoder, out: &mut Vec<u8>, room: usize) -> Pumped {
        let full = out.len() + room;
        if let Phase::Snapshot(_) = self.phase
            && !self.pump_snapshot(cache, encoder, out, full)
        {
            return Pumped::Full;
        }
        let Phase::Following { resumed_at } = self.phase else { return Pumped::Current };
        if self.cursor < log.tail() {
            return Pumped::FellOff;
        }
        let stop = resumed_at.unwrap_or(u64::MAX);
        let mut is_full = false;
        let Self { key, next_sequence, cursor, runs, .. } = self;
        log.read_from(*cursor, |index, dispatch| {
            if index >= stop {
                return false;
            }
            if out.len() >= full {
                is_full = true;
                return false;
            }
            *cursor = index + 1;
            if matches!(dispatch.audience, Audience::One(other) if other != key.0) {
                return true;
            }
            let mut digits = itoa::Buffer::new();
            encoder.write(&[dispatch.head, digits.format(*next_sequence).as_bytes(), dispatch.tail], out);
            runs.on_sent(*next_sequence, index);
            *next_sequence += 1;
            true
        });
        if is_full {
            return Pumped::Full;
        }
        if let Some(stop) = resumed_at {
            debug_assert!(self.cursor >= stop);
            self.send_private(encoder, "RESUMED", br#"{"_trace":["shardgate"]}"#, out);
            self.phase = Phase::Following { resumed_at: None };
            return self.pump(cache, log, encoder, out, full.saturating_sub(out.len()));
        }
        Pumped::Current
    }

    /// The log's tail has moved to `tail`.
    pub fn forget_before(&mut self, tail: u64) {
        self.runs.forget_before(tail);
    }

    /// True when the snapshot is through.
    fn pump_snapshot(&mut self, cache: &Cache, encoder: &mut Encoder, out: &mut Vec<u8>, full: usize) -> bool {
        let mut d = Vec::new();
        loop {
            let Phase::Snapshot(snapshot) = &mut self.phase else { return true };
            // Looked at before the room: a client that has it all may RESUME, even if it leaves now.
            if snapshot.rendered.is_empty() && snapshot.guilds.is_empty() {
                self.runs.begin(self.next_sequence, self.cursor);
                self.phase = Phase::Following { resumed_at: None };
                return true;
            }
            if out.len() >= full {
                return false;
            }
            if let Some((name, d)) = snapshot.rendered.pop_front() {
                self.send_private(encoder, name, &d, out);
            } else if let Some(guild) = snapshot.guilds.pop_front() {
                d.clear();
                if let Some(form) = cache.write_guild(guild, &mut d) {
                    self.send_private(encoder, event_name(form), &d, out);
                }
            }
        }
    }

    /// A dispatch that is not in the log: it takes a number like any other.
    fn send_private(&mut self, encoder: &mut Encoder, name: &str, d: &[u8], out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let sequence = digits.format(self.next_sequence).as_bytes();
        encoder.write(&[br#"{"t":""#, name.as_bytes(), br#"","s":"#, sequence, br#","op":0,"d":"#, d, b"}"], out);
        self.next_sequence += 1;
    }
}

fn event_name(form: GuildForm) -> &'static str {
    match form {
        GuildForm::Create => "GUILD_CREATE",
        GuildForm::Delete => "GUILD_DELETE",
    }
}
