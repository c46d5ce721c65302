//! State that outlives its process or its session with Discord: put back from what was stored, or carried over into a new READY.
//!
//! What is stored is what clients would be sent (`write_ready`, `write_guild`), so it has no form of its own here.

#![forbid(unsafe_code)]

use super::Cache;
use super::ready::Ready;
use crate::wire::GuildId;
use crate::wire::json::Invalid;

impl Cache {
    /// Takes the READY of another session: the guilds that it lists are kept as they are, those that are new are unavailable.
    /// Returns those that are known and not listed; they stay until a GUILD_DELETE is applied.
    ///
    /// On an error nothing has changed.
    pub fn replace_ready(&mut self, d: &[u8]) -> Result<Vec<GuildId>, Invalid> {
        let contents = Ready::read(d)?;
        self.keep.own_user = contents.own_user;
        self.ready = Some(contents.ready);
        for id in &contents.guilds {
            if !self.guilds.contains_key(id) {
                self.set_guild(*id, None);
            }
        }
        let mut listed = contents.guilds;
        listed.sort_unstable();
        Ok(self.order.iter().copied().filter(|id| listed.binary_search(id).is_err()).collect())
    }

    /// Whether the guild is known and available.
    pub fn is_available(&self, guild: GuildId) -> bool {
        matches!(self.guilds.get(&guild), Some(Some(_)))
    }

    /// Puts a guild back; `stored` is what `write_guild` wrote, empty for a guild that was gone.
    pub fn restore_guild(&mut self, guild: GuildId, stored: &[u8]) -> Result<(), Invalid> {
        if stored.is_empty() {
            return self.apply(b"GUILD_DELETE", format!(r#"{{"id":"{}"}}"#, guild.0).as_bytes());
        }
        self.apply(b"GUILD_CREATE", stored)
    }

    /// Makes the guilds exactly those of `order`, in this order; one that was not known is unavailable.
    pub fn restore_order(&mut self, order: Vec<GuildId>) {
        let mut listed = order.clone();
        listed.sort_unstable();
        let extra: Vec<_> = self.guilds().filter(|id| listed.binary_search(id).is_err()).collect();
        for guild in extra {
            // An id alone is a whole object.
            let _ = self.restore_guild(guild, b"");
        }
        for guild in &order {
            if !self.guilds.contains_key(guild) {
                self.set_guild(*guild, None);
            }
        }
        if order.len() == self.guilds.len() {
            self.order = order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::properties::written;
    use crate::cache::{CacheFlags, Shapes};

    fn cache() -> Cache {
        let mut cache = Cache::new(CacheFlags::default(), Shapes::default());
        cache
            .on_ready(br#"{"v":10,"user":{"id":"1"},"guilds":[{"id":"5","unavailable":true},{"id":"6"},{"id":"7"}]}"#)
            .unwrap();
        cache
            .apply(b"GUILD_CREATE", br#"{"id":"6","name":"six","members":[{"user":{"id":"1"}},{"user":{"id":"2"}}]}"#)
            .unwrap();
        cache.apply(b"GUILD_CREATE", br#"{"id":"5","name":"five","new":[1, 2]}"#).unwrap();
        cache.apply(b"GUILD_CREATE", br#"{"id":"9","name":"joined"}"#).unwrap();
        cache
    }

    #[test]
    fn a_state_put_back_from_what_was_written_is_the_same() {
        let cache = cache();
        let (ready, guilds) = written(&cache);
        let mut other = Cache::new(CacheFlags::default(), Shapes::default());
        other.on_ready(&ready).unwrap();
        for (id, d) in guilds.iter().rev() {
            other.restore_guild(*id, d).unwrap();
        }
        other.restore_order(cache.guilds().collect());
        assert_eq!(written(&other), (ready, guilds));
        assert_eq!(CacheCountsWithoutBytes::of(&other), CacheCountsWithoutBytes::of(&cache));
    }

    #[derive(Debug, PartialEq)]
    struct CacheCountsWithoutBytes(u64, u64, u64);

    impl CacheCountsWithoutBytes {
        fn of(cache: &Cache) -> Self {
            let counts = cache.counts();
            Self(counts.guilds, counts.members, counts.unavailable_guilds)
        }
    }

    #[test]
    fn another_ready_keeps_the_guilds_it_lists_and_names_those_it_does_not() {
        let mut cache = cache();
        let before = written(&cache).1;
        let gone = cache.replace_ready(br#"{"v":10,"user":{"id":"1"},"guilds":[{"id":"8"},{"id":"5"},{"id":"9"}]}"#);
        assert_eq!(gone, Ok(vec![GuildId(6), GuildId(7)]));
        let after = written(&cache).1;
        assert_eq!(after[..4], before[..]);
        assert_eq!(
            (after[4].0, cache.is_available(GuildId(8)), cache.is_available(GuildId(5))),
            (GuildId(8), false, true)
        );
        assert!(cache.replace_ready(b"[").is_err());
    }

    #[test]
    fn an_order_is_exactly_what_it_says() {
        let mut cache = cache();
        cache.restore_order(vec![GuildId(9), GuildId(20), GuildId(5)]);
        assert_eq!(cache.guilds().collect::<Vec<_>>(), [GuildId(9), GuildId(20), GuildId(5)]);
        assert_eq!(cache.counts().unavailable_guilds, 1);
    }
}
