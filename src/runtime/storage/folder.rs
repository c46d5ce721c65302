//! The folder that the store lives in: its lock, its names, and what is done to whole files. Shared by both ways to read and write.
//!
//! Rare operations, done by plain blocking calls on the storage thread; each is sure against a loss of power when it returns.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use tracing::info;

use crate::runtime::clock;
use crate::store::disk::Name;

/// Held for as long as the store is used.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A process that is just going may hold the lock for so long: its drain, and what its disk may take.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(12);
/// How often it is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(20);

impl Lock {
    /// Errs with a line for the operator when another process holds it for longer than `patience`.
    pub fn take(folder: &Path, patience: Duration) -> io::Result<Self> {
        let path = folder.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        let end = clock::now() + patience;
        let mut is_told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if clock::now() < end => {
                    if !std::mem::replace(&mut is_told, true) {
                        info!(lock = %path.display(), ?patience, "held, perhaps by a process that is just going: waiting");
                    }
                    thread::sleep(LOCK_RETRY);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        format!(
                            "data_dir: {} is held by a running shardgate; remedy: stop it, or start with --takeover",
                            path.display()
                        ),
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Operations on files by name.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The folder itself, to make its entries sure.
    entries: File,
}

impl Folder {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), entries: File::open(path)? })
    }

    pub fn path(&self, name: Name) -> PathBuf {
        self.path.join(name.to_string())
    }

    pub fn list(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Some(Ok(name)) = entry?.file_name().to_str().map(str::parse) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Makes an empty file that only this user can read: it will hold what clients were told.
    pub fn create(&self, name: Name) -> io::Result<()> {
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(self.path(name))?;
        self.entries.sync_all()
    }

    pub fn len(&self, name: Name) -> io::Result<u64> {
        Ok(fs::metadata(self.path(name))?.len())
    }

    pub fn truncate(&self, name: Name, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        file.set_len(len)?;
        file.sync_data()
    }

    pub fn rename(&self, from: Name, to: Name) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        self.entries.sync_all()
    }

    pub fn remove(&self, name: Name) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.entries.sync_all(),
        }
    }
}
