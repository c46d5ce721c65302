//! Files read and written by plain calls, through the page cache: where io_uring or direct I/O cannot be had.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::folder::Folder;
use crate::store::disk::{Disk, Name};

/// Open files; when there are more, all are closed and opened again as they are wanted.
pub const OPEN_FILES_MAX: usize = 32;

#[derive(Debug)]
pub struct Plain {
    folder: Folder,
    open: HashMap<Name, File>,
}

impl Plain {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { folder: Folder::open(path)?, open: HashMap::new() })
    }

    fn file(&mut self, name: Name) -> io::Result<&File> {
        if self.open.len() >= OPEN_FILES_MAX && !self.open.contains_key(&name) {
            self.open.clear();
        }
        match self.open.entry(name) {
            std::collections::hash_map::Entry::Occupied(it) => Ok(it.into_mut()),
            std::collections::hash_map::Entry::Vacant(it) => {
                let file = OpenOptions::new().read(true).write(true).open(self.folder.path(name))?;
                Ok(it.insert(file))
            }
        }
    }
}

impl Disk for Plain {
    fn list(&mut self) -> io::Result<Vec<Name>> {
        self.folder.list()
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        self.open.remove(&name);
        self.folder.create(name)
    }

    fn len(&mut self, name: Name) -> io::Result<u64> {
        self.folder.len(name)
    }

    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let file = self.file(name)?;
        let left = file.metadata()?.len().saturating_sub(offset);
        into.clear();
        into.resize(len.min(usize::try_from(left).unwrap_or(len)), 0);
        file.read_exact_at(into, offset)
    }

    fn sync(&mut self, name: Name) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()> {
        self.folder.truncate(name, len)
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        self.open.remove(&from);
        self.open.remove(&to);
        self.folder.rename(from, to)
    }

    fn remove(&mut self, name: Name) -> io::Result<()> {
        self.open.remove(&name);
        self.folder.remove(name)
    }
}
