//! A gateway connection that says exactly what it is told, and hears everything.

use loadtest::http::{self, Message};
use loadtest::link::Link;
use loadtest::tls::Roots;
use loadtest::url::Url;
use loadtest::ws::{self, Deframer};
use serde_json::Value;

const MESSAGE_BYTES_MAX: u64 = 1 << 24;
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

pub struct Raw {
    pub link: Link,
    deframer: Deframer,
}

/// What came: a payload, a pong's data, or a close code.
#[derive(Debug, PartialEq)]
pub enum Got {
    Payload(String),
    Pong(Vec<u8>),
    Close(u16),
    End,
}

/// The head of an upgrade as every library sends it, `extra` header lines included.
pub fn upgrade(target: &str, extra: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n{extra}\r\n",
        ws::key([1; 16])
    )
}

/// A text frame with this payload.
pub fn text(payload: &str) -> Vec<u8> {
    frame(ws::TEXT, payload.as_bytes())
}

/// A masked frame; bits beyond the opcode's four are set beside it.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ws::push_frame(&mut frame, opcode, payload, MASK);
    frame
}

/// A masked frame without the FIN bit.
pub fn fragment(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    frame[0] &= 0x7F;
    frame
}

pub fn identify(token: &str, shard: &str, intents: u64) -> String {
    format!("{{\"op\":2,\"d\":{{\"token\":\"{token}\",\"properties\":{{}}{shard},\"intents\":{intents}}}}}")
}

/// An IDENTIFY that nobody can object to.
pub fn good(shard: u32, shards: u32) -> String {
    identify("fake", &format!(",\"shard\":[{shard},{shards}]"), 1)
}

pub fn resume(session_id: &str, seq: u64) -> String {
    format!("{{\"op\":6,\"d\":{{\"token\":\"fake\",\"session_id\":\"{session_id}\",\"seq\":{seq}}}}}")
}

impl Raw {
    /// A TCP connection to the host of `url` on which `bytes` have been sent.
    pub async fn connect(url: &str, bytes: &[u8]) -> Self {
        Self::connect_trusting(url, None, bytes).await
    }

    /// The same over TLS, if `url` says so.
    pub async fn connect_trusting(url: &str, roots: Roots, bytes: &[u8]) -> Self {
        let link = loadtest::tls::connect(&Url::parse(url).unwrap(), roots).await.unwrap();
        link.send(bytes);
        Self { link, deframer: Deframer::new(false, MESSAGE_BYTES_MAX) }
    }

    /// The answer to the HTTP request that was sent.
    pub async fn answer(&mut self) -> Message {
        http::receive(&self.link, &mut self.deframer.bytes).await.unwrap()
    }

    /// A WebSocket at `target`, its path and query.
    pub async fn open(url: &str, target: &str) -> Self {
        let mut raw = Self::connect(url, upgrade(target, "").as_bytes()).await;
        assert_eq!(raw.answer().await.status(), 101, "{target}");
        raw
    }

    /// A WebSocket on which `payload` was said first.
    pub async fn saying(url: &str, payload: &str) -> Self {
        let raw = Self::open(url, "/?v=10&encoding=json").await;
        raw.say(payload);
        raw
    }

    pub fn say(&self, payload: &str) {
        self.link.send(&text(payload));
    }

    pub fn close(&self, code: u16) {
        let mut frame = Vec::new();
        ws::push_close(&mut frame, code, "", MASK);
        self.link.send(&frame);
    }

    pub async fn hear(&mut self) -> Got {
        loop {
            match self.deframer.next_message().unwrap() {
                Some((ws::CLOSE, payload)) => return Got::Close(ws::close_code(payload)),
                Some((ws::PONG, payload)) => return Got::Pong(payload.to_vec()),
                Some((_, payload)) => return Got::Payload(String::from_utf8(payload.to_vec()).unwrap()),
                None => {}
            }
            self.deframer.compact();
            if self.link.read(&mut self.deframer.bytes).await.unwrap_or(0) == 0 {
                return Got::End;
            }
        }
    }

    /// The close code, whatever comes before it; 0 when the connection ended without one.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.hear().await {
                Got::Payload(_) | Got::Pong(_) => {}
                Got::Close(code) => return code,
                Got::End => return 0,
            }
        }
    }

    /// Hears until a payload holds `text`, which it answers.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            match self.hear().await {
                Got::Payload(payload) if payload.contains(text) => return payload,
                Got::Payload(_) | Got::Pong(_) => {}
                other => panic!("{other:?} instead of {text}"),
            }
        }
    }

    /// Hears until the dispatch `name`, which it answers parsed.
    pub async fn dispatch(&mut self, name: &str) -> Value {
        serde_json::from_str(&self.until(&format!("{{\"t\":\"{name}\",")).await).unwrap()
    }

    /// Hears READY, and as many guilds as it names. Answers READY's `d` and the last number.
    pub async fn ready(&mut self) -> (Value, u64) {
        let ready = self.dispatch("READY").await;
        assert_eq!(ready["s"], 1, "READY is the first dispatch of a session");
        let guilds = ready["d"]["guilds"].as_array().unwrap().len() as u64;
        for number in 2..2 + guilds {
            let guild: Value = serde_json::from_str(&self.until("{\"t\":\"GUILD_").await).unwrap();
            assert_eq!(guild["s"], number);
        }
        (ready["d"].clone(), 1 + guilds)
    }
}

/// A client of `url` whose session on this shard has begun, its READY and its last number.
pub async fn identified(url: &str, [shard, shards]: [u32; 2]) -> (Raw, Value, u64) {
    let mut raw = Raw::saying(url, &good(shard, shards)).await;
    let (ready, seq) = raw.ready().await;
    (raw, ready, seq)
}
