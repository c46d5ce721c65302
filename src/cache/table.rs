//! A table of packed elements, found by snowflake, written in the order in which they came.
//!
//! Entries lie in blocks sorted by id (see `block`); each carries its ordinal, which is its place in the array. An element is
//! replaced where it stands, a new one goes to the end, a removed one leaves nothing. Knows nothing of what the bytes mean.
//!
//! Cost: an update is a binary search over the blocks and a move within one, at most `BLOCK_MAX` bytes. A block that grows too
//! long is cut in two, one that shrinks is joined with its neighbour: O(blocks) of 32 bytes, rarely.
//! Memory per element: its bytes, and some 10 of id, ordinal, length; per block 32; in blocks no more slack than a size class.

#![forbid(unsafe_code)]

use super::block::{self, Block};

/// Elements one table holds. Ten times the members of the largest guild that Discord has announced; when a table is full, a new
/// element is not kept, though its event still reaches every client.
pub const ENTRIES_MAX: usize = 1 << 28;

/// A block of more bytes is cut in two, unless it is one entry; one of less than a quarter is joined with a neighbour, if that
/// gives no more than three. Longer blocks have less slack, shorter ones are searched faster.
const BLOCK_MAX: usize = 2 << 10;
/// The same for a table without order, whose elements are next to nothing: some 90 a block.
const SMALL_BLOCK_MAX: usize = 1 << 10;

#[derive(Debug, Default)]
pub struct Table {
    /// Sorted by id, none empty. Elements without an id have 0 and stand first.
    blocks: Vec<Block>,
    len: u32,
    /// Greater than any in use.
    next_ordinal: u32,
    /// Packed elements, without what finds them.
    bytes: usize,
    /// All ordinals are 0: the order is that of the ids.
    is_unordered: bool,
}

impl Table {
    /// A table whose elements need no order of their own: two or three bytes less for each in a large one.
    pub fn without_order() -> Self {
        Self { is_unordered: true, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes of the packed elements.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of heap held.
    pub fn heap_bytes(&self) -> usize {
        let blocks = self.blocks.iter().map(Block::heap_bytes).sum::<usize>();
        blocks + self.blocks.capacity() * size_of::<Block>()
    }

    pub fn get(&self, id: u64) -> Option<&[u8]> {
        if id == 0 || self.blocks.is_empty() {
            return None;
        }
        let block = &self.blocks[self.block_of(id)];
        block.find(id).ok().map(|entry| block.packed(&entry))
    }

    pub fn contains(&self, id: u64) -> bool {
        self.get(id).is_some()
    }

    /// Replaces the element of that id, or appends one. Elements without id (`None` or 0) are always appended.
    ///
    /// `true` if an element with an id is new in the table.
    pub fn put(&mut self, id: Option<u64>, packed: &[u8]) -> bool {
        let id = id.unwrap_or_default();
        if self.blocks.is_empty() {
            self.blocks.reserve_exact(1);
            self.blocks.push(Block::default());
        }
        let mut at = self.block_of(id);
        let found = self.blocks[at].find(id);
        let (span, ordinal) = match &found {
            Ok(entry) => {
                self.bytes -= entry.packed.len();
                (entry.span.clone(), entry.ordinal)
            }
            Err(place) if self.len() < ENTRIES_MAX => {
                let place = *place;
                let is_last = at + 1 == self.blocks.len() && place == self.blocks[at].len();
                let ordinal = self.next_ordinal;
                // After 2^32 elements, new ones share the last place and stand by id.
                self.next_ordinal = self.next_ordinal.saturating_add(u32::from(!self.is_unordered));
                self.len += 1;
                // Ids that ascend fill their blocks.
                if is_last && place > 0 && place + block::entry_len(ordinal, packed.len()) > self.block_max() {
                    at += 1;
                    self.insert_block(at, Block::default());
                    (0..0, ordinal)
                } else {
                    (place..place, ordinal)
                }
            }
            Err(_) => return false,
        };
        self.bytes += packed.len();
        self.blocks[at].splice(span, id, ordinal, packed);
        self.mend(at);
        found.is_err() && id != 0
    }

    /// Whether there was one.
    pub fn remove(&mut self, id: u64) -> bool {
        if id == 0 || self.blocks.is_empty() {
            return false;
        }
        let at = self.block_of(id);
        let Ok(entry) = self.blocks[at].find(id) else { return false };
        self.bytes -= entry.packed.len();
        self.len -= 1;
        self.blocks[at].remove(entry.span);
        self.mend(at);
        true
    }

    /// Ids in ascending order, of elements that have one.
    pub fn iter_ids(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|(id, _)| id).filter(|&id| id != 0)
    }

    /// Ids and packed elements in the order of ids; 0 stands for none.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.blocks.iter().flat_map(|block| block.entries().map(|entry| (entry.id, block.packed(&entry))))
    }

    /// Calls `each` with ids and packed elements in the array's order.
    pub fn for_each(&self, mut each: impl FnMut(u64, &[u8])) {
        let mut places: Vec<(u32, u32, u32)> = Vec::with_capacity(self.len());
        for (at, block) in self.blocks.iter().enumerate() {
            // A table of more than 2^32 bytes of blocks would hold more than ENTRIES_MAX.
            places.extend(block.entries().map(|entry| (entry.ordinal, at as u32, entry.span.start as u32)));
        }
        if !places.is_sorted() {
            places.sort_unstable();
        }
        for (_, at, start) in places {
            let block = &self.blocks[at as usize];
            if let Some(entry) = block.entry(start as usize) {
                each(entry.id, block.packed(&entry));
            }
        }
    }

    /// The last block that begins at or before `id`, or the first.
    fn block_of(&self, id: u64) -> usize {
        self.blocks.partition_point(|block| block.first() <= id).saturating_sub(1)
    }

    /// Cuts or joins the block, or takes it away, after a change.
    fn mend(&mut self, at: usize) {
        let (len, max) = (self.blocks[at].len(), self.block_max());
        if len > max {
            if let Some(right) = self.blocks[at].cut() {
                self.insert_block(at + 1, right);
            }
        } else if len == 0 {
            self.blocks.remove(at);
            self.trim();
        } else if len < max / 4 && self.blocks.len() > 1 {
            let left = if at > 0 { at - 1 } else { at };
            if self.blocks[left].len() + self.blocks[left + 1].len() <= max / 4 * 3 {
                let right = self.blocks.remove(left + 1);
                self.blocks[left].append(&right);
                self.trim();
            }
        }
        self.check(at);
    }

    fn block_max(&self) -> usize {
        if self.is_unordered { SMALL_BLOCK_MAX } else { BLOCK_MAX }
    }

    fn insert_block(&mut self, at: usize, block: Block) {
        if self.blocks.len() == self.blocks.capacity() {
            self.blocks.reserve_exact(1 + self.blocks.len() / 8);
        }
        self.blocks.insert(at, block);
    }

    fn trim(&mut self) {
        if self.blocks.capacity() > self.blocks.len() + self.blocks.len() / 4 {
            self.blocks.shrink_to_fit();
        }
    }

    /// Around `at`, blocks ascend and none is empty.
    fn check(&self, at: usize) {
        let around = &self.blocks[at.saturating_sub(1).min(self.blocks.len())..self.blocks.len().min(at + 3)];
        debug_assert!(around.iter().all(|block| block.len() > 0));
        debug_assert!(around.is_sorted_by_key(Block::first));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn listed(table: &Table) -> Vec<(u64, Vec<u8>)> {
        let mut list = Vec::new();
        table.for_each(|id, packed| list.push((id, packed.to_vec())));
        list
    }

    #[test]
    fn elements_keep_their_places() {
        let mut table = Table::default();
        assert!(table.put(Some(9), b"9"));
        assert!(table.put(Some(1), b"1"));
        assert!(!table.put(None, b"null"));
        assert!(!table.put(Some(0), b"0"));
        assert!(!table.put(Some(9), b"90"));
        assert!(table.remove(1));
        assert!(!table.remove(1));
        assert!(!table.remove(0));
        assert!(table.put(Some(1), b""));
        assert_eq!(listed(&table), [(9, b"90".to_vec()), (0, b"null".to_vec()), (0, b"0".to_vec()), (1, vec![])]);
        assert_eq!((table.len(), table.bytes()), (4, 7));
        assert_eq!(table.iter_ids().collect::<Vec<_>>(), [1, 9]);
    }

    #[test]
    fn an_empty_table_holds_nothing() {
        let mut table = Table::default();
        assert_eq!(table.heap_bytes(), 0);
        table.put(Some(1), &[0; 100]);
        table.remove(1);
        assert_eq!(table.heap_bytes(), 0);
    }

    #[test]
    fn ids_that_ascend_fill_their_blocks() {
        let mut table = Table::default();
        for id in 1..2000 {
            table.put(Some(id), &[0; 90]);
        }
        let held = table.heap_bytes();
        assert!(held < 2000 * 101 * 11 / 10, "{held}");
    }

    #[test]
    fn blocks_that_empty_are_joined() {
        let mut table = Table::default();
        for id in 0..2000_u64 {
            table.put(Some(1 + id * 7919 % 2003), &[0; 90]);
        }
        let full = table.heap_bytes();
        for id in (1..=2003).filter(|id| id % 16 != 0) {
            table.remove(id);
        }
        assert!((120..=126).contains(&table.len()));
        assert!(table.heap_bytes() < full / 10, "{} of {full}", table.heap_bytes());
    }

    #[test]
    fn an_element_longer_than_a_block_stands_alone() {
        let mut table = Table::default();
        for id in 1..10 {
            table.put(Some(id), &vec![id as u8; 3 * BLOCK_MAX]);
            table.put(Some(id + 100), &[0; 50]);
        }
        assert_eq!(table.get(5), Some(&vec![5; 3 * BLOCK_MAX][..]));
        assert_eq!(table.len(), 18);
    }

    proptest! {
        #[test]
        fn is_a_list_searched_from_the_front(
            steps in vec((0_u64..60, 0..3_u8, prop_oneof![9 => 0_usize..200, 1 => 0_usize..9000]), 0..400),
            spread in prop_oneof![Just(1_u64), Just(u64::MAX / 60)],
            is_ordered in any::<bool>(),
        ) {
            let mut table = if is_ordered { Table::default() } else { Table::without_order() };
            let mut list: Vec<(u64, Vec<u8>)> = Vec::new();
            for (step, (id, action, len)) in steps.into_iter().enumerate() {
                let id = id * spread;
                let place = list.iter().position(|it| it.0 == id && id != 0);
                if action < 2 {
                    let new = vec![step as u8; len];
                    prop_assert_eq!(table.put(Some(id), &new), place.is_none() && id != 0);
                    match place {
                        Some(place) => list[place].1 = new,
                        None => list.push((id, new)),
                    }
                } else {
                    prop_assert_eq!(table.remove(id), place.is_some());
                    place.map(|place| list.remove(place));
                }
                prop_assert_eq!(table.len(), list.len());
                prop_assert_eq!(table.bytes(), list.iter().map(|it| it.1.len()).sum::<usize>());
            }
            if !is_ordered {
                list.sort_by_key(|it| it.0);
            }
            prop_assert_eq!(listed(&table), list.clone());
            for (id, new) in list.iter().filter(|it| it.0 != 0) {
                prop_assert_eq!(table.get(*id), Some(&new[..]));
            }
            let held: usize = list.iter().map(|it| 13 + it.1.len()).sum();
            prop_assert!(table.heap_bytes() <= held * 3 / 2 + BLOCK_MAX / 2, "{} for {}", table.heap_bytes(), held);
        }
    }
}
