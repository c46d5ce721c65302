//! Reads a gateway payload's envelope (`op`, `s`, `t` and where `d` lies) without parsing `d`.
//!
//! It is no validator: what it says of valid JSON is right, and on anything else it errs or says something harmless,
//! but never panics. It allocates nothing. What `d` holds, and UTF-8, are not looked at.
//!
//! Cost: Discord sends `{"t":..,"s":..,"op":..,"d":..}`, compact and in this order. That form is read from its first
//! 50 bytes and its last two, whatever the payload's size. Any other form is walked once from end to end.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

/// The envelope of one payload. All spans index that payload.
///
/// Source: Discord, Gateway events › Payload structure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `None` when absent, or no integer of 0 to 2⁶⁴ − 1 in plain digits.
    pub op: Option<u64>,
    /// `s`; `None` as for `op`, so for `null` too.
    pub sequence: Option<u64>,
    /// The digits of `s`; present when `sequence` is.
    pub sequence_span: Option<Range<usize>>,
    /// `t`, as it stands between its quotes, escapes and all; `None` when absent or no string.
    pub event_type: Option<Range<usize>>,
    /// `d`, whole, `null` included; `None` when absent.
    pub data: Option<Range<usize>>,
    /// The payload is exactly `{"t":..,"s":..,"op":..,"d":..}`: compact, in this order, nothing else in it.
    pub canonical: bool,
}

/// The payload is not one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// The payload ends before its top level closes.
    Truncated { len: usize },
    /// The byte at `offset` cannot stand there.
    Unexpected { offset: usize },
    /// The bytes from `offset` on are not UTF-8.
    NotUtf8 { offset: usize },
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { len } => write!(f, "payload cut after {len} bytes"),
            Self::Unexpected { offset } => write!(f, "payload is no JSON object: unexpected byte at {offset}"),
            Self::NotUtf8 { offset } => write!(f, "payload is not UTF-8 from byte {offset} on"),
        }
    }
}

impl std::error::Error for ScanError {}

/// [`scan`] for what is passed on to clients as text: errs also when `payload` is not UTF-8, which would make them close
/// (RFC 6455 §8.1). Costs some 50 ns per KiB more.
pub fn scan_text(payload: &[u8]) -> Result<Envelope, ScanError> {
    match str::from_utf8(payload) {
        Ok(_) => scan(payload),
        Err(error) => Err(ScanError::NotUtf8 { offset: error.valid_up_to() }),
    }
}

/// Reads the envelope of `payload`, one whole JSON object, as inflated. No key order is assumed.
///
/// When the payload begins in Discord's own form, `d` is trusted to run up to the closing brace as long as the bytes
/// around it agree (`{` … `}}`, `[` … `]}`; strings and scalars are walked). So two things escape notice:
/// a further top-level key *behind* an object `d` whose own value is an object too (likewise arrays), which then
/// counts as part of `d`; and a payload cut right behind two closing braces, which the layers below rule out: a
/// WebSocket message arrives whole. [`scan_exact`] trusts nothing.
///
/// Errs if the object ends before its top level closes, or is none.
pub fn scan(payload: &[u8]) -> Result<Envelope, ScanError> {
    match scan_canonical(payload) {
        Some(envelope) => Ok(envelope),
        None => scan_exact(payload),
    }
}

/// As [`scan`], walking the whole payload whatever its form: a key twice counts as its last value, keys may be
/// written with escapes, and nothing nested is taken for the top level.
pub fn scan_exact(payload: &[u8]) -> Result<Envelope, ScanError> {
    let mut envelope = Envelope::default();
    let mut at = expect(payload, skip_space(payload, 0), b'{')?;
    at = skip_space(payload, at);
    if payload.get(at) == Some(&b'}') {
        at += 1;
    } else {
        loop {
            let key_start = expect(payload, at, b'"')?;
            let key_end = string_end(payload, key_start)?;
            at = expect(payload, skip_space(payload, key_end + 1), b':')?;
            let start = skip_space(payload, at);
            let end = value_end(payload, start)?;
            envelope.take(payload, key(&payload[key_start..key_end]), start..end);
            at = skip_space(payload, end);
            match payload.get(at) {
                Some(b',') => at = skip_space(payload, at + 1),
                Some(b'}') => break at += 1,
                _ => return Err(unexpected(payload, at)),
            }
        }
    }
    at = skip_space(payload, at);
    if at != payload.len() {
        return Err(ScanError::Unexpected { offset: at });
    }
    envelope.canonical = scan_canonical(payload).is_some_and(|trusted| trusted.data == envelope.data);
    Ok(envelope)
}

/// Writes the payload anew as `{"t":..,"s":..,"op":..,"d":..}`, with the bytes of each value untouched and `null` for
/// what is absent. Other keys are left out.
///
/// `envelope` is `payload`'s. `out` is cleared first; the returned envelope is that of `out`.
pub fn canonicalize(payload: &[u8], envelope: &Envelope, out: &mut Vec<u8>) -> Envelope {
    fn value(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> Option<Range<usize>> {
        let start = out.len();
        out.extend_from_slice(bytes.unwrap_or(b"null"));
        bytes.map(|_| start..out.len())
    }

    let bytes = |span: &Option<Range<usize>>| span.clone().map(|span| &payload[span]);
    out.clear();
    out.extend_from_slice(br#"{"t":"#);
    // The quotes stand one byte to either side of the span.
    let event_type = value(out, envelope.event_type.clone().map(|it| &payload[it.start - 1..it.end + 1]))
        .map(|it| it.start + 1..it.end - 1);
    out.extend_from_slice(br#","s":"#);
    let sequence_span = value(out, bytes(&envelope.sequence_span));
    out.extend_from_slice(br#","op":"#);
    value(out, envelope.op.map(|op| itoa::Buffer::new().format(op).to_owned()).as_deref().map(str::as_bytes));
    out.extend_from_slice(br#","d":"#);
    let data_start = out.len();
    value(out, bytes(&envelope.data));
    let data = Some(data_start..out.len());
    out.push(b'}');
    Envelope {
        op: envelope.op,
        sequence: envelope.sequence,
        sequence_span,
        event_type,
        data,
        canonical: envelope.op.is_some(),
    }
}

/// The keys of an envelope.
#[derive(Clone, Copy)]
enum Key {
    EventType,
    Sequence,
    Op,
    Data,
    Other,
}

impl Envelope {
    fn take(&mut self, payload: &[u8], key: Key, value: Range<usize>) {
        match key {
            Key::EventType => {
                self.event_type = (payload[value.start] == b'"').then(|| value.start + 1..value.end - 1);
            }
            Key::Sequence => {
                self.sequence = integer(&payload[value.clone()]);
                self.sequence_span = self.sequence.map(|_| value);
            }
            Key::Op => self.op = integer(&payload[value]),
            Key::Data => self.data = Some(value),
            Key::Other => {}
        }
    }
}

/// Discord's own form, or `None` for any other.
fn scan_canonical(payload: &[u8]) -> Option<Envelope> {
    let at = after(payload, 0, br#"{"t":"#)?;
    let (event_type, at) = match after(payload, at, b"\"") {
        Some(start) => {
            let end = start + name_len(&payload[start..])?;
            (Some(start..end), end + 1)
        }
        None => (None, after(payload, at, b"null")?),
    };
    let at = after(payload, at, br#","s":"#)?;
    let (sequence, sequence_span, at) = match after(payload, at, b"null") {
        Some(at) => (None, None, at),
        None => {
            let (sequence, end) = digits(payload, at)?;
            (Some(sequence), Some(at..end), end)
        }
    };
    let at = after(payload, at, br#","op":"#)?;
    let (op, at) = digits(payload, at)?;
    let start = after(payload, at, br#","d":"#)?;
    let end = payload.len() - 1;
    let ends_agree = match payload[start..] {
        [b'{', .., b'}', b'}'] | [b'[', .., b']', b'}'] => true,
        [b'{' | b'[', ..] => false,
        [.., b'}'] => value_end(payload, start) == Ok(end),
        _ => false,
    };
    ends_agree.then_some(Envelope {
        op: Some(op),
        sequence,
        sequence_span,
        event_type,
        data: Some(start..end),
        canonical: true,
    })
}

/// The offset behind `wanted`, if that is what stands at `at`.
#[inline]
fn after(payload: &[u8], at: usize, wanted: &[u8]) -> Option<usize> {
    payload.get(at..)?.starts_with(wanted).then_some(at + wanted.len())
}

/// The length of a string's content up to its closing quote. Event names are some 15 bytes long: too short for a
/// call of `memchr` to pay.
#[inline]
fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The integer whose digits begin at `at`, and the offset behind them. `None` for no digit, a leading zero, or 2⁶⁴ and up.
#[inline]
fn digits(payload: &[u8], at: usize) -> Option<(u64, usize)> {
    let digit = |at: usize| payload.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10);
    let mut number = u64::from(digit(at)?);
    let mut end = at + 1;
    while let Some(next) = digit(end) {
        if number == 0 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(next))?;
        end += 1;
    }
    Some((number, end))
}

/// The whole of `value` as an integer.
fn integer(value: &[u8]) -> Option<u64> {
    digits(value, 0).filter(|&(_, end)| end == value.len()).map(|(number, _)| number)
}

/// Which key stands between the quotes. Escapes are decoded first: `"\u0073"` is `s`.
fn key(raw: &[u8]) -> Key {
    let mut decoded = [0; 2];
    let name = if raw.contains(&b'\\') {
        match decode_short(raw, &mut decoded) {
            Some(len) => &decoded[..len],
            None => return Key::Other,
        }
    } else {
        raw
    };
    match name {
        b"t" => Key::EventType,
        b"s" => Key::Sequence,
        b"op" => Key::Op,
        b"d" => Key::Data,
        _ => Key::Other,
    }
}

/// Decodes a string of at most `out.len()` ASCII characters; `None` for anything else.
fn decode_short(raw: &[u8], out: &mut [u8; 2]) -> Option<usize> {
    let mut len = 0;
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'\\', [b'u', hex @ ..]) => {
                let (hex, tail) = hex.split_at_checked(4)?;
                if !hex.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                let code = u16::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()?;
                (u8::try_from(code).ok().filter(u8::is_ascii)?, tail)
            }
            // No other escape stands for a letter.
            (b'\\', _) => return None,
            _ => (first, tail),
        };
        *out.get_mut(len)? = byte;
        len += 1;
        rest = tail;
    }
    Some(len)
}

fn skip_space(payload: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = payload.get(at) {
        at += 1;
    }
    at
}

fn expect(payload: &[u8], at: usize, wanted: u8) -> Result<usize, ScanError> {
    if payload.get(at) == Some(&wanted) { Ok(at + 1) } else { Err(unexpected(payload, at)) }
}

fn unexpected(payload: &[u8], at: usize) -> ScanError {
    if at < payload.len() { ScanError::Unexpected { offset: at } } else { truncated(payload) }
}

fn truncated(payload: &[u8]) -> ScanError {
    ScanError::Truncated { len: payload.len() }
}

/// The offset of the quote that closes the string whose content begins at `from`.
fn string_end(payload: &[u8], from: usize) -> Result<usize, ScanError> {
    let mut at = from;
    loop {
        let rest = payload.get(at..).ok_or(truncated(payload))?;
        let found = at + memchr::memchr2(b'"', b'\\', rest).ok_or(truncated(payload))?;
        if payload[found] == b'"' {
            return Ok(found);
        }
        at = found + 2;
    }
}

/// The offset behind the value that begins at `start`.
fn value_end(payload: &[u8], start: usize) -> Result<usize, ScanError> {
    match payload.get(start) {
        Some(b'"') => Ok(string_end(payload, start + 1)? + 1),
        Some(b'{' | b'[') => nested_end(payload, start),
        Some(b't') => literal_end(payload, start, b"true"),
        Some(b'f') => literal_end(payload, start, b"false"),
        Some(b'n') => literal_end(payload, start, b"null"),
        Some(b'-' | b'0'..=b'9') => {
            let is_number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
            let len = payload[start..].iter().position(|byte| !is_number(byte)).ok_or(truncated(payload))?;
            Ok(start + len)
        }
        _ => Err(unexpected(payload, start)),
    }
}

fn literal_end(payload: &[u8], start: usize, literal: &[u8]) -> Result<usize, ScanError> {
    match after(payload, start, literal) {
        Some(end) => Ok(end),
        None if literal.starts_with(&payload[start..]) => Err(truncated(payload)),
        None => Err(ScanError::Unexpected { offset: start }),
    }
}

/// The offset behind the object or array that opens at `start`. Braces and brackets share one depth: in valid JSON they
/// pair up, and the walk needs no stack that a deeply nested payload could exhaust.
fn nested_end(payload: &[u8], start: usize) -> Result<usize, ScanError> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        match payload.get(at).ok_or(truncated(payload))? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(at + 1);
                }
            }
            b'"' => at = string_end(payload, at + 1)?,
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests;
