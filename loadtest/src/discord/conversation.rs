//! What the gateway answers to a payload: heartbeats, IDENTIFY, RESUME, and who may send what when.
//!
//! Every rule of Discord that a client could break is checked here, and a broken one is counted before it is
//! answered by its close code.

use std::rc::Rc;

use serde_json::Value;

use super::Discord;
use super::connection::Connection;
use super::identify::Verdict;
use super::session::{CannotResume, Entry, Session};
use super::state::Standing;
use crate::clock::MILLI_NS;

/// Longest payload that a client may send.
///
/// Source: Discord, Gateway › Sending events.
const PAYLOAD_BYTES_MAX: usize = 4096;
/// Every intent that is documented for bots.
const INTENTS: u64 = 53_608_447;
const INVALID_SESSION: &[u8] = b"{\"t\":null,\"s\":null,\"op\":9,\"d\":false}";

/// Close code and reason for a payload that Discord refuses.
pub type Refusal = (u16, &'static str);

impl Discord {
    /// One message from a client, as received.
    pub fn on_payload(&mut self, connection: &Rc<Connection>, payload: &[u8], now_ns: u64) -> Result<(), Refusal> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err((4002, "payload longer than 4096 bytes"));
        }
        if !connection.admit(now_ns) {
            return Err((4008, "more than 120 payloads in 60 s"));
        }
        let raw = std::str::from_utf8(payload).map_err(|_| (4002, "payload is not UTF-8"))?;
        let value: Value = serde_json::from_str(raw).map_err(|_| (4002, "payload is not JSON"))?;
        let op = value["op"].as_u64().ok_or((4002, "payload has no op"))?;
        let d = &value["d"];
        match op {
            1 => self.on_heartbeat(connection, d, now_ns),
            2 => self.on_identify(connection, d, now_ns),
            6 => self.on_resume(connection, d, now_ns),
            3 | 4 | 8 | 31 | 43 => {
                let session = connection.session.borrow().clone();
                let (shard, id) = session.ok_or((4003, "command before IDENTIFY"))?;
                self.stats.on_command(shard, op, raw);
                self.on_command(shard, &id, op, d, now_ns)
            }
            _ => Err((4001, "unknown opcode")),
        }
    }

    fn on_heartbeat(&mut self, connection: &Connection, d: &Value, now_ns: u64) -> Result<(), Refusal> {
        self.stats.heartbeats += 1;
        connection.heartbeat_ns.set(now_ns);
        if let Some(asked_ns) = connection.asked_ns.take() {
            let late_ms = (now_ns - asked_ns) / MILLI_NS;
            self.stats.heartbeats_asked_answered += 1;
            self.stats.heartbeats_asked_ms_max = self.stats.heartbeats_asked_ms_max.max(late_ms);
        }
        let session = connection.session.borrow().clone();
        match session {
            None => self.stats.heartbeats_before_session += 1,
            Some((shard, id)) => {
                let last_seq = self.session_mut(shard, &id).map_or(0, |it| it.last_seq);
                if d.as_u64().is_some_and(|it| it > last_seq) {
                    self.stats.violate("heartbeat ahead", format!("shard {shard} says {d}, was sent {last_seq}"));
                }
            }
        }
        if self.faults.lost_acks > 0 {
            self.faults.lost_acks -= 1;
            return Ok(());
        }
        connection.send(b"{\"t\":null,\"s\":null,\"op\":11,\"d\":null}");
        Ok(())
    }

    fn check_token(&self, d: &Value) -> Result<(), Refusal> {
        let token = d["token"].as_str().unwrap_or("");
        let is_right = token.strip_prefix("Bot ").unwrap_or(token) == self.options.token;
        if is_right { Ok(()) } else { Err((4004, "Authentication failed.")) }
    }

    fn on_identify(&mut self, connection: &Rc<Connection>, d: &Value, now_ns: u64) -> Result<(), Refusal> {
        if connection.session.borrow().is_some() {
            return Err((4005, "second IDENTIFY"));
        }
        self.check_token(d)?;
        let intents = d["intents"].as_u64().ok_or((4002, "IDENTIFY has no intents"))?;
        if intents & !INTENTS != 0 {
            return Err((4013, "Invalid intent(s)."));
        }
        if !d["properties"].is_object() {
            return Err((4002, "IDENTIFY has no properties"));
        }
        let shards = self.options.size.shards;
        let (shard, count) = match &d["shard"] {
            Value::Null if shards > 1 => return Err((4011, "Sharding required.")),
            Value::Null => (0, 1),
            pair => (pair[0].as_u64().unwrap_or(u64::MAX), pair[1].as_u64().unwrap_or(0)),
        };
        if shard >= count || count != shards as u64 {
            return Err((4010, "Invalid shard."));
        }
        let shard = shard as u32;
        match self.gate.on_identify(shard, now_ns) {
            Verdict::Granted => self.begin_session(connection, shard),
            Verdict::TooSoon => {
                self.stats.violate("IDENTIFY too soon", format!("shard {shard}"));
                self.invalidate(connection, "IDENTIFY too soon");
            }
            Verdict::Exhausted => {
                self.stats.violate("IDENTIFYs exhausted", format!("shard {shard}"));
                return Err((4004, "Authentication failed."));
            }
        }
        Ok(())
    }

    /// A new session: READY, and every guild at once, so that no traffic comes between.
    fn begin_session(&mut self, connection: &Rc<Connection>, shard: u32) {
        self.stats.identifies += 1;
        let state = &mut self.shards[shard as usize];
        if state.sessions.iter().any(|it| it.connection.is_none()) {
            self.stats.identifies_avoidable += 1;
        }
        let id = format!("{shard:08x}{:08x}{:016x}", self.rng.u32(..), self.rng.u64(..));
        connection.session.replace(Some((shard, id.clone())));
        let mut session = Session::new(id.clone(), self.options.replay_events, connection.clone());
        let stream = (0..self.options.size.guilds).filter_map(|index| match self.world.standing(shard, index) {
            Standing::Available => Some(Entry::Guild(index)),
            Standing::Outage => Some(Entry::Outage(index)),
            Standing::Left => None,
        });
        let entries: Vec<Entry> = std::iter::once(Entry::Ready).chain(stream).collect();
        let numbered: Vec<_> = entries.into_iter().map(|it| (session.append(it.clone()), it)).collect();
        session.shown = (session.last_seq, self.changes);
        state.sessions.push(session);
        for (seq, entry) in numbered {
            self.push(connection, shard, &id, seq, &entry);
        }
        connection.flush();
    }

    fn on_resume(&mut self, connection: &Rc<Connection>, d: &Value, now_ns: u64) -> Result<(), Refusal> {
        if connection.session.borrow().is_some() {
            return Err((4005, "RESUME in a session"));
        }
        self.check_token(d)?;
        let seq = d["seq"].as_u64().ok_or((4002, "RESUME has no seq"))?;
        let id = d["session_id"].as_str().unwrap_or("").to_owned();
        let shard = id.get(..8).and_then(|it| u32::from_str_radix(it, 16).ok()).unwrap_or(u32::MAX);
        let changes = self.changes;
        let Some(session) = self.session_mut(shard, &id) else {
            self.invalidate(connection, "RESUME of an unknown session");
            return Ok(());
        };
        let (shown_seq, shown_changes) = session.shown;
        let replay = match session.after(seq) {
            // The guilds would be rendered as they are now, and then change again by events they have had.
            Ok(_) if seq < shown_seq && shown_changes != changes => Err(CannotResume::TooOld),
            other => other,
        };
        let replay = match replay {
            Ok(replay) => replay,
            Err(error) => {
                self.shards[shard as usize].sessions.retain(|it| it.id != id);
                if error == CannotResume::Ahead {
                    return Err((4007, "Invalid seq."));
                }
                self.invalidate(connection, "RESUME of too long ago");
                return Ok(());
            }
        };
        if let Some(old) = session.connection.replace(connection.clone()) {
            old.session.take();
            self.close(&old, 4000, "The session was resumed elsewhere", now_ns);
        }
        connection.session.replace(Some((shard, id.clone())));
        self.stats.resumes += 1;
        self.stats.replayed += replay.len() as u64;
        for (seq, entry) in replay {
            self.push(connection, shard, &id, seq, &entry);
        }
        self.dispatch_to(shard, &id, Entry::Resumed);
        Ok(())
    }

    /// Op 9 `d:false`; the connection stays and may IDENTIFY.
    fn invalidate(&mut self, connection: &Connection, reason: &'static str) {
        *self.stats.invalid_sessions.entry(reason).or_default() += 1;
        connection.send(INVALID_SESSION);
    }
}
