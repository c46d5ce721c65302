//! A client that believes nothing: it checks each number, each guild's version, each message's number, each chunk.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use shardgate::shard::seat::SeatKey;
use shardgate::wire::{Compression, Deframer, Encoder, Message, Role};

use crate::discord::Guild;

/// Number of Discord's session, and of a message in it; 0 before the first.
pub type Mark = (u64, u64);

pub struct Client {
    pub number: usize,
    pub shard: usize,
    pub seat: Option<SeatKey>,
    pub encoder: Encoder,
    deframer: Deframer,
    /// From READY; kept over connections for RESUME.
    pub session_id: Option<String>,
    pub last_sequence: u64,
    /// READY's guilds that have not come yet.
    guilds_due: Vec<u64>,
    got_ready: bool,
    /// The last message, or the one that the snapshot stands behind.
    pub last_message: Option<Mark>,
    /// Where it went from one session of Discord's to a later one: the last message seen, and the later session.
    pub crossings: Vec<(Mark, u64)>,
    /// What it knows; `None` for a guild that is not available.
    pub guilds: BTreeMap<u64, Option<Guild>>,
    /// Since when RESUME has not been answered.
    pub resuming: Option<Duration>,
    pub paused_until: Duration,
    /// The proxy died while the session was young or the client connected: how far it got the next one has to find out.
    pub is_doubtful: bool,
    /// The session may be lost without anybody's fault.
    pub may_lose: bool,
    pub requests: u64,
    /// The next chunk of each request that is under way, by its number.
    chunks: BTreeMap<u64, u64>,
    /// Discord has forgotten what was asked before this one.
    forgotten: u64,
    pub chunked: u64,
    pub seen: u64,
}

impl Client {
    pub fn new(number: usize, shard: usize) -> Self {
        Self {
            number,
            shard,
            seat: None,
            encoder: Encoder::new(Compression::None),
            deframer: Deframer::new(Role::Client, 1 << 20),
            session_id: None,
            last_sequence: 0,
            guilds_due: Vec::new(),
            got_ready: false,
            last_message: None,
            crossings: Vec::new(),
            guilds: BTreeMap::new(),
            resuming: None,
            paused_until: Duration::ZERO,
            is_doubtful: false,
            may_lose: false,
            requests: 0,
            chunks: BTreeMap::new(),
            forgotten: 0,
            chunked: 0,
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
            chunked: self.chunked,
            seen: self.seen,
            paused_until: self.paused_until,
            ..Self::new(self.number, self.shard)
        };
    }

    /// Whether READY and all guilds have come, so that RESUME must work.
    pub fn has_snapshot(&self) -> bool {
        self.got_ready && self.guilds_due.is_empty()
    }

    /// Chunks that have begun to come and not ended.
    pub fn awaits_chunks(&self) -> bool {
        self.chunks.keys().any(|it| *it > self.forgotten)
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
        assert_eq!(sequence, self.last_sequence + 1, "client {}: s", self.number);
        self.last_sequence = sequence;
        self.seen += 1;
        let d = &payload["d"];
        let name = payload["t"].as_str().expect("every dispatch is named");
        if name == "READY" {
            assert_eq!(sequence, 1);
            self.got_ready = true;
            self.session_id = Some(d["session_id"].as_str().unwrap().to_owned());
            self.guilds_due = d["guilds"].as_array().unwrap().iter().map(|it| id_of(&it["id"])).collect();
            return;
        }
        assert!(self.got_ready, "client {}: {name} before READY", self.number);
        if !self.guilds_due.is_empty() {
            return self.on_snapshot(name, d);
        }
        self.on_live(name, d);
    }

    fn on_snapshot(&mut self, name: &str, d: &Value) {
        let id = id_of(&d["id"]);
        let at = self.guilds_due.iter().position(|it| *it == id);
        let at = at.unwrap_or_else(|| panic!("client {}: {name} came into the guild stream: {d}", self.number));
        self.guilds_due.swap_remove(at);
        let guild = match name {
            "GUILD_CREATE" => {
                assert_eq!(d["unavailable"], false);
                Some(guild_of(d))
            }
            "GUILD_DELETE" => {
                assert_eq!(d["unavailable"], true);
                None
            }
            _ => panic!("client {}: {name} came into the guild stream", self.number),
        };
        assert!(self.guilds.insert(id, guild).is_none(), "a guild was twice in READY");
    }

    fn on_live(&mut self, name: &str, d: &Value) {
        let number = self.number;
        match name {
            "RESUMED" => {
                assert!(self.resuming.is_some(), "client {number}: RESUMED without RESUME");
                self.resuming = None;
                (self.is_doubtful, self.may_lose) = (false, false);
            }
            "MESSAGE_CREATE" => {
                let mark = (d["e"].as_u64().unwrap(), d["n"].as_u64().unwrap());
                match self.last_message {
                    Some(last) if last.0 == mark.0 => {
                        assert_eq!(mark.1, last.1 + 1, "client {number}: message lost, doubled or out of order");
                    }
                    Some(last) => {
                        assert!(mark.0 > last.0, "client {number}: a message of a session that is over");
                        assert_eq!(mark.1, 1, "client {number}: the new session's first messages are missing");
                        self.crossings.push((last, mark.0));
                    }
                    None => {}
                }
                self.last_message = Some(mark);
            }
            "GUILD_CREATE" => {
                let old = self.guilds.insert(id_of(&d["id"]), Some(guild_of(d)));
                assert!(!matches!(old, Some(Some(_))), "client {number}: guild {} came twice", d["id"]);
            }
            "GUILD_DELETE" => {
                let id = id_of(&d["id"]);
                let is_outage = d["unavailable"] == true;
                let old = if is_outage { self.guilds.insert(id, None) } else { self.guilds.remove(&id) };
                assert!(old.is_some(), "client {number}: a guild has gone that was never there");
            }
            "GUILD_UPDATE" => {
                let guild = self.guild(&d["id"]);
                guild.version += 1;
                assert_eq!(d["version"].as_u64(), Some(guild.version), "client {number}: guild {}", d["id"]);
            }
            "CHANNEL_CREATE" => {
                let channel = id_of(&d["id"]);
                assert!(
                    self.guild(&d["guild_id"]).channels.insert(channel),
                    "client {number}: channel {channel} twice"
                );
            }
            "CHANNEL_DELETE" => {
                let channel = id_of(&d["id"]);
                assert!(self.guild(&d["guild_id"]).channels.remove(&channel), "client {number}: no channel {channel}");
            }
            "GUILD_MEMBERS_CHUNK" => self.on_chunk(d),
            other => panic!("unexpected {other}"),
        }
    }

    fn on_chunk(&mut self, d: &Value) {
        let number = self.number;
        let nonce = d["nonce"].as_str().unwrap_or_default();
        let request = nonce.strip_prefix(&format!("client-{number}-")).and_then(|it| it.parse().ok());
        let request = request.unwrap_or_else(|| panic!("client {number} got the chunk of {nonce:?}"));
        let next = self.chunks.entry(request).or_default();
        if request <= self.forgotten && d["chunk_index"] == 0 {
            // Discord was asked again, and answers from the beginning.
            *next = 0;
        }
        assert_eq!(d["chunk_index"].as_u64(), Some(*next), "client {number}: chunk of {nonce}");
        *next += 1;
        if d["chunk_count"].as_u64() == Some(*next) {
            self.chunks.remove(&request);
        }
        self.chunked += 1;
    }

    /// Discord has forgotten what was asked of it: the rest of it may never come, if the proxy was another process then.
    pub fn forget_chunks(&mut self) {
        self.forgotten = self.requests;
    }

    fn guild(&mut self, id: &Value) -> &mut Guild {
        let number = self.number;
        let guild = self.guilds.get_mut(&id_of(id)).and_then(Option::as_mut);
        guild.unwrap_or_else(|| panic!("client {number}: something happened in guild {id}, which is not there"))
    }
}

fn id_of(id: &Value) -> u64 {
    id.as_str().unwrap().parse().unwrap()
}

fn guild_of(d: &Value) -> Guild {
    let channels = d["channels"].as_array().unwrap().iter().map(|it| id_of(&it["id"]));
    Guild { version: d["version"].as_u64().unwrap(), channels: channels.collect() }
}
