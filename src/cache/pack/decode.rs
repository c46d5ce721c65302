//! Packed values and their shapes back to JSON, by copying.
//!
//! What is unpacked was packed by `encode` with the same tables, and compared with its source then. Bytes from elsewhere give
//! some text, but no panic.

#![forbid(unsafe_code)]

use super::hole::{Hole, Tag};
use super::ids::Ids;
use super::intern::Words;
use super::scalar::{take_leb, write_hex, write_number, write_time};
use super::shape::Shapes;

/// Nested objects and arrays that are unpacked: more than `encode` makes.
const DEPTH_MAX: u32 = 64;

/// One packed object on its way back.
pub struct Decoder<'a> {
    pub shapes: &'a Shapes,
    pub words: &'a Words,
    pub ids: &'a Ids,
    /// The id by which the object is stored.
    pub key: u64,
}

impl Decoder<'_> {
    /// Appends the object whose packed form `values` begins with, and takes it off. `fill` writes the slots.
    pub fn object(&self, values: &mut &[u8], fill: &mut dyn FnMut(u8, &mut Vec<u8>), out: &mut Vec<u8>) {
        self.nested(values, fill, out, 0);
    }

    fn nested(&self, values: &mut &[u8], fill: &mut dyn FnMut(u8, &mut Vec<u8>), out: &mut Vec<u8>, depth: u32) {
        let mut goes_on = depth < DEPTH_MAX;
        while goes_on {
            goes_on = false;
            let (text, pieces) = self.shapes.get(take_leb(values));
            let mut at = 0;
            for piece in pieces {
                out.extend_from_slice(&text[at..usize::from(piece.end)]);
                at = piece.next();
                match piece.hole {
                    Hole::Text => self.text(values, out),
                    Hole::Shared => self.shared(values, out),
                    Hole::Digits => write_number(take_leb(values), out),
                    Hole::Id => write_number(take_id(values), out),
                    Hole::Local => write_number(self.ids.get(take_leb(values)), out),
                    Hole::Key => write_number(self.key, out),
                    Hole::Time => write_time(values, out),
                    Hole::Hex16 => write_hex(take(values, 16), out),
                    Hole::Hex8 => write_hex(take(values, 8), out),
                    Hole::Object => self.nested(values, fill, out, depth + 1),
                    Hole::Array => self.array(values, fill, out, depth + 1),
                    Hole::Ids => self.id_array(values, out),
                    Hole::Slot => fill(piece.slot, out),
                    Hole::More => goes_on = !values.is_empty(),
                }
            }
            out.extend_from_slice(text.get(at..).unwrap_or_default());
        }
    }

    fn text(&self, values: &mut &[u8], out: &mut Vec<u8>) {
        let head = take_leb(values);
        if head & 1 == 1 {
            out.extend_from_slice(self.words.get(head >> 1));
        } else {
            out.extend_from_slice(take(values, head >> 1));
        }
    }

    fn shared(&self, values: &mut &[u8], out: &mut Vec<u8>) {
        match take_leb(values) {
            0 => write_number(take_id(values), out),
            2 => write_hex(take(values, 16), out),
            head => out.extend_from_slice(self.words.get(head >> 1)),
        }
    }

    fn array(&self, values: &mut &[u8], fill: &mut dyn FnMut(u8, &mut Vec<u8>), out: &mut Vec<u8>, depth: u32) {
        out.push(b'[');
        for at in 0..take_leb(values) {
            let Some((&tag, rest)) = values.split_first() else { break };
            *values = rest;
            if at > 0 {
                out.push(b',');
            }
            match Tag::of_byte(tag) {
                Some(Tag::Raw) => {
                    let len = take_leb(values);
                    out.extend_from_slice(take(values, len));
                }
                Some(Tag::Digits) => write_number(take_leb(values), out),
                Some(Tag::Object) => self.nested(values, fill, out, depth),
                Some(quoted) => {
                    out.push(b'"');
                    match quoted {
                        Tag::QuotedDigits => write_number(take_leb(values), out),
                        Tag::QuotedId => write_number(take_id(values), out),
                        Tag::QuotedLocal => write_number(self.ids.get(take_leb(values)), out),
                        _ => self.text(values, out),
                    }
                    out.push(b'"');
                }
                None => break,
            }
        }
        out.push(b']');
    }

    fn id_array(&self, values: &mut &[u8], out: &mut Vec<u8>) {
        out.push(b'[');
        for at in 0..take_leb(values) {
            if values.is_empty() {
                break;
            }
            out.extend_from_slice(if at > 0 { b",\"" } else { b"\"" });
            write_number(self.ids.get(take_leb(values)), out);
            out.push(b'"');
        }
        out.push(b']');
    }
}

/// The next `len` bytes, or what there is.
fn take<'a>(values: &mut &'a [u8], len: u64) -> &'a [u8] {
    let len = values.len().min(usize::try_from(len).unwrap_or(usize::MAX));
    let (taken, rest) = values.split_at(len);
    *values = rest;
    taken
}

fn take_id(values: &mut &[u8]) -> u64 {
    let mut wide = [0; 8];
    let taken = take(values, 8);
    wide[..taken.len()].copy_from_slice(taken);
    u64::from_le_bytes(wide)
}
