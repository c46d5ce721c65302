//! The sockets of one backend, and the rules that both backends share: what a send, a receive or an end of stream means for
//! a socket, when it dies, and which events still reach the caller.
//!
//! It makes no system call on the event path (only shutdown(2), at the end of a socket) and does not know how bytes move: each backend asks what a socket wants (`wants_read`, `waiting`, `outbox`) and reports what came of it (`on_*`).
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::net::{Bytes, Event, SLOT_BITS, Token, Traffic};
use super::outbox::Outbox;
use super::{clock, sys};

/// How long accepting rests after it failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `connect` was called; writable means that the outcome is known.
    Connecting,
    Open,
    /// The caller wants the socket back; the backend is letting go of it.
    Releasing,
    /// The caller has closed it: flush, half-close, read to the end, until the deadline.
    Closing {
        deadline: Instant,
        half_closed: bool,
        peer_ended: bool,
    },
    /// Its last event waits in the queue.
    Ended,
}

/// One socket. `K` is what the backend keeps per socket.
pub struct Socket<K> {
    pub fd: OwnedFd,
    pub phase: Phase,
    pub outbox: Outbox,
    /// The kernel took less than was offered; nothing is sent until the socket is writable again.
    pub waiting: bool,
    pub kernel: K,
    /// What the caller wants.
    reading: bool,
    /// We began the connection.
    connected: bool,
    /// `Drained` is owed.
    held_up: bool,
    /// A send failed. The end is reported when what had arrived before has been read.
    broken: Option<io::Error>,
    dirty: bool,
}

impl<K> Socket<K> {
    /// Whether bytes should be received now.
    pub fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Open => self.reading,
            Phase::Closing { peer_ended, .. } => !peer_ended,
            Phase::Connecting | Phase::Releasing | Phase::Ended => false,
        }
    }

    /// Whether there is something that may be sent, now or when there is room.
    pub fn wants_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Closing { .. }) && self.outbox.pending() > 0
    }

    /// Whether an outbox that runs empty leads on: to `Drained`, or to the half-close of a closing socket.
    pub fn is_awaited(&self) -> bool {
        self.held_up || matches!(self.phase, Phase::Closing { .. })
    }

    /// The caller may still speak of it.
    fn is_callers(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Open | Phase::Releasing)
    }
}

struct Slot<K> {
    generation: u32,
    socket: Option<Socket<K>>,
}

enum Queued {
    Ready(Event),
    /// Becomes `Event::Released` when it is taken, with the outbox of that moment.
    Released(Token),
}

/// All sockets of one backend, and the events not taken yet.
///
/// Bounded by the sockets: `slots`, `free`, `dirty` (once per socket), `lingering` (once per socket). `events`: what one
/// turn brings, which the backends bound.
pub struct Table<K> {
    slots: Vec<Slot<K>>,
    free: Vec<u32>,
    dirty: VecDeque<Token>,
    events: VecDeque<Queued>,
    lingering: BTreeSet<(Instant, Token)>,
    /// Accepting failed and rests until then.
    accept_again: Option<Instant>,
    /// What `queue` lends for an unknown token.
    scratch: Vec<u8>,
    live: usize,
    traffic: Traffic,
}

impl<K: Default> Table<K> {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            dirty: VecDeque::new(),
            events: VecDeque::new(),
            lingering: BTreeSet::new(),
            accept_again: None,
            scratch: Vec::new(),
            live: 0,
            traffic: Traffic::default(),
        }
    }

    /// Takes a socket in, dirty. Errs beyond 2²⁴ sockets, far above any limit on open files.
    pub fn insert(&mut self, fd: OwnedFd, phase: Phase) -> io::Result<Token> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < 1 << SLOT_BITS => {
                self.slots.push(Slot { generation: 1, socket: None });
                (self.slots.len() - 1) as u32
            }
            None => return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many sockets in one core")),
        };
        let slot = &mut self.slots[index as usize];
        slot.socket = Some(Socket {
            fd,
            phase,
            outbox: Outbox::default(),
            waiting: false,
            kernel: K::default(),
            reading: true,
            connected: phase == Phase::Connecting,
            held_up: false,
            broken: None,
            dirty: false,
        });
        self.live += 1;
        let token = Token(u64::from(slot.generation) << SLOT_BITS | u64::from(index));
        self.touch(token);
        Ok(token)
    }

    /// `None` once the socket was removed.
    pub fn get(&self, token: Token) -> Option<&Socket<K>> {
        let slot = self.slots.get(token.slot())?;
        slot.socket.as_ref().filter(|_| slot.generation == token.generation())
    }

    pub fn get_mut(&mut self, token: Token) -> Option<&mut Socket<K>> {
        let slot = self.slots.get_mut(token.slot())?;
        slot.socket.as_mut().filter(|_| slot.generation == token.generation())
    }

    /// The backend should look at this socket when the next turn begins.
    pub fn touch(&mut self, token: Token) {
        if let Some(socket) = self.get_mut(token)
            && !socket.dirty
        {
            socket.dirty = true;
            self.dirty.push_back(token);
        }
    }

    /// How many `take_dirty` will yield before those that are touched meanwhile.
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// The next touched socket, which may be gone since.
    pub fn take_dirty(&mut self) -> Option<Token> {
        let token = self.dirty.pop_front()?;
        if let Some(socket) = self.get_mut(token) {
            socket.dirty = false;
        }
        Some(token)
    }

    pub fn len(&self) -> usize {
        self.live
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    // What the caller says.

    pub fn queue(&mut self, token: Token) -> &mut Vec<u8> {
        // Asked twice because a borrow that is returned on one path only cannot be given up on the other.
        if self.get(token).is_none_or(|it| !it.is_callers() || it.broken.is_some()) {
            self.scratch.clear();
            return &mut self.scratch;
        }
        self.touch(token);
        self.get_mut(token).expect("just looked up").outbox.tail()
    }

    pub fn pending(&self, token: Token) -> usize {
        self.get(token).filter(|it| it.is_callers()).map_or(0, |it| it.outbox.pending())
    }

    pub fn await_drained(&mut self, token: Token) {
        // What is empty does not run empty. (A broken socket is, whatever was queued: `Closed` follows.)
        if let Some(socket) = self.get_mut(token).filter(|it| it.is_callers() && it.outbox.pending() > 0) {
            socket.held_up = true;
        }
    }

    pub fn set_reading(&mut self, token: Token, reading: bool) {
        let Some(socket) = self.get_mut(token).filter(|it| it.is_callers()) else { return };
        socket.reading = reading;
        let broken = if reading { None } else { socket.broken.take() };
        self.touch(token);
        if broken.is_some() {
            self.end(token, broken);
        }
    }

    pub fn close(&mut self, token: Token, linger: Duration) {
        let Some(socket) = self.get_mut(token) else { return };
        let lingers = socket.phase == Phase::Open && socket.broken.is_none() && !linger.is_zero();
        if !lingers {
            // A second close of a lingering socket comes here too.
            self.remove(token);
            return;
        }
        let deadline = clock::now() + linger;
        socket.phase = Phase::Closing { deadline, half_closed: false, peer_ended: false };
        let flushed = socket.outbox.pending() == 0;
        self.lingering.insert((deadline, token));
        self.touch(token);
        if flushed {
            self.half_close(token);
        }
    }

    pub fn release(&mut self, token: Token) {
        if let Some(socket) = self.get_mut(token).filter(|it| it.phase == Phase::Open) {
            socket.phase = Phase::Releasing;
            self.touch(token);
        }
    }

    // What the backend says.

    /// The backend has let go of a socket in `Phase::Releasing`.
    pub fn on_released(&mut self, token: Token) {
        if let Some(socket) = self.get_mut(token) {
            socket.phase = Phase::Ended;
            self.events.push_back(Queued::Released(token));
        }
    }

    /// A connecting socket became writable.
    pub fn on_connect(&mut self, token: Token) {
        let Some(socket) = self.get_mut(token) else { return };
        match sys::take_error(socket.fd.as_fd()) {
            Ok(()) => {
                socket.phase = Phase::Open;
                self.touch(token);
                self.push(Event::Connected(token));
            }
            Err(error) => self.end(token, Some(error)),
        }
    }

    /// Bytes arrived.
    pub fn on_bytes(&mut self, token: Token, chunk: Chunk) {
        let Some(socket) = self.get(token) else { return };
        let (connected, is_callers) = (socket.connected, socket.is_callers());
        self.bytes_of(connected).received += chunk.len() as u64;
        if is_callers {
            self.push(Event::Read(token, chunk));
        }
    }

    /// A receive found the end of the stream (`None`) or failed.
    pub fn on_end(&mut self, token: Token, error: Option<io::Error>) {
        let Some(socket) = self.get_mut(token) else { return };
        match &mut socket.phase {
            Phase::Closing { half_closed: false, peer_ended, .. } if error.is_none() => {
                // The peer may have closed one direction only; what is queued goes out first.
                *peer_ended = true;
                self.touch(token);
            }
            Phase::Closing { .. } => self.remove(token),
            // Whoever gets the socket next will find the end again.
            Phase::Releasing | Phase::Ended => {}
            Phase::Connecting | Phase::Open => self.end(token, error),
        }
    }

    /// A send took this many of the `offered` bytes of the outbox, or failed. When the socket is `waiting` after that, the
    /// backend must see to it that `on_writable` follows.
    pub fn on_sent(&mut self, token: Token, offered: usize, sent: io::Result<usize>) {
        let Some(socket) = self.get_mut(token) else { return };
        let taken = match sent {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.touch(token),
            Err(error) => return self.on_send_failed(token, error),
        };
        socket.outbox.advance(taken);
        let connected = socket.connected;
        self.bytes_of(connected).sent += taken as u64;
        let Some(socket) = self.get_mut(token) else { return };
        if socket.outbox.pending() > 0 {
            socket.waiting = taken < offered;
            socket.held_up = true;
            if !socket.waiting {
                self.touch(token);
            }
        } else if matches!(socket.phase, Phase::Closing { .. }) {
            self.half_close(token);
        } else if std::mem::take(&mut socket.held_up) {
            self.push(Event::Drained(token));
        }
    }

    /// There is room in the kernel's buffer again, or the socket broke: the next send will tell.
    pub fn on_writable(&mut self, token: Token) {
        if let Some(socket) = self.get_mut(token) {
            socket.waiting = false;
            self.touch(token);
        }
    }

    /// Ends a socket that the caller still holds: `Closed` follows.
    pub fn end(&mut self, token: Token, error: Option<io::Error>) {
        let Some(socket) = self.get_mut(token) else { return };
        debug_assert!(socket.is_callers());
        socket.phase = Phase::Ended;
        socket.outbox.clear();
        let error = socket.broken.take().or(error);
        self.push(Event::Closed(token, error));
    }

    /// An event that the backend made.
    pub fn push(&mut self, event: Event) {
        self.events.push_back(Queued::Ready(event));
    }

    /// The next event that still concerns the caller.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let event = match self.events.pop_front()? {
                Queued::Ready(event) => event,
                Queued::Released(token) => match self.take(token) {
                    Some(socket) => return Some(Event::Released(token, socket.fd, socket.outbox.into_unsent())),
                    None => continue,
                },
            };
            let Some(token) = event.token() else { return Some(event) };
            let concerns = self.get(token).is_some_and(|it| it.is_callers() || it.phase == Phase::Ended);
            if !concerns {
                continue;
            }
            if matches!(event, Event::Closed(..)) {
                self.remove(token);
            }
            return Some(event);
        }
    }

    /// Forgets connections that were accepted and not taken: they are closed.
    pub fn forget_accepted(&mut self) {
        self.accept_again = None;
        self.events.retain(|it| !matches!(it, Queued::Ready(Event::Accepted(_))));
    }

    /// Accepting failed: it rests for `ACCEPT_PAUSE`, because trying again at once would fail at once.
    pub fn pause_accepting(&mut self, error: &io::Error) {
        tracing::warn!(%error, pause = ?ACCEPT_PAUSE, "cannot accept connections; they wait in the backlog");
        self.accept_again = Some(clock::now() + ACCEPT_PAUSE);
    }

    pub fn accepting_rests(&self) -> bool {
        self.accept_again.is_some()
    }

    /// How long the turn may sleep when the caller allows `timeout`.
    pub fn rest(&self, timeout: Option<Duration>) -> Option<Duration> {
        if !self.events.is_empty() || !self.dirty.is_empty() {
            return Some(Duration::ZERO);
        }
        let Some(due) = self.due() else { return timeout };
        let rest = due.saturating_duration_since(clock::now());
        Some(timeout.map_or(rest, |it| it.min(rest)))
    }

    /// Does what the time has come for: lingering sockets go, accepting may begin again.
    pub fn expire(&mut self) {
        if self.due().is_none() {
            return;
        }
        let now = clock::now();
        while let Some(&(deadline, token)) = self.lingering.first()
            && deadline <= now
        {
            self.remove(token);
        }
        self.accept_again.take_if(|it| *it <= now);
    }

    fn due(&self) -> Option<Instant> {
        let linger = self.lingering.first().map(|(deadline, _)| *deadline);
        [linger, self.accept_again].into_iter().flatten().min()
    }

    fn on_send_failed(&mut self, token: Token, error: io::Error) {
        let Some(socket) = self.get_mut(token) else { return };
        if matches!(socket.phase, Phase::Closing { .. }) {
            return self.remove(token);
        }
        // The failure may be ours alone (no memory), so the shutdown makes sure that reading comes to its end. If it errs the
        // connection is gone already.
        let _ = sys::shutdown(socket.fd.as_fd(), Shutdown::Both);
        socket.outbox.clear();
        socket.waiting = false;
        socket.held_up = false;
        socket.broken = Some(error);
        if !socket.reading {
            self.end(token, None);
        }
    }

    fn bytes_of(&mut self, connected: bool) -> &mut Bytes {
        if connected { &mut self.traffic.connected } else { &mut self.traffic.added }
    }

    /// The outbox of a closing socket is empty.
    fn half_close(&mut self, token: Token) {
        let Some(socket) = self.get_mut(token) else { return };
        let Phase::Closing { half_closed, peer_ended, .. } = &mut socket.phase else { return };
        *half_closed = true;
        if *peer_ended || sys::shutdown(socket.fd.as_fd(), Shutdown::Write).is_err() {
            self.remove(token);
        }
    }

    /// Closes the socket. The shutdown ends requests under way in the ring, which would keep it open; it errs when the
    /// connection is gone already, which is as well.
    fn remove(&mut self, token: Token) {
        if let Some(socket) = self.take(token) {
            let _ = sys::shutdown(socket.fd.as_fd(), Shutdown::Both);
        }
    }

    /// Frees the slot and invalidates the token.
    fn take(&mut self, token: Token) -> Option<Socket<K>> {
        self.get(token)?;
        let slot = &mut self.slots[token.slot()];
        let socket = slot.socket.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.slot() as u32);
        self.live -= 1;
        if let Phase::Closing { deadline, .. } = socket.phase {
            self.lingering.remove(&(deadline, token));
        }
        Some(socket)
    }
}
