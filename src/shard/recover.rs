//! A shard put together again from what its former process had written down.
//!
//! Records come first and make the shard at once: its session with Discord, its clients' sessions, the newest part of its log. Its state
//! follows (`restoring`). What a record means was decided when it was written; here it is only taken in.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Instant;

use super::fields::COUNTED_MAX;
use super::journal::Journal;
use super::log::{Audience, Dispatch, Log};
use super::record::{Epoch, Known, Record, StoredDispatch};
use super::restoring::Restoring;
use super::seat::{Seat, SeatKey};
use super::{Shard, ShardSettings, epoch};
use crate::cache::Shapes;
use crate::session::requests::Asked;
use crate::session::upstream::{Session, Upstream};
use crate::store::{Recovered, frame};
use crate::wire::GuildId;
use crate::wire::json;

/// What the records of one shard came to, so far.
struct Past {
    now: Instant,
    /// Sealed segments in the store, `first ≤ index < end` each, in order.
    sealed: Vec<(u64, u64)>,
    /// Indices below were given out before the last `Begin`.
    void_to: u64,
    /// `None` before the first record that says where it begins.
    log: Option<Log>,
    epoch: Option<StoredEpoch>,
    base: u64,
    sequence: u64,
    pending: BTreeMap<GuildId, Known>,
    floor: u64,
    seats: BTreeMap<u64, Seat>,
    requests: BTreeMap<u64, Asked>,
    next_key: u64,
    /// The operator's presence, as Discord was told it last; `None` when that was not written down.
    presence: Option<Box<str>>,
    is_damaged: bool,
}

#[derive(Debug)]
struct StoredEpoch {
    session_id: String,
    resume_url: String,
    as_of: u64,
    state_from: u64,
    ready: Vec<u8>,
}

impl Past {
    /// `sealed`: `first..end` of the shard's segments in the store, in order.
    fn new(now: Instant, sealed: Vec<(u64, u64)>) -> Self {
        Self {
            now,
            sealed,
            void_to: 0,
            log: None,
            epoch: None,
            base: 0,
            sequence: 0,
            pending: BTreeMap::new(),
            floor: 0,
            seats: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_key: 1,
            presence: None,
            is_damaged: false,
        }
    }

    fn read(stored: &Recovered, now: Instant) -> Self {
        let sealed = stored.sealed.iter().copied().filter(|it| it.1 <= COUNTED_MAX).collect();
        let mut past = Self::new(now, sealed);
        let mut records = frame::records(&stored.records);
        for framed in &mut records {
            match Record::read(framed.kind, framed.payload) {
                Some(record) => past.take(record),
                // The store's checksums were right: it is not ours, or we were wrong when we wrote it.
                None => past.is_damaged = true,
            }
        }
        past.is_damaged |= !records.rest().is_empty();
        past
    }

    fn take(&mut self, record: Record<'_>) {
        match record {
            Record::Begin { head, stored_from } => {
                let mut sealed = std::mem::take(&mut self.sealed);
                sealed.retain(|it| it.0 >= stored_from);
                *self = Self {
                    next_key: self.next_key,
                    is_damaged: self.is_damaged,
                    void_to: self.void_to.max(self.head()),
                    ..Self::new(self.now, sealed)
                };
                self.start_log(head);
            }
            Record::Epoch(epoch) => self.take_epoch(&epoch),
            Record::Dispatch(dispatch) => self.take_dispatch(&dispatch),
            Record::Seat(seat) => {
                self.next_key = self.next_key.max(seat.key + 1);
                self.seats.insert(seat.key, Seat::restore(&seat, self.now));
            }
            Record::SeatEnded(key) => {
                self.next_key = self.next_key.max(key + 1);
                self.seats.remove(&key);
                self.requests.values_mut().filter(|it| it.client == Some(key)).for_each(|it| it.client = None);
            }
            Record::Request(it) => {
                // Its client may have asked before it had a session to be written down; its key is taken all the same.
                self.next_key = self.next_key.max(it.client.map_or(0, |key| key + 1));
                let nonce = it.nonce.map(Into::into);
                let asked = Asked { client: it.client, nonce, chunks_received: it.chunks_received };
                self.requests.insert(it.tag, asked);
            }
            Record::RequestDone(tag) => drop(self.requests.remove(&tag)),
            Record::Floor(index) => self.floor = index,
            Record::Presence(d) => self.presence = Some(d.into()),
        }
    }

    fn take_epoch(&mut self, it: &Epoch<'_>) {
        self.start_log(it.covered).skip_to(it.head);
        self.base = it.base;
        self.sequence = it.sequence;
        self.pending = it.pending.iter().copied().collect();
        self.epoch = Some(StoredEpoch {
            session_id: it.session_id.to_owned(),
            resume_url: it.resume_url.to_owned(),
            as_of: it.as_of,
            state_from: it.state_from,
            ready: it.ready.to_vec(),
        });
    }

    fn take_dispatch(&mut self, it: &StoredDispatch<'_>) {
        let now = self.now;
        let log = self.start_log(it.from);
        if it.index < log.head() {
            self.is_damaged = true;
            return;
        }
        log.append(now, it.index, it.head, &[it.tail], it.audience);
        if it.own {
            self.base += 1;
        } else {
            self.sequence = it.index.saturating_sub(self.base);
        }
        if let Audience::One(key) = it.audience {
            self.next_key = self.next_key.max(key + 1);
        }
        if !self.pending.is_empty()
            && let Some(guild) = guild_of(&Dispatch { head: it.head, tail: it.tail, audience: it.audience })
        {
            self.pending.remove(&guild);
        }
    }

    /// The first record of a file may be far along: what lies before it is in sealed segments, or missing.
    fn start_log(&mut self, from: u64) -> &mut Log {
        let sealed_to = self.sealed.last().map_or(0, |it| it.1);
        self.log.get_or_insert_with(|| {
            let mut log = Log::starting_at(from);
            log.seal_from(Some(sealed_to));
            log
        })
    }

    fn head(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::head)
    }

    /// The highest index that anything in the store stands for.
    fn reserved(&self) -> u64 {
        self.head().max(self.void_to).max(self.sealed.last().map_or(0, |it| it.1))
    }

    /// Leaves out segments that run ahead of the records: Discord sends those dispatches again. Returns where what the store can
    /// still read begins: segments must touch up to the log in memory.
    fn trim_sealed(&mut self) -> u64 {
        let (head, tail) = self.log.as_ref().map_or((0, 0), |it| (it.head(), it.tail()));
        self.sealed.retain(|it| it.1 <= head);
        // What is in memory will be sealed, so it counts.
        let mut from = tail;
        for (first, end) in self.sealed.iter().rev() {
            if *end < from {
                break;
            }
            from = from.min(*first);
        }
        from
    }
}

/// The guild that a GUILD_CREATE or GUILD_DELETE is about.
fn guild_of(dispatch: &Dispatch<'_>) -> Option<GuildId> {
    let (name, data) = dispatch.event()?;
    if !matches!(name, b"GUILD_CREATE" | b"GUILD_DELETE") {
        return None;
    }
    let [id] = json::pick(data, ["id"]).ok()?;
    id.and_then(json::snowflake).map(GuildId)
}

impl Shard {
    /// Goes on where a former process ended; the journal is open. When there is nothing to go on with, the shard is a new one, and
    /// `has_past` says so.
    ///
    /// `on_state` for each of its checkpoints and then `on_state_complete` must follow, also when there are none.
    pub fn restore(settings: ShardSettings, shapes: Shapes, stored: &Recovered, seed: u64, now: Instant) -> Self {
        let mut recovered = Past::read(stored, now);
        let reserved = recovered.reserved();
        let stored_from = recovered.trim_sealed();
        let sealed_to = recovered.sealed.last().map_or(0, |it| it.1);
        let mut shard = Self::new(settings, shapes.clone(), seed, now);
        let epoch =
            recovered.epoch.take().filter(|it| !recovered.is_damaged && shard.cache.on_ready(&it.ready).is_ok());
        let Some(epoch) = epoch else {
            let mut shard = Self::new(shard.settings, shapes, seed, now);
            // What lies in the store is void, and its indices stay void.
            shard.log = Log::starting_at(reserved);
            shard.begin_journal();
            return shard;
        };
        if !epoch.session_id.is_empty() {
            let sequence = recovered.sequence;
            let session = Session { id: epoch.session_id, resume_url: epoch.resume_url, sequence };
            shard.upstream = Upstream::restore(shard.settings.upstream.clone(), session, seed, now);
            shard.upstream.acknowledge(Some(sequence));
            shard.gates.restart_sequence(Some(sequence));
            if let Some(told) = recovered.presence {
                shard.presence_told = told;
                shard.tell_presence(now);
            }
        }
        if let Some(mut log) = recovered.log {
            log.seal_from(Some(sealed_to));
            shard.log = log;
        }
        for (tag, mut asked) in recovered.requests {
            asked.client.take_if(|it| !recovered.seats.contains_key(it));
            shard.commands.requests_mut().restore(tag, asked, now);
        }
        shard.journal = Some(Journal::new(shard.settings.upstream.shard, 0));
        shard.base = recovered.base;
        shard.pending = recovered.pending;
        shard.guilds_due = (!shard.pending.is_empty()).then_some(now + epoch::GUILDS_SILENCE_MAX);
        shard.reserved = reserved;
        shard.stored_from = stored_from;
        shard.ready_as_of = epoch.as_of;
        shard.state_from = epoch.state_from;
        shard.floor = recovered.floor.max(epoch.state_from);
        shard.next_key = recovered.next_key;
        shard.seats = recovered.seats.into_values().collect();
        shard.restoring = Some(Restoring::new(epoch.ready, shard.cache.guilds().collect()));
        let readable_from = shard.readable_from();
        let unreadable: Vec<SeatKey> =
            shard.seats.iter().filter(|it| it.cursor < readable_from).map(|it| it.key).collect();
        unreadable.into_iter().for_each(|key| shard.invalidate(key));
        shard
    }

    /// Whether this shard goes on with what a former process had.
    pub fn has_past(&self) -> bool {
        self.restoring.is_some()
    }
}
