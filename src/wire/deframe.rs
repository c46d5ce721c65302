//! Frames to messages (RFC 6455 §5.4): joins fragments, unmasks, and hands control frames out in between.
//!
//! It answers no ping, echoes no close and checks no UTF-8: conversations do the first two, and whoever reads
//! the JSON does the third.
//!
//! Cost per message: a whole unmasked message that lies in the read is lent out of it, 0 copies. A masked one, or one
//! that a read's end cut, is copied once into the own buffer.
//!
//! And when it is full? A message over the limit is an error as soon as its header says so, before a byte of it is
//! stored; memory then grows with what arrives, not with what is claimed. Each fragment with content takes from that
//! limit; of empty ones [`EMPTY_FRAGMENTS_MAX`] are taken. Control frames have their own 125 bytes.

#![forbid(unsafe_code)]

use super::close::CloseCode;
use super::frame::{self, CONTROL_BYTES_MAX, FrameError, FrameHeader, HEADER_BYTES_MAX, Opcode, Role};
use super::mask;

/// Discord's messages have no useful upper bound; the largest reported is 5.6 MB.
pub const UPSTREAM_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Discord's limit for what a client sends. Source: Discord, Gateway › Sending events.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 4096;
/// Fragments without content in one message. They cost no memory, but a message that never ends helps nobody.
pub const EMPTY_FRAGMENTS_MAX: usize = 128;
/// A message buffer that grew beyond this is given back once its message has been read.
pub const KEPT_BYTES_MAX: usize = 16 << 10;
/// The most that a header's claim alone makes us reserve.
const RESERVED_BYTES_MAX: usize = 64 << 10;

/// One message. The bytes are valid until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Not checked to be UTF-8.
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// `reason` is not checked to be UTF-8.
    Close {
        code: Option<CloseCode>,
        reason: &'a [u8],
    },
}

/// Reads the frames of one connection, however they were cut into reads.
#[derive(Debug)]
pub struct Deframer {
    role: Role,
    message_bytes_max: usize,
    /// A header that the end of a read cut. 0 ≤ header_len < HEADER_BYTES_MAX
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The payload of a control frame, apart because it may come between two fragments.
    control: [u8; CONTROL_BYTES_MAX],
    control_len: u8,
    /// The data message so far. message.len() ≤ message_bytes_max
    message: Vec<u8>,
    /// The opcode of the data message that was begun and not yet handed out.
    message_opcode: Option<Opcode>,
    /// `message` was handed out by the last call, and is cleared by the next.
    lent: bool,
    empty_fragments: usize,
    failed: Option<FrameError>,
}

/// A frame under way. taken ≤ header.payload_len
#[derive(Clone, Copy, Debug)]
struct Frame {
    header: FrameHeader,
    taken: usize,
}

impl Frame {
    fn missing(&self) -> usize {
        // The claim was checked against a limit that is a `usize`.
        self.header.payload_len as usize - self.taken
    }
}

impl Deframer {
    /// `message_bytes_max` bounds the sum of one message's fragments. Allocates nothing.
    pub fn new(role: Role, message_bytes_max: usize) -> Self {
        Self {
            role,
            message_bytes_max,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            control: [0; CONTROL_BYTES_MAX],
            control_len: 0,
            message: Vec::new(),
            message_opcode: None,
            lent: false,
            empty_fragments: 0,
            failed: None,
        }
    }

    /// Takes the next message from the front of `input`.
    ///
    /// `None`: `input` has been consumed whole, and the message needs more. Call until then; only the call that
    /// follows a large message gives its buffer back.
    ///
    /// Errors are final: the same one comes back from every further call, and `input` is not read on.
    pub fn next<'m, 'i: 'm>(&'m mut self, input: &mut &'i [u8]) -> Result<Option<Message<'m>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.take_back();
        match self.advance(input) {
            Ok(None) => Ok(None),
            Ok(Some(Ready::Lent(opcode, payload))) => Ok(Some(data_message(opcode, payload))),
            Ok(Some(Ready::Joined(opcode))) => Ok(Some(data_message(opcode, &self.message))),
            Ok(Some(Ready::Control(opcode))) => match control_message(opcode, &self.control[..self.control_len.into()])
            {
                Ok(message) => Ok(Some(message)),
                Err(error) => {
                    self.failed = Some(error);
                    Err(error)
                }
            },
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// Bytes held on the heap, for accounting.
    pub fn held_bytes(&self) -> usize {
        self.message.capacity()
    }

    fn take_back(&mut self) {
        if !self.lent {
            return;
        }
        self.lent = false;
        if self.message.capacity() > KEPT_BYTES_MAX {
            self.message = Vec::new();
        } else {
            self.message.clear();
        }
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Ready<'i>>, FrameError> {
        loop {
            let mut frame = match self.frame {
                Some(frame) => frame,
                None => {
                    let Some(header) = self.take_header(input)? else { return Ok(None) };
                    if let Some(payload) = self.lendable(&header, input) {
                        return Ok(Some(Ready::Lent(header.opcode, payload)));
                    }
                    self.begin(&header)?;
                    Frame { header, taken: 0 }
                }
            };
            self.take_payload(&mut frame, input);
            if frame.missing() > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            self.frame = None;
            if frame.header.opcode.is_control() {
                return Ok(Some(Ready::Control(frame.header.opcode)));
            }
            if frame.header.fin {
                self.lent = true;
                self.empty_fragments = 0;
                let opcode = self.message_opcode.take().expect("`begin` set it, or refused the frame");
                return Ok(Some(Ready::Joined(opcode)));
            }
        }
    }

    /// The next header, checked against role and limit. What is there of a cut one is kept.
    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>, FrameError> {
        let header = if self.header_len == 0 {
            match frame::parse_header(input)? {
                Some((header, header_len)) => {
                    *input = &input[header_len..];
                    header
                }
                None => {
                    self.header[..input.len()].copy_from_slice(input);
                    self.header_len = input.len() as u8;
                    *input = &[];
                    return Ok(None);
                }
            }
        } else {
            let kept = usize::from(self.header_len);
            let more = input.len().min(HEADER_BYTES_MAX - kept);
            self.header[kept..kept + more].copy_from_slice(&input[..more]);
            match frame::parse_header(&self.header[..kept + more])? {
                Some((header, header_len)) => {
                    *input = &input[header_len - kept..];
                    self.header_len = 0;
                    header
                }
                None => {
                    self.header_len = (kept + more) as u8;
                    *input = &[];
                    return Ok(None);
                }
            }
        };
        self.check(&header)?;
        Ok(Some(header))
    }

    fn check(&self, header: &FrameHeader) -> Result<(), FrameError> {
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(FrameError::Unmasked),
            (Role::Client, Some(_)) => return Err(FrameError::Masked),
            _ => {}
        }
        if header.opcode.is_control() {
            return Ok(());
        }
        match (header.opcode, self.message_opcode) {
            (Opcode::Continuation, None) => return Err(FrameError::StrayContinuation),
            (Opcode::Continuation, Some(_)) | (_, None) => {}
            (opcode, Some(_)) => return Err(FrameError::UnfinishedMessage { opcode }),
        }
        let claimed = header.payload_len.saturating_add(self.message.len() as u64);
        if claimed > self.message_bytes_max as u64 {
            return Err(FrameError::TooBig { claimed, limit: self.message_bytes_max, role: self.role });
        }
        Ok(())
    }

    /// The payload, if it is a whole message that lies in `input` as it should be read.
    fn lendable<'i>(&self, header: &FrameHeader, input: &mut &'i [u8]) -> Option<&'i [u8]> {
        let whole = header.fin && header.mask.is_none() && matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if !whole {
            return None;
        }
        let (payload, rest) = input.split_at_checked(header.payload_len as usize)?;
        *input = rest;
        Some(payload)
    }

    fn begin(&mut self, header: &FrameHeader) -> Result<(), FrameError> {
        if header.opcode.is_control() {
            self.control_len = 0;
            return Ok(());
        }
        if header.opcode != Opcode::Continuation {
            self.message_opcode = Some(header.opcode);
        }
        if header.payload_len == 0 && !header.fin {
            self.empty_fragments += 1;
            if self.empty_fragments > EMPTY_FRAGMENTS_MAX {
                return Err(FrameError::EmptyFragments { limit: EMPTY_FRAGMENTS_MAX });
            }
        }
        self.message.reserve((header.payload_len as usize).min(RESERVED_BYTES_MAX));
        Ok(())
    }

    /// Moves what `input` has of the frame's payload into the own buffer.
    fn take_payload(&mut self, frame: &mut Frame, input: &mut &[u8]) {
        let (piece, rest) = input.split_at(frame.missing().min(input.len()));
        *input = rest;
        let stored = if frame.header.opcode.is_control() {
            let start = usize::from(self.control_len);
            self.control_len += piece.len() as u8;
            let stored = &mut self.control[start..start + piece.len()];
            stored.copy_from_slice(piece);
            stored
        } else {
            let start = self.message.len();
            self.message.extend_from_slice(piece);
            &mut self.message[start..]
        };
        if let Some(mask) = frame.header.mask {
            mask::apply(stored, mask, frame.taken);
        }
        frame.taken += piece.len();
        debug_assert!(self.message.len() <= self.message_bytes_max);
    }
}

/// Where the finished message lies.
enum Ready<'i> {
    Lent(Opcode, &'i [u8]),
    Joined(Opcode),
    Control(Opcode),
}

fn data_message(opcode: Opcode, payload: &[u8]) -> Message<'_> {
    if opcode == Opcode::Text { Message::Text(payload) } else { Message::Binary(payload) }
}

fn control_message(opcode: Opcode, payload: &[u8]) -> Result<Message<'_>, FrameError> {
    match (opcode, payload) {
        (Opcode::Ping, _) => Ok(Message::Ping(payload)),
        (Opcode::Pong, _) => Ok(Message::Pong(payload)),
        (_, []) => Ok(Message::Close { code: None, reason: &[] }),
        (_, [_]) => Err(FrameError::CutCloseCode),
        (_, &[high, low, ref reason @ ..]) => {
            let code = CloseCode(u16::from_be_bytes([high, low]));
            if code.is_sendable() {
                Ok(Message::Close { code: Some(code), reason })
            } else {
                Err(FrameError::InvalidCloseCode { code: code.0 })
            }
        }
    }
}

#[cfg(test)]
mod tests;
