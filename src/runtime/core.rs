//! One core: its loop, its shards, its clients. Everything that happens here happens on one pinned thread.
//!
//! A turn: enter the kernel once, hand what arrived to the state machines, do what they ask, pump clients whose shard has
//! something new, sleep. It decides nothing about sessions; it owns tokens, timers and buffers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tracing::{debug, error, info, warn};

use super::client::{Blocked, Client, HandOver, OUTBOX_BYTES_MAX, Phase, Request, Seated};
use super::conns::{Conn, Conns};
use super::link::{Link, LinkEvent, Scratch};
use super::mesh::{CoreReport, CoreSender, ToControl, ToCore};
use super::net::{Event, Net, Token};
use super::placement::Placement;
use super::{clock, sys};
use crate::session::client::{Conversation, Rules, Step};
use crate::shard::Action;
use crate::shard::group::Group;
use crate::shard::seat::{Pumped, SeatKey};
use crate::wire::{CloseCode, Compression, ShardId};

/// A client whose socket took no byte for this long while its outbox was full is closed; its session waits for RESUME.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// How often blocked clients are looked at and logs are trimmed by age.
const TICK: Duration = Duration::from_secs(1);
/// After our close frame the other side has this long to read what was sent.
const LINGER: Duration = Duration::from_secs(2);
/// Connections of clients on one core, identified or not. When full, the newest is closed at once.
pub const CLIENTS_MAX: usize = 16_384;
/// A page's reader that takes no byte for this long is given up.
const PAGE_SEND_MAX: Duration = Duration::from_secs(5);
/// The kernel's send buffer of one client: with the outbox it bounds what a client that stops reading can hold.
const CLIENT_SEND_BUFFER_BYTES: i32 = 256 * 1024;

/// What all cores share and never change.
pub struct Shared {
    pub rules: Rules,
    pub placement: Placement,
    pub upstream_compression: Compression,
    pub allow_compression: bool,
    pub tls: Arc<ClientConfig>,
    pub backend: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Tick,
    Shard(usize),
    Client(Token),
}

/// One shard's place on this core. `clients` is sorted by nothing; a shard has few.
#[derive(Default)]
struct Place {
    link: Option<Link>,
    clients: Vec<(SeatKey, Token)>,
    /// Its clients must be pumped before the turn ends.
    dirty: bool,
    armed: Option<Instant>,
}

struct Draining {
    until: Instant,
}

pub struct Core<N: Net> {
    index: usize,
    net: N,
    shared: Arc<Shared>,
    group: Group,
    places: Vec<Place>,
    dirty: Vec<usize>,
    conns: Conns,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    mail: mpsc::Receiver<ToCore>,
    control: mpsc::Sender<ToControl>,
    peers: Vec<CoreSender>,
    scratch: Scratch,
    rng: fastrand::Rng,
    draining: Option<Draining>,
}

/// Whether a client's connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Gone,
}

/// What a core is made of. The channel ends come from `runtime::start`.
pub struct Parts<N: Net> {
    pub index: usize,
    pub net: N,
    pub shared: Arc<Shared>,
    pub group: Group,
    pub mail: mpsc::Receiver<ToCore>,
    pub control: mpsc::Sender<ToControl>,
    pub peers: Vec<CoreSender>,
    pub seed: u64,
}

impl<N: Net> Core<N> {
    pub fn new(parts: Parts<N>) -> Self {
        let places = parts.group.shards.iter().map(|_| Place::default()).collect();
        Self {
            index: parts.index,
            net: parts.net,
            shared: parts.shared,
            group: parts.group,
            places,
            dirty: Vec::new(),
            conns: Conns::default(),
            timers: BinaryHeap::new(),
            mail: parts.mail,
            control: parts.control,
            peers: parts.peers,
            scratch: Scratch::default(),
            rng: fastrand::Rng::with_seed(parts.seed),
            draining: None,
        }
    }

    /// Runs until drained.
    pub fn run(mut self) -> io::Result<()> {
        let now = clock::now();
        self.timers.push(Reverse((now + TICK, Timer::Tick)));
        for at in 0..self.places.len() {
            self.on_shard_timeout(now, at);
        }
        loop {
            let timeout = self.timers.peek().map(|Reverse((due, _))| due.saturating_duration_since(clock::now()));
            self.net.turn(timeout)?;
            let now = clock::now();
            while let Some(event) = self.net.next() {
                self.on_event(now, event);
            }
            self.run_timers(now);
            self.pump_dirty(now);
            if let Some(draining) = &self.draining
                && (self.net.is_empty() || now >= draining.until)
            {
                let _ = self.control.send(ToControl::Drained { core: self.index });
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted(socket) => self.on_accepted(now, socket),
            Event::Connected(token) => self.on_connected(now, token),
            Event::Read(token, chunk) => match self.conns.get(token) {
                Some(Conn::Shard(at)) => {
                    let at = *at;
                    self.on_link_bytes(now, at, &chunk);
                }
                Some(Conn::Client(_)) => {
                    self.with_client(token, |core, client| core.on_client_bytes(now, token, client, &chunk))
                }
                None => {}
            },
            Event::Drained(token) => self.with_client(token, |core, client| {
                client.blocked = None;
                core.pump(now, token, client)
            }),
            Event::Closed(token, error) => self.on_socket_closed(now, token, error),
            Event::Released(token, socket, unsent) => self.on_released(token, socket, unsent),
            Event::Mail => {
                while let Ok(message) = self.mail.try_recv() {
                    self.on_mail(now, message);
                }
            }
        }
    }

    fn on_mail(&mut self, now: Instant, message: ToCore) {
        match message {
            ToCore::HandOver(hand_over) => self.on_hand_over(now, *hand_over),
            ToCore::IdentifyTurn { shard, not_before } => {
                if let Some(at) = self.place_of(shard) {
                    self.group.shards[at].on_turn(now, not_before);
                    self.run_actions(now, at);
                }
            }
            ToCore::Resolved { shard, addresses } => {
                if let Some(at) = self.place_of(shard) {
                    self.on_resolved(now, at, addresses);
                }
            }
            ToCore::Report(reply) => {
                let report = CoreReport {
                    core: self.index,
                    backend: self.shared.backend,
                    greeting: self.conns.greeting(),
                    log_dropped_early: self.group.dropped_early(),
                    shards: self.group.shards.iter().map(|it| it.report(now)).collect(),
                };
                // Whoever asked may have given up waiting.
                let _ = reply.send(report);
            }
            ToCore::Drain { upstream_close, within } => self.drain(now, upstream_close, within),
        }
    }

    // ---- timers

    fn run_timers(&mut self, now: Instant) {
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Tick => {
                    self.on_tick(now);
                    self.timers.push(Reverse((now + TICK, Timer::Tick)));
                }
                Timer::Shard(at) => {
                    self.places[at].armed = None;
                    self.on_shard_timeout(now, at);
                }
                Timer::Client(token) => self.with_client(token, |core, client| {
                    client.armed = None;
                    core.on_client_timeout(now, token, client)
                }),
            }
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.group.trim_by_age(now);
        for token in self.conns.blocked() {
            self.with_client(token, |core, client| core.on_blocked_tick(now, token, client));
        }
    }

    fn arm_shard(&mut self, at: usize) {
        let Some(due) = self.group.shards[at].due() else { return };
        let place = &mut self.places[at];
        if place.armed.is_none_or(|armed| due < armed) {
            place.armed = Some(due);
            self.timers.push(Reverse((due, Timer::Shard(at))));
        }
    }

    fn arm_client(&mut self, token: Token, client: &mut Client) {
        let Some(due) = client.due() else { return };
        if client.armed.is_none_or(|armed| due < armed) {
            client.armed = Some(due);
            self.timers.push(Reverse((due, Timer::Client(token))));
        }
    }

    // ---- Discord's side

    fn place_of(&self, shard: ShardId) -> Option<usize> {
        self.shared.placement.place(shard.0).filter(|(core, _)| *core == self.index).map(|(_, at)| at)
    }

    fn shard_id(&self, at: usize) -> ShardId {
        self.shared.placement.shard(self.index, at)
    }

    fn on_shard_timeout(&mut self, now: Instant, at: usize) {
        self.group.shards[at].on_timeout(now);
        self.run_actions(now, at);
    }

    /// Does what the shard asks, then sets its timer and notes that its clients want to be pumped.
    fn run_actions(&mut self, now: Instant, at: usize) {
        while let Some(action) = self.group.shards[at].poll(now) {
            let shard = self.shard_id(at);
            match action {
                Action::Connect(url) => self.connect(now, at, &url),
                Action::Send(payload) => {
                    self.with_link(now, at, |link, scratch, out| link.send(&payload, scratch, out))
                }
                Action::Close(code) => {
                    self.with_link(now, at, |link, scratch, out| link.close(code, scratch, out));
                    self.drop_link(at, LINGER);
                }
                Action::IdentifyWanted => self.tell_control(ToControl::IdentifyWanted { shard }),
                Action::IdentifySent => {
                    info!(shard = shard.0, "IDENTIFY sent");
                    self.tell_control(ToControl::IdentifySent { shard, at: now });
                }
                Action::IdentifyReturned => self.tell_control(ToControl::IdentifyReturned { shard }),
                Action::InvalidSession(key) => self.tell_invalid_session(now, at, key),
                Action::Disconnect(key, code) => self.disconnect(at, key, code),
                Action::Stopped(code) => {
                    error!(
                        shard = shard.0,
                        code = code.0,
                        "Discord refused this shard for good: {}. It stays closed until shardgate is restarted",
                        fatal_reason(code)
                    );
                }
            }
        }
        self.mark_dirty(at);
        self.arm_shard(at);
    }

    fn mark_dirty(&mut self, at: usize) {
        if !self.places[at].dirty {
            self.places[at].dirty = true;
            self.dirty.push(at);
        }
    }

    fn tell_control(&self, message: ToControl) {
        // The control thread only ends after the cores.
        let _ = self.control.send(message);
    }

    fn connect(&mut self, now: Instant, at: usize, url: &str) {
        let shard = self.shard_id(at);
        self.drop_link(at, Duration::ZERO);
        match Link::new(url, self.shared.upstream_compression, &self.shared.tls, self.rng.u64(..)) {
            Err(error) => {
                warn!(shard = shard.0, url, "cannot connect: {error}");
                self.group.shards[at].on_closed(now, None);
            }
            Ok(mut link) => {
                let (host, port) = (link.url.host.clone(), link.url.port);
                debug!(shard = shard.0, host, "connecting");
                match host.parse::<IpAddr>() {
                    Ok(address) => {
                        link.on_resolved(vec![SocketAddr::new(address, port)]);
                        self.places[at].link = Some(link);
                        self.connect_next(now, at);
                    }
                    Err(_) => {
                        self.places[at].link = Some(link);
                        self.tell_control(ToControl::Resolve { shard, host, port });
                    }
                }
            }
        }
    }

    fn on_resolved(&mut self, now: Instant, at: usize, addresses: Result<Vec<SocketAddr>, String>) {
        let Some(link) = self.places[at].link.as_mut().filter(|it| it.token.is_none() && it.is_connecting()) else {
            return;
        };
        match addresses {
            Ok(addresses) => {
                link.on_resolved(addresses);
                self.connect_next(now, at);
            }
            Err(error) => {
                warn!(shard = self.shard_id(at).0, "{error}");
                self.lose_link(now, at, None);
            }
        }
    }

    /// Tries the next address of the link's host.
    fn connect_next(&mut self, now: Instant, at: usize) {
        let Some(link) = &mut self.places[at].link else { return };
        while let Some(address) = link.next_address() {
            match self.net.connect(address) {
                Ok(token) => {
                    link.token = Some(token);
                    self.conns.insert(token, Conn::Shard(at));
                    return;
                }
                Err(error) => {
                    warn!(shard = self.shared.placement.shard(self.index, at).0, %address, "connect: {error}")
                }
            }
        }
        self.lose_link(now, at, None);
    }

    fn on_connected(&mut self, now: Instant, token: Token) {
        let Some(Conn::Shard(at)) = self.conns.get(token) else { return };
        let at = *at;
        self.with_link(now, at, |link, _, out| link.on_connected(out));
    }

    fn on_link_bytes(&mut self, now: Instant, at: usize, bytes: &[u8]) {
        let Place { link: Some(link), .. } = &mut self.places[at] else { return };
        let Some(token) = link.token else { return };
        let shard = &mut self.group.shards[at];
        let id = self.shared.placement.shard(self.index, at).0;
        let mut closed = None;
        let result = link.on_bytes(bytes, &mut self.scratch, self.net.queue(token), &mut |event| match event {
            LinkEvent::Open => shard.on_open(now),
            LinkEvent::Payload(payload) => {
                if let Err(error) = shard.on_payload(now, payload) {
                    warn!(shard = id, len = payload.len(), "Discord sent a payload that is not JSON: {error}");
                }
            }
            LinkEvent::Close(code) => closed = Some(code),
        });
        if let Some(code) = closed {
            info!(shard = id, code = code.map_or(0, |it| it.0), "Discord closed the connection");
            self.with_link(now, at, |link, scratch, out| link.close(code.unwrap_or(CloseCode::NORMAL), scratch, out));
            self.drop_link(at, LINGER);
            self.group.shards[at].on_closed(now, code);
        } else if let Err(error) = result {
            warn!(shard = id, "the connection to Discord broke: {error}");
            self.lose_link(now, at, None);
        }
        self.run_actions(now, at);
    }

    /// Lets `f` write to Discord. A failure costs the connection, not the session.
    fn with_link(
        &mut self,
        now: Instant,
        at: usize,
        f: impl FnOnce(&mut Link, &mut Scratch, &mut Vec<u8>) -> Result<(), super::link::LinkError>,
    ) {
        let Some(link) = &mut self.places[at].link else { return };
        let Some(token) = link.token else { return };
        if let Err(error) = f(link, &mut self.scratch, self.net.queue(token)) {
            warn!(shard = self.shard_id(at).0, "the connection to Discord broke: {error}");
            self.lose_link(now, at, None);
        }
    }

    fn drop_link(&mut self, at: usize, linger: Duration) {
        if let Some(link) = self.places[at].link.take()
            && let Some(token) = link.token
        {
            self.conns.remove(token);
            self.net.close(token, linger);
        }
    }

    /// The connection is gone: the shard decides what comes next.
    fn lose_link(&mut self, now: Instant, at: usize, code: Option<CloseCode>) {
        self.drop_link(at, Duration::ZERO);
        self.group.shards[at].on_closed(now, code);
        self.arm_shard(at);
    }

    fn on_socket_closed(&mut self, now: Instant, token: Token, error: Option<io::Error>) {
        match self.conns.remove(token) {
            Some(Conn::Shard(at)) => {
                let shard = self.shard_id(at).0;
                let Some(link) = &mut self.places[at].link else { return };
                link.token = None;
                let reason = error.map_or_else(|| "end of stream".to_owned(), |it| it.to_string());
                if link.is_connecting() {
                    warn!(shard, host = link.url.host, "cannot connect: {reason}");
                    self.connect_next(now, at);
                } else {
                    info!(shard, "the connection to Discord ended: {reason}");
                    self.lose_link(now, at, None);
                }
                self.run_actions(now, at);
            }
            Some(Conn::Client(client)) => {
                if let Some(seated) = client.seated {
                    self.unseat(now, seated, false);
                }
            }
            None => {}
        }
    }

    // ---- clients

    fn on_accepted(&mut self, now: Instant, socket: OwnedFd) {
        if self.draining.is_some() || self.conns.clients_len() >= CLIENTS_MAX {
            return;
        }
        sys::set_send_buffer(socket.as_fd(), CLIENT_SEND_BUFFER_BYTES);
        match self.net.add(socket) {
            Ok(token) => {
                let mut client = Box::new(Client::new(now));
                self.arm_client(token, &mut client);
                self.conns.insert(token, Conn::Client(client));
            }
            Err(error) => warn!("cannot take a new connection: {error}"),
        }
    }

    /// Takes the client out of the table while `f` works on it, so that both can be reached.
    fn with_client(&mut self, token: Token, f: impl FnOnce(&mut Self, &mut Client) -> Fate) {
        let Some(mut client) = self.conns.take_client(token) else { return };
        match f(self, &mut client) {
            Fate::Stays => self.conns.put_back(token, client),
            Fate::Gone => self.conns.give_up(token),
        }
    }

    fn on_client_bytes(&mut self, now: Instant, token: Token, client: &mut Client, bytes: &[u8]) -> Fate {
        match &mut client.phase {
            Phase::Http(head) => {
                head.extend_from_slice(bytes);
                let head = std::mem::take(head);
                self.on_http(now, token, client, head)
            }
            Phase::Open => {
                let fate = self.on_frames(now, token, client, bytes);
                if fate == Fate::Stays {
                    self.arm_client(token, client);
                }
                fate
            }
            Phase::Moving { unread, .. } => {
                if unread.len() + bytes.len() > super::client::UNREAD_BYTES_MAX {
                    return self.dismiss(now, token, client, CloseCode::DECODE_ERROR, "Too much before the session.");
                }
                unread.extend_from_slice(bytes);
                Fate::Stays
            }
            Phase::Page(_) => Fate::Stays,
        }
    }

    fn on_http(&mut self, now: Instant, token: Token, client: &mut Client, head: Vec<u8>) -> Fate {
        use crate::wire::http::{Encoding, Request as Http, parse_request, upgrade_response};
        match parse_request(&head) {
            Ok(None) => {
                client.phase = Phase::Http(head);
                Fate::Stays
            }
            Ok(Some((Http::Plain(request), _))) => {
                client.phase = Phase::Page(request);
                self.net.release(token);
                Fate::Stays
            }
            Ok(Some((Http::Upgrade(upgrade), consumed))) => {
                self.net.queue(token).extend_from_slice(&upgrade_response(&upgrade));
                client.conversation = Conversation::new(now);
                if upgrade.encoding != Encoding::Json {
                    let reason = "encoding=etf is not supported by shardgate: use encoding=json.";
                    return self.dismiss(now, token, client, CloseCode::DECODE_ERROR, reason);
                }
                if upgrade.version.is_some_and(|it| !matches!(it, 6..=10)) {
                    return self.dismiss(now, token, client, CloseCode::INVALID_API_VERSION, "Invalid API version.");
                }
                let compression = if self.shared.allow_compression { upgrade.compress } else { Compression::None };
                client.open(compression, self.net.queue(token));
                let fate = self.on_frames(now, token, client, &head[consumed..]);
                if fate == Fate::Stays {
                    self.arm_client(token, client);
                }
                fate
            }
            Err(error) => {
                self.net.queue(token).extend_from_slice(&error.response());
                self.net.close(token, LINGER);
                Fate::Gone
            }
        }
    }

    fn on_frames(&mut self, now: Instant, token: Token, client: &mut Client, mut bytes: &[u8]) -> Fate {
        use crate::wire::deframe::Message;
        use crate::wire::frame::{Opcode, write_frame};
        loop {
            let Client { deframer, conversation, .. } = client;
            let message = match deframer.next(&mut bytes) {
                Ok(Some(message)) => message,
                Ok(None) => return Fate::Stays,
                Err(error) => {
                    let code = error.close_code();
                    return self.dismiss(now, token, client, code, &error.to_string());
                }
            };
            let step = match message {
                Message::Text(payload) | Message::Binary(payload) => {
                    conversation.on_payload(now, payload, &self.shared.rules)
                }
                Message::Ping(data) => {
                    if self.net.pending(token) > OUTBOX_BYTES_MAX {
                        // It pings without reading the answers.
                        return self.dismiss(now, token, client, CloseCode::RATE_LIMITED, "Rate limited.");
                    }
                    write_frame(self.net.queue(token), Opcode::Pong, data, None);
                    continue;
                }
                Message::Pong(_) => continue,
                Message::Close { code, .. } => {
                    let ended = code.is_some_and(CloseCode::ends_session);
                    if let Some(seated) = client.seated.take() {
                        self.unseat(now, seated, ended);
                    }
                    Client::say_goodbye(code.unwrap_or(CloseCode::NORMAL), "", self.net.queue(token));
                    self.net.close(token, LINGER);
                    return Fate::Gone;
                }
            };
            match step {
                Step::Ignore => {}
                Step::Command(command) => {
                    let Some(seated) = client.seated else { continue };
                    if let Err(refused) = self.group.shards[seated.shard].on_command(now, seated.key, command) {
                        return self.dismiss(now, token, client, refused.close_code(), refused.reason());
                    }
                    self.run_actions(now, seated.shard);
                }
                Step::Ack => client.acknowledge(self.net.queue(token)),
                Step::Close(code, reason) => return self.dismiss(now, token, client, code, reason),
                Step::Identify(identify) => {
                    let shard = identify.shard_or_default()[0];
                    if self.seat_or_move(now, token, client, shard, Request::Identify(identify), &mut bytes)
                        == Fate::Gone
                    {
                        return Fate::Gone;
                    }
                }
                Step::Resume(resume) => {
                    let shard = crate::shard::shard_of_session(&resume.session_id);
                    let Some(shard) = shard.filter(|it| self.shared.placement.place(*it).is_some()) else {
                        client.tell_invalid_session(self.net.queue(token));
                        client.conversation.on_invalid_session(now);
                        continue;
                    };
                    if self.seat_or_move(now, token, client, shard, Request::Resume(resume), &mut bytes) == Fate::Gone {
                        return Fate::Gone;
                    }
                }
            }
        }
    }

    /// Seats the client at its shard here, or begins to move it to the shard's core with all that it sent behind (`bytes` is used up then).
    fn seat_or_move(
        &mut self,
        now: Instant,
        token: Token,
        client: &mut Client,
        shard: u32,
        request: Request,
        bytes: &mut &[u8],
    ) -> Fate {
        match self.shared.placement.place(shard) {
            None => self.dismiss(now, token, client, CloseCode::INVALID_SHARD, "Invalid shard."),
            Some((core, at)) if core == self.index => self.seat(now, token, client, at, request),
            Some((core, _)) => {
                let unread = std::mem::take(bytes).to_vec();
                client.phase = Phase::Moving { request, to_core: core, unread };
                self.net.release(token);
                Fate::Stays
            }
        }
    }

    fn seat(&mut self, now: Instant, token: Token, client: &mut Client, at: usize, request: Request) -> Fate {
        let shard = &mut self.group.shards[at];
        let id = self.shared.placement.shard(self.index, at).0;
        let key = match request {
            Request::Identify(identify) => {
                let mut entropy = [0; 12];
                if getrandom::fill(&mut entropy).is_err() {
                    return self.dismiss(
                        now,
                        token,
                        client,
                        CloseCode::UNKNOWN_ERROR,
                        "No randomness for a session id.",
                    );
                }
                let Some(key) = shard.identify(&identify, entropy) else {
                    return self.dismiss(
                        now,
                        token,
                        client,
                        CloseCode::RATE_LIMITED,
                        "Too many sessions on this shard.",
                    );
                };
                info!(shard = id, session = shard.session_id(key).unwrap_or(""), "client identified");
                key
            }
            Request::Resume(resume) => match shard.resume(&resume) {
                Ok(key) => {
                    info!(shard = id, session = resume.session_id, seq = resume.seq, "client resumed");
                    key
                }
                Err(crate::shard::ResumeRefused::InvalidSeq) => {
                    return self.dismiss(now, token, client, CloseCode::INVALID_SEQ, "Invalid seq.");
                }
                Err(crate::shard::ResumeRefused::InvalidSession) => {
                    info!(
                        shard = id,
                        session = resume.session_id,
                        seq = resume.seq,
                        "client's session is unknown or its events are gone: op 9"
                    );
                    client.tell_invalid_session(self.net.queue(token));
                    client.conversation.on_invalid_session(now);
                    self.run_actions(now, at);
                    return Fate::Stays;
                }
            },
        };
        client.seated = Some(Seated { shard: at, key });
        client.conversation.on_identified(now);
        // A connection that still held the session loses it to this one.
        if let Some(place) = self.places[at].clients.iter_mut().find(|it| it.0 == key) {
            let old = std::mem::replace(&mut place.1, token);
            self.close_unseated(old, CloseCode::UNKNOWN_ERROR, "Resumed elsewhere.");
        } else {
            self.places[at].clients.push((key, token));
        }
        self.mark_dirty(at);
        Fate::Stays
    }

    fn on_released(&mut self, token: Token, socket: OwnedFd, unsent: Vec<u8>) {
        let Some(Conn::Client(mut client)) = self.conns.remove(token) else { return };
        match std::mem::replace(&mut client.phase, Phase::Open) {
            Phase::Page(request) => match sys::into_blocking(socket, PAGE_SEND_MAX) {
                Ok(socket) => self.tell_control(ToControl::Page { socket, request }),
                Err(error) => debug!("cannot answer a page: {error}"),
            },
            Phase::Moving { request, to_core, unread } => {
                client.armed = None;
                let hand_over = HandOver { socket, client: *client, request, unread, unsent };
                self.peers[to_core].send(ToCore::HandOver(Box::new(hand_over)));
            }
            Phase::Http(_) | Phase::Open => {}
        }
    }

    fn on_hand_over(&mut self, now: Instant, hand_over: HandOver) {
        let HandOver { socket, client, request, unread, unsent } = hand_over;
        if self.draining.is_some() {
            return;
        }
        let token = match self.net.add(socket) {
            Ok(token) => token,
            Err(error) => return warn!("cannot take a client from another core: {error}"),
        };
        self.net.queue(token).extend_from_slice(&unsent);
        self.conns.insert(token, Conn::Client(Box::new(client)));
        let shard = match &request {
            Request::Identify(identify) => identify.shard_or_default()[0],
            Request::Resume(resume) => crate::shard::shard_of_session(&resume.session_id).unwrap_or(u32::MAX),
        };
        self.with_client(token, |core, client| {
            let fate = core.seat_or_move(now, token, client, shard, request, &mut &b""[..]);
            if fate == Fate::Gone {
                return fate;
            }
            let fate = core.on_frames(now, token, client, &unread);
            if fate == Fate::Stays {
                core.arm_client(token, client);
            }
            fate
        });
    }

    fn on_client_timeout(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        if let Phase::Http(_) | Phase::Page(_) = client.phase {
            if client.due().is_some_and(|due| now >= due) {
                self.net.close(token, Duration::ZERO);
                return Fate::Gone;
            }
        } else if let Some(Step::Close(code, reason)) = client.conversation.on_timeout(now) {
            return self.dismiss(now, token, client, code, reason);
        }
        self.arm_client(token, client);
        Fate::Stays
    }

    fn pump_dirty(&mut self, now: Instant) {
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
        if self.dirty.is_empty() {
            let mut dirty = dirty;
            dirty.clear();
            self.dirty = dirty;
        }
        self.group.trim_to_budget();
    }

    fn pump(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        let Some(Seated { shard, key }) = client.seated else { return Fate::Stays };
        let room = OUTBOX_BYTES_MAX.saturating_sub(self.net.pending(token));
        if room == 0 {
            self.note_blocked(now, token, client);
            return Fate::Stays;
        }
        match self.group.shards[shard].pump(key, &mut client.encoder, self.net.queue(token), room) {
            Pumped::Current => Fate::Stays,
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

    fn note_blocked(&mut self, now: Instant, token: Token, client: &mut Client) {
        if client.blocked.is_none() {
            client.blocked = Some(Blocked { since: now, pending: usize::MAX });
            self.conns.note_blocked(token);
        }
    }

    /// Once a second for a client with a full outbox: has its socket taken anything?
    fn on_blocked_tick(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        let (Some(blocked), Some(Seated { shard, key })) = (client.blocked, client.seated) else { return Fate::Stays };
        let pending = self.net.pending(token);
        if pending == 0 {
            client.blocked = None;
            return self.pump(now, token, client);
        }
        if pending < blocked.pending {
            client.blocked = Some(Blocked { since: now, pending });
        } else if now.saturating_duration_since(blocked.since) >= STALL_MAX || self.group.is_endangered(shard, key) {
            let lag = self.group.shards[shard].lag_bytes(key);
            warn!(
                shard = self.shard_id(shard).0,
                lag_bytes = lag,
                "a client does not read: closed, its session waits for RESUME"
            );
            client.seated = None;
            self.places[shard].clients.retain(|it| it.0 != key);
            self.group.shards[shard].on_lagging(now, key);
            Client::say_goodbye(CloseCode::UNKNOWN_ERROR, "Too slow.", self.net.queue(token));
            // It does not read: waiting for it to take the rest would only hold memory.
            self.net.close(token, Duration::ZERO);
            return Fate::Gone;
        }
        Fate::Stays
    }

    /// Closes with one of Discord's codes; the session stays for RESUME.
    fn dismiss(&mut self, now: Instant, token: Token, client: &mut Client, code: CloseCode, reason: &str) -> Fate {
        debug!(code = code.0, reason, "client dismissed");
        if let Some(seated) = client.seated.take() {
            self.unseat(now, seated, false);
        }
        Client::say_goodbye(code, reason, self.net.queue(token));
        self.net.close(token, LINGER);
        Fate::Gone
    }

    fn unseat(&mut self, now: Instant, seated: Seated, ended: bool) {
        self.places[seated.shard].clients.retain(|it| it.0 != seated.key);
        self.group.shards[seated.shard].leave(now, seated.key, ended);
    }

    /// Closes a client that has lost its seat already.
    fn close_unseated(&mut self, token: Token, code: CloseCode, reason: &str) {
        if let Some(Conn::Client(_)) = self.conns.remove(token) {
            Client::say_goodbye(code, reason, self.net.queue(token));
            self.net.close(token, LINGER);
        }
    }

    fn disconnect(&mut self, at: usize, key: SeatKey, code: CloseCode) {
        let Some(n) = self.places[at].clients.iter().position(|it| it.0 == key) else { return };
        let (_, token) = self.places[at].clients.swap_remove(n);
        self.close_unseated(token, code, "");
    }

    fn tell_invalid_session(&mut self, now: Instant, at: usize, key: SeatKey) {
        let Some(n) = self.places[at].clients.iter().position(|it| it.0 == key) else { return };
        let (_, token) = self.places[at].clients.swap_remove(n);
        self.with_client(token, |core, client| {
            client.seated = None;
            client.blocked = None;
            client.tell_invalid_session(core.net.queue(token));
            client.conversation.on_invalid_session(now);
            core.arm_client(token, client);
            Fate::Stays
        });
    }

    // ---- the end

    fn drain(&mut self, now: Instant, upstream_close: CloseCode, within: Duration) {
        self.net.stop_listening();
        for token in self.conns.clients() {
            self.with_client(token, |core, client| {
                if core.pump(now, token, client) == Fate::Gone {
                    return Fate::Gone;
                }
                match client.phase {
                    Phase::Open => core.dismiss(now, token, client, CloseCode::UNKNOWN_ERROR, "The proxy restarts."),
                    _ => {
                        core.net.close(token, Duration::ZERO);
                        Fate::Gone
                    }
                }
            });
        }
        for at in 0..self.places.len() {
            self.group.shards[at].shut_down(upstream_close);
            self.run_actions(now, at);
        }
        self.draining = Some(Draining { until: now + within });
        self.timers.push(Reverse((now + within, Timer::Tick)));
    }
}

/// What the operator should know about a fatal close code.
fn fatal_reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::AUTHENTICATION_FAILED => "the token is wrong",
        CloseCode::INVALID_SHARD => {
            "shard number or count is invalid (large bots need a multiple of the number that Discord assigned)"
        }
        CloseCode::SHARDING_REQUIRED => "this shard would hold more than 2,500 guilds, so more shards are needed",
        CloseCode::INVALID_API_VERSION => "the API version is not served any more",
        CloseCode::INVALID_INTENTS => "`intents` holds unknown bits",
        CloseCode::DISALLOWED_INTENTS => "`intents` holds privileged bits that are not enabled for this application",
        _ => "the close code is fatal",
    }
}
