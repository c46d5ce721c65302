//! A second shard without trouble and without clients, whose log takes from the same budget.

use std::time::Instant;

use shardgate::shard::{Action, Shard};

pub struct Neighbour {
    /// The number of its last dispatch.
    sequence: u64,
}

impl Neighbour {
    pub fn begin(shard: &mut Shard, now: Instant) -> Self {
        shard.on_timeout(now);
        shard.on_turn(now, now);
        shard.on_open(now);
        for payload in [
            r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#,
            r#"{"t":"READY","s":1,"op":0,"d":{"session_id":"b","user":{"id":"1"},"guilds":[]}}"#,
        ] {
            shard.on_payload(now, payload.as_bytes()).unwrap();
        }
        Self { sequence: 1 }
    }

    /// Discord answers its heartbeats.
    pub fn turn(shard: &mut Shard, now: Instant) {
        while let Some(action) = shard.poll(now) {
            match action {
                Action::Send(payload) if payload.starts_with(br#"{"op":1"#) => {
                    shard.on_payload(now, br#"{"t":null,"s":null,"op":11,"d":null}"#).unwrap();
                }
                Action::Close(code) => panic!("the neighbour closes with {code} although nothing is wrong"),
                _ => {}
            }
        }
    }

    pub fn hear(&mut self, shard: &mut Shard, now: Instant, len: usize) {
        self.sequence += 1;
        let (s, text) = (self.sequence, "x".repeat(len));
        let payload = format!(r#"{{"t":"MESSAGE_CREATE","s":{s},"op":0,"d":{{"content":"{text}"}}}}"#);
        shard.on_payload(now, payload.as_bytes()).unwrap();
    }
}
