//! TLS of one client's connection: what came is decrypted, what is written for the client is encrypted in one piece at the end of each step.
//!
//! A plain value without a socket, as `Client` is, so that it moves to another core with the client. Which certificate is shown is
//! `control::certificates`'s; a listener without TLS has none of this.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::tls::Tls;

/// What is kept of the buffer between two writes; a burst must not be paid for ever after.
const STAGED_KEPT_MAX: usize = 16 * 1024;
/// The first byte of every TLS handshake (RFC 8446 §5.1: a record of type handshake).
const HANDSHAKE: u8 = 22;
/// To one who speaks HTTP without TLS.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\nConnection: close\r\n\r\n\
    This port speaks TLS: use wss:// or https://\n";
/// Handshakes that fail get one line in the log within this; the others are counted.
const TOLD_EVERY: Duration = Duration::from_secs(10);

pub struct ClientTls {
    tls: Tls,
    /// Written for the client and not encrypted yet. Empty between two steps.
    staged: Vec<u8>,
    is_begun: bool,
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub enum ClientTlsError {
    /// It does not begin as TLS does. HTTP, if it begins with a letter.
    NotTls,
    Tls(io::Error),
}

impl fmt::Display for ClientTlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => f.write_str("it does not speak TLS"),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl ClientTls {
    pub fn new(config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self { tls: Tls::server(config)?, staged: Vec::new(), is_begun: false })
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Bytes written for the client that are not in its outbox yet.
    pub fn staged_len(&self) -> usize {
        self.staged.len()
    }

    /// Where to append what the client is to get.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.staged
    }

    /// `cipher` came from the socket; what it decrypts to is appended to `plain`. What must be answered waits for `seal`.
    pub fn on_bytes(&mut self, cipher: &[u8], plain: &mut Vec<u8>) -> Result<(), ClientTlsError> {
        if !self.is_begun
            && let Some(&first) = cipher.first()
        {
            if first != HANDSHAKE {
                return Err(ClientTlsError::NotTls);
            }
            self.is_begun = true;
        }
        self.tls.take_in(cipher, plain).map_err(ClientTlsError::Tls)
    }

    /// Encrypts what was written, and appends all that TLS wants to send to `outbox`.
    pub fn seal(&mut self, outbox: &mut Vec<u8>) -> io::Result<()> {
        self.tls.write(&self.staged, outbox)?;
        self.staged.clear();
        self.staged.shrink_to(STAGED_KEPT_MAX);
        self.tls.flush(outbox)
    }

    /// The last words: what was written, then TLS's goodbye.
    pub fn close(&mut self, outbox: &mut Vec<u8>) -> io::Result<()> {
        self.seal(outbox)?;
        self.tls.close(outbox)
    }

    /// What one is told with whom there can be no TLS: an alert, or a line of HTTP for one that speaks without.
    pub fn refuse(&mut self, error: &ClientTlsError, first: Option<u8>, outbox: &mut Vec<u8>) {
        match error {
            ClientTlsError::NotTls if first.is_some_and(|it| it.is_ascii_uppercase()) => {
                outbox.extend_from_slice(SPEAK_TLS);
            }
            ClientTlsError::NotTls => {}
            // A failure beside the failure changes nothing.
            ClientTlsError::Tls(_) => drop(self.tls.flush(outbox)),
        }
    }
}

/// Who asked for a page: a blocking socket, and its TLS where it has one.
pub struct Requester {
    pub socket: TcpStream,
    tls: Option<Box<ClientTls>>,
    /// Of the handshake, not sent yet.
    unsent: Vec<u8>,
}

impl Requester {
    pub fn new(socket: TcpStream, tls: Option<Box<ClientTls>>, unsent: Vec<u8>) -> Self {
        Self { socket, tls, unsent }
    }

    pub fn plain(socket: TcpStream) -> Self {
        Self::new(socket, None, Vec::new())
    }

    /// What must go through the socket so that `answer` is read at the other end, and nothing after it.
    pub fn seal(&mut self, answer: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some(tls) = &mut self.tls else { return Ok(answer) };
        let mut sealed = std::mem::take(&mut self.unsent);
        *tls.out() = answer;
        tls.close(&mut sealed)?;
        Ok(sealed)
    }
}

/// Tells of failed handshakes so that a flood of them does not flood the log.
#[derive(Debug, Default)]
pub struct Failures {
    told_at: Option<Instant>,
    untold: u64,
}

impl Failures {
    /// How many failed since the last line, this one included, if it is time for the next line.
    pub fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told_at.is_some_and(|at| now.saturating_duration_since(at) < TOLD_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;
    use crate::runtime::tls::configs;

    /// A client and our end, the handshake not begun.
    fn pair() -> (Tls, ClientTls) {
        let (client, server) = configs("localhost");
        (Tls::client(client, "localhost").unwrap(), ClientTls::new(server).unwrap())
    }

    /// What both have to say to each other, in pieces of `step`; what each reads is appended to the two buffers.
    fn exchange(client: &mut Tls, ours: &mut ClientTls, step: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut at_client, mut at_ours) = (Vec::new(), Vec::new());
        let (mut to_ours, mut to_client) = (Vec::new(), Vec::new());
        client.flush(&mut to_ours).unwrap();
        ours.seal(&mut to_client).unwrap();
        while !to_ours.is_empty() || !to_client.is_empty() {
            for piece in std::mem::take(&mut to_ours).chunks(step) {
                ours.on_bytes(piece, &mut at_ours).unwrap();
                ours.seal(&mut to_client).unwrap();
            }
            for piece in std::mem::take(&mut to_client).chunks(step) {
                client.on_bytes(piece, &mut at_client, &mut to_ours).unwrap();
            }
        }
        (at_client, at_ours)
    }

    #[test]
    fn what_is_written_on_either_side_is_read_on_the_other() {
        for step in [1, 100, 1 << 20] {
            let (mut client, mut ours) = pair();
            assert!(ours.is_handshaking());
            exchange(&mut client, &mut ours, step);
            assert!(!ours.is_handshaking());
            let text: Vec<u8> = (0..200_000_u32).map(|it| (it >> 3) as u8).collect();
            ours.out().extend_from_slice(&text);
            assert_eq!(ours.staged_len(), text.len());
            let (at_client, _) = exchange(&mut client, &mut ours, step);
            assert!(at_client == text && ours.staged_len() == 0, "in pieces of {step}");
            let mut to_ours = Vec::new();
            client.write(b"hello", &mut to_ours).unwrap();
            let mut at_ours = Vec::new();
            to_ours.chunks(step).for_each(|it| ours.on_bytes(it, &mut at_ours).unwrap());
            assert_eq!(at_ours, b"hello");
        }
    }

    #[test]
    fn the_buffer_of_a_burst_is_given_back() {
        let (mut client, mut ours) = pair();
        exchange(&mut client, &mut ours, 1 << 20);
        ours.out().extend_from_slice(&[1; 1 << 20]);
        ours.seal(&mut Vec::new()).unwrap();
        assert!(ours.out().capacity() <= STAGED_KEPT_MAX);
    }

    #[test]
    fn one_who_speaks_http_is_told_and_others_are_not() {
        let length: usize = {
            let text = str::from_utf8(SPEAK_TLS).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = head.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
            assert_eq!(body.len(), length);
            length
        };
        assert!(length > 0);
        for (said, wanted) in [(&b"GET / HTTP/1.1\r\n"[..], SPEAK_TLS), (b"\x00\x01", b""), (b"\x80\x2e\x01", b"")] {
            let (_, mut ours) = pair();
            let error = ours.on_bytes(said, &mut Vec::new()).unwrap_err();
            let mut out = Vec::new();
            ours.refuse(&error, said.first().copied(), &mut out);
            assert!(matches!(error, ClientTlsError::NotTls) && out == wanted, "{said:?}");
        }
    }

    #[test]
    fn broken_tls_is_answered_with_an_alert() {
        let (_, mut ours) = pair();
        let error = ours.on_bytes(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd", &mut Vec::new()).unwrap_err();
        let mut out = Vec::new();
        ours.refuse(&error, Some(22), &mut out);
        assert_eq!(out.first(), Some(&21), "{error}: a record of type alert");
    }

    #[test]
    fn an_answer_for_a_requester_ends_with_a_goodbye() {
        let (mut client, mut ours) = pair();
        exchange(&mut client, &mut ours, 1 << 20);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut requester = Requester::new(socket, Some(Box::new(ours)), Vec::new());
        let sealed = requester.seal(b"page".to_vec()).unwrap();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        client.on_bytes(&sealed, &mut plain, &mut out).unwrap();
        assert_eq!(plain, b"page");
        assert!(client.on_bytes(b"\x17", &mut plain, &mut out).is_err(), "closed by TLS itself");
    }

    #[test]
    fn a_flood_of_failures_is_one_line_with_their_number() {
        let (mut failures, begin) = (Failures::default(), clock::now());
        assert_eq!(failures.note(begin), Some(1));
        assert!((0..500).all(|_| failures.note(begin + TOLD_EVERY / 2).is_none()));
        assert_eq!(failures.note(begin + TOLD_EVERY), Some(501));
    }
}
