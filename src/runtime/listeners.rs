//! The sockets that clients connect to: opened here, or taken over from another process or the service manager; dealt out to the cores.
//!
//! With SO_REUSEPORT each core has a listener of its own. Of those that were inherited each must be accepted from by some core,
//! whatever the number of cores is now: the kernel goes on giving connections to all of them. It accepts nothing itself.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::sockopt::{socket_acceptconn, socket_reuseport};
use tracing::{info, warn};

use super::{clock, sys};

/// How long a start waits for a port that is taken.
pub const PORT_PATIENCE: Duration = Duration::from_secs(5);
const PORT_RETRY: Duration = Duration::from_millis(20);

/// By core; a core may have none, when there are fewer than cores and they cannot be shared: its clients come by hand-over.
///
/// `inherited` sockets that listen no more are left out with a warning. Errs as bind(2) does, and when another program listens at `wanted`
/// for longer than `patience`.
pub fn deal(
    wanted: SocketAddr,
    inherited: Vec<OwnedFd>,
    cores: usize,
    patience: Duration,
) -> io::Result<Vec<Vec<OwnedFd>>> {
    let mut dealt: Vec<Vec<OwnedFd>> = (0..cores).map(|_| Vec::new()).collect();
    let mut listeners = Vec::new();
    for listener in inherited {
        // Fails for what is no socket at all.
        if !socket_acceptconn(&listener).unwrap_or(false) {
            warn!("an inherited socket does not listen; it is left out");
            continue;
        }
        fcntl_setfd(&listener, FdFlags::CLOEXEC)?;
        ioctl_fionbio(&listener, true)?;
        listeners.push(listener);
    }
    let Some(first) = listeners.first() else {
        wait_for_port(wanted, patience)?;
        let first = sys::listen_on(wanted)?;
        let address = sys::bound_address(&first)?;
        dealt[0].push(first);
        for listeners in &mut dealt[1..] {
            listeners.push(sys::listen_on(address)?);
        }
        return Ok(dealt);
    };
    let address = sys::bound_address(first)?;
    let are_shared = listeners.iter().all(|it| socket_reuseport(it).unwrap_or(false));
    info!(listeners = listeners.len(), %address, "listening on sockets of before");
    for (number, listener) in listeners.into_iter().enumerate() {
        dealt[number % cores].push(listener);
    }
    if are_shared {
        for listeners in dealt.iter_mut().filter(|it| it.is_empty()) {
            listeners.push(sys::listen_on(address)?);
        }
    }
    Ok(dealt)
}

/// A killed process's listeners live on for a moment when they belong to an io_uring: the kernel takes the ring down after the process has gone
/// (seen on Linux 6.18, 2026-11-22).
fn wait_for_port(wanted: SocketAddr, patience: Duration) -> io::Result<()> {
    let end = clock::now() + patience;
    let mut is_told = false;
    loop {
        match sys::refuse_a_taken_port(wanted) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::now() < end => {
                if !std::mem::replace(&mut is_told, true) {
                    info!(address = %wanted, ?patience, "taken, perhaps by a process that is just going: waiting");
                }
                thread::sleep(PORT_RETRY);
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::os::fd::AsFd;

    use super::*;

    const ANYWHERE: &str = "127.0.0.1:0";

    fn counts(dealt: &[Vec<OwnedFd>]) -> Vec<usize> {
        dealt.iter().map(Vec::len).collect()
    }

    #[test]
    fn without_inheritance_each_core_has_one_at_the_same_address() {
        let dealt = deal(ANYWHERE.parse().unwrap(), Vec::new(), 3, Duration::ZERO).unwrap();
        assert_eq!(counts(&dealt), [1, 1, 1]);
        let address = sys::bound_address(&dealt[0][0]).unwrap();
        assert!(dealt.iter().flatten().all(|it| sys::bound_address(it).unwrap() == address));
        let taken = deal(address, Vec::new(), 1, Duration::ZERO).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_that_is_given_up_meanwhile_is_waited_for() {
        let going = sys::listen_on(ANYWHERE.parse().unwrap()).unwrap();
        let address = sys::bound_address(&going).unwrap();
        let going = thread::spawn(move || {
            thread::sleep(5 * PORT_RETRY);
            drop(going);
        });
        let dealt = deal(address, Vec::new(), 1, Duration::from_secs(60)).unwrap();
        assert_eq!(sys::bound_address(&dealt[0][0]).unwrap(), address);
        going.join().unwrap();
    }

    #[test]
    fn every_inherited_listener_has_a_core_and_more_cores_get_more_listeners() {
        let first = || {
            deal(ANYWHERE.parse().unwrap(), Vec::new(), 3, Duration::ZERO)
                .unwrap()
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&deal(ANYWHERE.parse().unwrap(), first(), 2, Duration::ZERO).unwrap()), [2, 1]);
        let inherited = first();
        let address = sys::bound_address(&inherited[0]).unwrap();
        let dealt = deal(ANYWHERE.parse().unwrap(), inherited, 5, Duration::ZERO).unwrap();
        assert_eq!(counts(&dealt), [1, 1, 1, 1, 1]);
        assert!(dealt.iter().flatten().all(|it| sys::bound_address(it).unwrap() == address));
    }

    #[test]
    fn a_listener_that_is_not_shared_stays_the_only_one() {
        let alone = TcpListener::bind(ANYWHERE).unwrap();
        let dealt = deal(ANYWHERE.parse().unwrap(), vec![alone.into()], 2, Duration::ZERO).unwrap();
        assert_eq!(counts(&dealt), [1, 0]);
        let error = sys::accept(dealt[0][0].as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it was made non-blocking");
    }

    #[test]
    fn sockets_that_do_not_listen_are_left_out() {
        let closed = sys::listen_on(ANYWHERE.parse().unwrap()).unwrap();
        let address = sys::bound_address(&closed).unwrap();
        sys::shutdown(closed.as_fd(), Shutdown::Read).unwrap();
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        let dealt = deal(address, vec![closed, no_socket.into()], 1, Duration::ZERO).unwrap();
        assert_eq!(sys::bound_address(&dealt[0][0]).unwrap(), address);
        assert!(std::net::TcpStream::connect(address).is_ok());
    }
}
