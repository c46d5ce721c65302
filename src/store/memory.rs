//! A disk in memory, for tests, simulations and benches: it can tear writes, lose what was not synced, fill up and fail.
//!
//! Not for keeping anything. It has no clock and no randomness of its own: the generator is handed in.

use std::collections::BTreeMap;
use std::io;

use super::disk::{Disk, Name};
use super::format::BLOCK;

/// A torn write ends between two of these.
const SECTOR: usize = 512;

/// What goes wrong from now on. Nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// After this many more writes every write fails; the first that fails leaves `torn_bytes` of it behind.
    pub writes_left: Option<u64>,
    /// How much of the first failing write reaches the disk.
    pub torn_bytes: usize,
    /// After this many more bytes the disk is full.
    pub bytes_left: Option<u64>,
    /// After this many more reads every read fails.
    pub reads_left: Option<u64>,
    pub syncs_fail: bool,
    pub removals_fail: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// Writes since the last sync: where, and what was there before.
    unsynced: Vec<(usize, Vec<u8>)>,
    synced_len: usize,
}

/// Files by name, with what was not synced remembered.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    files: BTreeMap<Name, File>,
    pub faults: Faults,
}

impl MemoryDisk {
    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|it| it.bytes.len() as u64).sum()
    }

    pub fn names(&self) -> Vec<Name> {
        self.files.keys().copied().collect()
    }

    /// What is in a file; panics if there is none.
    pub fn file(&self, name: Name) -> &[u8] {
        &self.files[&name].bytes
    }

    /// For damage done on purpose; panics if there is no such file.
    pub fn file_mut(&mut self, name: Name) -> &mut Vec<u8> {
        &mut self.files.get_mut(&name).expect("the file is there").bytes
    }

    /// The power fails: of each write since the last sync, any sectors may be missing; a file may be shorter.
    pub fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        self.faults = Faults::default();
        for file in self.files.values_mut() {
            for (offset, before) in std::mem::take(&mut file.unsynced).into_iter().rev() {
                let lost = rng.u8(..3);
                for (n, sector) in before.chunks(SECTOR).enumerate() {
                    // All of it, none of it, or each sector by itself.
                    if lost == 0 || (lost == 1 && rng.bool()) {
                        let at = offset + n * SECTOR;
                        file.bytes[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            if rng.u8(..4) == 0 {
                let zeros = file.bytes.iter().rev().take_while(|it| **it == 0).count();
                let least = (file.bytes.len() - zeros).max(file.synced_len);
                file.bytes.truncate(rng.usize(least..=file.bytes.len()));
            }
            file.synced_len = file.bytes.len();
        }
    }

    fn existing(&mut self, name: Name) -> io::Result<&mut File> {
        self.files.get_mut(&name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn put(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.existing(name)?;
        let (offset, end) = (offset as usize, offset as usize + bytes.len());
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.unsynced.push((offset, file.bytes[offset..end].to_vec()));
        file.bytes[offset..end].copy_from_slice(bytes);
        Ok(())
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("{what} fails, as the test wants"))
}

impl Disk for MemoryDisk {
    fn list(&mut self) -> io::Result<Vec<Name>> {
        Ok(self.names())
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        if self.faults.writes_left == Some(0) {
            return Err(broken("create"));
        }
        self.files.insert(name, File::default());
        Ok(())
    }

    fn len(&mut self, name: Name) -> io::Result<u64> {
        Ok(self.existing(name)?.bytes.len() as u64)
    }

    fn write_at(&mut self, name: Name, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK), "writes are whole blocks");
        if let Some(left) = &mut self.faults.writes_left {
            if *left == 0 {
                let torn = std::mem::take(&mut self.faults.torn_bytes).min(bytes.len());
                self.put(name, offset, &bytes[..torn])?;
                return Err(broken("write"));
            }
            *left -= 1;
        }
        if let Some(left) = &mut self.faults.bytes_left {
            match left.checked_sub(bytes.len() as u64) {
                Some(rest) => *left = rest,
                None => return Err(io::ErrorKind::StorageFull.into()),
            }
        }
        self.put(name, offset, bytes)
    }

    fn read_at(&mut self, name: Name, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK), "reads are whole blocks");
        match &mut self.faults.reads_left {
            Some(0) => return Err(broken("read")),
            Some(left) => *left -= 1,
            None => {}
        }
        into.clear();
        let bytes = &self.existing(name)?.bytes;
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start.saturating_add(len));
        into.extend_from_slice(&bytes[start..end]);
        Ok(())
    }

    fn sync(&mut self, name: Name) -> io::Result<()> {
        if self.faults.syncs_fail {
            return Err(broken("sync"));
        }
        let file = self.existing(name)?;
        file.unsynced.clear();
        file.synced_len = file.bytes.len();
        Ok(())
    }

    fn truncate(&mut self, name: Name, len: u64) -> io::Result<()> {
        let file = self.existing(name)?;
        file.bytes.truncate(len as usize);
        file.synced_len = file.synced_len.min(len as usize);
        file.unsynced.retain_mut(|(offset, before)| {
            before.truncate((len as usize).saturating_sub(*offset));
            !before.is_empty()
        });
        Ok(())
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        let file = self.files.remove(&from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.files.insert(to, file);
        Ok(())
    }

    fn remove(&mut self, name: Name) -> io::Result<()> {
        if self.faults.removals_fail {
            return Err(broken("remove"));
        }
        self.files.remove(&name);
        Ok(())
    }
}
