//! Which core holds which shard. A shard stays where it is for life.

use std::ops::Range;

use crate::wire::ShardId;

/// Shards are dealt out like cards: neighbours, which start together and tend to be alike, come to different cores.
#[derive(Clone, Debug)]
pub struct Placement {
    shards: Range<u32>,
    cores: usize,
}

impl Placement {
    /// `cores` must not be 0.
    pub fn new(shards: Range<u32>, cores: usize) -> Self {
        assert!(cores > 0, "there is at least one core");
        Self { shards, cores }
    }

    /// The core of a shard and its index there; `None` for a shard that this process does not hold.
    pub fn place(&self, shard: u32) -> Option<(usize, usize)> {
        if !self.shards.contains(&shard) {
            return None;
        }
        let at = (shard - self.shards.start) as usize;
        Some((at % self.cores, at / self.cores))
    }

    /// The shard at index `at` of `core`.
    pub fn shard(&self, core: usize, at: usize) -> ShardId {
        ShardId(self.shards.start + u32::try_from(at * self.cores + core).expect("shards are counted in u32"))
    }

    /// The shards of one core, by index.
    pub fn shards_of(&self, core: usize) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.clone().skip(core).step_by(self.cores).map(ShardId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_place() {
        for cores in 1..9 {
            let placement = Placement::new(3..40, cores);
            let mut seen = Vec::new();
            for core in 0..cores {
                for (at, shard) in placement.shards_of(core).enumerate() {
                    assert_eq!(placement.place(shard.0), Some((core, at)));
                    assert_eq!(placement.shard(core, at), shard);
                    seen.push(shard.0);
                }
            }
            seen.sort_unstable();
            assert_eq!(seen, (3..40).collect::<Vec<_>>());
            assert_eq!(placement.place(2), None);
            assert_eq!(placement.place(40), None);
        }
    }
}
