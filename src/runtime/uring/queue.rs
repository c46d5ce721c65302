//! The ring as typed requests and completions: what is asked of the kernel, what it answered, and whose memory is whose.
//!
//! All that is unsafe about io_uring is here and in `buffers`. It does not know what a socket wants or what an answer
//! means; `Ring` does.
//!
//! **Sends.** `MSG_DONTWAIT | MSG_WAITALL` with SKIP_SUCCESS: the kernel copies during the submission and never later (a request
//! with MSG_DONTWAIT is neither parked on a poll nor given to a worker), and answers only when it took less than all.
//! (Without MSG_WAITALL a short send would count as a success, and be silent.) So the memory must stay until the
//! submission was consumed; the queue owns it until then, and gives it back through `sent`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};

use super::buffers::{Buffers, Provided};
use crate::runtime::net::Token;
use crate::runtime::outbox::Outbox;

/// Entries without progress before the ring counts as broken: the kernel is out of memory for requests.
const TRIES_MAX: u32 = 64;

/// One send; no socket buffer takes more at once, and the length must fit an i32. The rest goes with the next turn.
const SEND_BYTES_MAX: usize = 64 * 1024 * 1024;

const BUFFER_GROUP: u16 = 0;

/// What was asked. In the lower eight bits of a request's user data, the token above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Receive,
    PollWritable,
    Send,
    CancelReceive,
    CancelPollWritable,
    Accept,
    CancelAccept,
    PollMail,
}

/// The kernel's answer to one request.
pub struct Completion {
    pub token: Token,
    pub op: Op,
    /// The number the operation returned, if it is one of those that the kernel reports.
    pub result: io::Result<usize>,
    /// The request is still under way, and more answers follow.
    pub more: bool,
    /// What a receive brought. Empty at the end of the stream, on kernels that spend a buffer on it.
    pub bytes: Option<Provided>,
    /// What an accept brought.
    pub accepted: Option<OwnedFd>,
}

/// A send whose submission was consumed: all of `offered` was taken, unless a completion said otherwise.
pub struct Sent {
    pub token: Token,
    pub outbox: Outbox,
    pub offered: usize,
}

pub struct Queue {
    ring: IoUring,
    buffers: Rc<Buffers>,
    /// Memory of the sends submitted, or about to be, since the last `take_sent`.
    sending: Vec<Sent>,
}

impl Queue {
    /// A ring for this thread alone, with `count` receive buffers (a power of two) of `bytes` bytes.
    ///
    /// `submissions`: requests per system call; when they are more the kernel is entered once more in that turn.
    /// `completions`: answers the shared memory holds; when they are more the kernel keeps the others, in order, and
    /// `is_settled` says so.
    ///
    /// DEFER_TASKRUN: completions are made when the owner enters the kernel, not by interrupting it (measured: without this
    /// or COOP_TASKRUN a message costs nearly twice at mid rates). It needs Linux 6.1, and so does a correct
    /// answer to a short send.
    ///
    /// Errs with `Unsupported` before Linux 6.1, and as io_uring_setup(2) does, `PermissionDenied` above all, where the
    /// machine forbids io_uring.
    pub fn new(submissions: u32, completions: u32, count: u16, bytes: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(completions)
            .build(submissions)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => io::Error::new(io::ErrorKind::Unsupported, "io_uring of Linux 6.1 is needed"),
                _ => error,
            })?;
        let buffers = Buffers::new(count, bytes);
        // SAFETY: the address is that of `count` descriptors, page-aligned, and stays until `drop` has unregistered it:
        // `buffers` is held until then.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(buffers.ring_address(), buffers.count(), BUFFER_GROUP, 0)?;
        }
        Ok(Self { ring, buffers, sending: Vec::new() })
    }

    /// Receive buffers that are not lent out.
    pub fn buffers_free(&self) -> u16 {
        self.buffers.free()
    }

    /// Receive until it ends, each time into a buffer of the kernel's choice.
    pub fn receive(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.push(token, Op::Receive, opcode::RecvMulti::new(fd(socket), BUFFER_GROUP).build())
    }

    /// Say once when there is room to send.
    pub fn poll_writable(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.push(token, Op::PollWritable, opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build())
    }

    /// Say each time the eventfd was written.
    pub fn poll_mail(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let poll = opcode::PollAdd::new(fd(eventfd), libc::POLLIN as u32).multi(true).build();
        self.push(Token(0), Op::PollMail, poll)
    }

    /// Accept until it ends. `number` comes back as the token.
    pub fn accept(&mut self, number: u64, listener: BorrowedFd<'_>) -> io::Result<()> {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        self.push(Token(number), Op::Accept, opcode::AcceptMulti::new(fd(listener)).flags(flags).build())
    }

    /// End the receive of a socket: its last answer comes soon. Answered itself only when there was nothing to end, or it was at work at
    /// that moment and must be asked again.
    pub fn cancel_receive(&mut self, token: Token) -> io::Result<()> {
        self.cancel(token, Op::Receive, Op::CancelReceive)
    }

    /// The same for `accept`.
    pub fn cancel_accept(&mut self, number: u64) -> io::Result<()> {
        self.cancel(Token(number), Op::Accept, Op::CancelAccept)
    }

    /// The same for `poll_writable`.
    pub fn cancel_poll_writable(&mut self, token: Token) -> io::Result<()> {
        self.cancel(token, Op::PollWritable, Op::CancelPollWritable)
    }

    /// Send the outbox. It comes back through `take_sent`.
    pub fn send(&mut self, token: Token, socket: BorrowedFd<'_>, outbox: Outbox) -> io::Result<()> {
        let unsent = outbox.unsent();
        let offered = unsent.len().min(SEND_BYTES_MAX);
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let send = opcode::Send::new(fd(socket), unsent.as_ptr(), offered as u32).flags(flags).build();
        // When more is to follow, the answer wakes the turn that sends it.
        let silent = if offered == unsent.len() { Flags::SKIP_SUCCESS } else { Flags::empty() };
        // Moving the outbox does not move its bytes. They stay here until the submission has been consumed.
        self.sending.push(Sent { token, outbox, offered });
        self.push(token, Op::Send, send.flags(silent))
    }

    /// The outboxes of all sends, once the queue `is_settled` and every completion was taken; empty before.
    pub fn take_sent(&mut self) -> impl Iterator<Item = Sent> {
        let end = if self.is_settled() { self.sending.len() } else { 0 };
        self.sending.drain(..end)
    }

    /// Everything asked was consumed, and no answer is left behind.
    pub fn is_settled(&mut self) -> bool {
        let submissions = self.ring.submission();
        let consumed = submissions.is_empty() && !submissions.cq_overflow();
        drop(submissions);
        consumed && self.ring.completion().is_empty()
    }

    /// Submits everything and sleeps until there are `wanted` answers, a signal, or `timeout` has passed (`None`: no limit), all in one
    /// system call. May return early, with requests not consumed; see `is_settled`.
    pub fn enter(&mut self, timeout: Option<Duration>, wanted: u32) -> io::Result<()> {
        let timespec = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        let wanted = if timeout == Some(Duration::ZERO) { 0 } else { wanted };
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        let queued = self.ring.submission().len() as u32;
        // SAFETY: `args` is the argument that EXT_ARG announces, and it and `timespec` outlive the call. What the submissions refer
        // to: `push`.
        match unsafe { self.ring.submitter().enter(queued, wanted, flags, Some(&args)) } {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Timed out; interrupted; completions must be taken first; no memory for a request just now.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next answer.
    pub fn next(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let op = Op::from_user_data(entry.user_data());
        let result = match usize::try_from(entry.result()) {
            Ok(number) => Ok(number),
            Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
        };
        let len = *result.as_ref().unwrap_or(&0);
        // SAFETY: this completion names the buffer, and it was just taken from the ring, so it is seen once.
        let bytes = cqueue::buffer_select(entry.flags()).map(|id| unsafe { self.buffers.claim(id, len as u32) });
        let accepted = match (op, &result) {
            // SAFETY: the result of a successful accept is a new descriptor that nobody else owns.
            (Op::Accept, Ok(raw)) => Some(unsafe { OwnedFd::from_raw_fd(*raw as i32) }),
            _ => None,
        };
        let token = Token(entry.user_data() >> 8);
        Some(Completion { token, op, result, more: cqueue::more(entry.flags()), bytes, accepted })
    }

    fn cancel(&mut self, token: Token, which: Op, op: Op) -> io::Result<()> {
        let builder = CancelBuilder::user_data(which.user_data(token));
        self.push(token, op, opcode::AsyncCancel2::new(builder).build().flags(Flags::SKIP_SUCCESS))
    }

    /// Queues a request; enters the kernel first when the queue is full.
    fn push(&mut self, token: Token, op: Op, entry: Entry) -> io::Result<()> {
        let entry = entry.user_data(op.user_data(token));
        let mut tries = 0;
        while self.ring.submission().is_full() {
            if tries == TRIES_MAX {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the kernel takes no more requests"));
            }
            tries += 1;
            self.enter(Some(Duration::ZERO), 0)?;
        }
        // SAFETY: of all requests made here only a send refers to memory of ours. Its bytes are in `sending`, out of anybody's
        // reach, until `take_sent` finds the submission consumed, and a consumed send is never read again (see above).
        // `drop` submits what is still queued: `sending` is a field and lives until after it, and the sockets are open, for whoever holds this queue
        // holds them in a field behind it.
        unsafe { self.ring.submission().push(&entry) }.expect("there is room");
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Requests hold their sockets open and accepted sockets lie in the ring as plain numbers, so everything is brought to its
        // end here rather than some time after the ring is gone. Errors leave just that to the kernel.
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        loop {
            let left = self.enter(Some(Duration::ZERO), 0);
            let mut found = false;
            while self.next().is_some() {
                found = true;
            }
            if left.is_err() || !found {
                break;
            }
        }
        // From here on the kernel writes to no buffer, and the memory may go when the last chunk does.
        let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
    }
}

impl Op {
    const ALL: [Self; 8] = [
        Self::Receive,
        Self::PollWritable,
        Self::Send,
        Self::CancelReceive,
        Self::CancelPollWritable,
        Self::Accept,
        Self::CancelAccept,
        Self::PollMail,
    ];

    fn user_data(self, token: Token) -> u64 {
        token.0 << 8 | self as u64
    }

    fn from_user_data(data: u64) -> Self {
        Self::ALL[(data & 0xff) as usize]
    }
}

fn fd(socket: BorrowedFd<'_>) -> Fd {
    Fd(socket.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_names_the_request() {
        for op in Op::ALL {
            let data = op.user_data(Token(0xab_cdef_0123_4567));
            assert_eq!(Op::from_user_data(data), op);
            assert_eq!(data >> 8, 0xab_cdef_0123_4567);
        }
    }
}
