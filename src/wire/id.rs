//! Numbers that must not be mixed.

#![forbid(unsafe_code)]

use std::fmt;

/// A Discord shard, as in `shard: [id, count]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u32);

/// A guild's snowflake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuildId(pub u64);

impl GuildId {
    /// The shard of `shard_count` that Discord sends the guild's events to.
    ///
    /// Source: Discord, Gateway › Sharding.
    pub fn shard(self, shard_count: u32) -> ShardId {
        ShardId(((self.0 >> 22) % u64::from(shard_count.max(1))) as u32)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
