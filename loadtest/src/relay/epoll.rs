//! The relay over epoll: wait, receive, send. Nothing is queued unless a socket is full.
//!
//! Level-triggered, one receive per socket and turn, so that nobody is starved. A socket from which nothing is wanted is taken out of the
//! set: one whose both sides have ended would be reported for ever.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{PENDING_BYTES_MAX, Pair};

/// Events of one turn; the others come with the next.
const EVENTS_MAX: usize = 512;
const READ_BYTES: usize = 64 * 1024;

/// One side of a pair; the other one is at the index with the lowest bit flipped.
struct Socket {
    tcp: TcpStream,
    /// What could not be written to it at once. At most `READ_BYTES` over the limit.
    pending: Vec<u8>,
    read_ended: bool,
    write_ended: bool,
    /// What it is registered for; 0 when it is not.
    interest: u32,
}

struct Relay {
    epoll: OwnedFd,
    /// `None` when the pair has ended.
    sockets: Vec<Option<Socket>>,
    scratch: Vec<u8>,
}

/// Relays until every pair has ended. Errs when epoll fails.
pub fn run(pairs: Vec<Pair>) -> io::Result<()> {
    let mut left = pairs.len();
    let mut relay = Relay { epoll: create()?, sockets: Vec::new(), scratch: vec![0; READ_BYTES] };
    for tcp in pairs.into_iter().flat_map(|it| [it.client, it.upstream]) {
        relay.sockets.push(Some(Socket {
            tcp,
            pending: Vec::new(),
            read_ended: false,
            write_ended: false,
            interest: 0,
        }));
    }
    for at in 0..relay.sockets.len() {
        relay.register(at)?;
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
    while left > 0 {
        for event in wait(&relay.epoll, &mut events)? {
            let (at, what) = (event.u64 as usize, event.events);
            if relay.sockets[at].is_none() {
                continue;
            }
            if relay.on_event(at, what).is_err() || relay.has_ended(at) {
                relay.sockets[at] = None;
                relay.sockets[at ^ 1] = None;
                left -= 1;
                continue;
            }
            relay.register(at)?;
            relay.register(at ^ 1)?;
        }
    }
    Ok(())
}

impl Relay {
    /// Errs when the connection is broken.
    fn on_event(&mut self, at: usize, what: u32) -> io::Result<()> {
        let Self { sockets, scratch, .. } = self;
        let (Some(socket), Some(peer)) = pair(sockets, at) else { return Ok(()) };
        if what & libc::EPOLLOUT as u32 != 0 {
            let len = write_some(&mut socket.tcp, &socket.pending)?;
            socket.pending.drain(..len);
            socket.end_write_after(peer.read_ended);
        }
        let can_read = what & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP) as u32 != 0;
        if !can_read || socket.read_ended || peer.pending.len() > PENDING_BYTES_MAX {
            return Ok(());
        }
        let len = match socket.tcp.read(scratch) {
            Ok(len) => len,
            Err(error) if is_passing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if len == 0 {
            socket.read_ended = true;
            peer.end_write_after(true);
            return Ok(());
        }
        let bytes = &scratch[..len];
        let written = if peer.pending.is_empty() { write_some(&mut peer.tcp, bytes)? } else { 0 };
        peer.pending.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn has_ended(&self, at: usize) -> bool {
        [at, at ^ 1].into_iter().all(|it| self.sockets[it].as_ref().is_none_or(|it| it.write_ended))
    }

    /// Registers the socket for what is wanted of it now.
    fn register(&mut self, at: usize) -> io::Result<()> {
        let (Some(socket), Some(peer)) = pair(&mut self.sockets, at) else { return Ok(()) };
        let wants_read = !socket.read_ended && peer.pending.len() <= PENDING_BYTES_MAX;
        let mut interest = if wants_read { libc::EPOLLIN as u32 } else { 0 };
        if !socket.pending.is_empty() {
            interest |= libc::EPOLLOUT as u32;
        }
        if interest == socket.interest {
            return Ok(());
        }
        let operation = match (socket.interest, interest) {
            (0, _) => libc::EPOLL_CTL_ADD,
            (_, 0) => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        socket.interest = interest;
        let mut event = libc::epoll_event { events: interest, u64: at as u64 };
        // SAFETY: both descriptors are open, since their owners are borrowed, and `event` is a valid value that the kernel copies.
        let done = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, socket.tcp.as_raw_fd(), &mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Socket {
    /// Ends this side's stream when the other side's has ended and nothing of it is left.
    fn end_write_after(&mut self, has_all: bool) {
        if has_all && self.pending.is_empty() && !self.write_ended {
            self.write_ended = true;
            // It fails when the connection is gone already, which the next read says.
            self.tcp.shutdown(Shutdown::Write).ok();
        }
    }
}

/// The socket at `at`, and the other one of its pair.
fn pair(sockets: &mut [Option<Socket>], at: usize) -> (Option<&mut Socket>, Option<&mut Socket>) {
    let (left, right) = sockets[at & !1..].split_at_mut(1);
    let (left, right) = (left[0].as_mut(), right[0].as_mut());
    if at & 1 == 0 { (left, right) } else { (right, left) }
}

/// Writes what the socket takes now; 0 when it takes nothing.
fn write_some(tcp: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match tcp.write(bytes) {
        Err(error) if is_passing(&error) => Ok(0),
        other => other,
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes an integer and touches no memory of ours; a descriptor that it returns is new and nobody else's.
    unsafe {
        match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sleeps until something happens.
fn wait<'a>(epoll: &OwnedFd, events: &'a mut [libc::epoll_event]) -> io::Result<&'a [libc::epoll_event]> {
    // SAFETY: the kernel writes at most `events.len()` entries into memory that is borrowed for the call.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
    match usize::try_from(count) {
        Ok(count) => Ok(&events[..count]),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(&[]),
            error => Err(error),
        },
    }
}
