//! The stage: the proxy's process, Discord, the clients, a clock that jumps to the next deadline, and what goes wrong between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use shardgate::session::payload::{self, ClientPayload, Identify, Resume, Token};
use shardgate::session::upstream::Status;
use shardgate::shard::seat::{Pumped, SeatKey};
use shardgate::shard::{Action, ResumeRefused, Shard};
use shardgate::wire::{CloseCode, ShardId};

use crate::client::{Client, Mark};
use crate::discord::{Discord, LastIdentify, Out};
use crate::process::{Process, Setup};
use crate::sabotage::{Sabotage, Saboteur};
use crate::storage::{Disk, FromStore};

const SHARDS: usize = 2;
const CLIENTS: usize = 4;
/// Trouble until here, then peace, in which everything must come right.
const TROUBLE_ENDS: Duration = Duration::from_secs(120);
const TRAFFIC_ENDS: Duration = Duration::from_secs(150);
/// Clients that are away come back here at the latest.
const RETURN_AT: Duration = Duration::from_secs(230);
const END: Duration = Duration::from_secs(330);

/// How long Discord answers every RESUME and IDENTIFY with op 9, when it does.
const STORM_MAX: Duration = Duration::from_secs(30);
/// A RESUME ahead of what the proxy knows may be refused after this.
const SEEK_MAX: Duration = Duration::from_secs(60);
/// How long the core collects records when nobody waits for them.
const BATCH: Duration = Duration::from_millis(10);
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// After a failure of the store.
const BEGIN_ANEW: Duration = Duration::from_secs(30);

/// What happens at a moment. Numbers: of the process, the shard, the connection; what belongs to an old one is void.
#[derive(Debug)]
enum Happening {
    Opened(usize, usize),
    Lost(usize, usize, Option<CloseCode>),
    ToProxy(usize, usize, Vec<u8>),
    ToDiscord(usize, usize, Vec<u8>),
    IdentifyTurn(u64, usize, Instant),
    Chunk(usize),
    Traffic,
    Trouble,
    Death,
    Start,
    Flush(u64),
    Storage(u64),
    FromStore(u64, FromStore),
    Restore(u64),
    Sync,
    BeginAnew(u64),
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
    pub identifies: u64,
    pub op9_by_discord: u64,
    pub op9_to_clients: u64,
    pub fell_off: u64,
    pub chunks: u64,
    pub takeovers: u64,
    pub storms: u64,
    pub kills: u64,
    pub torn: u64,
    pub terminations: u64,
    pub store_losses: u64,
    pub log_reads: u64,
    pub crossings: u64,
    pub rotations: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.dispatches += other.dispatches;
        self.client_resumes += other.client_resumes;
        self.upstream_resumes += other.upstream_resumes;
        self.identifies += other.identifies;
        self.op9_by_discord += other.op9_by_discord;
        self.op9_to_clients += other.op9_to_clients;
        self.fell_off += other.fell_off;
        self.chunks += other.chunks;
        self.takeovers += other.takeovers;
        self.storms += other.storms;
        self.kills += other.kills;
        self.torn += other.torn;
        self.terminations += other.terminations;
        self.store_losses += other.store_losses;
        self.log_reads += other.log_reads;
        self.crossings += other.crossings;
        self.rotations += other.rotations;
    }
}

/// Between one shard and Discord.
struct Line {
    /// The connection that the proxy holds; odd ends of older ones are void.
    connection: usize,
    /// The proxy's side of it is closed.
    proxy_closed: bool,
    /// What was sent last in each direction arrives no earlier than what was sent before it.
    arrival: [Duration; 2],
    half_open: bool,
    /// READYs that the proxy has received.
    epoch: u64,
    /// The last message that this process of the proxy has received, or that the last READY stands for.
    received: Option<Mark>,
    /// By number of Discord's session: the last message of it that every client that stays must get.
    certain: BTreeMap<u64, u64>,
}

pub struct World {
    rng: Rng,
    chatty: bool,
    origin: Instant,
    now: Duration,
    /// By time and order of arrival.
    agenda: BTreeMap<(Duration, u64), Happening>,
    next: u64,
    setup: Setup,
    disk: Disk,
    old_disk: Option<shardgate::store::memory::MemoryDisk>,
    /// `None` while it is dead.
    process: Option<Process>,
    processes: u64,
    discord: Vec<Discord>,
    lines: Vec<Line>,
    last_identify: LastIdentify,
    clients: Vec<Client>,
    /// A client that left with bytes under way, and has not come back: whose seat the proxy still holds open.
    abandoned: Vec<(usize, SeatKey)>,
    flush_at: Option<Duration>,
    is_storage_due: bool,
    /// The process dies after this many more steps of a turn.
    steps_left: Option<u32>,
    saboteur: Saboteur,
    totals: Totals,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the origin of a clock that is never read again")]
    pub fn new(seed: u64, chatty: bool, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let origin = Instant::now();
        let has_store = sabotage.is_some() || rng.u8(..10) > 0;
        let setup = Setup {
            shards: SHARDS,
            is_tight: rng.u8(..4) == 0,
            has_store,
            // Small enough for new files of records, large enough for all segments.
            disk_bytes: if rng.bool() { 8 << 20 } else { 256 << 20 },
        };
        let line = || Line {
            connection: 0,
            proxy_closed: true,
            arrival: [Duration::ZERO; 2],
            half_open: false,
            epoch: 0,
            received: None,
            certain: BTreeMap::new(),
        };
        let mut world = Self {
            chatty,
            origin,
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            next: 0,
            setup,
            disk: Disk::default(),
            old_disk: None,
            process: None,
            processes: 0,
            discord: (0..SHARDS).map(|it| Discord::new(it as u64)).collect(),
            lines: (0..SHARDS).map(|_| line()).collect(),
            last_identify: None,
            clients: (0..CLIENTS).map(|it| Client::new(it, it % SHARDS)).collect(),
            abandoned: Vec::new(),
            flush_at: None,
            is_storage_due: false,
            steps_left: None,
            saboteur: Saboteur::new(sabotage, seed),
            totals: Totals::default(),
            rng,
        };
        world.at(Duration::ZERO, Happening::Start);
        world.at(Duration::from_secs(1), Happening::Traffic);
        world.at(Duration::from_secs(8), Happening::Trouble);
        world.at(SYNC_EVERY, Happening::Sync);
        let death = world.millis(500..60_000);
        world.at(death, Happening::Death);
        for client in 0..CLIENTS {
            let first = world.millis(0..20_000);
            world.at(first, Happening::Client(client));
            world.at(RETURN_AT, Happening::Return(client));
        }
        world
    }

    pub fn strikes(&self) -> u64 {
        self.saboteur.strikes
    }

    pub fn run(&mut self) -> Totals {
        self.say(|| "begins".to_owned());
        while self.now < END {
            let next = self.agenda.first_key_value().map_or(END, |(key, _)| key.0);
            let due = self.process.as_ref().and_then(|it| {
                let shards = it.group.shards.iter().filter_map(Shard::due).min();
                [shards, it.queue.due()].into_iter().flatten().min()
            });
            let due = due.map_or(END, |it| it.saturating_duration_since(self.origin));
            self.now = self.now.max(next.min(due).min(END));
            if next <= self.now
                && let Some((_, happening)) = self.agenda.pop_first()
            {
                self.happen(happening);
            }
            self.turn();
        }
        self.check_the_end();
        self.end_process_counts();
        self.totals.dispatches = self.clients.iter().map(|it| it.seen).sum();
        self.totals.chunks = self.clients.iter().map(|it| it.chunked).sum();
        self.totals.identifies = self.discord.iter().map(|it| it.identifies).sum();
        std::mem::take(&mut self.totals)
    }

    fn check_the_end(&mut self) {
        let process = self.process.as_ref().expect("the last process lives");
        for (shard, discord) in self.discord.iter().enumerate() {
            assert_eq!(process.group.shards[shard].status(), Status::Active, "shard {shard} did not recover");
            assert!(discord.identifies <= discord.sessions_taken, "shard {shard}: an IDENTIFY was wasted");
        }
        assert!(self.abandoned.is_empty(), "{:?} are still held open", self.abandoned);
        let cache_errors: u64 = process.group.shards.iter().map(|it| it.report(self.instant()).cache_errors).sum();
        // A state that the disk took along counts as one.
        assert!(cache_errors == 0 || process.had_loss, "the state could not be read");
        for client in &self.clients {
            let (number, discord) = (client.number, &self.discord[client.shard]);
            assert!(client.has_snapshot(), "client {number} has no state");
            assert!(client.seat.is_some(), "client {number} has no seat");
            assert!(client.resuming.is_none(), "client {number}'s RESUME was not answered");
            let truth: BTreeMap<u64, Option<_>> = discord.guilds.iter().map(|it| (*it.0, Some(it.1.clone()))).collect();
            assert_eq!(client.guilds, truth, "client {number} knows other guilds");
            assert!(!client.awaits_chunks(), "client {number} misses chunks");
            let last = discord.last_message().filter(|it| it.1 > 0);
            if client.last_message.is_some() && last.is_some() {
                assert_eq!(client.last_message, last, "client {number} misses messages");
            }
        }
        // Whoever comes now gets the whole truth.
        for shard in 0..SHARDS {
            let mut fresh = Client::new(99, shard);
            let instant = self.instant();
            let process = self.process.as_mut().expect("the last process lives");
            let key = process.group.shards[shard].identify(&identify(shard), [9; 12]).expect("there are seats");
            for _ in 0..3 {
                let mut bytes = Vec::new();
                process.group.shards[shard].pump(key, &mut fresh.encoder, &mut bytes, 1 << 20);
                fresh.on_bytes(&bytes);
                process.flush(instant, &mut self.saboteur);
                let answers = process.storage.as_mut().map(|it| it.work()).unwrap_or_default();
                for answer in answers {
                    process.on_answer(instant, answer);
                }
            }
            assert!(fresh.has_snapshot(), "shard {shard} does not serve a new client");
            let truth: BTreeMap<u64, Option<_>> =
                self.discord[shard].guilds.iter().map(|it| (*it.0, Some(it.1.clone()))).collect();
            assert_eq!(fresh.guilds, truth, "shard {shard} tells a new client something else");
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

    fn is_current(&self, number: u64) -> bool {
        self.process.as_ref().is_some_and(|it| it.number == number)
    }

    // ---- what happens

    fn happen(&mut self, happening: Happening) {
        let instant = self.instant();
        match happening {
            Happening::Opened(shard, connection) if self.is_open(shard, connection) => self.open(shard, connection),
            Happening::Lost(shard, connection, code) if self.is_open(shard, connection) => {
                self.say(|| format!("shard {shard}: connection {connection} is lost: {code:?}"));
                self.lines[shard].proxy_closed = true;
                self.shard(shard).on_closed(instant, code);
            }
            Happening::ToProxy(shard, connection, payload) if self.is_open(shard, connection) => {
                self.on_payload_at_proxy(shard, &payload);
            }
            Happening::ToDiscord(shard, connection, payload)
                if connection == self.lines[shard].connection
                    && !self.lines[shard].half_open
                    && self.discord[shard].is_connected() =>
            {
                self.on_payload_at_discord(shard, &payload);
            }
            Happening::IdentifyTurn(number, shard, not_before) if self.is_current(number) => {
                self.shard(shard).on_turn(instant, not_before);
            }
            Happening::Chunk(shard) => {
                let out = self.discord[shard].next_chunk();
                self.send_to_proxy(shard, out);
            }
            Happening::Traffic => self.traffic(),
            Happening::Trouble => self.trouble(),
            Happening::Death => self.death(),
            Happening::Start => self.start(),
            Happening::Flush(number) if self.is_current(number) => self.flush(),
            Happening::Storage(number) if self.is_current(number) => self.storage_works(),
            Happening::FromStore(number, answer) if self.is_current(number) => self.on_answer(answer),
            Happening::Restore(number) if self.is_current(number) => self.restore(number),
            Happening::BeginAnew(number) if self.is_current(number) => {
                self.say(|| "the store begins anew".to_owned());
                self.process.as_mut().expect("it is current").begin_anew();
                // What left memory while there was no disk is gone.
                self.clients.iter_mut().for_each(|it| it.may_lose |= self.setup.is_tight);
            }
            Happening::Sync => {
                if let Some(storage) = self.process.as_mut().and_then(|it| it.storage.as_mut())
                    && !storage.has_failed()
                {
                    storage.sync();
                }
                self.at(self.now + SYNC_EVERY, Happening::Sync);
            }
            Happening::Client(client) => self.client_acts(client),
            Happening::Return(client) => self.client_returns(client),
            _ => {}
        }
    }

    fn shard(&mut self, shard: usize) -> &mut Shard {
        &mut self.process.as_mut().expect("it lives").group.shards[shard]
    }

    /// Whether the proxy lives and has this connection open.
    fn is_open(&self, shard: usize, connection: usize) -> bool {
        let line = &self.lines[shard];
        self.process.is_some() && connection == line.connection && !line.proxy_closed
    }

    fn open(&mut self, shard: usize, connection: usize) {
        self.say(|| format!("shard {shard}: connection {connection} opens"));
        let instant = self.instant();
        self.shard(shard).on_open(instant);
        self.discord[shard].on_open();
        if self.troubled() && self.chance(5) {
            let op7 = br#"{"t":null,"s":null,"op":7,"d":null}"#.to_vec();
            self.send_to_proxy(shard, vec![Out::Payload(op7), Out::Close(None)]);
        } else if self.troubled() && self.chance(3) {
            self.say(|| "no HELLO comes".to_owned());
        } else {
            let hello = self.discord[shard].hello();
            self.send_to_proxy(shard, hello);
        }
    }

    fn on_payload_at_discord(&mut self, shard: usize, payload: &[u8]) {
        let drop_ack = self.troubled() && self.chance(4);
        let is_resume = payload.windows(6).any(|it| it == br#""op":6"#);
        if is_resume && self.troubled() && self.chance(7) {
            self.discord[shard].take_session();
        }
        let process = self.process.as_ref().map_or(0, |it| it.number);
        let out = self.discord[shard].on_payload(self.now, payload, drop_ack, &mut self.last_identify, process);
        let is_op9 = |it: &&Out| matches!(it, Out::Payload(p) if p.ends_with(br#""op":9,"d":false}"#));
        self.totals.op9_by_discord += out.iter().filter(is_op9).count() as u64;
        if payload.windows(6).any(|it| it == br#""op":8"#) {
            for _ in 0..2 {
                let pause = self.millis(0..3000);
                self.at(self.now + pause, Happening::Chunk(shard));
            }
        }
        self.send_to_proxy(shard, out);
    }

    fn on_payload_at_proxy(&mut self, shard: usize, payload: &[u8]) {
        let instant = self.instant();
        let mut value: serde_json::Value = serde_json::from_slice(payload).expect("Discord sends JSON");
        let is_dispatch = value["op"] == 0 && value["t"] != "READY";
        if self.saboteur.strikes(Sabotage::LoseDispatch, value["t"] == "MESSAGE_CREATE") {
            return;
        }
        let mut altered = None;
        if self.saboteur.strikes(Sabotage::ForeignChunk, value["t"] == "GUILD_MEMBERS_CHUNK") {
            value["d"]["nonce"] = "client-77-1".into();
            altered = Some(format!(r#"{{"t":{},"s":{},"op":0,"d":{}}}"#, value["t"], value["s"], value["d"]));
        }
        self.say(|| format!("shard {shard} gets {}", shown(payload)));
        let repeated = self.shard(shard).report(instant).repeated;
        let payload = altered.as_ref().map_or(payload, |it| it.as_bytes());
        self.shard(shard).on_payload(instant, payload).expect("Discord sends JSON");
        if self.shard(shard).report(instant).repeated > repeated {
            return;
        }
        if self.saboteur.strikes(Sabotage::DoubleDispatch, is_dispatch) {
            let next = value["s"].as_u64().expect("it is numbered") + 1;
            let again = format!(r#"{{"t":{},"s":{next},"op":0,"d":{}}}"#, value["t"], value["d"]);
            self.shard(shard).on_payload(instant, again.as_bytes()).expect("it is JSON");
        }
        match value["t"].as_str() {
            Some("MESSAGE_CREATE") => {
                let (number, message) = (value["d"]["e"].as_u64(), value["d"]["n"].as_u64());
                self.lines[shard].received = number.zip(message);
            }
            Some("READY") => self.on_ready_at_proxy(shard, &value["d"]),
            _ => {}
        }
    }

    fn on_ready_at_proxy(&mut self, shard: usize, d: &serde_json::Value) {
        let id = d["session_id"].as_str().expect("READY names its session");
        let number: u64 =
            id.rsplit('-').next().and_then(|it| it.parse().ok()).expect("the session's number ends its id");
        self.say(|| format!("shard {shard}: READY of {id}"));
        let line = &mut self.lines[shard];
        if let Some((old, last)) = line.received.replace((number, 0)) {
            line.certain.insert(old, last);
        }
        line.epoch += 1;
        self.discord[shard].is_resumable = true;
        let process = self.process.as_mut().expect("it lives");
        process.on_ready(shard);
        let is_restoring = process.restoring[shard];
        process.restoring[shard] = false;
        for client in self.clients.iter_mut().filter(|it| it.shard == shard) {
            client.may_lose |= client.is_doubtful || is_restoring;
            client.forget_chunks();
        }
    }

    fn traffic(&mut self) {
        if self.now >= TRAFFIC_ENDS {
            return;
        }
        let shard = self.rng.usize(..SHARDS);
        for _ in 0..self.rng.u32(1..6) {
            let out = if self.chance(70) {
                let len = if self.chance(10) { self.rng.usize(..4000) } else { self.rng.usize(..200) };
                self.discord[shard].message(len)
            } else if self.chance(3) {
                self.discord[shard].skip_number();
                vec![]
            } else {
                let (pick, kind) = (self.rng.usize(..100), self.rng.u8(..20));
                self.discord[shard].change(pick, kind)
            };
            self.send_to_proxy(shard, out);
        }
        let pause = self.millis(10..900);
        self.at(self.now + pause, Happening::Traffic);
    }

    fn trouble(&mut self) {
        if !self.troubled() {
            return;
        }
        let (kind, shard) = (self.rng.u8(..13), self.rng.usize(..SHARDS));
        self.say(|| format!("shard {shard}: trouble {kind}"));
        let is_live = self.discord[shard].is_live();
        match kind {
            0 | 1 => self.cut(shard, None),
            2 => {
                // The line is dead and nobody says so.
                self.lines[shard].half_open = true;
                self.discord[shard].on_connection_lost();
            }
            3 => {
                let code = [1000, 1001, 1006, 4000, 4008, 4009][self.rng.usize(..6)];
                self.cut(shard, Some(CloseCode(code)));
            }
            4 => {
                self.discord[shard].take_session();
                let code = if self.chance(50) { CloseCode::NOT_AUTHENTICATED } else { CloseCode::INVALID_SEQ };
                self.cut(shard, Some(code));
            }
            5 | 6 if is_live => {
                self.send_to_proxy(shard, vec![Out::Payload(br#"{"t":null,"s":null,"op":7,"d":null}"#.to_vec())]);
            }
            7 if is_live => {
                let resumable = self.chance(50);
                if !resumable {
                    self.discord[shard].take_session();
                    self.totals.op9_by_discord += 1;
                }
                let op9 = format!(r#"{{"t":null,"s":null,"op":9,"d":{resumable}}}"#);
                self.send_to_proxy(shard, vec![Out::Payload(op9.into_bytes())]);
            }
            8 if is_live => {
                self.send_to_proxy(shard, vec![Out::Payload(br#"{"t":null,"s":null,"op":1,"d":null}"#.to_vec())]);
            }
            10 => {
                let storm = Duration::from_secs_f64(STORM_MAX.as_secs_f64() * self.rng.f64());
                self.discord[shard].storm_until = self.now + storm;
                self.discord[shard].take_session();
                self.totals.storms += 1;
                self.cut(shard, Some(CloseCode::UNKNOWN_ERROR));
            }
            11 if self.setup.has_store && self.chance(50) => {
                // The disk is full, or broken.
                self.disk.borrow_mut().faults.writes_left = Some(self.rng.u64(..3));
            }
            _ => {}
        }
        let pause = self.millis(200..30_000);
        self.at(self.now + pause, Happening::Trouble);
    }

    /// Discord ends the connection; what is under way is lost when there is no code.
    fn cut(&mut self, shard: usize, code: Option<CloseCode>) {
        self.discord[shard].on_connection_lost();
        if code.is_none() {
            let connection = self.lines[shard].connection;
            self.agenda.retain(|_, it| !matches!(it, Happening::ToProxy(s, at, _) if *s == shard && *at == connection));
        }
        self.send_to_proxy(shard, vec![Out::Close(code)]);
    }

    fn send_to_proxy(&mut self, shard: usize, out: Vec<Out>) {
        if self.lines[shard].half_open {
            return;
        }
        for out in out {
            let delay = self.millis(5..60);
            let line = &mut self.lines[shard];
            line.arrival[0] = (self.now + delay).max(line.arrival[0]);
            let (time, connection) = (line.arrival[0], line.connection);
            match out {
                Out::Payload(payload) => self.at(time, Happening::ToProxy(shard, connection, payload)),
                Out::Close(code) => {
                    self.discord[shard].on_connection_lost();
                    self.at(time, Happening::Lost(shard, connection, code));
                }
            }
        }
    }

    // ---- life and death of the process

    fn start(&mut self) {
        self.processes += 1;
        let number = self.processes;
        if self.saboteur.strikes(Sabotage::WipeDisk, number > 1) {
            *self.disk.borrow_mut() = Default::default();
        }
        self.disk.borrow_mut().faults = Default::default();
        let found = self.disk.borrow().clone();
        if let Some(old) = self.old_disk.replace(found)
            && self.saboteur.strikes(Sabotage::OldDisk, true)
        {
            *self.disk.borrow_mut() = old;
        }
        let instant = self.instant();
        let process = Process::start(number, self.setup, &self.disk, instant, &mut self.rng, &mut self.saboteur);
        self.say(|| format!("process {number} starts, restoring {:?}", process.restoring));
        self.process = Some(process);
        self.is_storage_due = false;
        self.flush_at = None;
        for line in &mut self.lines {
            line.proxy_closed = true;
            line.received = None;
        }
        for shard in 0..SHARDS {
            if self.setup.has_store && !self.process.as_ref().expect("it has just begun").restoring[shard] {
                self.excuse(shard);
            }
        }
        self.at(self.now, Happening::Restore(number));
    }

    /// Nothing is left of the shard: neither its session with Discord nor its clients'.
    fn excuse(&mut self, shard: usize) {
        assert!(!self.discord[shard].is_resumable, "shard {shard}: what was written is gone");
        self.clients.iter_mut().filter(|it| it.shard == shard).for_each(|it| it.may_lose = true);
    }

    fn restore(&mut self, number: u64) {
        let asks_now = self.chance(60);
        let (instant, process) = (self.instant(), self.process.as_mut().expect("it is current"));
        if asks_now {
            process.rotate_at_start(instant);
        }
        if process.restore_next(instant, &mut self.saboteur) {
            let pause = self.millis(0..40);
            self.at(self.now + pause, Happening::Restore(number));
        } else {
            process.rotate_at_start(instant);
        }
        self.wake_storage();
    }

    fn death(&mut self) {
        if !self.troubled() {
            return;
        }
        if self.process.is_some() {
            if self.chance(25) {
                self.terminate();
            } else {
                // Somewhere in the middle of a turn soon.
                self.steps_left = Some(self.rng.u32(..40));
            }
        }
        let pause = if self.chance(20) { self.millis(10..2000) } else { self.millis(2000..60_000) };
        self.at(self.now + pause, Happening::Death);
    }

    /// SIGTERM: everything is written, connections are closed.
    fn terminate(&mut self) {
        self.say(|| "SIGTERM".to_owned());
        self.totals.terminations += 1;
        let instant = self.instant();
        for client in 0..CLIENTS {
            self.pump(client);
        }
        for shard in 0..SHARDS {
            self.shard(shard).shut_down(CloseCode(4900));
        }
        while let Some((shard, action)) = self.next_action() {
            if matches!(action, Action::Close(_) | Action::Send(_)) {
                continue;
            }
            self.act(shard, action);
        }
        let process = self.process.as_mut().expect("it lives");
        process.flush(instant, &mut self.saboteur);
        if let Some(storage) = process.storage.as_mut().filter(|it| !it.has_failed()) {
            let lost = storage.work().into_iter().any(|it| process.on_answer(instant, it));
            if let (false, Some(storage)) = (lost, process.storage.as_mut()) {
                storage.sync();
            }
        }
        self.bury();
    }

    /// SIGKILL. What is being written may be written, or some of it.
    fn kill(&mut self) {
        self.say(|| "SIGKILL".to_owned());
        self.totals.kills += 1;
        for client in 0..CLIENTS {
            if self.chance(50) && self.clients[client].paused_until <= self.now {
                self.client_loses_touch(client);
            }
        }
        self.bury();
    }

    fn bury(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let had_loss = process.had_loss;
        let resumable: Vec<bool> = (0..SHARDS).map(|it| process.is_resumable(it)).collect();
        self.count(&process);
        if let Some(storage) = process.storage.take() {
            if self.chance(60) {
                self.totals.torn += 1;
                let (writes, torn) = (self.rng.u64(..3), self.rng.usize(..20_000));
                storage.die(writes, torn);
            }
        }
        self.disk.borrow_mut().faults = Default::default();
        for (shard, is_resumable) in resumable.into_iter().enumerate() {
            self.lines[shard].proxy_closed = true;
            self.discord[shard].on_connection_lost();
            self.discord[shard].is_resumable &= is_resumable;
            if !is_resumable {
                self.clients.iter_mut().filter(|it| it.shard == shard).for_each(|it| it.may_lose = true);
            }
        }
        self.abandoned.clear();
        for client in &mut self.clients {
            client.seat = None;
            client.resuming = None;
            client.is_doubtful = true;
            // What was in memory alone when the store began anew is gone with the process.
            client.may_lose |= had_loss;
        }
        for client in 0..CLIENTS {
            let pause = self.millis(50..4000);
            self.at(self.now + pause, Happening::Client(client));
        }
        let pause = if self.chance(80) { self.millis(20..1500) } else { self.millis(1000..20_000) };
        self.at(self.now + pause, Happening::Start);
    }

    fn count(&mut self, process: &Process) {
        for shard in &process.group.shards {
            let report = shard.report(self.instant());
            self.totals.client_resumes += report.resumes;
            self.totals.upstream_resumes += report.upstream_resumes;
            self.totals.log_reads += report.log_reads;
        }
    }

    fn end_process_counts(&mut self) {
        if let Some(process) = self.process.take() {
            self.count(&process);
        }
    }

    // ---- the core

    /// What the runtime does at the end of a turn.
    fn turn(&mut self) {
        let instant = self.instant();
        let Some(process) = &mut self.process else { return };
        for shard in &mut process.group.shards {
            if shard.due().is_some_and(|it| it <= instant) {
                shard.on_timeout(instant);
            }
        }
        while let Some((shard, action)) = self.next_action() {
            if self.step() {
                return;
            }
            self.act(shard, action);
        }
        let process = self.process.as_mut().expect("it lives");
        let number = process.number;
        let mut turns = Vec::new();
        while let Some((shard, not_before)) = process.queue.poll(instant) {
            turns.push((shard.0 as usize, not_before));
        }
        for (shard, not_before) in turns {
            self.at(self.now, Happening::IdentifyTurn(number, shard, not_before));
        }
        for client in 0..CLIENTS {
            if self.clients[client].paused_until <= self.now {
                if self.step() {
                    return;
                }
                self.pump(client);
            }
        }
        let is_tight = self.setup.is_tight;
        let process = self.process.as_mut().expect("it lives");
        process.group.trim_by_age(instant);
        process.group.trim_to_budget();
        let has_store = process.storage.as_ref().is_some_and(|it| !it.has_failed());
        assert!(process.group.log_bytes() < if is_tight && !has_store { 256 * 1024 } else { 128 << 20 });
        for shard in 0..SHARDS {
            let process = self.process.as_mut().expect("it lives");
            if process.restoring[shard] && process.group.shards[shard].is_settled() {
                process.restoring[shard] = false;
            }
        }
        match self.process.as_mut().and_then(Process::wants_flush) {
            Some(true) => self.flush(),
            Some(false) if self.flush_at.is_none() => {
                self.flush_at = Some(self.now + BATCH);
                self.at(self.now + BATCH, Happening::Flush(number));
            }
            _ => {}
        }
    }

    /// True: the process has died here.
    fn step(&mut self) -> bool {
        match &mut self.steps_left {
            Some(0) => {
                self.steps_left = None;
                self.kill();
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn next_action(&mut self) -> Option<(usize, Action)> {
        let instant = self.instant();
        let shards = &mut self.process.as_mut()?.group.shards;
        shards.iter_mut().enumerate().find_map(|(at, shard)| Some((at, shard.poll(instant)?)))
    }

    fn flush(&mut self) {
        self.flush_at = None;
        let (instant, process) = (self.instant(), self.process.as_mut().expect("it lives"));
        for answer in process.flush(instant, &mut self.saboteur) {
            process.on_answer(instant, answer);
        }
        self.wake_storage();
    }

    fn wake_storage(&mut self) {
        let Some(process) = &self.process else { return };
        let number = process.number;
        let has_work = process.storage.as_ref().is_some_and(|it| !it.queue.is_empty());
        if has_work && !std::mem::replace(&mut self.is_storage_due, true) {
            let pause = if self.chance(3) { self.millis(100..3000) } else { self.millis(0..20) };
            self.at(self.now + pause, Happening::Storage(number));
        }
    }

    fn storage_works(&mut self) {
        self.is_storage_due = false;
        let process = self.process.as_mut().expect("it is current");
        let number = process.number;
        let answers = process.storage.as_mut().map(|it| it.work()).unwrap_or_default();
        let mut arrival = self.now;
        for answer in answers {
            arrival += self.millis(0..5);
            self.at(arrival, Happening::FromStore(number, answer));
        }
    }

    fn on_answer(&mut self, answer: FromStore) {
        self.totals.rotations += u64::from(matches!(answer, FromStore::Rotate(_)));
        let (instant, process) = (self.instant(), self.process.as_mut().expect("it is current"));
        let number = process.number;
        if process.on_answer(instant, answer) {
            self.say(|| "the store is lost".to_owned());
            self.totals.store_losses += 1;
            for shard in 0..SHARDS {
                let process = self.process.as_mut().expect("it is current");
                if std::mem::take(&mut process.restoring[shard]) {
                    // Its state cannot be had any more, and the session goes with it.
                    self.discord[shard].is_resumable = false;
                    self.clients.iter_mut().filter(|it| it.shard == shard).for_each(|it| it.may_lose = true);
                }
            }
            // What lagged behind memory is gone with the disk.
            self.clients.iter_mut().for_each(|it| it.may_lose |= self.setup.is_tight);
            self.at(self.now + BEGIN_ANEW, Happening::BeginAnew(number));
        }
        self.wake_storage();
    }

    fn act(&mut self, shard: usize, action: Action) {
        let instant = self.instant();
        let process = self.process.as_mut().expect("it lives");
        let id = ShardId(shard as u32);
        match action {
            Action::IdentifyWanted => process.queue.on_wanted(id, instant),
            Action::IdentifySent => process.queue.on_sent(id, instant),
            Action::IdentifyReturned => process.queue.on_returned(id, instant),
            Action::ReadLog(index) => {
                if let Some(storage) = &mut process.storage {
                    storage.queue.push_back(crate::storage::ToStore::Read { shard, index });
                }
                self.wake_storage();
            }
            Action::Connect(url) => self.connect(shard, &url),
            Action::Send(payload) => self.send_to_discord(shard, payload),
            Action::Close(code) => {
                assert!(!code.ends_session(), "the proxy threw the session away");
                self.say(|| format!("shard {shard}: the proxy closes with {code}"));
                self.lines[shard].proxy_closed = true;
                self.discord[shard].on_connection_lost();
            }
            Action::InvalidSession(key) => {
                let client = self.seated(shard, key).expect("the seat is somebody's");
                self.say(|| format!("client {client}: op 9"));
                let it = &self.clients[client];
                let is_waiting = it.is_doubtful && !self.discord[shard].is_live();
                let waited = is_waiting && it.resuming.is_some_and(|since| self.now - since >= SEEK_MAX);
                let is_excused = it.may_lose || waited || self.has_lost_log();
                assert!(is_excused, "op 9 to client {client} although nothing was lost");
                self.totals.op9_to_clients += 1;
                self.clients[client].forget();
                let delay = self.millis(0..3000);
                self.at(self.now + delay, Happening::Client(client));
            }
            Action::Disconnect(key, _) => match self.abandoned.iter().position(|it| *it == (shard, key)) {
                Some(at) => drop(self.abandoned.swap_remove(at)),
                None => panic!("client {:?} is disconnected without a reason", self.seated(shard, key)),
            },
            Action::Stopped(code) => panic!("no fatal code was sent, yet the shard stopped with {code}"),
        }
    }

    fn seated(&self, shard: usize, key: SeatKey) -> Option<usize> {
        self.clients.iter().position(|it| it.shard == shard && it.seat == Some(key))
    }

    fn connect(&mut self, shard: usize, url: &str) {
        self.discord[shard].on_connection_lost();
        let now = self.now;
        let line = &mut self.lines[shard];
        line.connection += 1;
        line.proxy_closed = false;
        line.half_open = false;
        line.arrival = [now; 2];
        let connection = line.connection;
        let dead_host = url.contains("resume.invalid") && self.troubled() && self.chance(20);
        self.say(|| format!("shard {shard}: connect {connection} to {url}"));
        let delay = self.millis(20..300);
        if dead_host || (self.troubled() && self.chance(8)) {
            self.at(self.now + delay, Happening::Lost(shard, connection, None));
        } else if !(self.troubled() && self.chance(2)) {
            self.at(self.now + delay, Happening::Opened(shard, connection));
        }
    }

    fn send_to_discord(&mut self, shard: usize, payload: Vec<u8>) {
        assert!(!self.lines[shard].proxy_closed, "sent without a connection: {}", String::from_utf8_lossy(&payload));
        self.say(|| format!("shard {shard}: the proxy sends {}", String::from_utf8_lossy(&payload)));
        let times = if self.saboteur.strikes(Sabotage::Flood, payload.starts_with(b"{\"op\":1")) { 130 } else { 1 };
        let delay = self.millis(5..60);
        for _ in 0..times {
            let line = &mut self.lines[shard];
            line.arrival[1] = (self.now + delay).max(line.arrival[1]);
            let (time, connection) = (line.arrival[1], line.connection);
            self.at(time, Happening::ToDiscord(shard, connection, payload.clone()));
        }
    }

    // ---- clients

    fn client_acts(&mut self, client: usize) {
        if self.process.is_none() {
            // Nobody listens.
            let pause = self.millis(100..1000);
            return self.at(self.now + pause, Happening::Client(client));
        }
        if self.clients[client].seat.is_none() {
            self.client_connects(client);
        } else if self.troubled() {
            match self.rng.u8(..8) {
                6 => self.client_takes_over(client),
                0 | 1 => self.client_drops(client),
                2 => self.client_ends(client),
                3 => self.clients[client].paused_until = self.now + self.millis(100..20_000),
                4 | 5 => self.request_members(client),
                _ => {}
            }
        }
        let pause = self.millis(500..12_000);
        let is_planned = self.agenda.values().any(|it| matches!(it, Happening::Client(other) if *other == client));
        if self.troubled() && !is_planned {
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
        let (seq, shard, instant) = (self.clients[client].last_sequence, self.clients[client].shard, self.instant());
        let resume = Resume { token: Token("secret".to_owned()), session_id, seq };
        let resumed = self.shard(shard).resume(instant, &resume);
        self.say(|| format!("client {client} resumes from {seq}: {resumed:?}"));
        match resumed {
            Ok(key) => {
                let it = &mut self.clients[client];
                it.on_connect();
                it.resuming = Some(self.now);
                it.seat = Some(key);
            }
            Err(ResumeRefused::InvalidSession) => {
                let fell_off = self.setup.is_tight && !self.has_disk();
                let it = &self.clients[client];
                self.totals.fell_off += u64::from(fell_off);
                assert!(
                    fell_off || it.may_lose || !it.has_snapshot() || self.has_lost_log(),
                    "op 9 to client {client} although its events are there"
                );
                self.client_identifies(client);
            }
            Err(ResumeRefused::InvalidSeq) => {
                assert!(self.clients[client].may_lose, "client {client}: a number that was given out is unknown");
                self.client_identifies(client);
            }
            Err(ResumeRefused::Stopped(code)) => panic!("the shard stopped with {code}"),
        }
    }

    /// The disk failed and took along what was not in memory: what is older than the process, or than a tight memory.
    fn has_lost_log(&self) -> bool {
        self.process.as_ref().is_some_and(|it| it.had_loss && (it.number > 1 || self.setup.is_tight))
    }

    fn has_disk(&self) -> bool {
        self.process.as_ref().and_then(|it| it.storage.as_ref()).is_some_and(|it| !it.has_failed())
    }

    fn client_identifies(&mut self, client: usize) {
        self.say(|| format!("client {client} identifies"));
        let entropy = self.rng.u128(..).to_le_bytes()[..12].try_into().expect("12 bytes are 12 bytes");
        let shard = self.clients[client].shard;
        let is_settled = self.shard(shard).is_settled();
        let seat = self.shard(shard).identify(&identify(shard), entropy).expect("there are fewer clients than seats");
        let received = self.lines[shard].received;
        let it = &mut self.clients[client];
        it.forget();
        it.on_connect();
        it.seat = Some(seat);
        it.last_message = received.filter(|_| is_settled);
    }

    /// The connection breaks, and of what was sent last only a part arrives.
    fn client_drops(&mut self, client: usize) {
        if let Some(key) = self.client_loses_touch(client) {
            let (instant, shard) = (self.instant(), self.clients[client].shard);
            self.shard(shard).leave(instant, key, false);
        }
    }

    /// The client has given its connection up and comes back on another before the proxy knows.
    fn client_takes_over(&mut self, client: usize) {
        let Some(key) = self.client_loses_touch(client) else { return };
        let (instant, shard) = (self.instant(), self.clients[client].shard);
        if self.clients[client].session_id.is_none() {
            return self.shard(shard).leave(instant, key, false);
        }
        self.abandoned.push((shard, key));
        self.client_connects(client);
        self.totals.takeovers += 1;
        if self.clients[client].seat == Some(key) {
            self.abandoned.retain(|it| *it != (shard, key));
        }
    }

    fn client_loses_touch(&mut self, client: usize) -> Option<SeatKey> {
        let key = self.clients[client].seat?;
        let shard = self.clients[client].shard;
        let mut bytes = Vec::new();
        let room = self.rng.usize(1..4000);
        let process = self.process.as_mut().expect("it lives");
        let pumped = process.group.shards[shard].pump(key, &mut self.clients[client].encoder, &mut bytes, room);
        if pumped == Pumped::FellOff {
            self.on_fell_off(client);
            return None;
        }
        let arrived = self.rng.usize(..=bytes.len());
        self.say(|| format!("client {client} drops, {arrived} of {} bytes arrive", bytes.len()));
        self.client_gets(client, &bytes[..arrived]);
        let it = &mut self.clients[client];
        it.seat = None;
        it.resuming = None;
        Some(key)
    }

    fn client_ends(&mut self, client: usize) {
        let (instant, shard) = (self.instant(), self.clients[client].shard);
        if let Some(key) = self.clients[client].seat {
            self.say(|| format!("client {client} ends its session"));
            self.shard(shard).leave(instant, key, true);
            self.clients[client].forget();
        }
    }

    fn request_members(&mut self, client: usize) {
        let (instant, shard) = (self.instant(), self.clients[client].shard);
        let it = &mut self.clients[client];
        // A library asks about guilds that it knows.
        let Some(key) = it.seat.filter(|_| it.has_snapshot()) else { return };
        it.requests += 1;
        let nonce = format!("client-{client}-{}", it.requests);
        let payload = format!(r#"{{"op":8,"d":{{"guild_id":"100","query":"","limit":0,"nonce":"{nonce}"}}}}"#);
        let Ok(ClientPayload::Command(command)) = payload::parse(payload.as_bytes()) else { panic!("{payload}") };
        // A full queue refuses; the runtime would close the client, here it just goes on.
        let _ = self.shard(shard).on_command(instant, key, command);
    }

    fn pump(&mut self, client: usize) {
        let Some(key) = self.clients[client].seat else { return };
        let (room, shard) = (self.rng.usize(1..8000), self.clients[client].shard);
        let mut bytes = Vec::new();
        let process = self.process.as_mut().expect("it lives");
        let pumped = process.group.shards[shard].pump(key, &mut self.clients[client].encoder, &mut bytes, room);
        self.client_gets(client, &bytes);
        match pumped {
            Pumped::FellOff => self.on_fell_off(client),
            Pumped::Full if !self.agenda.keys().any(|it| it.0 <= self.now + Duration::from_millis(5)) => {
                // Room comes back soon.
                let soon = self.now + Duration::from_millis(5);
                self.at(soon, Happening::Wake);
            }
            Pumped::Full | Pumped::Current | Pumped::Reading => {}
        }
    }

    fn client_gets(&mut self, client: usize, bytes: &[u8]) {
        if self.saboteur.strikes(Sabotage::SkipBytes, !bytes.is_empty()) {
            return;
        }
        self.say(|| format!("client {client} gets {}", shown(bytes)));
        self.clients[client].on_bytes(bytes);
        if self.saboteur.strikes(Sabotage::RepeatBytes, !bytes.is_empty()) {
            self.clients[client].on_bytes(bytes);
        }
        let it = &mut self.clients[client];
        let certain = &self.lines[it.shard].certain;
        for ((session, last), next) in it.crossings.drain(..) {
            self.totals.crossings += 1;
            let missed =
                certain.range(session..next).find(|(at, must)| **must > if **at == session { last } else { 0 });
            assert!(missed.is_none(), "client {client} went from {session}/{last} to {next} and missed {missed:?}");
        }
    }

    /// Only a tight log without a disk may lose a client's place.
    fn on_fell_off(&mut self, client: usize) {
        assert!(
            self.setup.is_tight && !self.has_disk() || self.clients[client].may_lose || self.has_lost_log(),
            "client {client} fell off a log with room"
        );
        self.totals.fell_off += 1;
        self.clients[client].forget();
    }
}

/// Bytes for the history: what is printable of them, without filling.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("xxxx", "");
    text.chars().filter(|it| it.is_ascii_graphic()).collect()
}

fn identify(shard: usize) -> Identify {
    let shard = Some([shard as u32, SHARDS as u32]);
    Identify { token: Token("secret".to_owned()), shard, intents: 1, compress: false }
}
