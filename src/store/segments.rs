//! Which sealed segment of which shard's log lies where.
//!
//! It does not read; it forgets whole files, oldest first, and says what that cost each shard.

use std::collections::{BTreeMap, HashMap};

use super::family::Place;
use crate::wire::ShardId;

/// Segments remembered, 80 bytes each. When there are more, the oldest file goes as if the disk were full.
pub const SEGMENTS_MAX: usize = 1 << 18;

/// By shard and first index. Where two begin alike, the later one counts.
#[derive(Debug, Default)]
pub struct Segments {
    shards: HashMap<ShardId, BTreeMap<u64, Place>>,
    len: usize,
}

impl Segments {
    /// Segments of all shards.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A segment holds `entry.a..entry.b`; an empty one is nothing.
    pub fn insert(&mut self, place: Place) {
        if place.entry.a < place.entry.b
            && self.shards.entry(place.entry.shard).or_default().insert(place.entry.a, place).is_none()
        {
            self.len += 1;
        }
    }

    /// The segment with `index`, or the next one where `index` lies in a gap; `None` when it is older or newer than all.
    pub fn find(&self, shard: ShardId, index: u64) -> Option<Place> {
        let segments = self.shards.get(&shard)?;
        let (_, at_or_before) = segments.range(..=index).next_back()?;
        if index < at_or_before.entry.b {
            return Some(*at_or_before);
        }
        segments.range(index..).next().map(|(_, place)| *place)
    }

    /// `first..end` of each segment of a shard, in order.
    pub fn of(&self, shard: ShardId) -> Vec<(u64, u64)> {
        self.shards.get(&shard).into_iter().flat_map(BTreeMap::values).map(|it| (it.entry.a, it.entry.b)).collect()
    }

    pub fn forget(&mut self, place: &Place) {
        if let Some(segments) = self.shards.get_mut(&place.entry.shard)
            && segments.get(&place.entry.a) == Some(place)
        {
            segments.remove(&place.entry.a);
            self.len -= 1;
        }
    }

    /// The segments in `file` that reach above the floors: without them state cannot be built again.
    pub fn needed(&self, file: u64, floor: impl Fn(ShardId) -> u64) -> Vec<Place> {
        let all = self.shards.iter().flat_map(|(shard, it)| it.values().map(|place| (*shard, *place)));
        all.filter(|(shard, it)| it.file == file && it.entry.b > floor(*shard)).map(|(_, place)| place).collect()
    }

    /// Forgets what is in `file`. Yields, for each shard that lost something, the oldest index that it has left; the index after
    /// what was lost when it has nothing left.
    pub fn forget_file(&mut self, file: u64) -> Vec<(ShardId, u64)> {
        let mut tails = Vec::new();
        for (shard, segments) in &mut self.shards {
            let before = segments.len();
            let mut lost = 0;
            segments.retain(|_, it| {
                if it.file == file {
                    lost = lost.max(it.entry.b);
                }
                it.file != file
            });
            if segments.len() < before {
                self.len -= before - segments.len();
                tails.push((*shard, segments.first_key_value().map_or(lost, |(first, _)| *first)));
            }
        }
        tails
    }
}

#[cfg(test)]
mod tests {
    use super::super::blob::Entry;
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn place(file: u64, a: u64, b: u64) -> Place {
        Place { file, entry: Entry { shard: SHARD, a, b, batch: 1, offset: 0, len: 1 } }
    }

    fn segments() -> Segments {
        let mut segments = Segments::default();
        for it in [place(1, 10, 20), place(1, 20, 30), place(2, 35, 40)] {
            segments.insert(it);
        }
        segments
    }

    #[test]
    fn an_index_in_a_gap_finds_what_comes_after_it_and_one_before_all_finds_nothing() {
        let segments = segments();
        let find = |index| segments.find(SHARD, index).map(|it| it.entry.a);
        assert_eq!(
            [9, 10, 29, 30, 34, 39, 40].map(find),
            [None, Some(10), Some(20), Some(35), Some(35), Some(35), None]
        );
        assert_eq!(segments.find(ShardId(2), 10), None);
    }

    #[test]
    fn what_is_above_the_floor_is_needed_and_a_file_that_goes_moves_the_tail() {
        let mut segments = segments();
        assert_eq!(segments.needed(1, |_| 20), [place(1, 20, 30)]);
        assert_eq!(segments.needed(1, |_| 30), []);
        assert_eq!(segments.forget_file(1), [(SHARD, 35)]);
        assert_eq!(segments.of(SHARD), [(35, 40)]);
        assert_eq!(segments.forget_file(2), [(SHARD, 40)]);
        assert_eq!(segments.len(), 0);
    }

    #[test]
    fn of_two_that_begin_alike_the_later_counts() {
        let mut segments = segments();
        segments.insert(place(3, 20, 34));
        assert_eq!(segments.find(SHARD, 33).map(|it| it.file), Some(3));
        assert_eq!(segments.len(), 3);
    }
}
