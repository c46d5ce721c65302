//! One thread of a process held still while the others run: what a core looks like that is stuck.
//!
//! By ptrace(2), since SIGSTOP stops all threads of a process. Nothing of the thread is read or changed.

use std::io;
use std::ptr;

/// Held until it is dropped, on the thread that made it.
pub struct HeldThread {
    tid: libc::pid_t,
}

impl HeldThread {
    /// Holds the thread of this name; its process is a child of ours.
    ///
    /// Errs with `NotFound` when there is no such thread, and as ptrace(2) does where it is forbidden.
    pub fn new(pid: u32, name: &str) -> io::Result<Self> {
        let tid = tid_of(pid, name)?;
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
