//! A client that believes nothing: it checks each number and each message, and builds the state for itself.

use serde_json::Value;

use super::discord::flags;
use crate::cache::{Cache, Shapes};
use crate::shard::seat::SeatKey;
use crate::wire::{Compression, Deframer, Encoder, Message, Role};

pub struct Client {
    pub number: usize,
    pub key: Option<SeatKey>,
    pub encoder: Encoder,
    deframer: Deframer,
    pub session_id: Option<String>,
    pub last_sequence: u64,
    pub state: Cache,
    guilds_due: usize,
    last_message: Option<(u64, u64)>,
    pub resuming: bool,
    pub requests: u64,
    pub chunks: u64,
    /// It was connected when the process died, and nobody knows how far it got.
    pub is_unknown: bool,
    /// Discord forgot its session while that was so, or the proxy lost all it had: op 9 is right.
    pub may_be_refused: bool,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            key: None,
            encoder: Encoder::new(Compression::None),
            deframer: deframer(),
            session_id: None,
            last_sequence: 0,
            state: Cache::new(flags(), Shapes::default()),
            guilds_due: 0,
            last_message: None,
            resuming: false,
            requests: 0,
            chunks: 0,
            is_unknown: false,
            may_be_refused: false,
        }
    }

    /// A new session: what was known before does not count.
    pub fn forget(&mut self) {
        *self = Self { requests: self.requests, chunks: self.chunks, ..Self::new(self.number) };
    }

    pub fn on_connect(&mut self, key: SeatKey) {
        self.key = Some(key);
        self.encoder = Encoder::new(Compression::None);
        self.deframer = deframer();
    }

    pub fn has_snapshot(&self) -> bool {
        self.session_id.is_some() && self.guilds_due == 0
    }

    pub fn last_message(&self) -> Option<u64> {
        self.last_message.map(|it| it.0)
    }

    pub fn on_bytes(&mut self, mut bytes: &[u8]) {
        loop {
            let payload = match self.deframer.next(&mut bytes).unwrap() {
                Some(Message::Text(payload)) => payload.to_vec(),
                Some(other) => panic!("unexpected message {other:?}"),
                None => return,
            };
            self.on_dispatch(&serde_json::from_slice(&payload).unwrap(), &payload);
        }
    }

    fn on_dispatch(&mut self, payload: &Value, raw: &[u8]) {
        let sequence = payload["s"].as_u64().unwrap();
        assert_eq!(sequence, self.last_sequence + 1, "client {}: {payload}", self.number);
        self.last_sequence = sequence;
        let (name, d) = (payload["t"].as_str().unwrap(), &payload["d"]);
        let start = raw.windows(5).position(|it| it == br#","d":"#.as_slice()).unwrap() + 5;
        let text = &raw[start..raw.len() - 1];
        match name {
            "READY" => {
                self.session_id = Some(d["session_id"].as_str().unwrap().to_owned());
                self.guilds_due = d["guilds"].as_array().unwrap().len();
                self.state.on_ready(text).unwrap();
                return;
            }
            "RESUMED" => {
                assert!(self.resuming, "client {}: RESUMED without RESUME", self.number);
                self.resuming = false;
                self.is_unknown = false;
            }
            "MESSAGE_CREATE" => {
                let message = (d["n"].as_u64().unwrap(), d["session"].as_u64().unwrap());
                if let Some(last) = self.last_message {
                    let wanted = if last.1 == message.1 { message.0 == last.0 + 1 } else { message > last };
                    assert!(wanted, "client {}: message {message:?} after {last:?}", self.number);
                }
                self.last_message = Some(message);
            }
            "GUILD_MEMBERS_CHUNK" => {
                let nonce = d["nonce"].as_str().unwrap_or_default();
                assert!(nonce.starts_with(&format!("client-{}-", self.number)), "client {}: {payload}", self.number);
                self.chunks += 1;
            }
            _ => {}
        }
        if self.guilds_due > 0 {
            assert!(matches!(name, "GUILD_CREATE" | "GUILD_DELETE"), "{name} came into the guild stream");
            self.guilds_due -= 1;
        }
        self.state.apply(name.as_bytes(), text).unwrap();
    }
}

fn deframer() -> Deframer {
    Deframer::new(Role::Client, 1 << 24)
}
