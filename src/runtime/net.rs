//! The one small interface through which a core reaches the kernel's sockets.
//!
//! A turn of the core is: `turn` (flush every dirty outbox, sleep until something happens or the deadline), then `next` until
//! it yields `None`, then the state machines fill outboxes through `queue`. The backend owns the outboxes, so bytes stay
//! where they are until the kernel has taken them. What both backends do alike is in `table`; what they do differently, in
//! `uring` and `epoll`. No byte is looked at here, and no connection is judged: when to stop reading, how much may be pending
//! and how long a connect may take is the caller's to say.
//!
//! Per message that wakes a sleeping core: the ring enters the kernel once in all; epoll waits, receives and sends.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::chunk::Chunk;

/// A socket inside one backend: its slot and, in the upper bits, which of the sockets that lived there. A backend never means
/// two sockets by one token, so a late completion or a late call for a closed one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The lower bits of a token that are its slot.
pub const SLOT_BITS: u32 = 24;
/// `Accepted` events of one turn; the rest waits, and the connections that there are are served in between.
pub const ACCEPTS_MAX: usize = 64;

impl Token {
    /// Where it lives: small, dense, reused under another token.
    pub fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> SLOT_BITS) as u32
    }
}

/// Bytes of one kind of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    pub received: u64,
    /// Taken by the kernel.
    pub sent: u64,
}

/// Bytes as they went over the sockets, since the backend began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Of connections that `connect` began.
    pub connected: Bytes,
    /// Of those that were added.
    pub added: Bytes,
}

/// What happened during a turn.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted from a listener. Non-blocking, TCP_NODELAY set, not yet added.
    Accepted(OwnedFd),
    /// The connection begun by `connect` is open; reading has begun.
    Connected(Token),
    /// Bytes arrived: one or more. Drop the chunk before the next turn: it is a receive buffer.
    Read(Token, Chunk),
    /// The outbox ran empty after having been held up by a full socket buffer, or after `await_drained`.
    Drained(Token),
    /// The other side closed, the connect failed, or the connection broke; everything that had arrived before was
    /// reported. The token is dead when this arrives and the socket is closed; unsent bytes are gone. `None`: orderly end of
    /// stream.
    Closed(Token, Option<io::Error>),
    /// Answer to `release`: what was received was reported before this, what was not is still in the socket; the bytes
    /// are those not sent yet. The token is dead.
    Released(Token, OwnedFd, Vec<u8>),
    /// Somebody wrote to the mailbox's eventfd.
    Mail,
}

/// Sockets of one core. One implementation per backend: `uring::Ring` and `epoll::Epoll`. Made and used on one thread.
///
/// Limits: sockets by the process's open-file limit, where `add` and `connect` err, and accepting pauses for
/// `table::ACCEPT_PAUSE` (one warning in the log; the kernel's backlog holds those who wait). Received bytes by the backend's
/// buffers: when all are out, the sockets wait and TCP slows their senders. Outboxes by the caller, who asks `pending`.
pub trait Net: Sized {
    /// Accept from a listening non-blocking socket, and from those that were given before, until `stop_listening` or
    /// `leave_listeners`.
    fn listen(&mut self, socket: OwnedFd) -> io::Result<()>;
    /// Close the listeners, whoever holds duplicates of them: new connections are refused from now on. No `Accepted` follows;
    /// connections that wait in the backlog are reset.
    fn stop_listening(&mut self);
    /// Accept no more, and leave the listeners as they are to whoever holds duplicates: connections wait in the backlog. For those
    /// that the kernel has accepted already `Accepted` still follows; `len` counts a listener until that is certain to be over.
    fn leave_listeners(&mut self);
    /// Begin a TCP connection (TCP_NODELAY set); `Connected` or `Closed` follows, however late: a limit in time is
    /// the caller's, with `close`. Bytes may be queued at once. Errs only when there is no socket to be had.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Token>;
    /// Take an open, non-blocking stream socket and begin reading.
    fn add(&mut self, socket: OwnedFd) -> io::Result<Token>;
    /// The outbox of `token`: append to it, and change nothing that is in it; the next `turn` sends it with one send. Marks it
    /// dirty. An empty scratch for a token that is not known any more.
    fn queue(&mut self, token: Token) -> &mut Vec<u8>;
    /// Bytes in the outbox that the kernel has not taken yet; 0 for a token that is not known any more.
    fn pending(&self, token: Token) -> usize;
    /// Report `Drained` once when the outbox, which is not empty now, has run empty: also when the kernel takes it all at once.
    fn await_drained(&mut self, token: Token);
    /// Stop or resume reading (back-pressure); events already collected are still reported. While reading is stopped, an
    /// end of stream is not seen, and a broken connection only when something is sent: then bytes not read yet are gone.
    fn set_reading(&mut self, token: Token, reading: bool);
    /// Close after the outbox is flushed (half-close, then full close on the peer's end of stream or after `linger`), or at once when
    /// `linger` is zero or the connection is not open yet. No further event for this token reaches the caller, not even
    /// `Closed`, and what the peer still sends is thrown away.
    fn close(&mut self, token: Token, linger: Duration);
    /// Take the socket out of this backend, to hand it to another core; `Released` follows, or `Closed` when that had happened
    /// already. Nothing more is sent. For an open connection only: one that is still connecting stays.
    fn release(&mut self, token: Token);
    /// Watch an eventfd; each time it was written, `Mail` is reported and it is drained. Once per backend.
    fn watch_mailbox(&mut self, eventfd: OwnedFd) -> io::Result<()>;
    /// Flush all dirty outboxes, then sleep until an event or until `timeout` has passed (`None`: forever). May wake without
    /// events; EINTR is one reason. An error is the backend's end: drop it.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()>;
    /// From now on a turn that sleeps does so for `time`, until its timeout, or until there are many events, whichever comes
    /// first: fewer and fuller turns. Zero, as in the beginning: it wakes for every event.
    fn gather(&mut self, time: Duration);
    /// The next event of this turn.
    fn next(&mut self) -> Option<Event>;
    /// Sockets in this backend: also those that linger or whose `Closed` was not taken yet; listeners are not counted, but those
    /// that are being left.
    fn len(&self) -> usize;
    /// What has gone over the sockets.
    fn traffic(&self) -> Traffic;
    /// Whether there is no socket.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Event {
    /// The socket it is about.
    pub fn token(&self) -> Option<Token> {
        match self {
            Self::Accepted(_) | Self::Mail => None,
            Self::Connected(token)
            | Self::Read(token, _)
            | Self::Drained(token)
            | Self::Closed(token, _)
            | Self::Released(token, _, _) => Some(*token),
        }
    }
}

#[cfg(test)]
mod tests;
