//! The clients' side of a shard: IDENTIFY, RESUME, leaving, commands, and what each is sent.
//!
//! How a seat follows the log is the seat's affair; what a READY of Discord's means for seats is in `epoch`.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::{Duration, Instant};

use super::record::Record;
use super::report::Lag;
use super::seat::{Phase, Pumped, Seat, SeatKey, Sought, View};
use super::{Action, Shard};
use crate::session::commands::Refused;
use crate::session::payload::{Command, CommandOp, Identify, Resume};
use crate::session::upstream::UpstreamSettings;
use crate::wire::encode::Encoder;
use crate::wire::{CloseCode, GuildId};

/// Sessions of clients at one shard, connected or waiting for RESUME. When full, the one that left longest ago ends; when
/// all are connected, IDENTIFY is refused with 4008.
pub const SEATS_MAX: usize = 256;

/// A RESUME whose number has not come again by then is answered with op 9: Discord replays at once, or not at all.
pub const SEEK_MAX: Duration = Duration::from_secs(60);

/// Among the keys of clients, which begin with 1, the operator's: the presence of the configuration.
const OPERATOR: u64 = 0;
/// What a bot shows that never said anything.
const NO_PRESENCE: &str = r#"{"since":null,"activities":[],"status":"online","afk":false}"#;

/// Why IDENTIFY was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentifyRefused {
    /// All seats are taken by connected clients.
    Full,
    /// Discord has stopped the shard for good, with this code.
    Stopped(CloseCode),
}

/// `d` of the op 3 that says what the configuration says.
pub(super) fn presence_d(settings: &UpstreamSettings) -> Box<str> {
    settings.presence.as_deref().unwrap_or(NO_PRESENCE).into()
}

impl IdentifyRefused {
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Full => CloseCode::RATE_LIMITED,
            Self::Stopped(code) => *code,
        }
    }

    /// The reason in the close frame.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full => "Too many sessions on this shard.",
            Self::Stopped(_) => "Discord refused this shard.",
        }
    }
}

/// Why RESUME was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeRefused {
    /// Unknown, or what was missed is no longer there: op 9 `d:false`.
    InvalidSession,
    /// `seq` is ahead of the session: 4007.
    InvalidSeq,
    /// Discord has stopped the shard for good, with this code.
    Stopped(CloseCode),
}

impl fmt::Display for IdentifyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Shard {
    /// A client has identified. `entropy` makes its session id unguessable.
    pub fn identify(&mut self, identify: &Identify, entropy: [u8; 12]) -> Result<SeatKey, IdentifyRefused> {
        if let Some(code) = self.upstream.stopped() {
            return Err(IdentifyRefused::Stopped(code));
        }
        if self.seats.len() >= SEATS_MAX && !self.end_longest_left() {
            return Err(IdentifyRefused::Full);
        }
        let key = SeatKey(self.next_key);
        self.next_key += 1;
        let id = session_id(self.settings.upstream.shard.0, entropy);
        let shard = identify.shard_or_default();
        let wants_guilds = identify.intents & self.settings.upstream.intents & super::epoch::INTENT_GUILDS != 0;
        self.seats.push(Seat::new(key, id, shard, wants_guilds));
        if self.is_settled() && !self.holds_snapshots {
            self.begin_seat(self.seats.len() - 1);
        }
        Ok(key)
    }

    /// A client comes back: the cursor goes behind `resume.seq`. A connection that still held the session loses it.
    ///
    /// With a store nothing is sent before it knows of this. A number that was given out but not stored before a crash is looked for in
    /// what Discord replays; if it does not come, `Action::InvalidSession` follows.
    pub fn resume(&mut self, now: Instant, resume: &Resume) -> Result<SeatKey, ResumeRefused> {
        let result = self.try_resume(now, resume);
        self.resumes += u64::from(result.is_ok());
        result
    }

    fn try_resume(&mut self, now: Instant, resume: &Resume) -> Result<SeatKey, ResumeRefused> {
        if let Some(code) = self.upstream.stopped() {
            return Err(ResumeRefused::Stopped(code));
        }
        let at =
            self.seats.iter().position(|it| it.session_id == resume.session_id).ok_or(ResumeRefused::InvalidSession)?;
        let (readable_from, head) = (self.readable_from(), self.log.head());
        let seat = &mut self.seats[at];
        if resume.seq > seat.last_sequence() {
            if !seat.is_ghost {
                return Err(ResumeRefused::InvalidSeq);
            }
            seat.seek(resume.seq, now + SEEK_MAX);
            self.seeking_due.get_or_insert(now + SEEK_MAX);
        } else if !seat.rewind(resume.seq, readable_from, head) {
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
        let key = seat.key;
        if !matches!(seat.phase, Phase::Seeking { .. }) {
            self.gate_seat(at);
        }
        Ok(key)
    }

    /// The client's connection is gone. `ended`: its session too (it closed with 1000 or 1001).
    pub fn leave(&mut self, now: Instant, key: SeatKey, ended: bool) {
        let Some(at) = self.seat_at(key) else { return };
        let seat = &mut self.seats[at];
        if let Phase::Seeking { resumed_at, .. } = seat.phase {
            seat.phase = Phase::Following { resumed_at };
        }
        // What was not read to the end of its snapshot cannot be resumed: there is nothing to keep.
        if ended || !matches!(seat.phase, Phase::Following { .. }) {
            self.remove(at);
            return;
        }
        seat.connected = false;
        seat.left_at = Some(now);
        self.write_seat(at);
    }

    /// A client's op 3, 4, 8, 31 or 43, to go to Discord under the shard's budget. What is about guilds of other shards is left out.
    pub fn on_command(&mut self, now: Instant, key: SeatKey, mut command: Command) -> Result<(), Refused> {
        let UpstreamSettings { shard, shard_count, .. } = self.settings.upstream;
        if !command.keep_guilds(|guild| guild.shard(shard_count) == shard) {
            self.commands_misrouted += 1;
            return Ok(());
        }
        let pushed = self.commands.push(key.0, command, now);
        self.commands_refused += u64::from(pushed.is_err());
        pushed
    }

    /// The operator's presence, `d` of op 3: from now on IDENTIFYs carry it, and Discord is told, if it is another one. Commands of clients wait
    /// their turn behind it, and whoever of them sets a presence after it has the last word. `poll`.
    pub fn set_presence(&mut self, now: Instant, presence: Option<String>) {
        if self.settings.upstream.presence == presence {
            return;
        }
        self.settings.upstream.presence = presence.clone();
        self.upstream.set_presence(presence);
        self.say_presence(now);
    }

    /// After a restart: Discord is told the operator's presence once the session goes on, if it is another one than the session has.
    pub(super) fn tell_presence(&mut self, now: Instant) {
        if self.presence_told != presence_d(&self.settings.upstream) {
            self.say_presence(now);
        }
    }

    /// Discord has just heard the operator's presence: by IDENTIFY, or by an op 3, which may be that of a client who had the last word.
    pub(super) fn on_presence_told(&mut self) {
        let d = presence_d(&self.settings.upstream);
        if self.presence_told != d {
            self.write(&Record::Presence(&d));
            self.presence_told = d;
        }
    }

    fn say_presence(&mut self, now: Instant) {
        let d = presence_d(&self.settings.upstream);
        // A presence takes no room in the queue: it replaces the one that waits.
        let _ = self.commands.push(OPERATOR, Command::new(CommandOp::PresenceUpdate, d), now);
    }

    /// As if this session were of a former process, which may have sent its client more than it wrote down.
    #[cfg(test)]
    pub fn forget_how_far(&mut self, key: SeatKey) {
        let at = self.seat_at(key).expect("a test knows its seats");
        self.seats[at].is_ghost = true;
    }

    /// Sends what the client has not got, up to `room` bytes.
    pub fn pump(&mut self, key: SeatKey, encoder: &mut Encoder, out: &mut Vec<u8>, room: usize) -> Pumped {
        let Some(at) = self.seat_at(key) else { return Pumped::Current };
        if matches!(self.seats[at].phase, Phase::Seeking { .. })
            && let Some(pumped) = self.go_on_seeking(at)
        {
            return pumped;
        }
        if !self.gates.is_open(self.seats[at].gate) {
            return Pumped::Current;
        }
        let (readable_from, visible) = (self.readable_from(), self.gates.visible());
        let Self { seats, cache, log, loaded, .. } = self;
        let seat = &mut seats[at];
        let had_snapshot = matches!(seat.phase, Phase::Snapshot(_));
        let was_behind = seat.cursor < log.tail();
        let pumped = seat.pump(&View { cache, log, loaded, visible, readable_from }, encoder, out, room);
        if had_snapshot && !matches!(seat.phase, Phase::Snapshot(_)) {
            self.snapshots -= 1;
        }
        match pumped {
            Pumped::FellOff => {
                self.lagging_closes += 1;
                self.remove(at);
            }
            Pumped::Reading => {
                let index = self.seats[at].cursor;
                self.read_log(index);
            }
            Pumped::Current | Pumped::Full if was_behind => self.let_go_of_loaded(),
            Pumped::Current | Pumped::Full => {}
        }
        pumped
    }

    /// Whether the client has something to be sent.
    pub fn has_more(&self, key: SeatKey) -> bool {
        let view = View {
            cache: &self.cache,
            log: &self.log,
            loaded: &self.loaded,
            visible: self.gates.visible(),
            readable_from: self.readable_from(),
        };
        self.seat_at(key).map(|at| &self.seats[at]).is_some_and(|it| self.gates.is_open(it.gate) && it.has_more(&view))
    }

    /// Whether READY or guilds are still to be written.
    pub fn is_in_snapshot(&self, key: SeatKey) -> bool {
        self.seat_at(key).is_some_and(|at| matches!(self.seats[at].phase, Phase::Snapshot(_)))
    }

    /// Bytes of dispatches that the client has not been sent, as far as they are in memory.
    pub fn lag_bytes(&self, key: SeatKey) -> u64 {
        self.seat_at(key).map_or(0, |at| self.log.bytes_from(self.seats[at].cursor))
    }

    /// The client is too slow: its connection is closed, its session waits for RESUME.
    pub fn on_lagging(&mut self, now: Instant, key: SeatKey) {
        self.lagging_closes += 1;
        self.leave(now, key, false);
    }

    /// How far connected clients are behind. Who waits for READY has no cursor yet.
    pub(super) fn lag(&self) -> Lag {
        let mut lag = Lag::default();
        for seat in self.seats.iter().filter(|it| it.connected && !matches!(it.phase, Phase::Waiting)) {
            lag.add(self.log.head().saturating_sub(seat.cursor), self.log.bytes_from(seat.cursor));
        }
        lag
    }

    /// Session id and connectedness, for log lines.
    pub fn session_id(&self, key: SeatKey) -> Option<&str> {
        self.seat_at(key).map(|at| self.seats[at].session_id.as_str())
    }

    /// The client gets READY and its guilds as they are now, and after them what comes from now on.
    pub(super) fn begin_seat(&mut self, at: usize) {
        self.seats[at].begin(&self.cache, &self.log, &self.settings.externally_accessible_url);
        self.snapshots += 1;
        self.gate_seat(at);
    }

    /// `guild` is about to change: clients that have not got it in their snapshot get it as it is.
    pub(super) fn before_change(&mut self, guild: GuildId) {
        if self.snapshots == 0 {
            return;
        }
        let mut at = 0;
        while at < self.seats.len() {
            if self.seats[at].before_change(&self.cache, guild) {
                at += 1;
                continue;
            }
            self.lagging_closes += 1;
            self.actions.push_back(Action::Disconnect(self.seats[at].key, CloseCode::UNKNOWN_ERROR));
            self.remove(at);
        }
    }

    /// Discord has stopped the shard for good: clients are told as it told us, since no RESUME or IDENTIFY can help them.
    pub(super) fn dismiss_all(&mut self, now: Instant, code: CloseCode) {
        for key in self.seats.iter().filter(|it| it.connected).map(|it| it.key).collect::<Vec<_>>() {
            self.actions.push_back(Action::Disconnect(key, code));
            self.leave(now, key, false);
        }
    }

    pub(super) fn give_up_seeking(&mut self, now: Instant) {
        let late: Vec<_> = self
            .seats
            .iter()
            .filter(|it| seeking_until(it).is_some_and(|until| now >= until))
            .map(|it| it.key)
            .collect();
        late.into_iter().for_each(|key| self.invalidate(key));
        self.seeking_due = self.seats.iter().filter_map(seeking_until).min();
    }

    /// The session is over, and its client is told so.
    pub(super) fn invalidate(&mut self, key: SeatKey) {
        let Some(at) = self.seat_at(key) else { return };
        if self.seats[at].connected {
            self.actions.push_back(Action::InvalidSession(key));
        }
        self.remove(at);
    }

    /// `None`: the number was found, and the replay may begin.
    fn go_on_seeking(&mut self, at: usize) -> Option<Pumped> {
        let (readable_from, visible) = (self.readable_from(), self.gates.visible());
        let Self { seats, cache, log, loaded, .. } = self;
        let seat = &mut seats[at];
        let sought = seat.go_on_seeking(&View { cache, log, loaded, visible, readable_from });
        match sought {
            Sought::Found => {
                let found = seat.rewind(seat.last_sequence(), readable_from, log.head());
                debug_assert!(found, "the cursor has just been there");
                self.gate_seat(at);
                return None;
            }
            Sought::Reading => {
                let index = seat.cursor;
                self.read_log(index);
                return Some(Pumped::Reading);
            }
            Sought::Nowhere => {
                let key = seat.key;
                self.invalidate(key);
            }
            Sought::Waiting => {}
        }
        Some(Pumped::Current)
    }

    /// Notes the seat in the store; nothing is sent to the client before that.
    fn gate_seat(&mut self, at: usize) {
        self.write_seat(at);
        if let Some(journal) = &mut self.journal
            && self.beginning.is_none()
        {
            self.seats[at].gate = journal.ask();
        }
    }

    pub(super) fn write_seat(&mut self, at: usize) {
        if let Some(journal) = &mut self.journal
            && let Some(record) = self.seats[at].record()
        {
            journal.push(&Record::Seat(record));
        }
    }

    pub(super) fn seat_at(&self, key: SeatKey) -> Option<usize> {
        self.seats.binary_search_by_key(&key, |it| it.key).ok()
    }

    pub(super) fn remove(&mut self, at: usize) {
        let seat = self.seats.remove(at);
        if matches!(seat.phase, Phase::Snapshot(_)) {
            self.snapshots -= 1;
        }
        self.commands.drop_client(seat.key.0);
        self.write(&Record::SeatEnded(seat.key.0));
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

fn seeking_until(seat: &Seat) -> Option<Instant> {
    match seat.phase {
        Phase::Seeking { until, .. } => Some(until),
        _ => None,
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
