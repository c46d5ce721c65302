//! One thread of a process held still while the others run: what a core looks like that is stuck.
//!
//! By ptrace(2), since SIGSTOP stops all threads of a process. Nothing of the thread's memory is read or changed.

use std::io;
use std::ptr;
use std::time::Duration;

/// Where a core waits for events. It has no lock there; anywhere else it may have the log's or the allocator's, and then all threads stand still.
const WAITS: [libc::c_long; 4] =
    [libc::SYS_io_uring_enter, libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
/// How often it is tried to find the thread there, and how long it may go on between.
const TRIES: usize = 1000;
const GO_ON: Duration = Duration::from_millis(2);

/// Held until it is dropped, on the thread that made it.
pub struct HeldThread {
    tid: libc::pid_t,
}

impl HeldThread {
    /// Holds the thread of this name where it waits for events; its process is a child of ours.
    ///
    /// Errs with `NotFound` when there is no such thread, with `TimedOut` when it never waits, and as ptrace(2) does where it is forbidden.
    pub fn new(pid: u32, name: &str) -> io::Result<Self> {
        let tid = tid_of(pid, name)?;
        for _ in 0..TRIES {
            let held = Self::stop(tid)?;
            if WAITS.contains(&syscall_of(pid, tid)?) {
                return Ok(held);
            }
            drop(held);
            std::thread::sleep(GO_ON);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("thread {name} of process {pid} is never found waiting")))
    }

    fn stop(tid: libc::pid_t) -> io::Result<Self> {
        // SAFETY: the request takes no address, and data 0 means no options; no memory of ours is touched.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) })?;
        // From here on it is let go when dropped.
        let held = Self { tid };
        // SAFETY: as above; this request ignores address and data.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) })?;
        // SAFETY: the status is not asked for, so nothing is written.
        check(unsafe { libc::waitpid(tid, ptr::null_mut(), libc::__WALL) }.into())?;
        Ok(held)
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        // SAFETY: no address and no signal are passed. It fails when the process is gone, and then there is nothing to let go.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.tid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) };
    }
}

fn tid_of(pid: u32, name: &str) -> io::Result<libc::pid_t> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
            let tid = entry.file_name().to_string_lossy().parse();
            return tid.map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has no thread {name}")))
}

/// The number of the system call in which a stopped thread is, -1 outside of any.
///
/// Source: proc_pid_syscall(5).
fn syscall_of(pid: u32, tid: libc::pid_t) -> io::Result<libc::c_long> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"))?;
    let number = line.split_whitespace().next().and_then(|it| it.parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line))
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_not_there_cannot_be_held() {
        let error = HeldThread::new(std::process::id(), "nobody's").err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
