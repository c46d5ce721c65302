//! What cores and the storage thread say to each other: one closed enum from the cores, `ToCore` back.

use std::time::Duration;

use crate::store::{Sealed, StateBlob, StoreStats};
use crate::wire::ShardId;

/// Upper bounds of the buckets of `shardgate_store_write_seconds`.
pub const WRITE_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// What one core hands over at once: records first, then what was sealed and checkpointed after them. It comes back emptied with
/// `ToCore::StoreWritten`, so that its buffers are used again.
#[derive(Debug, Default)]
pub struct Batch {
    pub core: usize,
    /// Framed (`store::frame`), all shards of the core.
    pub records: Vec<u8>,
    pub segments: Vec<(ShardId, Sealed)>,
    pub states: Vec<(ShardId, StateBlob)>,
    /// By a shard's index on its core: how far its journal is written with this batch.
    pub marks: Vec<(usize, u64)>,
    /// A client waits for it: what it will depend on must survive a loss of power, too.
    pub is_awaited: bool,
    /// Bytes in all, as counted against `INFLIGHT_BYTES_MAX`.
    pub bytes: usize,
}

/// A buffer above this is given back after use.
const RECORDS_KEPT_MAX: usize = 2 << 20;

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.segments.is_empty() && self.states.is_empty()
    }

    /// All but the marks, which say what was written.
    pub fn empty(&mut self) {
        self.records.clear();
        self.records.shrink_to(RECORDS_KEPT_MAX);
        self.segments.clear();
        self.states.clear();
    }
}

/// Mail for the storage thread.
#[derive(Debug)]
pub enum ToStore {
    Batch(Batch),
    /// Answered by `ToCore::StoreSegment`.
    Read {
        core: usize,
        shard: ShardId,
        index: u64,
    },
    /// All that was asked by `ToCore::StoreRotate` is in the batches before. `floors`: the lowest index that each shard needs.
    Rotated {
        core: usize,
        wal: u64,
        floors: Vec<(ShardId, u64)>,
    },
    /// Room for that many more bytes of recovered state.
    StateTaken {
        bytes: usize,
    },
    /// The disk stands still, with as much under way as may be.
    TooSlow,
    /// Nothing more comes from this core. When all have said so the store ends: `ToCore::StoreEnded`.
    CoreEnded {
        core: usize,
    },
}

/// With the store's generation that it is meant for: after a loss what was under way is void.
#[derive(Debug)]
pub struct Mail {
    pub generation: u64,
    pub message: ToStore,
}

/// How long writes took.
#[derive(Clone, Debug, Default)]
pub struct WriteTimes {
    /// One count per bucket of `WRITE_BUCKETS`, not cumulative; the last one is +Inf.
    pub counts: [u64; WRITE_BUCKETS.len() + 1],
    pub sum: Duration,
    pub longest: Duration,
}

impl WriteTimes {
    pub fn add(&mut self, took: Duration) {
        let bucket = WRITE_BUCKETS.partition_point(|it| *it < took.as_secs_f64());
        self.counts[bucket] += 1;
        self.sum += took;
        self.longest = self.longest.max(took);
    }
}

/// For the metrics.
#[derive(Clone, Debug, Default)]
pub struct StoreReport {
    /// Nothing is kept: the disk has failed.
    pub is_lost: bool,
    /// "io_uring, direct" or "plain files".
    pub files: &'static str,
    pub stats: StoreStats,
    /// Failures since the start.
    pub errors: u64,
    /// What writing took, the batches of all cores at a time.
    pub writes: WriteTimes,
}
