//! Child processes, by id: started, measured through /proc, stopped on every way out.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::clock::{SECOND_NS, cpu_ns};

/// How long a process may take to end by itself.
const STOP: Duration = Duration::from_secs(12);

/// A process that is killed when this value is dropped.
pub struct Process {
    child: Child,
    pub pid: u32,
}

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_s: f64,
    pub rss_bytes: u64,
    pub rss_peak_bytes: u64,
    pub voluntary_switches: u64,
}

impl Process {
    /// Starts `program` with its output at the end of `log` and a pipe, held open, as its standard input.
    pub fn start<S: AsRef<OsStr>>(
        program: &Path,
        words: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
        log: &Path,
    ) -> io::Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(words)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process ended at once"))?;
        Ok(Self { child, pid })
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGTERM, if it still runs.
    pub fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
    }

    /// This signal, if it still runs.
    pub fn signal(&mut self, signal: libc::c_int) {
        if self.exited().is_none() {
            // SAFETY: `kill` takes two integers and touches no memory of ours. The child has not been waited for, so
            // its id cannot belong to another process yet.
            unsafe { libc::kill(self.pid as libc::pid_t, signal) };
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.ok();
    }

    /// SIGTERM, then SIGKILL when it takes too long. `None` when it had to be killed.
    pub async fn stop(mut self) -> Option<ExitStatus> {
        self.end().await
    }

    /// What `stop` does, for who will start another in its place.
    pub async fn end(&mut self) -> Option<ExitStatus> {
        self.terminate();
        match timeout(STOP, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                self.child.kill().await.ok();
                None
            }
        }
    }
}

impl Usage {
    /// What the process `pid` has used; all zero when there is none.
    pub fn of(pid: u32) -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let cpu_s = cpu_ns(pid).unwrap_or(0) as f64 / SECOND_NS as f64;
        let mut usage = Self { cpu_s, ..Self::default() };
        let status = read("status");
        usage.rss_bytes = field(&status, "VmRSS:") * 1024;
        usage.rss_peak_bytes = field(&status, "VmHWM:") * 1024;
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        usage.voluntary_switches = tasks
            .map(|it| std::fs::read_to_string(it.path().join("status")).unwrap_or_default())
            .map(|it| field(&it, "voluntary_ctxt_switches:"))
            .sum();
        usage
    }
}

/// Resident memory of the process `pid` now; 0 when there is none.
pub fn rss_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    // SAFETY: `sysconf` takes an integer and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    pages * u64::try_from(page_bytes).unwrap_or(0)
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|it| it.strip_prefix(name));
    line.and_then(|it| it.split_whitespace().next()).and_then(|it| it.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_field() {
        assert_eq!(field("VmHWM:\t  12 kB\nVmRSS:\t 8 kB\n", "VmRSS:"), 8);
        let own = Usage::of(std::process::id());
        assert!(own.rss_bytes > 0 && own.rss_peak_bytes >= own.rss_bytes);
        assert_eq!(Usage::of(0), Usage::default());
        assert!(rss_bytes(std::process::id()) > 1 << 20 && rss_bytes(0) == 0);
    }
}
