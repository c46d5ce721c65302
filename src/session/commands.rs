//! What one shard's clients send to Discord: one budget, one queue, fair between clients.
//!
//! Heartbeats, RESUME and IDENTIFY never wait here; they are only counted. Whether a command's shape is right was checked by
//! `payload`; whose an answer is, `requests` knows.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::backoff::LIVE_MIN;
use super::payload::{Command, CommandOp, PAYLOAD_BYTES_MAX};
use super::requests::{Asked, Requests, Route};
use crate::wire::CloseCode;

/// Payloads that Discord takes from one connection in `SEND_WINDOW`, heartbeats included.
///
/// Source: Discord, Gateway › Rate limiting.
pub const SENDS_MAX: usize = 120;
/// Kept free for what cannot wait: the two heartbeats that fall into a window, one that Discord asks for, RESUME or IDENTIFY,
/// and one to spare.
pub const HEARTBEAT_ROOM: usize = 5;
/// Commands are sent while fewer payloads than this, of any kind, lie in the window.
pub const COMMANDS_MAX: usize = SENDS_MAX - HEARTBEAT_ROOM;
/// Discord's minute, and what the network may squeeze it by: a burst that was held up is followed by one that was not.
pub const SEND_WINDOW: Duration = Duration::from_secs(60 + 2);

/// Presence updates in `PRESENCE_WINDOW`.
///
/// Source: Discord, Gateway events › Update presence.
pub const PRESENCES_MAX: usize = 5;
pub const PRESENCE_WINDOW: Duration = Duration::from_secs(20 + 1);

/// Commands of one client that wait. One more is refused.
pub const CLIENT_COMMANDS_MAX: usize = 64;
/// Commands of all clients that wait: more than two minutes of budget, at most 1 MiB. One more is refused.
pub const QUEUED_COMMANDS_MAX: usize = 256;

/// A command that found its queue full. Its client is closed with 4008, which keeps its session, so it knows that the
/// command is lost; to drop it in silence would leave the client waiting for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Client { limit: usize },
    Shard { limit: usize },
}

impl Refused {
    pub fn close_code(&self) -> CloseCode {
        CloseCode::RATE_LIMITED
    }

    /// The reason in the close frame.
    pub fn reason(&self) -> &'static str {
        "Rate limited."
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client { limit } => write!(f, "the client has {limit} commands waiting"),
            Self::Shard { limit } => write!(f, "the shard has {limit} commands waiting"),
        }
    }
}

impl std::error::Error for Refused {}

/// One per upstream shard, for the life of the process. Made paused: nothing is live yet.
#[derive(Debug)]
pub struct Commands {
    paused: bool,
    sends: SlidingLog,
    presences: SlidingLog,
    /// The clients with commands waiting; the first one's turn is next.
    ring: VecDeque<Backlog>,
    queued: usize,
    /// The presence belongs to the shard, not to a client: only the last one written counts, whoever wrote it.
    presence: Option<(u64, Command)>,
    /// The one that was sent last on this session, and when.
    presence_sent: Option<(u64, Command, Instant)>,
    /// When the session was live last, while it is not.
    paused_at: Instant,
    requests: Requests,
    /// The command polled last is a request with a nonce of ours: the newest one.
    noted: bool,
    /// The latest time heard of: what `due` says when something can go at once.
    now: Instant,
}

#[derive(Debug)]
struct Backlog {
    client: u64,
    /// Never empty.
    commands: VecDeque<Command>,
}

impl Commands {
    pub fn new(rng: &mut fastrand::Rng, now: Instant) -> Self {
        Self {
            paused: true,
            sends: SlidingLog::new(COMMANDS_MAX, SENDS_MAX, SEND_WINDOW),
            presences: SlidingLog::new(PRESENCES_MAX, PRESENCES_MAX, PRESENCE_WINDOW),
            ring: VecDeque::new(),
            queued: 0,
            presence: None,
            presence_sent: None,
            paused_at: now,
            requests: Requests::new(rng),
            noted: false,
            now,
        }
    }

    /// `client` is the key of the client's session on this shard. On success, `poll`.
    pub fn push(&mut self, client: u64, command: Command, now: Instant) -> Result<(), Refused> {
        self.now = self.now.max(now);
        if command.op == CommandOp::PresenceUpdate {
            self.presence = Some((client, command));
            return Ok(());
        }
        let waiting = self.ring.iter_mut().find(|it| it.client == client);
        if waiting.as_ref().is_some_and(|it| it.commands.len() >= CLIENT_COMMANDS_MAX) {
            return Err(Refused::Client { limit: CLIENT_COMMANDS_MAX });
        }
        if self.queued >= QUEUED_COMMANDS_MAX {
            return Err(Refused::Shard { limit: QUEUED_COMMANDS_MAX });
        }
        match waiting {
            Some(backlog) => backlog.commands.push_back(command),
            None => self.ring.push_back(Backlog { client, commands: VecDeque::from([command]) }),
        }
        self.queued += 1;
        self.check();
        Ok(())
    }

    /// The next payload for Discord, at most 4096 bytes: send it now. Call until it yields nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.now = self.now.max(now);
        if self.paused || !self.sends.has_room(now) {
            return None;
        }
        let (client, command) = self.next_presence(now).or_else(|| self.next_in_ring())?;
        self.sends.on_sent(now);
        self.check();
        Some(self.payload(client, &command, now))
    }

    /// When `poll` may yield again although nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        if self.paused {
            return None;
        }
        let ring = (!self.ring.is_empty()).then_some(self.now);
        let presence = self.presence.as_ref().map(|_| self.presences.room_at().unwrap_or(self.now));
        let wanted = ring.into_iter().chain(presence).min()?;
        Some(self.sends.room_at().map_or(wanted, |room_at| room_at.max(wanted)))
    }

    /// A payload that does not wait here was sent: a heartbeat, RESUME or IDENTIFY.
    pub fn on_sent(&mut self, now: Instant) {
        self.sends.on_sent(now);
    }

    /// A new upstream connection: Discord counts from nothing. What waits keeps waiting.
    pub fn on_connection(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.sends.clear();
        self.presences.clear();
    }

    /// A new session with Discord, of which clients that have stayed do not know: it is told the presence that one of them gave the session before, and
    /// asked what that one had not answered. `has_stayed` is about a client's session on this shard.
    ///
    /// Each is repeated once: what Discord ends sessions for, for a reason that `payload` does not know, must not end session after session. A
    /// presence that a session has outlived by `LIVE_MIN` was none of that.
    pub fn on_new_session(&mut self, now: Instant, has_stayed: impl Fn(u64) -> bool) {
        self.now = self.now.max(now);
        if let Some((client, command, at)) = self.presence_sent.take()
            && has_stayed(client)
            && (!command.is_repeated || self.paused_at >= at + LIVE_MIN)
        {
            self.presence.get_or_insert((client, Command { is_repeated: true, ..command }));
        }
        for (client, d) in self.requests.take_unanswered() {
            let command = Command { is_repeated: true, ..Command::new(CommandOp::RequestGuildMembers, d) };
            // With full queues it is as lost as it was.
            let _ = self.push(client, command, now);
        }
    }

    /// The upstream session is not live: commands wait.
    pub fn pause(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.paused, true) {
            self.paused_at = now;
        }
    }

    /// The upstream session is live. `poll`.
    pub fn resume(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.paused = false;
    }

    /// The client's session has ended: forget what it wanted. A client that may come back with RESUME is not dropped.
    pub fn drop_client(&mut self, client: u64) {
        self.ring.retain(|it| it.client != client);
        self.queued = self.ring.iter().map(|it| it.commands.len()).sum();
        self.presence.take_if(|it| it.0 == client);
        self.requests.drop_client(client);
        self.check();
    }

    /// Who gets a dispatch; see `Requests::route`.
    pub fn route(&mut self, event_type: &[u8], d: &[u8], now: Instant) -> Route {
        self.requests.route(event_type, d, now)
    }

    /// What is known of the command polled last, if answers to it must find their client: its number and who asked.
    pub fn noted(&self) -> Option<(u64, &Asked)> {
        self.requests.newest().filter(|_| self.noted)
    }

    /// The requests whose answers are waited for.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    pub fn requests_mut(&mut self) -> &mut Requests {
        &mut self.requests
    }

    /// Whether an op 3 waits, whoever it is from.
    pub fn has_presence(&self) -> bool {
        self.presence.is_some()
    }

    /// Commands that wait.
    pub fn queued(&self) -> usize {
        self.queued + usize::from(self.presence.is_some())
    }

    /// Presences go first: at 5 in 20 s they starve nobody.
    fn next_presence(&mut self, now: Instant) -> Option<(u64, Command)> {
        let next = self.presence.take_if(|_| self.presences.has_room(now))?;
        self.presences.on_sent(now);
        self.presence_sent = Some((next.0, next.1.clone(), now));
        Some(next)
    }

    fn next_in_ring(&mut self) -> Option<(u64, Command)> {
        let mut backlog = self.ring.pop_front()?;
        let client = backlog.client;
        let command = backlog.commands.pop_front()?;
        self.queued -= 1;
        if !backlog.commands.is_empty() {
            self.ring.push_back(backlog);
        }
        Some((client, command))
    }

    /// Built anew from op and `d`, so that nothing else of what the client wrote leaves the proxy.
    fn payload(&mut self, client: u64, command: &Command, now: Instant) -> Vec<u8> {
        let op = command.op as u8;
        let head = format!(r#"{{"op":{op},"d":"#);
        let d_bytes_max = PAYLOAD_BYTES_MAX - head.len() - 1;
        let with_nonce = match command.op {
            CommandOp::RequestGuildMembers => self.requests.on_request(client, command, d_bytes_max, now),
            _ => None,
        };
        self.noted = with_nonce.is_some();
        let d = with_nonce.as_deref().unwrap_or(&command.d);
        debug_assert!(d.len() <= d_bytes_max, "`d` came in a payload that was no longer");
        [head.as_bytes(), d.as_bytes(), b"}"].concat()
    }

    /// `queued` is what the ring holds, and no backlog in it is empty.
    fn check(&self) {
        debug_assert_eq!(self.queued, self.ring.iter().map(|it| it.commands.len()).sum::<usize>());
        debug_assert!(self.ring.iter().all(|it| !it.commands.is_empty()));
    }
}

/// The times of what was sent within one window.
#[derive(Debug)]
struct SlidingLog {
    limit: usize,
    /// Times kept. When there is one more, the oldest goes: beyond Discord's limit its exact count does not matter.
    capacity: usize,
    window: Duration,
    sent: VecDeque<Instant>,
}

impl SlidingLog {
    fn new(limit: usize, capacity: usize, window: Duration) -> Self {
        Self { limit, capacity, window, sent: VecDeque::new() }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        while self.sent.front().is_some_and(|&it| it + self.window <= now) {
            self.sent.pop_front();
        }
        self.sent.len() < self.limit
    }

    /// When there is room; `None` if there is by now.
    fn room_at(&self) -> Option<Instant> {
        let in_the_way = self.sent.len().checked_sub(self.limit)?;
        Some(self.sent[in_the_way] + self.window)
    }

    fn on_sent(&mut self, now: Instant) {
        if self.sent.len() >= self.capacity {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
    }

    fn clear(&mut self) {
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests;
