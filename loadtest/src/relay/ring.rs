//! The relay over an own io_uring: one kernel entry per turn, which sends what the last one brought and sleeps for more.
//!
//! Receives are multishot, into buffers that the kernel chooses. What comes is copied to the other side's outbox and the buffer goes back at
//! once, so that a socket gets one send per turn however many chunks came. Sends are `MSG_DONTWAIT | MSG_WAITALL` and silent: the
//! kernel has copied the bytes when the entry returns, and answers only when it took less than all.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode};

use super::{PENDING_BYTES_MAX, Pair};

const SUBMISSIONS: u32 = 1024;
/// More than there can be answers at once: one per buffer, and a few per socket.
const COMPLETIONS: u32 = 8192;
const BUFFERS: u16 = 256;
const BUFFER_BYTES: u32 = 16 * 1024;
const GROUP: u16 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Op {
    Receive,
    Cancel,
    Send,
    PollWritable,
}

/// One side of a pair; the other one is at the index with the lowest bit flipped.
struct Socket {
    tcp: TcpStream,
    /// What is to be written to it. Over the limit by what a receive brings until it is cancelled: all buffers at most.
    outbox: Vec<u8>,
    /// Of `outbox`, what this turn's send offers.
    offered: usize,
    /// The kernel's answer to this turn's send; none means that it took everything.
    taken: Option<usize>,
    receiving: bool,
    cancelling: bool,
    polling: bool,
    read_ended: bool,
    write_ended: bool,
    /// It is in `Relay::stirred`.
    is_stirred: bool,
}

struct Relay {
    ring: IoUring,
    buffers: Buffers,
    sockets: Vec<Option<Socket>>,
    /// Sockets to look at before the next entry.
    stirred: Vec<usize>,
    /// Sockets with a send in this turn.
    sending: Vec<usize>,
    pairs_left: usize,
}

/// Relays until every pair has ended. Errs where there is no ring to be had.
pub fn run(pairs: Vec<Pair>) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    let buffers = Buffers::leak();
    // SAFETY: the address is that of `BUFFERS` descriptors, aligned to a page and never freed.
    unsafe { ring.submitter().register_buf_ring_with_flags(buffers.entries as u64, BUFFERS, GROUP, 0)? };
    let pairs_left = pairs.len();
    let socket = |tcp| Socket {
        tcp,
        outbox: Vec::new(),
        offered: 0,
        taken: None,
        receiving: false,
        cancelling: false,
        polling: false,
        read_ended: false,
        write_ended: false,
        is_stirred: true,
    };
    let sockets: Vec<_> =
        pairs.into_iter().flat_map(|it| [it.client, it.upstream]).map(|it| Some(socket(it))).collect();
    let stirred = (0..sockets.len()).collect();
    let mut relay = Relay { ring, buffers, sockets, stirred, sending: Vec::new(), pairs_left };
    while relay.pairs_left > 0 {
        relay.turn()?;
    }
    Ok(())
}

impl Relay {
    fn turn(&mut self) -> io::Result<()> {
        while let Some(at) = self.stirred.pop() {
            self.prepare(at)?;
        }
        if self.pairs_left == 0 {
            return Ok(());
        }
        self.enter(1)?;
        while let Some(answer) = { self.ring.completion().next() } {
            self.on_answer(&answer);
        }
        for at in std::mem::take(&mut self.sending) {
            self.on_sent(at)?;
        }
        Ok(())
    }

    /// Asks for everything that the socket wants and has not asked for.
    fn prepare(&mut self, at: usize) -> io::Result<()> {
        let (Some(socket), Some(peer)) = (&self.sockets[at], &self.sockets[at ^ 1]) else { return Ok(()) };
        let fd = Fd(socket.tcp.as_raw_fd());
        let wants_send = !socket.outbox.is_empty() && !socket.polling && socket.offered == 0;
        let wants_read = !socket.read_ended && peer.outbox.len() <= PENDING_BYTES_MAX;
        let ends_write = peer.read_ended && socket.outbox.is_empty() && !socket.write_ended;
        // A silent success would wake nobody who waits for this outbox to become empty.
        let is_awaited = peer.read_ended || !peer.receiving;
        let (bytes, len) = (socket.outbox.as_ptr(), socket.outbox.len());
        let (receiving, cancelling) = (socket.receiving, socket.cancelling);
        if let Some(socket) = &mut self.sockets[at] {
            socket.is_stirred = false;
            if wants_send {
                socket.offered = len;
            }
            socket.receiving |= wants_read;
            socket.cancelling |= receiving && !wants_read;
            if ends_write {
                socket.write_ended = true;
                // It fails when the connection is gone already, which the next receive says.
                socket.tcp.shutdown(Shutdown::Write).ok();
            }
        }
        if ends_write && self.sockets[at ^ 1].as_ref().is_some_and(|it| it.write_ended) {
            self.end(at);
            return Ok(());
        }
        if wants_send {
            let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
            let send = opcode::Send::new(fd, bytes, len as u32).flags(flags).build();
            self.push(at, Op::Send, send.flags(if is_awaited { Flags::empty() } else { Flags::SKIP_SUCCESS }))?;
            self.sending.push(at);
        }
        if wants_read && !receiving {
            self.push(at, Op::Receive, opcode::RecvMulti::new(fd, GROUP).build())?;
        }
        if !wants_read && receiving && !cancelling {
            let builder = CancelBuilder::user_data(user_data(at, Op::Receive));
            self.push(at, Op::Cancel, opcode::AsyncCancel2::new(builder).build().flags(Flags::SKIP_SUCCESS))?;
        }
        Ok(())
    }

    fn on_answer(&mut self, answer: &cqueue::Entry) {
        let (at, op) = ((answer.user_data() >> 2) as usize, answer.user_data() & 3);
        let len = answer.result();
        if op == Op::Receive as u64 {
            if let Some(id) = cqueue::buffer_select(answer.flags()) {
                // SAFETY: this answer names the buffer and was taken from the ring just now; the buffer goes back below.
                let bytes = unsafe { self.buffers.filled(id, len.max(0) as usize) };
                if let Some(peer) = &mut self.sockets[at ^ 1] {
                    peer.outbox.extend_from_slice(bytes);
                }
                self.buffers.give(id);
                self.stir(at ^ 1);
            }
            if self.sockets[at].as_ref().is_some_and(|it| !it.cancelling)
                && self.sockets[at ^ 1].as_ref().is_some_and(|it| it.outbox.len() > PENDING_BYTES_MAX)
            {
                self.stir(at);
            }
            let is_broken = len < 0 && !matches!(-len, libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN);
            let Some(socket) = &mut self.sockets[at] else { return };
            if !cqueue::more(answer.flags()) {
                (socket.receiving, socket.cancelling) = (false, false);
                socket.read_ended |= len == 0;
                self.stir(at);
                self.stir(at ^ 1);
            }
            if is_broken {
                self.end(at);
            }
        } else if let Some(socket) = &mut self.sockets[at] {
            if op == Op::Send as u64 {
                match len {
                    len if len >= 0 => socket.taken = Some(len as usize),
                    len if matches!(-len, libc::EAGAIN | libc::EINTR) => socket.taken = Some(0),
                    _ => self.end(at),
                }
            } else if op == Op::PollWritable as u64 {
                socket.polling = false;
                self.stir(at);
            } else {
                // There was nothing to cancel, or it was at work at that moment: asked again if it is still wanted.
                socket.cancelling = false;
                self.stir(at);
            }
        }
    }

    /// The entry has consumed this socket's send.
    fn on_sent(&mut self, at: usize) -> io::Result<()> {
        let Some(socket) = &mut self.sockets[at] else { return Ok(()) };
        let offered = std::mem::take(&mut socket.offered);
        let taken = socket.taken.take().unwrap_or(offered);
        socket.outbox.drain(..taken);
        socket.polling = taken < offered;
        let fd = Fd(socket.tcp.as_raw_fd());
        if taken < offered {
            self.push(at, Op::PollWritable, opcode::PollAdd::new(fd, libc::POLLOUT as u32).build())?;
        }
        self.stir(at);
        self.stir(at ^ 1);
        Ok(())
    }

    fn stir(&mut self, at: usize) {
        if let Some(socket) = &mut self.sockets[at]
            && !std::mem::replace(&mut socket.is_stirred, true)
        {
            self.stirred.push(at);
        }
    }

    /// The pair is over. Its requests end with the shutdown; their answers find nobody.
    fn end(&mut self, at: usize) {
        for at in [at, at ^ 1] {
            if let Some(socket) = self.sockets[at].take() {
                socket.tcp.shutdown(Shutdown::Both).ok();
            }
        }
        self.pairs_left -= 1;
    }

    /// Queues a request; enters the kernel first when the queue is full.
    fn push(&mut self, at: usize, op: Op, entry: Entry) -> io::Result<()> {
        let entry = entry.user_data(user_data(at, op));
        while self.ring.submission().is_full() {
            self.enter(0)?;
        }
        // SAFETY: only a send refers to memory of ours, an outbox. It is not touched before the entry that consumes the request has
        // returned (`offered` keeps others away, `on_answer` runs after it), and a consumed send with MSG_DONTWAIT is never read again.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)
    }

    /// Submits everything and waits for `wanted` answers.
    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        loop {
            match self.ring.submitter().submit_and_wait(wanted) {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
            if self.ring.submission().is_empty() {
                return Ok(());
            }
        }
    }
}

fn user_data(at: usize, op: Op) -> u64 {
    (at as u64) << 2 | op as u64
}

/// What the kernel wants descriptors aligned to; a multiple of any page size in use.
#[repr(C, align(65536))]
struct Descriptors([u8; BUFFERS as usize * size_of::<BufRingEntry>()]);

/// The buffers that the kernel fills, and their descriptors. Never freed: the kernel may write until the process ends with its relay.
struct Buffers {
    entries: *mut BufRingEntry,
    data: *mut u8,
    tail: u16,
}

impl Buffers {
    fn leak() -> Self {
        let entries = Box::leak(Box::new(Descriptors([0; _])));
        let data = Box::leak(vec![0_u8; usize::from(BUFFERS) * BUFFER_BYTES as usize].into_boxed_slice());
        let mut buffers = Self { entries: (&raw mut entries.0).cast(), data: data.as_mut_ptr(), tail: 0 };
        (0..BUFFERS).for_each(|it| buffers.give(it));
        buffers
    }

    /// What the kernel wrote into buffer `id`.
    ///
    /// # Safety
    /// A completion has named `id` with `len` bytes, and `give` has not been called since.
    unsafe fn filled(&self, id: u16, len: usize) -> &'static [u8] {
        assert!(id < BUFFERS && len <= BUFFER_BYTES as usize, "the kernel named buffer {id} with {len} bytes");
        // SAFETY: id and length are inside the allocation, which is initialised and never freed; the kernel does not write to the
        // buffer before it is given back.
        unsafe { std::slice::from_raw_parts(self.data.add(usize::from(id) * BUFFER_BYTES as usize), len) }
    }

    /// Hands buffer `id` to the kernel.
    fn give(&mut self, id: u16) {
        let at = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `at` is below the number of descriptors, and the kernel reads none at or behind the tail.
        let entry = unsafe { &mut *self.entries.add(at) };
        entry.set_addr(self.data as u64 + u64::from(id) * u64::from(BUFFER_BYTES));
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in a field of the first descriptor that the writes above do not touch: two bytes, aligned, only read by
        // the kernel. Release: the descriptor is visible before the tail is.
        unsafe { (*BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release) };
    }
}
