//! One client's connection: the HTTP request, then frames to messages, and what is told to the client outside of dispatches.
//!
//! A plain value without a socket, so that it can be mailed to the core of the shard that the client names.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::session::client::{Conversation, HEARTBEAT_INTERVAL};
use crate::session::payload::{Identify, Resume};
use crate::shard::seat::SeatKey;
use crate::wire::deframe::{CLIENT_MESSAGE_BYTES_MAX, Deframer};
use crate::wire::encode::Encoder;
use crate::wire::{CloseCode, Compression, Role, frame};

/// Bytes that may wait in a client's outbox. When it is full the client's cursor stays where it is.
pub const OUTBOX_BYTES_MAX: usize = 256 * 1024;

/// Bytes that may arrive while a client is on its way to another core; a client that sends more is closed with 4002.
pub const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// What names a shard.
#[derive(Debug)]
pub enum Request {
    Identify(Identify),
    Resume(Resume),
}

/// Where a client's connection stands.
#[derive(Debug)]
pub enum Phase {
    /// The HTTP request, as far as it has come.
    Http(Vec<u8>),
    /// A WebSocket, HELLO is sent.
    Open,
    /// It named a shard of another core; these bytes have arrived since.
    Moving { request: Request, to_core: usize, unread: Vec<u8> },
    /// An HTTP request for the control thread.
    Page(crate::wire::http::PlainRequest),
}

/// A seat at one of this core's shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seated {
    /// Index of the shard on this core.
    pub shard: usize,
    pub key: SeatKey,
}

/// When an outbox was found full, and how much was in it.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    pub since: Instant,
    pub pending: usize,
}

pub struct Client {
    pub phase: Phase,
    /// The upgrade must be done by then.
    pub handshake_due: Instant,
    pub deframer: Deframer,
    pub encoder: Encoder,
    pub conversation: Conversation,
    pub seated: Option<Seated>,
    pub blocked: Option<Blocked>,
    /// Its snapshot goes on in one of the next turns.
    pub in_line: bool,
    /// The earliest timer that is set for it.
    pub armed: Option<Instant>,
}

/// A client between two cores.
pub struct HandOver {
    pub socket: OwnedFd,
    pub client: Client,
    pub request: Request,
    /// Received behind the request, not looked at yet.
    pub unread: Vec<u8>,
    /// Written and not sent yet.
    pub unsent: Vec<u8>,
}

impl Client {
    /// `handshake` is how long the upgrade may take.
    pub fn new(now: Instant, handshake: Duration) -> Self {
        Self {
            phase: Phase::Http(Vec::new()),
            handshake_due: now + handshake,
            deframer: Deframer::new(Role::Server, CLIENT_MESSAGE_BYTES_MAX),
            encoder: Encoder::new(Compression::None),
            conversation: Conversation::new(now),
            seated: None,
            blocked: None,
            in_line: false,
            armed: None,
        }
    }

    /// When silence ends the connection.
    pub fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Http(_) | Phase::Page(_) => Some(self.handshake_due),
            Phase::Open | Phase::Moving { .. } => self.conversation.due(),
        }
    }

    /// The upgrade is answered: from here on everything goes through the encoder, HELLO first.
    pub fn open(&mut self, compression: Compression, out: &mut Vec<u8>) {
        self.encoder = Encoder::new(compression);
        self.phase = Phase::Open;
        let mut digits = itoa::Buffer::new();
        let interval = digits.format(HEARTBEAT_INTERVAL.as_millis() as u64).as_bytes();
        let head = br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":"#;
        self.encoder.write(&[head, interval, br#","_trace":["shardgate"]}}"#], out);
    }

    pub fn acknowledge(&mut self, out: &mut Vec<u8>) {
        self.encoder.write(&[br#"{"t":null,"s":null,"op":11,"d":null}"#], out);
    }

    pub fn tell_invalid_session(&mut self, out: &mut Vec<u8>) {
        self.encoder.write(&[br#"{"t":null,"s":null,"op":9,"d":false}"#], out);
    }

    pub fn say_goodbye(code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        frame::write_close(out, code, reason, None);
    }
}
