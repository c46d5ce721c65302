//! The storage thread over real files, both ways; its mail is read by the test.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::mail::Batch;
use super::*;
use crate::runtime::mesh::ToCore;
use crate::runtime::{sys, uring};
use crate::store::format::BLOCK;
use crate::store::identity::Binding;
use crate::store::memory::MemoryDisk;
use crate::store::{DISK_BYTES_MIN, Sealed, StateBlob, frame};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shardgate-storage-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Direct I/O is tried where a ring works; where it does not, plain files stand in, as in the product.
fn ways() -> Vec<bool> {
    let ring = uring::Ring::new(1, 4096).is_ok();
    if ring { vec![false, true] } else { vec![false] }
}

fn settings() -> Settings {
    Settings {
        binding: Binding {
            token: "token".into(),
            shard_count: 2,
            intents: 1,
            api_url: "http://discord.invalid".into(),
            cache: 0,
        },
        shards: 0..2,
        cores: 1,
        disk_bytes: DISK_BYTES_MIN,
        salt: [1; 16],
    }
}

/// A storage thread with one core, which is the test.
struct Bench {
    storage: Storage,
    mail: mpsc::Receiver<ToCore>,
    failures: mpsc::Receiver<ToControl>,
}

fn begin(folder: &Folder, try_direct: bool) -> io::Result<Bench> {
    let (sender, mail) = mpsc::channel();
    let core = CoreSender::new(sender, Arc::new(sys::eventfd()?));
    let (control, failures) = mpsc::channel();
    let lock = Lock::take(&folder.0, Duration::ZERO)?;
    let placement = Placement::new(0..2, 1, |_| None);
    let storage = start(lock, &folder.0, try_direct, settings(), vec![core], placement, control)?;
    Ok(Bench { storage, mail, failures })
}

impl Bench {
    fn tell(&self, message: ToStore) {
        self.storage.sender.send(FIRST_GENERATION, message);
    }

    /// The next mail that `wanted` takes; others are passed over.
    fn await_mail<T>(&self, mut wanted: impl FnMut(ToCore) -> Option<T>) -> T {
        loop {
            let mail = self.mail.recv_timeout(Duration::from_secs(20)).expect("the storage thread answers");
            if let Some(found) = wanted(mail) {
                return found;
            }
        }
    }

    fn write(&self, batch: Batch) -> Batch {
        self.tell(ToStore::Batch(batch));
        self.await_mail(|it| if let ToCore::StoreWritten(batch) = it { Some(batch) } else { None })
    }

    fn end(self) {
        self.tell(ToStore::CoreEnded { core: 0 });
        self.await_mail(|it| matches!(it, ToCore::StoreEnded).then_some(()));
        self.storage.thread.join().unwrap();
    }
}

fn records(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::append(&mut out, ShardId(1), 3, |it| it.extend_from_slice(payload));
    out
}

fn batch(payload: &[u8]) -> Batch {
    Batch {
        records: records(payload),
        segments: vec![(ShardId(1), Sealed { first: 5, end: 9, bytes: vec![7; 700_000] })],
        states: vec![(ShardId(1), StateBlob { guild: 77, as_of: 9, bytes: b"guild".to_vec() })],
        marks: vec![(0, 12)],
        ..Batch::default()
    }
}

/// What both ways must do alike, as the memory disk does it.
fn use_files(disk: &mut impl Disk) -> Vec<(Name, Vec<u8>)> {
    let (a, b) = (Name::Wal(1), Name::Log(40));
    let block = |byte| vec![byte; BLOCK];
    disk.create(a).unwrap();
    disk.write_at(a, 0, &[block(1), block(2), block(3)].concat()).unwrap();
    disk.write_at(a, BLOCK as u64, &block(9)).unwrap();
    disk.sync(a).unwrap();
    disk.create(b).unwrap();
    // More than one request takes at a time.
    let large: Vec<u8> = (0..700 * BLOCK).map(|n| (n / 1000) as u8).collect();
    disk.write_at(b, 0, &large).unwrap();
    disk.truncate(b, 1_300_000).unwrap();
    disk.create(Name::Log(41)).unwrap();
    disk.remove(Name::Log(41)).unwrap();
    disk.remove(Name::Log(42)).unwrap();
    assert!(disk.read_at(Name::Log(41), 0, BLOCK, &mut Vec::new()).is_err());
    disk.rename(a, Name::Identity).unwrap();
    let mut names = disk.list().unwrap();
    names.sort_unstable();
    let read = |name| {
        let mut bytes = Vec::new();
        let len = disk.len(name).unwrap();
        disk.read_at(name, 0, len.next_multiple_of(BLOCK as u64) as usize + BLOCK, &mut bytes).unwrap();
        let mut tail = Vec::new();
        disk.read_at(name, 2 * BLOCK as u64, BLOCK, &mut tail).unwrap();
        assert_eq!(tail, bytes[2 * BLOCK..3 * BLOCK]);
        disk.read_at(name, 1 << 30, BLOCK, &mut tail).unwrap();
        assert!(tail.is_empty());
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn both_ways_do_what_the_disk_in_memory_does() {
    let wanted = use_files(&mut MemoryDisk::default());
    let folder = Folder::new();
    assert!(use_files(&mut Plain::open(&folder.0).unwrap()) == wanted);
    if !ways().contains(&true) {
        return;
    }
    let folder = Folder::new();
    match Direct::open(&folder.0) {
        Ok(mut direct) => assert!(use_files(&mut direct) == wanted),
        // Nothing but a filesystem without direct I/O may be the reason.
        Err(error) => {
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = std::fs::OpenOptions::new();
            let plain = options.create(true).truncate(true).write(true).custom_flags(libc::O_DIRECT);
            assert!(plain.open(folder.0.join("direct")).is_err(), "{error}");
        }
    }
}

#[test]
fn more_files_than_may_be_open_are_opened_in_turn() {
    let folder = Folder::new();
    let mut disk = Plain::open(&folder.0).unwrap();
    for n in 0..2 * plain::OPEN_FILES_MAX as u64 {
        disk.create(Name::Log(n)).unwrap();
        disk.write_at(Name::Log(n), 0, &[n as u8; BLOCK]).unwrap();
    }
    let mut bytes = Vec::new();
    for n in 0..2 * plain::OPEN_FILES_MAX as u64 {
        disk.read_at(Name::Log(n), 0, BLOCK, &mut bytes).unwrap();
        assert_eq!(bytes, [n as u8; BLOCK]);
    }
}

#[test]
fn what_was_said_to_be_written_is_there_after_the_end() {
    for try_direct in ways() {
        let folder = Folder::new();
        let bench = begin(&folder, try_direct).unwrap();
        assert!(bench.storage.opening.begun && bench.storage.opening.shards.is_empty());
        let written = bench.write(batch(b"a session"));
        assert_eq!(written.marks, [(0, 12)]);
        assert!(written.is_empty());
        bench.end();

        let bench = begin(&folder, try_direct).unwrap();
        let wanted = Recovered { records: records(b"a session"), sealed: vec![(5, 9)] };
        assert_eq!(bench.storage.opening.shards, [(ShardId(1), wanted)]);
        let (mut state, mut wal) = (Vec::new(), None);
        bench.await_mail(|it| match it {
            ToCore::StoreState { shard, blob } => {
                state.push((shard, blob.guild, blob.bytes));
                None
            }
            ToCore::StoreRotate { wal: it } => {
                wal = Some(it);
                None
            }
            ToCore::StoreStateComplete { shard: ShardId(1) } => Some(()),
            _ => None,
        });
        assert_eq!(state, [(ShardId(1), 77, b"guild".to_vec())]);
        bench.tell(ToStore::Read { core: 0, shard: ShardId(1), index: 6 });
        let segment =
            bench.await_mail(|it| if let ToCore::StoreSegment { segment, .. } = it { Some(segment) } else { None });
        assert_eq!(segment, Some(Sealed { first: 5, end: 9, bytes: vec![7; 700_000] }));
        bench.tell(ToStore::Batch(Batch { records: records(b"anew"), ..Batch::default() }));
        bench.tell(ToStore::Rotated { core: 0, wal: wal.unwrap(), floors: vec![(ShardId(1), 9)] });
        bench.end();

        let bench = begin(&folder, !try_direct).unwrap();
        assert_eq!(
            bench.storage.opening.shards[0].1.records,
            records(b"anew"),
            "either way reads what the other wrote"
        );
        bench.end();
    }
}

#[test]
fn a_folder_in_use_is_refused_with_the_remedy() {
    let folder = Folder::new();
    let bench = begin(&folder, false).unwrap();
    let line = begin(&folder, false).err().expect("it is locked").to_string();
    assert!(line.starts_with("data_dir: ") && line.contains("/lock is held") && line.contains("--takeover"), "{line}");
    bench.end();
    begin(&folder, false).unwrap().end();
}

#[test]
fn a_folder_that_another_process_is_about_to_leave_is_waited_for() {
    let folder = Folder::new();
    let held = Lock::take(&folder.0, Duration::ZERO).unwrap();
    let leaving = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(held);
    });
    Lock::take(&folder.0, Duration::from_secs(60)).unwrap();
    leaving.join().unwrap();
}

#[test]
fn a_panic_of_the_thread_is_told_to_the_process_and_to_every_core() {
    let folder = Folder::new();
    let bench = begin(&folder, false).unwrap();
    // No such core.
    bench.tell(ToStore::CoreEnded { core: 9 });
    bench.await_mail(|it| matches!(it, ToCore::StoreEnded).then_some(()));
    let failure = bench.failures.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(failure, ToControl::StorageFailed { .. }));
}

/// A worker over `disk` with one core, which has said all it has to say. `opened` is called once the store is open. Returns what was found, and what the
/// core was told.
fn work_on(disk: &Rc<RefCell<MemoryDisk>>, said: Vec<ToStore>, opened: impl FnOnce()) -> (Opening, Vec<ToCore>) {
    let (to_core, told) = mpsc::channel();
    let (to_worker, mail) = mpsc::channel();
    for message in said.into_iter().chain([ToStore::CoreEnded { core: 0 }]) {
        to_worker.send(Mail { generation: FIRST_GENERATION, message }).unwrap();
    }
    let worker = Worker {
        settings: settings(),
        cores: vec![CoreSender::new(to_core, Arc::new(sys::eventfd().unwrap()))],
        placement: Placement::new(0..2, 1, |_| None),
        mail,
        lock: None,
        generation: FIRST_GENERATION,
        ended: vec![false],
        report: StoreReport::default(),
        reported: None,
        restoring_bytes: 0,
    };
    let mut opening = None;
    worker.run(&mut Rc::clone(disk), |it| {
        opening = Some(it);
        opened();
    });
    (opening.unwrap(), told.try_iter().collect())
}

#[test]
fn a_last_write_that_fails_leaves_what_was_stored_before() {
    let disk = Rc::default();
    work_on(&disk, Vec::new(), || ());
    let fail = || disk.borrow_mut().faults.syncs_fail = true;
    let (_, told) = work_on(&disk, vec![ToStore::Batch(batch(b"a session"))], fail);
    assert!(told.iter().any(|it| matches!(it, ToCore::StoreWritten(_))));
    assert!(!told.iter().any(|it| matches!(it, ToCore::StoreLost)));
    disk.borrow_mut().faults.syncs_fail = false;
    let (opening, _) = work_on(&disk, Vec::new(), || ());
    assert_eq!(opening.shards[0].1.records, records(b"a session"));
}

#[test]
fn a_disk_that_fails_is_told_and_the_end_comes_all_the_same() {
    let folder = Folder::new();
    let bench = begin(&folder, false).unwrap();
    bench.write(batch(b"a session"));
    bench.tell(ToStore::TooSlow);
    bench.await_mail(|it| matches!(it, ToCore::StoreLost).then_some(()));
    let report = bench.await_mail(|it| if let ToCore::StoreReport(report) = it { Some(report) } else { None });
    assert!(report.is_lost);
    assert_eq!((report.errors, report.files), (1, "plain"));
    bench.end();
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"], "what is stale is not recovered");
}

#[test]
fn what_cannot_be_read_at_the_start_is_left_for_a_start_that_can() {
    for try_direct in ways() {
        let folder = Folder::new();
        let bench = begin(&folder, try_direct).unwrap();
        bench.write(batch(b"a session"));
        bench.end();
        let names = |folder: &Folder| {
            let mut names: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|it| it.unwrap().file_name()).collect();
            names.sort_unstable();
            names
        };
        let before = names(&folder);
        let wal = before.iter().find(|it| it.to_string_lossy().starts_with("wal-")).unwrap();
        let (wal, aside) = (folder.0.join(wal), folder.0.join("aside"));
        std::fs::rename(&wal, &aside).unwrap();
        // A file that cannot be read, whoever asks.
        std::fs::create_dir(&wal).unwrap();
        let bench = begin(&folder, try_direct).unwrap();
        assert!(!bench.storage.opening.begun && bench.storage.opening.shards.is_empty());
        let report = bench.await_mail(|it| if let ToCore::StoreReport(report) = it { Some(report) } else { None });
        assert!(report.is_lost);
        bench.end();
        std::fs::remove_dir(&wal).unwrap();
        std::fs::rename(&aside, &wal).unwrap();
        assert_eq!(names(&folder), before);
        let bench = begin(&folder, try_direct).unwrap();
        assert_eq!(bench.storage.opening.shards[0].1.records, records(b"a session"));
        bench.end();
    }
}

#[test]
fn batches_for_a_store_that_is_lost_are_void() {
    let folder = Folder::new();
    let bench = begin(&folder, false).unwrap();
    bench.write(batch(b"a session"));
    bench.storage.sender.send(FIRST_GENERATION + 1, ToStore::TooSlow);
    bench.write(batch(b"more"));
    bench.end();
}
