//! RFC 6455 as far as both ends of the load test need it: frames out, messages in, the handshake's key.
//!
//! No extensions. UTF-8 is not checked here; who parses the JSON does that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// Appends one final frame. `mask` is given by a client and never by a server (RFC 6455 §5.1).
pub fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(masked | len as u8),
        len @ 126..=0xFFFF => {
            out.push(masked | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    match mask {
        None => out.extend_from_slice(payload),
        Some(mask) => {
            out.extend_from_slice(&mask);
            out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
    }
}

/// Appends one message in fragments: an empty one, one of a byte, the rest, and an empty one, with a ping in the middle.
pub fn push_fragments(out: &mut Vec<u8>, opcode: u8, message: &[u8]) {
    let (first, rest) = message.split_at(message.len().min(1));
    let mut push = |opcode: u8, payload: &[u8], is_final: bool| {
        let at = out.len();
        push_frame(out, opcode, payload, None);
        if !is_final {
            out[at] &= 0x7F;
        }
    };
    push(opcode, b"", false);
    push(CONTINUATION, first, false);
    push(PING, b"between", true);
    push(CONTINUATION, rest, false);
    push(CONTINUATION, b"", true);
}

/// Appends a close frame with `code` and a short `reason`.
pub fn push_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.len().min(123)]);
    push_frame(out, CLOSE, &payload, mask);
}

/// The code in a close frame's payload; 1005 when it has none.
pub fn close_code(payload: &[u8]) -> u16 {
    payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
}

/// What `Sec-WebSocket-Accept` must be for `key` (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// A `Sec-WebSocket-Key` from sixteen bytes.
pub fn key(bytes: [u8; 16]) -> String {
    STANDARD.encode(bytes)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Reserved bits, a reserved opcode, a long or fragmented control frame, a stray continuation.
    Protocol,
    /// Masked where it must not be, or not masked where it must.
    Masking,
    /// Longer than `message_bytes_max`.
    TooLong { len: u64 },
}

/// Bytes in, whole messages out.
///
/// When more than `message_bytes_max` is announced the answer is an error, before a byte of it is stored.
#[derive(Debug)]
pub struct Deframer {
    /// Where a reader appends what it read.
    pub bytes: Vec<u8>,
    taken: usize,
    joined: Vec<u8>,
    joined_opcode: Option<u8>,
    masked: bool,
    message_bytes_max: u64,
}

impl Deframer {
    /// `masked` says whether the frames that come in must be (they come from a client) or must not be.
    pub fn new(masked: bool, message_bytes_max: u64) -> Self {
        Self { bytes: Vec::new(), taken: 0, joined: Vec::new(), joined_opcode: None, masked, message_bytes_max }
    }

    /// Forgets what was taken. Call before reading more into `bytes`.
    pub fn compact(&mut self) {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
        } else if self.taken > 0 {
            self.bytes.drain(..self.taken);
        }
        self.taken = 0;
    }

    /// The next control frame or whole message: opcode and payload; `None` when more bytes are needed.
    pub fn next_message(&mut self) -> Result<Option<(u8, &[u8])>, FrameError> {
        loop {
            let Some((head, start, len)) = self.header()? else { return Ok(None) };
            let opcode = head & 0x0F;
            let is_final = head & 0x80 != 0;
            self.taken = start + len;
            let payload = start..start + len;
            if opcode >= CLOSE {
                return Ok(Some((opcode, &self.bytes[payload])));
            }
            match (opcode, self.joined_opcode) {
                (CONTINUATION, Some(first)) => {
                    self.joined.extend_from_slice(&self.bytes[payload]);
                    if is_final {
                        self.joined_opcode = None;
                        return Ok(Some((first, &self.joined)));
                    }
                }
                (TEXT | BINARY, None) if is_final => return Ok(Some((opcode, &self.bytes[payload]))),
                (TEXT | BINARY, None) => {
                    self.joined.clear();
                    self.joined.extend_from_slice(&self.bytes[payload]);
                    self.joined_opcode = Some(opcode);
                }
                _ => return Err(FrameError::Protocol),
            }
        }
    }

    /// The first byte, the payload's start and length of the next frame, once it is here whole; unmasked in place.
    fn header(&mut self) -> Result<Option<(u8, usize, usize)>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let [head, second, ..] = *rest else { return Ok(None) };
        if head & 0x70 != 0 || !matches!(head & 0x0F, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(FrameError::Protocol);
        }
        if (second & 0x80 != 0) != self.masked {
            return Err(FrameError::Masking);
        }
        let (len, mut at) = match second & 0x7F {
            126 => match rest[2..].first_chunk() {
                Some(len) => (u16::from_be_bytes(*len) as u64, 4),
                None => return Ok(None),
            },
            127 => match rest[2..].first_chunk() {
                Some(len) => (u64::from_be_bytes(*len), 10),
                None => return Ok(None),
            },
            len => (len as u64, 2),
        };
        if head & 0x08 != 0 && (len > 125 || head & 0x80 == 0) {
            return Err(FrameError::Protocol);
        }
        if len + self.joined_len() > self.message_bytes_max {
            return Err(FrameError::TooLong { len });
        }
        let key_at = at;
        if self.masked {
            at += 4;
        }
        let len = len as usize;
        if rest.len() < at + len {
            return Ok(None);
        }
        let start = self.taken + at;
        if self.masked {
            let (before, payload) = self.bytes.split_at_mut(start);
            let key = &before[self.taken + key_at..];
            payload[..len].iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        Ok(Some((head, start, len)))
    }

    fn joined_len(&self) -> u64 {
        if self.joined_opcode.is_some() { self.joined.len() as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_survive_any_cut() {
        let payloads = [vec![b'a'; 5], vec![b'b'; 300], vec![b'c'; 70_000]];
        let mut wire = Vec::new();
        for payload in &payloads {
            push_frame(&mut wire, TEXT, payload, Some([1, 2, 3, 4]));
        }
        for cut in [1, 7, 4096, wire.len()] {
            let mut deframer = Deframer::new(true, 1 << 20);
            let mut seen = Vec::new();
            for part in wire.chunks(cut) {
                deframer.compact();
                deframer.bytes.extend_from_slice(part);
                while let Some((opcode, payload)) = deframer.next_message().unwrap() {
                    assert_eq!(opcode, TEXT);
                    seen.push(payload.to_vec());
                }
            }
            assert_eq!(seen, payloads, "cut in {cut}");
        }
    }

    #[test]
    fn a_message_pushed_in_fragments_is_joined_again() {
        for message in [&b""[..], b"a", b"some text"] {
            let mut deframer = Deframer::new(false, 100);
            push_fragments(&mut deframer.bytes, TEXT, message);
            assert_eq!(deframer.next_message(), Ok(Some((PING, &b"between"[..]))));
            assert_eq!(deframer.next_message(), Ok(Some((TEXT, message))));
            assert_eq!(deframer.next_message(), Ok(None));
        }
    }

    #[test]
    fn fragments_are_joined_around_a_ping() {
        let mut deframer = Deframer::new(false, 100);
        deframer.bytes.extend_from_slice(&[0x01, 2, b'a', b'b', 0x89, 0, 0x80, 1, b'c']);
        assert_eq!(deframer.next_message(), Ok(Some((PING, &b""[..]))));
        assert_eq!(deframer.next_message(), Ok(Some((TEXT, &b"abc"[..]))));
        assert_eq!(deframer.next_message(), Ok(None));
    }

    #[test]
    fn a_huge_header_an_unmasked_frame_and_reserved_bits_are_errors() {
        let mut deframer = Deframer::new(false, 100);
        deframer.bytes.extend_from_slice(&[0x82, 127, 0x40, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(deframer.next_message(), Err(FrameError::TooLong { len: 1 << 62 }));
        let mut deframer = Deframer::new(true, 100);
        deframer.bytes.extend_from_slice(&[0x81, 1, b'a']);
        assert_eq!(deframer.next_message(), Err(FrameError::Masking));
        let mut deframer = Deframer::new(false, 100);
        deframer.bytes.extend_from_slice(&[0xC1, 1, b'a']);
        assert_eq!(deframer.next_message(), Err(FrameError::Protocol));
    }
}
