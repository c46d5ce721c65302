//! Records: the unit of the write-ahead log. A shard writes them, the store keeps them in order, the same shard reads them back.
//!
//! `len u32 | shard u32 | kind u8 | payload`, little-endian; `len` counts the payload. What kinds there are and what a payload
//! means is the shard's affair. A record has no checksum of its own: the batch that carries it has one.

use super::format::Fields;
use crate::wire::ShardId;

/// Bytes in front of a payload.
pub const HEADER_BYTES: usize = 9;

/// One record, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub shard: ShardId,
    pub kind: u8,
    pub payload: &'a [u8],
}

/// Appends one record to `out`; `write` appends the payload and must not touch what is before it.
///
/// Panics if the payload reaches 4 GiB: Discord's messages end at 64 MiB.
pub fn append(out: &mut Vec<u8>, shard: ShardId, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&shard.0.to_le_bytes());
    out.push(kind);
    write(out);
    let len = u32::try_from(out.len() - start - HEADER_BYTES).expect("a record's payload is below 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The records in `bytes`, in order. Ends at the first that is not whole.
pub fn records(bytes: &[u8]) -> Records<'_> {
    Records { rest: bytes }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// What has not been read: empty once all records were whole.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let mut fields = Fields(self.rest);
        let len = fields.u32()? as usize;
        let shard = ShardId(fields.u32()?);
        let kind = fields.u8()?;
        let payload = fields.take(len)?;
        self.rest = fields.0;
        Some(Record { shard, kind, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_cut_off_the_whole_records_before_it_are_read(
            written in vec((any::<u32>(), any::<u8>(), vec(any::<u8>(), 0..40)), 0..20), cut in 0usize..2000,
        ) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for (shard, kind, payload) in &written {
                append(&mut bytes, ShardId(*shard), *kind, |out| out.extend_from_slice(payload));
                ends.push(bytes.len());
            }
            let cut = cut.min(bytes.len());
            let whole = ends.iter().filter(|it| **it <= cut).count();
            let mut read = records(&bytes[..cut]);
            for (shard, kind, payload) in &written[..whole] {
                prop_assert_eq!(read.next(), Some(Record { shard: ShardId(*shard), kind: *kind, payload }));
            }
            prop_assert_eq!(read.next(), None);
            prop_assert_eq!(read.rest().len(), cut - ends.get(whole.wrapping_sub(1)).unwrap_or(&0));
        }
    }
}
