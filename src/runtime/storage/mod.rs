//! The store's place in the process: one thread of its own beside the cores, so that no event waits for a disk.
//!
//! `start` takes the folder's lock, recovers, and yields what each shard gets back; from then on cores and the thread exchange mail. Files are
//! read and written by direct I/O where a ring works, by plain calls elsewhere; which of the two is said once.
//!
//! CPU per event of 1 KiB, sketched: two copies on the core (journal, batch), two on the thread (batch, aligned buffer), one checksum: 0.4 µs; and the
//! same again, less one copy, when its segment is full. Per batch, which is 4 a second and core where no client waits and events are few: two wakes, two
//! writes, a look at each shard.

mod direct;
mod folder;
pub mod mail;
mod plain;
mod worker;

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tracing::info;

use self::direct::Direct;
pub use self::folder::{LOCK_PATIENCE, Lock};
use self::mail::{Mail, StoreReport, ToStore};
use self::plain::Plain;
use self::worker::Worker;
use super::guarded;
use super::mesh::{CoreSender, ToControl, ToCore};
use super::placement::Placement;
use crate::store::disk::{Disk, Name};
use crate::store::{Recovered, Settings};
use crate::wire::ShardId;

/// A core's way to the storage thread.
#[derive(Clone, Debug)]
pub struct StoreSender {
    mail: mpsc::Sender<Mail>,
}

impl StoreSender {
    pub(super) fn new(mail: mpsc::Sender<Mail>) -> Self {
        Self { mail }
    }

    /// `generation`: the store that the message is meant for; another one ignores it.
    pub fn send(&self, generation: u64, message: ToStore) {
        // The thread ends after the last core has said that it has ended.
        let _ = self.mail.send(Mail { generation, message });
    }
}

/// The generation of the store that `start` opens.
pub const FIRST_GENERATION: u64 = 1;

/// What the storage thread found when it opened the folder.
#[derive(Debug)]
pub struct Opening {
    /// False: the disk failed at once; the cores begin in memory and are told when there is a store.
    pub begun: bool,
    pub shards: Vec<(ShardId, Recovered)>,
}

/// The running thread.
pub struct Storage {
    pub sender: StoreSender,
    pub opening: Opening,
    pub thread: JoinHandle<()>,
}

/// Starts the storage thread, which keeps the folder's `lock`, and waits until it has read the records; the state follows by mail to the cores. Errs when
/// no thread can be had; a disk that fails is no error.
///
/// `try_direct`: a ring works on this machine, so that direct I/O may be tried.
pub fn start(
    lock: Lock,
    data_dir: &Path,
    try_direct: bool,
    settings: Settings,
    cores: Vec<CoreSender>,
    placement: Placement,
    control: mpsc::Sender<ToControl>,
) -> io::Result<Storage> {
    let (sender, mail) = mpsc::channel();
    let (opened, opening) = mpsc::channel();
    let data_dir = data_dir.to_owned();
    let watched = cores.clone();
    let work = move || {
        let (mut files, what) = match Files::open(&data_dir, try_direct) {
            Ok(found) => found,
            Err(error) => {
                let _ = opened.send(Err(error));
                return Ok(());
            }
        };
        info!(data_dir = %data_dir.display(), files = what, "sessions, log and state are stored");
        let worker = Worker {
            settings,
            cores: cores.clone(),
            placement,
            mail,
            lock: Some(lock),
            generation: FIRST_GENERATION,
            ended: vec![false; cores.len()],
            report: StoreReport { files: what, ..StoreReport::default() },
            reported: None,
            restoring_bytes: 0,
        };
        worker.run(&mut files, |opening| drop(opened.send(Ok(opening))));
        Ok(())
    };
    let failed = move |error| {
        // What is stored is sound; a process that goes on without it would make it untrue.
        let _ = control.send(ToControl::StorageFailed { error });
        for core in &watched {
            core.send(ToCore::StoreEnded);
        }
    };
    let thread = std::thread::Builder::new().name("storage".to_owned()).spawn(move || guarded(work, failed))?;
    let opening = opening.recv().map_err(|_| io::Error::other("the storage thread ended while it began"))??;
    Ok(Storage { sender: StoreSender::new(sender), opening, thread })
}

/// How files are read and written.
pub(super) enum Files {
    Direct(Direct),
    Plain(Plain),
}

impl Files {
    /// Direct I/O if it works here; and which it is, for a line.
    fn open(data_dir: &Path, try_direct: bool) -> io::Result<(Self, &'static str)> {
        if try_direct {
            match Direct::open(data_dir) {
                Ok(direct) => return Ok((Self::Direct(direct), "direct I/O by glommio")),
                Err(error) => info!("direct I/O does not work in data_dir, plain files are used: {error}"),
            }
        }
        Ok((Self::Plain(Plain::open(data_dir)?), "plain"))
    }

    fn disk(&mut self) -> &mut dyn Disk {
        match self {
            Self::Direct(direct) => direct,
            Self::Plain(plain) => plain,
        }
    }
}

impl Disk for Files {
    fn list(&mut self) -> io::Result<Vec<Name>> {
        self.disk().list()
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        self.disk().create(name)
    }

    fn len(&mut self, name: Name) -> io::Result<u64> {
        self.disk().len(name)
    }

    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk().write_at(name, offset, bytes)
    }

    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        self.disk().read_at(name, offset, len, into)
    }

    fn sync(&mut self, name: Name) -> io::Result<()> {
        self.disk().sync(name)
    }

    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()> {
        self.disk().truncate(name, len)
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn remove(&mut self, name: Name) -> io::Result<()> {
        self.disk().remove(name)
    }
}

#[cfg(test)]
mod tests;
