//! Discord's end: a session with its replay buffer, and the true state.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::cache::{Cache, CacheFlags, Shapes};
use crate::wire::GuildId;

pub const HELLO: &str = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#;
const FORGOTTEN: &str = r#"{"t":null,"s":null,"op":9,"d":false}"#;

pub struct Session {
    pub id: String,
    sequence: u64,
    buffer: Vec<(u64, Vec<u8>)>,
    /// What a heartbeat has said is kept no longer.
    acknowledged: u64,
}

pub struct Discord {
    pub session: Option<Session>,
    sessions: u64,
    pub is_live: bool,
    /// On its way to the proxy.
    pub wire: VecDeque<Vec<u8>>,
    pub truth: Cache,
    /// Messages so far, and before the session of now.
    pub messages: u64,
    pub messages_before: u64,
    next_id: u64,
    pub identifies: u64,
}

impl Discord {
    pub fn new() -> Self {
        let mut truth = Cache::new(flags(), Shapes::default());
        truth
            .on_ready(
                br#"{"v":10,"user":{"id":"1","username":"bot"},"guilds":[{"id":"100"},{"id":"101"},{"id":"102"}]}"#,
            )
            .unwrap();
        for id in 100..103 {
            truth
                .apply(
                    b"GUILD_CREATE",
                    format!(r#"{{"id":"{id}","unavailable":false,"n":0,"channels":[],"roles":[]}}"#).as_bytes(),
                )
                .unwrap();
        }
        Self {
            session: None,
            sessions: 0,
            is_live: false,
            wire: VecDeque::new(),
            truth,
            messages: 0,
            messages_before: 0,
            next_id: 1000,
            identifies: 0,
        }
    }

    pub fn on_connection(&mut self) {
        self.wire.clear();
        self.is_live = false;
        self.wire.push_back(HELLO.into());
    }

    pub fn on_connection_lost(&mut self) {
        self.wire.clear();
        self.is_live = false;
    }

    /// A payload of the proxy.
    pub fn on_payload(&mut self, payload: &[u8]) {
        let payload: Value = serde_json::from_slice(payload).unwrap();
        match payload["op"].as_u64().unwrap() {
            1 => {
                if let (Some(session), Some(sequence)) = (&mut self.session, payload["d"].as_u64()) {
                    // It takes an acknowledgement for what it says.
                    session.buffer.retain(|it| it.0 > sequence);
                    session.acknowledged = session.acknowledged.max(sequence);
                }
                self.wire.push_back(br#"{"t":null,"s":null,"op":11,"d":null}"#.to_vec());
            }
            2 => self.on_identify(),
            6 => self.on_resume(&payload["d"]),
            8 => {
                for index in 0..3 {
                    self.dispatch(
                        "GUILD_MEMBERS_CHUNK",
                        &json!({"guild_id": payload["d"]["guild_id"], "members": [], "chunk_index": index, "chunk_count": 3,
                            "nonce": payload["d"]["nonce"]}),
                    );
                }
            }
            op => panic!("the proxy sent op {op}"),
        }
    }

    fn on_identify(&mut self) {
        self.identifies += 1;
        self.sessions += 1;
        self.messages_before = self.messages;
        self.session = Some(Session {
            id: format!("upstream-{}", self.sessions),
            sequence: 0,
            buffer: Vec::new(),
            acknowledged: 0,
        });
        self.is_live = true;
        let mut ready = Vec::new();
        let id = self.session.as_ref().unwrap().id.clone();
        self.truth.write_ready(&id, "ws://resume.invalid", [0, 4], &mut ready);
        self.dispatch("READY", &serde_json::from_slice(&ready).unwrap());
        for (_, d) in guilds(&self.truth) {
            self.dispatch_raw("GUILD_CREATE", &String::from_utf8(d).unwrap());
        }
    }

    fn on_resume(&mut self, d: &Value) {
        let after = d["seq"].as_u64().unwrap();
        let Some(session) = self.session.as_ref().filter(|it| d["session_id"] == it.id.as_str()) else {
            return self.wire.push_back(FORGOTTEN.into());
        };
        assert!(after <= session.sequence, "RESUME {after} ahead of {}", session.sequence);
        assert!(after >= session.acknowledged, "what a heartbeat has acknowledged is wanted again: {after}");
        self.wire.extend(session.buffer.iter().filter(|it| it.0 > after).map(|it| it.1.clone()));
        self.is_live = true;
        // It takes a number, and is not replayed.
        let session = self.session.as_mut().unwrap();
        session.sequence += 1;
        let resumed = format!(r#"{{"t":"RESUMED","s":{},"op":0,"d":{{"_trace":[]}}}}"#, session.sequence);
        self.wire.push_back(resumed.into_bytes());
    }

    /// The session is gone; who is connected is told.
    pub fn forget(&mut self) {
        self.session = None;
        if self.is_live {
            self.wire.push_back(FORGOTTEN.into());
        }
        self.is_live = false;
    }

    /// Something happens, whoever listens.
    pub fn event(&mut self, rng: &mut fastrand::Rng) {
        let known: Vec<_> = self.truth.guilds().collect();
        let guild = known.get(rng.usize(..known.len().max(1))).map_or(100, |it| it.0);
        self.next_id += 1;
        let id = self.next_id;
        match rng.u8(..20) {
            0 => self.change(
                "GUILD_CREATE",
                &format!(r#"{{"id":"{id}","n":0,"channels":[{{"id":"{}"}}],"roles":[]}}"#, id + 5000),
            ),
            1 if known.len() > 1 => self.change("GUILD_DELETE", &format!(r#"{{"id":"{guild}"}}"#)),
            2 => self.change("GUILD_DELETE", &format!(r#"{{"id":"{guild}","unavailable":true}}"#)),
            3 => self.change(
                "GUILD_CREATE",
                &format!(r#"{{"id":"{guild}","unavailable":false,"n":{id},"channels":[],"roles":[]}}"#),
            ),
            4 => self.change("USER_UPDATE", &format!(r#"{{"id":"1","username":"bot {id}"}}"#)),
            5..8 => self.change("GUILD_UPDATE", &format!(r#"{{"id":"{guild}","n":{id}}}"#)),
            8..12 => self.change(
                "CHANNEL_CREATE",
                &format!(r#"{{"id":"{id}","guild_id":"{guild}","name":"{}"}}"#, "x".repeat(rng.usize(..300))),
            ),
            _ => {
                self.messages += 1;
                let (n, session) = (self.messages, self.sessions);
                self.dispatch(
                    "MESSAGE_CREATE",
                    &json!({"n": n, "session": session, "content": "y".repeat(rng.usize(..200))}),
                );
            }
        }
    }

    fn change(&mut self, name: &str, d: &str) {
        self.truth.apply(name.as_bytes(), d.as_bytes()).unwrap();
        self.dispatch_raw(name, d);
    }

    fn dispatch(&mut self, name: &str, d: &Value) {
        self.dispatch_raw(name, &d.to_string());
    }

    fn dispatch_raw(&mut self, name: &str, d: &str) {
        let Some(session) = &mut self.session else { return };
        session.sequence += 1;
        let payload = format!(r#"{{"t":"{name}","s":{},"op":0,"d":{d}}}"#, session.sequence).into_bytes();
        session.buffer.push((session.sequence, payload.clone()));
        if self.is_live {
            self.wire.push_back(payload);
        }
    }
}

pub fn flags() -> CacheFlags {
    CacheFlags::default()
}

/// Each guild as a client would be sent it.
pub fn guilds(cache: &Cache) -> BTreeMap<GuildId, Vec<u8>> {
    let written = |id| {
        let mut d = Vec::new();
        cache.write_guild(id, &mut d).map(|_| (id, d))
    };
    cache.guilds().filter_map(written).collect()
}
