//! Dispatches received, by event type: a small table without an allocation per event.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Distinct event types counted by name; what comes after is counted as `OTHER`. Discord has under 100.
const NAMES_MAX: usize = 256;

/// Folds eight bytes at a time: names come from Discord, not from an attacker.
#[derive(Default)]
pub struct Fold(u64);

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

#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: HashMap<Box<[u8]>, u64, BuildHasherDefault<Fold>>,
    others: u64,
}

impl Tally {
    pub fn add(&mut self, name: &[u8]) {
        if let Some(count) = self.counts.get_mut(name) {
            *count += 1;
        } else if self.counts.len() < NAMES_MAX {
            self.counts.insert(name.into(), 1);
        } else {
            self.others += 1;
        }
    }

    /// Sorted by name, so that pages do not jump about.
    pub fn list(&self) -> Vec<(String, u64)> {
        let mut list: Vec<_> =
            self.counts.iter().map(|(name, count)| (String::from_utf8_lossy(name).into_owned(), *count)).collect();
        if self.others > 0 {
            list.push(("OTHER".to_owned(), self.others));
        }
        list.sort();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_ends_in_other() {
        let mut tally = Tally::default();
        for n in 0..NAMES_MAX + 5 {
            tally.add(format!("NAME_{n}").as_bytes());
        }
        tally.add(b"NAME_0");
        let list = tally.list();
        assert_eq!(list.len(), NAMES_MAX + 1);
        assert!(list.contains(&("OTHER".to_owned(), 5)));
        assert!(list.contains(&("NAME_0".to_owned(), 2)));
    }
}
