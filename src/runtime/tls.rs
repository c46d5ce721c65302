//! TLS towards Discord: rustls driven through its own buffers, without a socket.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

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
    connection: ClientConnection,
}

impl Tls {
    pub fn new(config: Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self { connection })
    }

    /// `cipher` came from the socket; what it decrypts to is appended to `plain`, what must be sent to `out`.
    /// On an error an alert for the other side may have been appended to `out`.
    pub fn on_bytes(&mut self, mut cipher: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
        while !cipher.is_empty() {
            if self.connection.read_tls(&mut cipher)? == 0 {
                // After its close_notify nothing is read any more, whatever still comes.
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "TLS was closed by the other side"));
            }
            let state = self.connection.process_new_packets();
            let pending = match state {
                Ok(state) => state.plaintext_bytes_to_read(),
                Err(error) => {
                    self.flush(out)?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            let start = plain.len();
            plain.resize(start + pending, 0);
            self.connection.reader().read_exact(&mut plain[start..])?;
        }
        self.flush(out)
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
