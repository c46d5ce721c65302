//! The raw system calls: sockets, eventfd and epoll, each behind a safe function of a few lines.
//!
//! It decides nothing: no retry, no state, no policy. io_uring has its own crate and lives in `uring`. What std does
//! as well (reading an address, duplicating a descriptor: `OwnedFd::try_clone`) is left to std.
//! Miri cannot run system calls; each call is covered by the tests of `net`.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::c_int;

/// Connections that wait to be accepted, per listener. When it is full the kernel drops the SYN and the client tries again.
/// The kernel caps it at `net.core.somaxconn`.
const BACKLOG: c_int = 4096;

/// How long a listener of our own machine may take to answer.
const TAKEN_PORT_WAIT: Duration = Duration::from_millis(500);

/// A non-blocking listener with SO_REUSEPORT, so that every core can bind the same address.
///
/// An IPv6 wildcard takes IPv4 as well where `net.ipv6.bindv6only` is 0. Errors as bind(2) does.
pub fn listen_on(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = bound_to(address)?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

fn bound_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(&address)?;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    let (raw, len) = raw_address(&address);
    // SAFETY: `raw` is an initialised address of `len` bytes that outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), len) })?;
    Ok(socket)
}

/// Errs with `AddrInUse` when somebody accepts connections at `address`: SO_REUSEPORT would let us share the port in silence, and take
/// part of the other's clients. Port 0 is never taken. Blocks for a moment: not for a core.
pub fn refuse_a_taken_port(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    // Whoever answers at an address of another machine is no reason to wait.
    bound_to(address)?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    match TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), TAKEN_PORT_WAIT) {
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address}: another program listens there already")))
        }
        Err(_) => Ok(()),
    }
}

/// The address a socket is bound to: what port 0 became.
pub fn bound_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    TcpListener::from(socket.try_clone()?).local_addr()
}

/// Who is at the other end, if anybody still is.
pub fn peer_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok()
}

/// Begins a TCP connection without waiting for it, TCP_NODELAY set.
///
/// The outer error: there is no socket (out of descriptors). The inner: the network said no at once (refused,
/// unreachable). Otherwise the socket becomes writable when the outcome is known; see `take_error`.
pub fn connect(address: SocketAddr) -> io::Result<(OwnedFd, io::Result<()>)> {
    let socket = stream_socket(&address)?;
    set_nodelay(socket.as_fd())?;
    let (raw, len) = raw_address(&address);
    // SAFETY: `raw` is an initialised address of `len` bytes that outlives the call.
    let begun = check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), len) });
    let outcome = match begun {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    };
    Ok((socket, outcome))
}

/// Accepts one connection, non-blocking and TCP_NODELAY. `WouldBlock` when nobody waits.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null asks for no address, so no memory is involved.
    let raw = check(unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) })?;
    // SAFETY: accept4 returned a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    set_nodelay(socket.as_fd())?;
    Ok(socket)
}

/// Small writes leave at once: a dispatch must not wait for the ACK of the one before.
pub fn set_nodelay(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Bounds what the kernel keeps for a receiver that does not read. The kernel doubles the number for its own book-keeping; where it refuses
/// its default stays.
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: c_int) {
    let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes);
}

/// The error a socket has kept (SO_ERROR), and clears it. After `connect`: `Ok` means connected.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut error: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: `error` and `len` are valid for writes, and `len` is the size of `error`.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut len) })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Sends what fits into the socket's buffer, without waiting and without SIGPIPE. `WouldBlock` when nothing fits.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is valid for reads of its length during the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    check_len(sent)
}

/// Receives what has arrived, up to the length of `buffer`, without waiting. 0 is the end of the stream.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length during the call.
    let received =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    check_len(received)
}

/// shutdown(2). On a listener `Read` makes the kernel refuse new connections at once.
pub fn shutdown(socket: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no memory is involved.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), how) }).map(drop)
}

/// The user at the other end of a Unix socket, as of its connect or listen (SO_PEERCRED).
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: `peer` and `len` are valid for writes, and `len` is the size of `peer`.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len) })?;
    Ok(peer.uid)
}

/// Makes a socket taken out of a core usable by a thread that blocks: it waits, but no longer than `send_timeout` per send.
///
/// Errors when `send_timeout` is zero. Receives wait without a limit: the request has been read already.
pub fn into_blocking(socket: OwnedFd, send_timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(send_timeout))?;
    Ok(stream)
}

/// A counter that wakes whoever watches it; starts at zero, non-blocking.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let raw = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: eventfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Wakes the watcher of an eventfd. From any thread.
pub fn eventfd_wake(eventfd: RawFd) {
    let one = 1u64;
    // SAFETY: `one` is valid for reads of its eight bytes. A wrong descriptor is an error, not undefined behaviour.
    // The only refusal of a right one is EAGAIN, when the counter is full: then the watcher is awake anyway.
    unsafe { libc::write(eventfd, (&raw const one).cast(), size_of::<u64>()) };
}

/// Sets the counter back to zero; whether it was above.
pub fn eventfd_drain(eventfd: BorrowedFd<'_>) -> bool {
    let mut count = 0u64;
    // SAFETY: `count` is valid for writes of its eight bytes.
    unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) > 0 }
}

/// An epoll instance.
pub fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let raw = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: epoll_create1 returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// epoll_ctl(2): watch (`EPOLL_CTL_ADD`), change (`_MOD`) or forget (`_DEL`) a descriptor. `data` comes back with its events.
pub fn epoll_control(
    epoll: BorrowedFd<'_>,
    operation: c_int,
    fd: BorrowedFd<'_>,
    interest: u32,
    data: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest, u64: data };
    // SAFETY: `event` is valid during the call, which copies it.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) }).map(drop)
}

/// Waits for events and appends up to the spare capacity of `events` to it. `None` waits forever; a timeout is rounded up to
/// whole milliseconds, so that a deadline is never found not reached yet after the sleep.
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut Vec<libc::epoll_event>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let timeout_ms = match timeout {
        None => -1,
        Some(wait) => c_int::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX),
    };
    let spare = events.spare_capacity_mut();
    let room = c_int::try_from(spare.len()).unwrap_or(c_int::MAX);
    // SAFETY: the kernel writes at most `room` events into the spare capacity.
    let got = check(unsafe { libc::epoll_wait(epoll.as_raw_fd(), spare.as_mut_ptr().cast(), room, timeout_ms) })?;
    // SAFETY: the kernel initialised `got` events behind the old length.
    unsafe { events.set_len(events.len() + got as usize) };
    Ok(())
}

fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is involved.
    let raw = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: socket returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is valid for reads of `len` bytes during the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

/// The kernel's form of an address and how many of its bytes count.
fn raw_address(address: &SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: both kinds of address are plain integers, for which zero is a value.
    let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let short = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_in is the shorter (16 of 28 bytes) and asks for no stricter alignment.
            unsafe { (&raw mut raw).cast::<libc::sockaddr_in>().write(short) };
            (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_flowinfo = v6.flowinfo();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn two_listeners_share_a_port() {
        let first = listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound_address(&first).unwrap();
        assert_ne!(address.port(), 0);
        let second = listen_on(address).unwrap();
        assert_eq!(bound_address(&second).unwrap(), address);
    }

    #[test]
    fn a_port_where_somebody_listens_is_taken_and_a_merely_bound_one_is_not() {
        let listener = listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound_address(&listener).unwrap();
        let anywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        for address in [address, anywhere] {
            let error = refuse_a_taken_port(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        drop(listener);
        assert!(refuse_a_taken_port(address).is_ok());
        assert!(refuse_a_taken_port("0.0.0.0:0".parse().unwrap()).is_ok());
        // Of documentation (RFC 5737), so nobody's.
        let elsewhere = refuse_a_taken_port("192.0.2.1:7878".parse().unwrap()).unwrap_err();
        assert_eq!(elsewhere.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn an_ipv6_address_arrives_as_it_was_written() {
        let Ok(std_listener) = TcpListener::bind("[::1]:0") else {
            println!("skipped: this machine has no IPv6 loopback");
            return;
        };
        let wanted = std_listener.local_addr().unwrap();
        drop(std_listener);
        let listener = listen_on(wanted).unwrap();
        assert_eq!(bound_address(&listener).unwrap(), wanted);
    }

    #[test]
    fn an_eventfd_counts_wakes_once() {
        let eventfd = eventfd().unwrap();
        assert!(!eventfd_drain(eventfd.as_fd()));
        eventfd_wake(eventfd.as_raw_fd());
        eventfd_wake(eventfd.as_raw_fd());
        assert!(eventfd_drain(eventfd.as_fd()));
        assert!(!eventfd_drain(eventfd.as_fd()));
    }

    #[test]
    fn a_blocking_socket_waits_for_bytes() {
        let listener = listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut peer = TcpStream::connect(bound_address(&listener).unwrap()).unwrap();
        let accepted = accept(listener.as_fd()).unwrap();
        assert_eq!(receive(accepted.as_fd(), &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let mut blocking = into_blocking(accepted, Duration::from_secs(5)).unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            blocking.read_to_string(&mut text).unwrap();
            text
        });
        std::io::Write::write_all(&mut peer, b"late").unwrap();
        drop(peer);
        assert_eq!(reader.join().unwrap(), "late");
    }

    #[test]
    fn nobody_waiting_is_would_block() {
        let listener = listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(accept(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
