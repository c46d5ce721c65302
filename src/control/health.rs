//! `shardgate health` and `shardgate stats`: questions to the proxy that runs on this machine with this configuration. For a container's
//! health check and an operator's shell, so that an image needs no other program.
//!
//! They ask the pages `/health` and `/stats` over loopback (or the one address that is bound) and judge nothing themselves.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::args::Args;
use super::config::{self, Config, Environment};

/// A proxy that turns answers in milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// `/health` is one short line, `/stats` some 200 bytes a shard.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Prints what the proxy answered. Exit status 0 when every shard has a session.
pub fn ask(args: &Args, environment: &Environment) -> ExitCode {
    let loaded = match config::load_with(args.config.as_deref(), environment, &args.keys) {
        Ok(loaded) => loaded,
        Err(refusal) => return fail(&refusal.to_string()),
    };
    match get(address(&loaded.config), "/health") {
        Ok(answer) => {
            println!("{}", answer.text);
            if answer.is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(line) => fail(&line),
    }
}

/// Prints the totals, an object over several lines. Exit status 0 when every shard is in them.
pub fn ask_stats(args: &Args, environment: &Environment) -> ExitCode {
    let loaded = match config::load_with(args.config.as_deref(), environment, &args.keys) {
        Ok(loaded) => loaded,
        Err(refusal) => return fail(&refusal.to_string()),
    };
    // With `admin_bind` the totals are shown there alone.
    let address = loaded.config.admin_bind.map_or_else(|| address(&loaded.config), reachable);
    match get(address, "/stats") {
        Ok(Answer { is_ok: true, text }) => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(totals) => {
                println!("{totals:#}");
                if totals["complete"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => fail(&format!("what {address} answers are no totals: {error}")),
        },
        Ok(answer) => fail(&answer.text),
        Err(line) => fail(&line),
    }
}

fn fail(line: &str) -> ExitCode {
    eprintln!("shardgate: {line}");
    ExitCode::FAILURE
}

/// An unspecified address is listened on everywhere, so loopback reaches it.
fn address(config: &Config) -> SocketAddr {
    reachable(SocketAddr::new(config.bind, config.port))
}

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
fn get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    try_get(address, path).map_err(|error| format!("no proxy answers on {address}: {error}"))
}

fn try_get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.set_write_timeout(Some(ANSWER_MAX))?;
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    read_answer(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no shardgate"))
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
