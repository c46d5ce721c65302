//! A table of fragments: raw JSON of the elements of one array, in the array's order, found by snowflake.
//!
//! Knows nothing of what the fragments mean. An element is replaced where it stands, a new one goes to the end, and a removed
//! one leaves a hole until holes outnumber elements; so an update costs O(log n), and closing the holes O(1) amortised.
//!
//! Memory per element: its JSON, 24 bytes of slot and some 20 of index. An empty table allocates nothing.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::edit::write_comma;

/// Elements one table holds, holes included. Ten times the members of the largest guild that Discord has announced; when a
/// table is full, a new element is not kept, though its event still reaches every client.
pub const SLOTS_MAX: usize = 1 << 28;

/// Holes that are left alone, so that a small table is not rebuilt for every removal.
const HOLES_MIN: usize = 16;

/// What one entry of the index takes, about.
const INDEX_ENTRY_BYTES: usize = 20;

#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    /// Slot by snowflake, for slots that have one.
    index: BTreeMap<NonZeroU64, u32>,
    holes: usize,
    /// Bytes of all fragments.
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    /// `None` for an element that no event can name. It is kept as it came.
    id: Option<NonZeroU64>,
    /// Empty in a hole: JSON never is.
    text: Box<[u8]>,
}

impl Table {
    /// Elements, without holes.
    pub fn len(&self) -> usize {
        self.slots.len() - self.holes
    }

    /// Bytes of JSON held, without commas and brackets.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of heap held, index included.
    pub fn heap_bytes(&self) -> usize {
        self.bytes + self.slots.capacity() * size_of::<Slot>() + self.index.len() * INDEX_ENTRY_BYTES
    }

    pub fn get(&self, id: u64) -> Option<&[u8]> {
        let slot = *self.index.get(&NonZeroU64::new(id)?)?;
        Some(&self.slots[slot as usize].text)
    }

    pub fn contains(&self, id: u64) -> bool {
        self.get(id).is_some()
    }

    /// Replaces the element of that id, or appends one. Elements without id (`None` or 0) are always appended.
    ///
    /// `true` if an element with an id is new in the table.
    pub fn put(&mut self, id: Option<u64>, text: Box<[u8]>) -> bool {
        debug_assert!(!text.is_empty());
        let id = id.and_then(NonZeroU64::new);
        if let Some(&slot) = id.and_then(|id| self.index.get(&id)) {
            let slot = &mut self.slots[slot as usize];
            self.bytes = self.bytes - slot.text.len() + text.len();
            slot.text = text;
            return false;
        }
        if self.slots.len() >= SLOTS_MAX {
            return false;
        }
        if let Some(id) = id {
            self.index.insert(id, self.slots.len() as u32); // SLOTS_MAX < 2^32
        }
        self.bytes += text.len();
        self.slots.push(Slot { id, text });
        self.check();
        id.is_some()
    }

    /// Whether there was one.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(slot) = NonZeroU64::new(id).and_then(|id| self.index.remove(&id)) else { return false };
        let text = std::mem::take(&mut self.slots[slot as usize].text);
        self.bytes -= text.len();
        self.holes += 1;
        if self.holes > HOLES_MIN && self.holes > self.len() {
            self.close_holes();
        }
        self.check();
        true
    }

    /// Removes the elements that have an id and for whose JSON `drop` says so.
    pub fn remove_where(&mut self, mut drop: impl FnMut(&[u8]) -> bool) {
        let ids: Vec<u64> = self.iter_ids().filter(|&id| self.get(id).is_some_and(&mut drop)).collect();
        for id in ids {
            self.remove(id);
        }
    }

    /// Replaces each element for which `change` gives a new text.
    pub fn update_where(&mut self, mut change: impl FnMut(&[u8]) -> Option<Box<[u8]>>) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.text.is_empty()) {
            if let Some(text) = change(&slot.text) {
                self.bytes = self.bytes - slot.text.len() + text.len();
                slot.text = text;
            }
        }
        self.check();
    }

    /// Ids in ascending order.
    pub fn iter_ids(&self) -> impl Iterator<Item = u64> {
        self.index.keys().map(|id| id.get())
    }

    /// Fragments in the array's order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.slots.iter().map(|slot| &*slot.text).filter(|text| !text.is_empty())
    }

    /// Appends the array.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for text in self.iter() {
            write_comma(out);
            out.extend_from_slice(text);
        }
        out.push(b']');
    }

    /// Gives back what a table grown element by element has too much.
    pub fn shrink(&mut self) {
        self.slots.shrink_to_fit();
    }

    fn close_holes(&mut self) {
        self.slots.retain(|slot| !slot.text.is_empty());
        self.slots.shrink_to_fit();
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(place) = slot.id.and_then(|id| self.index.get_mut(&id)) {
                *place = at as u32;
            }
        }
        self.holes = 0;
    }

    /// index.len() ≤ len() ≤ slots.len() ≤ SLOTS_MAX
    fn check(&self) {
        debug_assert!(self.index.len() <= self.len());
        debug_assert!(self.slots.len() <= SLOTS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn written(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(text: &str) -> Box<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn elements_keep_their_places() {
        let mut table = Table::default();
        assert!(table.put(Some(9), text("9")));
        assert!(table.put(Some(1), text("1")));
        assert!(!table.put(None, text("null")));
        assert!(!table.put(Some(0), text("0")));
        assert!(!table.put(Some(9), text("90")));
        assert_eq!(written(&table), "[90,1,null,0]");
        assert!(table.remove(1));
        assert!(!table.remove(1));
        assert!(!table.remove(0));
        assert!(table.put(Some(1), text("11")));
        assert_eq!(written(&table), "[90,null,0,11]");
        assert_eq!((table.len(), table.bytes()), (4, 9));
    }

    proptest! {
        #[test]
        fn is_a_list_searched_from_the_front(steps in vec((0_u64..60, 0..4_u8), 0..400)) {
            let mut table = Table::default();
            let mut list: Vec<(u64, String)> = Vec::new();
            for (step, (id, action)) in steps.into_iter().enumerate() {
                let place = list.iter().position(|it| it.0 == id && id != 0);
                if action < 2 {
                    let new = format!("{step}");
                    table.put(Some(id), text(&new));
                    match place {
                        Some(place) => list[place].1 = new,
                        None => list.push((id, new)),
                    }
                } else if action == 2 {
                    prop_assert_eq!(table.remove(id), place.is_some());
                    place.map(|place| list.remove(place));
                } else {
                    table.remove_where(|it| it.ends_with(b"7"));
                    list.retain(|it| it.0 == 0 || !it.1.ends_with('7'));
                }
                prop_assert_eq!(table.len(), list.len());
                prop_assert_eq!(table.bytes(), list.iter().map(|it| it.1.len()).sum::<usize>());
            }
            let joined = list.iter().map(|it| it.1.as_str()).collect::<Vec<_>>().join(",");
            prop_assert_eq!(written(&table), format!("[{joined}]"));
            for (id, new) in list.iter().filter(|it| it.0 != 0) {
                prop_assert_eq!(table.get(*id), Some(new.as_bytes()));
            }
        }
    }
}
