//! The running proxy's side: it waits at its socket for a successor, and gives away its listeners.
//!
//! A thread of its own, one conversation at a time, each with a limit in time. Until the successor says Go nothing has changed: whatever
//! goes wrong, the proxy runs on.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use tracing::{info, warn};

use super::{Inherited, LISTENERS_MAX, Line, Message, PROTOCOL, Terms};
use crate::runtime::mesh::ToControl;

/// How long a successor may take for each of its two messages: it has everything ready before the first.
const HEAR_MAX: Duration = Duration::from_secs(5);
/// Conversations that wait for the one under way; further ones wait in `connect`, and give up by themselves.
const BACKLOG: i32 = 4;
/// After the socket failed, which is for want of descriptors.
const REST: Duration = Duration::from_secs(1);

/// The process that takes over. It waits for a word, or for our end.
#[derive(Debug)]
pub struct Successor {
    line: Line,
    pub terms: Terms,
}

impl Successor {
    /// Tells it that everything is written. What is left to let go of goes with the process, and so does the line.
    pub fn tell_left(self) {
        // If it is gone there is nobody left to tell.
        let _ = self.line.say(&Message::Left, &[]);
        std::mem::forget(self.line);
    }
}

/// Opens the door at `path`, to give these listeners away. Nobody else may have one there: whoever calls this has locked the directory,
/// so what lies at the path is a dead one's. `ToControl::TakenOver` comes when a successor said Go, once.
///
/// Errs when the path is too long for a socket's address (107 bytes), or as bind(2) does.
pub fn open(path: &Path, terms: Terms, ours: Inherited, control: Sender<ToControl>) -> io::Result<()> {
    let door = bind_at(path)?;
    let serve = move || {
        let successor = loop {
            match accept_with(&door, SocketFlags::CLOEXEC) {
                Ok(socket) => match converse(socket, &terms, &ours) {
                    Ok(Some(successor)) => break successor,
                    Ok(None) => {}
                    Err(error) => warn!("a takeover came to nothing, this process runs on: {error}"),
                },
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => {
                    warn!("takeover: {error}");
                    thread::sleep(REST);
                }
            }
        };
        // A control thread that is stopping anyway drops it, and the successor sees the end of the line.
        let _ = control.send(ToControl::TakenOver(Box::new(successor)));
    };
    thread::Builder::new().name("takeover".into()).spawn(serve).map(drop)
}

fn bind_at(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let door = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Before it has a name: there is no moment in which others could connect.
    fchmod(&door, Mode::RUSR | Mode::WUSR)?;
    bind(&door, &SocketAddrUnix::new(path)?)?;
    listen(&door, BACKLOG)?;
    Ok(door)
}

/// `None`: refused, and both know why.
fn converse(socket: OwnedFd, ours: &Terms, given: &Inherited) -> io::Result<Option<Successor>> {
    let Inherited { listeners, are_managed } = given;
    let line = Line::new(socket)?;
    set_socket_timeout(&line.socket, Timeout::Send, Some(HEAR_MAX))?;
    let Some((message, _)) = line.hear(HEAR_MAX)? else { return Ok(None) };
    let Message::TakeOver { protocol, terms } = message else { return Err(io::ErrorKind::InvalidData.into()) };
    if let Some(why) = objection(ours, protocol, &terms, listeners.len()) {
        warn!(pid = terms.pid, version = terms.version, "a takeover is refused: {why}");
        line.say(&Message::Refused(why), &[])?;
        return Ok(None);
    }
    let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    let count = listeners.len();
    line.say(&Message::Listeners { terms: ours.clone(), count, are_managed: *are_managed }, &descriptors)?;
    match line.hear(HEAR_MAX)? {
        Some((Message::Go, _)) => {
            info!(pid = terms.pid, version = terms.version, "a new process takes over: this one drains and leaves");
            Ok(Some(Successor { line, terms }))
        }
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the new process has gone")),
    }
}

/// Why `theirs` cannot take over; `None` if it can. Another layout of shards would lose the sessions of both Discord and clients, and
/// with another address the listeners would be the wrong ones: both are changes for a stop and a start.
fn objection(ours: &Terms, protocol: u32, theirs: &Terms, listeners: usize) -> Option<String> {
    if protocol != PROTOCOL {
        return Some(format!(
            "version {} speaks takeover protocol {protocol}, version {} speaks {PROTOCOL}",
            theirs.version, ours.version
        ));
    }
    if (&theirs.shards, theirs.shard_count) != (&ours.shards, ours.shard_count) {
        return Some(format!(
            "found shards {}..{} of {}, wanted {}..{} of {} as they are held now",
            theirs.shards.start,
            theirs.shards.end,
            theirs.shard_count,
            ours.shards.start,
            ours.shards.end,
            ours.shard_count
        ));
    }
    let same_port = theirs.listen.port() == 0 || theirs.listen.port() == ours.listen.port();
    if theirs.listen.ip() != ours.listen.ip() || !same_port {
        return Some(format!("found bind and port {}, wanted {} as they are now", theirs.listen, ours.listen));
    }
    (listeners > LISTENERS_MAX)
        .then(|| format!("{listeners} listeners are more than the {LISTENERS_MAX} that can be passed on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms { version: "1.0.0".into(), pid: 7, shards: 0..4, shard_count: 8, listen: "0.0.0.0:7878".parse().unwrap() }
    }

    #[test]
    fn only_the_same_shards_at_the_same_address_are_taken_over() {
        let refused = |theirs: Terms| objection(&terms(), PROTOCOL, &theirs, 2);
        assert_eq!(refused(Terms { version: "2.0.0".into(), pid: 8, ..terms() }), None);
        assert_eq!(refused(Terms { listen: "0.0.0.0:0".parse().unwrap(), ..terms() }), None);
        let line = refused(Terms { shards: 0..8, ..terms() }).unwrap();
        assert_eq!(line, "found shards 0..8 of 8, wanted 0..4 of 8 as they are held now");
        assert!(refused(Terms { shard_count: 16, ..terms() }).is_some());
        for listen in ["0.0.0.0:7879", "127.0.0.1:7878"] {
            let line = refused(Terms { listen: listen.parse().unwrap(), ..terms() }).unwrap();
            assert!(line.starts_with(&format!("found bind and port {listen}, wanted 0.0.0.0:7878")), "{line}");
        }
        let line = objection(&terms(), PROTOCOL + 1, &Terms { version: "9.0.0".into(), ..terms() }, 2).unwrap();
        assert_eq!(line, "version 9.0.0 speaks takeover protocol 2, version 1.0.0 speaks 1");
        assert!(objection(&terms(), PROTOCOL, &terms(), LISTENERS_MAX + 1).is_some());
    }
}
