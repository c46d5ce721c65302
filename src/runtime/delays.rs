//! How long Discord's payloads were with us: a histogram of fixed size, counted by the turn.
//!
//! From the moment a turn got the bytes from the kernel until they lay in the outboxes of all clients that were to get them. What bytes waited in the
//! kernel before, and what the kernel does with an outbox, is not in it. Cost: one reading of the clock and four comparisons per turn that brought
//! payloads, nothing per payload, no allocation.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Upper bounds of the buckets, in seconds.
pub const DELAY_BUCKETS: [f64; 16] = [
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
];

/// One count per bucket of `DELAY_BUCKETS`, not cumulative; the last one is +Inf.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delays {
    pub counts: [u64; DELAY_BUCKETS.len() + 1],
    pub sum: Duration,
}

impl Delays {
    /// A turn of this length brought so many payloads: each of them was delayed by no more than all of it.
    pub fn add(&mut self, turn: Duration, payloads: u32) {
        let bucket = DELAY_BUCKETS.partition_point(|it| *it < turn.as_secs_f64());
        self.counts[bucket] += u64::from(payloads);
        self.sum += turn * payloads;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_payload_of_a_turn_counts_with_the_length_of_the_turn() {
        let mut delays = Delays::default();
        delays.add(Duration::from_micros(100), 3);
        delays.add(Duration::from_nanos(100_001), 1);
        delays.add(Duration::from_secs(2), 2);
        assert_eq!((delays.counts[3], delays.counts[4], delays.counts[DELAY_BUCKETS.len()]), (3, 1, 2));
        assert_eq!(delays.counts.iter().sum::<u64>(), 6);
        assert_eq!(delays.sum, Duration::from_nanos(4_000_400_001));
    }
}
