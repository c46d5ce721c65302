//! TLS towards Discord and towards clients: rustls driven through its own buffers, without a socket.
//!
//! It reads no certificate file of ours: `control::certificates` does.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

/// The trust store: the system's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), or Mozilla's list built in
/// where the system has none.
pub fn client_config() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// One TLS connection between a plain side and a cipher side, both plain buffers.
pub struct Tls {
    connection: Connection,
}

impl Tls {
    /// Our end of a connection to `host`.
    pub fn client(config: Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?.into();
        Ok(Self { connection })
    }

    /// Our end of a connection that a client has opened.
    pub fn server(config: Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?.into();
        Ok(Self { connection })
    }

    /// Nothing that is written goes out yet.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// `cipher` came from the socket; what it decrypts to is appended to `plain`, what must be sent to `out`.
    /// On an error an alert for the other side may have been appended to `out`.
    pub fn on_bytes(&mut self, cipher: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
        let taken = self.take_in(cipher, plain);
        self.flush(out)?;
        taken
    }

    /// As `on_bytes`; what must be sent waits for `flush`, an alert included.
    pub fn take_in(&mut self, mut cipher: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        while !cipher.is_empty() {
            if self.connection.read_tls(&mut cipher)? == 0 {
                // After its close_notify nothing is read any more, whatever still comes.
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "TLS was closed by the other side"));
            }
            let state = self.connection.process_new_packets();
            let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.connection.reader().read_exact(&mut plain[start..])?;
        }
        Ok(())
    }

    /// Encrypts `plain` into `out`. Before the handshake is over rustls keeps it.
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut rest = plain;
        while !rest.is_empty() {
            let taken = self.connection.writer().write(rest)?;
            if taken == 0 {
                return Err(io::Error::other("the TLS handshake is not over and its buffer is full"));
            }
            rest = &rest[taken..];
            self.flush(out)?;
        }
        Ok(())
    }

    /// Appends what rustls wants to send.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }

    /// Says goodbye in TLS.
    pub fn close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush(out)
    }
}

/// For tests: both sides of a connection to `name`, whose certificate one shows and the other trusts.
#[cfg(test)]
pub(super) fn configs(name: &str) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    use rustls::pki_types::PrivateKeyDer;

    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(client), Arc::new(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of one connection, the handshake done.
    fn pair() -> (Tls, ServerConnection) {
        let (client, server) = configs("gateway.invalid");
        let mut server = ServerConnection::new(server).unwrap();
        let mut tls = Tls::client(client, "gateway.invalid").unwrap();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        tls.flush(&mut out).unwrap();
        while !out.is_empty() {
            take_in(&mut server, &out);
            out.clear();
            tls.on_bytes(&sent(&mut server), &mut plain, &mut out).unwrap();
        }
        assert!(!server.is_handshaking() && plain.is_empty());
        (tls, server)
    }

    fn take_in(server: &mut ServerConnection, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
    }

    fn sent(server: &mut ServerConnection) -> Vec<u8> {
        let mut out = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut out).unwrap();
        }
        out
    }

    #[test]
    fn what_is_sent_arrives_however_it_was_cut_into_reads() {
        for step in [1, 7, 1000, usize::MAX] {
            let (mut tls, mut server) = pair();
            let text: Vec<u8> = (0..50_000_u32).map(|it| ((it * it) >> 3) as u8).collect();
            server.set_buffer_limit(None);
            server.writer().write_all(&text).unwrap();
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            for part in sent(&mut server).chunks(step.min(1 << 20)) {
                tls.on_bytes(part, &mut plain, &mut out).unwrap();
            }
            assert!(plain == text, "in steps of {step}");
            tls.write(&text, &mut out).unwrap();
            let mut back = Vec::new();
            for part in out.chunks(4096) {
                take_in(&mut server, part);
                let mut got = [0; 65536];
                while let Ok(len) = server.reader().read(&mut got) {
                    back.extend_from_slice(&got[..len]);
                }
            }
            assert!(back == text);
        }
    }

    #[test]
    fn bytes_behind_a_close_notify_end_the_connection_and_what_came_before_it_is_kept() {
        let (mut tls, mut server) = pair();
        server.writer().write_all(b"last words").unwrap();
        server.send_close_notify();
        let mut bytes = sent(&mut server);
        bytes.extend_from_slice(&[0; 2000]);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        // They may come in the same read or in the next.
        let first = tls.on_bytes(&bytes, &mut plain, &mut out);
        let error = first.and_then(|()| tls.on_bytes(&[0; 10], &mut plain, &mut out)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(plain, b"last words");
    }

    #[test]
    fn a_record_that_was_tampered_with_is_an_error_and_is_told() {
        let (mut tls, mut server) = pair();
        server.writer().write_all(b"words").unwrap();
        let mut bytes = sent(&mut server);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        assert!(tls.on_bytes(&bytes, &mut plain, &mut out).is_err());
        assert!(plain.is_empty() && !out.is_empty(), "an alert goes out");
    }
}
