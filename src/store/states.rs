//! Which checkpoint of which guild is the newest, and how much of each state file is still worth its place.
//!
//! It does not read or write; `Store` compacts.

use std::collections::{BTreeMap, HashMap};

use super::family::Place;
use crate::wire::ShardId;

/// By shard and guild; of two checkpoints the one as of the higher index counts, then the later one. An empty blob says that the
/// guild is gone; it is kept as long as an older file could hold something else.
#[derive(Debug, Default)]
pub struct States {
    newest: HashMap<(ShardId, u64), Place>,
    /// Bytes of live blobs in each file.
    live: BTreeMap<u64, u64>,
}

impl States {
    /// Takes a checkpoint in unless a newer one is known.
    pub fn insert(&mut self, place: Place) {
        let key = (place.entry.shard, place.entry.a);
        if let Some(known) = self.newest.get(&key).copied() {
            if known.entry.b > place.entry.b {
                return;
            }
            *self.live.entry(known.file).or_default() -= known.entry.footprint();
        }
        *self.live.entry(place.file).or_default() += place.entry.footprint();
        self.newest.insert(key, place);
    }

    pub fn is_newest(&self, place: &Place) -> bool {
        self.newest.get(&(place.entry.shard, place.entry.a)) == Some(place)
    }

    /// Nothing is known of this guild any more.
    pub fn forget(&mut self, place: &Place) {
        if self.is_newest(place) {
            self.newest.remove(&(place.entry.shard, place.entry.a));
            *self.live.entry(place.file).or_default() -= place.entry.footprint();
        }
    }

    /// The newest checkpoints, in the order in which they lie on disk; `of`: of one file or of all.
    pub fn in_order(&self, of: Option<u64>) -> Vec<Place> {
        let mut places: Vec<Place> =
            self.newest.values().filter(|it| of.is_none_or(|file| it.file == file)).copied().collect();
        places.sort_unstable_by_key(|it| (it.file, it.entry.offset));
        places
    }

    pub fn live_bytes(&self) -> u64 {
        self.live.values().sum()
    }

    pub fn forget_file(&mut self, file: u64) {
        debug_assert_eq!(self.live.get(&file).copied().unwrap_or(0), 0, "live checkpoints were copied before");
        self.live.remove(&file);
    }
}

#[cfg(test)]
mod tests {
    use super::super::blob::Entry;
    use super::*;

    fn place(file: u64, guild: u64, as_of: u64, offset: u32) -> Place {
        Place { file, entry: Entry { shard: ShardId(0), a: guild, b: as_of, batch: 1, offset, len: 16 } }
    }

    #[test]
    fn the_checkpoint_as_of_the_highest_index_counts_then_the_later_one() {
        let mut states = States::default();
        states.insert(place(1, 7, 50, 0));
        states.insert(place(1, 7, 40, 64));
        assert!(states.is_newest(&place(1, 7, 50, 0)));
        states.insert(place(2, 7, 50, 0));
        assert!(states.is_newest(&place(2, 7, 50, 0)));
        assert_eq!(states.live_bytes(), 64);
        assert_eq!(states.in_order(Some(1)), []);
    }

    #[test]
    fn what_is_live_is_listed_in_the_order_of_the_disk() {
        let mut states = States::default();
        for it in [place(2, 1, 9, 0), place(1, 2, 9, 64), place(1, 3, 9, 0)] {
            states.insert(it);
        }
        let guilds: Vec<u64> = states.in_order(None).iter().map(|it| it.entry.a).collect();
        assert_eq!(guilds, [3, 2, 1]);
        states.forget(&place(2, 1, 9, 0));
        assert_eq!(states.live_bytes(), 128);
    }
}
