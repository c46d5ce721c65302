//! Socket activation: listeners that the service manager has opened and keeps open (sd_listen_fds(3), the environment's LISTEN_PID and
//! LISTEN_FDS). What is done with them: `listeners`.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Passed descriptors begin behind the standard ones.
const FIRST: RawFd = 3;
/// Sockets of one unit; more is a misunderstanding.
const COUNT_MAX: RawFd = 64;

/// The listeners that were passed to this process, once; afterwards, and without activation, none. Call it before anything opens a file.
///
/// The error is a line for the operator.
pub fn take() -> Result<Vec<OwnedFd>, String> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).unwrap_or_default();
    let count = count(std::process::id(), &variable("LISTEN_PID"), &variable("LISTEN_FDS"))?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count).map(adopt).collect()
}

/// How many descriptors are meant for process `own`.
fn count(own: u32, pid: &str, fds: &str) -> Result<RawFd, String> {
    if pid.parse() != Ok(own) {
        return Ok(0);
    }
    let count = fds.parse().ok().filter(|count| (0..=COUNT_MAX).contains(count));
    count.ok_or_else(|| {
        format!("LISTEN_FDS: found {:?}, wanted a number of sockets up to {COUNT_MAX}", fds.escape_debug().to_string())
    })
}

fn adopt(raw: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: borrowed for the length of this function, while nobody closes descriptors; a number that is not open is refused by the
    // kernel, with an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    if !rustix::net::sockopt::socket_acceptconn(borrowed).unwrap_or(false) {
        return Err(format!(
            "LISTEN_FDS: descriptor {raw} is no listening socket; wanted ListenStream= in the socket unit"
        ));
    }
    // SAFETY: the service manager opened it for this process and names it as ours, nobody here has opened a listener yet, and `take` comes
    // here once.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_meant_for_another_process_are_not_ours() {
        assert_eq!(count(7, "", ""), Ok(0));
        assert_eq!(count(7, "8", "2"), Ok(0));
        assert_eq!(count(7, "7", "2"), Ok(2));
        for fds in ["", "-1", "65", "two"] {
            assert!(count(7, "7", fds).unwrap_err().starts_with("LISTEN_FDS: found "), "{fds}");
        }
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        // A number that no process reaches.
        assert!(adopt(1 << 30).unwrap_err().starts_with("LISTEN_FDS: descriptor 1073741824 is no listening socket"));
    }
}
