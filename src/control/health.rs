//! `shardgate health`: asks the proxy that runs on this machine with this configuration whether it is ready. For a container's
//! health check, so that an image needs no other program.
//!
//! It asks the page `/health` over loopback (or the one address that is bound) and judges nothing itself. With `tls_cert` it asks over TLS and
//! takes any certificate: it says nothing secret, and after a renewal that failed the proxy shows another one than the file has.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::args::Args;
use super::config::{self, Config, Environment};

/// A proxy that turns answers in milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// The page is one short line.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Prints what the proxy answered. Exit status 0 when every shard has a session.
pub fn ask(args: &Args, environment: &Environment) -> ExitCode {
    let loaded = match config::load(args.config.as_deref(), environment) {
        Ok(loaded) => loaded,
        Err(refusal) => {
            eprintln!("shardgate: {refusal}");
            return ExitCode::FAILURE;
        }
    };
    let (address, tls) = match asked(&loaded.config) {
        Ok(asked) => asked,
        Err(line) => {
            eprintln!("shardgate: {line}");
            return ExitCode::FAILURE;
        }
    };
    match get_health(address, tls) {
        Ok(answer) => {
            println!("{}", answer.text);
            if answer.is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("shardgate: no proxy answers on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where to ask, and whether over TLS. Where clients must show a certificate this one has none, and asks on `admin_bind`.
fn asked(config: &Config) -> Result<(SocketAddr, bool), &'static str> {
    let gateway = SocketAddr::new(config.bind, config.port);
    match (&config.tls, config.admin_bind) {
        (None, _) => Ok((reachable(gateway), false)),
        (Some(files), _) if files.client_ca.is_none() => Ok((reachable(gateway), true)),
        (Some(_), Some(admin)) => Ok((reachable(admin), false)),
        (Some(_), None) => Err(
            "with tls_client_ca the gateway's port asks everybody for a certificate; remedy: set admin_bind, where health is \
                               answered without one",
        ),
    }
}

/// An unspecified address is listened on everywhere, so loopback reaches it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let host = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        bound => bound,
    };
    SocketAddr::new(host, address.port())
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    is_ok: bool,
    /// The page's text, without trailing white space.
    text: String,
}

fn get_health(address: SocketAddr, tls: bool) -> io::Result<Answer> {
    let socket = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.set_write_timeout(Some(ANSWER_MAX))?;
    let answer = if tls { get(over_tls(socket, address.ip())?, address) } else { get(socket, address) }?;
    read_answer(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no shardgate"))
}

fn get(mut stream: impl Read + Write, address: SocketAddr) -> io::Result<Vec<u8>> {
    stream.write_all(format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

fn over_tls(socket: TcpStream, address: IpAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), address.into()).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, socket))
}

/// Whoever has the private key of the certificate that it shows is believed.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    Some(Answer { is_ok: status == "200", text: body.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_decides_and_the_text_is_shown() {
        let ready = read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK");
        assert_eq!(ready, Some(Answer { is_ok: true, text: "OK".into() }));
        let not_ready = read_answer(b"HTTP/1.1 400 Bad Request\r\n\r\nNot ready!\n");
        assert_eq!(not_ready, Some(Answer { is_ok: false, text: "Not ready!".into() }));
    }

    #[test]
    fn whatever_else_answers_is_told_apart() {
        for bytes in [&b""[..], b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 2", b"\xff\xfe"] {
            assert_eq!(read_answer(bytes), None);
        }
    }
}
