//! What survives the process: a write-ahead log of what happened, sealed segments of the shards' logs, checkpoints of their state;
//! how it is written, bounded, and recovered.
//!
//! Synchronous and pure over `Disk`: no kernel, no clock, no thread, no ambient randomness, so that torn and lost writes can be
//! tried out. What records and blobs mean is the affair of `shard`. Any error of the disk fails the store for good: who owns it goes
//! on in memory, wipes the folder and begins anew.
//!
//! What is recovered is a prefix of what was written: blobs are tagged with the batch of the write-ahead log that had to be
//! written before them, and one whose batch is lost does not count.

#![forbid(unsafe_code)]

pub mod blob;
pub mod disk;
pub mod family;
pub mod format;
pub mod frame;
pub mod identity;
pub mod memory;
#[doc(hidden)]
pub mod properties;
mod recover;
mod segments;
mod states;
mod tend;
pub mod wal;

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use self::disk::Disk;
use self::family::{Family, Place};
use self::identity::Binding;
use self::segments::Segments;
use self::states::States;
use self::tend::Compaction;
use self::wal::{Ends, Wal};
use crate::wire::ShardId;

pub use self::recover::{Recovery, StateStep};

/// A file of the write-ahead log is followed by the next one after this, or after a sixteenth of `disk_bytes`.
pub const WAL_FILE_BYTES: u64 = 32 << 20;

/// A file of segments or checkpoints is finished after this, or after a sixteenth of `disk_bytes`. The unfinished one is read whole when the next process
/// begins; of the others it reads the end.
pub const BLOB_FILE_BYTES: u64 = 32 << 20;

/// Less cannot hold one of each with room to turn over.
pub const DISK_BYTES_MIN: u64 = 256 << 20;

/// What the store must be told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub binding: Binding,
    /// Shards held by this process: what is stored of others is dropped.
    pub shards: Range<u32>,
    /// Who sends `on_rotated`: numbers `0..cores`.
    pub cores: usize,
    /// All files together. Over it the oldest segments go; when that is not enough the store fails.
    pub disk_bytes: u64,
    /// Random; goes into `identity`.
    pub salt: [u8; 16],
}

impl Settings {
    fn wal_file_bytes(&self) -> u64 {
        WAL_FILE_BYTES.min(self.disk_bytes / 16)
    }

    fn blob_file_bytes(&self) -> u64 {
        BLOB_FILE_BYTES.min(self.disk_bytes / 16)
    }
}

/// A part of a shard's log that will not change: dispatches `first..end`, in the shard's own encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub first: u64,
    pub end: u64,
    pub bytes: Vec<u8>,
}

/// One guild as it was before index `as_of` was applied, in the shard's own encoding; guild 0 is what READY said. Empty: gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateBlob {
    pub guild: u64,
    pub as_of: u64,
    pub bytes: Vec<u8>,
}

/// What a shard gets back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Its records, framed, in the order in which they were written (`frame::records`).
    pub records: Vec<u8>,
    /// `first..end` of the sealed segments that can be read, in order; there may be overlaps.
    pub sealed: Vec<(u64, u64)>,
}

/// What the disk holds and what was done to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub written_bytes: u64,
    pub batches: u64,
    pub wal_bytes: u64,
    pub wal_files: u64,
    pub log_bytes: u64,
    pub state_bytes: u64,
    /// Of `state_bytes`, those that count.
    pub state_live_bytes: u64,
    /// Blobs that the disk gave back damaged.
    pub damaged: u64,
}

/// What became of a `write`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// A new file of the write-ahead log has begun: every core is to seal its logs, write its small state anew and answer
    /// `on_rotated` with this number.
    pub rotate: Option<u64>,
    /// For each shard that lost old segments: the oldest index that can still be read.
    pub tails: Vec<(ShardId, u64)>,
}

/// Segments and checkpoints must be handed over after the records of what is in them.
#[derive(Debug)]
pub struct Store<D> {
    disk: D,
    settings: Settings,
    wal: Wal,
    log: Family,
    state: Family,
    segments: Segments,
    states: States,
    /// The lowest index that each shard needs to build its state again, as told at the last rotation.
    floors: HashMap<ShardId, u64>,
    /// By core, the file it has rotated to; the files before the lowest of them can go.
    rotated: Vec<u64>,
    /// Checkpoints that are yet to be handed out after a recovery, in the order of the disk, last one first.
    to_restore: Vec<Place>,
    restoring: HashMap<ShardId, usize>,
    restored: Vec<ShardId>,
    window: family::Window,
    compaction: Option<Compaction>,
    /// The oldest file of segments, found to be needed as a whole.
    blocked: Option<u64>,
    tails: Vec<(ShardId, u64)>,
    failed: bool,
    written_bytes: u64,
    batches: u64,
    damaged: u64,
}

impl<D: Disk> Store<D> {
    /// Begins with an empty folder: everything of an older store is removed first.
    pub fn create(mut disk: D, settings: Settings) -> io::Result<Self> {
        disk::wipe(&mut disk)?;
        settings.binding.write(&mut disk, settings.salt)?;
        Ok(Self::empty(disk, settings))
    }

    fn empty(disk: D, settings: Settings) -> Self {
        Self {
            disk,
            wal: Wal::default(),
            log: Family::new(family::Kind::Log, settings.blob_file_bytes()),
            state: Family::new(family::Kind::State, settings.blob_file_bytes()),
            segments: Segments::default(),
            states: States::default(),
            floors: HashMap::new(),
            rotated: vec![0; settings.cores],
            to_restore: Vec::new(),
            restoring: HashMap::new(),
            restored: Vec::new(),
            window: family::Window::default(),
            compaction: None,
            blocked: None,
            tails: Vec::new(),
            failed: false,
            written_bytes: 0,
            batches: 0,
            damaged: 0,
            settings,
        }
    }

    /// The disk, for whoever begins anew on it.
    pub fn into_disk(self) -> D {
        self.disk
    }

    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    // ---- what the cores send

    /// Records of one core, framed, in order (`frame::append`). On disk after `write`.
    pub fn on_records(&mut self, records: &[u8]) {
        self.wal.on_records(records);
    }

    /// A sealed segment of a shard's log. On disk after `write`.
    pub fn on_segment(&mut self, shard: ShardId, first: u64, end: u64, bytes: &[u8]) -> io::Result<()> {
        if self.log.is_full() {
            self.write_all()?;
        }
        let place = self.log.append(shard, first, end, self.wal.covering(), bytes);
        self.segments.insert(place);
        Ok(())
    }

    /// A checkpoint of a guild's state. On disk after `write`.
    pub fn on_state(&mut self, shard: ShardId, guild: u64, as_of: u64, bytes: &[u8]) -> io::Result<()> {
        if self.state.is_full() {
            self.write_all()?;
        }
        let place = self.state.append(shard, guild, as_of, self.wal.covering(), bytes);
        self.states.insert(place);
        Ok(())
    }

    /// The core has sealed its logs and written its small state anew since file `wal` began; all of that was handed over before. `floors`: of
    /// each of its shards the lowest index needed to build its state again.
    pub fn on_rotated(&mut self, core: usize, wal: u64, floors: &[(ShardId, u64)]) -> io::Result<()> {
        self.floors.extend(floors.iter().copied());
        self.blocked = None;
        self.rotated[core] = self.rotated[core].max(wal);
        let needed = self.rotated.iter().copied().min().unwrap_or(0);
        if self.wal.oldest().is_some_and(|it| it < needed) {
            self.write_all()?;
            self.sync()?;
            let removed = self.wal.remove_before(&mut self.disk, needed);
            self.note(removed)?;
        }
        Ok(())
    }

    /// Bytes handed over and not yet written.
    pub fn waiting_bytes(&self) -> u64 {
        (self.wal.collected() + self.log.collected() + self.state.collected()) as u64
    }

    /// Hands everything to the disk: when it returns, a kill of the process loses nothing of it.
    pub fn write(&mut self) -> io::Result<Written> {
        self.write_all()?;
        let mut rotate = None;
        if self.wal.open_bytes() >= self.settings.wal_file_bytes() {
            let rotated = self.wal.rotate(&mut self.disk);
            rotate = Some(self.note(rotated)?);
        }
        Ok(Written { rotate, tails: std::mem::take(&mut self.tails) })
    }

    /// Makes what was written sure against a loss of power, too.
    pub fn sync(&mut self) -> io::Result<()> {
        self.check_failed()?;
        let synced = self
            .log
            .sync(&mut self.disk)
            .and_then(|()| self.state.sync(&mut self.disk))
            .and_then(|()| self.wal.sync(&mut self.disk));
        self.note(synced)
    }

    /// The sealed segment with `index`, or the next one where `index` lies in a gap of the sequence. `None`: it is gone, was never sealed, or
    /// the disk gave back something else.
    pub fn read(&mut self, shard: ShardId, index: u64) -> io::Result<Option<Sealed>> {
        self.check_failed()?;
        let Some(place) = self.segments.find(shard, index) else { return Ok(None) };
        let read = self.log.read(&mut self.disk, &place);
        let Some(bytes) = self.note(read)? else {
            self.damaged += 1;
            self.segments.forget(&place);
            return Ok(None);
        };
        Ok(Some(Sealed { first: place.entry.a, end: place.entry.b, bytes }))
    }

    pub fn stats(&self) -> StoreStats {
        StoreStats {
            written_bytes: self.written_bytes,
            batches: self.batches,
            wal_bytes: self.wal.bytes(),
            wal_files: self.wal.files() as u64,
            log_bytes: self.log.bytes(),
            state_bytes: self.state.bytes(),
            state_live_bytes: self.states.live_bytes(),
            damaged: self.damaged,
        }
    }

    // ---- inside

    fn write_all(&mut self) -> io::Result<()> {
        self.check_failed()?;
        self.make_room(self.pending_bytes())?;
        self.write_pending()
    }

    /// Bytes that `write_pending` writes at most.
    fn pending_bytes(&self) -> u64 {
        self.wal.batch_bytes() + self.log.pending_bytes() + self.state.pending_bytes()
    }

    /// Segments and checkpoints first: a record may say that something is not needed any more because they are there. Those that are ahead of
    /// their records count only once these are written.
    fn write_pending(&mut self) -> io::Result<()> {
        let written = self.log.flush(&mut self.disk);
        self.written_bytes += self.note(written)?;
        let written = self.state.flush(&mut self.disk);
        self.written_bytes += self.note(written)?;
        if self.wal.is_collecting() {
            let ends = Ends { log: self.log.end(), state: self.state.end() };
            let written = self.wal.write(&mut self.disk, ends);
            self.written_bytes += self.note(written)?;
            self.batches += 1;
        }
        Ok(())
    }

    fn check_failed(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("the store has failed before")) } else { Ok(()) }
    }

    /// After an error nothing is tried any more: what is on disk would no longer be a prefix of what was handed over.
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.failed |= result.is_err();
        result
    }
}

#[cfg(test)]
mod tests;
