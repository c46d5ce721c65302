//! A block of a table: entries behind each other, sorted by id.
//!
//! An entry is `id` (8 bytes), the length of what follows (LEB128), ordinal (LEB128), and the packed element: a search hops from
//! length to length and reads no more. Capacity follows the allocator's size
//! classes, so that no more is lost in a block than between two of them.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::pack::scalar::take_leb;

#[derive(Debug, Default)]
pub struct Block {
    /// The first entry's id, here so that a search over blocks touches none of their bytes.
    first: u64,
    bytes: Vec<u8>,
}

/// Where an entry lies in its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: u64,
    pub ordinal: u32,
    pub span: Range<usize>,
    pub packed: Range<usize>,
}

impl Block {
    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub fn packed(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.packed.clone()]
    }

    /// The entry that begins at `start`.
    pub fn entry(&self, start: usize) -> Option<Entry> {
        let (id, behind) = self.bytes.get(start..)?.split_first_chunk::<8>()?;
        let mut rest = behind;
        let len = take_leb(&mut rest) as usize;
        let end = self.bytes.len() - rest.len() + len;
        let ordinal = take_leb(&mut rest) as u32;
        let at = self.bytes.len() - rest.len();
        Some(Entry { id: u64::from_le_bytes(*id), ordinal, span: start..end, packed: at..end })
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let entry = self.entry(at)?;
            at = entry.span.end;
            Some(entry)
        })
    }

    /// The entry of that id, or the offset where it would stand. 0 is never found: it stands behind its like.
    pub fn find(&self, id: u64) -> Result<Entry, usize> {
        let mut at = 0;
        while let Some((here, mut rest)) = self.bytes.get(at..).and_then(<[u8]>::split_first_chunk::<8>) {
            let here = u64::from_le_bytes(*here);
            if here >= id && id != 0 {
                return self.entry(at).filter(|entry| entry.id == id).ok_or(at);
            }
            if here > id {
                break;
            }
            let len = take_leb(&mut rest) as usize;
            at = self.bytes.len() - rest.len() + len;
        }
        Err(at)
    }

    /// Puts an entry into the place of `span`, which is another entry, or empty and between two.
    pub fn splice(&mut self, span: Range<usize>, id: u64, ordinal: u32, packed: &[u8]) {
        let mut head = [0; HEAD_MAX];
        let head = head_of(id, ordinal, packed.len(), &mut head);
        let (old, new) = (self.bytes.len(), self.bytes.len() - span.len() + head.len() + packed.len());
        if new > self.bytes.capacity() {
            self.bytes.reserve_exact(size_class(new) - old);
        }
        let end = span.start + head.len() + packed.len();
        if new > old {
            self.bytes.resize(new, 0);
        }
        if new != old {
            self.bytes.copy_within(span.end..old, end);
        }
        self.bytes.truncate(new);
        self.bytes[span.start..][..head.len()].copy_from_slice(head);
        self.bytes[span.start + head.len()..end].copy_from_slice(packed);
        self.settle();
    }

    pub fn remove(&mut self, span: Range<usize>) {
        self.bytes.drain(span);
        self.settle();
    }

    /// Cuts the block near its middle, and gives the right part. `None` for a single entry.
    pub fn cut(&mut self) -> Option<Self> {
        let middle = self.bytes.len() / 2;
        let at = self.entries().map(|entry| entry.span.end).find(|&end| end >= middle)?;
        let at = if at == self.bytes.len() { self.entries().map(|entry| entry.span.start).last()? } else { at };
        if at == 0 {
            return None;
        }
        let mut right = Self::default();
        right.append_bytes(&self.bytes[at..]);
        self.bytes.truncate(at);
        self.settle();
        Some(right)
    }

    /// Appends a block whose ids follow.
    pub fn append(&mut self, right: &Self) {
        self.append_bytes(&right.bytes);
    }

    fn append_bytes(&mut self, bytes: &[u8]) {
        let new = self.bytes.len() + bytes.len();
        if new > self.bytes.capacity() {
            self.bytes.reserve_exact(size_class(new) - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        self.settle();
    }

    /// After every change: `first` is true, and no more is held than the next size class but one.
    fn settle(&mut self) {
        self.first = self.bytes.first_chunk().map_or(0, |id| u64::from_le_bytes(*id));
        let len = self.bytes.len();
        if self.bytes.capacity() > size_class(len + len / 8) {
            self.bytes.shrink_to(size_class(len));
        }
    }
}

/// Bytes of an entry.
pub fn entry_len(ordinal: u32, packed: usize) -> usize {
    let mut head = [0; HEAD_MAX];
    head_of(0, ordinal, packed, &mut head).len() + packed
}

/// An id, ten bytes of length, five of ordinal.
const HEAD_MAX: usize = 23;

fn head_of(id: u64, ordinal: u32, packed: usize, head: &mut [u8; HEAD_MAX]) -> &[u8] {
    let ordinal_len = (u32::BITS - (ordinal | 1).leading_zeros()).div_ceil(7) as usize;
    head[..8].copy_from_slice(&id.to_le_bytes());
    let mut at = 8;
    for mut value in [(ordinal_len + packed) as u64, u64::from(ordinal)] {
        while value >= 0x80 {
            head[at] = value as u8 | 0x80;
            value >>= 7;
            at += 1;
        }
        head[at] = value as u8;
        at += 1;
    }
    &head[..at]
}

/// What jemalloc gives for `len` bytes: four classes between two powers of two, multiples of 16 below 128.
pub fn size_class(len: usize) -> usize {
    if len <= 128 {
        return len.next_multiple_of(16);
    }
    let step = (len - 1).ilog2().saturating_sub(2);
    len.next_multiple_of(1 << step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_jemallocs() {
        for (len, class) in
            [(0, 0), (1, 16), (17, 32), (128, 128), (129, 160), (257, 320), (4096, 4096), (4097, 5120), (8192, 8192)]
        {
            assert_eq!(size_class(len), class, "{len}");
        }
    }

    #[test]
    fn heads_fit_whatever_they_say() {
        let mut head = [0; HEAD_MAX];
        assert_eq!(head_of(u64::MAX, u32::MAX, usize::MAX - 5, &mut head).len(), HEAD_MAX);
        assert_eq!(entry_len(0, 5), 15);
    }

    #[test]
    fn a_block_of_one_entry_is_not_cut() {
        let mut block = Block::default();
        block.splice(0..0, 7, 0, &[1; 9000]);
        assert!(block.cut().is_none());
        let end = block.len();
        block.splice(end..end, 9, 1, &[2; 10]);
        let right = block.cut().unwrap();
        assert_eq!((block.first(), right.first(), right.len()), (7, 9, 20));
    }
}
