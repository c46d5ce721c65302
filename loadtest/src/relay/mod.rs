//! `loadtest relay`: the floor. Bytes of one socket go to another, unread, over the path that is asked for.
//!
//! It stands where the proxy stands, as a process of its own: clients connect to it, and each gets a connection to the fake Discord. It
//! knows no frame, no session and no shard; what a proxy costs beyond it is what a proxy does.

mod epoll;
mod glommio;
pub mod options;
mod ring;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::str::FromStr;
use std::thread;

use serde::{Deserialize, Serialize};

use self::options::Options;

/// Bytes that wait for a peer that does not read, per direction. When they are more nothing is read from the other side, so
/// that TCP slows it down.
const PENDING_BYTES_MAX: usize = 256 * 1024;

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `epoll_wait`, `recv`, `send`.
    Epoll,
    /// An own ring: multishot receive into provided buffers, one kernel entry per turn.
    Ring,
    /// glommio's executor and its TCP streams, a task per direction.
    Glommio,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Epoll, Self::Ring, Self::Glommio];

    pub fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Ring => "ring",
            Self::Glommio => "glommio",
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|it| it.name() == text).ok_or(())
    }
}

/// A client's connection and the one that was made for it.
struct Pair {
    client: TcpStream,
    upstream: TcpStream,
}

/// Takes the pairs, deals them out to the cores, and relays until the last one has ended.
///
/// Errs when a listener, a connection or the kernel's interface cannot be had.
pub fn command(options: &Options) -> io::Result<()> {
    end_with_stdin();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    println!("{address}");
    if let Some(path) = &options.ready_file {
        // Renamed into place, so that whoever waits for the file never reads half of it.
        let draft = path.with_extension("draft");
        std::fs::write(&draft, &address)?;
        std::fs::rename(draft, path)?;
    }
    let mut hands: Vec<Vec<Pair>> = (0..options.cores).map(|_| Vec::new()).collect();
    for number in 0..options.pairs {
        let (client, _) = listener.accept()?;
        let upstream = TcpStream::connect(&options.to)?;
        for socket in [&client, &upstream] {
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
        }
        hands[number % options.cores].push(Pair { client, upstream });
    }
    // Who comes later is refused, instead of waiting for nobody.
    drop(listener);
    let cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|it| it.id).collect();
    let kind = options.kind;
    let cores = hands.into_iter().enumerate().map(|(number, pairs)| {
        let cpu = cpus.get(number).copied();
        thread::spawn(move || run(kind, cpu, pairs))
    });
    let cores: Vec<_> = cores.collect();
    cores.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| Err(io::Error::other("a core panicked"))))
}

/// One core, on the CPU where the proxy's core would be.
fn run(kind: Kind, cpu: Option<usize>, pairs: Vec<Pair>) -> io::Result<()> {
    if let Some(id) = cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    match kind {
        Kind::Epoll => epoll::run(pairs),
        Kind::Ring => ring::run(pairs),
        Kind::Glommio => glommio::run(pairs, cpu),
    }
}

/// Ends the process when standard input closes: whoever started it is gone.
fn end_with_stdin() {
    thread::spawn(|| {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("select".parse::<Kind>(), Err(()));
    }
}
