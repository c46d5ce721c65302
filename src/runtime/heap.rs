//! The process's memory as the kernel counts it, and giving unused memory back. What is too much, and what to do then, is decided by others.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::ptr;

/// `arena.<i>.purge` of jemalloc with i = MALLCTL_ARENAS_ALL: all arenas give all their unused dirty pages back to the kernel.
const PURGE_ALL: &CStr = c"arena.4096.purge";

/// The longest line of /proc/self/statm: seven numbers of 64 bits.
const STATM_LEN_MAX: usize = 7 * 21;

/// Resident memory in bytes (`VmRSS`); `None` where /proc is not mounted. Asked each second, also at rest, so of statm: one short line, where
/// status is a page.
pub fn resident_bytes() -> Option<u64> {
    let mut line = [0; STATM_LEN_MAX];
    let len = File::open("/proc/self/statm").ok()?.read(&mut line).ok()?;
    Some(resident_pages(str::from_utf8(&line[..len]).ok()?)? * rustix::param::page_size() as u64)
}

/// The second number (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
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
        assert_eq!(resident_pages("29342 1234 1100 5 0 977 0\n"), Some(1234));
        assert_eq!(resident_pages("29342"), None);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let kilobytes = status.lines().find_map(|it| it.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let told = kilobytes.unwrap().parse::<u64>().unwrap() * 1024;
        // Other tests run beside this one; in bytes, not pages or kilobytes.
        let resident = resident_bytes().unwrap();
        assert!((told / 8..told * 8).contains(&resident), "{resident} {told}");
    }

    #[test]
    fn jemalloc_knows_the_control_that_purges() {
        // SAFETY: as in `purge`.
        let status =
            unsafe { jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) };
        assert_eq!(status, 0);
    }
}
