//! The ids that a guild's objects share, each named by its place: roles, channels, the guild itself.
//!
//! A place is never given to another id, so what was packed stays true. Ids of what is gone remain until the guild is built anew.

#![forbid(unsafe_code)]

/// Ids of one guild. Discord allows 250 roles and 500 channels at a time; when full, further ids are packed as such, in 8 bytes.
pub const IDS_MAX: usize = 4096;

/// Places by which a full list grows: new roles and channels are rare.
const GROWTH: usize = 8;

#[derive(Debug, Default)]
pub struct Ids {
    ids: Vec<u64>,
    /// So many from the front ascend. Snowflakes grow with time, so that is mostly all of them.
    ascending: usize,
}

impl Ids {
    /// The place of an id that is known.
    pub fn find(&self, id: u64) -> Option<u64> {
        let (ascending, rest) = self.ids.split_at(self.ascending);
        if let Ok(at) = ascending.binary_search(&id) {
            return Some(at as u64);
        }
        rest.iter().position(|&it| it == id).map(|at| (self.ascending + at) as u64)
    }

    /// The place of `id`, which it gets if it has none; `None` when full.
    pub fn intern(&mut self, id: u64) -> Option<u64> {
        if let Some(place) = self.find(id) {
            return Some(place);
        }
        let place = self.ids.len();
        if place >= IDS_MAX {
            return None;
        }
        if place == self.ids.capacity() {
            self.ids.reserve_exact(GROWTH);
        }
        if self.ascending == place && self.ids.last().is_none_or(|&last| last < id) {
            self.ascending += 1;
        }
        self.ids.push(id);
        Some(place as u64)
    }

    /// Interns many at once: in their order, so that they are found fast.
    pub fn intern_all(&mut self, mut ids: Vec<u64>) {
        ids.sort_unstable();
        ids.dedup();
        self.ids.reserve_exact(ids.len());
        for id in ids {
            self.intern(id);
        }
    }

    /// The id at a place; 0 for a place that was never given.
    pub fn get(&self, place: u64) -> u64 {
        usize::try_from(place).ok().and_then(|place| self.ids.get(place)).copied().unwrap_or_default()
    }

    pub fn heap_bytes(&self) -> usize {
        self.ids.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_list_still_knows_its_own() {
        let mut ids = Ids::default();
        for id in 0..IDS_MAX as u64 {
            assert_eq!(ids.intern(id ^ 1), Some(id));
        }
        assert_eq!(ids.intern(1 << 40), None);
        assert_eq!(ids.intern(8), Some(9));
        assert_eq!(ids.get(9), 8);
        assert_eq!(ids.get(1 << 40), 0);
    }

    proptest! {
        #[test]
        fn a_place_keeps_its_id(bulk in vec(0_u64..50, 0..20), singly in vec(0_u64..100, 0..60)) {
            let mut ids = Ids::default();
            ids.intern_all(bulk.clone());
            let places: Vec<_> = singly.iter().map(|&id| ids.intern(id).unwrap()).collect();
            for (place, id) in places.into_iter().zip(singly) {
                prop_assert_eq!(ids.get(place), id);
                prop_assert_eq!(ids.find(id), Some(place));
            }
            prop_assert!(bulk.iter().all(|&id| ids.find(id).is_some()));
            prop_assert_eq!(ids.find(1000), None);
        }
    }
}
