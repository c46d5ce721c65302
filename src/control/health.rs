//! `shardgate health` and `shardgate stats`: questions to the proxy that runs on this machine with this configuration. For a container's
//! health check and an operator's shell, so that an image needs no other program.
//!
//! They ask the pages `/health` and `/stats` over loopback (or the one address that is bound) and judge nothing themselves. With `tls_cert`
//! they ask over TLS and take any certificate: after a renewal that failed the proxy shows another one than the file has. What `admin_key`
//! opens is therefore asked for on loopback alone.

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

use super::access::AdminKey;
use super::args::Args;
use super::config::sources::FlagValue;
use super::config::{self, Config, Environment, Loaded, Notice};
use super::keys::Refusal;
use super::show;

/// A proxy that turns answers in milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// `/health` is one short line, `/stats` some 200 bytes a shard.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The keys that say where the proxy answers and what it is shown. Others are not read: the token may be where only the service may look.
const ASKING: [&str; 7] = ["bind", "port", "admin_bind", "admin_key", "tls_cert", "tls_key", "tls_client_ca"];
/// Flags that go without saying: they stand beside those of the proxy's own command line.
const SILENT: [&str; 3] = ["token", "token_file", "intents"];

/// Prints what the proxy answered. Exit status 0 when every shard has a session, or, with `--live`, when every core answers.
pub fn ask(args: &Args, environment: &Environment) -> ExitCode {
    let loaded = match load(args, environment) {
        Ok(loaded) => loaded,
        Err(refusal) => return fail(&refusal.to_string()),
    };
    let way = match Way::to_gateway(&loaded.config) {
        Ok(way) => way,
        Err(line) => return fail(line),
    };
    match get(&way, if args.live { "/livez" } else { "/health" }) {
        Ok(answer) => {
            show(&format!("{}\n", answer.text));
            if answer.is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(line) => fail(&line),
    }
}

/// Prints the totals, an object over several lines. Exit status 0 when every shard is in them.
pub fn ask_stats(args: &Args, environment: &Environment) -> ExitCode {
    let loaded = match load(args, environment) {
        Ok(loaded) => loaded,
        Err(refusal) => return fail(&refusal.to_string()),
    };
    // With `admin_bind` the totals are shown there alone.
    let way = match loaded.config.admin_bind {
        Some(admin) => Way { address: reachable(admin), is_tls: false, key: None },
        None => match Way::to_gateway(&loaded.config) {
            Ok(way) => way,
            Err(line) => return fail(line),
        },
    };
    let (way, address) = (way.with_key(&loaded.config), way.address);
    match get(&way, "/stats") {
        Ok(Answer { is_ok: true, text }) => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(totals) => {
                show(&format!("{totals:#}\n"));
                if totals["complete"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => fail(&format!("what {address} answers are no totals: {error}")),
        },
        Ok(answer) => fail(&answer.text),
        Err(line) => fail(&line),
    }
}

/// The configuration as the proxy would read it. Slips in it, and flags that say nothing about where the proxy answers, are told on standard error.
fn load(args: &Args, environment: &Environment) -> Result<Loaded, Refusal> {
    let loaded = config::load_some(args.config.as_deref(), environment, &args.keys, &ASKING)?;
    for notice in &loaded.notices {
        if let Notice::Warning(line) = notice {
            eprintln!("shardgate: {line}");
        }
    }
    if let Some(line) = without_effect(&args.keys) {
        eprintln!("shardgate: {line}");
    }
    Ok(loaded)
}

/// A line about flags that change nothing about the question: the answer is that of the proxy which runs, whatever it was started with.
fn without_effect(flags: &[FlagValue]) -> Option<String> {
    let mut names: Vec<String> = flags
        .iter()
        .filter(|(key, _)| !ASKING.contains(key) && !SILENT.contains(key))
        .map(|(key, _)| format!("`{key}`"))
        .collect();
    names.sort();
    names.dedup();
    (!names.is_empty())
        .then(|| format!("{}: without effect here, the proxy that runs answers as it was started", names.join(", ")))
}

fn fail(line: &str) -> ExitCode {
    eprintln!("shardgate: {line}");
    ExitCode::FAILURE
}

/// Where to ask, and how.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    is_tls: bool,
    key: Option<AdminKey>,
}

impl Way {
    /// The gateway's port. Where clients must show a certificate this one has none, and asks on `admin_bind`.
    fn to_gateway(config: &Config) -> Result<Self, &'static str> {
        let gateway = reachable(SocketAddr::new(config.bind, config.port));
        let asks_for_certificates = config.tls.as_ref().is_some_and(|it| it.client_ca.is_some());
        match config.admin_bind.filter(|_| asks_for_certificates) {
            Some(admin) => Ok(Self { address: reachable(admin), is_tls: false, key: None }),
            None if asks_for_certificates => {
                Err("with tls_client_ca the gateway's port asks everybody for a certificate; remedy: set \
                                                  admin_bind, where this is answered without one")
            }
            None => Ok(Self { address: gateway, is_tls: config.tls.is_some(), key: None }),
        }
    }

    /// The key is shown to this machine alone.
    fn with_key(&self, config: &Config) -> Self {
        Self { key: config.admin_key.clone().filter(|_| self.address.ip().is_loopback()), ..self.clone() }
    }
}

/// An unspecified address is listened on everywhere, so loopback reaches it.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let host = match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(host, bound.port())
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    is_ok: bool,
    /// The page's text, without trailing white space.
    text: String,
}

/// The error is a line for the operator.
fn get(way: &Way, path: &str) -> Result<Answer, String> {
    try_get(way, path).map_err(|error| format!("no proxy answers on {}: {error}", way.address))
}

fn try_get(way: &Way, path: &str) -> io::Result<Answer> {
    let address = way.address;
    let socket = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.set_write_timeout(Some(ANSWER_MAX))?;
    let key = way.key.as_ref().map_or(String::new(), |it| format!("Authorization: Bearer {}\r\n", it.secret()));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{key}Connection: close\r\n\r\n");
    let answer = if way.is_tls { say(over_tls(socket, address.ip())?, &request) } else { say(socket, &request) }?;
    read_answer(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no shardgate"))
}

fn say(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
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
    use crate::control::config::table;

    #[test]
    fn the_status_decides_and_the_text_is_shown() {
        let ready = read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK");
        assert_eq!(ready, Some(Answer { is_ok: true, text: "OK".into() }));
        let not_ready = read_answer(b"HTTP/1.1 400 Bad Request\r\n\r\nNot ready!\n");
        assert_eq!(not_ready, Some(Answer { is_ok: false, text: "Not ready!".into() }));
    }

    #[test]
    fn flags_that_change_nothing_about_the_question_are_named() {
        let flags = |names: &[&'static str]| names.iter().map(|it| (*it, "1".to_owned())).collect::<Vec<_>>();
        assert_eq!(without_effect(&flags(&["port", "token", "admin_bind"])), None);
        let line = "`cache.members`, `shards`: without effect here, the proxy that runs answers as it was started";
        assert_eq!(without_effect(&flags(&["shards", "port", "cache.members", "shards"])), Some(line.into()));
        assert!(ASKING.iter().all(|it| table::keys().any(|key| key.name == *it)), "{ASKING:?}");
    }

    #[test]
    fn whatever_else_answers_is_told_apart() {
        for bytes in [&b""[..], b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 2", b"\xff\xfe"] {
            assert_eq!(read_answer(bytes), None);
        }
    }
}
