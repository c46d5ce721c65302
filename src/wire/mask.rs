//! The XOR mask of RFC 6455 §5.3, a word at a time.
//!
//! It works in place; copying and masking in one pass gained nothing over a copy followed by this, since the
//! second pass finds the bytes in the first-level cache.

#![forbid(unsafe_code)]

/// XORs `bytes` with `mask`, as if `bytes` began `offset` bytes into the masked payload. Masks and unmasks alike.
pub fn apply(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut mask = mask;
    mask.rotate_left(offset % 4);
    let word = u32::from_ne_bytes(mask);
    let wide = u64::from(word) << 32 | u64::from(word);
    // Safe words are enough: the compiler turns this loop into the widest vectors that the target has.
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn byte_by_byte(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[(offset + at) % 4];
        }
    }

    proptest! {
        #[test]
        fn words_and_bytes_agree(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            mask: [u8; 4],
            offset in 0_usize..9,
            start in 0_usize..9,
        ) {
            let start = start.min(bytes.len());
            let (mut fast, mut slow) = (bytes.clone(), bytes);
            apply(&mut fast[start..], mask, offset);
            byte_by_byte(&mut slow[start..], mask, offset);
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn masking_in_two_pieces_is_masking_in_one(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            mask: [u8; 4],
            cut: prop::sample::Index,
        ) {
            let cut = cut.index(bytes.len() + 1);
            let (mut whole, mut pieces) = (bytes.clone(), bytes);
            apply(&mut whole, mask, 0);
            let (head, tail) = pieces.split_at_mut(cut);
            apply(head, mask, 0);
            apply(tail, mask, cut);
            prop_assert_eq!(whole, pieces);
        }
    }
}
