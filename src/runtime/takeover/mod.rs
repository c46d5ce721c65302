//! One process takes over from another without a moment in which the port refuses: what the two say to each other.
//!
//! The running proxy keeps a `door` open, a Unix socket in its data directory. The new one knocks (`knock`) when all that can be made ready
//! beforehand is ready:
//! ```text
//! new                               running
//!  │── TakeOver {terms} ─────────────▶│  refuses nonsense with a sentence, and runs on
//!  │◀── Listeners + the descriptors ──│  still accepts: until here either side may fail, and nothing has happened
//!  │── Go ───────────────────────────▶│  accepts no more, closes clients resumably, keeps Discord's sessions, ends its store
//!  │◀── Left ─────────────────────────│  and ends
//!  accepts
//! ```
//! From Go on connections wait in the backlog of the listeners, which never close: both processes hold the same sockets. Each
//! message is one JSON value in one packet (SOCK_SEQPACKET), so that a newer version may add fields. Not here: draining, and what becomes of
//! the listeners (`listeners`).
#![forbid(unsafe_code)]

mod door;
mod knock;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::sys;
pub use door::{Successor, open};
pub use knock::{Answer, Patience, knock};

/// Which messages there are and what they mean. Fields may be added without a new number.
const PROTOCOL: u32 = 1;
/// One message.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Listeners that can be handed over: the kernel takes 253 descriptors with one message. A proxy with more refuses.
pub const LISTENERS_MAX: usize = 250;

/// Where the running proxy of a data directory is reached.
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("takeover")
}

/// Listening sockets that another process had.
#[derive(Debug, Default)]
pub struct Inherited {
    pub listeners: Vec<OwnedFd>,
    /// The service manager holds them as well, and keeps them open when this process stops.
    pub are_managed: bool,
}

/// What a process is, as far as the other must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub version: String,
    pub pid: u32,
    /// Held, of `shard_count` in all.
    pub shards: Range<u32>,
    pub shard_count: u32,
    /// Where clients connect; with port 0 in the configuration of a new process, wherever that is.
    pub listen: SocketAddr,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    TakeOver {
        protocol: u32,
        terms: Terms,
    },
    /// With so many descriptors.
    Listeners {
        terms: Terms,
        count: usize,
        are_managed: bool,
    },
    /// The sentence says why.
    Refused(String),
    Go,
    Left,
}

/// One conversation: packets of one message each, with descriptors.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
}

impl Line {
    /// Errs with `PermissionDenied` when the other side is neither this user nor root: the socket's mode says the same, but not every
    /// filesystem keeps modes.
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let (peer, own) = (sys::peer_uid(socket.as_fd())?, rustix::process::geteuid().as_raw());
        if !may_speak(peer, own) {
            let line = format!("the other process belongs to user {peer}, not {own}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, line));
        }
        Ok(Self { socket })
    }

    fn say(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message with its descriptors; `None` when the other side has gone. Errs with `TimedOut` after `patience`.
    fn hear(&self, patience: Duration) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        set_socket_timeout(&self.socket, Timeout::Recv, Some(patience))?;
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // Its words are still to be read when it had not read all of ours.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                received => break received?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message longer than any of ours"));
        }
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
    }
}

fn may_speak(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests;
