//! The one place that reads time: CLOCK_MONOTONIC in nanoseconds, so that two processes on one machine compare.
//!
//! It does not sleep; tokio does.

/// Nanoseconds of CLOCK_MONOTONIC, the same in every process of this machine.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the whole call, and the clock id is a constant that exists
    // on every Linux, so the call cannot fail and touches nothing else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    debug_assert_eq!(failed, 0);
    time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64
}

pub const SECOND_NS: u64 = 1_000_000_000;
pub const MILLI_NS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_go_back() {
        let first = super::now_ns();
        assert!(super::now_ns() >= first);
    }
}
