//! Whether cores get in each other's way: the event path without a kernel, on one core and on more at once.
//!
//! Each thread is pinned and has shards of its own, as a core of the proxy has: 112 of them with a cached guild each, their streams one after the
//! other, so that what one event touches is cold when its shard's turn comes again. An event is inflated (zlib), scanned, kept in the log, applied
//! to the state and framed for one client. Nothing is shared but what the processor shares: the last cache, memory, heat. Rounds on one core
//! and on all alternate; the median counts.
//!
//! `cargo bench --bench scaling [-- ROUNDS]`

#[path = "../src/cache/tests/fixture.rs"]
#[expect(dead_code, reason = "tests and other benches take more of it")]
mod fixture;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use fixture::{FIRST_USER, USUAL, in_guild};
use shardgate::cache::{CacheFlags, Shapes};
use shardgate::session::payload::{Identify, Token};
use shardgate::shard::group::{Group, LogBudget};
use shardgate::shard::seat::SeatKey;
use shardgate::shard::{Shard, ShardSettings, properties};
use shardgate::wire::frame::parse_header;
use shardgate::wire::{Compression, Encoder, Inflater};

/// As the proxy has it.
#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

/// Shards of one core: half of 225.
const SHARDS: usize = 112;
/// Events of each shard in a round.
const EVENTS: usize = 40;
const ROUNDS: usize = 15;
/// The log of one core.
const LOG_BYTES: usize = 64 << 20;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(ROUNDS);
    let cpus = core_affinity::get_core_ids().expect("the CPUs can be listed");
    let mut alone = Vec::new();
    let mut together = Vec::new();
    for _ in 0..rounds {
        alone.push(events_per_s(&cpus[..1]));
        together.push(events_per_s(&cpus));
    }
    let (one, all) = (median(&mut alone), median(&mut together));
    println!("| cores | events/s | times one core |\n|---|---|---|");
    println!("| 1 | {one:.0} | 1 |");
    println!("| {} | {all:.0} | {:.2} |", cpus.len(), all / one);
}

/// Of all cores together, while all of them are at work.
fn events_per_s(cpus: &[core_affinity::CoreId]) -> f64 {
    let barrier = Barrier::new(cpus.len());
    let rates = thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .map(|cpu| {
                scope.spawn(|| {
                    assert!(core_affinity::set_for_current(*cpu), "the thread can be pinned");
                    let mut core = Core::new();
                    core.pass();
                    let messages = core.messages();
                    barrier.wait();
                    let took = core.take(&messages);
                    (SHARDS * EVENTS) as f64 / took.as_secs_f64()
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().expect("a core's thread ends well")).collect::<Vec<_>>()
    });
    rates.iter().sum()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What one core has.
struct Core {
    group: Group,
    streams: Vec<Stream>,
    now: Instant,
    payload: Vec<u8>,
    out: Vec<u8>,
}

/// Both ends of one shard's stream from Discord, and its client.
struct Stream {
    discord: Encoder,
    sequence: u64,
    inflater: Inflater,
    client: (SeatKey, Encoder),
}

impl Core {
    fn new() -> Self {
        let now = now();
        let mut shards: Vec<Shard> = (0..SHARDS as u64).map(|number| live_shard(now, guild_of(number))).collect();
        let streams = shards
            .iter_mut()
            .map(|shard| {
                let identify = Identify { token: Token("secret".to_owned()), shard: None, intents: 1, compress: false };
                let key = shard.identify(&identify, [0; 12]).expect("there is room");
                Stream {
                    discord: Encoder::new(Compression::Zlib),
                    sequence: 2,
                    inflater: Inflater::new(Compression::Zlib),
                    client: (key, Encoder::new(Compression::None)),
                }
            })
            .collect();
        let budget = LogBudget { bytes: LOG_BYTES, keep: Duration::from_secs(3600) };
        Self { group: Group::new(shards, budget), streams, now, payload: Vec::new(), out: Vec::new() }
    }

    /// A round that is not measured.
    fn pass(&mut self) {
        let messages = self.messages();
        self.take(&messages);
    }

    /// The next messages of Discord's, of all shards in turn.
    fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::with_capacity(EVENTS * SHARDS);
        for _ in 0..EVENTS {
            for (number, stream) in self.streams.iter_mut().enumerate() {
                stream.sequence += 1;
                let payload = event(guild_of(number as u64), stream.sequence);
                let mut message = Vec::new();
                stream.discord.write(&[payload.as_bytes()], &mut message);
                let (_, head_len) = parse_header(&message).expect("a frame").expect("a whole one");
                messages.push(message.split_off(head_len));
            }
        }
        messages
    }

    /// The time that all of them take.
    fn take(&mut self, messages: &[Vec<u8>]) -> Duration {
        let began = now();
        for (at, message) in messages.iter().enumerate() {
            let at = at % SHARDS;
            let stream = &mut self.streams[at];
            self.payload.clear();
            stream.inflater.inflate(message, &mut self.payload).expect("it is Discord's stream");
            let shard = &mut self.group.shards[at];
            shard.on_payload(self.now, &self.payload).expect("it is JSON");
            self.out.clear();
            let (key, encoder) = &mut stream.client;
            shard.pump(*key, encoder, &mut self.out, usize::MAX / 2);
            black_box(&self.out);
            self.group.trim_changed(&[at]);
        }
        now().duration_since(began)
    }
}

/// READY and one guild have come.
fn live_shard(now: Instant, guild: u64) -> Shard {
    let settings = ShardSettings { cache: CacheFlags::ALL, ..properties::settings() };
    let mut shard = Shard::new(settings, Shapes::default(), 1, now);
    shard.on_timeout(now);
    shard.on_turn(now, now);
    shard.on_open(now);
    let ready = fixture::ready(FIRST_USER, &[guild]);
    let ready = ready.replacen('{', r#"{"session_id":"a","#, 1);
    for payload in [
        r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#.to_owned(),
        format!(r#"{{"t":"READY","s":1,"op":0,"d":{ready}}}"#),
        format!(r#"{{"t":"GUILD_CREATE","s":2,"op":0,"d":{}}}"#, fixture::guild(guild, USUAL)),
    ] {
        shard.on_payload(now, payload.as_bytes()).expect("it is JSON");
    }
    while shard.poll(now).is_some() {}
    shard
}

fn guild_of(shard: u64) -> u64 {
    600_000_000_000_000_000 + (shard << 22)
}

/// What large bots hear most: messages and presences, some members.
fn event(guild: u64, sequence: u64) -> String {
    let user = FIRST_USER + 20 * (sequence * 7 % 60);
    let (name, d) = match sequence % 8 {
        0 => ("GUILD_MEMBER_UPDATE", in_guild(guild, &fixture::member(user, &[]))),
        1 | 4 | 6 => {
            ("PRESENCE_UPDATE", in_guild(guild, &fixture::presence(user, ["idle", "dnd"][sequence as usize / 8 % 2])))
        }
        _ => {
            let text = "a word and another, ".repeat(5 + sequence as usize % 20);
            (
                "MESSAGE_CREATE",
                format!(
                    r#"{{"id":"{sequence}","channel_id":"1","guild_id":"{guild}","author":{{"id":"{user}","username":"u"}},"content":"{text}","mentions":[],"attachments":[]}}"#
                ),
            )
        }
    };
    format!(r#"{{"t":"{name}","s":{sequence},"op":0,"d":{d}}}"#)
}

#[expect(clippy::disallowed_methods, reason = "the clock of a bench")]
fn now() -> Instant {
    Instant::now()
}
