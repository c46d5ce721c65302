//! The process's memory as the kernel counts it, and giving unused memory back. What is too much, and what to do then, is decided by others.

use std::ffi::CStr;
use std::ptr;

/// `arena.<i>.purge` of jemalloc with i = MALLCTL_ARENAS_ALL: all arenas give all their unused dirty pages back to the kernel.
const PURGE_ALL: &CStr = c"arena.4096.purge";

/// Resident memory in bytes (`VmRSS`); `None` where /proc is not mounted.
pub fn resident_bytes() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Gives memory that is free but still resident back to the kernel, which the allocator does by itself some seconds later. From any thread;
/// others may wait for a moment when they allocate: for when memory is short, not for each second. Nothing happens in a program whose
/// allocator is another.
pub fn purge() {
    // SAFETY: the name ends with a null byte; this control takes and gives no value, for which jemalloc wants null pointers and a length of 0.
    // It may be called from any thread.
    unsafe { jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_is_read_in_bytes() {
        assert_eq!(of_status("Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t 9 kB\n"), Some(1234 * 1024));
        assert_eq!(of_status("Name:\tx\n"), None);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }

    #[test]
    fn jemalloc_knows_the_control_that_purges() {
        // SAFETY: as in `purge`.
        let status =
            unsafe { jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) };
        assert_eq!(status, 0);
    }
}
