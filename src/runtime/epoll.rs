//! `Net` over epoll: for kernels too old for the ring, and for containers whose seccomp profile forbids io_uring.
//!
//! Level-triggered: a socket with more bytes than one receive takes is simply reported again by the next turn. So each
//! readable socket gets one receive per turn, whatever the others do, and the receive that would only say "nothing more" is
//! never made; edge-triggered would need both a ready list of its own and that last receive. The price is one epoll_ctl when
//! a socket blocks or reading is paused, which is rare.
//!
//! Receiving happens in `next`, one socket at a time, so one buffer serves all of them while it is warm.
//! A paused socket is taken out of epoll altogether: EPOLLHUP cannot be masked and would be reported without end.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::chunk::{Chunk, Pool};
use super::net::{ACCEPTS_MAX, Event, Net, Token, Traffic};
use super::sys;
use super::table::{Phase, Table};

/// Sockets reported per turn. The kernel goes round: those left out come first in the next turn.
const EVENTS_MAX: usize = 512;

/// Not tokens: a generation comes nowhere near.
const MAILBOX: u64 = u64::MAX;
/// And the number of the listener.
const LISTENERS: u64 = 1 << 63;

const READABLE: u32 = libc::EPOLLIN as u32;
const WRITABLE: u32 = libc::EPOLLOUT as u32;
const BROKEN: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// What epoll has been told about a socket; 0: nothing, it is not registered.
#[derive(Default)]
struct Interest(u32);

/// The epoll backend.
pub struct Epoll {
    epoll: OwnedFd,
    table: Table<Interest>,
    listeners: Vec<OwnedFd>,
    /// So many of them, the first ones, are registered with epoll.
    watched: usize,
    mailbox: Option<OwnedFd>,
    ready: Vec<libc::epoll_event>,
    /// Sockets with bytes, as this turn found them; `next` receives from them.
    readable: VecDeque<Token>,
    pool: Rc<Pool>,
    gathering: Duration,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: sys::epoll()?,
            table: Table::new(),
            listeners: Vec::new(),
            watched: 0,
            mailbox: None,
            ready: Vec::with_capacity(EVENTS_MAX),
            readable: VecDeque::with_capacity(EVENTS_MAX),
            pool: Rc::default(),
            gathering: Duration::ZERO,
        })
    }

    /// Sends what can be sent, and tells epoll what the socket waits for from now on.
    fn prepare(&mut self, token: Token) {
        let Some(socket) = self.table.get(token) else { return };
        if socket.wants_send() && !socket.waiting {
            let offered = socket.outbox.pending();
            let sent = sys::send(socket.fd.as_fd(), socket.outbox.unsent());
            self.table.on_sent(token, offered, sent);
        }
        if self.table.get(token).is_some_and(|it| it.phase == Phase::Releasing) {
            self.table.on_released(token);
        }
        self.watch(token);
    }

    fn watch(&mut self, token: Token) {
        let Some(socket) = self.table.get_mut(token) else { return };
        let wanted = match socket.phase {
            Phase::Connecting => WRITABLE,
            _ => {
                let read = if socket.wants_read() { READABLE } else { 0 };
                let write = if socket.wants_send() && socket.waiting { WRITABLE } else { 0 };
                read | write
            }
        };
        let told = socket.kernel.0;
        if wanted == told {
            return;
        }
        let operation = match (told, wanted) {
            (0, _) => libc::EPOLL_CTL_ADD,
            (_, 0) => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        match sys::epoll_control(self.epoll.as_fd(), operation, socket.fd.as_fd(), wanted, token.0) {
            Ok(()) => socket.kernel.0 = wanted,
            // Out of memory or of watches: a socket that would never be heard of again is closed instead. (The only sockets that are
            // not the caller's ask for less here, which does not fail.)
            Err(error) => self.table.on_end(token, Some(error)),
        }
    }

    /// Receives once from a socket.
    fn receive(&mut self, token: Token) {
        let Some(socket) = self.table.get(token).filter(|it| it.wants_read()) else { return };
        let mut buffer = self.pool.take();
        match sys::receive(socket.fd.as_fd(), &mut buffer) {
            Ok(0) => {
                self.pool.give_back(buffer);
                self.table.on_end(token, None);
            }
            Ok(len) => self.table.on_bytes(token, Chunk::pooled(&self.pool, buffer, len)),
            Err(error) => {
                self.pool.give_back(buffer);
                // After these two epoll reports the socket again.
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    self.table.on_end(token, Some(error));
                }
            }
        }
    }

    fn accept(&mut self, number: usize) {
        // One of the same turn may have made accepting rest.
        let Some(listener) = self.listeners[..self.watched].get(number) else { return };
        for _ in 0..ACCEPTS_MAX {
            match sys::accept(listener.as_fd()) {
                Ok(socket) => self.table.push(Event::Accepted(socket)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It went away between its arrival and now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ignore_listeners();
                    self.table.pause_accepting(&error);
                    break;
                }
            }
        }
    }

    fn on_ready(&mut self, data: u64, events: u32) {
        match data {
            MAILBOX => {
                if self.mailbox.as_ref().is_some_and(|it| sys::eventfd_drain(it.as_fd())) {
                    self.table.push(Event::Mail);
                }
                return;
            }
            LISTENERS.. => return self.accept((data - LISTENERS) as usize),
            _ => {}
        }
        let token = Token(data);
        let Some(socket) = self.table.get(token) else { return };
        if socket.phase == Phase::Connecting {
            return self.table.on_connect(token);
        }
        if socket.wants_read() && events & (READABLE | BROKEN) != 0 {
            self.readable.push_back(token);
        }
        if socket.waiting && events & (WRITABLE | BROKEN) != 0 {
            self.table.on_writable(token);
        }
    }

    /// Has epoll report the listeners, unless accepting rests.
    fn watch_listeners(&mut self) -> io::Result<()> {
        if self.table.accepting_rests() {
            return Ok(());
        }
        while let Some(listener) = self.listeners.get(self.watched) {
            let data = LISTENERS + self.watched as u64;
            sys::epoll_control(self.epoll.as_fd(), libc::EPOLL_CTL_ADD, listener.as_fd(), READABLE, data)?;
            self.watched += 1;
        }
        Ok(())
    }

    /// Closing alone would not do: epoll goes on reporting a socket of which there are duplicates.
    fn ignore_listeners(&mut self) {
        for listener in &self.listeners[..self.watched] {
            // Fails for what is not registered only.
            let _ = sys::epoll_control(self.epoll.as_fd(), libc::EPOLL_CTL_DEL, listener.as_fd(), 0, 0);
        }
        self.watched = 0;
    }
}

impl Net for Epoll {
    fn listen(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.listeners.push(socket);
        self.watch_listeners()
    }

    fn stop_listening(&mut self) {
        self.ignore_listeners();
        for listener in self.listeners.drain(..) {
            // Whoever holds a duplicate must not keep the port open. It cannot fail for a listener.
            let _ = sys::shutdown(listener.as_fd(), Shutdown::Read);
        }
        self.table.forget_accepted();
    }

    fn leave_listeners(&mut self) {
        self.ignore_listeners();
        self.listeners.clear();
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
        sys::epoll_control(self.epoll.as_fd(), libc::EPOLL_CTL_ADD, eventfd.as_fd(), READABLE, MAILBOX)?;
        self.mailbox = Some(eventfd);
        Ok(())
    }

    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.table.expire();
        self.watch_listeners()?;
        // What was not taken is still readable, and level-triggered says so again.
        self.readable.clear();
        for _ in 0..self.table.dirty_len() {
            if let Some(token) = self.table.take_dirty() {
                self.prepare(token);
            }
        }
        let mut rest = self.table.rest(timeout);
        if !self.gathering.is_zero() && rest != Some(Duration::ZERO) {
            std::thread::sleep(rest.map_or(self.gathering, |it| it.min(self.gathering)));
            rest = Some(Duration::ZERO);
        }
        let mut ready = std::mem::take(&mut self.ready);
        match sys::epoll_wait(self.epoll.as_fd(), &mut ready, rest) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in ready.drain(..) {
            self.on_ready(event.u64, event.events);
        }
        self.ready = ready;
        Ok(())
    }

    fn gather(&mut self, time: Duration) {
        self.gathering = time;
    }

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.table.next_event() {
                return Some(event);
            }
            let token = self.readable.pop_front()?;
            self.receive(token);
        }
    }

    fn traffic(&self) -> Traffic {
        self.table.traffic()
    }

    fn len(&self) -> usize {
        self.table.len()
    }
}
