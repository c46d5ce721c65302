//! The one small interface through which a core reaches the kernel's sockets, and what its two backends share.
//!
//! A turn of the core is: `turn` (flush every dirty outbox, sleep until something happens or the deadline), then
//! `next` until it yields `None`, then the state machines fill outboxes through `queue`. The backend owns the
//! outboxes, so bytes stay where they are until the kernel has taken them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::chunk::Chunk;

/// A socket inside one backend. Never reused while an event for it may still be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What happened during a turn.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted from the listener. Non-blocking, TCP_NODELAY set, not yet added.
    Accepted(OwnedFd),
    /// The connection begun by `connect` is open; reading has begun.
    Connected(Token),
    /// Bytes arrived.
    Read(Token, Chunk),
    /// The outbox ran empty after having been held up by a full socket buffer.
    Drained(Token),
    /// The other side closed, the connect failed, or the connection broke. The token is dead when this arrives and the socket
    /// is closed; unsent bytes are gone. `None`: orderly end of stream.
    Closed(Token, Option<io::Error>),
    /// Answer to `release`: all bytes that had arrived were reported before this; these were not sent yet.
    Released(Token, OwnedFd, Vec<u8>),
    /// Somebody wrote to the mailbox's eventfd.
    Mail,
}

/// Sockets of one core. One implementation per backend: `uring::Ring` and `epoll::Epoll`.
pub trait Net: Sized {
    /// Accept from a listening non-blocking socket until `stop_listening`.
    fn listen(&mut self, socket: OwnedFd) -> io::Result<()>;
    /// Close the listener.
    fn stop_listening(&mut self);
    /// Begin a TCP connection (TCP_NODELAY set); `Connected` or `Closed` follows.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Token>;
    /// Take an open, non-blocking stream socket and begin reading.
    fn add(&mut self, socket: OwnedFd) -> io::Result<Token>;
    /// The outbox of `token`: append to it; the next `turn` sends it with one send. Marks it dirty. An empty scratch for a
    /// token that is not known any more.
    fn queue(&mut self, token: Token) -> &mut Vec<u8>;
    /// Bytes in the outbox that the kernel has not taken yet.
    fn pending(&self, token: Token) -> usize;
    /// Stop or resume reading (back-pressure); events already collected are still reported.
    fn set_reading(&mut self, token: Token, reading: bool);
    /// Close after the outbox is flushed (half-close, then full close on the peer's end of stream or after `linger`), or at once when
    /// `linger` is zero. No further event for this token reaches the caller, not even `Closed`.
    fn close(&mut self, token: Token, linger: Duration);
    /// Take the socket out of this backend, to hand it to another core; `Released` follows.
    fn release(&mut self, token: Token);
    /// Watch an eventfd; each time it was written, `Mail` is reported and it is drained.
    fn watch_mailbox(&mut self, eventfd: OwnedFd) -> io::Result<()>;
    /// Flush all dirty outboxes, then sleep until an event or until `timeout` has passed (`None`: forever).
    /// EINTR counts as a wake without events.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()>;
    /// The next event of this turn.
    fn next(&mut self) -> Option<Event>;
    /// Sockets in this backend, the listener not counted.
    fn len(&self) -> usize;
}
