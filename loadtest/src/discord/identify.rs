//! Who may IDENTIFY, and when: one per bucket and interval, a number per day.
//!
//! Source: Discord, Gateway › Sharding › Max concurrency; Session start limit.

use std::collections::HashMap;

/// What an IDENTIFY meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// Another shard of the same bucket was granted within the interval: op 9 `d:false`.
    TooSoon,
    /// The day's number is used up: Discord would reset the token.
    Exhausted,
}

#[derive(Debug)]
pub struct IdentifyGate {
    max_concurrency: u32,
    interval_ns: u64,
    pub total: u32,
    pub used: u32,
    granted_ns: HashMap<u32, u64>,
}

impl IdentifyGate {
    pub fn new(max_concurrency: u32, interval_ns: u64, total: u32) -> Self {
        Self { max_concurrency: max_concurrency.max(1), interval_ns, total, used: 0, granted_ns: HashMap::new() }
    }

    pub fn max_concurrency(&self) -> u32 {
        self.max_concurrency
    }

    /// From now on; who was granted in the last interval is forgotten.
    pub fn set_max_concurrency(&mut self, max_concurrency: u32) {
        self.max_concurrency = max_concurrency.max(1);
        self.granted_ns.clear();
    }

    pub fn remaining(&self) -> u32 {
        self.total - self.used
    }

    /// One IDENTIFY of `shard`. A refused one is not counted against the day.
    pub fn on_identify(&mut self, shard: u32, now_ns: u64) -> Verdict {
        let bucket = shard % self.max_concurrency;
        if self.used >= self.total {
            return Verdict::Exhausted;
        }
        if self.granted_ns.get(&bucket).is_some_and(|it| now_ns - it < self.interval_ns) {
            return Verdict::TooSoon;
        }
        self.granted_ns.insert(bucket, now_ns);
        self.used += 1;
        Verdict::Granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_one_bucket_must_be_an_interval_apart() {
        let mut gate = IdentifyGate::new(16, 5, 1000);
        assert_eq!(gate.on_identify(0, 0), Verdict::Granted);
        assert_eq!(gate.on_identify(1, 0), Verdict::Granted);
        assert_eq!(gate.on_identify(16, 4), Verdict::TooSoon);
        assert_eq!(gate.on_identify(16, 5), Verdict::Granted);
        assert_eq!(gate.used, 3);
    }

    #[test]
    fn the_day_has_an_end() {
        let mut gate = IdentifyGate::new(1, 0, 2);
        assert_eq!(gate.on_identify(0, 0), Verdict::Granted);
        assert_eq!(gate.on_identify(0, 0), Verdict::Granted);
        assert_eq!(gate.on_identify(0, 0), Verdict::Exhausted);
        assert_eq!(gate.remaining(), 0);
    }
}
