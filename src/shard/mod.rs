//! One Discord shard, whole, still without I/O: the conversation with Discord, the state cache, the log, and the seats of
//! its clients.
//!
//! It belongs to one core for life and is reached by `&mut`. Bytes and instants go in through `on_*`, `identify`, `resume`;
//! what the shell must do comes out of `poll`; `due` says when to call back. This file is Discord's side and the output; `clients` is the
//! clients' side, `epoch` what a READY means, `durable` what is written down and read back, `recover` and `restoring` how a shard comes
//! back after its process has died.
//!
//! A dispatch's index in the log is the epoch's base and Discord's sequence number. So what Discord replays after a crash gets the
//! indices it had, and nothing has to be written before clients are sent it. What cannot be had again from Discord's stream is
//! written first: see `Gates`.

pub mod clients;
mod dirty;
mod durable;
mod epoch;
mod fields;
pub mod group;
pub mod journal;
mod loaded;
pub mod log;
pub mod pressure;
pub mod properties;
mod record;
mod recover;
pub mod report;
mod restoring;
pub mod runs;
pub mod seat;
mod segment;
mod tally;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::cache::{Cache, CacheBytes, CacheFlags, Shapes, Touch};
use crate::session::commands::Commands;
use crate::session::requests::Route;
use crate::session::upstream::{Received, Status, Upstream, UpstreamAction, UpstreamSettings};
use crate::wire::scan::{self, ScanError};
use crate::wire::{CloseCode, GuildId};
pub use clients::{IdentifyRefused, ResumeRefused, session_id, shard_of_session};
use dirty::Dirty;
use durable::Held;
use journal::{Gates, Journal};
use loaded::Loaded;
use log::{Audience, Log};
use record::Known;
use report::{ShardReport, Wanted};
use restoring::{IDENTIFY_HELD_MAX, Restoring};
use seat::{Phase, Seat, SeatKey};
use tally::Tally;

pub use clients::SEATS_MAX;

/// An IDENTIFY that waits until the state is back and everything up to the journal's mark is written, but no longer than `until`.
#[derive(Clone, Copy, Debug)]
struct HeldIdentify {
    until: Instant,
    mark: u64,
}

/// What one shard must be told.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    pub upstream: UpstreamSettings,
    pub cache: CacheFlags,
    /// READY's `resume_gateway_url` to clients.
    pub externally_accessible_url: String,
}

/// What the shell is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    IdentifyWanted,
    IdentifySent,
    IdentifyReturned,
    /// Open a WebSocket to this URL.
    Connect(String),
    /// Send one payload to Discord.
    Send(Vec<u8>),
    /// Close the connection to Discord.
    Close(CloseCode),
    /// Read the segment of this shard's log that answers for this index; `Shard::on_segment` takes the answer.
    ReadLog(u64),
    /// Tell this client op 9 `d:false`; its session is gone.
    InvalidSession(SeatKey),
    /// Close this client's connection.
    Disconnect(SeatKey, CloseCode),
    /// Discord ended this shard for good: only the operator can help.
    Stopped(CloseCode),
}

/// Seats are sorted by key. A seat that waits or is being sent its snapshot has its cursor at or before the head. The index of Discord's
/// dispatch `s` is `base + s`, and the log's head is above that of the last one.
#[derive(Debug)]
pub struct Shard {
    settings: ShardSettings,
    upstream: Upstream,
    cache: Cache,
    log: Log,
    commands: Commands,
    seats: Vec<Seat>,
    next_key: u64,
    /// Seats whose snapshot is under way: those that `before_change` must visit.
    snapshots: usize,
    /// No later than when the first RESUME that waits for its number is given up.
    seeking_due: Option<Instant>,
    /// READY has come and the guild stream is not over: when it counts as over at the latest.
    guilds_due: Option<Instant>,
    /// Memory is short: who identifies waits.
    holds_snapshots: bool,
    /// Guilds of READY that have not come yet.
    pending: BTreeMap<GuildId, Known>,
    base: u64,
    /// With a store.
    journal: Option<Journal>,
    gates: Gates,
    dirty: Dirty,
    /// The guilds to be stored before what is in the store can stand for this shard.
    beginning: Option<VecDeque<GuildId>>,
    /// READY and the list of guilds are stored as of this index; checkpoints below the second belong to a state that was given up.
    ready_as_of: u64,
    state_from: u64,
    /// The index from which the store can replay the state, as it knows; and whether it could know better.
    floor: u64,
    floor_moved: bool,
    /// With a store: the oldest index that can be read there.
    stored_from: u64,
    /// Something in the store stands for indices up to here, from before a crash: they are not given out anew for something else.
    reserved: u64,
    /// Of the journal that was.
    last_mark: u64,
    loaded: Loaded,
    /// After a restart, until the state is back.
    restoring: Option<Restoring>,
    /// An IDENTIFY is wanted and waits.
    identify_held: Option<HeldIdentify>,
    /// A request that waits until the store knows whose it is.
    held: Option<Held>,
    /// `d` of op 3: what Discord was told last of the operator's presence, by IDENTIFY or by op 3.
    presence_told: Box<str>,
    actions: VecDeque<Action>,
    events: Tally,
    latencies: report::Latencies,
    resumes: u64,
    lagging_closes: u64,
    cache_errors: u64,
    commands_refused: u64,
    commands_misrouted: u64,
    known_gaps: u64,
    log_reads: u64,
    stopped_said: bool,
    canonical: Vec<u8>,
}

impl Shard {
    /// `shapes` is shared with the other shards of the core.
    pub fn new(settings: ShardSettings, shapes: Shapes, seed: u64, now: Instant) -> Self {
        Self {
            upstream: Upstream::new(settings.upstream.clone(), seed, now),
            cache: Cache::new(settings.cache, shapes).with_intents(settings.upstream.intents),
            log: Log::default(),
            commands: Commands::new(&mut fastrand::Rng::with_seed(seed ^ 2), now),
            seats: Vec::new(),
            next_key: 1,
            snapshots: 0,
            seeking_due: None,
            guilds_due: None,
            holds_snapshots: false,
            pending: BTreeMap::new(),
            base: 0,
            journal: None,
            gates: Gates::default(),
            dirty: Dirty::default(),
            beginning: None,
            ready_as_of: 0,
            state_from: 0,
            floor: 0,
            floor_moved: false,
            stored_from: u64::MAX,
            reserved: 0,
            last_mark: 0,
            loaded: Loaded::default(),
            restoring: None,
            identify_held: None,
            held: None,
            presence_told: clients::presence_d(&settings.upstream),
            actions: VecDeque::new(),
            events: Tally::default(),
            latencies: report::Latencies::default(),
            resumes: 0,
            lagging_closes: 0,
            cache_errors: 0,
            commands_refused: 0,
            commands_misrouted: 0,
            known_gaps: 0,
            log_reads: 0,
            stopped_said: false,
            canonical: Vec::new(),
            settings,
        }
    }

    /// What the operator should know and do about a code that stopped this shard.
    pub fn remedy(&self, code: CloseCode) -> String {
        self.upstream.remedy(code)
    }

    pub fn status(&self) -> Status {
        self.upstream.status()
    }

    /// Whether a client that identifies now is answered at once: READY is here and the guild stream is over.
    pub fn is_settled(&self) -> bool {
        let is_behind_its_state = self.log.head() < self.reserved;
        self.cache.has_ready() && self.guilds_due.is_none() && self.restoring.is_none() && !is_behind_its_state
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    // ---- Discord's side

    pub fn on_turn(&mut self, now: Instant, not_before: Instant) {
        self.upstream.on_turn(now, not_before);
    }

    /// The WebSocket to Discord is open.
    pub fn on_open(&mut self, now: Instant) {
        self.commands.on_connection(now);
        if self.held.is_some() {
            // It will go up on this connection.
            self.commands.on_sent(now);
        }
        self.upstream.on_open(now);
    }

    /// The connection to Discord ended, or could not be made.
    pub fn on_closed(&mut self, now: Instant, code: Option<CloseCode>) {
        self.commands.pause(now);
        self.upstream.on_closed(now, code);
    }

    /// The upgrade that has just failed asked us to stay away for this long. Call after `on_closed`.
    pub fn on_retry_after(&mut self, now: Instant, wait: Duration) {
        self.upstream.on_retry_after(now, wait);
    }

    /// One whole payload of Discord's. On an error the connection is given up and the session resumed from the last good one.
    pub fn on_payload(&mut self, now: Instant, payload: &[u8]) -> Result<(), ScanError> {
        let envelope = match scan::scan_text(payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.upstream.on_broken(now);
                return Err(error);
            }
        };
        let was_live = self.upstream.is_live();
        match self.upstream.on_payload(now, &envelope, payload) {
            Received::Handled => {
                if let Some(latency) = self.upstream.take_latency() {
                    self.latencies.add(latency);
                }
                self.follow_sequence(now);
            }
            Received::Ready => self.on_ready(now, &envelope, payload),
            Received::Dispatch if envelope.canonical => self.on_dispatch(now, &envelope, payload),
            Received::Dispatch => {
                let mut canonical = std::mem::take(&mut self.canonical);
                canonical.clear();
                let envelope = scan::canonicalize(payload, &envelope, &mut canonical);
                self.on_dispatch(now, &envelope, &canonical);
                self.canonical = canonical;
            }
        }
        if self.upstream.is_live() && !was_live {
            self.commands.resume(now);
            if let Some(due) = &mut self.guilds_due {
                // The silence of a cut counts for nothing.
                *due = now + epoch::GUILDS_SILENCE_MAX;
            }
        }
        Ok(())
    }

    fn on_dispatch(&mut self, now: Instant, envelope: &scan::Envelope, payload: &[u8]) {
        let (Some(name), Some(digits), Some(sequence)) =
            (envelope.event_type.clone(), envelope.sequence_span.clone(), envelope.sequence)
        else {
            // A dispatch without name or number cannot be given to anybody.
            self.events.add(b"");
            return;
        };
        let name = &payload[name];
        self.events.add(name);
        let data_at = envelope.data.clone().unwrap_or(payload.len()..payload.len());
        let data = &payload[data_at.clone()];
        let awaited = if self.pending.is_empty() { None } else { self.awaited(name, data) };
        if self.restoring.is_none() {
            self.change_state(now, name, data);
        }
        let head = &payload[..digits.start];
        let route = self.commands.route(name, data, now);
        let mut audience = match &route {
            Route::Everyone | Route::Stray => Audience::Everyone,
            Route::Client { client, .. } => Audience::One(*client),
            Route::Nobody => Audience::Nobody,
        };
        if let Some(awaited) = &awaited
            && !self.tell_difference(now, awaited)
        {
            audience = Audience::Nobody;
        }
        let index = self.base + sequence;
        if let Route::Client { rewritten_d, .. } = &route {
            let tail = [&payload[digits.end..data_at.start], rewritten_d, &payload[data_at.end..]];
            self.keep(now, index, sequence, head, &tail, audience);
        } else {
            self.keep(now, index, sequence, head, &[&payload[digits.end..]], audience);
        }
        // Whoever comes after us could decide otherwise: by another state, or knowing the request.
        if route == Route::Stray || awaited.is_some() {
            self.gate_log(index);
        }
        self.tell_requests_done();
        if self.guilds_due.is_some() {
            if name == b"GUILD_CREATE" {
                self.guilds_due = Some(now + epoch::GUILDS_SILENCE_MAX);
            }
            self.settle(now);
        }
    }

    /// Applies one event to the state, after what clients must still be told of the state before it was written down.
    fn change_state(&mut self, now: Instant, name: &[u8], data: &[u8]) {
        let Some(told) = self.cache.read(name, data) else { return };
        if let Touch::Guild(guild) = told.touch {
            self.before_change(guild);
            if self.journal.is_some() {
                self.dirty.mark(guild, self.log.head(), self.log.appended(), now);
            }
        }
        if told.touch != Touch::Nothing && self.cache.apply_told(&told).is_err() {
            self.cache_errors += 1;
        }
    }

    /// Into the log, and on its way to the store.
    fn keep(&mut self, now: Instant, index: u64, sequence: u64, head: &[u8], tail: &[&[u8]], audience: Audience) {
        if let Some(journal) = &mut self.journal {
            journal.push_dispatch([self.log.covered(), index], false, audience, head, tail);
            self.gates.on_sequence(sequence, journal.mark);
        }
        self.log.append(now, index, head, tail, audience);
    }

    /// Discord may have used up a number without a dispatch: RESUMED does.
    fn follow_sequence(&mut self, now: Instant) {
        let Some(sequence) = self.upstream.session().map(|it| it.sequence) else { return };
        let index = self.base + sequence;
        if index >= self.log.head() {
            self.keep(now, index, sequence, b"", &[], Audience::Nobody);
        }
    }

    /// Whether clients that identify wait for READY until this is taken back.
    pub fn hold_snapshots(&mut self, now: Instant, hold: bool) {
        self.holds_snapshots = hold;
        self.settle(now);
    }

    /// Why clients are not served as they should be; `None` when they are.
    fn unready(&self) -> Option<String> {
        let waits = self.upstream.waits_for().map(str::to_owned);
        let stopped = self.upstream.stopped().map(|code| format!("fatally closed by Discord with {}", code.0));
        let restoring = self.restoring.is_some().then(|| "reads its state back".to_owned());
        let guilds = (!self.is_settled()).then(|| "receives its guilds".to_owned());
        stopped.or(waits).or(restoring).or(guilds)
    }

    // ---- time and output

    pub fn due(&self) -> Option<Instant> {
        self.timers_due().into_iter().chain(self.replay_due()).min()
    }

    /// `due` without the replay of the log after a restart, which is long and can wait: no heartbeat waits for it.
    pub fn timers_due(&self) -> Option<Instant> {
        let commands = if self.held.is_none() { self.commands.due() } else { None };
        let own = [self.settling_due(), self.seeking_due, self.identify_held.map(|it| it.until)];
        [self.upstream.due(), commands].into_iter().chain(own).flatten().min()
    }

    /// When `replay` has something to do.
    pub fn replay_due(&self) -> Option<Instant> {
        self.restoring.as_ref().and_then(Restoring::due)
    }

    /// `on_timers`, and `replay`.
    pub fn on_timeout(&mut self, now: Instant) {
        self.replay(now);
        self.on_timers(now);
    }

    /// Replays some of the log, if it is time.
    pub fn replay(&mut self, now: Instant) {
        if self.replay_due().is_some_and(|it| now >= it) {
            self.go_on_restoring(now);
            self.settle(now);
        }
    }

    /// Does what is due at `timers_due`.
    pub fn on_timers(&mut self, now: Instant) {
        if self.upstream.due().is_some_and(|it| now >= it) {
            self.upstream.on_timeout(now);
        }
        if self.seeking_due.is_some_and(|it| now >= it) {
            self.give_up_seeking(now);
        }
        self.settle(now);
    }

    /// The next thing to do; `None` when there is nothing at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        while let Some(action) = self.upstream.poll() {
            return Some(match action {
                UpstreamAction::IdentifyWanted => {
                    let mark = self.journal.as_mut().map_or(0, Journal::ask);
                    self.identify_held = Some(HeldIdentify { until: now + IDENTIFY_HELD_MAX, mark });
                    continue;
                }
                UpstreamAction::IdentifySent => Action::IdentifySent,
                UpstreamAction::IdentifyReturned => Action::IdentifyReturned,
                UpstreamAction::Connect(url) => Action::Connect(url),
                UpstreamAction::Send(payload) => {
                    self.commands.on_sent(now);
                    Action::Send(payload)
                }
                UpstreamAction::Close(code) => {
                    self.commands.pause(now);
                    Action::Close(code)
                }
            });
        }
        if self.take_identify(now) {
            return Some(Action::IdentifyWanted);
        }
        if let Some(code) = self.upstream.stopped()
            && !self.stopped_said
        {
            self.stopped_said = true;
            self.dismiss_all(now, code);
            return Some(Action::Stopped(code));
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.next_command(now).map(Action::Send)
    }

    /// Whether an IDENTIFY was held and may go out now: the state is back, and what the session before it brought is written. Discord, which has
    /// forgotten that session, would not tell it again.
    fn take_identify(&mut self, now: Instant) -> bool {
        let is_back = !self.restoring.as_ref().is_some_and(Restoring::is_under_way);
        self.identify_held.take_if(|it| now >= it.until || is_back && self.gates.is_open(it.mark)).is_some()
    }

    /// Whether `poll` has something for the clients or the store: pumping may have asked for it.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Ends the conversation with Discord, keeping its session or (1000) not.
    pub fn shut_down(&mut self, code: CloseCode) {
        self.upstream.shut_down(code);
    }

    /// The stored JSON of an object, for the pages: a guild as its GUILD_CREATE would be now. `None` if it is not known here.
    pub fn find(&self, wanted: Wanted) -> Option<Vec<u8>> {
        match wanted {
            Wanted::Guild(id) => self.cache.find_guild(GuildId(id)),
            Wanted::Channel(id) => self.cache.find_channel(id),
            Wanted::User(id) => self.cache.find_user(id),
        }
    }

    /// What the state holds is left out: see `measure`.
    pub fn report(&self, now: Instant) -> ShardReport {
        let counts = self.upstream.counts();
        ShardReport {
            shard: self.settings.upstream.shard.0,
            status: self.upstream.status() as u8,
            unready: self.unready(),
            latency: self.upstream.latency(),
            latencies: self.latencies.clone(),
            events: self.events.list(),
            dispatched_bytes: self.log.appended(),
            cache: self.cache.counts(),
            cache_bytes: CacheBytes::default(),
            cache_errors: self.cache_errors,
            clients: self.seats.iter().filter(|it| it.connected).count(),
            sessions: self.seats.len(),
            log_bytes: self.log.bytes(),
            log_dispatches: self.log.head() - self.log.tail(),
            log_age: self.log.age(now),
            lag: self.lag(),
            guild_members: 0,
            resumes: self.resumes,
            lagging_closes: self.lagging_closes,
            connects: counts.connects,
            identifies: counts.identifies,
            upstream_resumes: counts.resumes,
            repeated: counts.repeated,
            sequence_gaps: counts.sequence_gaps,
            known_gaps: self.known_gaps,
            log_reads: self.log_reads,
            close_codes: counts.closes.clone(),
            reconnects: counts.reconnects,
            commands_queued: self.commands.queued(),
            commands_refused: self.commands_refused,
            commands_misrouted: self.commands_misrouted,
        }
    }

    /// Puts what the state holds into a report: a walk over all guilds.
    pub fn measure(&self, report: &mut ShardReport) {
        report.cache_bytes = self.cache.bytes();
        report.guild_members = self.cache.guild_members();
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
