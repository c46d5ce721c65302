//! Dispatches received, by event type: a small table without an allocation, and without a hash, per event.
//!
//! The types that come most stand first, one cache line each: a few comparisons find nearly every event.

/// Distinct event types counted by name; what comes after is counted as `OTHER`. Discord has under 100.
const NAMES_MAX: usize = 256;

/// Longer names are counted as `OTHER`. Discord's longest has 39 bytes.
const NAME_BYTES_MAX: usize = 48;

#[derive(Debug)]
struct Counted {
    count: u64,
    len: u8,
    name: [u8; NAME_BYTES_MAX],
}

impl Counted {
    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.len)]
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By count, roughly: whoever overtakes its predecessor changes places with it.
    counted: Vec<Counted>,
    others: u64,
}

impl Tally {
    pub fn add(&mut self, name: &[u8]) {
        if let Some(at) = self.counted.iter().position(|it| it.name() == name) {
            self.counted[at].count += 1;
            if at > 0 && self.counted[at].count > self.counted[at - 1].count {
                self.counted.swap(at, at - 1);
            }
        } else if self.counted.len() < NAMES_MAX && name.len() <= NAME_BYTES_MAX {
            let mut padded = [0; NAME_BYTES_MAX];
            padded[..name.len()].copy_from_slice(name);
            self.counted.push(Counted { count: 1, len: name.len() as u8, name: padded });
        } else {
            self.others += 1;
        }
    }

    /// Sorted by name, so that pages do not jump about.
    pub fn list(&self) -> Vec<(String, u64)> {
        let mut list: Vec<_> =
            self.counted.iter().map(|it| (String::from_utf8_lossy(it.name()).into_owned(), it.count)).collect();
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

    #[test]
    fn a_name_of_any_length_is_counted_once() {
        let mut tally = Tally::default();
        let longest = [b'A'; NAME_BYTES_MAX + 1];
        for len in [0, 1, NAME_BYTES_MAX, NAME_BYTES_MAX + 1, 1, 1] {
            tally.add(&longest[..len]);
        }
        let counts: Vec<_> = tally.list().into_iter().map(|(name, count)| (name.len(), count)).collect();
        assert_eq!(counts, [(0, 1), (1, 3), (NAME_BYTES_MAX, 1), ("OTHER".len(), 1)]);
    }
}
