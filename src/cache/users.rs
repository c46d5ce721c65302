//! Which users the shard's cached members are, for the `users` gauge.
//!
//! Holds no user objects: a member always keeps its `user`. With the flag off it counts nothing and takes no memory.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// Users by the number of guilds in which they are a cached member. As many entries as there are members at most.
#[derive(Debug, Default)]
pub struct Users {
    counting: bool,
    guilds: BTreeMap<u64, u32>,
}

impl Users {
    pub fn new(counting: bool) -> Self {
        Self { counting, guilds: BTreeMap::new() }
    }

    pub fn add(&mut self, user: u64) {
        if self.counting {
            *self.guilds.entry(user).or_default() += 1;
        }
    }

    pub fn remove(&mut self, user: u64) {
        if let Some(guilds) = self.guilds.get_mut(&user) {
            *guilds -= 1;
            if *guilds == 0 {
                self.guilds.remove(&user);
            }
        }
    }

    pub fn clear(&mut self) {
        self.guilds.clear();
    }

    /// Distinct users.
    pub fn len(&self) -> usize {
        self.guilds.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_counts_once_until_the_last_guild_is_gone() {
        let mut users = Users::new(true);
        users.add(1);
        users.add(1);
        users.add(2);
        assert_eq!(users.len(), 2);
        users.remove(1);
        assert_eq!(users.len(), 2);
        users.remove(1);
        users.remove(3);
        assert_eq!(users.len(), 1);
    }

    #[test]
    fn nothing_is_counted_when_the_flag_is_off() {
        let mut users = Users::new(false);
        users.add(1);
        assert_eq!(users.len(), 0);
    }
}
