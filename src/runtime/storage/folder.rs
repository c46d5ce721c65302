//! The folder that the store lives in: its lock, its names, and what is done to whole files. Shared by both ways to read and write.
//!
//! Rare operations, done by plain blocking calls on the storage thread; each is sure against a loss of power when it returns.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::store::disk::Name;

/// Held for as long as the store is used.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Errs with a line for the operator when another process holds it.
    pub fn take(folder: &Path) -> io::Result<Self> {
        let path = folder.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "data_dir: {} is held by a running shardgate; remedy: stop it, or start with --takeover",
                    path.display()
                ),
            )),
            Err(error) => Err(error.into()),
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
