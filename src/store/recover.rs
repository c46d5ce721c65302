//! Opening what an earlier process left: first all that shards need to live, quickly; then their state, bit by bit.
//!
//! Nothing is held twice: records are copied once, to their shard; checkpoints are read one at a time.

use std::collections::HashMap;
use std::io;

use super::blob::Entry;
use super::disk::Disk;
use super::family::{Family, Kind, Survey};
use super::identity::Found;
use super::wal::{Ends, Wal};
use super::{Recovered, Settings, StateBlob, Store, frame};
use crate::wire::ShardId;

/// What was found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// What each shard gets back, sorted by shard; a shard that is not listed begins anew.
    pub shards: Vec<(ShardId, Recovered)>,
    /// Why what was stored could not be used: one line for the operator.
    pub dropped: Option<String>,
    /// The file of the write-ahead log that has begun: as in `Written::rotate`, so that the old ones can go. `None` when all is new.
    pub rotate: Option<u64>,
}

/// One step of handing the state back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateStep {
    Blob(ShardId, StateBlob),
    /// A checkpoint of this shard could not be read back: without it the rest is of no use. `Complete` follows all the same.
    Damaged(ShardId),
    /// Nothing more comes for this shard.
    Complete(ShardId),
}

impl<D: Disk> Store<D> {
    /// Opens the folder and recovers what belongs to `settings`. What does not is removed. Afterwards `next_state` hands out the
    /// checkpoints of the recovered shards; everything else may be used meanwhile.
    pub fn open(mut disk: D, settings: Settings) -> io::Result<(Self, Recovery)> {
        let found = settings.binding.look(&mut disk)?;
        let unusable = match found {
            Found::Ours => None,
            Found::Nothing => Some(None),
            Found::Foreign(line) => Some(Some(line)),
        };
        if let Some(dropped) = unusable {
            return Ok((Self::create(disk, settings)?, Recovery { dropped, ..Recovery::default() }));
        }
        let mut shards: HashMap<ShardId, Recovered> = HashMap::new();
        let held = settings.shards.clone();
        let mut others = 0u64;
        let log = Survey::take(Kind::Log, &mut disk)?;
        let state = Survey::take(Kind::State, &mut disk)?;
        let is_there = |ends: &Ends| log.reaches(ends.log) && state.reaches(ends.state);
        let wal = Wal::recover(&mut disk, is_there, |bytes| {
            for record in frame::records(bytes) {
                if held.contains(&record.shard.0) {
                    let records = &mut shards.entry(record.shard).or_default().records;
                    frame::append(records, record.shard, record.kind, |out| out.extend_from_slice(record.payload));
                } else {
                    others += 1;
                }
            }
        })?;
        let dropped = (others > 0).then(|| format!("shard_start, shard_end: found other shards, too, wanted {held:?}"));
        if shards.is_empty() {
            return Ok((Self::create(disk, settings)?, Recovery { dropped, ..Recovery::default() }));
        }
        // The identity may hold more cache flags than are wanted now; what is stored from here on has only these.
        settings.binding.write(&mut disk, settings.salt)?;
        let mut store = Self::empty(disk, settings);
        store.wal = wal;
        store.recover_blobs(log, state, &shards)?;
        let rotated = store.wal.rotate(&mut store.disk)?;
        let mut shards: Vec<_> = shards.into_iter().collect();
        shards.sort_unstable_by_key(|(shard, _)| *shard);
        for (shard, recovered) in &mut shards {
            recovered.sealed = store.segments.of(*shard);
            recovered.records.shrink_to_fit();
        }
        store.begin_restore(shards.iter().map(|(shard, _)| *shard));
        Ok((store, Recovery { shards, dropped, rotate: Some(rotated) }))
    }

    fn recover_blobs(&mut self, log: Survey, state: Survey, shards: &HashMap<ShardId, Recovered>) -> io::Result<()> {
        let last = self.wal.last();
        let file_bytes = self.settings.blob_file_bytes();
        let mut highest = last;
        let mut counts = |entry: &Entry| {
            highest = highest.max(entry.batch);
            entry.batch <= last && shards.contains_key(&entry.shard)
        };
        let named = self.wal.named();
        let (segments, states) = (&mut self.segments, &mut self.states);
        self.log = Family::recover(log, named.0, file_bytes, &mut self.disk, &mut counts, |it| segments.insert(it))?;
        self.state = Family::recover(state, named.1, file_bytes, &mut self.disk, &mut counts, |it| states.insert(it))?;
        self.wal.skip(highest);
        Ok(())
    }

    fn begin_restore(&mut self, shards: impl Iterator<Item = ShardId>) {
        self.restoring = shards.map(|it| (it, 0)).collect();
        self.to_restore = self.states.in_order(None);
        self.to_restore.reverse();
        self.to_restore.retain(|it| it.entry.len > 0);
        for place in &self.to_restore {
            *self.restoring.get_mut(&place.entry.shard).expect("only recovered shards have checkpoints") += 1;
        }
        self.restored = self.restoring.iter().filter(|(_, left)| **left == 0).map(|(shard, _)| *shard).collect();
        self.restored.sort_unstable();
    }

    /// The next step of handing the recovered state back, in the order of the disk; `None` when all is handed out.
    pub fn next_state(&mut self) -> io::Result<Option<StateStep>> {
        self.check_failed()?;
        if let Some(shard) = self.restored.pop() {
            return Ok(Some(StateStep::Complete(shard)));
        }
        if let Some(place) = self.to_restore.pop() {
            let shard = place.entry.shard;
            let left = self.restoring.get_mut(&shard).expect("only recovered shards have checkpoints");
            *left -= 1;
            if *left == 0 {
                self.restored.push(shard);
            }
            let read = self.state.read_in_passing(&mut self.disk, &place, &mut self.window);
            let bytes = match read {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            };
            if let Some(bytes) = bytes {
                let blob = StateBlob { guild: place.entry.a, as_of: place.entry.b, bytes: bytes.to_vec() };
                return Ok(Some(StateStep::Blob(shard, blob)));
            }
            self.damaged += 1;
            self.states.forget(&place);
            return Ok(Some(StateStep::Damaged(shard)));
        }
        self.window = Default::default();
        Ok(None)
    }
}
