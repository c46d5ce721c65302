//! The operator's own listener, `admin_bind`: every page, on an address that clients need not reach.
//!
//! It reads one request from each connection and mails it to the control thread, as the cores do with those on the gateway's port.
//! It answers no page itself, and no gateway connection is made here.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::runtime::client_tls::Requester;
use crate::runtime::clock;
use crate::runtime::mesh::{Door, ToControl};
use crate::wire::http::{Request, parse_request};

/// Connections whose request is being read. When full, the newest is closed at once.
const READING_MAX: usize = 32;
/// A request that is not whole by then is given up.
const READ_MAX: Duration = Duration::from_secs(5);
/// Pause after an `accept` that failed: out of file descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Between two attempts to get the address.
const BIND_RETRY: Duration = Duration::from_millis(10);
const NOT_HERE: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 37\r\nConnection: close\r\n\r\nNo gateway connections on this port.\n";

/// Listens on `address` for as long as the process runs. Errs when it cannot be had within `patience`: a process that has just ended may
/// hold it for a moment.
pub fn start(address: SocketAddr, patience: Duration, control: mpsc::Sender<ToControl>) -> io::Result<()> {
    let end = clock::now() + patience;
    let listener = loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::now() < end => thread::sleep(BIND_RETRY),
            bound => break bound?,
        }
    };
    thread::Builder::new().name("admin".into()).spawn(move || accept(&listener, &control)).map(drop)
}

fn accept(listener: &TcpListener, control: &mpsc::Sender<ToControl>) {
    if let Ok(address) = listener.local_addr() {
        info!(listen = %address, "operator's pages");
    }
    let reading = Arc::new(AtomicUsize::new(0));
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "cannot accept a connection on admin_bind");
                thread::sleep(ACCEPT_RETRY);
                continue;
            }
        };
        if reading.load(Ordering::Relaxed) >= READING_MAX {
            continue;
        }
        reading.fetch_add(1, Ordering::Relaxed);
        let (control, count) = (control.clone(), reading.clone());
        let read = move || {
            if let Err(error) = forward(socket, &control) {
                debug!(%error, "no request on admin_bind");
            }
            count.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new().name("admin request".into()).spawn(read) {
            reading.fetch_sub(1, Ordering::Relaxed);
            warn!(%error, "no thread for a request on admin_bind");
        }
    }
}

/// Reads the request's head and mails it on.
fn forward(mut socket: TcpStream, control: &mpsc::Sender<ToControl>) -> io::Result<()> {
    let end = clock::now() + READ_MAX;
    let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        match parse_request(&head) {
            Ok(None) => {}
            Ok(Some((Request::Plain(request), _))) => {
                // The control thread has ended when nobody takes it; then the connection just closes.
                let _ =
                    control.send(ToControl::Page { requester: Requester::plain(socket), request, door: Door::Admin });
                return Ok(());
            }
            Ok(Some((Request::Upgrade(_), _))) => return socket.write_all(NOT_HERE),
            Err(error) => return socket.write_all(&error.response()),
        }
        let left = end.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => head.extend_from_slice(&chunk[..len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection on which `bytes` were said, after `forward` was done with it.
    fn said(bytes: &[u8]) -> (io::Result<()>, TcpStream, mpsc::Receiver<ToControl>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ours.write_all(bytes).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let (control, mail) = mpsc::channel();
        (forward(listener.accept().unwrap().0, &control), ours, mail)
    }

    fn answer(mut socket: TcpStream) -> String {
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_request_is_mailed_to_the_control_thread() {
        let (done, _ours, mail) = said(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        done.unwrap();
        let Ok(ToControl::Page { request, door, .. }) = mail.try_recv() else { panic!("something else") };
        assert_eq!((request.path.as_str(), door), ("/metrics", Door::Admin));
    }

    #[test]
    fn an_upgrade_a_broken_and_a_half_request_are_mailed_to_nobody() {
        let upgrade =
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (_, ours, mail) = said(upgrade);
        assert!(answer(ours).starts_with("HTTP/1.1 404 ") && mail.try_recv().is_err());
        let (_, ours, mail) = said(b"\x16\x03\x01\r\n\r\n");
        assert!(answer(ours).starts_with("HTTP/1.1 400 ") && mail.try_recv().is_err());
        let (done, _ours, mail) = said(b"GET / HTTP/1.1\r\n");
        assert!(done.is_err() && mail.try_recv().is_err());
    }

    #[test]
    fn an_address_that_is_taken_is_an_error() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(start(taken.local_addr().unwrap(), Duration::ZERO, mpsc::channel().0).is_err());
    }
}
