//! The shape of an object, or of a run of its members: keys, their order, constant values and white space, with holes for the
//! rest. Kept once per core, however many objects have it.
//!
//! A shape is a text with markers (see `hole`), cut into pieces once so that filling it in is copying.

#![forbid(unsafe_code)]

use super::hole::Hole;
use super::intern::Interner;
use crate::wire::json;

/// Shapes of one core, and the bytes of them all. When full, an object of a new shape is kept raw.
pub const SHAPES_MAX: usize = 16_384;
pub const SHAPE_BYTES_MAX: usize = 4 << 20;
/// Bytes of one shape. An object with a longer one is kept raw.
pub const SHAPE_LEN_MAX: usize = 4096;

/// Literal text up to `end`, then a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub end: u16,
    pub hole: Hole,
    /// What fills a `Hole::Slot`.
    pub slot: u8,
}

impl Piece {
    /// Where the literal text goes on.
    pub fn next(self) -> usize {
        usize::from(self.end) + if self.hole == Hole::Slot { 2 } else { 1 }
    }
}

#[derive(Debug, Default)]
pub struct Shapes {
    texts: Interner,
    pieces: Vec<Box<[Piece]>>,
    /// Of each shape, see `keys`.
    keys: Vec<Box<[u8]>>,
    /// Of pieces and keys.
    pieces_bytes: usize,
}

impl Shapes {
    /// The number of the shape with this text; `None` if it is new and there is no room.
    pub fn number(&mut self, text: &[u8]) -> Option<u16> {
        if let Some(number) = self.texts.find(text) {
            return Some(number);
        }
        let is_full = self.texts.len() >= SHAPES_MAX || self.bytes() >= SHAPE_BYTES_MAX;
        if is_full || text.len() > SHAPE_LEN_MAX {
            return None;
        }
        let (pieces, keys) = (pieces(text), keys(text).unwrap_or_default());
        self.pieces_bytes += size_of_val(&*pieces) + size_of::<Box<[Piece]>>() + keys.len() + size_of::<Box<[u8]>>();
        self.pieces.push(pieces);
        self.keys.push(keys.into_boxed_slice());
        Some(self.texts.push(text))
    }

    /// Text and pieces. Empty for a number that was never given.
    pub fn get(&self, number: u64) -> (&[u8], &[Piece]) {
        match self.texts.get(number) {
            Some(text) => (text, &self.pieces[number as usize]), // one for each text
            None => (&[], &[]),
        }
    }

    /// The keys of the object itself, in their order, a quote behind each. Empty if it goes on in another shape, if a key comes twice or has
    /// escapes, and for a number that was never given.
    pub fn keys(&self, number: u64) -> &[u8] {
        usize::try_from(number).ok().and_then(|number| self.keys.get(number)).map_or(&[], |keys| keys)
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Heap bytes, about.
    pub fn bytes(&self) -> usize {
        self.texts.bytes() + self.pieces_bytes
    }
}

fn pieces(text: &[u8]) -> Box<[Piece]> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if let Some(hole) = Hole::of_marker(byte) {
            let slot = if hole == Hole::Slot { text.get(at + 1).copied().unwrap_or_default() } else { 0 };
            let piece = Piece { end: at as u16, hole, slot }; // SHAPE_LEN_MAX fits
            at = piece.next();
            pieces.push(piece);
        } else {
            at += 1;
        }
    }
    pieces.into_boxed_slice()
}

fn keys(text: &[u8]) -> Option<Vec<u8>> {
    let mut keys: Vec<u8> = Vec::new();
    let (mut at, mut depth, mut is_key) = (0, 0, false);
    if text.first() != Some(&b'{') {
        return None;
    }
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let end = json::string_end(text, at)?;
                let key = &text[at..end];
                at = end + 1;
                if !std::mem::take(&mut is_key) {
                    continue;
                }
                if key.contains(&b'\\') || keys.split(|&byte| byte == b'"').any(|known| known == key) {
                    return None;
                }
                keys.extend_from_slice(key);
                keys.push(b'"');
            }
            b'{' | b'[' => {
                depth += 1;
                is_key = depth == 1;
            }
            b'}' | b']' => depth -= 1,
            b',' => is_key = depth == 1,
            _ => match Hole::of_marker(byte) {
                Some(Hole::More) => return None,
                Some(Hole::Slot) => at += 1,
                _ => {}
            },
        }
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_knows_its_keys_unless_they_are_odd() {
        let mut shapes = Shapes::default();
        let mut keys = |text: &[u8]| {
            let number = shapes.number(text).unwrap();
            String::from_utf8(shapes.keys(number.into()).to_vec()).unwrap()
        };
        assert_eq!(keys(b"{\"a\":\"\x01\",\"b\":{\"c\":[],\"d\":0},\"e\":\x12\x22,\"f\":\"g,\\\"\"}"), "a\"b\"e\"f\"");
        for odd in ["{}", "{\"a\":1,\"a\":1}", "{\"\\u0061\":1}", "{\"a\":1\x13", ",\"a\":1}"] {
            assert_eq!(keys(odd.as_bytes()), "", "{odd}");
        }
        assert_eq!(shapes.keys(1 << 40), b"");
    }

    #[test]
    fn a_shape_is_cut_at_its_holes() {
        let mut shapes = Shapes::default();
        let number = shapes.number(b"{\"a\":\"\x01\",\"b\":\x12\x05}").unwrap();
        let (text, pieces) = shapes.get(number.into());
        let cut: Vec<_> = pieces.iter().map(|it| (it.end, it.hole, it.slot, it.next())).collect();
        assert_eq!(cut, [(6, Hole::Text, 0, 7), (13, Hole::Slot, 5, 15)]);
        assert_eq!(&text[15..], b"}");
        assert_eq!(shapes.number(b"{\"a\":\"\x01\",\"b\":\x12\x05}"), Some(number));
        assert_eq!(shapes.get(1), (&[][..], &[][..]));
    }

    #[test]
    fn shapes_end_at_their_limits_and_the_known_ones_stay() {
        let mut shapes = Shapes::default();
        assert_eq!(shapes.number(&[b' '; SHAPE_LEN_MAX + 1]), None);
        let mut held = 0;
        while shapes.number(format!("{{\"key {held}\":\x01}}").as_bytes()).is_some() {
            held += 1;
        }
        assert_eq!(held, SHAPES_MAX);
        assert_eq!(shapes.number(b"{\"key 7\":\x01}"), Some(7));

        let mut shapes = Shapes::default();
        let long = "k".repeat(SHAPE_LEN_MAX - 20);
        let held = (0..).take_while(|n| shapes.number(format!("{{\"{long}{n}\":\x01}}").as_bytes()).is_some()).count();
        assert!(held < SHAPES_MAX && shapes.bytes() < SHAPE_BYTES_MAX + 2 * SHAPE_LEN_MAX);
    }
}
