//! What the fake Discord has seen, as `GET /fake/stats` shows it.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// How many of the newest violations and commands are kept with their text; older ones are only counted.
const RECENT_MAX: usize = 200;

#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Granted IDENTIFYs.
    pub identifies: u64,
    /// IDENTIFYs of a shard that had a session which could have been resumed.
    pub identifies_avoidable: u64,
    pub resumes: u64,
    /// Dispatches sent again by RESUME.
    pub replayed: u64,
    /// Op 9 sent, by reason.
    pub invalid_sessions: BTreeMap<&'static str, u64>,
    pub heartbeats: u64,
    /// Heartbeats on a connection that carried no session yet.
    pub heartbeats_before_session: u64,
    pub heartbeats_asked: u64,
    /// Heartbeats that came after a server op 1, and the slowest of them.
    pub heartbeats_asked_answered: u64,
    pub heartbeats_asked_ms_max: u64,
    /// Requests for members that were answered by RATE_LIMITED.
    pub rate_limited: u64,
    /// Close frames by code.
    pub closes_sent: BTreeMap<u16, u64>,
    pub closes_received: BTreeMap<u16, u64>,
    /// Connections that ended without a close frame.
    pub drops: u64,
    pub upgrades: u64,
    pub upgrades_refused: u64,
    /// By path.
    pub rest: BTreeMap<String, u64>,
    /// Commands of ops 3, 4, 8, 31, 43, by op, and the newest of them as received.
    pub commands: BTreeMap<u64, u64>,
    pub commands_recent: VecDeque<Command>,
    /// What a well-behaved client never does, by kind, and the newest in words.
    pub violations: BTreeMap<&'static str, u64>,
    pub violations_recent: VecDeque<String>,
}

#[derive(Debug, Serialize)]
pub struct Command {
    pub shard: u32,
    pub raw: String,
}

impl Stats {
    pub fn violate(&mut self, kind: &'static str, detail: String) {
        *self.violations.entry(kind).or_default() += 1;
        push_recent(&mut self.violations_recent, format!("{kind}: {detail}"));
    }

    pub fn on_command(&mut self, shard: u32, op: u64, raw: &str) {
        *self.commands.entry(op).or_default() += 1;
        push_recent(&mut self.commands_recent, Command { shard, raw: raw.to_owned() });
    }
}

fn push_recent<T>(recent: &mut VecDeque<T>, item: T) {
    if recent.len() == RECENT_MAX {
        recent.pop_front();
    }
    recent.push_back(item);
}
