//! Scaffold: replaced by session.
use crate::wire::ShardId;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub struct IdentifyQueue {
    waiting: BTreeSet<ShardId>,
    remaining: u32,
    total: u32,
    resets: Instant,
}

impl IdentifyQueue {
    pub fn new(_max_concurrency: u32, remaining: u32, reset_after: Duration, now: Instant) -> Self {
        Self { waiting: BTreeSet::new(), remaining, total: remaining.max(1), resets: now + reset_after }
    }
    pub fn on_wanted(&mut self, shard: ShardId, _now: Instant) {
        self.waiting.insert(shard);
    }
    pub fn on_sent(&mut self, _shard: ShardId, _at: Instant) {}
    pub fn on_returned(&mut self, _shard: ShardId, _now: Instant) {
        self.remaining += 1;
    }
    pub fn poll(&mut self, now: Instant) -> Option<(ShardId, Instant)> {
        if now >= self.resets && self.remaining == 0 {
            self.remaining = self.total;
        }
        if self.remaining == 0 {
            return None;
        }
        let shard = self.waiting.pop_first()?;
        self.remaining -= 1;
        Some((shard, now))
    }
    pub fn due(&self) -> Option<Instant> {
        (self.remaining == 0 && !self.waiting.is_empty()).then_some(self.resets)
    }
    pub fn on_limits(&mut self, _mc: u32, total: u32, remaining: u32, reset_after: Duration, now: Instant) {
        self.total = total;
        self.remaining = remaining;
        self.resets = now + reset_after;
    }
    pub fn remaining(&self) -> u32 {
        self.remaining
    }
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
    pub fn exhausted(&self, now: Instant) -> Option<Duration> {
        (self.remaining == 0).then(|| self.resets.saturating_duration_since(now))
    }
}
