//! One client's connection: the HTTP request, then frames to messages, and what is told to the client outside of dispatches.
//!
//! A plain value without a socket, so that it can be mailed to the core of the shard that the client names.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::client_tls::ClientTls;
use super::net::{Net, Token};
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
    /// For the log.
    pub peer: Option<SocketAddr>,
    /// `None` where clients speak without TLS.
    pub tls: Option<Box<ClientTls>>,
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
            peer: None,
            tls: None,
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

    /// Where to append what the client is to get: its outbox, or the buffer that TLS encrypts from at the end of the step.
    pub fn out<'a, N: Net>(&'a mut self, net: &'a mut N, token: Token) -> &'a mut Vec<u8> {
        self.encoder_and_out(net, token).1
    }

    /// The same, with the encoder that writes there.
    pub fn encoder_and_out<'a, N: Net>(
        &'a mut self,
        net: &'a mut N,
        token: Token,
    ) -> (&'a mut Encoder, &'a mut Vec<u8>) {
        let out = match &mut self.tls {
            Some(tls) => tls.out(),
            None => net.queue(token),
        };
        (&mut self.encoder, out)
    }

    /// Bytes on their way to the client that its socket has not taken.
    pub fn pending<N: Net>(&self, net: &N, token: Token) -> usize {
        net.pending(token) + self.tls.as_ref().map_or(0, |it| it.staged_len())
    }

    /// The upgrade is answered: from here on everything goes through the encoder, HELLO first.
    pub fn open<N: Net>(&mut self, compression: Compression, net: &mut N, token: Token) {
        self.encoder = Encoder::new(compression);
        self.phase = Phase::Open;
        let mut digits = itoa::Buffer::new();
        let interval = digits.format(HEARTBEAT_INTERVAL.as_millis() as u64).as_bytes();
        let head = br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":"#;
        let (encoder, out) = self.encoder_and_out(net, token);
        encoder.write(&[head, interval, br#","_trace":["shardgate"]}}"#], out);
    }

    pub fn acknowledge<N: Net>(&mut self, net: &mut N, token: Token) {
        let (encoder, out) = self.encoder_and_out(net, token);
        encoder.write(&[br#"{"t":null,"s":null,"op":11,"d":null}"#], out);
    }

    pub fn tell_invalid_session<N: Net>(&mut self, net: &mut N, token: Token) {
        let (encoder, out) = self.encoder_and_out(net, token);
        encoder.write(&[br#"{"t":null,"s":null,"op":9,"d":false}"#], out);
    }

    pub fn say_goodbye<N: Net>(&mut self, code: CloseCode, reason: &str, net: &mut N, token: Token) {
        frame::write_close(self.out(net, token), code, reason, None);
    }
}
