//! One Discord shard, whole, still without I/O: the conversation with Discord, the state cache, the log, and the seats of
//! its clients.
//!
//! It belongs to one core for life and is reached by `&mut`. Bytes and instants go in through `on_*`, `identify`, `resume`;
//! what the shell must do comes out of `poll`; `due` says when to call back.

pub mod group;
pub mod log;
pub mod pressure;
pub mod report;
pub mod runs;
pub mod seat;
mod tally;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cache::{Cache, CacheFlags, Shapes, Touch};
use crate::session::commands::{Commands, Refused};
use crate::session::payload::{Command, Identify, Resume};
use crate::session::requests::Route;
use crate::session::upstream::{Received, Status, Upstream, UpstreamAction, UpstreamSettings};
use crate::wire::encode::Encoder;
use crate::wire::scan::{self, ScanError};
use crate::wire::{CloseCode, GuildId};
use log::{Audience, Log};
use report::{ShardReport, Wanted};
use seat::{Phase, Pumped, Seat, SeatKey};
use tally::Tally;

/// Sessions of clients at one shard, connected or waiting for RESUME. When full, the one that left longest ago ends; when
/// all are connected, IDENTIFY is refused with 4008.
pub const SEATS_MAX: usize = 256;

/// After READY, clients wait for the guild stream until it has been silent for this long.
const GUILDS_SILENCE_MAX: Duration = Duration::from_secs(2);

/// Intent GUILDS: without it Discord sends no guilds after READY.
const INTENT_GUILDS: u64 = 1;

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
    /// Tell this client op 9 `d:false`; its session is gone.
    InvalidSession(SeatKey),
    /// Close this client's connection.
    Disconnect(SeatKey, CloseCode),
    /// Discord ended this shard for good: only the operator can help.
    Stopped(CloseCode),
}

/// Why RESUME was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeRefused {
    /// Unknown, or what was missed is no longer there: op 9 `d:false`.
    InvalidSession,
    /// `seq` is ahead of the session: 4007.
    InvalidSeq,
}

/// Seats are sorted by key. A seat that waits or is being sent its snapshot has its cursor at or before the head.
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
    /// READY has come and the guild stream is not over: when it counts as over at the latest.
    guilds_due: Option<Instant>,
    /// Memory is short: who identifies waits.
    holds_snapshots: bool,
    actions: VecDeque<Action>,
    events: Tally,
    latencies: report::Latencies,
    resumes: u64,
    resumes_refused: u64,
    lagging_closes: u64,
    cache_errors: u64,
    commands_refused: u64,
    stopped_said: bool,
    canonical: Vec<u8>,
}

impl Shard {
    /// `shapes` is shared with the other shards of the core.
    pub fn new(settings: ShardSettings, shapes: Shapes, seed: u64, now: Instant) -> Self {
        Self {
            upstream: Upstream::new(settings.upstream.clone(), seed, now),
            cache: Cache::new(settings.cache, shapes),
            log: Log::default(),
            commands: Commands::new(&mut fastrand::Rng::with_seed(seed ^ 2), now),
            seats: Vec::new(),
            next_key: 1,
            snapshots: 0,
            guilds_due: None,
            holds_snapshots: false,
            actions: VecDeque::new(),
            events: Tally::default(),
            latencies: report::Latencies::default(),
            resumes: 0,
            resumes_refused: 0,
            lagging_closes: 0,
            cache_errors: 0,
            commands_refused: 0,
            stopped_said: false,
            canonical: Vec::new(),
            settings,
        }
    }

    pub fn status(&self) -> Status {
        self.upstream.status()
    }

    /// Whether a client that identifies now is answered at once: READY is here and the guild stream is over.
    pub fn is_settled(&self) -> bool {
        self.cache.has_ready() && self.guilds_due.is_none()
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
        self.upstream.on_open(now);
    }

    /// The connection to Discord ended, or could not be made.
    pub fn on_closed(&mut self, now: Instant, code: Option<CloseCode>) {
        self.commands.pause();
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
        }
        Ok(())
    }

    /// A new session at Discord: whatever clients knew may be stale, so they identify anew, against the new state.
    fn on_ready(&mut self, now: Instant, envelope: &scan::Envelope, payload: &[u8]) {
        self.events.add(b"READY");
        for seat in std::mem::take(&mut self.seats) {
            if matches!(seat.phase, Phase::Waiting) {
                self.seats.push(seat);
                continue;
            }
            self.commands.drop_client(seat.key.0);
            if seat.connected {
                self.actions.push_back(Action::InvalidSession(seat.key));
            }
        }
        self.snapshots = 0;
        let data = envelope.data.clone().map_or(&b"{}"[..], |it| &payload[it]);
        if self.cache.on_ready(data).is_err() {
            self.cache_errors += 1;
        }
        self.guilds_due = Some(now + GUILDS_SILENCE_MAX);
        self.seat_waiting_clients_when_settled(now);
    }

    fn on_dispatch(&mut self, now: Instant, envelope: &scan::Envelope, payload: &[u8]) {
        let (Some(name), Some(digits)) = (envelope.event_type.clone(), envelope.sequence_span.clone()) else {
            // A dispatch without name or number cannot be given to anybody.
            self.events.add(b"");
            return;
        };
        let name = &payload[name];
        self.events.add(name);
        let data_at = envelope.data.clone().unwrap_or(payload.len()..payload.len());
        let data = &payload[data_at.clone()];
        let touch = self.cache.touches(name, data);
        if self.snapshots > 0
            && let Touch::Guild(guild) = touch
        {
            self.before_change(guild);
        }
        if touch != Touch::Nothing && self.cache.apply(name, data).is_err() {
            self.cache_errors += 1;
        }
        let head = &payload[..digits.start];
        match self.commands.route(name, data, now) {
            Route::Everyone => {
                self.log.append(now, head, &[&payload[digits.end..]], Audience::Everyone);
            }
            Route::Client { client, rewritten_d } => {
                let tail = [&payload[digits.end..data_at.start], &rewritten_d, &payload[data_at.end..]];
                self.log.append(now, head, &tail, Audience::One(client));
            }
            Route::Nobody => {}
        }
        if self.guilds_due.is_some() {
            if name == b"GUILD_CREATE" {
                self.guilds_due = Some(now + GUILDS_SILENCE_MAX);
            }
            self.seat_waiting_clients_when_settled(now);
        }
    }

    fn before_change(&mut self, guild: GuildId) {
        for seat in &mut self.seats {
            seat.before_change(&self.cache, guild);
        }
    }

    fn seat_waiting_clients_when_settled(&mut self, now: Instant) {
        let Some(due) = self.guilds_due else { return };
        let guilds_come = self.settings.upstream.intents & INTENT_GUILDS != 0;
        if guilds_come && self.cache.counts().unavailable_guilds > 0 && now < due {
            return;
        }
        self.guilds_due = None;
        self.seat_waiting_clients();
    }

    /// Whether clients that identify wait for READY until this is taken back.
    pub fn hold_snapshots(&mut self, hold: bool) {
        self.holds_snapshots = hold;
        self.seat_waiting_clients();
    }

    fn seat_waiting_clients(&mut self) {
        if !self.is_settled() || self.holds_snapshots {
            return;
        }
        for seat in &mut self.seats {
            if matches!(seat.phase, Phase::Waiting) {
                seat.begin(&self.cache, &self.log, &self.settings.externally_accessible_url);
                self.snapshots += 1;
            }
        }
    }

    /// Why clients are not served as they should be; `None` when they are.
    fn unready(&self) -> Option<String> {
        let waits = self.upstream.waits_for().map(str::to_owned);
        let stopped = self.upstream.stopped().map(|code| format!("fatally closed by Discord with {}", code.0));
        let guilds = (!self.is_settled()).then(|| "receives its guilds".to_owned());
        stopped.or(waits).or(guilds)
    }

    // ---- the clients' side

    /// A client has identified. `entropy` makes its session id unguessable. `None`: no seat is free.
    pub fn identify(&mut self, identify: &Identify, entropy: [u8; 12]) -> Option<SeatKey> {
        if self.seats.len() >= SEATS_MAX && !self.end_longest_left() {
            return None;
        }
        let key = SeatKey(self.next_key);
        self.next_key += 1;
        let id = session_id(self.settings.upstream.shard.0, entropy);
        let shard = identify.shard_or_default();
        let wants_guilds = identify.intents & self.settings.upstream.intents & INTENT_GUILDS != 0;
        let mut seat = Seat::new(key, id, shard, wants_guilds);
        if self.is_settled() && !self.holds_snapshots {
            seat.begin(&self.cache, &self.log, &self.settings.externally_accessible_url);
            self.snapshots += 1;
        }
        self.seats.push(seat);
        Some(key)
    }

    /// A client comes back: the cursor goes behind `resume.seq`. A connection that still held the session loses it.
    pub fn resume(&mut self, resume: &Resume) -> Result<SeatKey, ResumeRefused> {
        let result = self.try_resume(resume);
        match result {
            Ok(_) => self.resumes += 1,
            Err(_) => self.resumes_refused += 1,
        }
        result
    }

    fn try_resume(&mut self, resume: &Resume) -> Result<SeatKey, ResumeRefused> {
        let at =
            self.seats.iter().position(|it| it.session_id == resume.session_id).ok_or(ResumeRefused::InvalidSession)?;
        let seat = &mut self.seats[at];
        if resume.seq > seat.last_sequence() {
            return Err(ResumeRefused::InvalidSeq);
        }
        if !seat.rewind(resume.seq, &self.log) {
            if seat.connected {
                let key = seat.key;
                self.actions.push_back(Action::Disconnect(key, CloseCode::UNKNOWN_ERROR));
            }
            self.remove(at);
            return Err(ResumeRefused::InvalidSession);
        }
        let seat = &mut self.seats[at];
        seat.connected = true;
        seat.left_at = None;
        Ok(seat.key)
    }

    /// The client's connection is gone. `ended`: its session too (it closed with 1000 or 1001).
    pub fn leave(&mut self, now: Instant, key: SeatKey, ended: bool) {
        let Some(at) = self.seat_at(key) else { return };
        let seat = &mut self.seats[at];
        // What was not read to the end of its snapshot cannot be resumed: there is nothing to keep.
        if ended || !matches!(seat.phase, Phase::Following { .. }) {
            self.remove(at);
            return;
        }
        seat.connected = false;
        seat.left_at = Some(now);
    }

    /// A client's op 3, 4, 8, 31 or 43, to go to Discord under the shard's budget.
    pub fn on_command(&mut self, now: Instant, key: SeatKey, command: Command) -> Result<(), Refused> {
        let pushed = self.commands.push(key.0, command, now);
        self.commands_refused += u64::from(pushed.is_err());
        pushed
    }

    /// Sends what the client has not got, up to `room` bytes.
    pub fn pump(&mut self, key: SeatKey, encoder: &mut Encoder, out: &mut Vec<u8>, room: usize) -> Pumped {
        let Some(at) = self.seat_at(key) else { return Pumped::Current };
        let seat = &mut self.seats[at];
        let had_snapshot = matches!(seat.phase, Phase::Snapshot(_));
        let pumped = seat.pump(&self.cache, &self.log, encoder, out, room);
        if had_snapshot && !matches!(seat.phase, Phase::Snapshot(_)) {
            self.snapshots -= 1;
        }
        if pumped == Pumped::FellOff {
            self.lagging_closes += 1;
            self.remove(at);
        }
        pumped
    }

    /// Whether the client has something to be sent.
    pub fn has_more(&self, key: SeatKey) -> bool {
        self.seat_at(key).is_some_and(|at| self.seats[at].has_more(&self.log))
    }

    /// Bytes of dispatches that the client has not been sent.
    pub fn lag_bytes(&self, key: SeatKey) -> u64 {
        self.seat_at(key).map_or(0, |at| self.log.bytes_from(self.seats[at].cursor))
    }

    /// The client is too slow: its connection is closed, its session waits for RESUME.
    pub fn on_lagging(&mut self, now: Instant, key: SeatKey) {
        self.lagging_closes += 1;
        self.leave(now, key, false);
    }

    /// Session id and connectedness, for log lines.
    pub fn session_id(&self, key: SeatKey) -> Option<&str> {
        self.seat_at(key).map(|at| self.seats[at].session_id.as_str())
    }

    // ---- time and output

    pub fn due(&self) -> Option<Instant> {
        [self.upstream.due(), self.commands.due(), self.guilds_due].into_iter().flatten().min()
    }

    pub fn on_timeout(&mut self, now: Instant) {
        if self.upstream.due().is_some_and(|it| now >= it) {
            self.upstream.on_timeout(now);
        }
        self.seat_waiting_clients_when_settled(now);
    }

    /// The next thing to do; `None` when there is nothing at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.upstream.poll() {
            return Some(match action {
                UpstreamAction::IdentifyWanted => Action::IdentifyWanted,
                UpstreamAction::IdentifySent => Action::IdentifySent,
                UpstreamAction::IdentifyReturned => Action::IdentifyReturned,
                UpstreamAction::Connect(url) => Action::Connect(url),
                UpstreamAction::Send(payload) => {
                    self.commands.on_sent(now);
                    Action::Send(payload)
                }
                UpstreamAction::Close(code) => {
                    self.commands.pause();
                    Action::Close(code)
                }
            });
        }
        if let Some(code) = self.upstream.stopped()
            && !self.stopped_said
        {
            self.stopped_said = true;
            return Some(Action::Stopped(code));
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.commands.poll(now).map(Action::Send)
    }

    /// Ends the conversation with Discord, keeping its session or (1000) not.
    pub fn shut_down(&mut self, code: CloseCode) {
        self.upstream.shut_down(code);
    }

    /// Gives the oldest segment of the log back. Sessions whose clients left and whose next dispatch was in it are over.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        if !self.log.drop_oldest() {
            return false;
        }
        let tail = self.log.tail();
        let mut at = 0;
        while at < self.seats.len() {
            let seat = &mut self.seats[at];
            if !seat.connected && seat.cursor < tail && matches!(seat.phase, Phase::Following { .. }) {
                self.remove(at);
                continue;
            }
            seat.forget_before(tail);
            at += 1;
        }
        true
    }

    /// The stored JSON of an object, for the pages: a guild as its GUILD_CREATE would be now. `None` if it is not known here.
    pub fn find(&self, wanted: Wanted) -> Option<Vec<u8>> {
        match wanted {
            Wanted::Guild(id) => self.cache.find_guild(GuildId(id)),
            Wanted::Channel(id) => self.cache.find_channel(id),
            Wanted::User(id) => self.cache.find_user(id),
        }
    }

    pub fn report(&self, now: Instant) -> ShardReport {
        let counts = self.upstream.counts();
        ShardReport {
            shard: self.settings.upstream.shard.0,
            status: self.upstream.status() as u8,
            unready: self.unready(),
            latency: self.upstream.latency(),
            latencies: self.latencies.clone(),
            events: self.events.list(),
            cache: self.cache.counts(),
            cache_bytes: self.cache.bytes(),
            cache_errors: self.cache_errors,
            clients: self.seats.iter().filter(|it| it.connected).count(),
            sessions: self.seats.len(),
            log_bytes: self.log.bytes(),
            log_dispatches: self.log.head() - self.log.tail(),
            log_age: self.log.age(now),
            resumes: self.resumes,
            resumes_refused: self.resumes_refused,
            lagging_closes: self.lagging_closes,
            connects: counts.connects,
            identifies: counts.identifies,
            upstream_resumes: counts.resumes,
            repeated: counts.repeated,
            close_codes: counts.closes.clone(),
            commands_queued: self.commands.queued(),
            commands_refused: self.commands_refused,
        }
    }

    fn seat_at(&self, key: SeatKey) -> Option<usize> {
        self.seats.binary_search_by_key(&key, |it| it.key).ok()
    }

    fn remove(&mut self, at: usize) {
        let seat = self.seats.remove(at);
        if matches!(seat.phase, Phase::Snapshot(_)) {
            self.snapshots -= 1;
        }
        self.commands.drop_client(seat.key.0);
    }

    fn end_longest_left(&mut self) -> bool {
        let longest = self.seats.iter().enumerate().filter(|(_, it)| !it.connected).min_by_key(|(_, it)| it.left_at);
        match longest.map(|(at, _)| at) {
            Some(at) => {
                self.remove(at);
                true
            }
            None => false,
        }
    }
}

/// 32 hex digits, as Discord's: 96 random bits, and the shard's number hidden under them, because RESUME names no shard.
pub fn session_id(shard: u32, entropy: [u8; 12]) -> String {
    let mask = u32::from_be_bytes([entropy[0], entropy[1], entropy[2], entropy[3]]);
    let mut id = format!("{:08x}", shard ^ mask);
    for byte in entropy {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

/// The shard that gave this session id out; `None` if none can have.
pub fn shard_of_session(id: &str) -> Option<u32> {
    if id.len() != 32 || !id.is_ascii() {
        return None;
    }
    let hidden = u32::from_str_radix(&id[..8], 16).ok()?;
    let mask = u32::from_str_radix(&id[8..16], 16).ok()?;
    Some(hidden ^ mask)
}

#[cfg(test)]
mod tests;
