//! A client's session at one shard: a cursor into the log, and while it is young, the snapshot that comes before it.
//!
//! It outlives the client's connection: that is what RESUME means; with a store it outlives the process. It does not know sockets;
//! whoever pumps it hands in an encoder.

use std::collections::VecDeque;
use std::time::Instant;

use super::loaded::Loaded;
use super::log::{Dispatch, Log};
use super::record::SeatRecord;
use super::runs::Runs;
use crate::cache::{Cache, GuildForm};
use crate::wire::GuildId;
use crate::wire::encode::Encoder;

/// What a client that is slow to take its snapshot may cost: guilds that changed meanwhile and were written down for it. Beyond this
/// it is disconnected with 4000; inside its snapshot it cannot resume, so it identifies anew.
pub const RENDERED_BYTES_MAX: usize = 16 << 20;

/// What is made room for before guilds are written: as much as was asked for, within reason, and most of a guild more, since the
/// last one may overshoot. An allocation, not a limit.
const SNAPSHOT_ROOM_MAX: usize = 256 << 10;
const OVERSHOOT_USUAL: usize = 120 << 10;

/// Names a session inside one shard; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeatKey(pub u64);

/// What is left of READY and the guild stream.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Written out already: READY, and guilds that were about to change.
    rendered: VecDeque<(&'static str, Vec<u8>)>,
    rendered_bytes: usize,
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
    /// RESUME named a number beyond what was stored: the log is followed without sending until the number is reached, or `until`.
    Seeking { sequence: u64, resumed_at: Option<u64>, until: Instant },
}

/// What one pump came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// The client has everything that there is for it now.
    Current,
    /// There is more, the room is used up.
    Full,
    /// What comes next is being read from the store: pump again when `on_segment` was called.
    Reading,
    /// What comes next has left the log: this session is over.
    FellOff,
}

/// How far a walk along the log came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walked {
    /// To where it should go, or as far as there is anything.
    Arrived,
    /// The dispatch at the cursor was not taken.
    Refused,
    /// The cursor's segment is not in memory.
    Reading,
    FellOff,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    Found,
    /// The log has not got there yet.
    Waiting,
    Reading,
    /// It will never get there: the session is over.
    Nowhere,
}

/// What a seat looks at while it is pumped.
pub(super) struct View<'a> {
    pub cache: &'a Cache,
    pub log: &'a Log,
    pub loaded: &'a Loaded,
    /// Dispatches at this index and after wait for the store.
    pub visible: u64,
    /// The oldest index that is in memory or in the store.
    pub readable_from: u64,
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
    /// Nothing is sent before the store has this mark.
    pub gate: u64,
    /// The session was connected when a former process died: how far its client got is not known.
    pub is_ghost: bool,
    /// For a ghost: what the client can have got ends here, since then Discord forgot its session.
    pub known_to: Option<u64>,
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
            gate: 0,
            is_ghost: false,
            known_to: None,
        }
    }

    /// A session of a former process. Its client has no connection now.
    pub fn restore(stored: &SeatRecord<'_>, now: Instant) -> Self {
        Self {
            phase: Phase::Following { resumed_at: stored.resumed_at },
            next_sequence: stored.next_sequence,
            cursor: stored.cursor,
            runs: stored.runs.clone(),
            connected: false,
            left_at: Some(now),
            is_ghost: stored.connected,
            known_to: stored.known_to,
            ..Self::new(SeatKey(stored.key), stored.session_id.to_owned(), stored.shard, stored.wants_guilds)
        }
    }

    /// What is stored of it; `None` while the client has not been told of any session.
    ///
    /// A snapshot is stored as if it were through: it takes one number for READY and one for each guild, whatever happens meanwhile,
    /// and inside it there is no RESUME.
    pub fn record(&self) -> Option<SeatRecord<'_>> {
        let mut runs = self.runs.clone();
        let mut next_sequence = self.next_sequence;
        let resumed_at = match &self.phase {
            Phase::Waiting => return None,
            Phase::Snapshot(snapshot) => {
                next_sequence += (snapshot.rendered.len() + snapshot.guilds.len()) as u64;
                runs.begin(next_sequence, self.cursor);
                None
            }
            Phase::Following { resumed_at } | Phase::Seeking { resumed_at, .. } => *resumed_at,
        };
        Some(SeatRecord {
            key: self.key.0,
            session_id: &self.session_id,
            shard: self.shard,
            wants_guilds: self.wants_guilds,
            // Who is sought may have got more than we know, connection or not.
            connected: self.connected || self.is_ghost,
            next_sequence,
            cursor: self.cursor,
            resumed_at,
            known_to: self.known_to,
            runs,
        })
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
        let rendered_bytes = ready.len();
        let rendered = VecDeque::from([("READY", ready)]);
        self.phase = Phase::Snapshot(Snapshot { rendered, rendered_bytes, guilds });
    }

    /// `guild` is about to change: write it down as it is, if it was not sent yet. False: too much is written down already.
    pub fn before_change(&mut self, cache: &Cache, guild: GuildId) -> bool {
        let Phase::Snapshot(snapshot) = &mut self.phase else { return true };
        let Some(at) = snapshot.guilds.iter().position(|it| *it == guild) else { return true };
        if snapshot.rendered_bytes > RENDERED_BYTES_MAX {
            return false;
        }
        snapshot.guilds.remove(at);
        let mut d = Vec::new();
        if let Some(form) = cache.write_guild(guild, &mut d) {
            snapshot.rendered_bytes += d.len();
            snapshot.rendered.push_back((event_name(form), d));
        }
        true
    }

    /// Puts the cursor behind `sequence`. False when what followed it is no longer known.
    pub fn rewind(&mut self, sequence: u64, readable_from: u64, head: u64) -> bool {
        // Who has everything goes on at the cursor: between it and the last dispatch there were only others', which may be gone.
        let index = if sequence == self.last_sequence() { Some(self.cursor) } else { self.runs.index_after(sequence) };
        let Some(index) = index else { return false };
        if index < readable_from || !matches!(self.phase, Phase::Following { .. } | Phase::Seeking { .. }) {
            return false;
        }
        self.runs.rewind(sequence);
        self.cursor = index;
        self.next_sequence = sequence + 1;
        self.phase = Phase::Following { resumed_at: Some(head) };
        self.is_ghost = false;
        self.known_to = None;
        true
    }

    /// Looks for `sequence`, which was given out but not stored.
    pub fn seek(&mut self, sequence: u64, until: Instant) {
        if let Phase::Following { resumed_at } | Phase::Seeking { resumed_at, .. } = self.phase {
            self.phase = Phase::Seeking { sequence, resumed_at, until };
        }
    }

    /// Goes on looking. What the client got is counted just as `pump` counted it when it was sent.
    pub fn go_on_seeking(&mut self, view: &View<'_>) -> Sought {
        let limit = self.known_to.unwrap_or(u64::MAX);
        loop {
            let Phase::Seeking { sequence, resumed_at, until } = self.phase else { return Sought::Waiting };
            if self.last_sequence() == sequence {
                return Sought::Found;
            }
            let stop = resumed_at.unwrap_or(u64::MAX).min(limit);
            match self.walk(view, stop, |next, _| next <= sequence) {
                Walked::Refused => {}
                Walked::Reading => return Sought::Reading,
                Walked::FellOff => return Sought::Nowhere,
                // The client got everything before RESUMED, and not that.
                Walked::Arrived if self.last_sequence() == sequence => {}
                Walked::Arrived if resumed_at.is_some_and(|it| self.cursor >= it) => {
                    // RESUMED took a number, too.
                    self.next_sequence += 1;
                    self.phase = Phase::Seeking { sequence, resumed_at: None, until };
                }
                Walked::Arrived if self.cursor >= limit => return Sought::Nowhere,
                Walked::Arrived => return Sought::Waiting,
            }
        }
    }

    /// Whether there is something to send.
    pub fn has_more(&self, view: &View<'_>) -> bool {
        match &self.phase {
            Phase::Waiting => false,
            Phase::Snapshot(_) => true,
            Phase::Following { resumed_at } => resumed_at.is_some() || self.cursor < view.log.head().min(view.visible),
            Phase::Seeking { .. } => self.cursor < view.log.head().min(view.visible),
        }
    }

    /// Writes frames to `out` until it has grown by `room` or nothing is left. One dispatch may overshoot the room.
    pub fn pump(&mut self, view: &View<'_>, encoder: &mut Encoder, out: &mut Vec<u8>, room: usize) -> Pumped {
        let full = out.len() + room;
        if let Phase::Snapshot(_) = self.phase
            && !self.pump_snapshot(view.cache, encoder, out, full)
        {
            return Pumped::Full;
        }
        loop {
            let Phase::Following { resumed_at } = self.phase else { return Pumped::Current };
            let stop = resumed_at.unwrap_or(u64::MAX);
            let walked = self.walk(view, stop, |sequence, dispatch| {
                if out.len() >= full {
                    return false;
                }
                let mut digits = itoa::Buffer::new();
                encoder.write(&[dispatch.head, digits.format(sequence).as_bytes(), dispatch.tail], out);
                true
            });
            match walked {
                Walked::Refused => return Pumped::Full,
                Walked::Reading => return Pumped::Reading,
                Walked::FellOff => return Pumped::FellOff,
                Walked::Arrived if self.cursor < stop => return Pumped::Current,
                Walked::Arrived => {
                    self.send_private(encoder, "RESUMED", br#"{"_trace":["shardgate"]}"#, out);
                    self.phase = Phase::Following { resumed_at: None };
                }
            }
        }
    }

    /// What lies before `tail` cannot be read any more.
    pub fn forget_before(&mut self, tail: u64) {
        self.runs.forget_before(tail);
    }

    /// Leads the cursor along the log to `stop` at most. `take` sees what is for this client, with the number it gets, and returns
    /// false to leave it there.
    fn walk(&mut self, view: &View<'_>, stop: u64, mut take: impl FnMut(u64, Dispatch<'_>) -> bool) -> Walked {
        let stop = stop.min(view.visible);
        let goal = stop.min(view.log.head());
        while self.cursor < goal {
            let Self { key, next_sequence, cursor, runs, .. } = self;
            let from = *cursor;
            let mut visit = |index: u64, dispatch: Dispatch<'_>| {
                *cursor = index;
                if dispatch.audience.holds(key.0) {
                    if !take(*next_sequence, dispatch) {
                        return false;
                    }
                    runs.on_sent(*next_sequence, index);
                    *next_sequence += 1;
                }
                true
            };
            let (seen_to, all) = if from >= view.log.tail() {
                (goal, view.log.read(from, goal, visit))
            } else if from < view.readable_from {
                return Walked::FellOff;
            } else if let Some((segment, end)) = view.loaded.find(from) {
                (end.min(goal), segment.read(from, goal, &mut visit))
            } else {
                return Walked::Reading;
            };
            if !all {
                return Walked::Refused;
            }
            self.cursor = seen_to;
        }
        Walked::Arrived
    }

    /// True when the snapshot is through.
    ///
    /// Guilds are put together where they are sent from. There is room for as much from the start: growing would copy all again.
    fn pump_snapshot(&mut self, cache: &Cache, encoder: &mut Encoder, out: &mut Vec<u8>, full: usize) -> bool {
        let mut scratch = Vec::new();
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
                snapshot.rendered_bytes -= d.len();
                self.send_private(encoder, name, &d, out);
            } else if let Some(guild) = snapshot.guilds.pop_front() {
                let form = cache.form(guild);
                // A guild that goes is written down before it does, so that each one noted takes its number.
                debug_assert!(form.is_some(), "guild {} left without notice", guild.0);
                let Some(form) = form else { continue };
                if form == GuildForm::Create && out.capacity() < full {
                    out.reserve((full - out.len()).min(SNAPSHOT_ROOM_MAX) + OVERSHOOT_USUAL);
                }
                let sequence = self.next_sequence;
                encoder.compose(&mut scratch, out, |out| {
                    for part in private_head(event_name(form), itoa::Buffer::new().format(sequence)) {
                        out.extend_from_slice(part);
                    }
                    cache.write_guild(guild, out);
                    out.push(b'}');
                });
                self.next_sequence += 1;
            }
        }
    }

    /// A dispatch that is not in the log: it takes a number like any other.
    fn send_private(&mut self, encoder: &mut Encoder, name: &str, d: &[u8], out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let [a, b, c, e, f] = private_head(name, digits.format(self.next_sequence));
        encoder.write(&[a, b, c, e, f, d, b"}"], out);
        self.next_sequence += 1;
    }
}

/// A dispatch up to its `d`.
fn private_head<'a>(name: &'a str, sequence: &'a str) -> [&'a [u8]; 5] {
    [br#"{"t":""#, name.as_bytes(), br#"","s":"#, sequence.as_bytes(), br#","op":0,"d":"#]
}

fn event_name(form: GuildForm) -> &'static str {
    match form {
        GuildForm::Create => "GUILD_CREATE",
        GuildForm::Delete => "GUILD_DELETE",
    }
}
