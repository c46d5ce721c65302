//! How blobs lie in a file: each behind a header, several to a write, and a footer that lists them once the file is finished.
//!
//! A blob belongs to a shard and carries two numbers: `a..b` of a log segment, or guild and as-of index of a checkpoint. A file
//! without footer was open when the process died: it is walked, and what is torn ends the walk. This file only knows bytes; what is
//! live and what is not is decided by `segments` and `states`.

use super::format::{self, BLOCK, Fields};
use crate::wire::ShardId;

const MAGIC: u32 = u32::from_le_bytes(*b"SGbl");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"SGft");

/// magic u32 | len u32 | shard u32 | crc32 of the rest and the bytes u32 | file u64 | batch u64 | a u64 | b u64
pub const HEADER_BYTES: usize = 48;

/// Blobs begin at multiples of this, groups of them at whole blocks.
pub const ALIGN: usize = 16;

/// shard u32 | len u32 | a u64 | b u64 | batch u64 | offset u32 | 0 u32
const ENTRY_BYTES: usize = 40;

/// magic u32 | count u32 | offset of the entries u64 | file u64 | crc32 of entries and all that u32 | 0 u32; the last bytes of the file
const TRAILER_BYTES: usize = 32;

/// What is known of a blob without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub shard: ShardId,
    pub a: u64,
    pub b: u64,
    /// The batch of the write-ahead log without which the blob does not count.
    pub batch: u64,
    /// Where the header begins in its file, and how long the bytes behind it are.
    pub offset: u32,
    pub len: u32,
}

impl Entry {
    /// Bytes that the blob takes, header and alignment included.
    pub fn footprint(&self) -> u64 {
        (HEADER_BYTES as u64 + u64::from(self.len)).next_multiple_of(ALIGN as u64)
    }

    /// Where its bytes end.
    pub fn bytes_end(&self) -> u64 {
        u64::from(self.offset) + HEADER_BYTES as u64 + u64::from(self.len)
    }

    /// Where the next blob may begin.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + self.footprint()
    }
}

/// Appends header and bytes to `out`, which begins at a whole block of the file.
pub fn append(out: &mut Vec<u8>, file: u64, entry: &Entry, bytes: &[u8]) {
    debug_assert!(out.len().is_multiple_of(ALIGN) && bytes.len() == entry.len as usize);
    out.extend_from_slice(&header(file, entry, bytes));
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

fn header(file: u64, entry: &Entry, bytes: &[u8]) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&entry.len.to_le_bytes());
    out[8..12].copy_from_slice(&entry.shard.0.to_le_bytes());
    out[16..24].copy_from_slice(&file.to_le_bytes());
    out[24..32].copy_from_slice(&entry.batch.to_le_bytes());
    out[32..40].copy_from_slice(&entry.a.to_le_bytes());
    out[40..48].copy_from_slice(&entry.b.to_le_bytes());
    let crc = format::checksum(&[&out, bytes]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The bytes of `entry`'s blob, when `bytes`, which begin at its header, are what was written; `None` when they are damaged.
pub fn verify<'a>(file: u64, entry: &Entry, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (found, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let blob = rest.get(..entry.len as usize)?;
    (found == header(file, entry, blob)).then_some(blob)
}

/// What the header at the front of `bytes` claims; `offset` is where it lies. `None`: there is no header.
pub fn claimed(file: u64, offset: u64, bytes: &[u8]) -> Option<Entry> {
    let mut fields = Fields(bytes);
    if fields.u32()? != MAGIC {
        return None;
    }
    let (len, shard, _crc) = (fields.u32()?, ShardId(fields.u32()?), fields.u32()?);
    if fields.u64()? != file {
        return None;
    }
    let (batch, a, b) = (fields.u64()?, fields.u64()?, fields.u64()?);
    Some(Entry { shard, a, b, batch, offset: u32::try_from(offset).ok()?, len })
}

/// Bytes of a footer that lists `count` blobs.
pub fn footer_bytes(count: usize) -> u64 {
    format::align_up((count * ENTRY_BYTES + TRAILER_BYTES) as u64)
}

/// The footer of a finished file: entries, zeros, trailer; whole blocks, to stand at `offset`.
pub fn footer(file: u64, offset: u64, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(footer_bytes(entries.len()) as usize);
    for entry in entries {
        out.extend_from_slice(&entry.shard.0.to_le_bytes());
        out.extend_from_slice(&entry.len.to_le_bytes());
        out.extend_from_slice(&entry.a.to_le_bytes());
        out.extend_from_slice(&entry.b.to_le_bytes());
        out.extend_from_slice(&entry.batch.to_le_bytes());
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    let entries_len = out.len();
    out.resize(footer_bytes(entries.len()) as usize - TRAILER_BYTES, 0);
    let trailer = trailer(file, offset, entries.len() as u32, &out[..entries_len]);
    out.extend_from_slice(&trailer);
    out
}

fn trailer(file: u64, offset: u64, count: u32, entries: &[u8]) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[0..4].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&count.to_le_bytes());
    out[8..16].copy_from_slice(&offset.to_le_bytes());
    out[16..24].copy_from_slice(&file.to_le_bytes());
    let crc = format::checksum(&[entries, &out]);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Where the entries begin and how many they are, as the file's last block claims; `None`: no trailer.
pub fn footer_at(file: u64, len: u64, last_block: &[u8]) -> Option<(u64, u32)> {
    let mut fields = Fields(last_block.get(last_block.len().checked_sub(TRAILER_BYTES)?..)?);
    if fields.u32()? != TRAILER_MAGIC {
        return None;
    }
    let (count, offset) = (fields.u32()?, fields.u64()?);
    let room = len.checked_sub(TRAILER_BYTES as u64)?.checked_sub(offset)?;
    let fits =
        fields.u64()? == file && offset.is_multiple_of(BLOCK as u64) && u64::from(count) * ENTRY_BYTES as u64 <= room;
    fits.then_some((offset, count))
}

/// The entries of a footer; `bytes` reach from its offset to the end of the file. `None`: damaged.
pub fn entries(file: u64, offset: u64, count: u32, bytes: &[u8]) -> Option<Vec<Entry>> {
    let listed = bytes.get(..count as usize * ENTRY_BYTES)?;
    if bytes.get(bytes.len().checked_sub(TRAILER_BYTES)?..)? != trailer(file, offset, count, listed) {
        return None;
    }
    let mut fields = Fields(listed);
    let mut entries = Vec::with_capacity(count as usize);
    while !fields.0.is_empty() {
        let (shard, len) = (ShardId(fields.u32()?), fields.u32()?);
        let (a, b, batch) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (at, _) = (fields.u32()?, fields.u32()?);
        let entry = Entry { shard, a, b, batch, offset: at, len };
        if entry.end() > offset {
            return None;
        }
        entries.push(entry);
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn entry(offset: u32, len: u32) -> Entry {
        Entry { shard: ShardId(3), a: 10, b: 20, batch: 5, offset, len }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_of_a_blob_is_noticed(bytes in vec(any::<u8>(), 0..300), at in 0usize..400, bit in 0u8..8) {
            let entry = entry(0, bytes.len() as u32);
            let mut out = Vec::new();
            append(&mut out, 7, &entry, &bytes);
            prop_assert_eq!(claimed(7, 0, &out), Some(entry));
            prop_assert_eq!(verify(7, &entry, &out), Some(&bytes[..]));
            prop_assert_eq!(verify(8, &entry, &out), None);
            let at = at % (HEADER_BYTES + bytes.len());
            out[at] ^= 1 << bit;
            prop_assert_eq!(verify(7, &entry, &out), None);
        }

        #[test]
        fn a_footer_lists_what_was_put_in_and_a_damaged_one_nothing(count in 0u32..300, at in 0usize..20_000, bit in 0u8..8) {
            let listed: Vec<Entry> = (0..count).map(|n| entry(n * 64, 16)).collect();
            let offset = 5 * BLOCK as u64;
            let mut out = footer(7, offset, &listed);
            let len = offset + out.len() as u64;
            let read = |out: &[u8]| {
                let (at, count) = footer_at(7, len, &out[out.len() - BLOCK..])?;
                let start = at.checked_sub(offset)? as usize;
                entries(7, at, count, out.get(start..)?)
            };
            prop_assert_eq!(read(&out), Some(listed.clone()));
            let at = at % out.len();
            out[at] ^= 1 << bit;
            // Only zeros between the entries and the trailer may differ unnoticed.
            let between = count as usize * ENTRY_BYTES..out.len() - TRAILER_BYTES;
            if between.contains(&at) {
                prop_assert_eq!(read(&out), Some(listed));
            } else {
                prop_assert_eq!(read(&out), None);
            }
        }
    }
}
