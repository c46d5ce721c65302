//! Which core holds which shard. A shard stays where it is for life; the next process may deal anew.

use std::ops::Range;
use std::sync::Arc;

use crate::wire::ShardId;

/// Shards are dealt out by what they cost, the heaviest first, each to the core that has least. Where nothing is known of them, like
/// cards: neighbours, which start together and tend to be alike, come to different cores. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Placement {
    first: u32,
    /// By shard: its core and its index there.
    places: Arc<[(usize, usize)]>,
    /// By core: its shards, sorted.
    shards: Arc<[Vec<ShardId>]>,
}

impl Placement {
    /// `load` is what a shard cost in a process before this one, in any unit; `None`: as much as the mean of the others. `cores` must
    /// not be 0.
    pub fn new(shards: Range<u32>, cores: usize, load: impl Fn(ShardId) -> Option<u64>) -> Self {
        assert!(cores > 0, "there is at least one core");
        let known: Vec<u64> = shards.clone().filter_map(|it| load(ShardId(it))).collect();
        // Every shard costs something: a core must not get all those that were silent.
        let mean = known.iter().sum::<u64>() / known.len().max(1) as u64;
        let floor = (mean / 8).max(1);
        let mut by_load: Vec<_> = shards
            .clone()
            .map(|it| (std::cmp::Reverse(load(ShardId(it)).unwrap_or(mean).max(floor)), ShardId(it)))
            .collect();
        by_load.sort_by_key(|it| (it.0, it.1.0));
        let mut dealt = vec![(0u64, Vec::new()); cores];
        for (std::cmp::Reverse(load), shard) in by_load {
            let lightest = dealt.iter_mut().min_by_key(|it| it.0).expect("there is at least one core");
            lightest.0 += load;
            lightest.1.push(shard);
        }
        let mut places = vec![(0, 0); shards.len()];
        for (core, (_, held)) in dealt.iter_mut().enumerate() {
            held.sort_by_key(|it| it.0);
            for (at, shard) in held.iter().enumerate() {
                places[(shard.0 - shards.start) as usize] = (core, at);
            }
        }
        Self { first: shards.start, places: places.into(), shards: dealt.into_iter().map(|it| it.1).collect() }
    }

    /// The core of a shard and its index there; `None` for a shard that this process does not hold.
    pub fn place(&self, shard: u32) -> Option<(usize, usize)> {
        self.places.get(shard.checked_sub(self.first)? as usize).copied()
    }

    /// The shard at index `at` of `core`.
    pub fn shard(&self, core: usize, at: usize) -> ShardId {
        self.shards[core][at]
    }

    /// The shards of one core, by index.
    pub fn shards_of(&self, core: usize) -> impl Iterator<Item = ShardId> + '_ {
        self.shards[core].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn check(placement: &Placement, shards: Range<u32>, cores: usize) {
        let mut seen = Vec::new();
        for core in 0..cores {
            for (at, shard) in placement.shards_of(core).enumerate() {
                assert_eq!(placement.place(shard.0), Some((core, at)));
                assert_eq!(placement.shard(core, at), shard);
                seen.push(shard.0);
            }
            assert!(placement.shards_of(core).map(|it| it.0).is_sorted());
        }
        seen.sort_unstable();
        assert_eq!(seen, shards.collect::<Vec<_>>());
    }

    #[test]
    fn shards_of_which_nothing_is_known_are_dealt_like_cards() {
        for cores in 1..9 {
            let placement = Placement::new(3..40, cores, |_| None);
            check(&placement, 3..40, cores);
            assert!((3..40).all(|it| placement.place(it).unwrap().0 == (it as usize - 3) % cores));
            assert_eq!((placement.place(2), placement.place(40)), (None, None));
        }
    }

    #[test]
    fn a_huge_shard_has_a_core_to_itself_as_far_as_the_others_allow() {
        let placement = Placement::new(0..9, 2, |it| Some(if it.0 == 4 { 1000 } else { 100 }));
        let core = placement.place(4).unwrap().0;
        assert_eq!(placement.shards_of(core).collect::<Vec<_>>(), [ShardId(4)]);
    }

    #[test]
    fn silent_shards_are_not_all_on_one_core() {
        let placement = Placement::new(0..40, 4, |it| Some(if it.0 < 4 { 1_000_000 } else { 0 }));
        assert!((0..4).all(|core| placement.shards_of(core).count() == 10));
    }

    proptest! {
        /// Graham's bound for dealing out the heaviest first: 4/3 of the best, which is no less than the mean and the heaviest.
        #[test]
        fn every_shard_has_one_place_and_no_core_far_more_than_its_share(loads in vec(prop::option::of(1000u64..100_000), 1..80), cores in 1usize..9) {
            let placement = Placement::new(7..7 + loads.len() as u32, cores, |it| loads[it.0 as usize - 7]);
            check(&placement, 7..7 + loads.len() as u32, cores);
            let known: Vec<_> = loads.iter().flatten().collect();
            let mean = known.iter().copied().sum::<u64>() / known.len().max(1) as u64;
            let floor = (mean / 8).max(1);
            let of = |it: ShardId| loads[it.0 as usize - 7].unwrap_or(mean).max(floor);
            let held: Vec<u64> = (0..cores).map(|core| placement.shards_of(core).map(of).sum()).collect();
            let (sum, heaviest) = (held.iter().sum::<u64>(), (7..7 + loads.len() as u32).map(|it| of(ShardId(it))).max().unwrap());
            // With more shards than cores two of the heaviest must share one.
            let best = sum.div_ceil(cores as u64).max(heaviest);
            let pair = if loads.len() > cores { 2 * sum / loads.len() as u64 } else { 0 };
            prop_assert!(*held.iter().max().unwrap() <= (best.max(pair) * 3).div_ceil(2), "{held:?}");
        }
    }
}
