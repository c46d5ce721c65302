//! The framing of RFC 6455 §5: opcodes, frame headers, and what can be wrong with them.
//!
//! Writes whole frames and reads one header. It joins no fragments and keeps no state: that is [`super::deframe`].

#![forbid(unsafe_code)]

use std::fmt;

use super::close::CloseCode;
use super::mask;

/// A control frame's payload is at most this long, and a control frame is never fragmented (RFC 6455 §5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Two bytes, an eight-byte length, a four-byte mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// What a frame carries (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// The four bits that stand in the header.
    pub fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    /// `None` for the opcodes that RFC 6455 reserves.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    /// Close, ping or pong.
    pub fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// Which end of the connection we are; it decides who masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The other side is a client: its frames must be masked.
    Server,
    /// The other side is Discord: its frames must not be masked.
    Client,
}

/// One frame's header, as it stood on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last frame of its message.
    pub fin: bool,
    pub opcode: Opcode,
    pub mask: Option<[u8; 4]>,
    /// As claimed: nothing says yet that so many bytes will come.
    pub payload_len: u64,
}

/// The other side broke RFC 6455 or a limit. The connection is over: what follows cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// RSV1-3 set (`bits`, as the header's first byte has them) although no extension was negotiated.
    ReservedBits { bits: u8 },
    /// An opcode that RFC 6455 reserves.
    UnknownOpcode { opcode: u8 },
    /// A client's frame without mask.
    Unmasked,
    /// Discord's frame with a mask.
    Masked,
    /// A close, ping or pong without the FIN bit.
    FragmentedControl { opcode: Opcode },
    /// A close, ping or pong of more than [`CONTROL_BYTES_MAX`] bytes.
    LongControl { opcode: Opcode },
    /// A message of more than `limit` bytes; `claimed` counts this frame and the fragments before it.
    TooBig { claimed: u64, limit: usize, role: Role },
    /// A continuation without a message to continue.
    StrayContinuation,
    /// A new text or binary frame before the fragmented message was finished.
    UnfinishedMessage { opcode: Opcode },
    /// More than `limit` empty fragments in one message.
    EmptyFragments { limit: usize },
    /// A close payload of one byte.
    CutCloseCode,
    /// A close code that may not stand in a frame (RFC 6455 §7.4).
    InvalidCloseCode { code: u16 },
}

impl FrameError {
    /// What the other side is told. A client that exceeds its limit gets Discord's own answer to more than
    /// 4096 bytes; towards Discord RFC 6455's words are used.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::TooBig { role: Role::Server, .. } => CloseCode::DECODE_ERROR,
            Self::TooBig { role: Role::Client, .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::EmptyFragments { .. } => CloseCode::POLICY_VIOLATION,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits { bits } => write!(f, "reserved bits {bits:#04x} set, no extension was negotiated"),
            Self::UnknownOpcode { opcode } => write!(f, "unknown frame opcode {opcode:#x}"),
            Self::Unmasked => f.write_str("a client's frame is not masked"),
            Self::Masked => f.write_str("Discord's frame is masked"),
            Self::FragmentedControl { opcode } => write!(f, "fragmented {opcode:?} frame"),
            Self::LongControl { opcode } => write!(f, "{opcode:?} frame of more than {CONTROL_BYTES_MAX} bytes"),
            Self::TooBig { claimed, limit, .. } => write!(f, "message of {claimed} bytes, limit {limit}"),
            Self::StrayContinuation => f.write_str("continuation frame without a message to continue"),
            Self::UnfinishedMessage { opcode } => write!(f, "{opcode:?} frame inside a fragmented message"),
            Self::EmptyFragments { limit } => write!(f, "more than {limit} empty fragments in one message"),
            Self::CutCloseCode => f.write_str("close frame with half a code"),
            Self::InvalidCloseCode { code } => write!(f, "close frame with invalid code {code}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Reads the header at the front of `bytes`.
///
/// Returns it with its length in bytes; `None` when `bytes` ends before the header does. Whatever two bytes can
/// tell is judged as soon as they are there. Masking and size are left to the caller, who knows its role and limit.
///
/// Source: RFC 6455 §5.2.
pub fn parse_header(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, FrameError> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBits { bits: first & 0x70 });
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::UnknownOpcode { opcode: first & 0x0f })?;
    let fin = first & 0x80 != 0;
    let short_len = second & 0x7f;
    if opcode.is_control() {
        if !fin {
            return Err(FrameError::FragmentedControl { opcode });
        }
        if usize::from(short_len) > CONTROL_BYTES_MAX {
            return Err(FrameError::LongControl { opcode });
        }
    }

    let (payload_len, rest) = match short_len {
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        len => (u64::from(len), rest),
    };
    let (mask, rest) = if second & 0x80 == 0 {
        (None, rest)
    } else {
        match rest.split_first_chunk() {
            Some((mask, rest)) => (Some(*mask), rest),
            None => return Ok(None),
        }
    };
    Ok(Some((FrameHeader { fin, opcode, mask, payload_len }, bytes.len() - rest.len())))
}

/// Appends the header of an unfragmented frame. With a `mask`, the caller masks the payload that follows.
pub fn write_header(out: &mut Vec<u8>, opcode: Opcode, payload_len: usize, mask: Option<[u8; 4]>) {
    let (header, header_len) = header(opcode, payload_len, mask.is_some());
    out.extend_from_slice(&header[..header_len]);
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

/// Appends one whole frame; `payload` is copied, and masked on the way if there is a `mask`.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES_MAX);
    out.reserve(HEADER_BYTES_MAX + payload.len());
    write_header(out, opcode, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        mask::apply(&mut out[start..], mask, 0);
    }
}

/// Appends a close frame. A `reason` that does not fit into a control frame is cut at a character's border.
pub fn write_close(out: &mut Vec<u8>, code: CloseCode, reason: &str, mask: Option<[u8; 4]>) {
    debug_assert!(code.is_sendable(), "{code} may not stand in a close frame");
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.0.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    write_frame(out, Opcode::Close, &payload[..2 + reason.len()], mask);
}

/// The header without the mask's four bytes, and its length (2, 4 or 10).
pub(super) fn header(opcode: Opcode, payload_len: usize, masked: bool) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = 0x80 | opcode.bits();
    let mask_bit = u8::from(masked) << 7;
    match payload_len {
        0..126 => {
            header[1] = mask_bit | payload_len as u8;
            (header, 2)
        }
        126..0x1_0000 => {
            header[1] = mask_bit | 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = mask_bit | 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            (header, 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[test]
    fn the_examples_of_rfc_6455_are_written_byte_for_byte() {
        let mut out = Vec::new();
        write_frame(&mut out, Opcode::Text, b"Hello", None);
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        write_frame(&mut out, Opcode::Text, b"Hello", Some(MASK));
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        out.clear();
        write_header(&mut out, Opcode::Binary, 256, None);
        assert_eq!(out, [0x82, 0x7e, 0x01, 0x00]);
        out.clear();
        write_header(&mut out, Opcode::Binary, 65536, None);
        assert_eq!(out, [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_written_header_is_read_back_at_every_border_of_the_length_forms() {
        for payload_len in [0, 1, 125, 126, 127, 65535, 65536, 1 << 32] {
            for mask in [None, Some(MASK)] {
                let mut out = Vec::new();
                write_header(&mut out, Opcode::Binary, payload_len, mask);
                let header = FrameHeader { fin: true, opcode: Opcode::Binary, mask, payload_len: payload_len as u64 };
                assert_eq!(parse_header(&out), Ok(Some((header, out.len()))));
                for cut in 0..out.len() {
                    assert_eq!(parse_header(&out[..cut]), Ok(None), "{payload_len} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn two_bytes_are_enough_to_refuse_a_header() {
        assert_eq!(parse_header(&[0xc1, 0]), Err(FrameError::ReservedBits { bits: 0x40 }));
        assert_eq!(parse_header(&[0x83, 0]), Err(FrameError::UnknownOpcode { opcode: 3 }));
        assert_eq!(parse_header(&[0x8f, 0]), Err(FrameError::UnknownOpcode { opcode: 15 }));
        assert_eq!(parse_header(&[0x09, 0]), Err(FrameError::FragmentedControl { opcode: Opcode::Ping }));
        assert_eq!(parse_header(&[0x88, 126]), Err(FrameError::LongControl { opcode: Opcode::Close }));
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        write_close(&mut out, CloseCode::UNKNOWN_ERROR, &"ä".repeat(100), None);
        assert_eq!(out[..4], [0x88, 124, 0x0f, 0xa0]);
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "ä".repeat(61));
    }

    #[test]
    fn a_client_over_its_limit_hears_what_discord_would_say() {
        let too_big = |role| FrameError::TooBig { claimed: 5000, limit: 4096, role };
        assert_eq!(too_big(Role::Server).close_code(), CloseCode::DECODE_ERROR);
        assert_eq!(too_big(Role::Client).close_code(), CloseCode(1009));
        assert_eq!(FrameError::Unmasked.close_code(), CloseCode(1002));
    }
}
