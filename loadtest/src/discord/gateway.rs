//! One gateway connection: upgrade, HELLO, then payloads to `conversation` until it ends.

use std::io;
use std::rc::Rc;

use super::connection::Connection;
use super::{RECONNECT_NS, Shared};
use crate::clock::now_ns;
use crate::compress::Compression;
use crate::http::{Message, json_answer, query_value};
use crate::link::Link;
use crate::ws::{self, Deframer, FrameError};

/// Longest message that is read at all; one over 4096 bytes is closed with 4002 either way.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;

/// Serves `link` as a gateway connection; `bytes` came after the request's head.
pub async fn run(discord: Shared, link: Link, request: &Message, bytes: Vec<u8>) -> io::Result<()> {
    let Some(key) = request.header("sec-websocket-key") else {
        link.send(&json_answer(400, "", "{}"));
        return Ok(());
    };
    if refuses(&discord) {
        let discord = discord.borrow();
        let faults = &discord.faults;
        let retry_after = faults.refuse_retry_after_s.map(|it| format!("Retry-After: {it}\r\n")).unwrap_or_default();
        link.send(&json_answer(faults.refuse_status, &retry_after, "{}"));
        return Ok(());
    }
    let accept = ws::accept_key(key);
    link.send(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .as_bytes(),
    );
    let connection = open(&discord, link, request.target().1);
    let mut deframer = Deframer::new(true, MESSAGE_BYTES_MAX);
    deframer.bytes = bytes;
    let close = converse(&discord, &connection, &mut deframer).await;
    on_end(&discord, &connection, close);
    Ok(())
}

fn refuses(discord: &Shared) -> bool {
    let mut discord = discord.borrow_mut();
    let refuses = discord.faults.refuse_upgrade > 0;
    discord.faults.refuse_upgrade -= u32::from(refuses);
    discord.stats.upgrades += u64::from(!refuses);
    discord.stats.upgrades_refused += u64::from(refuses);
    refuses
}

/// Registers the connection and says HELLO, or op 7 where a fault waits, or closes for a query Discord refuses.
fn open(discord: &Shared, link: Link, query: &str) -> Rc<Connection> {
    let now_ns = now_ns();
    let compression = query_value(query, "compress").map_or(Ok(Compression::None), str::parse);
    let mut discord = discord.borrow_mut();
    let id = discord.next_connection;
    discord.next_connection += 1;
    let connection = Rc::new(Connection::new(id, link, compression.unwrap_or(Compression::None), now_ns));
    discord.connections.insert(id, connection.clone());
    let version = query_value(query, "v").unwrap_or("10");
    if !matches!(version, "9" | "10") {
        discord.stats.violate("API version", query.to_owned());
        discord.close(&connection, 4012, "Invalid API version", now_ns);
    } else if compression.is_err() || query_value(query, "encoding").is_some_and(|it| it != "json") {
        discord.stats.violate("query", query.to_owned());
        discord.close(&connection, 4002, "This stand-in speaks JSON", now_ns);
    } else if discord.faults.hello_op7 > 0 {
        discord.faults.hello_op7 -= 1;
        connection.send(b"{\"t\":null,\"s\":null,\"op\":7,\"d\":null}");
        discord.doomed.push((now_ns + RECONNECT_NS, id));
    } else {
        let interval = discord.options.heartbeat_interval_ms;
        connection.send(
            format!(
                "{{\"t\":null,\"s\":null,\"op\":10,\"d\":{{\"heartbeat_interval\":{interval},\
                 \"_trace\":[\"[\\\"gateway-fake\\\",{{\\\"micros\\\":0.0}}]\"]}}}}"
            )
            .as_bytes(),
        );
    }
    connection
}

/// Reads until the connection ends; answers the client's close code, `None` when it sent none.
async fn converse(discord: &Shared, connection: &Rc<Connection>, deframer: &mut Deframer) -> Option<u16> {
    loop {
        loop {
            let refusal = match deframer.next_message() {
                Ok(None) => break,
                Ok(Some((ws::CLOSE, payload))) => {
                    let code = ws::close_code(payload);
                    connection.close(if code == 1005 { 1000 } else { code }, "");
                    return Some(code);
                }
                Ok(Some((ws::PING, payload))) => {
                    connection.pong(payload);
                    None
                }
                Ok(Some((ws::PONG, _))) => None,
                Ok(Some((_, payload))) if !connection.is_closing() => {
                    discord.borrow_mut().on_payload(connection, payload, now_ns()).err()
                }
                Ok(Some(_)) => None,
                Err(error) => Some(refusal_of(error)),
            };
            if let Some((code, reason)) = refusal {
                let mut discord = discord.borrow_mut();
                discord.stats.violate(reason, format!("close {code}, connection {}", connection.id));
                discord.close(connection, code, reason, now_ns());
                if matches!(code, 1002 | 1009) {
                    return None;
                }
            }
        }
        deframer.compact();
        match connection.link.read(&mut deframer.bytes).await {
            Ok(len) if len > 0 => {}
            _ => return None,
        }
    }
}

fn refusal_of(error: FrameError) -> (u16, &'static str) {
    match error {
        FrameError::Protocol => (1002, "protocol error"),
        FrameError::Masking => (1002, "a client masks its frames"),
        FrameError::TooLong { .. } => (1009, "message too long"),
    }
}

/// The session ends with 1000 or 1001 from the client, and otherwise waits for a RESUME.
fn on_end(discord: &Shared, connection: &Rc<Connection>, close: Option<u16>) {
    let mut discord = discord.borrow_mut();
    let session = connection.session.borrow().clone();
    discord.detach(connection, now_ns());
    match (close, session) {
        (Some(code), session) => {
            *discord.stats.closes_received.entry(code).or_default() += 1;
            if let (1000 | 1001, Some((shard, id))) = (code, session) {
                discord.shards[shard as usize].sessions.retain(|it| it.id != id);
            }
        }
        (None, _) => discord.stats.drops += 1,
    }
    discord.connections.remove(&connection.id);
}
