//! Discord as far as one shard can see it: a session with a replay buffer, and connections that come and go.

use std::time::Duration;

use serde_json::{Value, json};
use shardgate::wire::CloseCode;

pub const GUILDS: usize = 5;
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(10_000);

/// What Discord does in answer to something.
#[derive(Debug)]
pub enum Out {
    Payload(Vec<u8>),
    Close(Option<CloseCode>),
}

struct Session {
    id: String,
    sequence: u64,
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

pub struct Discord {
    session: Option<Session>,
    connection: Connection,
    next_session: u64,
    /// Messages so far; each carries its number.
    pub messages: u64,
    /// Messages before the session of now began: whoever misses some of these knows of a gap.
    pub messages_before: u64,
    /// How often each guild was updated.
    pub versions: [u64; GUILDS],
    pub identifies: u64,
    /// How often the proxy had no choice but to IDENTIFY: once at first, and whenever the session was taken away.
    pub sessions_taken: u64,
    pub last_identify: Option<Duration>,
    /// The proxy has received READY of this session: a session that it never heard of it cannot resume.
    pub ready_arrived: bool,
    /// Until then every RESUME and IDENTIFY is answered with op 9.
    pub storm_until: Duration,
}

impl Discord {
    pub fn new() -> Self {
        Self {
            session: None,
            connection: Connection::Dead,
            next_session: 1,
            messages: 0,
            messages_before: 0,
            versions: [0; GUILDS],
            identifies: 0,
            sessions_taken: 1,
            last_identify: None,
            ready_arrived: false,
            storm_until: Duration::ZERO,
        }
    }

    pub fn is_live(&self) -> bool {
        self.connection == Connection::Live
    }

    /// Whether anybody listens at Discord's end.
    pub fn is_connected(&self) -> bool {
        self.connection != Connection::Dead
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
    }

    /// The connection is gone, in whatever way.
    pub fn on_connection_lost(&mut self) {
        self.connection = Connection::Dead;
    }

    /// The session is gone: RESUME will fail.
    pub fn take_session(&mut self) {
        if self.session.take().is_some() {
            self.sessions_taken += 1;
        }
    }

    /// One payload of the proxy.
    pub fn on_payload(&mut self, now: Duration, payload: &[u8], drop_ack: bool) -> Vec<Out> {
        let payload: Value = serde_json::from_slice(payload).expect("the proxy sends JSON");
        if self.connection == Connection::Dead {
            // It was under way when the connection ended.
            return vec![];
        }
        match payload["op"].as_u64() {
            Some(1) if drop_ack => vec![],
            Some(1) => vec![Out::Payload(br#"{"t":null,"s":null,"op":11,"d":null}"#.to_vec())],
            Some(2) => self.on_identify(now),
            Some(6) => self.on_resume(&payload["d"]),
            Some(8) => self.on_request_members(&payload["d"]),
            op => panic!("the proxy sent op {op:?}"),
        }
    }

    fn on_identify(&mut self, now: Duration) -> Vec<Out> {
        assert!(self.connection == Connection::Greeted, "IDENTIFY before HELLO or twice");
        if let Some(last) = self.last_identify {
            assert!(now - last >= Duration::from_secs(5), "IDENTIFY after {:?}", now - last);
        }
        self.last_identify = Some(now);
        self.identifies += 1;
        if now < self.storm_until {
            self.sessions_taken += 1;
            return vec![Out::Payload(br#"{"t":null,"s":null,"op":9,"d":false}"#.to_vec())];
        }
        if self.session.is_some() {
            assert!(!self.ready_arrived, "an IDENTIFY was spent although the session could have been resumed");
            self.sessions_taken += 1;
        }
        self.ready_arrived = false;
        self.messages_before = self.messages;
        let id = format!("upstream-{}", self.next_session);
        self.next_session += 1;
        self.session = Some(Session { id: id.clone(), sequence: 0, buffer: Vec::new() });
        self.connection = Connection::Live;
        let guilds: Vec<Value> = (0..GUILDS).map(|it| json!({"unavailable": true, "id": guild_id(it)})).collect();
        let mut out = self.dispatch("READY", &json!({
            "v": 10, "user": {"id": "1", "username": "bot"}, "session_id": id, "resume_gateway_url": "ws://resume.invalid",
            "guilds": guilds, "application": {"id": "1", "flags": 0},
        }));
        for guild in 0..GUILDS {
            let d = json!({"id": guild_id(guild), "unavailable": false, "version": self.versions[guild], "channels": [], "roles": [], "members": []});
            out.extend(self.dispatch("GUILD_CREATE", &d));
        }
        out
    }

    fn on_resume(&mut self, d: &Value) -> Vec<Out> {
        assert!(self.connection == Connection::Greeted, "RESUME before HELLO or twice");
        let after = d["seq"].as_u64().expect("seq is a number");
        let Some(session) = self.session.as_ref().filter(|it| d["session_id"] == it.id.as_str()) else {
            return vec![Out::Payload(br#"{"t":null,"s":null,"op":9,"d":false}"#.to_vec())];
        };
        assert!(after <= session.sequence, "RESUME ahead of the session");
        let replay: Vec<Out> =
            session.buffer.iter().filter(|it| it.0 > after).map(|it| Out::Payload(it.1.clone())).collect();
        self.connection = Connection::Live;
        let mut out = replay;
        out.extend(self.dispatch("RESUMED", &json!({"_trace": []})));
        out
    }

    fn on_request_members(&mut self, d: &Value) -> Vec<Out> {
        let mut out = Vec::new();
        for chunk_index in 0..3 {
            let chunk = json!({"guild_id": d["guild_id"], "members": [], "chunk_index": chunk_index, "chunk_count": 3, "nonce": d["nonce"]});
            out.extend(self.dispatch("GUILD_MEMBERS_CHUNK", &chunk));
        }
        out
    }

    pub fn message(&mut self) -> Vec<Out> {
        self.messages += 1;
        let d = json!({"guild_id": guild_id(0), "n": self.messages, "session": self.next_session, "content": r#"{"t":"READY","s":1,"op":0}"#});
        self.dispatch("MESSAGE_CREATE", &d)
    }

    pub fn update_guild(&mut self, guild: usize) -> Vec<Out> {
        self.versions[guild] += 1;
        let d = json!({"id": guild_id(guild), "version": self.versions[guild]});
        self.dispatch("GUILD_UPDATE", &d)
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

pub fn guild_id(guild: usize) -> String {
    (100 + guild).to_string()
}
