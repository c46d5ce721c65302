//! `Net` over an own io_uring: per turn one system call, which takes all sends, arms what must be armed, and sleeps.
//!
//! Receives and accepts are multishot: armed once, they answer for as long as the socket lives. A receive ends early when
//! all buffers are lent out; its socket then waits until a buffer is back, and TCP slows its sender meanwhile. Those that
//! went without come first then, and what a turn submits is served before what was armed earlier. So a flood does
//! not starve the others, although one socket may take 32 buffers in a row (the kernel's limit). In the order of their
//! receives instead, the first flood took all buffers each turn, and a quiet socket was heard once in thousands of turns.
//!
//! The unsafe parts are `queue` and `buffers`; what a socket's events mean is `table`.

pub mod buffers;
mod queue;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::chunk::Chunk;
use super::net::{ACCEPTS_MAX, Event, Net, Token, Traffic};
use super::sys;
use super::table::{Phase, Socket, Table};
use queue::{Completion, Op, Queue};

/// Receive buffers of a core, as the runtime makes its rings. With `BUFFER_BYTES`: 4 MiB per core, touched as they are used.
pub const BUFFERS: u16 = 256;

/// One receive buffer: most messages fit, a guild takes several.
pub const BUFFER_BYTES: u32 = 16 * 1024;

/// Requests per system call.
const SUBMISSIONS: u32 = 512;

/// Answers per system call.
const COMPLETIONS: u32 = 4096;

/// Answers that end a turn's gathering.
const GATHERED: u32 = 64;

/// Connections that the kernel has accepted and that wait for their turn: a whole backlog. One more is closed.
const ACCEPTED_MAX: usize = 4096;

/// System calls in one turn without reaching an empty queue; beyond, the ring counts as broken.
const ROUNDS_MAX: u32 = 10_000;

/// Requests under way for one socket, and what its send came to.
#[derive(Default)]
struct Flight {
    receiving: bool,
    cancelling_receive: bool,
    polling: bool,
    cancelling_poll: bool,
    /// The receive ended for want of buffers; the socket is in `Ring::hungry` or `Ring::fed`.
    starved: bool,
    /// It brought bytes since it was armed.
    fed: bool,
    /// The kernel's answer to this turn's send; none means that it took everything.
    sent: Option<io::Result<usize>>,
}

/// A socket that is accepted from, and its accept under way.
struct Listener {
    /// Which one this is: answers for an earlier one are refused.
    number: u64,
    fd: OwnedFd,
    accepting: bool,
    /// The accept is being ended; after its last answer the listener goes.
    leaving: bool,
    cancelling: bool,
}

/// The io_uring backend. Stays on the thread that made it.
pub struct Ring {
    /// Before `table`: it is dropped first, while the sockets are open.
    queue: Queue,
    table: Table<Flight>,
    /// Sockets that wait for a buffer and got none since they were armed, in that order. A socket is in one of the two, once.
    hungry: Vec<Token>,
    /// Those that got some.
    fed: Vec<Token>,
    listeners: Vec<Listener>,
    /// Connections that the kernel has accepted and the caller has not been told of.
    accepted: VecDeque<OwnedFd>,
    /// The number of the newest listener.
    listener_number: u64,
    mailbox: Option<OwnedFd>,
    polling_mail: bool,
    /// Something follows when a send of this turn takes everything. The kernel does not report that, so the turn does not sleep.
    hasty: bool,
    gathering: Duration,
    failed: bool,
}

impl Ring {
    /// A ring with `buffers` receive buffers (a power of two) of `buffer_bytes` each.
    ///
    /// Errs with `Unsupported` before Linux 6.1, and as io_uring_setup(2) does where io_uring is forbidden: making
    /// one is the probe.
    pub fn new(buffers: u16, buffer_bytes: u32) -> io::Result<Self> {
        Self::with_sizes(SUBMISSIONS, COMPLETIONS, buffers, buffer_bytes)
    }

    /// The same with a shared memory of other sizes, for the tests.
    pub(super) fn with_sizes(submissions: u32, completions: u32, buffers: u16, buffer_bytes: u32) -> io::Result<Self> {
        Ok(Self {
            queue: Queue::new(submissions, completions, buffers, buffer_bytes)?,
            table: Table::new(),
            hungry: Vec::new(),
            fed: Vec::new(),
            listeners: Vec::new(),
            accepted: VecDeque::new(),
            listener_number: 0,
            mailbox: None,
            polling_mail: false,
            hasty: false,
            gathering: Duration::ZERO,
            failed: false,
        })
    }

    /// Asks for everything that is wanted and not under way.
    fn prepare_all(&mut self) -> io::Result<()> {
        if self.queue.buffers_free() > 0 {
            let hungry = std::mem::take(&mut self.hungry);
            let fed = std::mem::take(&mut self.fed);
            for token in hungry.into_iter().chain(fed) {
                if let Some(socket) = self.table.get_mut(token) {
                    socket.kernel.starved = false;
                    self.prepare(token)?;
                }
            }
        }
        for _ in 0..self.table.dirty_len() {
            if let Some(token) = self.table.take_dirty() {
                self.prepare(token)?;
            }
        }
        for listener in &mut self.listeners {
            if listener.leaving && !listener.cancelling {
                listener.cancelling = true;
                self.queue.cancel_accept(listener.number)?;
            }
            if !listener.leaving && !listener.accepting && !self.table.accepting_rests() {
                listener.accepting = true;
                self.queue.accept(listener.number, listener.fd.as_fd())?;
            }
        }
        if let Some(mailbox) = &self.mailbox
            && !self.polling_mail
        {
            self.polling_mail = true;
            self.queue.poll_mail(mailbox.as_fd())?;
        }
        Ok(())
    }

    /// The one place that compares what a socket wants with what is under way for it.
    fn prepare(&mut self, token: Token) -> io::Result<()> {
        let Some(socket) = self.table.get_mut(token) else { return Ok(()) };
        let releasing = socket.phase == Phase::Releasing;
        let wants_read = socket.wants_read();
        let wants_send = socket.wants_send();
        let wants_poll = socket.phase == Phase::Connecting || (wants_send && socket.waiting);
        let waiting = socket.waiting;
        let awaited = socket.is_awaited();
        let fd = socket.fd.as_fd();
        let flight = &mut socket.kernel;

        if wants_read && !flight.receiving && !flight.starved {
            flight.receiving = true;
            flight.fed = false;
            self.queue.receive(token, fd)?;
        }
        if !wants_read && flight.receiving && !flight.cancelling_receive {
            flight.cancelling_receive = true;
            self.queue.cancel_receive(token)?;
        }
        if wants_poll && !flight.polling {
            flight.polling = true;
            self.queue.poll_writable(token, fd)?;
        }
        if releasing && flight.polling && !flight.cancelling_poll {
            flight.cancelling_poll = true;
            self.queue.cancel_poll_writable(token)?;
        }
        if wants_send && !waiting {
            self.hasty |= awaited;
            self.queue.send(token, fd, std::mem::take(&mut socket.outbox))?;
        }
        if releasing && !flight.receiving && !flight.polling {
            self.table.on_released(token);
        }
        Ok(())
    }

    /// Enters the kernel until it has consumed every request and has no answer left: once, as a rule.
    fn run(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let (mut rest, mut wanted) = (timeout, 1);
        if !self.gathering.is_zero() {
            rest = Some(timeout.map_or(self.gathering, |it| it.min(self.gathering)));
            wanted = GATHERED;
        }
        for _ in 0..ROUNDS_MAX {
            self.queue.enter(rest, wanted)?;
            while let Some(completion) = self.queue.next() {
                self.on_completion(completion);
            }
            if self.queue.is_settled() {
                return Ok(());
            }
            rest = Some(Duration::ZERO);
        }
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "the kernel does not take the requests"))
    }

    /// Gives the outboxes back to their sockets, and says what was sent.
    fn settle(&mut self) {
        for sent in self.queue.take_sent() {
            let Some(socket) = self.table.get_mut(sent.token) else { continue };
            let answer = socket.kernel.sent.take();
            if socket.phase == Phase::Ended {
                continue;
            }
            debug_assert_eq!(socket.outbox.pending(), 0, "nobody queues during a turn");
            socket.outbox = sent.outbox;
            self.table.on_sent(sent.token, sent.offered, answer.unwrap_or(Ok(sent.offered)));
            // What is left is sent, or waits for room, by the next turn.
            if self.table.get(sent.token).is_some_and(Socket::wants_send) {
                self.table.touch(sent.token);
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let token = completion.token;
        match completion.op {
            Op::Receive => self.on_receive(completion),
            Op::Send => {
                if let Some(socket) = self.table.get_mut(token) {
                    socket.kernel.sent = Some(completion.result);
                }
            }
            Op::PollWritable => {
                let Some(socket) = self.table.get_mut(token) else { return };
                socket.kernel.polling = false;
                socket.kernel.cancelling_poll = false;
                match socket.phase {
                    Phase::Connecting => self.table.on_connect(token),
                    _ => self.table.on_writable(token),
                }
            }
            // Only failures are reported: the request has just ended, or was at work, and is asked again if it still is.
            Op::CancelReceive => {
                if let Some(socket) = self.table.get_mut(token) {
                    socket.kernel.cancelling_receive = false;
                    self.table.touch(token);
                }
            }
            Op::CancelPollWritable => {
                if let Some(socket) = self.table.get_mut(token) {
                    socket.kernel.cancelling_poll = false;
                    self.table.touch(token);
                }
            }
            Op::Accept => self.on_accept(completion),
            Op::CancelAccept => {
                let number = token.0;
                if let Some(listener) = self.listeners.iter_mut().find(|it| it.number == number) {
                    listener.cancelling = false;
                    self.hasty = true;
                }
            }
            Op::PollMail => {
                self.polling_mail = completion.more;
                if self.mailbox.as_ref().is_some_and(|it| sys::eventfd_drain(it.as_fd())) {
                    self.table.push(Event::Mail);
                }
            }
        }
    }

    fn on_receive(&mut self, completion: Completion) {
        let token = completion.token;
        // For a socket that is gone: the buffer returns with the completion.
        let Some(socket) = self.table.get_mut(token) else { return };
        if !completion.more {
            socket.kernel.receiving = false;
            socket.kernel.cancelling_receive = false;
        }
        match (completion.result, completion.bytes) {
            (Ok(1..), Some(bytes)) => {
                socket.kernel.fed = true;
                self.table.on_bytes(token, Chunk::provided(bytes));
            }
            (Ok(_), _) => self.table.on_end(token, None),
            (Err(error), _) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => {
                    socket.kernel.starved = true;
                    let waiting = if socket.kernel.fed { &mut self.fed } else { &mut self.hungry };
                    waiting.push(token);
                }
                // Cancelled by us, or to be tried again.
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                _ => self.table.on_end(token, Some(error)),
            },
        }
        if !completion.more {
            self.table.touch(token);
        }
    }

    fn on_accept(&mut self, completion: Completion) {
        let Some(at) = self.listeners.iter().position(|it| Token(it.number) == completion.token) else { return };
        let listener = &mut self.listeners[at];
        listener.accepting = completion.more;
        if listener.leaving && !completion.more {
            self.listeners.swap_remove(at);
        }
        match (completion.accepted, completion.result) {
            (Some(socket), _) => {
                // One more is closed: whoever floods so is not waited for.
                if self.accepted.len() < ACCEPTED_MAX {
                    self.accepted.push_back(socket);
                }
            }
            (None, Err(error)) => match error.raw_os_error() {
                // The connection went away between its arrival and now, or the call was disturbed.
                Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN) => {}
                // By us: the listener is left.
                Some(libc::ECANCELED) => {}
                _ => self.table.pause_accepting(&error),
            },
            (None, Ok(_)) => {}
        }
    }

    fn try_turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.table.expire();
        self.prepare_all()?;
        let hasty = std::mem::take(&mut self.hasty);
        let rest = if hasty { Some(Duration::ZERO) } else { self.table.rest(timeout) };
        self.run(rest)?;
        self.settle();
        self.give_accepted();
        Ok(())
    }

    /// The kernel accepts a whole backlog at once. What is read meanwhile goes first.
    fn give_accepted(&mut self) {
        for socket in self.accepted.drain(..self.accepted.len().min(ACCEPTS_MAX)) {
            // It errs for a connection that is gone already, and that is found out by reading.
            let _ = sys::set_nodelay(socket.as_fd());
            self.table.push(Event::Accepted(socket));
        }
        self.hasty |= !self.accepted.is_empty();
    }
}

impl Net for Ring {
    fn listen(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.listener_number += 1;
        let number = self.listener_number;
        self.listeners.push(Listener { number, fd: socket, accepting: false, leaving: false, cancelling: false });
        Ok(())
    }

    fn stop_listening(&mut self) {
        for listener in self.listeners.extract_if(.., |it| !it.leaving) {
            // The accept under way holds the listener; this ends it, and the port is free at once. It cannot fail for a listener.
            let _ = sys::shutdown(listener.fd.as_fd(), Shutdown::Read);
        }
        self.table.forget_accepted();
        self.accepted.clear();
    }

    fn leave_listeners(&mut self) {
        self.listeners.retain(|it| it.accepting);
        for listener in &mut self.listeners {
            listener.leaving = true;
        }
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Token> {
        let (socket, begun) = sys::connect(address)?;
        let token = self.table.insert(socket, Phase::Connecting)?;
        if let Err(error) = begun {
            self.table.end(token, Some(error));
        }
        Ok(token)
    }

    fn add(&mut self, socket: OwnedFd) -> io::Result<Token> {
        self.table.insert(socket, Phase::Open)
    }

    fn queue(&mut self, token: Token) -> &mut Vec<u8> {
        self.table.queue(token)
    }

    fn pending(&self, token: Token) -> usize {
        self.table.pending(token)
    }

    fn await_drained(&mut self, token: Token) {
        self.table.await_drained(token);
    }

    fn set_reading(&mut self, token: Token, reading: bool) {
        self.table.set_reading(token, reading);
    }

    fn close(&mut self, token: Token, linger: Duration) {
        self.table.close(token, linger);
    }

    fn release(&mut self, token: Token) {
        self.table.release(token);
    }

    fn watch_mailbox(&mut self, eventfd: OwnedFd) -> io::Result<()> {
        if self.mailbox.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.mailbox = Some(eventfd);
        Ok(())
    }

    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // After an error outboxes may still be with the kernel, and what was queued since would go out before them.
        if self.failed {
            return Err(io::Error::other("the ring has failed before"));
        }
        let turned = self.try_turn(timeout);
        self.failed = turned.is_err();
        turned
    }

    fn gather(&mut self, time: Duration) {
        self.gathering = time;
    }

    fn next(&mut self) -> Option<Event> {
        self.table.next_event()
    }

    fn traffic(&self) -> Traffic {
        self.table.traffic()
    }

    fn len(&self) -> usize {
        self.table.len() + self.listeners.iter().filter(|it| it.leaving).count()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.accepted.is_empty()
    }
}
