//! JSON objects to shapes and packed values, in one pass.
//!
//! Text is copied into the shape as it stands until a value comes that objects differ in; that one leaves a marker and goes,
//! packed, into the values. What is odd ends the pass (`None`), and the object is kept raw. Nothing here has to be right: who
//! calls unpacks the result and compares.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::hole::{Hole, Tag};
use super::ids::Ids;
use super::intern::Words;
use super::scalar::{hex, number, put_leb, put_time};
use super::shape::Shapes;
use crate::cache::edit;
use crate::wire::json;

/// Members up to which a nested object lies in the shape of the one around it.
const INLINE_MAX: usize = 3;

/// Nesting that is looked into. What lies deeper is text.
const NEST_MAX: u32 = 12;

/// Numbers from here on are shorter in eight bytes than in LEB128.
const WIDE: u64 = 1 << 49;

/// Keys of ids and hashes that many objects have: decorations, games, clans.
const SHARED: [&[u8]; 8] =
    [b"asset", b"sku_id", b"application_id", b"large_image", b"small_image", b"badge", b"identity_guild_id", b"bot_id"];

/// What every encoding needs.
pub struct Encoder<'a> {
    pub text: &'a [u8],
    /// Members of the outermost object that are left out.
    pub drop: &'a [&'a str],
    /// Where they were found, commas included.
    pub gaps: &'a mut Vec<Range<usize>>,
    pub shapes: &'a mut Shapes,
    pub words: &'a mut Words,
    pub ids: &'a mut Ids,
    /// The id by which the object is stored.
    pub key: u64,
    /// Whether arrays of ids may add to `ids`.
    pub interns_ids: bool,
    /// Members after which a run ends: a long object has many combinations of constants, its parts have few.
    pub run_max: usize,
    /// The shape under way, behind those of the objects around it.
    pub shape: &'a mut Vec<u8>,
    pub values: &'a mut Vec<u8>,
}

/// Where the pass is: `at` is read next, `copied` up to where the shape has the text.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    copied: usize,
}

impl Encoder<'_> {
    /// Packs the whole text, one object, into `values`.
    pub fn run(mut self) -> Option<()> {
        let mut place = Place { at: 0, copied: 0 };
        self.object(&mut place, 0)?;
        (place.at == self.text.len()).then_some(())
    }

    /// An object with a shape of its own. Its first byte is next, and nothing before it is left to copy.
    fn object(&mut self, place: &mut Place, depth: u32) -> Option<()> {
        let shape_start = self.shape.len();
        let mut values_start = self.values.len();
        let mut members = 0;
        self.open(place)?;
        loop {
            let before = place.at;
            if !self.next_member(place, members, b'}')? {
                break;
            }
            if depth == 0 && self.drops_member(place, members, before)? {
                continue;
            }
            members += 1;
            self.member(place, depth)?;
            if members % self.run_max == 0 && self.text.get(place.at) == Some(&b',') {
                self.flush(place, place.at);
                self.shape.push(Hole::More as u8);
                self.close_run(shape_start, values_start)?;
                values_start = self.values.len();
            }
        }
        self.flush(place, place.at);
        self.close_run(shape_start, values_start)
    }

    /// Turns the shape from `shape_start` on into its number, in front of its values.
    fn close_run(&mut self, shape_start: usize, values_start: usize) -> Option<()> {
        let number = self.shapes.number(&self.shape[shape_start..])?;
        self.shape.truncate(shape_start);
        put_leb_at(number.into(), values_start, self.values);
        Some(())
    }

    fn open(&mut self, place: &mut Place) -> Option<()> {
        if self.text.get(place.at) != Some(&b'{') {
            return None;
        }
        place.at += 1;
        Some(())
    }

    /// Moves to the next member; `false` behind the bracket that `close` is.
    fn next_member(&self, place: &mut Place, members: usize, close: u8) -> Option<bool> {
        self.skip_space(place);
        if self.text.get(place.at) == Some(&close) {
            place.at += 1;
            return Some(false);
        }
        if members > 0 {
            if self.text.get(place.at) != Some(&b',') {
                return None;
            }
            place.at += 1;
            self.skip_space(place);
        }
        Some(true)
    }

    /// Leaves the next member out if it is to be dropped, and the comma between it and its neighbour. `before` is the end of the last.
    fn drops_member(&mut self, place: &mut Place, members: usize, before: usize) -> Option<bool> {
        if self.drop.is_empty() {
            return Some(false);
        }
        let mut next = *place;
        let (start, end) = self.string(&mut next)?;
        if !edit::names(self.drop, &self.text[start..end]) {
            return Some(false);
        }
        self.skip_space(&mut next);
        if self.text.get(next.at) != Some(&b':') {
            return None;
        }
        next.at += 1;
        self.skip_space(&mut next);
        next.at = json::skip_value(self.text, next.at).ok()?;
        self.skip_space(&mut next);
        let mut start = before;
        if members == 0 {
            start = place.at;
            if self.text.get(next.at) == Some(&b',') {
                next.at += 1;
                self.skip_space(&mut next);
            }
        }
        self.flush(place, start);
        self.gaps.push(start..next.at);
        *place = Place { at: next.at, copied: next.at };
        Some(true)
    }

    fn member(&mut self, place: &mut Place, depth: u32) -> Option<()> {
        let key = self.string(place)?;
        self.skip_space(place);
        if self.text.get(place.at) != Some(&b':') {
            return None;
        }
        place.at += 1;
        self.skip_space(place);
        self.value(place, key, depth)?;
        self.skip_space(place);
        Some(())
    }

    fn value(&mut self, place: &mut Place, key: (usize, usize), depth: u32) -> Option<()> {
        match *self.text.get(place.at)? {
            b'"' => {
                let (start, end) = self.string(place)?;
                self.quoted(place, key, start, end);
                Some(())
            }
            b'{' if depth >= NEST_MAX => self.as_text(place),
            b'{' if self.is_small(place.at) => {
                let mut members = 0;
                self.open(place)?;
                while self.next_member(place, members, b'}')? {
                    members += 1;
                    self.member(place, depth + 1)?;
                }
                Some(())
            }
            b'{' => {
                self.flush(place, place.at);
                self.shape.push(Hole::Object as u8);
                self.object(place, depth + 1)
            }
            b'[' if self.text[place.at..].starts_with(b"[]") => {
                place.at += 2;
                Some(())
            }
            b'[' => self.array_or_text(place, depth),
            byte if super::hole::is_reserved(byte) => self.slot(place),
            _ => self.bare(place),
        }
    }

    /// A string's content between `start` and `end`, `place` being behind its quote.
    fn quoted(&mut self, place: &mut Place, key: (usize, usize), mut start: usize, end: usize) {
        let text = self.text;
        let mut content = &text[start..end];
        if content.is_empty() || content == b"0" {
            return;
        }
        if let Some(value) = number(content) {
            if value == self.key {
                self.hole(place, start, end, Hole::Key);
            } else if let Some(at) = self.ids.find(value) {
                self.hole(place, start, end, Hole::Local);
                put_leb(at, self.values);
            } else if is_shared(&text[key.0..key.1]) && value >= WIDE {
                self.hole(place, start, end, Hole::Shared);
                self.shared(content, 0, &value.to_le_bytes());
            } else {
                self.number(place, start, end, value);
            }
            return;
        }
        if content.len() == 34 && content.starts_with(b"a_") {
            start += 2;
            content = &content[2..];
        }
        if content.len() == 32
            && let Some(bytes) = hex::<16>(content)
        {
            if is_shared(&text[key.0..key.1]) {
                self.hole(place, start, end, Hole::Shared);
                self.shared(content, 2, &bytes);
            } else {
                self.hole(place, start, end, Hole::Hex16);
                self.values.extend_from_slice(&bytes);
            }
        } else if let Some(bytes) = hex::<8>(content) {
            self.hole(place, start, end, Hole::Hex8);
            self.values.extend_from_slice(&bytes);
        } else if put_time(content, self.values) {
            self.hole(place, start, end, Hole::Time);
        } else {
            self.hole(place, start, end, Hole::Text);
            self.put_text(start, end);
        }
    }

    /// A word, or `head` and the bytes.
    fn shared(&mut self, content: &[u8], head: u8, bytes: &[u8]) {
        match self.words.number(content, self.key) {
            Some(word) => put_leb(u64::from(word) << 1 | 1, self.values),
            None => {
                self.values.push(head);
                self.values.extend_from_slice(bytes);
            }
        }
    }

    fn number(&mut self, place: &mut Place, start: usize, end: usize, value: u64) {
        if value < WIDE {
            self.hole(place, start, end, Hole::Digits);
            put_leb(value, self.values);
        } else {
            self.hole(place, start, end, Hole::Id);
            self.values.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// A literal, or a number. 0 is as constant as `false`.
    fn bare(&mut self, place: &mut Place) -> Option<()> {
        let (start, end) = self.word(place)?;
        match &self.text[start..end] {
            b"null" | b"true" | b"false" | b"0" => {}
            content => match number(content) {
                Some(value) => self.number(place, start, end, value),
                None => {
                    self.hole(place, start, end, Hole::Text);
                    self.put_text(start, end);
                }
            },
        }
        Some(())
    }

    /// A marker of the caller's: it and the byte behind it are the shape's own.
    fn slot(&mut self, place: &mut Place) -> Option<()> {
        if self.text[place.at] != Hole::Slot as u8 || place.at + 1 >= self.text.len() {
            return None;
        }
        place.at += 2;
        Some(())
    }

    fn array_or_text(&mut self, place: &mut Place, depth: u32) -> Option<()> {
        self.flush(place, place.at);
        let (before, values_before, shape_before) = (*place, self.values.len(), self.shape.len());
        for try_ids in [true, false] {
            let hole = if try_ids { Hole::Ids } else { Hole::Array };
            self.shape.push(hole as u8);
            let done = if try_ids { self.id_array(place) } else { self.array(place, depth + 1) };
            if done.is_some() {
                place.copied = place.at;
                return Some(());
            }
            self.shape.truncate(shape_before);
            self.values.truncate(values_before);
            *place = before;
        }
        self.as_text(place)
    }

    fn id_array(&mut self, place: &mut Place) -> Option<()> {
        let values_start = self.values.len();
        let mut len = 0;
        place.at += 1;
        loop {
            let (start, end) = self.string(place)?;
            let id = number(&self.text[start..end])?;
            let at = if self.interns_ids { self.ids.intern(id) } else { self.ids.find(id) };
            put_leb(at?, self.values);
            len += 1;
            if self.closes_array(place)? {
                put_leb_at(len, values_start, self.values);
                return Some(());
            }
        }
    }

    fn array(&mut self, place: &mut Place, depth: u32) -> Option<()> {
        if depth >= NEST_MAX {
            return None;
        }
        let values_start = self.values.len();
        let mut len = 0;
        place.at += 1;
        loop {
            self.element(place, depth)?;
            len += 1;
            if self.closes_array(place)? {
                put_leb_at(len, values_start, self.values);
                return Some(());
            }
        }
    }

    /// Behind an element: `true` behind the bracket, `false` behind a comma. White space does not fit.
    fn closes_array(&self, place: &mut Place) -> Option<bool> {
        let byte = *self.text.get(place.at)?;
        place.at += 1;
        match byte {
            b']' => Some(true),
            b',' => Some(false),
            _ => None,
        }
    }

    fn element(&mut self, place: &mut Place, depth: u32) -> Option<()> {
        match *self.text.get(place.at)? {
            b'{' => {
                self.values.push(Tag::Object as u8);
                place.copied = place.at;
                self.object(place, depth)
            }
            b'"' => {
                let (start, end) = self.string(place)?;
                match number(&self.text[start..end]) {
                    Some(value) => self.quoted_number(value),
                    None => {
                        self.values.push(Tag::Text as u8);
                        self.put_text(start, end);
                    }
                }
                Some(())
            }
            b'[' => {
                let start = place.at;
                place.at = json::skip_value(self.text, start).ok()?;
                self.raw(start, place.at);
                Some(())
            }
            _ => {
                let (start, end) = self.word(place)?;
                match number(&self.text[start..end]) {
                    Some(value) => {
                        self.values.push(Tag::Digits as u8);
                        put_leb(value, self.values);
                    }
                    None => self.raw(start, end),
                }
                Some(())
            }
        }
    }

    fn quoted_number(&mut self, value: u64) {
        if let Some(at) = self.ids.find(value) {
            self.values.push(Tag::QuotedLocal as u8);
            put_leb(at, self.values);
        } else if value < WIDE {
            self.values.push(Tag::QuotedDigits as u8);
            put_leb(value, self.values);
        } else {
            self.values.push(Tag::QuotedId as u8);
            self.values.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn raw(&mut self, start: usize, end: usize) {
        self.values.push(Tag::Raw as u8);
        put_leb((end - start) as u64, self.values);
        self.values.extend_from_slice(&self.text[start..end]);
    }

    /// The whole value that is next, as text.
    fn as_text(&mut self, place: &mut Place) -> Option<()> {
        let start = place.at;
        place.at = json::skip_value(self.text, start).ok()?;
        self.hole(place, start, place.at, Hole::Text);
        put_leb(((place.at - start) as u64) << 1, self.values);
        self.values.extend_from_slice(&self.text[start..place.at]);
        Some(())
    }

    fn put_text(&mut self, start: usize, end: usize) {
        let content = &self.text[start..end];
        match self.words.number(content, self.key) {
            Some(word) => put_leb(u64::from(word) << 1 | 1, self.values),
            None => {
                put_leb((content.len() as u64) << 1, self.values);
                self.values.extend_from_slice(content);
            }
        }
    }

    /// The text up to `start` and a marker for what follows up to `end`.
    fn hole(&mut self, place: &mut Place, start: usize, end: usize, hole: Hole) {
        self.flush(place, start);
        self.shape.push(hole as u8);
        place.copied = end;
    }

    fn flush(&mut self, place: &mut Place, end: usize) {
        self.shape.extend_from_slice(&self.text[place.copied..end]);
        place.copied = end;
    }

    /// The content's span; `place` moves behind the closing quote.
    fn string(&self, place: &mut Place) -> Option<(usize, usize)> {
        if self.text.get(place.at) != Some(&b'"') {
            return None;
        }
        let start = place.at + 1;
        let end = json::string_end(self.text, start)?;
        place.at = end + 1;
        Some((start, end))
    }

    /// What stands up to the next comma, bracket or white space; never nothing.
    fn word(&self, place: &mut Place) -> Option<(usize, usize)> {
        let start = place.at;
        let len = self.text[start..].iter().position(|byte| b",]} \t\r\n".contains(byte))?;
        place.at += len;
        (len > 0).then_some((start, place.at))
    }

    /// Whether the object at `at` has few members, told by its commas.
    fn is_small(&self, mut at: usize) -> bool {
        let (mut depth, mut commas) = (0, 0);
        while let Some(&byte) = self.text.get(at) {
            match byte {
                b'"' => match json::string_end(self.text, at + 1) {
                    Some(end) => at = end,
                    None => return false,
                },
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth <= 1 => return true,
                b'}' | b']' => depth -= 1,
                b',' if depth == 1 => {
                    commas += 1;
                    if commas >= INLINE_MAX {
                        return false;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        false
    }

    fn skip_space(&self, place: &mut Place) {
        while matches!(self.text.get(place.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            place.at += 1;
        }
    }
}

fn is_shared(key: &[u8]) -> bool {
    SHARED.contains(&key)
}

/// Puts LEB128 in front of what lies behind `at`.
fn put_leb_at(value: u64, at: usize, out: &mut Vec<u8>) {
    let before = out.len();
    put_leb(value, out);
    let len = out.len() - before;
    out[at..].rotate_right(len);
}
