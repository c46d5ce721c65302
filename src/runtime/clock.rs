//! The one place where the time is read. Everything else is told it.
//!
//! Not here: timers. Whoever waits has a `due()` and is called back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time, for intervals and deadlines.
#[expect(clippy::disallowed_methods, reason = "the one exception")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970-01-01 UTC, for what outlives the process or is shown to people. Zero if the clock stands before that.
#[expect(clippy::disallowed_methods, reason = "the one exception")]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_time_never_steps_back() {
        let first = now();
        assert!(now() >= first);
    }

    #[test]
    fn the_wall_clock_is_past_the_year_2020() {
        assert!(since_epoch() > Duration::from_secs(1_577_836_800));
    }
}
