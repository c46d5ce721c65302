//! Promises broken on purpose, at the borders of the stage: what the checker is worth.

use fastrand::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A batch of records is acknowledged and never written.
    DropBatch,
    /// Two batches change places on their way to the disk.
    SwapBatches,
    /// What a client depends on is acknowledged before it is written.
    SkipGates,
    /// A restart forgets a client's session.
    ForgetSeats,
    /// A checkpoint comes back with another content.
    SpoilState,
    /// A restart finds an empty disk.
    WipeDisk,
    /// A restart finds the disk as it was at the start before.
    OldDisk,
    /// A dispatch of Discord's is never given to the shard.
    LoseDispatch,
    /// A dispatch of Discord's is given to the shard again, under the next number.
    DoubleDispatch,
    /// What a client is sent comes twice.
    RepeatBytes,
    /// A client never gets some of what it is sent.
    SkipBytes,
    /// A chunk is given to whoever asked something else.
    ForeignChunk,
    /// More payloads go to Discord than a connection may send.
    Flood,
}

/// Who commits it, now and then.
pub struct Saboteur {
    what: Option<Sabotage>,
    rng: Rng,
    pub strikes: u64,
}

impl Saboteur {
    pub fn new(what: Option<Sabotage>, seed: u64) -> Self {
        Self { what, rng: Rng::with_seed(seed ^ 0xBAD), strikes: 0 }
    }

    /// Whether `what` is to be done now, where it would make a difference.
    pub fn strikes(&mut self, what: Sabotage, matters: bool) -> bool {
        let strikes = self.what == Some(what) && matters && self.rng.u8(..4) == 0;
        self.strikes += u64::from(strikes);
        strikes
    }
}
