//! What the core and the store do between shard and disk, without either: everything is kept in the order in which it was handed over, and
//! a crash keeps all that was acknowledged and any part of the rest.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::shard::Shard;
use crate::store::{Recovered, Sealed, StateBlob};

enum Item {
    Records(Vec<u8>, u64),
    Segment(Sealed),
    State(StateBlob),
    /// Records before this item are needed no more, nor segments up to the index.
    Rotated(usize, u64),
}

#[derive(Default)]
pub struct Disk {
    items: Vec<Item>,
    /// What was acknowledged.
    written: usize,
}

impl Disk {
    /// Takes from the shard what it has, records first.
    pub fn take(&mut self, shard: &mut Shard, now: Instant, checkpoints: usize) {
        self.take_records(shard);
        self.take_segments(shard);
        for _ in 0..checkpoints {
            let Some(blob) = shard.checkpoint(now) else { break };
            self.items.push(Item::State(blob));
        }
    }

    pub fn take_records(&mut self, shard: &mut Shard) {
        let Some(journal) = shard.journal() else { return };
        journal.urgent = false;
        if !journal.bytes.is_empty() {
            let bytes = std::mem::take(&mut journal.bytes);
            self.items.push(Item::Records(bytes, journal.mark));
        }
    }

    fn take_segments(&mut self, shard: &mut Shard) {
        while let Some(sealed) = shard.take_sealed() {
            self.items.push(Item::Segment(sealed));
        }
    }

    pub fn rotate(&mut self, shard: &mut Shard) {
        self.take_records(shard);
        let file = self.items.len();
        shard.seal();
        self.take_segments(shard);
        self.take_records(shard);
        self.items.push(Item::Rotated(file, shard.floor()));
    }

    /// Acknowledges up to `count` more.
    pub fn write(&mut self, shard: &mut Shard, count: usize) {
        let end = self.items.len().min(self.written.saturating_add(count));
        for item in &self.items[self.written..end] {
            if let Item::Records(_, mark) = item {
                shard.on_written(*mark);
            }
        }
        self.written = end;
    }

    pub fn is_written(&self) -> bool {
        self.written == self.items.len()
    }

    /// The shard asks for a segment.
    pub fn read(&self, index: u64) -> Option<Sealed> {
        self.items.iter().rev().find_map(|item| match item {
            Item::Segment(it) if it.first <= index && index < it.end => Some(it.clone()),
            _ => None,
        })
    }

    /// The process dies. Returns how many items were lost.
    pub fn crash(&mut self, rng: &mut fastrand::Rng) -> usize {
        let kept = rng.usize(self.written..=self.items.len());
        let lost = self.items.len() - kept;
        self.items.truncate(kept);
        self.written = kept;
        lost
    }

    /// The process dies, and nothing is left but what was acknowledged.
    pub fn keep_written(&mut self) {
        self.items.truncate(self.written);
    }

    /// The bound on the disk takes all that it may. True if that was anything.
    pub fn trim(&mut self) -> bool {
        let rotated = self.items[..self.written].iter().rev();
        let Some(floor) =
            rotated.clone().find_map(|it| if let Item::Rotated(_, floor) = it { Some(*floor) } else { None })
        else {
            return false;
        };
        let mut trimmed = false;
        for item in &mut self.items {
            if let Item::Segment(it) = item
                && it.end <= floor
                && it.first < it.end
            {
                // Nothing answers to it any more.
                it.end = it.first;
                trimmed = true;
            }
        }
        trimmed
    }

    /// What the store finds: everything that was not removed.
    pub fn recover(&self) -> (Recovered, Vec<StateBlob>) {
        let rotated =
            self.items.iter().rev().find_map(|it| if let Item::Rotated(at, _) = it { Some(*at) } else { None });
        let from = rotated.unwrap_or(0);
        let mut recovered = Recovered::default();
        let mut states: BTreeMap<u64, &StateBlob> = BTreeMap::new();
        for (at, item) in self.items.iter().enumerate() {
            match item {
                Item::Records(bytes, _) if at >= from => recovered.records.extend_from_slice(bytes),
                Item::Segment(it) if it.first < it.end => recovered.sealed.push((it.first, it.end)),
                Item::State(it) if states.get(&it.guild).is_none_or(|old| old.as_of <= it.as_of) => {
                    states.insert(it.guild, it);
                }
                _ => {}
            }
        }
        recovered.sealed.sort_unstable();
        // The store hands out nothing for a guild that is gone.
        (recovered, states.into_values().filter(|it| !it.bytes.is_empty()).cloned().collect())
    }
}
