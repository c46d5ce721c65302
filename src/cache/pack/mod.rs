//! JSON objects in few bytes, and back to the byte.
//!
//! An object's *shape* (keys, order, constants) is kept once per core; what is stored of the object is the shape's number and
//! packed values: ids in 8 bytes or as a place in the guild's own list, times in 5 to 7, hashes in 16, small numbers in 1 to 3,
//! strings that several objects hold as a number. Each packing is unpacked at once and compared with its source; what
//! does not come back to the byte is kept raw, behind a zero.
//!
//! It knows nothing of guilds. Shapes and words are bounded (`SHAPES_MAX`, `WORDS_MAX`) and never forgotten, so that what was
//! packed once can be unpacked for ever.
//!
//! Cost: packing reads the JSON once, about 1 GB/s, and writes it once for the comparison; unpacking is copying, 2 to 5 GB/s.

#![forbid(unsafe_code)]

mod decode;
mod encode;
mod hole;
mod ids;
mod intern;
pub mod scalar;
mod shape;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use memchr::memmem;

use super::edit::{self, Entry};

use decode::Decoder;
use encode::Encoder;
use hole::Hole;
pub use hole::is_reserved;
pub use ids::Ids;
use intern::Words;

/// The first byte of what is kept raw.
const RAW: u8 = 0;

/// Members of one shape, see `Encoder::run_max`: for objects of which there are many, and for those with many keys.
const RUN_USUAL: usize = 24;
const RUN_LONG: usize = 8;

/// A handle to the shapes and words that the caches of one core share. It stays on its thread.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    packer: Rc<RefCell<Packer>>,
}

#[derive(Debug)]
struct Packer {
    shapes: shape::Shapes,
    words: Words,
    shape: Vec<u8>,
    values: Vec<u8>,
    unpacked: Vec<u8>,
    gaps: Vec<Range<usize>>,
}

impl Default for Packer {
    fn default() -> Self {
        let mut shapes = shape::Shapes::default();
        shapes.number(b""); // takes the number that stands for raw
        Self {
            shapes,
            words: Words::default(),
            shape: Vec::new(),
            values: Vec::new(),
            unpacked: Vec::new(),
            gaps: Vec::new(),
        }
    }
}

/// How an object is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Ids that the guild knows are found.
    Element,
    /// Ids in arrays get to be known.
    WithIds,
    /// A long object with slots.
    Long,
}

impl Shapes {
    /// Gives the packed form of `text`, any bytes, to `take`; if it is an object, without the members that `drop` names. `key` is the id by
    /// which it will be stored; 0 if it has none.
    pub fn pack<R>(
        &self,
        text: &[u8],
        drop: &[&str],
        key: u64,
        ids: &mut Ids,
        style: Style,
        take: impl FnOnce(&[u8]) -> R,
    ) -> R {
        let mut packer = self.packer.borrow_mut();
        let Packer { shapes, words, shape, values, unpacked, gaps } = &mut *packer;
        shape.clear();
        values.clear();
        unpacked.clear();
        gaps.clear();
        let encoder = Encoder {
            text,
            drop,
            gaps,
            shapes,
            words,
            ids,
            key,
            interns_ids: style == Style::WithIds,
            run_max: if style == Style::Long { RUN_LONG } else { RUN_USUAL },
            shape,
            values,
        };
        let is_clean = style == Style::Long || !hole::has_reserved(text);
        if is_clean && encoder.run().is_some() {
            let decoder = Decoder { shapes, words, ids, key };
            decoder.object(&mut values.as_slice(), &mut write_slot, unpacked);
            if is_without(unpacked, text, gaps) && values.len() <= text.len() {
                return take(values);
            }
        }
        values.clear();
        values.push(RAW);
        if drop.is_empty() || edit::edit_into(text, drop, &[], values).is_err() {
            values.extend_from_slice(text);
        }
        take(values)
    }

    /// Whether the object has just these keys, in this order. `false` also for what is kept raw, or has a long or odd shape.
    pub fn has_keys(&self, packed: &[u8], entries: &[Entry<'_>]) -> bool {
        let packer = self.packer.borrow();
        let mut rest = packer.shapes.keys(shape_of(packed));
        if rest.is_empty() {
            return false;
        }
        for (key, _) in entries {
            match rest.strip_prefix(*key).and_then(|rest| rest.strip_prefix(b"\"")) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// Whether the object has no such key. `false` also as above.
    pub fn lacks_key(&self, packed: &[u8], name: &str) -> bool {
        let packer = self.packer.borrow();
        let keys = packer.shapes.keys(shape_of(packed));
        !keys.is_empty() && !keys.split(|&byte| byte == b'"').any(|key| key == name.as_bytes())
    }

    /// Appends the text that was packed.
    pub fn unpack(&self, packed: &[u8], key: u64, ids: &Ids, out: &mut Vec<u8>) {
        match packed.split_first() {
            Some((&RAW, text)) => out.extend_from_slice(text),
            _ => self.unpack_filled(packed, key, ids, &mut write_slot, out),
        }
    }

    /// Appends the text that was packed, its slots filled in by `fill`.
    pub fn unpack_filled(
        &self,
        mut packed: &[u8],
        key: u64,
        ids: &Ids,
        fill: &mut dyn FnMut(u8, &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        if let Some((&RAW, text)) = packed.split_first() {
            return fill_text(text, fill, out);
        }
        let packer = self.packer.borrow();
        Decoder { shapes: &packer.shapes, words: &packer.words, ids, key }.object(&mut packed, fill, out);
    }

    /// Heap bytes of what is shared, divided by all handles, for the `handles` that one cache has.
    pub fn bytes_share(&self, handles: usize) -> u64 {
        let packer = self.packer.borrow();
        let gaps = packer.gaps.capacity() * size_of::<Range<usize>>();
        let scratch = packer.shape.capacity() + packer.values.capacity() + packer.unpacked.capacity() + gaps;
        let bytes = packer.shapes.bytes() + packer.words.bytes() + scratch;
        (bytes * handles / Rc::strong_count(&self.packer)) as u64
    }

    /// Shapes known so far, of `SHAPES_MAX`.
    pub fn shape_count(&self) -> usize {
        self.packer.borrow().shapes.len()
    }
}

/// What the packed forms of an id look like, whichever was taken.
pub struct Needles(Vec<memmem::Finder<'static>>);

impl Needles {
    pub fn of(id: u64, ids: &Ids) -> Self {
        let leb = |value| {
            let mut bytes = Vec::new();
            scalar::put_leb(value, &mut bytes);
            bytes
        };
        let mut digits = Vec::new();
        scalar::write_number(id, &mut digits);
        let forms = ids.find(id).map(leb).into_iter().chain([leb(id), id.to_le_bytes().to_vec(), digits]);
        Self(forms.map(|form| memmem::Finder::new(&form).into_owned()).collect())
    }

    /// `false` if the object names the id nowhere. (By chance `true` for some that do not.)
    pub fn may_be_in(&self, packed: &[u8]) -> bool {
        self.0.iter().any(|needle| needle.find(packed).is_some())
    }
}

/// The number of the first shape; that of raw has no keys.
fn shape_of(mut packed: &[u8]) -> u64 {
    scalar::take_leb(&mut packed)
}

/// Whether `unpacked` is `text` without the gaps, which ascend.
fn is_without(unpacked: &[u8], text: &[u8], gaps: &[Range<usize>]) -> bool {
    let (mut rest, mut at) = (unpacked, 0);
    for gap in gaps {
        match rest.strip_prefix(&text[at..gap.start]) {
            Some(behind) => rest = behind,
            None => return false,
        }
        at = gap.end;
    }
    rest == &text[at..]
}

/// A slot in a text that is to be packed, in place of a value. `slot` is no control character.
pub fn write_slot(slot: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[Hole::Slot as u8, slot]);
}

/// `text` with its slots filled in.
fn fill_text(mut text: &[u8], fill: &mut dyn FnMut(u8, &mut Vec<u8>), out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(Hole::Slot as u8, text) {
        out.extend_from_slice(&text[..at]);
        let Some(&slot) = text.get(at + 1) else { return };
        fill(slot, out);
        text = &text[at + 2..];
    }
    out.extend_from_slice(text);
}
