//! How long to wait before connecting to Discord again: exponential, with full jitter.
//!
//! Jitter matters more than growth: one restart at Discord drops every shard in the same instant. It knows neither why the
//! connection was lost nor whether RESUME or IDENTIFY comes next.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The first delay is random below this.
pub const DELAY_FIRST: Duration = Duration::from_secs(1);
/// No delay is longer.
pub const DELAY_MAX: Duration = Duration::from_secs(60);
/// A session that was live for this long was no failed attempt: the next delay is a first one again. RESUMEs are not limited, and whoever is cut off every
/// minute must not wait for a minute each time.
pub const LIVE_MIN: Duration = Duration::from_secs(10);

/// One per upstream shard, for the life of the process.
#[derive(Debug)]
pub struct Backoff {
    rng: fastrand::Rng,
    /// Attempts lost since the last session that was live for `LIVE_MIN`.
    attempts: u32,
    live_since: Option<Instant>,
}

impl Backoff {
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { rng, attempts: 0, live_since: None }
    }

    /// READY or RESUMED arrived.
    pub fn on_live(&mut self, now: Instant) {
        self.live_since = Some(now);
    }

    /// The connection failed, was lost, or was closed. Returns how long to wait before the next attempt.
    pub fn on_lost(&mut self, now: Instant) -> Duration {
        let live_for = self.live_since.take().map(|since| now.saturating_duration_since(since));
        if live_for.is_some_and(|live_for| live_for >= LIVE_MIN) {
            self.attempts = 0;
        }
        let ceiling = ceiling(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(self.rng.f64())
    }

    /// Attempts lost in a row.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// The longest delay after so many lost attempts.
fn ceiling(attempts: u32) -> Duration {
    let factor = 1u32.checked_shl(attempts).unwrap_or(u32::MAX);
    DELAY_FIRST.saturating_mul(factor).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{ms, start};

    #[test]
    fn the_ceiling_doubles_until_it_reaches_its_cap() {
        let ceilings: Vec<u64> = (0..9).map(|attempts| ceiling(attempts).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(ceiling(u32::MAX), DELAY_MAX);
    }

    #[test]
    fn every_delay_is_below_its_ceiling_and_two_shards_differ() {
        let now = start();
        let mut one = Backoff::new(fastrand::Rng::with_seed(1));
        let mut two = Backoff::new(fastrand::Rng::with_seed(2));
        for attempt in 0..50 {
            let (a, b) = (one.on_lost(now), two.on_lost(now));
            assert!(a <= ceiling(attempt) && b <= ceiling(attempt));
            assert_ne!(a, b);
        }
    }

    #[test]
    fn a_session_that_lived_starts_the_delays_anew() {
        let now = start();
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
        for _ in 0..10 {
            backoff.on_lost(now);
        }
        backoff.on_live(now);
        assert!(backoff.on_lost(now + LIVE_MIN) <= DELAY_FIRST);
        assert_eq!(backoff.attempts(), 1);
    }

    #[test]
    fn a_session_that_dies_young_counts_as_one_more_failure() {
        let now = start();
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
        for lost in 1..10 {
            backoff.on_live(now);
            backoff.on_lost(now + LIVE_MIN - ms(1));
            assert_eq!(backoff.attempts(), lost);
        }
    }
}
