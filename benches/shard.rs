//! What one dispatch costs a shard: taken in, kept, and written to its clients; and what RESUME costs. Without sockets.
//!
//! Sizes: a 200-byte typing event, a message of 1 KiB, an event of 100 KiB, a guild of 1 MiB.

#[path = "../tests/fixtures/live_shard.rs"]
mod live_shard;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use live_shard::{join, live_shard};
use shardgate::session::payload::{Resume, Token};
use shardgate::shard::group::{Group, LogBudget};
use shardgate::shard::log::{Audience, Log};
use shardgate::shard::seat::SeatKey;
use shardgate::wire::{Compression, Encoder};

/// The log's budget: the benches run long enough to reach it, as a proxy does.
const LOG_BYTES: usize = 16 << 20;
/// What a RESUME replays: as many dispatches as fit, and no more than these.
const REPLAYED_MAX: usize = 1000;
const REPLAYED_BYTES: usize = 8 << 20;
/// The core takes a journal away at about this size.
const BATCH_BYTES: usize = 512 << 10;

/// A live shard and its clients, READY taken.
struct Stage {
    group: Group,
    clients: Vec<(SeatKey, Encoder)>,
    now: Instant,
    sequence: u64,
    out: Vec<u8>,
}

impl Stage {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    fn new(clients: usize) -> Self {
        let now = Instant::now();
        let budget = LogBudget { bytes: LOG_BYTES, keep: Duration::from_secs(3600) };
        let mut stage = Self {
            group: Group::new(vec![live_shard(now)], budget),
            clients: Vec::new(),
            now,
            sequence: 1,
            out: Vec::new(),
        };
        for n in 0..clients {
            stage.clients.push((join(&mut stage.group.shards[0], n), Encoder::new(Compression::None)));
        }
        stage.pump();
        stage
    }

    /// One dispatch in, and to every client; the log stays within its budget.
    fn turn(&mut self, dispatch: &mut Numbered) {
        self.sequence += 1;
        let payload = dispatch.with(self.sequence);
        self.group.shards[0].on_payload(self.now, payload).unwrap();
        self.pump();
        self.group.trim_changed(&[0]);
    }

    fn pump(&mut self) {
        for (key, encoder) in &mut self.clients {
            self.out.clear();
            self.group.shards[0].pump(*key, encoder, &mut self.out, usize::MAX / 2);
            black_box(&self.out);
        }
    }
}

/// A dispatch whose sequence number can be set; it always has ten digits.
struct Numbered {
    payload: Vec<u8>,
    at: usize,
}

impl Numbered {
    fn new(name: &str, d: &str) -> Self {
        let head = format!(r#"{{"t":"{name}","s":"#);
        Self { at: head.len(), payload: format!(r#"{head}1000000000,"op":0,"d":{d}}}"#).into_bytes() }
    }

    fn with(&mut self, sequence: u64) -> &[u8] {
        let digits = (1_000_000_000 + sequence).to_string();
        self.payload[self.at..self.at + digits.len()].copy_from_slice(digits.as_bytes());
        &self.payload
    }
}

fn typing() -> Numbered {
    Numbered::new(
        "TYPING_START",
        r#"{"user_id":"100000000000000001","timestamp":1700000000,"member":{"user":{"id":"100000000000000001"}},"channel_id":"200000000000000001","guild_id":"300000000000000001"}"#,
    )
}

fn message() -> Numbered {
    let content = "a word or two ".repeat(60);
    Numbered::new(
        "MESSAGE_CREATE",
        &format!(
            r#"{{"id":"1","channel_id":"2","guild_id":"3","author":{{"id":"4"}},"content":"{content}","tts":false,"type":0}}"#
        ),
    )
}

/// Larger than any message is, and what an event with many members comes to.
fn large() -> Numbered {
    let content = "a word or two ".repeat(7_000);
    Numbered::new(
        "MESSAGE_CREATE",
        &format!(
            r#"{{"id":"1","channel_id":"2","guild_id":"3","author":{{"id":"4"}},"content":"{content}","type":0}}"#
        ),
    )
}

fn guild() -> Numbered {
    let role =
        |n: usize| format!(r#"{{"id":"{}","name":"role {n}","permissions":"0","color":0,"position":{n}}}"#, 1000 + n);
    let channel = |n: usize| {
        format!(r#"{{"id":"{}","name":"channel {n}","type":0,"topic":"{}"}}"#, 9000 + n, "words ".repeat(150))
    };
    let roles: Vec<_> = (0..200).map(role).collect();
    let channels: Vec<_> = (0..1080).map(channel).collect();
    let (roles, channels) = (roles.join(","), channels.join(","));
    Numbered::new(
        "GUILD_CREATE",
        &format!(
            r#"{{"id":"3","unavailable":false,"name":"guild","roles":[{roles}],"channels":[{channels}],"members":[]}}"#
        ),
    )
}

/// Makes a dispatch of one size.
type Make = fn() -> Numbered;

const SIZES: [(&str, Make); 4] = [("typing", typing), ("message", message), ("large", large), ("guild", guild)];

fn dispatch(c: &mut Criterion) {
    for (name, make) in SIZES {
        let mut benches = c.benchmark_group(format!("dispatch/{name}"));
        let mut payload = make();
        benches.throughput(Throughput::Bytes(payload.payload.len() as u64));
        for clients in [0, 1, 4] {
            let mut stage = Stage::new(clients);
            benches.bench_function(format!("{clients} clients"), |b| b.iter(|| stage.turn(&mut payload)));
        }
    }
}

/// What a store costs the event path: as above with one client, and everything taken away as the core does.
fn journal(c: &mut Criterion) {
    let mut benches = c.benchmark_group("journaled");
    for (name, make) in [("typing", typing as Make), ("message", message)] {
        let mut payload = make();
        benches.throughput(Throughput::Bytes(payload.payload.len() as u64));
        let mut stage = Stage::new(1);
        stage.group.shards[0].begin_journal();
        benches.bench_function(name, |b| {
            b.iter(|| {
                stage.turn(&mut payload);
                let shard = &mut stage.group.shards[0];
                if let Some(journal) = shard.journal()
                    && journal.bytes.len() > BATCH_BYTES
                {
                    let mark = journal.mark;
                    black_box(&journal.bytes);
                    journal.bytes.clear();
                    shard.on_written(mark);
                    while let Some(sealed) = shard.take_sealed() {
                        black_box(sealed);
                    }
                }
            })
        });
    }
}

fn append(c: &mut Criterion) {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    let now = Instant::now();
    let mut benches = c.benchmark_group("log");
    for (name, len) in [("200 B", 200), ("1 KiB", 1 << 10), ("100 KiB", 100 << 10), ("1 MiB", 1 << 20)] {
        let mut log = Log::default();
        let tail = vec![b'x'; len];
        benches.throughput(Throughput::Bytes(len as u64));
        benches.bench_function(format!("append/{name}"), |b| {
            b.iter(|| {
                if log.bytes() > LOG_BYTES {
                    log.drop_oldest();
                }
                log.append(now, log.head(), br#"{"t":"MESSAGE_CREATE","s":"#, &[&tail], Audience::Everyone)
            })
        });
    }
}

fn replay(c: &mut Criterion) {
    for (name, make) in SIZES {
        replay_of(c, name, &mut make());
    }
}

fn replay_of(c: &mut Criterion, name: &str, payload: &mut Numbered) {
    let replayed = (REPLAYED_BYTES / payload.payload.len()).min(REPLAYED_MAX);
    let mut stage = Stage::new(1);
    for _ in 0..replayed {
        stage.turn(payload);
    }
    let key = stage.clients[0].0;
    let session_id = stage.group.shards[0].session_id(key).unwrap().to_owned();
    let now = stage.now;
    let resume = Resume { token: Token("secret".to_owned()), session_id, seq: 1 };
    let mut benches = c.benchmark_group("resume");
    benches.throughput(Throughput::Elements(replayed as u64));
    for compression in [Compression::None, Compression::Zlib] {
        let shard = &mut stage.group.shards[0];
        benches.bench_function(format!("replay {replayed} {name}/{compression:?}"), |b| {
            b.iter_batched(
                || Encoder::new(compression),
                |mut encoder| {
                    let key = shard.resume(now, &resume).unwrap();
                    stage.out.clear();
                    shard.pump(key, &mut encoder, &mut stage.out, usize::MAX / 2);
                    black_box(stage.out.len())
                },
                BatchSize::SmallInput,
            )
        });
    }
}

criterion_group!(benches, dispatch, journal, append, replay);
criterion_main!(benches);
