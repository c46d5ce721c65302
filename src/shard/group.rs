//! The shards of one core, and the one number that bounds their logs together.
//!
//! A busy shard may use what quiet ones leave: the oldest segment of all goes first. With a store it goes from memory alone, and
//! only when it was handed over.

use std::time::{Duration, Instant};

use super::Shard;
use super::pressure::Pressure;
use super::seat::SeatKey;

/// How much log the shards of one core may hold.
#[derive(Clone, Copy, Debug)]
pub struct LogBudget {
    /// Bytes, index included. A hard limit: over it the oldest segment goes, however young it is.
    pub bytes: usize,
    /// Segments whose newest dispatch is older are given back although there is room.
    pub keep: Duration,
}

/// Shards sorted by id.
#[derive(Debug)]
pub struct Group {
    pub shards: Vec<Shard>,
    budget: LogBudget,
    pressure: Pressure,
    /// Segments dropped for want of room before their time was over.
    dropped_early: u64,
    /// `log().bytes()` of each shard as it was last looked at, and their sum: looking at all of them each turn would cost a cache
    /// miss per shard.
    counted: Vec<usize>,
    held: usize,
}

impl Group {
    pub fn new(shards: Vec<Shard>, budget: LogBudget) -> Self {
        let counted = vec![0; shards.len()];
        Self { shards, budget, pressure: Pressure::None, dropped_early: 0, counted, held: 0 }
    }

    /// The operator has another budget from now on.
    pub fn set_budget(&mut self, now: Instant, budget: LogBudget) {
        self.budget = budget;
        self.trim_by_age(now);
        self.trim_to_budget();
    }

    /// Segments that had to go before `keep` was over.
    pub fn dropped_early(&self) -> u64 {
        self.dropped_early
    }

    /// Bytes of log held by all shards.
    pub fn log_bytes(&self) -> usize {
        self.shards.iter().map(|it| it.log().bytes()).sum()
    }

    /// Memory has become shorter, or is there again: the logs shrink at once, and grow again as events come.
    pub fn set_pressure(&mut self, now: Instant, pressure: Pressure) {
        self.pressure = pressure;
        for shard in &mut self.shards {
            shard.hold_snapshots(now, pressure.holds_snapshots());
        }
        self.trim_to_budget();
    }

    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Bytes of log that all shards may hold now.
    fn allowed_bytes(&self) -> usize {
        self.pressure.log_bytes(self.budget.bytes)
    }

    /// Gives back what is older than the budget's time. For a slow timer.
    pub fn trim_by_age(&mut self, now: Instant) {
        for shard in &mut self.shards {
            while shard.log().oldest_segment().is_some_and(|it| now.saturating_duration_since(it) > self.budget.keep) {
                shard.drop_oldest();
            }
        }
        self.count_all();
    }

    /// Brings the logs back within the budget's bytes, whatever happened since.
    pub fn trim_to_budget(&mut self) {
        self.count_all();
        self.trim();
    }

    /// The same once per turn, when only the logs of these shards, by place, have changed.
    ///
    /// With a store: when all that is left has not been handed over, the oldest segment is ended, to go in one of the next turns. The
    /// core counts a store that does not take them as lost.
    pub fn trim_changed(&mut self, changed: &[usize]) {
        for &at in changed {
            self.count(at);
        }
        self.trim();
    }

    fn count(&mut self, at: usize) {
        let bytes = self.shards[at].log().bytes();
        self.held = self.held - self.counted[at] + bytes;
        self.counted[at] = bytes;
    }

    fn count_all(&mut self) {
        for at in 0..self.shards.len() {
            self.count(at);
        }
    }

    fn trim(&mut self) {
        let allowed = self.allowed_bytes();
        while self.held > allowed {
            let oldest = self.shards.iter().enumerate().filter_map(|(at, it)| Some((it.log().oldest_segment()?, at)));
            let Some((_, at)) = oldest.min() else { return self.close_oldest() };
            self.shards[at].drop_oldest();
            self.dropped_early += u64::from(!self.shards[at].has_store());
            self.count(at);
        }
    }

    /// Whether this client lags so far that, with the budget used up, it would soon lose what it has not read: it is closed while its
    /// events are still there.
    pub fn is_endangered(&self, shard: usize, key: SeatKey) -> bool {
        let log = self.shards[shard].log();
        !self.shards[shard].has_store()
            && self.log_bytes() > self.allowed_bytes() / 10 * 9
            && self.shards[shard].lag_bytes(key) as usize > log.bytes() / 2
    }

    fn close_oldest(&mut self) {
        let open = self.shards.iter_mut().filter(|it| it.log().oldest_open().is_some());
        if let Some(shard) = open.min_by_key(|it| it.log().oldest_open()) {
            shard.close_segment();
        }
    }
}
