//! Keeping the disk within its bound: old segments go, state files are compacted.
//!
//! A little at a time: no write waits for a whole file to be copied.

use std::io;

use super::Store;
use super::disk::Disk;
use super::family::Place;
use super::segments::SEGMENTS_MAX;

/// State files are compacted when what is dead in them exceeds what is live by this, or by a sixteenth of `disk_bytes`.
const DEAD_BYTES_MAX: u64 = 64 << 20;

/// One in so many bytes of `disk_bytes` is kept free where possible.
const RESERVE: u64 = 8;

/// Copied by one call of `tend`.
const COPY_BYTES: u64 = 1 << 20;

/// A state file whose live checkpoints are being copied: `left` in reverse order.
#[derive(Debug)]
pub(super) struct Compaction {
    file: u64,
    left: Vec<Place>,
}

impl<D: Disk> Store<D> {
    /// Does some of the work that can wait; true while there is more. To be called between writes.
    pub fn tend(&mut self) -> io::Result<bool> {
        self.check_failed()?;
        if self.compaction.is_none() {
            self.compaction = self.wants_compaction();
        }
        let Some(mut compaction) = self.compaction.take() else { return Ok(false) };
        let mut copied = 0;
        while copied < COPY_BYTES {
            let Some(place) = compaction.left.pop() else {
                self.finish_compaction(compaction.file)?;
                return Ok(self.wants_compaction().is_some());
            };
            copied += self.copy_on(place)?;
        }
        self.compaction = Some(compaction);
        Ok(true)
    }

    /// The oldest state file, when too much is dead in them all. Not while checkpoints are being handed out: they are on their way by place.
    fn wants_compaction(&self) -> Option<Compaction> {
        let live = self.states.live_bytes();
        let allowed = live + DEAD_BYTES_MAX.min(self.settings.disk_bytes / 16);
        if !self.to_restore.is_empty() || self.state.bytes().saturating_sub(live) <= allowed {
            return None;
        }
        let file = self.state.oldest_finished()?;
        let mut left = self.states.in_order(Some(file));
        left.reverse();
        Some(Compaction { file, left })
    }

    /// Writes one checkpoint of the oldest file anew unless a newer one has come meanwhile.
    fn copy_on(&mut self, place: Place) -> io::Result<u64> {
        if !self.states.is_newest(&place) {
            return Ok(0);
        }
        if place.entry.len == 0 {
            // That the guild is gone need not be said any more: no older file says otherwise.
            self.states.forget(&place);
            return Ok(0);
        }
        let read = self.state.read(&mut self.disk, &place);
        let Some(bytes) = self.note(read)? else {
            self.damaged += 1;
            self.states.forget(&place);
            return Ok(0);
        };
        if self.state.is_full() {
            self.write_all()?;
        }
        let entry = place.entry;
        let copy = self.state.append(entry.shard, entry.a, entry.b, entry.batch, &bytes);
        self.states.insert(copy);
        Ok(entry.footprint())
    }

    fn finish_compaction(&mut self, file: u64) -> io::Result<()> {
        self.write_all()?;
        self.sync()?;
        self.states.forget_file(file);
        let removed = self.state.remove(&mut self.disk, file);
        self.note(removed)
    }

    /// Makes sure that `wanted` more bytes stay within the bound. What is above the reserve is given back as soon as possible: the reserve is
    /// for the time after a start, when no shard has said yet what it can do without.
    pub(super) fn make_room(&mut self, wanted: u64) -> io::Result<()> {
        let limit = self.settings.disk_bytes;
        while self.used() + wanted > limit - limit / RESERVE || self.segments.len() > SEGMENTS_MAX {
            if !self.give_back_oldest()? {
                break;
            }
        }
        if self.used() + wanted <= limit {
            return Ok(());
        }
        let (wal, log, state) = (self.wal.bytes(), self.log.bytes(), self.state.bytes());
        self.note(Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "disk_bytes: {limit} are not enough: {state} bytes of state ({} live), {log} of log, {wal} of what is \
                 not sealed yet",
                self.states.live_bytes()
            ),
        )))
    }

    fn used(&self) -> u64 {
        self.wal.bytes() + self.log.bytes() + self.state.bytes()
    }

    /// Removes the oldest file of segments. The few that a quiet shard still needs are written anew first; when it is more than a few,
    /// nothing is gained: false.
    fn give_back_oldest(&mut self) -> io::Result<bool> {
        let Some(file) = self.log.oldest_finished().filter(|it| self.blocked != Some(*it)) else { return Ok(false) };
        let needed = self.segments.needed(file, |shard| self.floors.get(&shard).copied().unwrap_or(0));
        if needed.iter().map(|it| it.entry.footprint()).sum::<u64>() > self.settings.blob_file_bytes() / 2 {
            // Until the floors are told anew there is no use in looking again.
            self.blocked = Some(file);
            return Ok(false);
        }
        for place in needed {
            let read = self.log.read(&mut self.disk, &place);
            let Some(bytes) = self.note(read)? else {
                self.damaged += 1;
                continue;
            };
            let entry = place.entry;
            let copy = self.log.append(entry.shard, entry.a, entry.b, entry.batch, &bytes);
            self.segments.insert(copy);
        }
        if self.used() + self.pending_bytes() > self.settings.disk_bytes {
            return Ok(false);
        }
        // What makes it superfluous must be sure before it goes.
        self.write_pending()?;
        self.sync()?;
        let removed = self.log.remove(&mut self.disk, file);
        self.note(removed)?;
        self.tails.extend(self.segments.forget_file(file));
        Ok(true)
    }
}
