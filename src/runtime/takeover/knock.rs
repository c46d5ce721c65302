//! The new process's side: it asks the running proxy for its listeners, and waits until that has left.
//!
//! Blocks; nothing else runs in the process yet.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tracing::{info, warn};

use super::{Inherited, Line, Message, PROTOCOL, Terms};

/// How long the running proxy may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For each word before it begins to leave; it does nothing meanwhile that takes time.
    pub answer: Duration,
    /// From Go to its end. It bounds its own drain, so this is that and the time for its store to end.
    pub leave: Duration,
    /// From its last word to its end, with which all that it still holds is free. After that it is not waited for.
    pub end: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(10), leave: Duration::from_secs(20), end: Duration::from_secs(3) }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// No proxy runs there.
    Nobody,
    /// It has left; these are its listeners.
    Listeners(Inherited),
}

/// Takes over from the proxy whose door is at `path`. The error is a line for the operator, and says whether the running proxy runs on.
pub fn knock(path: &Path, terms: &Terms, patience: Patience) -> Result<Answer, String> {
    let runs_on = |what: &str, error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => {
            format!("the running proxy does not {what} within {} s; it runs on", patience.answer.as_secs_f32())
        }
        _ => format!("the running proxy does not {what}: {error}; it runs on"),
    };
    let Some(line) = call(path, patience.answer).map_err(|error| runs_on("open its door", error))? else {
        return Ok(Answer::Nobody);
    };
    let request = Message::TakeOver { protocol: PROTOCOL, terms: terms.clone() };
    line.say(&request, &[]).map_err(|error| runs_on("listen", error))?;
    let (running, inherited) = match line.hear(patience.answer).map_err(|error| runs_on("answer", error))? {
        Some((Message::Listeners { terms, count, are_managed }, listeners)) if listeners.len() == count => {
            (terms, Inherited { listeners, are_managed })
        }
        Some((Message::Refused(why), _)) => return Err(format!("the running proxy refuses: {why}; it runs on")),
        Some((message, _)) => {
            return Err(format!("the running proxy says {message:?}, which makes no sense here; it runs on"));
        }
        None => {
            return Err("the running proxy hangs up without an answer; it runs on unless it was about to stop".into());
        }
    };
    line.say(&Message::Go, &[]).map_err(|error| runs_on("listen", error))?;
    info!(
        pid = running.pid,
        version = running.version,
        listeners = inherited.listeners.len(),
        "the running proxy drains; connections wait"
    );
    match line.hear(patience.leave) {
        Ok(Some((Message::Left, _))) => {
            let has_ended = matches!(line.hear(patience.end), Ok(None));
            info!(has_ended, "it has left");
        }
        Ok(_) => warn!("the running proxy ended without a word"),
        Err(error) => {
            return Err(format!(
                "the running proxy (process {}) has stopped accepting and does not leave: {error}; end it and start again",
                running.pid
            ));
        }
    }
    Ok(Answer::Listeners(inherited))
}

/// `None` when nobody listens there: no socket, or a dead one's.
fn call(path: &Path, patience: Duration) -> io::Result<Option<Line>> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Line::new(socket).map(Some),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(Errno::AGAIN) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}
