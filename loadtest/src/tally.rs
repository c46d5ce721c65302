//! What a group of clients measured together: latencies of live events, for the whole run and since the last look.

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in nanoseconds; longer ones count as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

#[derive(Clone)]
pub struct Tally {
    /// Nanoseconds from sending by the fake Discord to reading by the client, live events only.
    pub latency: Histogram<u64>,
    /// The same since the last `take_recent`.
    recent: Histogram<u64>,
    pub delivered: u64,
    /// Events that were sent before the client's session went live, so came late by design.
    pub replayed: u64,
}

impl Tally {
    pub fn new() -> Self {
        let empty = Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3).expect("bounds and digits are in range");
        Self { latency: empty.clone(), recent: empty, delivered: 0, replayed: 0 }
    }

    pub fn on_traffic(&mut self, latency_ns: u64, is_live: bool) {
        self.delivered += 1;
        if is_live {
            self.latency.saturating_record(latency_ns);
            self.recent.saturating_record(latency_ns);
        } else {
            self.replayed += 1;
        }
    }

    /// p50 and p99 in nanoseconds of the live events since the last call.
    pub fn take_recent(&mut self) -> (u64, u64) {
        let quantiles = (self.recent.value_at_quantile(0.5), self.recent.value_at_quantile(0.99));
        self.recent.reset();
        quantiles
    }

    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("both have the same bounds");
        self.delivered += other.delivered;
        self.replayed += other.replayed;
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replayed_events_do_not_count_as_latency() {
        let mut tally = Tally::new();
        tally.on_traffic(1_000, true);
        tally.on_traffic(9_000_000_000, false);
        assert_eq!((tally.delivered, tally.replayed, tally.latency.len()), (2, 1, 1));
        assert!(tally.latency.max() < 1_100);
    }
}
