//! What a group of clients measured together: latencies of live events, for the whole run and since the last look.

use std::ops::Range;

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
    /// Events that came late by design: sent before the client was live, or in `disturbed_ns`.
    pub late: u64,
    /// Events sent in this time are late by design.
    pub disturbed_ns: Range<u64>,
}

impl Tally {
    pub fn new() -> Self {
        let empty = Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3).expect("bounds and digits are in range");
        Self { latency: empty.clone(), recent: empty, delivered: 0, late: 0, disturbed_ns: 0..0 }
    }

    /// An event sent at `sent_ns` came after `latency_ns`; `is_live` unless it was replayed to the client.
    pub fn on_traffic(&mut self, sent_ns: u64, latency_ns: u64, is_live: bool) {
        self.delivered += 1;
        if is_live && !self.disturbed_ns.contains(&sent_ns) {
            self.latency.saturating_record(latency_ns);
            self.recent.saturating_record(latency_ns);
        } else {
            self.late += 1;
        }
    }

    /// p50 and p99 in nanoseconds of the live events since the last call.
    pub fn take_recent(&mut self) -> (u64, u64) {
        let quantiles = (self.recent.value_at_quantile(0.5), self.recent.value_at_quantile(0.99));
        self.recent.reset();
        quantiles
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
        tally.disturbed_ns = 50..60;
        tally.on_traffic(1, 1_000, true);
        tally.on_traffic(2, 9_000_000_000, false);
        tally.on_traffic(50, 9_000_000_000, true);
        assert_eq!((tally.delivered, tally.late, tally.latency.len()), (3, 2, 1));
        assert!(tally.latency.max() < 1_100);
    }
}
