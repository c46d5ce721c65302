//! The stage: the proxy's process, Discord, the clients, a clock that jumps to the next deadline, and what goes wrong between them.

mod core;
mod crowd;
mod life;
mod upstream;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use shardgate::session::payload::{self, ClientPayload, Identify, Resume, Token};
use shardgate::session::upstream::Status;
use shardgate::shard::seat::{Pumped, SeatKey};
use shardgate::shard::{Action, ResumeRefused, Shard};
use shardgate::wire::{CloseCode, ShardId};

use crate::client::{Client, Mark};
use crate::discord::{Discord, LastIdentify, Out, first_guild};
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
