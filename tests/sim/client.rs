//! A client that believes nothing: it checks each number, each guild's version and each message's number.

use std::time::Duration;

use serde_json::Value;
use shardgate::shard::seat::SeatKey;
use shardgate::wire::{Compression, Deframer, Encoder, Message, Role};

use crate::discord::GUILDS;

pub struct Client {
    pub number: usize,
    pub seat: Option<SeatKey>,
    pub encoder: Encoder,
    deframer: Deframer,
    /// From READY; kept over connections for RESUME.
    pub session_id: Option<String>,
    pub last_sequence: u64,
    /// READY's guilds that have not come yet.
    guilds_due: Vec<String>,
    /// Those that were answered with an outage: Discord had not sent them, and will.
    unavailable: Vec<String>,
    got_ready: bool,
    pub last_message: Option<u64>,
    /// Discord's session of that message: between two of them messages are lost, and that is known.
    pub message_session: Option<u64>,
    /// The number that the first message after the snapshot must have.
    pub first_message: Option<u64>,
    pub versions: [Option<u64>; GUILDS],
    pub resuming: bool,
    pub paused_until: Duration,
    pub requests: u64,
    pub chunks: u64,
    pub seen: u64,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            seat: None,
            encoder: Encoder::new(Compression::None),
            deframer: Deframer::new(Role::Client, 1 << 20),
            session_id: None,
            last_sequence: 0,
            guilds_due: Vec::new(),
            unavailable: Vec::new(),
            got_ready: false,
            last_message: None,
            message_session: None,
            first_message: None,
            versions: [None; GUILDS],
            resuming: false,
            paused_until: Duration::ZERO,
            requests: 0,
            chunks: 0,
            seen: 0,
        }
    }

    /// A new connection; the session may be gone on with.
    pub fn on_connect(&mut self) {
        self.encoder = Encoder::new(Compression::None);
        self.deframer = Deframer::new(Role::Client, 1 << 20);
    }

    /// A new session: what was known before does not count.
    pub fn forget(&mut self) {
        *self = Self {
            requests: self.requests,
            chunks: self.chunks,
            seen: self.seen,
            paused_until: self.paused_until,
            ..Self::new(self.number)
        };
    }

    /// Whether READY and all guilds have come, so that RESUME must work.
    pub fn has_snapshot(&self) -> bool {
        self.got_ready && self.guilds_due.is_empty()
    }

    pub fn on_bytes(&mut self, mut bytes: &[u8]) {
        loop {
            let payload: Value = match self.deframer.next(&mut bytes).expect("the proxy sends valid frames") {
                Some(Message::Text(payload)) => serde_json::from_slice(payload).expect("the proxy sends JSON"),
                Some(other) => panic!("unexpected message {other:?}"),
                None => return,
            };
            self.on_dispatch(&payload);
        }
    }

    fn on_dispatch(&mut self, payload: &Value) {
        assert_eq!(payload["op"], 0);
        let sequence = payload["s"].as_u64().expect("every dispatch is numbered");
        assert_eq!(
            sequence,
            self.last_sequence + 1,
            "client {}: s {} after {}",
            self.number,
            sequence,
            self.last_sequence
        );
        self.last_sequence = sequence;
        self.seen += 1;
        let d = &payload["d"];
        let name = payload["t"].as_str().expect("every dispatch is named");
        if name != "READY" {
            assert!(self.got_ready, "{name} before READY");
        }
        match name {
            "READY" => {
                assert_eq!(sequence, 1);
                self.got_ready = true;
                self.session_id = Some(d["session_id"].as_str().unwrap().to_owned());
                self.guilds_due =
                    d["guilds"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
            }
            "GUILD_CREATE" => {
                let id = take(&mut self.guilds_due, &d["id"]).or_else(|| take(&mut self.unavailable, &d["id"]));
                assert!(id.is_some(), "a guild came twice, or was not in READY");
                assert_eq!(d["unavailable"], false);
                let (guild, version) = (guild_of(&d["id"]), d["version"].as_u64());
                assert!(version >= self.versions[guild], "client {}: guild {guild} goes back", self.number);
                self.versions[guild] = version;
            }
            "GUILD_DELETE" => {
                assert_eq!(d["unavailable"], true);
                // Not there yet, or not as it was when Discord forgot the session: it comes again.
                let id = d["id"].as_str().unwrap().to_owned();
                take(&mut self.guilds_due, &d["id"]);
                assert!(!self.unavailable.contains(&id), "an outage in an outage");
                self.unavailable.push(id);
            }
            _ => {
                assert!(self.guilds_due.is_empty(), "{name} came into the guild stream");
                self.on_live(name, d);
            }
        }
    }

    fn on_live(&mut self, name: &str, d: &Value) {
        match name {
            "RESUMED" => {
                assert!(self.resuming, "RESUMED without RESUME");
                self.resuming = false;
            }
            "MESSAGE_CREATE" => {
                let n = d["n"].as_u64().unwrap();
                let session = d["session"].as_u64();
                let is_known_gap = self.message_session.is_some_and(|it| Some(it) != session);
                self.message_session = session;
                if is_known_gap {
                    assert!(Some(n) > self.last_message);
                } else if let Some(expected) = self.last_message.map(|it| it + 1).or(self.first_message) {
                    assert_eq!(n, expected, "client {}: message lost, doubled or out of order", self.number);
                }
                self.last_message = Some(n);
            }
            "GUILD_UPDATE" => {
                let guild = guild_of(&d["id"]);
                let version = d["version"].as_u64();
                assert_eq!(version, self.versions[guild].map(|it| it + 1), "client {}: guild {guild}", self.number);
                self.versions[guild] = version;
            }
            "GUILD_MEMBERS_CHUNK" => {
                let nonce = d["nonce"].as_str().unwrap_or_default();
                assert!(
                    nonce.starts_with(&format!("client-{}-", self.number)),
                    "client {} got the chunk of {nonce:?}",
                    self.number
                );
                self.chunks += 1;
            }
            other => panic!("unexpected {other}"),
        }
    }
}

fn take(ids: &mut Vec<String>, id: &Value) -> Option<String> {
    let at = ids.iter().position(|it| id == it.as_str())?;
    Some(ids.swap_remove(at))
}

fn guild_of(id: &Value) -> usize {
    id.as_str().unwrap().parse::<usize>().unwrap() - 100
}
