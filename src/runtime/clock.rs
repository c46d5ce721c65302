//! The one place where the time is read. Everything else is told it.
//!
//! Not here: timers. Whoever waits has a `due()` and is called back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time, for intervals and deadlines.
#[expect(clippy::disallowed_methods, reason = "the one exception")]
pub fn now() -> Instant {
    Instant::now()
}

/// The same clock as the service manager wants it told: microseconds of CLOCK_MONOTONIC.
pub fn monotonic_us() -> u64 {
    kernel_clock(libc::CLOCK_MONOTONIC).as_micros() as u64
}

/// The CPU time that the calling thread has used, in user mode and in the kernel.
pub fn thread_cpu() -> Duration {
    kernel_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn kernel_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes into `time`, which is ours and of the type it wants. It cannot fail for these clocks.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
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
    fn a_thread_that_works_uses_cpu_time() {
        let (cpu, monotonic) = (thread_cpu(), monotonic_us());
        while thread_cpu() == cpu {}
        assert!(thread_cpu() > cpu && monotonic_us() >= monotonic && monotonic > 0);
    }

    #[test]
    fn the_wall_clock_is_past_the_year_2020() {
        assert!(since_epoch() > Duration::from_secs(1_577_836_800));
    }
}
