//! One TCP connection, plain or TLS: bytes are queued without waiting, and read by one task.
//!
//! Whoever holds the link may `send`; what the socket does not take at once waits in `pending`, and the task that
//! reads also writes it out. Nothing here knows frames.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};

use rustls::Connection;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// What may wait for a peer that does not read. A link that would hold more is cut: the peer can resume.
pub const PENDING_BYTES_MAX: usize = 512 << 20;
const READ_BYTES: usize = 32 * 1024;

pub struct Link {
    tcp: TcpStream,
    tls: RefCell<Option<Box<Connection>>>,
    pending: RefCell<Vec<u8>>,
    stirred: Notify,
    is_corked: Cell<bool>,
    /// Bytes go out one by one, each in a segment of its own.
    is_trickling: Cell<bool>,
    is_cut: Cell<bool>,
}

impl Link {
    /// `tls` is a fresh rustls connection of either side, `None` for plain TCP.
    pub fn new(tcp: TcpStream, tls: Option<Connection>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        Ok(Self {
            tcp,
            tls: RefCell::new(tls),
            pending: RefCell::new(Vec::new()),
            stirred: Notify::new(),
            is_corked: Cell::new(false),
            is_trickling: Cell::new(false),
            is_cut: Cell::new(false),
        })
    }

    /// Sends `bytes` now as far as the socket takes them, the rest later, in order.
    pub fn send(&self, bytes: &[u8]) {
        let mut pending = self.pending.borrow_mut();
        let was_idle = pending.is_empty();
        match self.tls.borrow_mut().as_mut() {
            Some(tls) => {
                let written = tls.writer().write_all(bytes).and_then(|()| drain_tls(tls, &mut pending));
                if written.is_err() {
                    self.is_cut.set(true);
                }
            }
            None if was_idle && !self.is_corked.get() && !self.is_trickling.get() => match self.tcp.try_write(bytes) {
                Ok(len) => pending.extend_from_slice(&bytes[len..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pending.extend_from_slice(bytes),
                Err(_) => self.is_cut.set(true),
            },
            None => pending.extend_from_slice(bytes),
        }
        if pending.len() > PENDING_BYTES_MAX {
            self.is_cut.set(true);
        }
        drop(pending);
        if self.tls.borrow().is_some() {
            self.flush();
        }
        if self.is_cut.get() || !self.pending.borrow().is_empty() {
            self.stirred.notify_one();
        }
    }

    /// Bytes that wait for the peer.
    pub fn pending_len(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Ends the connection without a word: the reading task gets an error.
    pub fn cut(&self) {
        self.is_cut.set(true);
        self.stirred.notify_one();
    }

    /// While corked the link neither reads nor writes, as a peer that hangs.
    pub fn set_corked(&self, corked: bool) {
        self.is_corked.set(corked);
        self.stirred.notify_one();
    }

    /// From now on what is sent goes out byte by byte.
    pub fn set_trickling(&self) {
        self.is_trickling.set(true);
    }

    /// Appends what came in to `into`; 0 when the peer has closed. Writes out what waits meanwhile.
    ///
    /// Errs when the connection broke or was `cut`. Dropping the future loses nothing.
    pub async fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            if self.is_cut.get() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if self.is_corked.get() {
                self.stirred.notified().await;
                continue;
            }
            match self.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.flush();
            if self.is_cut.get() {
                continue;
            }
            let has_pending = self.pending_len() > 0;
            tokio::select! {
                ready = self.tcp.readable() => ready?,
                ready = self.tcp.writable(), if has_pending => ready?,
                () = self.stirred.notified() => {}
            }
        }
    }

    fn try_read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut tls = self.tls.borrow_mut();
        let Some(tls) = tls.as_mut() else {
            into.reserve(READ_BYTES);
            return self.tcp.try_read_buf(into);
        };
        let before = into.len();
        loop {
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 {
                into.resize(before + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut into[before..])?;
                return Ok(into.len() - before);
            }
            drain_tls(tls, &mut self.pending.borrow_mut())?;
            if tls.read_tls(&mut TryRead(&self.tcp))? == 0 {
                return Ok(0);
            }
        }
    }

    fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if self.is_corked.get() {
            return;
        }
        if let Some(tls) = self.tls.borrow_mut().as_mut()
            && drain_tls(tls, &mut pending).is_err()
        {
            self.is_cut.set(true);
        }
        let mut written = 0;
        let step = if self.is_trickling.get() { 1 } else { usize::MAX };
        while written < pending.len() {
            let end = pending.len().min(written.saturating_add(step));
            match self.tcp.try_write(&pending[written..end]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.is_cut.set(true);
                    break;
                }
            }
        }
        pending.drain(..written);
        if pending.is_empty() && pending.capacity() > 1 << 20 {
            *pending = Vec::new();
        }
    }
}

fn drain_tls(tls: &mut Connection, pending: &mut Vec<u8>) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(pending)?;
    }
    Ok(())
}

struct TryRead<'a>(&'a TcpStream);

impl Read for TryRead<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}
