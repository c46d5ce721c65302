//! What all files of the store have in common: blocks, little-endian integers, checksums.
//!
//! It does not know what the files mean.

/// Everything is written in whole blocks, as direct I/O wants it; a write that is torn is torn between sectors.
pub const BLOCK: usize = 4096;

/// `len` rounded up to whole blocks.
pub fn align_up(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64)
}

/// `offset` rounded down to a block.
pub fn align_down(offset: u64) -> u64 {
    offset - offset % BLOCK as u64
}

/// Fills up with zeros to a whole block.
pub fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}

/// CRC-32 (IEEE) over the parts, one after another.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Reads integers off the front; `None` when the bytes end.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|it| it[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|it| u32::from_le_bytes(it.try_into().expect("four bytes were taken")))
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|it| u64::from_le_bytes(it.try_into().expect("eight bytes were taken")))
    }
}
