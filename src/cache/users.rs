//! Which users the shard's cached members are, for the `users` gauge.
//!
//! Holds no user objects: a member always keeps its `user`. With the flag off it counts nothing and takes no memory.

#![forbid(unsafe_code)]

use super::pack::scalar::{put_leb, take_leb};
use super::table::Table;

/// Users by the number of guilds in which they are a cached member. As many entries as there are members at most, some ten
/// bytes each.
#[derive(Debug)]
pub struct Users {
    counting: bool,
    /// Nothing for one guild, else their number in LEB128.
    guilds: Table,
}

impl Users {
    pub fn new(counting: bool) -> Self {
        Self { counting, guilds: Table::without_order() }
    }

    pub fn add(&mut self, user: u64) {
        if self.counting {
            let guilds = self.guilds.get(user).map_or(0, count);
            self.set(user, guilds + 1);
        }
    }

    pub fn remove(&mut self, user: u64) {
        match self.guilds.get(user).map(count) {
            Some(1) => drop(self.guilds.remove(user)),
            Some(guilds) => self.set(user, guilds - 1),
            None => {}
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.guilds.heap_bytes()
    }

    fn set(&mut self, user: u64, guilds: u64) {
        let mut packed = Vec::new();
        if guilds > 1 {
            put_leb(guilds, &mut packed);
        }
        self.guilds.put(Some(user), &packed);
    }

    pub fn clear(&mut self) {
        self.guilds = Table::without_order();
    }

    /// Distinct users.
    pub fn len(&self) -> usize {
        self.guilds.len()
    }
}

fn count(mut packed: &[u8]) -> u64 {
    take_leb(&mut packed).max(1)
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
