//! What the machine allows, asked before the first core starts: io_uring, locked memory, open files, CPUs.
//!
//! Each shortfall becomes one line with its remedy, never a panic. How a finding is judged is separate from how it is found, so
//! that every machine can be tried in a test. The ring that is opened here is closed at once.

#![forbid(unsafe_code)]

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::{BackendWanted, CoresWanted};
use super::keys::Refusal;
use super::topology;
use crate::runtime::settings::Backend;
use crate::runtime::uring;

/// Upstream connections and one client for each shard, and twice the clients while a deploy overlaps.
const FILES_PER_SHARD: u64 = 3;
/// Listeners, rings, eventfds, standard streams, pages, and clients that have not named a shard yet.
const FILES_BASE: u64 = 256;
/// Kernels before 5.12 charge the rings to it, all kernels charge registered buffers.
const MEMLOCK_PER_CORE: u64 = 512 << 10;

/// Whether the ring works here, and if not, why and what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    Works,
    /// `kernel.io_uring_disabled` is 1 or 2.
    DisabledBySysctl,
    /// EPERM or EACCES without the sysctl: a seccomp profile or another security module.
    Forbidden,
    /// ENOSYS: the kernel, or a sandbox in its place, has none.
    Absent,
    /// It opens, but lacks what the backend is built on (Linux 6.1).
    TooOld,
    /// ENOMEM: the memlock limit.
    MemlockTooLow,
    /// Anything else, as errno.
    Failed(i32),
}

impl Ring {
    /// One line: what is wrong and the exact remedy.
    fn remedy(self, kernel: &str) -> String {
        match self {
            Self::Works => "io_uring works".into(),
            Self::DisabledBySysctl => {
                "io_uring is switched off on this machine; remedy: sysctl -w kernel.io_uring_disabled=0".into()
            }
            Self::Forbidden => {
                "io_uring is forbidden, most likely by the container's seccomp profile; remedy: run the \
                container with --security-opt seccomp=tuning/seccomp.json"
                    .into()
            }
            Self::Absent => format!(
                "this kernel ({kernel}) has no io_uring, or the container's seccomp profile hides it; remedy: Linux 6.1 or newer, \
                and in a container --security-opt seccomp=tuning/seccomp.json"
            ),
            Self::TooOld => {
                format!("the io_uring of this kernel ({kernel}) is too old; remedy: Linux 6.1 or newer")
            }
            Self::MemlockTooLow => "the limit of locked memory is too low for io_uring; remedy: ulimit -l unlimited, \
                LimitMEMLOCK=infinity in a systemd unit, or --ulimit memlock=-1 for a container"
                .into(),
            Self::Failed(errno) => {
                format!(
                    "io_uring does not open: {}; remedy: \"backend\": \"epoll\"",
                    io::Error::from_raw_os_error(errno)
                )
            }
        }
    }
}

/// Memory that the process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub bytes: u64,
    /// The limit of a control group, over which the kernel kills; else the machine's own memory.
    pub is_groups: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Machine {
    pub ring: Ring,
    /// As `uname -r` says.
    pub kernel: String,
    /// CPU numbers that this process may run on, those to be taken first first.
    pub cpus: Vec<usize>,
    /// Soft limits after they were raised to the hard ones; `None` means unlimited.
    pub memlock: Option<u64>,
    pub open_files: Option<u64>,
    /// `None` when neither a control group nor the machine says.
    pub memory: Option<Memory>,
}

impl Machine {
    /// Asks the kernel. Raises the soft limits of open files and locked memory to the hard ones on the way.
    pub fn probe() -> Self {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let memlock = raise(Resource::Memlock);
        let disabled = matches!(read("/proc/sys/kernel/io_uring_disabled").as_str(), "1" | "2");
        Self {
            ring: probe_ring(disabled),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpus: topology::order(
                core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect(),
                |path| fs::read_to_string(format!("/sys/devices/system/{path}")).ok(),
            ),
            memlock,
            open_files: raise(Resource::Nofile),
            memory: probe_memory(|path| fs::read_to_string(path).ok()),
        }
    }

    /// The backend to use. With `auto` the second part is the line that says why it is not the ring; a forced ring that does not
    /// work is a refusal.
    pub fn backend(&self, wanted: BackendWanted) -> Result<(Backend, Option<String>), Refusal> {
        match (wanted, self.ring) {
            (BackendWanted::Epoll, _) => Ok((Backend::Epoll, None)),
            (_, Ring::Works) => Ok((Backend::IoUring, None)),
            (BackendWanted::IoUring, ring) => {
                let line = format!("backend: found \"io_uring\", but {}", ring.remedy(&self.kernel));
                Err(Refusal::of(line + ", or \"backend\": \"auto\""))
            }
            (BackendWanted::Auto, ring) => {
                Ok((Backend::Epoll, Some(format!("using epoll, since {}", ring.remedy(&self.kernel)))))
            }
        }
    }

    /// One line: whether the ring works, or why not and what helps.
    pub fn ring_text(&self) -> String {
        self.ring.remedy(&self.kernel)
    }

    /// The CPUs to pin to. All of them, but no more than there are shards, when nothing is configured.
    pub fn cores(&self, wanted: &CoresWanted, shards: u32) -> Result<Vec<usize>, Refusal> {
        // Without a list from the kernel there is still one CPU, the one this runs on; pinning to it may fail and is then skipped.
        let cpus = if self.cpus.is_empty() { &[0][..] } else { &self.cpus[..] };
        match wanted {
            CoresWanted::All => Ok(cpus[..cpus.len().min(shards.max(1) as usize)].to_vec()),
            CoresWanted::Count(count) if *count <= cpus.len() => Ok(cpus[..*count].to_vec()),
            CoresWanted::Count(count) => {
                Err(Refusal::new("cores", count, format_args!("at most {}, the CPUs this process may use", cpus.len())))
            }
            CoresWanted::List(list) => match list.iter().find(|cpu| !cpus.contains(cpu)) {
                None => Ok(list.clone()),
                Some(cpu) => Err(Refusal::new("cores", format_args!("CPU {cpu}"), format_args!("CPUs of {cpus:?}"))),
            },
        }
    }

    /// Whether the locked memory is enough for `cores` rings; else one line with the remedy.
    pub fn memlock_shortfall(&self, backend: Backend, cores: usize) -> Option<String> {
        let needed = MEMLOCK_PER_CORE * cores as u64;
        let limit = self.memlock.filter(|limit| backend == Backend::IoUring && *limit < needed)?;
        Some(format!(
            "locked memory is limited to {limit} bytes, {cores} cores may need {needed}; remedy: ulimit -l {}, \
             LimitMEMLOCK={needed} in a systemd unit, or --ulimit memlock={needed} for a container",
            needed / 1024
        ))
    }

    /// `wanted` connections of clients, or as many as leave the shards the open files that they need: a flood of clients must
    /// never keep a shard from connecting again.
    pub fn clients_max(&self, wanted: usize, shards: u32) -> usize {
        let Some(limit) = self.open_files else { return wanted };
        let room = limit.saturating_sub(FILES_BASE / 2 + 2 * u64::from(shards)).max(FILES_BASE / 16);
        wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Whether enough files may be open for `shards`. A refusal when not even the shards themselves fit, a line with the remedy
    /// when their clients may not.
    pub fn open_files_shortfall(&self, shards: u32) -> Result<Option<String>, Refusal> {
        let needed = FILES_BASE + FILES_PER_SHARD * u64::from(shards);
        let Some(limit) = self.open_files.filter(|limit| *limit < needed) else { return Ok(None) };
        let line = format!(
            "open files are limited to {limit}, {shards} shards and their clients may need {needed}; remedy: \
             ulimit -n {needed}, LimitNOFILE={needed} in a systemd unit, or --ulimit nofile={needed} for a container"
        );
        if limit < FILES_BASE / 4 + u64::from(shards) { Err(Refusal::of(line)) } else { Ok(Some(line)) }
    }
}

/// The smallest limit of the control groups that the process is in, of version 2 or 1, if that is less than the machine's memory; else that.
/// In a container the path of the group may be the host's, so the root as it is mounted here counts too.
fn probe_memory(read: impl Fn(&str) -> Option<String>) -> Option<Memory> {
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim();
        line.parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let files = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|it| it == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        // The limits of all groups above count as well.
        std::path::Path::new(path)
            .ancestors()
            .map(|path| format!("{root}{}/{file}", path.display()).replace("//", "/"))
            .collect()
    });
    // Without a limit version 2 says `max`, and version 1 a number beyond any memory.
    let group = files.filter_map(|file| read(&file)?.trim().parse::<u64>().ok()).min();
    match (group, machine) {
        (Some(group), machine) if machine.is_none_or(|machine| group < machine) => {
            Some(Memory { bytes: group, is_groups: true }).filter(|it| it.bytes < 1 << 60)
        }
        (_, machine) => machine.map(|bytes| Memory { bytes, is_groups: false }),
    }
}

/// Makes a small ring of the very kind that a core makes.
fn probe_ring(disabled_by_sysctl: bool) -> Ring {
    match uring::Ring::new(1, 4096) {
        Ok(_) => Ring::Works,
        Err(error) if error.kind() == io::ErrorKind::Unsupported && error.raw_os_error().is_none() => Ring::TooOld,
        Err(error) => judge_errno(error.raw_os_error().unwrap_or_default(), disabled_by_sysctl),
    }
}

fn judge_errno(errno: i32, disabled_by_sysctl: bool) -> Ring {
    match errno {
        libc::EPERM | libc::EACCES if disabled_by_sysctl => Ring::DisabledBySysctl,
        libc::EPERM | libc::EACCES => Ring::Forbidden,
        libc::ENOSYS => Ring::Absent,
        libc::ENOMEM => Ring::MemlockTooLow,
        errno => Ring::Failed(errno),
    }
}

/// Raises the soft limit to the hard one and yields what is in force then. Where that is refused the old one stays.
fn raise(resource: Resource) -> Option<u64> {
    let limit = getrlimit(resource);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(ring: Ring) -> Machine {
        Machine { ring, kernel: "5.4.0".into(), cpus: vec![0, 2, 3], memlock: None, open_files: None, memory: None }
    }

    const BROKEN: [Ring; 6] = [
        Ring::DisabledBySysctl,
        Ring::Forbidden,
        Ring::Absent,
        Ring::TooOld,
        Ring::MemlockTooLow,
        Ring::Failed(libc::EIO),
    ];

    #[test]
    fn auto_takes_the_ring_where_it_works() {
        assert_eq!(machine(Ring::Works).backend(BackendWanted::Auto), Ok((Backend::IoUring, None)));
    }

    #[test]
    fn auto_falls_back_to_epoll_with_one_line_and_the_remedy() {
        for ring in BROKEN {
            let (backend, line) = machine(ring).backend(BackendWanted::Auto).unwrap();
            let line = line.unwrap();
            assert_eq!(backend, Backend::Epoll);
            assert!(line.starts_with("using epoll, since ") && line.contains("remedy: "), "{line}");
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        }
    }

    #[test]
    fn a_forced_ring_that_does_not_work_is_a_refusal() {
        for ring in BROKEN {
            let line = machine(ring).backend(BackendWanted::IoUring).unwrap_err().to_string();
            assert!(line.starts_with("backend: found \"io_uring\", but ") && line.contains("remedy: "), "{line}");
        }
    }

    #[test]
    fn forced_epoll_says_nothing_about_the_ring() {
        assert_eq!(machine(Ring::Forbidden).backend(BackendWanted::Epoll), Ok((Backend::Epoll, None)));
    }

    #[test]
    fn the_errno_tells_the_cause() {
        assert_eq!(judge_errno(libc::EPERM, true), Ring::DisabledBySysctl);
        assert_eq!(judge_errno(libc::EPERM, false), Ring::Forbidden);
        assert_eq!(judge_errno(libc::ENOSYS, false), Ring::Absent);
        assert_eq!(judge_errno(libc::ENOMEM, false), Ring::MemlockTooLow);
        assert_eq!(judge_errno(libc::EMFILE, false), Ring::Failed(libc::EMFILE));
    }

    #[test]
    fn cores_are_those_that_the_process_may_use() {
        let machine = machine(Ring::Works);
        assert_eq!(machine.cores(&CoresWanted::All, 225), Ok(vec![0, 2, 3]));
        assert_eq!(machine.cores(&CoresWanted::All, 2), Ok(vec![0, 2]));
        assert_eq!(machine.cores(&CoresWanted::Count(2), 1), Ok(vec![0, 2]));
        assert_eq!(machine.cores(&CoresWanted::List(vec![3, 0]), 1), Ok(vec![3, 0]));
        let line = machine.cores(&CoresWanted::Count(4), 1).unwrap_err().to_string();
        assert_eq!(line, "cores: found 4, wanted at most 3, the CPUs this process may use");
        let line = machine.cores(&CoresWanted::List(vec![0, 1]), 1).unwrap_err().to_string();
        assert_eq!(line, "cores: found CPU 1, wanted CPUs of [0, 2, 3]");
    }

    #[test]
    fn locked_memory_matters_to_the_ring_alone() {
        let machine = Machine { memlock: Some(64 << 10), ..machine(Ring::Works) };
        assert_eq!(machine.memlock_shortfall(Backend::Epoll, 2), None);
        let line = machine.memlock_shortfall(Backend::IoUring, 2).unwrap();
        assert!(line.contains("65536") && line.contains("ulimit -l 1024"), "{line}");
        assert_eq!(Machine { memlock: None, ..machine }.memlock_shortfall(Backend::IoUring, 2), None);
    }

    #[test]
    fn too_few_open_files_are_told_and_far_too_few_refused() {
        let with = |open_files| Machine { open_files, ..machine(Ring::Works) };
        assert_eq!(with(None).open_files_shortfall(225), Ok(None));
        assert_eq!(with(Some(931)).open_files_shortfall(225), Ok(None));
        let line = with(Some(930)).open_files_shortfall(225).unwrap().unwrap();
        assert!(line.contains("limited to 930") && line.contains("ulimit -n 931"), "{line}");
        assert!(with(Some(256)).open_files_shortfall(225).is_err());
    }

    #[test]
    fn clients_never_get_the_files_that_shards_need() {
        let with = |open_files| Machine { open_files, ..machine(Ring::Works) };
        assert_eq!(with(None).clients_max(16_384, 225), 16_384);
        assert_eq!(with(Some(1 << 20)).clients_max(16_384, 225), 16_384);
        assert_eq!(with(Some(1024)).clients_max(16_384, 225), 1024 - 128 - 450);
        assert_eq!(with(Some(100)).clients_max(16_384, 225), 16);
        assert_eq!(with(Some(1024)).clients_max(5, 225), 5);
    }

    #[test]
    fn the_smallest_limit_of_the_groups_counts_or_the_machine() {
        let memory = |files: &[(&str, &str)]| {
            let found = probe_memory(|path| files.iter().find(|it| it.0 == path).map(|it| it.1.to_owned()));
            found.map(|it| (it.bytes, it.is_groups))
        };
        let machine = ("/proc/meminfo", "MemTotal:       4096 kB\nMemFree: 1 kB\n");
        assert_eq!(memory(&[]), None);
        assert_eq!(memory(&[machine]), Some((4 << 20, false)));
        let v2 = ("/proc/self/cgroup", "0::/a.slice/b.service\n");
        let top = ("/sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(memory(&[machine, v2, top]), Some((4 << 20, false)));
        let above = ("/sys/fs/cgroup/a.slice/memory.max", "1048576\n");
        let own = ("/sys/fs/cgroup/a.slice/b.service/memory.max", "2097152\n");
        assert_eq!(memory(&[machine, v2, above, own, top]), Some((1 << 20, true)));
        let larger = ("/sys/fs/cgroup/a.slice/memory.max", "8388608\n");
        assert_eq!(memory(&[machine, v2, larger]), Some((4 << 20, false)));
        // A container whose group has the host's path, under version 1.
        let v1 = ("/proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/7\n");
        let root = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3145728");
        assert_eq!(memory(&[machine, v1, root]), Some((3 << 20, true)));
        let unlimited = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(memory(&[v1, unlimited]), None);
    }

    #[test]
    fn probing_this_machine_raises_the_limits_and_does_not_panic() {
        let machine = Machine::probe();
        assert_eq!(machine.open_files, getrlimit(Resource::Nofile).current);
        assert!(!machine.kernel.is_empty() && !machine.cpus.is_empty() && machine.memory.is_some());
    }
}
