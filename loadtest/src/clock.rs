//! The one place that reads time: CLOCK_MONOTONIC in nanoseconds, so that two processes on one machine compare; and the CPU time of
//! other processes.
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

/// CPU time in nanoseconds that the process `pid` has had, with all its threads; `None` when there is no such process.
///
/// To the nanosecond, where /proc/PID/stat counts hundredths of a second: an idle proxy uses less than one in ten seconds.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to a value of ours that is valid and borrowed for the call, and read nothing else.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) != 0 || libc::clock_gettime(clock, &mut time) != 0
    };
    (pid > 0 && !failed).then(|| time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64)
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

    #[test]
    fn this_process_has_used_cpu_time_and_one_that_does_not_exist_has_not() {
        assert!(super::cpu_ns(std::process::id()) > Some(0));
        assert_eq!(super::cpu_ns(0), None);
    }
}
