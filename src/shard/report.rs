//! What a shard tells of itself, for `/metrics` and the pages.

use std::time::Duration;

use crate::cache::CacheCounts;

/// What one shard says of itself. Counters grow for the life of the process.
#[derive(Debug, Default, Clone)]
pub struct ShardReport {
    pub shard: u32,
    /// 0 fatal, 1 disconnected, 2 identifying, 3 resuming, 4 active (gateway-proxy's numbers).
    pub status: u8,
    /// The newest heartbeat's round trip; `None` before the first ACK.
    pub latency: Option<Duration>,
    /// Round trips of heartbeats: a count per bucket of `LATENCY_BUCKETS` (not cumulative, last one is +Inf), and their sum.
    pub latency_counts: [u64; LATENCY_BUCKETS.len() + 1],
    pub latency_sum: Duration,
    /// Dispatches received, by event type.
    pub events: Vec<(String, u64)>,
    pub cache: CacheCounts,
    /// Connected clients; sessions, connected or waiting for RESUME.
    pub clients: usize,
    pub sessions: usize,
    /// The log: bytes held, dispatches held, age of the oldest.
    pub log_bytes: usize,
    pub log_dispatches: u64,
    pub log_age: Duration,
    /// RESUMEs of clients answered with a replay, and with op 9.
    pub resumes: u64,
    pub resumes_refused: u64,
    /// Clients closed because they fell behind.
    pub lagging_closes: u64,
    /// Upstream: connections opened, IDENTIFYs and RESUMEs sent, close codes seen (0: none given).
    pub connects: u64,
    pub identifies: u64,
    pub upstream_resumes: u64,
    pub close_codes: Vec<(u16, u64)>,
    /// Client commands waiting for the 120/60 s budget, and refused because the queue was full.
    pub commands_queued: usize,
    pub commands_refused: u64,
}

/// Upper bounds of the buckets of `gateway_shard_latency_histogram`, in seconds.
pub const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
