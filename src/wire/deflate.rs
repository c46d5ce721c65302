//! DEFLATE for one client's stream: small enough that the contexts of all clients of a core stay in the processor's cache.
//!
//! zlib's fastest level keeps a hash table of 128 KiB for each stream, whatever its window. With hundreds of clients each event finds its client's
//! table cold, and waits for memory at almost every byte: 12.7 µs an event over 225 streams in turn, where one stream alone takes 0.9. Here
//! table and history are 40 KiB, of which an event touches a part: 2.3 µs, and fewer bytes (0.185 of the payloads, zlib with 4 KiB of window 0.254).
//!
//! What is written is what that level writes: matches found by one look, in a block of the fixed codes (RFC 1951 §3.2.6), ended by an empty
//! stored block, so that each message can be inflated at once. It looks for speed, not for the last byte.
//!
//! And when the history is full? The window's worth of it moves to the front; what is older is out of any match's reach.

#![forbid(unsafe_code)]

/// log2 of the window: no match reaches further back. 12 bits write 0.251 of the payloads in 2.0 µs, 15 write 0.159 in 4.0 µs.
const WINDOW_BITS: u32 = 14;
const WINDOW: usize = 1 << WINDOW_BITS;
/// The window and what is being compressed: most payloads fit beside it whole; what is longer goes in pieces.
const HISTORY: usize = 2 * WINDOW;
const TABLE_BITS: u32 = 12;
const MATCH_MIN: usize = 4;
const MATCH_MAX: usize = 258;
/// The search stops so many bytes before the end, so that it can always read eight.
const MARGIN: usize = 8;
/// CM 8 and the window, FLEVEL 0, the check bits (RFC 1950 §2.2).
const HEADER: [u8; 2] = {
    let cmf = (WINDOW_BITS - 8) << 4 | 8;
    [cmf as u8, (31 - (cmf << 8) % 31) as u8]
};
/// BFINAL 0, BTYPE 01, from the lowest bit on.
const FIXED_BLOCK: Code = Code { bits: 0b010, len: 3 };
/// A byte takes nine bits at most, a match fewer than its bytes; what is left over is for the block's ends and the writer's whole words.
const SLACK: usize = 32;

/// The compressor of one zlib stream (RFC 1950), without end.
pub struct Deflater {
    history: Box<[u8; HISTORY]>,
    /// Filled, at the front.
    len: usize,
    /// By the hash of four bytes: where they were last, counted from the stream's start, modulo 2^16. It may be long gone: what is found there is compared.
    table: Box<[u16; 1 << TABLE_BITS]>,
    /// Where `history` begins, counted likewise.
    base: u16,
    has_begun: bool,
}

impl Default for Deflater {
    fn default() -> Self {
        let history = vec![0; HISTORY].try_into().expect("so many");
        let table = vec![0; 1 << TABLE_BITS].try_into().expect("so many");
        Self { history, len: 0, table, base: 0, has_begun: false }
    }
}

impl Deflater {
    /// Appends the payload made of `parts` to `out`, flushed: the empty stored block's last four bytes are the last of it.
    pub fn write(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) {
        let mut bits = Bits::default();
        if !self.has_begun {
            self.has_begun = true;
            out.extend_from_slice(&HEADER);
        }
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        self.make_room(left);
        let mut start = self.len;
        let mut at = out.len();
        out.resize(at + bound(left.min(HISTORY - start)), 0);
        bits.put(FIXED_BLOCK);
        for part in parts {
            let mut rest = *part;
            while self.len + rest.len() > HISTORY {
                let (now, later) = rest.split_at(HISTORY - self.len);
                self.push(now);
                rest = later;
                self.compress(start, &mut bits, out, &mut at);
                left -= self.len - start;
                self.make_room(HISTORY);
                start = self.len;
                out.resize(at + bound(left.min(HISTORY - start)), 0);
            }
            self.push(rest);
        }
        self.compress(start, &mut bits, out, &mut at);
        bits.put(END_OF_BLOCK);
        // An empty stored block: its three bits, the rest of that byte, and its length of 0.
        bits.put(Code { bits: 0, len: 3 });
        bits.flush(out, &mut at);
        bits.align(out, &mut at);
        out[at..at + 4].copy_from_slice(&[0, 0, 0xff, 0xff]);
        out.truncate(at + 4);
    }

    /// Forgets what is beyond the window when `more` would not fit beside what is there.
    fn make_room(&mut self, more: usize) {
        if self.len + more > HISTORY && self.len > WINDOW {
            let forgotten = self.len - WINDOW;
            self.history.copy_within(forgotten..self.len, 0);
            self.len = WINDOW;
            self.base = self.base.wrapping_add(forgotten as u16);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.history[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Writes the symbols of `history[start..len]`.
    fn compress(&mut self, start: usize, bits: &mut Bits, out: &mut [u8], out_at: &mut usize) {
        let history = &self.history[..self.len];
        let mut at = start;
        while at + MARGIN <= history.len() {
            let word = word_at(history, at);
            let here = self.base.wrapping_add(at as u16);
            let there = std::mem::replace(&mut self.table[hash(word)], here);
            let distance = usize::from(here.wrapping_sub(there));
            if distance.wrapping_sub(1) < WINDOW && distance <= at && word_at(history, at - distance) == word {
                let len = match_len(history, at - distance, at);
                bits.put(LENGTHS[len]);
                bits.put(distance_code(distance));
                bits.flush(out, out_at);
                // What ends here is the likeliest to come again with what follows.
                let last = at + len - 2;
                if last + MARGIN <= history.len() {
                    self.table[hash(word_at(history, last))] = self.base.wrapping_add(last as u16);
                }
                at += len;
            } else {
                bits.put(LITERALS[usize::from(history[at])]);
                bits.flush(out, out_at);
                at += 1;
            }
        }
        for byte in &history[at..] {
            bits.put(LITERALS[usize::from(*byte)]);
            bits.flush(out, out_at);
        }
    }
}

/// Bytes that `len` bytes come to at most, with the ends of the block around them.
fn bound(len: usize) -> usize {
    len + len / 8 + SLACK
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize
}

/// How many bytes are the same at both places, of which the first four are.
fn match_len(bytes: &[u8], there: usize, here: usize) -> usize {
    let limit = (bytes.len() - here).min(MATCH_MAX);
    let (there, here) = (&bytes[there..there + limit], &bytes[here..here + limit]);
    let mut len = MATCH_MIN;
    while len + 8 <= limit {
        let a = u64::from_le_bytes(there[len..len + 8].try_into().expect("eight bytes"));
        let b = u64::from_le_bytes(here[len..len + 8].try_into().expect("eight bytes"));
        if a != b {
            return len + (a ^ b).trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    while len < limit && there[len] == here[len] {
        len += 1;
    }
    len
}

/// Bits in the order in which they are written, from the lowest on.
#[derive(Clone, Copy)]
struct Code {
    bits: u32,
    len: u32,
}

/// What has not filled a byte yet: fewer than eight bits after `flush`, at most 56 before.
#[derive(Default)]
struct Bits {
    waiting: u64,
    len: u32,
}

impl Bits {
    fn put(&mut self, code: Code) {
        self.waiting |= u64::from(code.bits) << self.len;
        self.len += code.len;
    }

    /// Writes the whole bytes: `out` has room for eight.
    fn flush(&mut self, out: &mut [u8], at: &mut usize) {
        out[*at..*at + 8].copy_from_slice(&self.waiting.to_le_bytes());
        *at += self.len as usize / 8;
        self.waiting >>= self.len & !7;
        self.len &= 7;
    }

    /// Fills the last byte up.
    fn align(&mut self, out: &mut [u8], at: &mut usize) {
        self.len = self.len.next_multiple_of(8);
        self.flush(out, at);
    }
}

/// A Huffman code of `len` bits, as RFC 1951 §3.1.1 packs it: from its highest bit on.
const fn huffman(code: u32, len: u32) -> Code {
    Code { bits: code.reverse_bits() >> (32 - len), len }
}

/// A code of the fixed literal and length alphabet (RFC 1951 §3.2.6).
const fn fixed(symbol: u32) -> Code {
    match symbol {
        0..=143 => huffman(0x30 + symbol, 8),
        144..=255 => huffman(0x190 + symbol - 144, 9),
        256..=279 => huffman(symbol - 256, 7),
        _ => huffman(0xc0 + symbol - 280, 8),
    }
}

const END_OF_BLOCK: Code = fixed(256);

static LITERALS: [Code; 256] = {
    let mut codes = [END_OF_BLOCK; 256];
    let mut byte = 0;
    while byte < 256 {
        codes[byte as usize] = fixed(byte);
        byte += 1;
    }
    codes
};

/// The code of a length and its extra bits, by the length (RFC 1951 §3.2.5).
static LENGTHS: [Code; MATCH_MAX + 1] = {
    let mut codes = [END_OF_BLOCK; MATCH_MAX + 1];
    let mut len = 3;
    while len <= MATCH_MAX {
        let rest = len as u32 - 3;
        // Eight lengths with a symbol each, then four symbols for each power of two; the longest has its own.
        let (symbol, extra) = if rest == 255 {
            (285, 0)
        } else if rest < 8 {
            (257 + rest, 0)
        } else {
            let extra = rest.ilog2() - 2;
            (257 + 4 * extra + (rest >> extra), extra)
        };
        let code = fixed(symbol);
        codes[len] = Code { bits: code.bits | (rest & ((1 << extra) - 1)) << code.len, len: code.len + extra };
        len += 1;
    }
    codes
};

/// The code of a distance and its extra bits (RFC 1951 §3.2.5): four distances with a symbol each, then two symbols for each power of two.
fn distance_code(distance: usize) -> Code {
    let rest = distance as u32 - 1;
    let extra = rest.checked_ilog2().unwrap_or(0).saturating_sub(1);
    let symbol = 2 * extra + (rest >> extra);
    Code { bits: symbol.reverse_bits() >> 27 | (rest & ((1 << extra) - 1)) << 5, len: 5 + extra }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::super::inflate::ZLIB_SUFFIX;
    use super::*;

    /// zlib itself, with the window that the header names.
    struct Judge(zlib_rs::Inflate);

    impl Judge {
        fn new() -> Self {
            Self(zlib_rs::Inflate::new(true, WINDOW_BITS as u8))
        }

        fn holds(&mut self, message: &[u8], payload: &[u8]) {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let mut out = vec![0; payload.len() + 1];
            self.0.decompress(message, &mut out, zlib_rs::InflateFlush::NoFlush).expect("a sound stream");
            assert_eq!(self.0.total_in() - read, message.len() as u64);
            out.truncate((self.0.total_out() - written) as usize);
            assert!(out == payload, "{} bytes came out as {} others", payload.len(), out.len());
            assert!(message.ends_with(&ZLIB_SUFFIX));
        }
    }

    fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    #[test]
    fn a_short_payload_takes_little_room() {
        let mut out = Vec::new();
        Deflater::default().write(&[&[b'x'; 200]], &mut out);
        assert!(out.capacity() < 1024, "{}", out.capacity());
    }

    #[test]
    fn every_length_and_every_power_of_distance_is_found_again() {
        let mut rng = Rng::with_seed(1);
        let around_powers = (2..=WINDOW_BITS).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]);
        for distance in (1..10).chain(around_powers).filter(|it| *it <= WINDOW) {
            let (mut deflater, mut judge) = (Deflater::default(), Judge::new());
            for len in [4, 5, 10, 11, 18, 19, 34, 66, 130, 131, 226, 227, 256, 257, 258, 259, 300, 600] {
                let mut payload = noise(&mut rng, distance);
                for at in 0..len {
                    payload.push(payload[at]);
                }
                payload.extend_from_slice(&[0; MARGIN]);
                let mut message = Vec::new();
                deflater.write(&[&payload], &mut message);
                judge.holds(&message, &payload);
                if distance > 8 && len > 30 {
                    assert!(message.len() < payload.len() + distance / 8 + SLACK - len / 2, "{distance}, {len}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_compressed_grows_by_an_eighth_at_most() {
        let mut rng = Rng::with_seed(2);
        let (mut deflater, mut judge) = (Deflater::default(), Judge::new());
        for len in [1, 7, 8, 9, WINDOW - 1, WINDOW, HISTORY - 1, HISTORY, HISTORY + 1, 3 * HISTORY + 5, 2] {
            let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(144..)).take(len).collect();
            let mut message = b"before".to_vec();
            deflater.write(&[&payload], &mut message);
            judge.holds(&message[6..], &payload);
            assert!(message.len() - 6 <= bound(len), "{len} bytes came to {}", message.len() - 6);
        }
    }

    #[test]
    fn a_dispatch_like_the_one_before_is_little_more_than_its_difference() {
        let (mut deflater, mut judge) = (Deflater::default(), Judge::new());
        for sequence in 1000..1010 {
            let head = format!(r#"{{"t":"TYPING_START","s":{sequence},"op":0,"d":"#);
            let d = br#"{"user_id":"80351110224678912","timestamp":1700000000,"channel_id":"41771983423143937","guild_id":"41771983423143936"}}"#;
            let mut message = Vec::new();
            deflater.write(&[head.as_bytes(), d], &mut message);
            judge.holds(&message, &[head.as_bytes(), d].concat());
            assert!(sequence == 1000 || message.len() < 30, "{} bytes", message.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn streams_of_any_payloads_inflate(seed in any::<u64>(), pieces in prop::collection::vec(prop::collection::vec((0..4u8, 1..9000_usize), 1..8), 1..8)) {
            let mut rng = Rng::with_seed(seed);
            let (mut deflater, mut judge) = (Deflater::default(), Judge::new());
            let mut before = noise(&mut rng, 3000);
            for pieces in pieces {
                let parts: Vec<Vec<u8>> = pieces.into_iter().map(|(kind, len)| match kind {
                    0 => noise(&mut rng, len),
                    1 => vec![rng.u8(..); len],
                    2 => before.iter().cycle().skip(rng.usize(..3000)).take(len).copied().collect(),
                    _ => std::iter::repeat_with(|| rng.u8(b'a'..b'e')).take(len).collect(),
                }).collect();
                let mut message = Vec::new();
                deflater.write(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut message);
                let payload = parts.concat();
                judge.holds(&message, &payload);
                before.extend_from_slice(&payload);
                before.drain(..before.len() - 3000);
            }
        }
    }
}
