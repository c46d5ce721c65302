//! One shard's conversation with Discord: when to connect where, IDENTIFY or RESUME, heartbeats, and what each close,
//! op 7 and op 9 leads to.
//!
//! A plain state machine. It does not know frames, sockets or TLS, and it does not look into dispatches but READY and RESUMED.

mod fatal;
mod reconnects;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::backoff::Backoff;
use super::heart::{Beat, Heart};
use super::identify::TURN_HELD_MAX;
use crate::wire::CloseCode;
use crate::wire::close::AfterClose;
use crate::wire::scan::Envelope;
pub use reconnects::{Reconnect, Reconnects};
pub use settings::UpstreamSettings;

/// From `Action::Connect` to an open WebSocket: name resolution, TCP, TLS and the upgrade together.
pub const CONNECT_MAX: Duration = Duration::from_secs(20);
/// From the open WebSocket to HELLO, which comes at once.
pub const HELLO_MAX: Duration = Duration::from_secs(20);
/// From IDENTIFY or RESUME to the first dispatch.
pub const ANSWER_MAX: Duration = Duration::from_secs(60);
/// After op 9 Discord's staff advised to wait a random 1 to 5 s.
const INVALID_SESSION_WAIT: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(5);
/// A first reconnect spreads the shards of a cut node over this time.
const RECONNECT_SPREAD: Duration = Duration::from_millis(400);
/// A longer `Retry-After` is taken for this, so that a mistaken header does not stop a shard for a year.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// So many connections may break in a row over something unreadable while the session stands at one sequence number. The next
/// time the session is given up: a replay that can never be read would be asked for again for ever.
pub const BROKEN_MAX: u32 = 8;
/// Discord's numbers rise by one. A jump beyond this is no gap but a broken connection: it is given up and resumed.
const SEQUENCE_JUMP_MAX: u64 = 1 << 32;
/// How often the resume host may fail in a row before the main host is tried in turn with it.
const RESUME_HOST_FAILURES_MAX: u32 = 1;

/// What the shell is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum UpstreamAction {
    /// Put this shard into the identify queue.
    IdentifyWanted,
    /// The IDENTIFY of the granted turn was sent.
    IdentifySent,
    /// The granted turn ended without an IDENTIFY.
    IdentifyReturned,
    /// Open a WebSocket to this URL; `on_open` or `on_closed` follows.
    Connect(String),
    /// Send one gateway payload, ahead of all commands of clients.
    Send(Vec<u8>),
    /// Close the connection with this code; no `on_closed` is wanted for it.
    Close(CloseCode),
}

/// What a payload was.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A new session began; the payload is READY.
    Ready,
    /// A dispatch for clients.
    Dispatch,
    /// Something between Discord and us: nothing for clients.
    Handled,
}

/// gateway-proxy's `gateway_shard_status`, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Fatal = 0,
    Disconnected = 1,
    Identifying = 2,
    Resuming = 3,
    Active = 4,
}

/// Counters for metrics.
#[derive(Clone, Debug, Default)]
pub struct UpstreamCounts {
    pub connects: u64,
    pub identifies: u64,
    pub resumes: u64,
    /// Dispatches that came with a number already seen, and were left out.
    pub repeated: u64,
    /// How often numbers were left out between two dispatches. RESUMED takes a number too, and one that came just before a crash may be
    /// counted here.
    pub sequence_gaps: u64,
    /// Close codes of Discord, 0 where none was given.
    pub closes: Vec<(u16, u64)>,
    pub reconnects: Reconnects,
}

/// A session with Discord: what RESUME needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    /// Without query; the main URL when Discord gave none.
    pub resume_url: String,
    /// The last sequence number received.
    pub sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Identify { not_before: Instant },
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is open; at `until` it goes on.
    Waiting {
        until: Instant,
    },
    /// In the identify queue.
    Queued,
    Connecting {
        since: Instant,
        intent: Intent,
    },
    AwaitingHello {
        since: Instant,
        intent: Intent,
    },
    /// HELLO has come, the turn's moment not yet.
    AwaitingMoment {
        not_before: Instant,
    },
    /// IDENTIFY is sent.
    Identifying {
        since: Instant,
    },
    /// RESUME is sent; the replay runs. `since` is renewed by each dispatch.
    Resuming {
        since: Instant,
    },
    Live,
    /// A fatal close code: only the operator can help.
    Stopped(CloseCode),
    /// Shut down on our side.
    Ended,
}

/// `session` is present while Discord may still know it. `heart` beats from IDENTIFY or RESUME to the end of the connection.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    state: State,
    session: Option<Session>,
    /// From HELLO; `None` when no connection has been greeted.
    heart: Option<Heart>,
    heartbeat_interval: Duration,
    /// Where the grid of heartbeats begins; the same for all shards of a core.
    born: Instant,
    latency: Option<Duration>,
    new_latency: Option<Duration>,
    backoff: Backoff,
    resume_host_failures: u32,
    /// Connections that broke over something unreadable since the session's sequence last moved.
    broken: u32,
    /// With a store: the sequence number that heartbeats acknowledge. `None`: the last one received.
    acknowledged: Option<u64>,
    rng: fastrand::Rng,
    actions: VecDeque<UpstreamAction>,
    counts: UpstreamCounts,
}

#[derive(Deserialize)]
struct Hello {
    heartbeat_interval: u64,
}

#[derive(Deserialize)]
struct Ready {
    session_id: String,
    #[serde(default)]
    resume_gateway_url: Option<String>,
}

impl Upstream {
    /// `seed` drives jitter alone.
    pub fn new(settings: UpstreamSettings, seed: u64, now: Instant) -> Self {
        Self {
            settings,
            state: State::Waiting { until: now },
            session: None,
            heart: None,
            heartbeat_interval: Duration::ZERO,
            born: now,
            latency: None,
            new_latency: None,
            backoff: Backoff::new(fastrand::Rng::with_seed(seed ^ 1)),
            resume_host_failures: 0,
            broken: 0,
            acknowledged: None,
            rng: fastrand::Rng::with_seed(seed),
            actions: VecDeque::new(),
            counts: UpstreamCounts::default(),
        }
    }

    /// Goes on with the session of a former process: the first connection is a RESUME.
    pub fn restore(settings: UpstreamSettings, session: Session, seed: u64, now: Instant) -> Self {
        Self { session: Some(session), ..Self::new(settings, seed, now) }
    }

    /// The session that Discord may still know.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Heartbeats acknowledge `sequence` at most: what a crash could lose again, Discord must keep for a RESUME. `None`: no limit.
    pub fn acknowledge(&mut self, sequence: Option<u64>) {
        self.acknowledged = sequence;
    }

    /// The session is of no use any more, since we have lost what belongs to it: IDENTIFY anew.
    pub fn forget_session(&mut self, now: Instant) {
        if self.session.take().is_none() || matches!(self.state, State::Stopped(_) | State::Ended) {
            return;
        }
        if self.has_connection() {
            self.actions.push_back(UpstreamAction::Close(CloseCode::RECONNECTING));
        }
        self.leave_connection();
        self.state = State::Waiting { until: now };
    }

    /// IDENTIFYs carry this `d` of op 3 from now on.
    pub fn set_presence(&mut self, presence: Option<String>) {
        self.settings.presence = presence;
    }

    pub fn status(&self) -> Status {
        match self.state {
            State::Stopped(_) => Status::Fatal,
            State::Waiting { .. } | State::Ended => Status::Disconnected,
            State::Live => Status::Active,
            State::Resuming { .. }
            | State::Connecting { intent: Intent::Resume, .. }
            | State::AwaitingHello { intent: Intent::Resume, .. } => Status::Resuming,
            _ => Status::Identifying,
        }
    }

    /// What keeps this shard from being live, for people; `None` when it is, or when it was stopped for good.
    pub fn waits_for(&self) -> Option<&'static str> {
        Some(match self.state {
            State::Live | State::Stopped(_) => return None,
            State::Ended => "shut down",
            State::Waiting { .. } => "disconnected, waits before it connects again",
            State::Queued => "waits for its turn to identify",
            State::Connecting { intent: Intent::Identify { .. }, .. } => "connects, to identify",
            State::Connecting { intent: Intent::Resume, .. } => "connects, to resume",
            State::AwaitingHello { .. } => "waits for HELLO",
            State::AwaitingMoment { .. } => "waits for the moment at which it may identify",
            State::Identifying { .. } => "waits for READY",
            State::Resuming { .. } => "receives what it missed",
        })
    }

    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }

    /// The fatal code that stopped this shard.
    pub fn stopped(&self) -> Option<CloseCode> {
        match self.state {
            State::Stopped(code) => Some(code),
            _ => None,
        }
    }

    /// What the operator should know and do about a fatal code.
    pub fn remedy(&self, code: CloseCode) -> String {
        fatal::remedy(code, &self.settings)
    }

    /// The last heartbeat's round trip.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// A round trip measured since the last call.
    pub fn take_latency(&mut self) -> Option<Duration> {
        self.new_latency.take()
    }

    pub fn counts(&self) -> &UpstreamCounts {
        &self.counts
    }

    pub fn poll(&mut self) -> Option<UpstreamAction> {
        self.actions.pop_front()
    }

    /// When `on_timeout` wants to be called.
    pub fn due(&self) -> Option<Instant> {
        let own = match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { since, .. } => Some(since + CONNECT_MAX),
            State::AwaitingHello { since, .. } => Some(since + HELLO_MAX),
            State::Identifying { since } | State::Resuming { since } => Some(since + ANSWER_MAX),
            State::AwaitingMoment { not_before } => Some(not_before),
            State::Queued | State::Live | State::Stopped(_) | State::Ended => None,
        };
        let beat = self.heart.as_ref().map(Heart::due);
        own.into_iter().chain(beat).min()
    }

    pub fn on_timeout(&mut self, now: Instant) {
        if let Some(heart) = &mut self.heart
            && now >= heart.due()
        {
            match heart.on_timeout(now) {
                Beat::Send => self.send_heartbeat(),
                Beat::Zombie => return self.reconnect(now, Reconnect::Zombie),
            }
        }
        match self.state {
            State::Waiting { until } if now >= until => self.start(now),
            State::AwaitingMoment { not_before } if now >= not_before + TURN_HELD_MAX => {
                self.reconnect(now, Reconnect::Late);
            }
            State::AwaitingMoment { not_before } if now >= not_before => self.identify(now),
            State::Connecting { since, .. } if now >= since + CONNECT_MAX => {
                self.reconnect(now, Reconnect::Unreachable);
            }
            State::AwaitingHello { since, .. } if now >= since + HELLO_MAX => self.reconnect(now, Reconnect::Silent),
            State::Identifying { since } | State::Resuming { since } if now >= since + ANSWER_MAX => {
                self.reconnect(now, Reconnect::Silent);
            }
            _ => {}
        }
    }

    /// The identify queue gave this shard its turn: connect now, IDENTIFY no earlier than `not_before`.
    pub fn on_turn(&mut self, now: Instant, not_before: Instant) {
        if self.state != State::Queued {
            self.actions.push_back(UpstreamAction::IdentifyReturned);
            return;
        }
        self.connect(now, Intent::Identify { not_before });
    }

    /// The WebSocket is open.
    pub fn on_open(&mut self, now: Instant) {
        if let State::Connecting { intent, .. } = self.state {
            self.counts.connects += 1;
            self.state = State::AwaitingHello { since: now, intent };
        }
    }

    /// The connection has ended or could not be made; `code` when Discord sent a close frame.
    pub fn on_closed(&mut self, now: Instant, code: Option<CloseCode>) {
        if matches!(self.state, State::Stopped(_) | State::Ended | State::Waiting { .. } | State::Queued) {
            return;
        }
        let number = code.map_or(0, |it| it.0);
        match self.counts.closes.iter_mut().find(|it| it.0 == number) {
            Some(it) => it.1 += 1,
            None => self.counts.closes.push((number, 1)),
        }
        let after = code.map_or(AfterClose::Resume, CloseCode::after_upstream_close);
        if after != AfterClose::Fatal {
            self.counts.reconnects.add(match (code, self.state) {
                (Some(_), _) => Reconnect::Closed,
                (None, State::Connecting { .. }) => Reconnect::Unreachable,
                (None, _) => Reconnect::Lost,
            });
        }
        match after {
            AfterClose::Fatal => {
                self.leave_connection();
                self.session = None;
                self.state = State::Stopped(code.unwrap_or(CloseCode::UNKNOWN_ERROR));
            }
            AfterClose::Identify => {
                self.leave_connection();
                self.session = None;
                self.wait_after_invalid_session(now);
            }
            AfterClose::Resume => self.retry(now),
        }
    }

    /// One payload; `envelope` is its scan. A dispatch is counted as received here, so the caller must not lose it after.
    pub fn on_payload(&mut self, now: Instant, envelope: &Envelope, payload: &[u8]) -> Received {
        if !self.has_connection() {
            // What came in one read with the end of the connection: RESUME will bring it again.
            return Received::Handled;
        }
        let data = envelope.data.clone().map_or(&b"null"[..], |it| &payload[it]);
        match envelope.op {
            Some(0) => return self.on_dispatch(now, envelope, payload, data),
            Some(1) => {
                if let Some(heart) = &mut self.heart {
                    heart.on_request(now);
                    self.send_heartbeat();
                }
            }
            Some(7) => self.reconnect_soon(now),
            Some(9) => self.on_invalid_session(now, data == b"true"),
            Some(10) => self.on_hello(now, data),
            Some(11) => {
                if let Some(latency) = self.heart.as_mut().and_then(|it| it.on_ack(now)) {
                    self.latency = Some(latency);
                    self.new_latency = Some(latency);
                }
            }
            // Unknown ops are ignored, as the documentation asks.
            _ => {}
        }
        Received::Handled
    }

    /// Discord sent something that is not a gateway payload: the connection cannot be trusted, the session can, unless it is broken
    /// at the same place each time. What comes after it on the same connection counts no more.
    pub fn on_broken(&mut self, now: Instant) {
        if !self.has_connection() {
            return;
        }
        self.broken += 1;
        if self.broken > BROKEN_MAX {
            self.session = None;
        }
        self.reconnect(now, Reconnect::Unreadable);
    }

    /// The attempt that has just failed was answered with `Retry-After`: the next one comes no sooner, and as much later as the
    /// back-off says, so that the shards that were told the same do not come together. Call after `on_closed`.
    pub fn on_retry_after(&mut self, now: Instant, wait: Duration) {
        if let State::Waiting { until } = &mut self.state {
            *until = (*until).max(now) + wait.min(RETRY_AFTER_MAX);
        }
    }

    /// Our side goes away: close with `code` and do nothing more.
    pub fn shut_down(&mut self, code: CloseCode) {
        if self.has_connection() {
            self.actions.push_back(UpstreamAction::Close(code));
        }
        self.heart = None;
        self.state = State::Ended;
    }

    fn on_dispatch(&mut self, now: Instant, envelope: &Envelope, payload: &[u8], data: &[u8]) -> Received {
        let name = envelope.event_type.clone().map_or(&b""[..], |it| &payload[it]);
        if name == b"READY" {
            return self.on_ready(now, envelope.sequence, data);
        }
        let Some(session) = &mut self.session else {
            // A dispatch without a session: nothing that could be promised about it.
            return Received::Handled;
        };
        if name == b"RESUMED" {
            let sequence = envelope.sequence.unwrap_or(0).max(session.sequence);
            if sequence - session.sequence > SEQUENCE_JUMP_MAX {
                self.on_broken(now);
                return Received::Handled;
            }
            session.sequence = sequence;
            self.broken = 0;
            self.resume_host_failures = 0;
            self.state = State::Live;
            self.backoff.on_live(now);
            return Received::Handled;
        }
        if let Some(sequence) = envelope.sequence {
            if sequence <= session.sequence {
                self.counts.repeated += 1;
                return Received::Handled;
            }
            if sequence - session.sequence > SEQUENCE_JUMP_MAX {
                self.on_broken(now);
                return Received::Handled;
            }
            self.counts.sequence_gaps += u64::from(sequence - session.sequence > 1);
            session.sequence = sequence;
            self.broken = 0;
        }
        if let State::Resuming { since } = &mut self.state {
            *since = now;
            if let Some(heart) = &mut self.heart {
                heart.on_life();
            }
        }
        Received::Dispatch
    }

    fn on_ready(&mut self, now: Instant, sequence: Option<u64>, data: &[u8]) -> Received {
        let Ok(ready) = serde_json::from_slice::<Ready>(data) else {
            self.on_broken(now);
            return Received::Handled;
        };
        let sequence = sequence.unwrap_or(1);
        if sequence > SEQUENCE_JUMP_MAX {
            self.on_broken(now);
            return Received::Handled;
        }
        let resume_url = ready.resume_gateway_url.unwrap_or_else(|| self.settings.gateway_url.clone());
        self.session = Some(Session { id: ready.session_id, resume_url, sequence });
        self.resume_host_failures = 0;
        self.broken = 0;
        self.state = State::Live;
        self.backoff.on_live(now);
        Received::Ready
    }

    fn on_hello(&mut self, now: Instant, data: &[u8]) {
        let State::AwaitingHello { intent, .. } = self.state else { return };
        let Ok(hello) = serde_json::from_slice::<Hello>(data) else { return self.on_broken(now) };
        self.heartbeat_interval = Duration::from_millis(hello.heartbeat_interval.max(1));
        match intent {
            Intent::Resume => self.resume(now),
            // Whatever held us up, the turn is another shard's by now: an IDENTIFY beside its own would cost both.
            Intent::Identify { not_before } if now >= not_before + TURN_HELD_MAX => {
                self.reconnect(now, Reconnect::Late);
            }
            Intent::Identify { not_before } if now >= not_before => self.identify(now),
            Intent::Identify { not_before } => {
                self.start_heart(now);
                self.state = State::AwaitingMoment { not_before };
            }
        }
    }

    fn on_invalid_session(&mut self, now: Instant, resumable: bool) {
        if !self.has_connection() {
            return;
        }
        self.counts.reconnects.add(Reconnect::Invalid);
        self.count_failed_resume();
        self.leave_connection();
        self.actions.push_back(UpstreamAction::Close(CloseCode::RECONNECTING));
        if !resumable {
            self.session = None;
        }
        self.wait_after_invalid_session(now);
    }

    /// Op 7: close and come back at once; the session is kept.
    fn reconnect_soon(&mut self, now: Instant) {
        if !self.has_connection() {
            return;
        }
        // In place of HELLO it says that this node is restarting: that counts as a failed attempt, so that a storm of them backs off.
        let was_live = matches!(self.state, State::Live | State::Resuming { .. });
        self.counts.reconnects.add(Reconnect::Requested);
        self.actions.push_back(UpstreamAction::Close(CloseCode::RECONNECTING));
        if was_live {
            self.count_failed_resume();
            self.leave_connection();
            let delay = self.backoff.on_lost(now);
            // The first one hurries. After sessions that were cut young, one after the other, the back-off holds.
            let delay = if self.backoff.attempts() <= 1 { delay.min(RECONNECT_SPREAD) } else { delay };
            self.state = State::Waiting { until: now + delay };
        } else {
            self.retry(now);
        }
    }

    /// We give this connection up.
    fn reconnect(&mut self, now: Instant, why: Reconnect) {
        self.counts.reconnects.add(why);
        if self.has_connection() {
            let code = if why == Reconnect::Unreadable { CloseCode::DECODE_ERROR } else { CloseCode::RECONNECTING };
            self.actions.push_back(UpstreamAction::Close(code));
        }
        self.retry(now);
    }

    /// The connection is gone, the session (if any) is not: try again after a while.
    fn retry(&mut self, now: Instant) {
        self.count_failed_resume();
        self.leave_connection();
        let delay = self.backoff.on_lost(now);
        self.state = State::Waiting { until: now + delay };
    }

    /// The connection ends: was it to resume, and has not?
    fn count_failed_resume(&mut self) {
        if self.status() == Status::Resuming {
            self.resume_host_failures += 1;
        }
    }

    fn wait_after_invalid_session(&mut self, now: Instant) {
        let span = INVALID_SESSION_WAIT.end - INVALID_SESSION_WAIT.start;
        let wait = INVALID_SESSION_WAIT.start + span.mul_f64(self.rng.f64());
        // An op 9 storm must not become a storm of IDENTIFYs: the back-off takes over when it waits longer.
        let delay = wait.max(self.backoff.on_lost(now));
        self.state = State::Waiting { until: now + delay };
    }

    /// Ends what belongs to one connection. A turn of the identify queue that was not used is given back.
    fn leave_connection(&mut self) {
        self.heart = None;
        let holds_turn = matches!(
            self.state,
            State::Connecting { intent: Intent::Identify { .. }, .. }
                | State::AwaitingHello { intent: Intent::Identify { .. }, .. }
                | State::AwaitingMoment { .. }
        );
        if holds_turn {
            self.actions.push_back(UpstreamAction::IdentifyReturned);
        }
    }

    fn has_connection(&self) -> bool {
        !matches!(self.state, State::Waiting { .. } | State::Queued | State::Stopped(_) | State::Ended)
    }

    fn start(&mut self, now: Instant) {
        if self.session.is_some() {
            self.connect(now, Intent::Resume);
        } else {
            self.state = State::Queued;
            self.actions.push_back(UpstreamAction::IdentifyWanted);
        }
    }

    fn connect(&mut self, now: Instant, intent: Intent) {
        let failures = self.resume_host_failures;
        let base = match (&self.session, intent) {
            // The resume host first; when it refuses, the main host and it in turn.
            (Some(session), Intent::Resume) if failures < RESUME_HOST_FAILURES_MAX || failures.is_multiple_of(2) => {
                &session.resume_url
            }
            _ => &self.settings.gateway_url,
        };
        let url = self.settings.connect_url(base);
        self.state = State::Connecting { since: now, intent };
        self.actions.push_back(UpstreamAction::Connect(url));
    }

    fn identify(&mut self, now: Instant) {
        self.actions.push_back(UpstreamAction::Send(self.settings.identify_payload()));
        self.actions.push_back(UpstreamAction::IdentifySent);
        self.counts.identifies += 1;
        self.state = State::Identifying { since: now };
        if self.heart.is_none() {
            self.start_heart(now);
        }
    }

    fn resume(&mut self, now: Instant) {
        let Some(session) = &self.session else { return self.retry(now) };
        let payload = serde_json::json!({"op": 6, "d": {
            "token": self.settings.token, "session_id": session.id, "seq": session.sequence,
        }});
        self.actions.push_back(UpstreamAction::Send(payload.to_string().into_bytes()));
        self.counts.resumes += 1;
        self.state = State::Resuming { since: now };
        // A heartbeat between the open connection and RESUME has cost sessions (2020): the heart starts after it.
        self.start_heart(now);
    }

    fn start_heart(&mut self, now: Instant) {
        self.heart = Some(Heart::new(self.heartbeat_interval, self.born, now, &mut self.rng));
    }

    fn send_heartbeat(&mut self) {
        let payload = match &self.session {
            Some(session) => {
                let sequence = self.acknowledged.map_or(session.sequence, |it| it.min(session.sequence));
                format!(r#"{{"op":1,"d":{sequence}}}"#)
            }
            None => r#"{"op":1,"d":null}"#.to_owned(),
        };
        self.actions.push_back(UpstreamAction::Send(payload.into_bytes()));
    }
}
