//! Guilds whose stored state is behind their real one, the longest first: what a restart would have to make good from the log.
//!
//! It knows neither guilds nor the log; whoever changes a guild says so.
#![forbid(unsafe_code)]

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::wire::GuildId;

/// A restart replays about this much of the log for a shard, or half its state if that is more; and nothing stays unstored for longer
/// than `AGE_MAX`.
pub const DEBT_BYTES_MIN: u64 = 1 << 20;
pub const AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// Hashes an id in one multiplication: ids come from Discord, not from an attacker.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    guild: GuildId,
    /// The index of the first event that is not stored.
    index: u64,
    /// Bytes appended to the log before it.
    appended: u64,
    since: Instant,
}

/// A guild once; indices rise.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    queue: VecDeque<Entry>,
    guilds: HashSet<GuildId, BuildHasherDefault<Fold>>,
}

impl Dirty {
    /// The event at `index` changes the guild; `appended` bytes of log came before it.
    pub fn mark(&mut self, guild: GuildId, index: u64, appended: u64, now: Instant) {
        if self.guilds.insert(guild) {
            self.queue.push_back(Entry { guild, index, appended, since: now });
        }
    }

    /// The lowest index that a replay needs; `None` when everything is stored.
    pub fn floor(&self) -> Option<u64> {
        self.queue.front().map(|it| it.index)
    }

    /// The guild to be stored now, if the debt is over its limit. `appended` is the log's, `state_bytes` the cache's.
    pub fn take_due(&mut self, appended: u64, state_bytes: u64, now: Instant) -> Option<GuildId> {
        let oldest = self.queue.front()?;
        let is_due = appended - oldest.appended > DEBT_BYTES_MIN.max(state_bytes / 2)
            || now.saturating_duration_since(oldest.since) > AGE_MAX;
        if !is_due {
            return None;
        }
        let guild = self.queue.pop_front()?.guild;
        self.guilds.remove(&guild);
        Some(guild)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use super::*;

    #[test]
    fn the_longest_dirty_guild_is_stored_when_the_debt_or_its_age_is_too_much() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        dirty.mark(GuildId(1), 10, 0, now);
        dirty.mark(GuildId(2), 11, 100, now);
        dirty.mark(GuildId(1), 12, 200, now);
        assert_eq!((dirty.floor(), dirty.take_due(DEBT_BYTES_MIN, 0, now)), (Some(10), None));
        assert_eq!(dirty.take_due(DEBT_BYTES_MIN + 1, 4 * DEBT_BYTES_MIN, now), None);
        assert_eq!(dirty.take_due(DEBT_BYTES_MIN + 1, 0, now), Some(GuildId(1)));
        assert_eq!((dirty.floor(), dirty.take_due(DEBT_BYTES_MIN + 1, 0, now)), (Some(11), None));
        assert_eq!(dirty.take_due(100, 0, now + AGE_MAX), None);
        assert_eq!(dirty.take_due(100, 0, now + AGE_MAX + Duration::from_secs(1)), Some(GuildId(2)));
        assert_eq!(dirty.floor(), None);
    }
}
