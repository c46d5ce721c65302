//! What applying an event to the state costs, beside what relaying the same event costs: a table in time per event.
//!
//! Relaying is what happens without a cache and without a kernel: inflate (zstd, a window of 32 KiB), check and scan the envelope, append to the
//! log, write the frame for one client that takes no compression. Applying is `Cache::read` and `Cache::apply_told`, which a shard does on top.
//! Each event comes in variants (other members, other texts), so that neither the compressor nor the cache sees the same one twice in
//! a row; the two are measured in turn, and of the rounds the quickest counts, which other load does not lengthen.
//!
//! `cargo bench --bench apply`, or `-- GUILD_MEMBER 2000` for the types with that name, and so many rounds of applying alone (for a profiler).

#[path = "../src/cache/tests/fixture.rs"]
mod fixture;

use std::hint::black_box;
use std::time::{Duration, Instant};

use fixture::{FIRST_CHANNEL, FIRST_EMOJI, FIRST_ROLE, FIRST_THREAD, FIRST_USER, LARGE, Size, USUAL, in_guild};
use shardgate::cache::{Cache, CacheFlags, Shapes};
use shardgate::shard::log::{Audience, Log};
use shardgate::wire::{Compression, Encoder, Inflater, scan};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

/// As the proxy has it.
#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

const GUILD: u64 = 600_000_000_000_000_000;
/// Of each event; as many members are in the guild besides others.
const VARIANTS: u64 = 64;
const ROUNDS: u32 = 60;
/// Bytes of an event's variants that are applied in one round, about.
const ROUND_BYTES: usize = 256 << 10;
/// The log's budget while it is measured.
const LOG_BYTES: usize = 16 << 20;

type Events = Vec<(&'static str, Vec<String>)>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    let wanted = words.first().cloned().unwrap_or_default();
    let events = events();
    let events = events.into_iter().filter(|(name, _)| name.contains(&wanted));
    if let Some(rounds) = words.get(1).and_then(|it| it.parse::<usize>().ok()) {
        let mut cache = cache_of(LARGE);
        for (name, variants) in events {
            apply(&mut cache, name, &variants, rounds.div_ceil(variants.len()));
        }
        return;
    }
    println!("| event | bytes | apply, µs | relay, µs | apply / relay |\n|---|---|---|---|---|");
    for (name, variants) in events {
        let size = if name.starts_with("GUILD_CREATE") { USUAL } else { LARGE };
        let (applied, relayed) = measure(name, &variants, cache_of(size));
        let bytes = variants.iter().map(String::len).sum::<usize>() / variants.len();
        let us = |it: Duration| it.as_nanos() as f64 / 1000.0;
        println!("| {name} | {bytes} | {:.2} | {:.2} | {:.2} |", us(applied), us(relayed), us(applied) / us(relayed));
    }
}

fn cache_of(size: Size) -> Cache {
    let mut cache = Cache::new(CacheFlags::ALL, Shapes::default());
    cache.on_ready(fixture::ready(FIRST_USER, &[GUILD]).as_bytes()).expect("the fixture is JSON");
    cache.apply(b"GUILD_CREATE", fixture::guild(GUILD, size).as_bytes()).expect("the fixture is JSON");
    cache
}

/// The types that change state, with the variants of their `d`; what is behind a space in a name is for the reader.
fn events() -> Events {
    let each = |of: &dyn Fn(u64) -> String| (0..VARIANTS).map(of).collect::<Vec<_>>();
    let user = |n: u64| FIRST_USER + 20 * n;
    let member = |n: u64| {
        let nick = format!("\"nick\":\"nick {}\"", n * 7919);
        fixture::member(user(n), &[GUILD + FIRST_ROLE + n % 100]).replace("\"nick\":null", &nick)
    };
    let status = |n: u64| ["online", "idle", "dnd"][n as usize % 3];
    let chunk = |first: u64, members: u64| {
        let list: Vec<_> = (first..first + members)
            .map(|n| fixture::member(FIRST_USER + n % 1400, &[GUILD + FIRST_ROLE + n % 100]))
            .collect();
        format!(
            r#"{{"presences":[],"not_found":[],"nonce":"x","members":[{}],"guild_id":"{GUILD}","chunk_index":0,"chunk_count":1}}"#,
            list.join(",")
        )
    };
    let channel =
        |n: u64| fixture::channel(GUILD + FIRST_CHANNEL + n).replace("\"position\":3", &format!("\"position\":{n}"));
    let voice = |n: u64| {
        let state = fixture::voice_state(user(n), GUILD + FIRST_CHANNEL + n);
        format!(r#"{{"member":{},{}"#, member(n), &in_guild(GUILD, &state)[1..])
    };
    let emojis = |n: u64| {
        let list: Vec<_> = (0..50).map(|at| fixture::emoji(GUILD + FIRST_EMOJI + (at + n) % 200)).collect();
        format!(r#"{{"guild_id":"{GUILD}","emojis":[{}]}}"#, list.join(","))
    };
    let thread = |n: u64| fixture::thread(GUILD, GUILD + FIRST_THREAD + n % 40, GUILD + FIRST_CHANNEL);
    vec![
        ("PRESENCE_UPDATE", each(&|n| in_guild(GUILD, &fixture::presence(user(n), status(n))))),
        ("VOICE_STATE_UPDATE", each(&voice)),
        ("GUILD_MEMBER_UPDATE", each(&|n| in_guild(GUILD, &member(n)))),
        ("GUILD_MEMBER_ADD", each(&|n| in_guild(GUILD, &member(n)))),
        (
            "GUILD_MEMBER_REMOVE of nobody listed",
            each(&|n| format!(r#"{{"guild_id":"{GUILD}","user":{{"id":"{n}","username":"gone"}}}}"#)),
        ),
        ("CHANNEL_UPDATE", each(&|n| in_guild(GUILD, &channel(n)))),
        ("THREAD_UPDATE", each(&thread)),
        (
            "GUILD_ROLE_UPDATE",
            each(&|n| format!(r#"{{"guild_id":"{GUILD}","role":{}}}"#, fixture::role(GUILD + FIRST_ROLE + n))),
        ),
        ("GUILD_EMOJIS_UPDATE of 50", each(&emojis)),
        ("GUILD_UPDATE", each(&|n| format!(r#"{{"id":"{GUILD}","name":"renamed {n}","features":[]}}"#))),
        ("GUILD_MEMBERS_CHUNK of 100", each(&|n| chunk(100 * n, 100))),
        ("GUILD_MEMBERS_CHUNK of 1000", (0..8).map(|n| chunk(1000 * n, 1000)).collect()),
        ("GUILD_CREATE usual", (0..8).map(|n| fixture::guild(GUILD + n, USUAL)).collect()),
        ("GUILD_CREATE 1 MiB", (0..2).map(|n| fixture::guild(GUILD + n, LARGE)).collect()),
        ("GUILD_CREATE 3 MB", (0..2).map(|n| fixture::guild(GUILD + n, Size { members: 4_600, ..LARGE })).collect()),
    ]
}

/// The event type of a row's name.
fn event_type(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

/// The time of one event: applied, and relayed.
fn measure(name: &str, variants: &[String], mut cache: Cache) -> (Duration, Duration) {
    let bytes: usize = variants.iter().map(String::len).sum();
    let times = (ROUND_BYTES / bytes).clamp(1, 400);
    let events = (times * variants.len()) as u32;
    let mut relay = Relay::default();
    let (mut applied, mut relayed) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let before = now();
        apply(&mut cache, name, variants, times);
        applied = applied.min(before.elapsed());
        let messages: Vec<Vec<u8>> = (0..times).flat_map(|_| variants).map(|d| relay.message(name, d)).collect();
        let before = now();
        messages.iter().for_each(|message| relay.pass(message));
        relayed = relayed.min(before.elapsed());
    }
    (applied / events, relayed / events)
}

fn apply(cache: &mut Cache, name: &str, variants: &[String], times: usize) {
    let event_type = event_type(name).as_bytes();
    for d in (0..times).flat_map(|_| variants) {
        let told = cache.read(event_type, black_box(d.as_bytes())).expect("the event matters");
        cache.apply_told(&told).expect("the event is JSON");
    }
}

/// Discord's stream and what the proxy does with it.
struct Relay {
    discord: CCtx<'static>,
    sequence: u64,
    inflater: Inflater,
    log: Log,
    encoder: Encoder,
    payload: Vec<u8>,
    out: Vec<u8>,
    now: Instant,
}

impl Default for Relay {
    fn default() -> Self {
        let mut discord = CCtx::create();
        for parameter in [CParameter::CompressionLevel(3), CParameter::WindowLog(15)] {
            discord.set_parameter(parameter).expect("zstd knows the parameter");
        }
        Self {
            discord,
            sequence: 0,
            inflater: Inflater::new(Compression::Zstd),
            log: Log::default(),
            encoder: Encoder::new(Compression::None),
            payload: Vec::new(),
            out: Vec::new(),
            now: now(),
        }
    }
}

impl Relay {
    /// The next message of Discord's.
    fn message(&mut self, name: &str, d: &str) -> Vec<u8> {
        self.sequence += 1;
        let payload = format!(r#"{{"t":"{}","s":{},"op":0,"d":{d}}}"#, event_type(name), self.sequence);
        let mut message = vec![0; zstd_safe::compress_bound(payload.len()) + 1024];
        let mut output = OutBuffer::around(&mut message[..]);
        let mut input = InBuffer::around(payload.as_bytes());
        while input.pos() < payload.len() {
            self.discord.compress_stream(&mut output, &mut input).expect("the buffer is large enough");
        }
        while self.discord.flush_stream(&mut output).expect("the buffer is large enough") > 0 {}
        let len = output.pos();
        message.truncate(len);
        message
    }

    fn pass(&mut self, message: &[u8]) {
        self.payload.clear();
        self.inflater.inflate(message, &mut self.payload).expect("it is a stream of zstd");
        let envelope = scan::scan_text(&self.payload).expect("it is a payload");
        let digits = envelope.sequence_span.expect("a dispatch has a number");
        let index = self.log.head();
        self.log.append(
            self.now,
            index,
            &self.payload[..digits.start],
            &[&self.payload[digits.end..]],
            Audience::Everyone,
        );
        self.out.clear();
        let Self { log, encoder, out, .. } = self;
        log.read(index, index + 1, |_, dispatch| {
            encoder.write(&[dispatch.head, itoa::Buffer::new().format(index).as_bytes(), dispatch.tail], out);
            true
        });
        black_box(&self.out);
        while self.log.bytes() > LOG_BYTES {
            self.log.drop_oldest();
        }
    }
}

/// The clock. (The kernel counts a thread's CPU time in ticks, which are longer than a round.)
#[expect(clippy::disallowed_methods, reason = "criterion cannot measure two things in turn")]
fn now() -> Instant {
    Instant::now()
}
