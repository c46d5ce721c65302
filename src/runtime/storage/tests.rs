//! The storage thread over real files, both ways; its mail is read by the test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::mail::Batch;
use super::*;
use crate::runtime::mesh::ToCore;
use crate::runtime::{sys, uring};
use crate::store::identity::Binding;
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
}

fn begin(folder: &Folder, try_direct: bool) -> io::Result<Bench> {
    let (sender, mail) = mpsc::channel();
    let core = CoreSender::new(sender, Arc::new(sys::eventfd()?));
    let storage = start(&folder.0, try_direct, settings(), vec![core], Placement::new(0..2, 1))?;
    Ok(Bench { storage, mail })
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

    fn write(&self, batch: Batch) -> Box<Batch> {
        self.tell(ToStore::Batch(Box::new(batch)));
        self.await_mail(|it| if let ToCore::StoreWritten(batch) = it { Some(batch) } else { None })
    }

    fn end(self) {
        self.tell(ToStore::CoreEnded);
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
            ToCore::StoreStateComplete { shard } => Some(assert_eq!(shard, ShardId(1))),
            _ => None,
        });
        assert_eq!(state, [(ShardId(1), 77, b"guild".to_vec())]);
        bench.tell(ToStore::Read { core: 0, shard: ShardId(1), index: 6 });
        let segment =
            bench.await_mail(|it| if let ToCore::StoreSegment { segment, .. } = it { Some(segment) } else { None });
        assert_eq!(segment, Some(Sealed { first: 5, end: 9, bytes: vec![7; 700_000] }));
        bench.tell(ToStore::Batch(Box::new(Batch { records: records(b"anew"), ..Batch::default() })));
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
fn batches_for_a_store_that_is_lost_are_void() {
    let folder = Folder::new();
    let bench = begin(&folder, false).unwrap();
    bench.write(batch(b"a session"));
    bench.storage.sender.send(FIRST_GENERATION + 1, ToStore::TooSlow);
    bench.write(batch(b"more"));
    bench.end();
}
