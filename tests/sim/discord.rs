//! Discord as far as one shard can see it: guilds that change, a session with a replay buffer, connections that come and go.
//!
//! Messages are numbered 1, 2, 3, … within a session and carry the session's number; guilds carry a version that rises by one with each
//! update. That is what clients check.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use shardgate::wire::CloseCode;

pub const GUILDS: u64 = 5;
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(10_000);
pub const IDENTIFY_INTERVAL: Duration = Duration::from_secs(5);

/// What a connection may send to Discord.
///
/// Source: Discord, Gateway › Rate limiting.
const PAYLOADS_MAX: usize = 120;
const PAYLOADS_PERIOD: Duration = Duration::from_secs(60);

const OP9: &[u8] = br#"{"t":null,"s":null,"op":9,"d":false}"#;

/// What Discord does in answer to something.
#[derive(Debug)]
pub enum Out {
    Payload(Vec<u8>),
    Close(Option<CloseCode>),
}

/// What is true of one guild.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guild {
    pub version: u64,
    pub channels: BTreeSet<u64>,
}

struct Session {
    id: String,
    /// 1 for the first session of this shard.
    number: u64,
    sequence: u64,
    messages: u64,
    buffer: Vec<(u64, Vec<u8>)>,
}

/// What one connection has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    Opened,
    Greeted,
    Live,
    Dead,
}

/// When somebody was last granted an IDENTIFY, and by which process it was sent.
pub type LastIdentify = Option<(Duration, u64)>;

pub struct Discord {
    shard: u64,
    session: Option<Session>,
    connection: Connection,
    next_session: u64,
    next_channel: u64,
    /// Those that the bot is in.
    pub guilds: BTreeMap<u64, Guild>,
    pub identifies: u64,
    /// How often the proxy had no choice but to IDENTIFY: once at first, and whenever the session was taken away.
    pub sessions_taken: u64,
    /// The proxy has, or had, all that it takes to resume this session.
    pub is_resumable: bool,
    /// Until then every RESUME and IDENTIFY is answered with op 9.
    pub storm_until: Duration,
    /// When payloads came on this connection.
    received: VecDeque<Duration>,
    /// Chunks that are still to be sent: what was asked and the next index.
    chunks: Vec<(Value, u64)>,
}

impl Discord {
    pub fn new(shard: u64) -> Self {
        Self {
            shard,
            session: None,
            connection: Connection::Dead,
            next_session: 1,
            next_channel: 1,
            guilds: (0..GUILDS).map(|it| (first_guild(shard) + it, Guild::default())).collect(),
            identifies: 0,
            sessions_taken: 1,
            is_resumable: false,
            storm_until: Duration::ZERO,
            received: VecDeque::new(),
            chunks: Vec::new(),
        }
    }

    pub fn is_live(&self) -> bool {
        self.connection == Connection::Live
    }

    /// Whether anybody listens at Discord's end.
    pub fn is_connected(&self) -> bool {
        self.connection != Connection::Dead
    }

    /// Number of the session and of its last message; `None` without a session.
    pub fn last_message(&self) -> Option<(u64, u64)> {
        self.session.as_ref().map(|it| (it.number, it.messages))
    }

    pub fn hello(&mut self) -> Vec<Out> {
        self.connection = Connection::Greeted;
        let interval = HEARTBEAT_INTERVAL.as_millis();
        vec![Out::Payload(
            format!(r#"{{"t":null,"s":null,"op":10,"d":{{"heartbeat_interval":{interval}}}}}"#).into_bytes(),
        )]
    }

    /// The WebSocket is open; HELLO may follow.
    pub fn on_open(&mut self) {
        self.connection = Connection::Opened;
        self.received.clear();
    }

    /// The connection is gone, in whatever way.
    pub fn on_connection_lost(&mut self) {
        self.connection = Connection::Dead;
    }

    /// The session is gone: RESUME will fail.
    pub fn take_session(&mut self) {
        if self.session.take().is_some() {
            self.sessions_taken += 1;
            self.chunks.clear();
        }
    }

    /// One payload of the proxy.
    pub fn on_payload(
        &mut self,
        now: Duration,
        payload: &[u8],
        drop_ack: bool,
        last_identify: &mut LastIdentify,
        process: u64,
    ) -> Vec<Out> {
        let payload: Value = serde_json::from_slice(payload).expect("the proxy sends JSON");
        if self.connection == Connection::Dead {
            // It was under way when the connection ended.
            return vec![];
        }
        while self.received.front().is_some_and(|it| *it + PAYLOADS_PERIOD <= now) {
            self.received.pop_front();
        }
        self.received.push_back(now);
        assert!(self.received.len() <= PAYLOADS_MAX, "more than {PAYLOADS_MAX} payloads in a minute");
        match payload["op"].as_u64() {
            Some(1) if drop_ack => vec![],
            Some(1) => vec![Out::Payload(br#"{"t":null,"s":null,"op":11,"d":null}"#.to_vec())],
            Some(2) => self.on_identify(now, last_identify, process),
            Some(6) => self.on_resume(&payload["d"]),
            Some(8) => {
                self.chunks.push((payload["d"].clone(), 0));
                self.next_chunk()
            }
            op => panic!("the proxy sent op {op:?}"),
        }
    }

    fn on_identify(&mut self, now: Duration, last_identify: &mut LastIdentify, process: u64) -> Vec<Out> {
        assert!(self.connection == Connection::Greeted, "IDENTIFY before HELLO or twice");
        if let Some((last, by)) = *last_identify
            && now - last < IDENTIFY_INTERVAL
        {
            assert!(by != process, "IDENTIFY after {:?}", now - last);
            return vec![Out::Payload(OP9.to_vec())];
        }
        *last_identify = Some((now, process));
        self.identifies += 1;
        if now < self.storm_until {
            self.sessions_taken += 1;
            return vec![Out::Payload(OP9.to_vec())];
        }
        if self.session.is_some() {
            assert!(!self.is_resumable, "an IDENTIFY was spent although the session could have been resumed");
            self.sessions_taken += 1;
        }
        self.is_resumable = false;
        self.chunks.clear();
        let number = self.next_session;
        let id = format!("upstream-{}-{number}", self.shard);
        self.next_session += 1;
        self.session = Some(Session { id: id.clone(), number, sequence: 0, messages: 0, buffer: Vec::new() });
        self.connection = Connection::Live;
        let guilds: Vec<Value> =
            self.guilds.keys().map(|it| json!({"unavailable": true, "id": it.to_string()})).collect();
        let mut out = self.dispatch("READY", &json!({
            "v": 10, "user": {"id": "1", "username": "bot"}, "session_id": id, "resume_gateway_url": "ws://resume.invalid",
            "guilds": guilds, "application": {"id": "1", "flags": 0},
        }));
        for (id, guild) in self.guilds.clone() {
            out.extend(self.dispatch("GUILD_CREATE", &guild_create(id, &guild)));
        }
        out
    }

    fn on_resume(&mut self, d: &Value) -> Vec<Out> {
        assert!(self.connection == Connection::Greeted, "RESUME before HELLO or twice");
        let after = d["seq"].as_u64().expect("seq is a number");
        let Some(session) = self.session.as_ref().filter(|it| d["session_id"] == it.id.as_str()) else {
            return vec![Out::Payload(OP9.to_vec())];
        };
        assert!(after <= session.sequence, "RESUME ahead of the session");
        let mut out: Vec<Out> =
            session.buffer.iter().filter(|it| it.0 > after).map(|it| Out::Payload(it.1.clone())).collect();
        self.connection = Connection::Live;
        out.extend(self.dispatch("RESUMED", &json!({"_trace": []})));
        out
    }

    /// One chunk of what was asked for first, if anything was.
    pub fn next_chunk(&mut self) -> Vec<Out> {
        let Some((d, chunk_index)) = self.chunks.first().cloned() else { return vec![] };
        let chunk = json!({"guild_id": d["guild_id"], "members": [], "chunk_index": chunk_index, "chunk_count": 3, "nonce": d["nonce"]});
        if chunk_index == 2 {
            self.chunks.remove(0);
        } else {
            self.chunks[0].1 += 1;
        }
        self.dispatch("GUILD_MEMBERS_CHUNK", &chunk)
    }

    pub fn message(&mut self, len: usize) -> Vec<Out> {
        let Some(session) = &mut self.session else { return vec![] };
        session.messages += 1;
        let d = json!({"e": session.number, "n": session.messages, "content": r#"{"t":"READY","s":1,"op":0}"#, "x": "x".repeat(len)});
        self.dispatch("MESSAGE_CREATE", &d)
    }

    /// A number that no dispatch ever has.
    pub fn skip_number(&mut self) {
        if let Some(session) = &mut self.session {
            session.sequence += 1;
        }
    }

    /// Something happens to the `pick`-th guild; `kind` says what.
    pub fn change(&mut self, pick: usize, kind: u8) -> Vec<Out> {
        let Some(id) = self.guilds.keys().nth(pick % self.guilds.len().max(1)).copied() else { return self.join() };
        let next = self.next_channel;
        let guild = self.guilds.get_mut(&id).expect("it was just picked");
        let channel =
            |number: u64| json!({"id": number.to_string(), "guild_id": id.to_string(), "type": 0, "name": "c"});
        match kind {
            0..10 => {
                guild.version += 1;
                let d = json!({"id": id.to_string(), "version": guild.version});
                self.dispatch("GUILD_UPDATE", &d)
            }
            10..15 => {
                self.next_channel += 1;
                guild.channels.insert(100_000 + next);
                self.dispatch("CHANNEL_CREATE", &channel(100_000 + next))
            }
            15..17 => match guild.channels.pop_first() {
                Some(gone) => self.dispatch("CHANNEL_DELETE", &channel(gone)),
                None => vec![],
            },
            17 => {
                self.guilds.remove(&id);
                self.dispatch("GUILD_DELETE", &json!({"id": id.to_string()}))
            }
            18 => {
                let created = guild_create(id, guild);
                let mut out = self.dispatch("GUILD_DELETE", &json!({"id": id.to_string(), "unavailable": true}));
                out.extend(self.dispatch("GUILD_CREATE", &created));
                out
            }
            _ => self.join(),
        }
    }

    fn join(&mut self) -> Vec<Out> {
        let id = first_guild(self.shard) + 100 + self.next_channel;
        self.next_channel += 1;
        let guild = Guild::default();
        let mut created = guild_create(id, &guild);
        created.as_object_mut().expect("it is one").remove("unavailable");
        self.guilds.insert(id, guild);
        self.dispatch("GUILD_CREATE", &created)
    }

    /// Numbers a dispatch, keeps it for RESUME, and sends it if there is a live connection. Without a session it is lost.
    fn dispatch(&mut self, name: &str, d: &Value) -> Vec<Out> {
        let Some(session) = &mut self.session else { return vec![] };
        session.sequence += 1;
        let payload = format!(r#"{{"t":"{name}","s":{},"op":0,"d":{d}}}"#, session.sequence).into_bytes();
        session.buffer.push((session.sequence, payload.clone()));
        if self.connection == Connection::Live { vec![Out::Payload(payload)] } else { vec![] }
    }
}

/// `id >> 22` says whose a guild is.
pub fn first_guild(shard: u64) -> u64 {
    (shard << 22) + 1000
}

fn guild_create(id: u64, guild: &Guild) -> Value {
    let channels: Vec<Value> =
        guild.channels.iter().map(|it| json!({"id": it.to_string(), "type": 0, "name": "c"})).collect();
    json!({"id": id.to_string(), "unavailable": false, "version": guild.version, "channels": channels, "roles": [], "members": []})
}
