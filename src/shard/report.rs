//! What a shard tells of itself, for `/metrics` and the pages.

use std::time::Duration;

use crate::cache::{CacheBytes, CacheCounts};
use crate::session::upstream::Reconnects;

/// Upper bounds of the buckets of `gateway_shard_latency_histogram`, in seconds.
pub const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// An object of the cached state, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Guild(u64),
    /// A channel or a thread.
    Channel(u64),
    User(u64),
}

/// Round trips of heartbeats.
#[derive(Debug, Default, Clone)]
pub struct Latencies {
    /// One count per bucket of `LATENCY_BUCKETS`, not cumulative; the last one is +Inf.
    pub counts: [u64; LATENCY_BUCKETS.len() + 1],
    pub sum: Duration,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let bucket = LATENCY_BUCKETS.partition_point(|it| *it < latency.as_secs_f64());
        self.counts[bucket] += 1;
        self.sum += latency;
    }
}

/// How far the cursors of connected clients are behind the log's head.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Of all of them together, and of the one that is furthest behind.
    pub dispatches: u64,
    pub dispatches_max: u64,
    pub bytes: u64,
    pub bytes_max: u64,
}

impl Lag {
    pub fn add(&mut self, dispatches: u64, bytes: u64) {
        self.dispatches += dispatches;
        self.dispatches_max = self.dispatches_max.max(dispatches);
        self.bytes += bytes;
        self.bytes_max = self.bytes_max.max(bytes);
    }
}

/// What one shard says of itself. Counters grow for the life of the process.
#[derive(Debug, Default, Clone)]
pub struct ShardReport {
    pub shard: u32,
    /// 0 fatal, 1 disconnected, 2 identifying, 3 resuming, 4 active (gateway-proxy's numbers).
    pub status: u8,
    /// Why clients are not served as they should be, for people; `None` when they are.
    pub unready: Option<String>,
    /// The newest heartbeat's round trip; `None` before the first ACK.
    pub latency: Option<Duration>,
    pub latencies: Latencies,
    /// Dispatches received, by event type.
    pub events: Vec<(String, u64)>,
    /// Their bytes as the log keeps them, each once.
    pub dispatched_bytes: u64,
    pub cache: CacheCounts,
    pub cache_bytes: CacheBytes,
    /// Dispatches that the cache could not read; they were passed on.
    pub cache_errors: u64,
    /// Connected clients; sessions, connected or waiting for RESUME.
    pub clients: usize,
    pub sessions: usize,
    /// The log: bytes held, dispatches held, age of the oldest.
    pub log_bytes: usize,
    pub log_dispatches: u64,
    pub log_age: Duration,
    pub lag: Lag,
    /// `member_count` of all guilds that are known.
    pub guild_members: u64,
    /// RESUMEs of clients answered with a replay, and with op 9 or 4007.
    pub resumes: u64,
    /// Clients closed because they fell behind.
    pub lagging_closes: u64,
    /// Connections opened to Discord, IDENTIFYs and RESUMEs sent.
    pub connects: u64,
    pub identifies: u64,
    pub upstream_resumes: u64,
    /// Dispatches of Discord that repeated a sequence number, and were left out.
    pub repeated: u64,
    /// How often Discord left numbers out between two dispatches.
    pub sequence_gaps: u64,
    /// How often Discord forgot the session: what happened meanwhile clients were told as a difference of state.
    pub known_gaps: u64,
    /// Segments of the log read back from the store.
    pub log_reads: u64,
    /// Close codes of Discord, 0 where it gave none.
    pub close_codes: Vec<(u16, u64)>,
    pub reconnects: Reconnects,
    /// Client commands waiting for the 120/60 s budget, and refused because a queue was full.
    pub commands_queued: usize,
    pub commands_refused: u64,
    pub commands_misrouted: u64,
}
