//! Walks JSON where it lies: members, elements and scalars as spans of the text, nothing built, nothing allocated.
//!
//! A walk goes one level deep and jumps over what is nested. The level it walks is checked to the letter (commas, colons,
//! literals, numbers); what it jumps over is checked for its strings and for brackets that pair up, since that is what finding
//! the end needs anyway. So this is no validator: `[1 2]` inside a skipped value goes unnoticed, and so do control characters
//! in strings and bytes that are not UTF-8. Nothing here panics, recurses or reads a byte twice per level.
//!
//! Where keys repeat, `pick` lets the last one win, as parsers do.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memchr;

/// Nesting that a skipped value may have. Deeper text is `Invalid`; serde_json and simd-json stop there too.
pub const DEPTH_MAX: u32 = 128;

/// The text is not JSON, or ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where the walk stopped, in the text that the failing call was given.
    pub offset: usize,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid JSON at byte {}", self.offset)
    }
}

impl std::error::Error for Invalid {}

/// One `"key":value` of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Between its quotes, escapes as written. Compare it with `key_is`.
    pub key: &'a [u8],
    /// The value as written, without surrounding whitespace.
    pub value: &'a [u8],
    /// From the key's opening quote to the value's end, in the object's text.
    pub span: Range<usize>,
}

/// Iterates the members of `object`, which is one JSON object with nothing but whitespace around it.
///
/// The iterator yields an error at most once and ends after it. That the object is whole is known when it has ended.
pub fn members(object: &[u8]) -> Result<Members<'_>, Invalid> {
    Walk::open(object, b'{').map(|walk| Members { walk, state: State::First })
}

/// Iterates the elements of `array` as raw spans, on the terms of `members`.
pub fn elements(array: &[u8]) -> Result<Elements<'_>, Invalid> {
    Walk::open(array, b'[').map(|walk| Elements { walk, state: State::First })
}

/// The values of the members called `names`, in the order of `names`, `None` where there is none.
///
/// Walks the whole object, so that `Ok` also says that it is whole.
pub fn pick<'a, const N: usize>(object: &'a [u8], names: [&str; N]) -> Result<[Option<&'a [u8]>; N], Invalid> {
    let mut picked = [None; N];
    for member in members(object)? {
        let member = member?;
        if let Some(at) = names.iter().position(|name| key_is(member.key, name)) {
            picked[at] = Some(member.value);
        }
    }
    Ok(picked)
}

/// Where the value that begins at `at` ends. `text[at]` is its first byte: no whitespace is skipped.
pub fn skip_value(text: &[u8], at: usize) -> Result<usize, Invalid> {
    let mut walk = Walk { text, at };
    walk.value()?;
    Ok(walk.at)
}

/// Where the closing quote of the string is whose content begins at `at`; `None` if there is none.
///
/// Eight bytes at a time: most of Discord's strings end within two steps, before a call of `memchr` would have begun.
pub fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = text.get(at..)?;
        let step = match rest.first_chunk::<8>() {
            Some(word) => match first_quote_or_escape(u64::from_le_bytes(*word)) {
                Some(step) => step,
                None => {
                    at += 8;
                    continue;
                }
            },
            None => rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?,
        };
        at += step;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2; // the backslash and what it escapes
    }
}

/// Which of eight bytes, the lowest first, is the first quote or backslash.
fn first_quote_or_escape(word: u64) -> Option<usize> {
    const LOW: u64 = u64::MAX / 0xff;
    const HIGH: u64 = LOW << 7;
    // The lowest byte that is zero is marked; bytes above it may be marked wrongly.
    let zeros = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
    let found = zeros(word ^ (LOW * b'"' as u64)) | zeros(word ^ (LOW * b'\\' as u64));
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Whether a raw key spells `name`, which holds no escapes; the key may.
pub fn key_is(key: &[u8], name: &str) -> bool {
    // An escape is longer than what it stands for, so that most keys are told apart by their length.
    key == name.as_bytes() || (key.len() > name.len() && has_escape(key) && spells(key, name.as_bytes()))
}

/// Whether two raw keys spell the same name.
pub fn same_key(one: &[u8], other: &[u8]) -> bool {
    one == other || ((has_escape(one) || has_escape(other)) && unescape(one) == unescape(other))
}

/// Whether a key holds a backslash. Keys are short: a loop that the compiler unrolls ends before `memchr` has begun.
fn has_escape(key: &[u8]) -> bool {
    key.contains(&b'\\')
}

/// Whether `value` is an object, by its first byte.
pub fn is_object(value: &[u8]) -> bool {
    value.first() == Some(&b'{')
}

/// Whether `value` is an array, by its first byte.
pub fn is_array(value: &[u8]) -> bool {
    value.first() == Some(&b'[')
}

/// The raw text between the quotes; `None` if `value` is not a string.
pub fn string_raw(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// The text of a string, copied only if it holds escapes or is not UTF-8; `None` if `value` is not a string.
pub fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let raw = string_raw(value)?;
    match std::str::from_utf8(raw) {
        Ok(text) if memchr(b'\\', raw).is_none() => Some(Cow::Borrowed(text)),
        _ => Some(Cow::Owned(String::from_utf8_lossy(&unescape(raw)).into_owned())),
    }
}

/// Whether `value` is the string `text`, which holds no escapes; the value may.
pub fn string_is(value: &[u8], text: &str) -> bool {
    string_raw(value).is_some_and(|raw| key_is(raw, text))
}

/// A whole number written in plain digits; `None` for anything else, numbers above 2^64-1 included.
pub fn integer(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A snowflake, which Discord writes as a string and an echo of a client's input as a number.
pub fn snowflake(value: &[u8]) -> Option<u64> {
    integer(string_raw(value).unwrap_or(value))
}

/// `true` or `false`; `None` for anything else.
pub fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// See `members`.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    walk: Walk<'a>,
    state: State,
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.walk.advance(&mut self.state, b'}') {
            Ok(false) => return None,
            Ok(true) => {}
            Err(invalid) => return Some(Err(invalid)),
        }
        let member = self.walk.member();
        if member.is_err() {
            self.state = State::Ended;
        }
        Some(member)
    }
}

/// See `elements`.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    walk: Walk<'a>,
    state: State,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.walk.advance(&mut self.state, b']') {
            Ok(false) => return None,
            Ok(true) => {}
            Err(invalid) => return Some(Err(invalid)),
        }
        let element = self.walk.value();
        if element.is_err() {
            self.state = State::Ended;
        }
        Some(element)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    First,
    Later,
    Ended,
}

/// A position in a text. at ≤ text.len()
#[derive(Clone, Debug)]
struct Walk<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// Stands behind the `bracket` that `text` begins with.
    fn open(text: &'a [u8], bracket: u8) -> Result<Self, Invalid> {
        let mut walk = Self { text, at: 0 };
        walk.space();
        walk.expect(bracket)?;
        Ok(walk)
    }

    /// Moves to the next member or element; `false` when `close` ended them and the text with them.
    fn advance(&mut self, state: &mut State, close: u8) -> Result<bool, Invalid> {
        let first = match *state {
            State::Ended => return Ok(false),
            State::First => true,
            State::Later => false,
        };
        *state = State::Ended;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            self.space();
            return if self.at == self.text.len() { Ok(false) } else { Err(self.invalid()) };
        }
        if !first {
            self.expect(b',')?;
            self.space();
        }
        *state = State::Later;
        Ok(true)
    }

    fn member(&mut self) -> Result<Member<'a>, Invalid> {
        let start = self.at;
        let key = self.string()?;
        self.space();
        self.expect(b':')?;
        self.space();
        let value = self.value()?;
        Ok(Member { key, value, span: start..self.at })
    }

    fn value(&mut self) -> Result<&'a [u8], Invalid> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => drop(self.string()?),
            Some(b'{' | b'[') => self.container()?,
            _ => self.scalar()?,
        }
        Ok(&self.text[start..self.at])
    }

    /// The raw text between the quotes.
    fn string(&mut self) -> Result<&'a [u8], Invalid> {
        self.expect(b'"')?;
        let start = self.at;
        match string_end(self.text, start) {
            Some(end) => {
                self.at = end + 1;
                Ok(&self.text[start..end])
            }
            None => {
                self.at = self.text.len();
                Err(self.invalid())
            }
        }
    }

    /// Jumps over an object or array, `text[at]` being its bracket. The stack of open brackets is one bit each.
    fn container(&mut self) -> Result<(), Invalid> {
        let (mut objects, mut depth) = (0_u128, 0);
        loop {
            // Most bytes between two strings are none of these.
            let Some(skipped) = self.text[self.at..].iter().position(|&byte| IS_STRUCTURE[usize::from(byte)]) else {
                self.at = self.text.len();
                return Err(self.invalid());
            };
            self.at += skipped;
            let byte = self.text[self.at];
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => {
                    if depth == DEPTH_MAX {
                        return Err(self.invalid());
                    }
                    objects = (objects << 1) | u128::from(byte == b'{');
                    depth += 1;
                }
                b'}' | b']' => {
                    if (objects & 1 == 1) != (byte == b'}') {
                        return Err(self.invalid());
                    }
                    objects >>= 1;
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn scalar(&mut self) -> Result<(), Invalid> {
        let rest = &self.text[self.at..];
        let len = rest
            .iter()
            .position(|byte| matches!(byte, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\r' | b'\n'))
            .unwrap_or(rest.len());
        let word = &rest[..len];
        if !matches!(word, b"true" | b"false" | b"null") && !is_number(word) {
            return Err(self.invalid());
        }
        self.at += len;
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Invalid> {
        if self.peek() != Some(byte) {
            return Err(self.invalid());
        }
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn invalid(&self) -> Invalid {
        Invalid { offset: self.at.min(self.text.len()) }
    }
}

/// Quotes and brackets.
const IS_STRUCTURE: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 5 {
        table[b"\"{}[]"[at] as usize] = true;
        at += 1;
    }
    table
};

/// RFC 8259's `number`.
fn is_number(word: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let word = word.strip_prefix(b"-").unwrap_or(word);
    let whole = digits(word);
    if whole == 0 || (whole > 1 && word[0] == b'0') {
        return false;
    }
    let mut rest = &word[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = &fraction[len..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

/// Whether `raw`, its escapes undone, equals `name`.
fn spells(mut raw: &[u8], mut name: &[u8]) -> bool {
    while let Some((text, rest)) = next_character(raw) {
        let Some(left) = name.strip_prefix(text.bytes()) else { return false };
        (raw, name) = (rest, left);
    }
    name.is_empty()
}

/// `raw` with its escapes undone; a lone surrogate becomes U+FFFD.
fn unescape(mut raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    while let Some((text, rest)) = next_character(raw) {
        out.extend_from_slice(text.bytes());
        raw = rest;
    }
    out
}

/// One byte as it stands, or one character that was escaped.
struct Character {
    utf8: [u8; 4],
    len: usize,
}

impl Character {
    fn bytes(&self) -> &[u8] {
        &self.utf8[..self.len]
    }

    fn from_byte(byte: u8) -> Self {
        Self { utf8: [byte, 0, 0, 0], len: 1 }
    }

    fn from_char(character: char) -> Self {
        let mut utf8 = [0; 4];
        let len = character.encode_utf8(&mut utf8).len();
        Self { utf8, len }
    }
}

/// Takes one byte or escape off `raw`. An escape that does not exist stands for itself, so that text is never lost.
fn next_character(raw: &[u8]) -> Option<(Character, &[u8])> {
    let (&first, rest) = raw.split_first()?;
    if first != b'\\' {
        return Some((Character::from_byte(first), rest));
    }
    let plain = match rest.first() {
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'r') => b'\r',
        Some(b'b') => 0x08,
        Some(b'f') => 0x0c,
        Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
        Some(b'u') => {
            return Some(match code_point(rest) {
                Some((character, rest)) => (Character::from_char(character), rest),
                None => (Character::from_byte(first), rest),
            });
        }
        _ => return Some((Character::from_byte(first), rest)),
    };
    Some((Character::from_byte(plain), &rest[1..]))
}

/// Reads `uXXXX`, or a surrogate pair `uXXXX\uXXXX`.
fn code_point(raw: &[u8]) -> Option<(char, &[u8])> {
    let (high, rest) = hex_unit(raw)?;
    if (0xd800..0xdc00).contains(&high)
        && let Some((low @ 0xdc00..0xe000, rest)) = rest.strip_prefix(b"\\").and_then(hex_unit)
    {
        return char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|it| (it, rest));
    }
    Some((char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), rest))
}

fn hex_unit(raw: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = raw.strip_prefix(b"u")?.split_at_checked(4)?;
    let unit = digits.iter().try_fold(0, |sum, &byte| Some(sum * 16 + char::from(byte).to_digit(16)?))?;
    Some((unit, rest))
}

#[cfg(test)]
mod tests;
