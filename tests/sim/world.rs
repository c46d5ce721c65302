//! The stage: one shard, one Discord, some clients, and what goes wrong between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use shardgate::cache::{CacheFlags, Shapes};
use shardgate::session::identify::IdentifyQueue;
use shardgate::session::payload::{self, ClientPayload, Identify, Resume, Token};
use shardgate::session::upstream::{Status, UpstreamSettings};
use shardgate::shard::group::{Group, LogBudget};
use shardgate::shard::seat::{Pumped, SeatKey};
use shardgate::shard::{Action, ResumeRefused, Shard, ShardSettings};
use shardgate::wire::{CloseCode, Compression, ShardId};

use crate::client::Client;
use crate::discord::{Discord, GUILDS, Out};
use crate::neighbour::Neighbour;

const CLIENTS: usize = 3;
/// Trouble until here, then peace, in which everything must come right.
const TROUBLE_ENDS: Duration = Duration::from_secs(180);
const TRAFFIC_ENDS: Duration = Duration::from_secs(240);
/// Clients that are away come back here at the latest.
const RETURN_AT: Duration = Duration::from_secs(360);
const END: Duration = Duration::from_secs(480);

/// How long Discord answers every RESUME and IDENTIFY with op 9, when it does.
const STORM_MAX: Duration = Duration::from_secs(40);

/// What happens at a moment. `usize`: the number of a connection; what belongs to an old one is void.
#[derive(Debug)]
enum Happening {
    Opened(usize),
    Lost(usize, Option<CloseCode>),
    ToProxy(usize, Vec<u8>),
    ToDiscord(usize, Vec<u8>),
    Turn(Instant),
    Traffic,
    Trouble,
    Client(usize),
    Return(usize),
    /// Nothing but a turn.
    Wake,
}

#[derive(Debug, Default)]
pub struct Totals {
    pub dispatches: u64,
    pub client_resumes: u64,
    pub upstream_resumes: u64,
    pub op9_by_discord: u64,
    pub fell_off: u64,
    pub chunks: u64,
    pub takeovers: u64,
    pub storms: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.dispatches += other.dispatches;
        self.client_resumes += other.client_resumes;
        self.upstream_resumes += other.upstream_resumes;
        self.op9_by_discord += other.op9_by_discord;
        self.fell_off += other.fell_off;
        self.chunks += other.chunks;
        self.takeovers += other.takeovers;
        self.storms += other.storms;
    }
}

pub struct World {
    rng: Rng,
    chatty: bool,
    origin: Instant,
    now: Duration,
    /// By time and order of arrival.
    agenda: BTreeMap<(Duration, u64), Happening>,
    next: u64,
    group: Group,
    queue: IdentifyQueue,
    discord: Discord,
    /// The connection that the proxy holds; odd ends of older ones are void.
    connection: usize,
    /// The proxy's side of it is closed.
    proxy_closed: bool,
    /// What was sent last in each direction arrives no earlier than what was sent before it.
    arrival: [Duration; 2],
    half_open: bool,
    clients: Vec<Client>,
    /// READYs of Discord so far.
    epoch: u64,
    /// The number of the last message that the proxy has received in this session of Discord's.
    last_message: Option<u64>,
    tight: bool,
    /// Seats whose connection a client has left for a new one that could not RESUME them.
    abandoned: Vec<SeatKey>,
    neighbour: Neighbour,
    totals: Totals,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the origin of a clock that is never read again")]
    pub fn new(seed: u64, chatty: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let origin = Instant::now();
        let tight = rng.u8(..4) == 0;
        let budget = LogBudget {
            bytes: if tight { 8 * 1024 } else { 64 << 20 },
            keep: Duration::from_secs(if tight { 60 } else { 3600 }),
        };
        let settings = |shard| ShardSettings {
            upstream: UpstreamSettings {
                shard: ShardId(shard),
                shard_count: 2,
                token: "secret".to_owned(),
                intents: 1,
                presence: None,
                gateway_url: "ws://gateway.invalid".to_owned(),
                compression: Compression::None,
            },
            cache: CacheFlags::default(),
            externally_accessible_url: "ws://localhost:7878".to_owned(),
        };
        let shards = (0..2).map(|it| Shard::new(settings(it), Shapes::default(), rng.u64(..), origin)).collect();
        let mut group = Group::new(shards, budget);
        let mut world = Self {
            chatty,
            origin,
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            next: 0,
            queue: IdentifyQueue::new(1, 1000, 1000, Duration::from_secs(86_400), origin),
            discord: Discord::new(),
            connection: 0,
            proxy_closed: true,
            arrival: [Duration::ZERO; 2],
            half_open: false,
            clients: (0..CLIENTS).map(Client::new).collect(),
            epoch: 0,
            last_message: None,
            tight,
            abandoned: Vec::new(),
            neighbour: Neighbour::begin(&mut group.shards[1], origin),
            group,
            totals: Totals::default(),
            rng,
        };
        world.at(Duration::from_secs(1), Happening::Traffic);
        world.at(Duration::from_secs(8), Happening::Trouble);
        for client in 0..CLIENTS {
            let first = world.millis(0..20_000);
            world.at(first, Happening::Client(client));
            world.at(RETURN_AT, Happening::Return(client));
        }
        world
    }

    pub fn run(mut self) -> Totals {
        self.turn();
        while self.now < END {
            let next = self.agenda.first_key_value().map_or(END, |(key, _)| key.0);
            let shard = self.group.shards.iter().filter_map(Shard::due).min();
            let shard = shard.map_or(END, |it| it.saturating_duration_since(self.origin));
            let queue = self.queue.due().map_or(END, |it| it.saturating_duration_since(self.origin));
            self.now = self.now.max(next.min(shard).min(queue).min(END));
            if next <= self.now
                && let Some((_, happening)) = self.agenda.pop_first()
            {
                self.happen(happening);
            }
            let instant = self.instant();
            for shard in &mut self.group.shards {
                if shard.due().is_some_and(|it| it <= instant) {
                    shard.on_timeout(instant);
                }
            }
            self.turn();
        }
        self.check_the_end();
        let report = self.group.shards[0].report(self.instant());
        self.totals.client_resumes = report.resumes;
        self.totals.upstream_resumes = report.upstream_resumes;
        self.totals.dispatches = self.clients.iter().map(|it| it.seen).sum();
        self.totals.chunks = self.clients.iter().map(|it| it.chunks).sum();
        self.totals
    }

    fn check_the_end(&mut self) {
        assert_eq!(self.group.shards[0].status(), Status::Active, "the shard did not recover");
        assert!(self.abandoned.is_empty(), "{:?} are still held open", self.abandoned);
        assert!(self.discord.identifies <= self.discord.sessions_taken, "an IDENTIFY was wasted");
        for client in &self.clients {
            assert!(client.has_snapshot(), "client {} has no state", client.number);
            assert_eq!(client.versions, self.discord.versions.map(Some), "client {} knows old guilds", client.number);
            assert!(client.seat.is_some(), "client {} has no seat", client.number);
            assert!(!client.resuming, "client {}'s RESUME was not answered", client.number);
            if let Some(last) = client.last_message {
                assert_eq!(last, self.discord.messages, "client {} misses messages", client.number);
            }
        }
    }

    // ---- the clock

    fn instant(&self) -> Instant {
        self.origin + self.now
    }

    fn at(&mut self, time: Duration, happening: Happening) {
        self.next += 1;
        self.agenda.insert((time.max(self.now), self.next), happening);
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.chatty {
            println!("{:>9.3} {}", self.now.as_secs_f64(), what());
        }
    }

    fn troubled(&self) -> bool {
        self.now < TROUBLE_ENDS
    }

    // ---- what happens

    fn happen(&mut self, happening: Happening) {
        let instant = self.instant();
        match happening {
            Happening::Opened(connection) if connection == self.connection && !self.proxy_closed => {
                self.say(|| format!("connection {connection} opens"));
                self.group.shards[0].on_open(instant);
                self.discord.on_open();
                if self.troubled() && self.chance(5) {
                    self.send_to_proxy(vec![
                        Out::Payload(br#"{"t":null,"s":null,"op":7,"d":null}"#.to_vec()),
                        Out::Close(None),
                    ]);
                } else if self.troubled() && self.chance(3) {
                    self.say(|| "no HELLO comes".to_owned());
                } else {
                    let hello = self.discord.hello();
                    self.send_to_proxy(hello);
                }
            }
            Happening::Lost(connection, code) if connection == self.connection && !self.proxy_closed => {
                self.say(|| format!("connection {connection} is lost: {code:?}"));
                self.proxy_closed = true;
                self.group.shards[0].on_closed(instant, code);
            }
            Happening::ToProxy(connection, payload) if connection == self.connection && !self.proxy_closed => {
                self.on_payload_at_proxy(&payload);
            }
            Happening::ToDiscord(connection, payload)
                if connection == self.connection && !self.half_open && self.discord.is_connected() =>
            {
                let drop_ack = self.troubled() && self.chance(4);
                let is_resume =
                    payload.starts_with(br#"{"d":{"seq""#) || payload.windows(6).any(|it| it == br#""op":6"#);
                if is_resume && self.troubled() && self.chance(10) {
                    self.discord.take_session();
                }
                let out = self.discord.on_payload(self.now, &payload, drop_ack);
                self.totals.op9_by_discord += out
                    .iter()
                    .filter(|it| matches!(it, Out::Payload(p) if p.ends_with(br#""op":9,"d":false}"#)))
                    .count() as u64;
                self.send_to_proxy(out);
            }
            Happening::Turn(not_before) => self.group.shards[0].on_turn(instant, not_before),
            Happening::Traffic => self.traffic(),
            Happening::Trouble => self.trouble(),
            Happening::Client(client) => self.client_acts(client),
            Happening::Return(client) => self.client_returns(client),
            _ => {}
        }
    }

    fn on_payload_at_proxy(&mut self, payload: &[u8]) {
        let instant = self.instant();
        let repeated = self.group.shards[0].report(instant).repeated;
        self.group.shards[0].on_payload(instant, payload).expect("Discord sends JSON");
        if self.group.shards[0].report(instant).repeated > repeated {
            return;
        }
        let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
        match value["t"].as_str() {
            Some("MESSAGE_CREATE") => self.last_message = value["d"]["n"].as_u64(),
            Some("READY") => {
                self.epoch += 1;
                self.discord.ready_arrived = true;
                self.last_message = None;
            }
            _ => {}
        }
    }

    fn traffic(&mut self) {
        if self.now >= TRAFFIC_ENDS {
            return;
        }
        let (instant, len) = (self.instant(), self.rng.usize(..2000));
        self.neighbour.hear(&mut self.group.shards[1], instant, len);
        for _ in 0..self.rng.u32(1..6) {
            let out = if self.chance(70) {
                self.discord.message()
            } else {
                let guild = self.rng.usize(..GUILDS);
                self.discord.update_guild(guild)
            };
            self.send_to_proxy(out);
        }
        let pause = self.millis(10..1500);
        self.at(self.now + pause, Happening::Traffic);
    }

    fn trouble(&mut self) {
        if !self.troubled() {
            return;
        }
        let kind = self.rng.u8(..11);
        self.say(|| format!("trouble {kind}"));
        match kind {
            0 | 1 => self.cut(None),
            2 => {
                // The line is dead and nobody says so.
                self.half_open = true;
                self.discord.on_connection_lost();
            }
            3 => {
                let code = [1000, 1001, 1006, 4000, 4008, 4009][self.rng.usize(..6)];
                self.cut(Some(CloseCode(code)));
            }
            4 => {
                self.discord.take_session();
                let code = if self.chance(50) { CloseCode::NOT_AUTHENTICATED } else { CloseCode::INVALID_SEQ };
                self.cut(Some(code));
            }
            5 | 6 if self.discord.is_live() => {
                self.send_to_proxy(vec![Out::Payload(br#"{"t":null,"s":null,"op":7,"d":null}"#.to_vec())]);
            }
            7 if self.discord.is_live() => {
                let resumable = self.chance(50);
                if !resumable {
                    self.discord.take_session();
                    self.totals.op9_by_discord += 1;
                }
                self.send_to_proxy(vec![Out::Payload(
                    format!(r#"{{"t":null,"s":null,"op":9,"d":{resumable}}}"#).into_bytes(),
                )]);
            }
            8 if self.discord.is_live() => {
                self.send_to_proxy(vec![Out::Payload(br#"{"t":null,"s":null,"op":1,"d":null}"#.to_vec())]);
            }
            10 => {
                self.discord.storm_until = self.now + Duration::from_secs_f64(STORM_MAX.as_secs_f64() * self.rng.f64());
                self.discord.take_session();
                self.totals.storms += 1;
                self.cut(Some(CloseCode::UNKNOWN_ERROR));
            }
            _ => {}
        }
        let pause = self.millis(200..30_000);
        self.at(self.now + pause, Happening::Trouble);
    }

    /// Discord ends the connection; what is under way is lost when there is no code.
    fn cut(&mut self, code: Option<CloseCode>) {
        self.discord.on_connection_lost();
        if code.is_none() {
            let connection = self.connection;
            self.agenda.retain(|_, it| !matches!(it, Happening::ToProxy(at, _) if *at == connection));
        }
        self.send_to_proxy(vec![Out::Close(code)]);
    }

    fn send_to_proxy(&mut self, out: Vec<Out>) {
        if self.half_open {
            return;
        }
        for out in out {
            let delay = self.millis(5..60);
            self.arrival[0] = (self.now + delay).max(self.arrival[0]);
            let (time, connection) = (self.arrival[0], self.connection);
            match out {
                Out::Payload(payload) => self.at(time, Happening::ToProxy(connection, payload)),
                Out::Close(code) => {
                    self.discord.on_connection_lost();
                    self.at(time, Happening::Lost(connection, code));
                }
            }
        }
    }

    // ---- the proxy's shell

    /// What the runtime does at the end of a turn.
    fn turn(&mut self) {
        let instant = self.instant();
        while let Some(action) = self.group.shards[0].poll(instant) {
            self.act(action);
        }
        Neighbour::turn(&mut self.group.shards[1], instant);
        while let Some((_, not_before)) = self.queue.poll(instant) {
            self.at(self.now, Happening::Turn(not_before));
        }
        for client in 0..CLIENTS {
            if self.clients[client].paused_until <= self.now {
                self.pump(client);
            }
        }
        self.group.trim_by_age(instant);
        self.group.trim_to_budget();
        assert!(self.group.log_bytes() < if self.tight { 256 * 1024 } else { 128 << 20 });
    }

    fn act(&mut self, action: Action) {
        let instant = self.instant();
        match action {
            Action::IdentifyWanted => self.queue.on_wanted(ShardId(0), instant),
            Action::IdentifySent => self.queue.on_sent(ShardId(0), instant),
            Action::IdentifyReturned => self.queue.on_returned(ShardId(0), instant),
            Action::Connect(url) => {
                self.discord.on_connection_lost();
                self.connection += 1;
                self.proxy_closed = false;
                self.half_open = false;
                self.arrival = [self.now; 2];
                let connection = self.connection;
                let dead_host = url.contains("resume.invalid") && self.troubled() && self.chance(20);
                self.say(|| format!("connect {connection} to {url}"));
                let delay = self.millis(20..300);
                if dead_host || (self.troubled() && self.chance(8)) {
                    self.at(self.now + delay, Happening::Lost(connection, None));
                } else if !(self.troubled() && self.chance(2)) {
                    self.at(self.now + delay, Happening::Opened(connection));
                }
            }
            Action::Send(payload) => {
                assert!(!self.proxy_closed, "sent without a connection: {}", String::from_utf8_lossy(&payload));
                self.say(|| format!("proxy sends {}", String::from_utf8_lossy(&payload)));
                let delay = self.millis(5..60);
                self.arrival[1] = (self.now + delay).max(self.arrival[1]);
                self.at(self.arrival[1], Happening::ToDiscord(self.connection, payload));
            }
            Action::Close(code) => {
                assert!(!code.ends_session(), "the proxy threw the session away");
                self.say(|| format!("proxy closes with {code}"));
                self.proxy_closed = true;
                self.discord.on_connection_lost();
            }
            Action::InvalidSession(key) => {
                let client = self.clients.iter().position(|it| it.seat == Some(key)).expect("the seat is somebody's");
                assert!(self.clients[client].epoch < self.epoch, "op 9 although nothing was lost");
                self.clients[client].forget();
                let delay = self.millis(0..3000);
                self.at(self.now + delay, Happening::Client(client));
            }
            Action::Disconnect(key, _) => {
                let at = self.abandoned.iter().position(|it| *it == key).expect("only who was left is disconnected");
                self.abandoned.swap_remove(at);
            }
            Action::Stopped(code) => panic!("no fatal code was sent, yet the shard stopped with {code}"),
        }
    }

    // ---- clients

    fn client_acts(&mut self, client: usize) {
        if self.clients[client].seat.is_none() {
            self.client_connects(client);
        } else if self.troubled() {
            match self.rng.u8(..7) {
                6 => self.client_takes_over(client),
                0 | 1 => self.client_drops(client),
                2 => self.client_ends(client),
                3 => self.clients[client].paused_until = self.now + self.millis(100..20_000),
                4 => self.request_members(client),
                _ => {}
            }
        }
        let pause = self.millis(500..12_000);
        if self.troubled() {
            self.at(self.now + pause, Happening::Client(client));
        }
    }

    fn client_returns(&mut self, client: usize) {
        self.clients[client].paused_until = Duration::ZERO;
        if self.clients[client].seat.is_none() {
            self.client_connects(client);
        }
    }

    fn client_connects(&mut self, client: usize) {
        let resume = self.clients[client].session_id.clone();
        let Some(session_id) = resume else { return self.client_identifies(client) };
        let seq = self.clients[client].last_sequence;
        let resumed = self.group.shards[0].resume(&Resume { token: Token("secret".to_owned()), session_id, seq });
        self.say(|| format!("client {client} resumes from {seq}: {resumed:?}"));
        let it = &mut self.clients[client];
        match resumed {
            Ok(key) => {
                it.on_connect();
                it.resuming = true;
                it.seat = Some(key);
            }
            Err(ResumeRefused::InvalidSeq) => panic!("a number that the proxy gave out is unknown to it"),
            Err(ResumeRefused::InvalidSession) => {
                let fell_off = self.tight;
                self.totals.fell_off += u64::from(fell_off);
                assert!(
                    fell_off || it.epoch < self.epoch || !it.has_snapshot(),
                    "op 9 to client {client} although its events are there"
                );
                self.client_identifies(client);
            }
        }
    }

    fn client_identifies(&mut self, client: usize) {
        self.say(|| format!("client {client} identifies"));
        let entropy = self.rng.u128(..).to_le_bytes()[..12].try_into().unwrap();
        let identify = Identify { token: Token("secret".to_owned()), shard: Some([0, 2]), intents: 1, compress: false };
        let seated_at_once = self.epoch > 0 && self.group.shards[0].is_settled();
        let it = &mut self.clients[client];
        it.forget();
        it.on_connect();
        it.epoch = self.epoch;
        it.seat = self.group.shards[0].identify(&identify, entropy);
        it.first_message = self.last_message.filter(|_| seated_at_once).map(|it| it + 1);
        assert!(it.seat.is_some(), "there are fewer clients than seats");
    }

    /// The connection breaks, and of what was sent last only a part arrives.
    fn client_drops(&mut self, client: usize) {
        if let Some(key) = self.client_loses_touch(client) {
            let instant = self.instant();
            self.group.shards[0].leave(instant, key, false);
        }
    }

    /// The client has given its connection up and comes back on another before the proxy knows.
    fn client_takes_over(&mut self, client: usize) {
        let Some(key) = self.client_loses_touch(client) else { return };
        if self.clients[client].session_id.is_none() {
            let instant = self.instant();
            return self.group.shards[0].leave(instant, key, false);
        }
        self.abandoned.push(key);
        self.client_connects(client);
        self.totals.takeovers += 1;
        if self.clients[client].seat == Some(key) {
            self.abandoned.retain(|it| *it != key);
        }
    }

    fn client_loses_touch(&mut self, client: usize) -> Option<SeatKey> {
        let key = self.clients[client].seat.expect("only a seated client drops");
        let mut bytes = Vec::new();
        let room = self.rng.usize(1..4000);
        let it = &mut self.clients[client];
        if self.group.shards[0].pump(key, &mut it.encoder, &mut bytes, room) == Pumped::FellOff {
            self.on_fell_off(client);
            return None;
        }
        let arrived = self.rng.usize(..=bytes.len());
        let began = it.last_sequence == 0;
        it.on_bytes(&bytes[..arrived]);
        if began {
            it.epoch = self.epoch;
        }
        it.seat = None;
        it.resuming = false;
        self.say(|| format!("client {client} drops, {arrived} of {} bytes arrive", bytes.len()));
        Some(key)
    }

    fn client_ends(&mut self, client: usize) {
        let instant = self.instant();
        if let Some(key) = self.clients[client].seat {
            self.say(|| format!("client {client} ends its session"));
            self.group.shards[0].leave(instant, key, true);
            self.clients[client].forget();
        }
    }

    fn request_members(&mut self, client: usize) {
        let instant = self.instant();
        let it = &mut self.clients[client];
        let Some(key) = it.seat else { return };
        it.requests += 1;
        let nonce = format!("client-{client}-{}", it.requests);
        let payload = format!(r#"{{"op":8,"d":{{"guild_id":"100","query":"","limit":0,"nonce":"{nonce}"}}}}"#);
        let Ok(ClientPayload::Command(command)) = payload::parse(payload.as_bytes()) else { panic!("{payload}") };
        // A full queue refuses; the runtime would close the client, here it just goes on.
        let _ = self.group.shards[0].on_command(instant, key, command);
    }

    fn pump(&mut self, client: usize) {
        let Some(key) = self.clients[client].seat else { return };
        let room = self.rng.usize(1..8000);
        let it = &mut self.clients[client];
        let mut bytes = Vec::new();
        let began = it.last_sequence == 0;
        let pumped = self.group.shards[0].pump(key, &mut it.encoder, &mut bytes, room);
        it.on_bytes(&bytes);
        if began && it.last_sequence > 0 {
            it.epoch = self.epoch;
        }
        match pumped {
            Pumped::FellOff => self.on_fell_off(client),
            Pumped::Full | Pumped::Current => {}
        }
        if pumped == Pumped::Full && !self.agenda.keys().any(|it| it.0 <= self.now + Duration::from_millis(5)) {
            // Room comes back soon.
            let soon = self.now + Duration::from_millis(5);
            self.at(soon, Happening::Wake);
        }
    }

    /// Only a tight log may lose a client's place.
    fn on_fell_off(&mut self, client: usize) {
        assert!(self.tight, "client {client} fell off a log with room");
        self.totals.fell_off += 1;
        self.clients[client].forget();
    }
}
