//! Texts kept once and named by a number: never forgotten, never renamed, and bounded.
//!
//! Two lists live on this: shapes, and words. A word is a string that at least two objects hold; `Words` finds out which do.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// Words of one core. When full, further strings are written out in each object.
pub const WORDS_MAX: usize = 8192;
/// Bytes of a word: a shorter string is as short as its number, a longer one is hardly anyone else's.
pub const WORD_LEN: std::ops::RangeInclusive<usize> = 3..=96;

/// Strings remembered by hash alone until another object has them too: the newest of each place.
const CANDIDATES: usize = 8192;

/// What a text takes besides its bytes, about: counters of the `Rc`, and places in the two lists.
const ENTRY_BYTES: usize = 64;

/// Texts by number. Its callers set the limits.
#[derive(Debug, Default)]
pub struct Interner {
    numbers: HashMap<Rc<[u8]>, u16, BuildHasherDefault<FoldHasher>>,
    texts: Vec<Rc<[u8]>>,
    bytes: usize,
}

impl Interner {
    pub fn find(&self, text: &[u8]) -> Option<u16> {
        self.numbers.get(text).copied()
    }

    /// Gives `text`, which is new, the next number.
    pub fn push(&mut self, text: &[u8]) -> u16 {
        debug_assert!(self.find(text).is_none() && self.texts.len() < usize::from(u16::MAX));
        let (text, number) = (Rc::<[u8]>::from(text), self.texts.len() as u16);
        self.bytes += text.len() + ENTRY_BYTES;
        self.texts.push(Rc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    pub fn get(&self, number: u64) -> Option<&Rc<[u8]>> {
        self.texts.get(usize::try_from(number).ok()?)
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Heap bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Strings that several objects hold. The first that holds one writes it out, the second makes it a word.
#[derive(Debug)]
pub struct Words {
    words: Interner,
    /// By the string's hash: the rest of the hash, and whose it was. An object updated again and again is one holder.
    candidates: Box<[(u32, u32)]>,
}

impl Default for Words {
    fn default() -> Self {
        Self { words: Interner::default(), candidates: vec![(0, 0); CANDIDATES].into_boxed_slice() }
    }
}

impl Words {
    /// The number of the string that the object of id `holder` holds, if it is a word by now.
    pub fn number(&mut self, text: &[u8], holder: u64) -> Option<u16> {
        if !WORD_LEN.contains(&text.len()) {
            return None;
        }
        let number = self.words.find(text);
        if number.is_some() || self.words.len() >= WORDS_MAX {
            return number;
        }
        let mut hasher = FoldHasher::default();
        hasher.write(text);
        let hash = hasher.finish();
        let seen = ((hash >> 32) as u32, (holder ^ holder >> 32) as u32);
        let candidate = &mut self.candidates[hash as usize % CANDIDATES];
        let is_shared = candidate.0 == seen.0 && candidate.1 != seen.1;
        *candidate = seen;
        is_shared.then(|| self.words.push(text))
    }

    pub fn get(&self, number: u64) -> &[u8] {
        self.words.get(number).map_or(&[], |word| word)
    }

    pub fn bytes(&self) -> usize {
        self.words.bytes() + size_of_val(&*self.candidates)
    }
}

/// Multiplies and folds, eight bytes at a time: texts are Discord's, the lists bounded, and no order depends on it.
#[derive(Default)]
pub struct FoldHasher(u64);

impl FoldHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9E37_79B9_7F4A_7C15) * 0xA076_1D64_78BD_642F;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            // Chunks are of eight bytes.
            self.mix(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut last = [0; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_usize(&mut self, _: usize) {} // a text's length, which `write` mixes in

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_becomes_a_word_when_a_second_object_has_it() {
        let mut words = Words::default();
        assert_eq!(words.number(b"Spotify", 1), None);
        assert_eq!(words.number(b"Spotify", 1), None, "the same object");
        let number = words.number(b"Spotify", 2).unwrap();
        assert_eq!(words.get(number.into()), b"Spotify");
        assert_eq!(words.number(b"Spotify", 1), Some(number));
        assert_eq!(words.get(77), b"");
    }

    #[test]
    fn words_end_at_their_limits() {
        let mut words = Words::default();
        for n in 0..WORDS_MAX + 10 {
            for holder in [1, 2] {
                let number = words.number(format!("word {n}").as_bytes(), holder);
                assert_eq!(number.is_some(), holder == 2 && n < WORDS_MAX, "{n}");
            }
        }
        assert_eq!(words.number(b"word 5", 9), Some(5));
        assert_eq!(words.number(&[b'a'; 97], 1).or(words.number(&[b'a'; 97], 2)), None);
    }

    #[test]
    fn hashes_differ_by_length_and_by_any_byte() {
        let hash = |text: &[u8]| {
            let mut hasher = FoldHasher::default();
            hasher.write(text);
            hasher.finish()
        };
        let mut seen: Vec<u64> = (0..100).map(|len| hash(&vec![0; len])).collect();
        seen.extend((0..100).map(|at| {
            let mut text = [b'a'; 100];
            text[at] = b'b';
            hash(&text)
        }));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 200);
    }
}
