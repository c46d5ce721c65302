//! The judge: what one client was promised, checked payload by payload. No sockets, no clock, it only listens.
//!
//! Promised are: HELLO first; READY with `s` 1, for an IDENTIFY alone; every guild of READY answered before any traffic, and
//! told once; `s` 1, 2, 3, … through all RESUMEs; the traffic's counters without gap, double or swap; `t`,`s`,`op`,`d` in this
//! order; the right frame type; valid JSON; chunks only of what was asked for; op 9 only where the test allows it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::counters::Counters;
use crate::payload::{Envelope, envelope, load_mark};

/// Texts of findings that one judge keeps; more are only counted.
const TEXTS_MAX: usize = 5;
const TEXT_BYTES: usize = 160;

/// What a judge has to know beforehand.
#[derive(Clone, Debug)]
pub struct Terms {
    pub shard: u32,
    /// Messages must be binary (a transport compression was asked for), else text.
    pub is_binary: bool,
    /// Every how many-th traffic event is parsed whole; all others are judged by envelope and mark. At least 1.
    pub parse_every: u64,
    /// The traffic's counter that must come first; `None` to begin with whatever comes.
    pub first_counter: Option<u64>,
    /// Op 9 `d:false` is no finding.
    pub may_lose_session: bool,
    /// No guild comes or goes: a GUILD_CREATE of one that is there, without a GUILD_DELETE before, is a finding.
    pub guilds_stay: bool,
    /// Op 9 `d:false` is no finding before all guilds of READY have come: such a session has nothing to go on with.
    pub may_lose_snapshot: bool,
}

/// What a payload means to the client.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Hello {
        heartbeat_interval_ms: u64,
    },
    Ready,
    Resumed,
    /// Traffic. `is_live` when it was sent after this client's last READY or RESUMED, so was never replayed to it.
    Traffic {
        sent_ns: u64,
        latency_ns: u64,
        is_live: bool,
    },
    /// Any other dispatch.
    Dispatch,
    HeartbeatWanted,
    HeartbeatAck,
    Reconnect,
    InvalidSession {
        is_resumable: bool,
    },
    /// Nothing that a client would act on, or nothing it can read.
    Nothing,
}

/// How to come back, from READY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRef {
    pub id: String,
    pub resume_url: String,
}

/// Broken promises.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub counts: BTreeMap<&'static str, u64>,
    pub texts: Vec<String>,
}

impl Findings {
    pub fn add(&mut self, kind: &'static str, detail: &str) {
        *self.counts.entry(kind).or_default() += 1;
        if self.texts.len() < TEXTS_MAX {
            let end = detail.char_indices().nth(TEXT_BYTES).map_or(detail.len(), |it| it.0);
            self.texts.push(format!("{kind}: {}", &detail[..end]));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// What the client has introduced itself with on this connection, and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Nothing,
    Identify,
    Resume,
}

/// What was asked for with one nonce, and how far the answer is.
#[derive(Debug, Default)]
struct Chunks {
    next_index: u64,
    members: usize,
    /// It was asked on a connection that broke before the first chunk: nobody can say whether it was heard.
    is_doubtful: bool,
}

pub struct Judge {
    terms: Terms,
    pub findings: Findings,
    pub counters: Counters,
    pub session: Option<SessionRef>,
    /// The last `s` of the session; 0 before READY.
    pub last_s: u64,
    /// Traffic events that came.
    pub delivered: u64,
    pub dispatches: u64,
    /// Members that came for finished requests, by nonce.
    pub chunked: HashMap<String, usize>,
    /// Op 9 that came into the guild stream, where the terms allow it.
    pub snapshots_cut: u64,
    chunks: HashMap<String, Chunks>,
    guilds: Vec<u64>,
    guilds_pending: HashSet<u64>,
    guilds_available: HashSet<u64>,
    asked: Asked,
    saw_hello: bool,
    live_since_ns: u64,
}

#[derive(Deserialize)]
struct Ready {
    v: u64,
    session_id: String,
    resume_gateway_url: String,
    user: WithId,
    application: WithId,
    guilds: Vec<Guild>,
    #[serde(rename = "private_channels")]
    _private_channels: Vec<IgnoredAny>,
    shard: Option<[u32; 2]>,
}

#[derive(Deserialize)]
struct WithId {
    id: String,
}

#[derive(Deserialize)]
struct Guild {
    id: String,
    unavailable: Option<bool>,
}

#[derive(Deserialize)]
struct Chunk {
    nonce: Option<String>,
    members: Vec<IgnoredAny>,
    chunk_index: u64,
    chunk_count: u64,
}

#[derive(Deserialize)]
struct Hello {
    heartbeat_interval: u64,
}

impl Judge {
    pub fn new(terms: Terms) -> Self {
        Self {
            counters: Counters::new(terms.first_counter),
            terms,
            findings: Findings::default(),
            session: None,
            last_s: 0,
            delivered: 0,
            dispatches: 0,
            chunked: HashMap::new(),
            snapshots_cut: 0,
            chunks: HashMap::new(),
            guilds: Vec::new(),
            guilds_pending: HashSet::new(),
            guilds_available: HashSet::new(),
            asked: Asked::Nothing,
            saw_hello: false,
            live_since_ns: u64::MAX,
        }
    }

    /// A connection was opened.
    pub fn on_connect(&mut self) {
        self.saw_hello = false;
        self.asked = Asked::Nothing;
        self.live_since_ns = u64::MAX;
        self.chunks.values_mut().filter(|it| it.next_index == 0).for_each(|it| it.is_doubtful = true);
    }

    pub fn on_identify(&mut self) {
        self.asked = Asked::Identify;
    }

    pub fn on_resume(&mut self) {
        self.asked = Asked::Resume;
    }

    /// The client gives its session up; the next one begins with whatever comes.
    pub fn on_renew(&mut self) {
        self.session = None;
        self.last_s = 0;
        self.counters.forget();
        self.chunks.clear();
        self.guilds_pending.clear();
    }

    /// The client asked for all members of a guild; chunks with this nonce are expected from now on.
    pub fn on_request_members(&mut self, nonce: &str) {
        self.chunks.insert(nonce.to_owned(), Chunks::default());
    }

    /// The guilds of the last READY.
    pub fn guilds(&self) -> &[u64] {
        &self.guilds
    }

    /// READY came, and all its guilds.
    pub fn is_ready(&self) -> bool {
        self.session.is_some() && self.guilds_pending.is_empty()
    }

    /// Whether a request for members is not answered in full yet.
    pub fn awaits_chunks(&self) -> bool {
        self.chunks.values().any(|it| !it.is_doubtful)
    }

    /// Whether all traffic up to `last` was accounted for, and every request for members answered.
    pub fn has_all(&self, last: u64) -> bool {
        self.counters.has_reached(last) && !self.awaits_chunks()
    }

    /// No more will come: traffic missing up to `last` is lost, and so are chunks.
    pub fn settle(&mut self, last: u64) {
        self.counters.settle(last);
        for (nonce, _) in std::mem::take(&mut self.chunks).into_iter().filter(|it| !it.1.is_doubtful) {
            self.findings.add("chunks missing", &nonce);
        }
    }

    /// One message, inflated. `now_ns` is when it was read.
    pub fn on_payload(&mut self, is_text: bool, payload: &[u8], now_ns: u64) -> Seen {
        if is_text == self.terms.is_binary {
            self.findings.add("frame type", if is_text { "text, wanted binary" } else { "binary, wanted text" });
        }
        let Ok(text) = std::str::from_utf8(payload) else {
            self.findings.add("JSON", "not UTF-8");
            return Seen::Nothing;
        };
        let Some(envelope) = envelope(text) else {
            self.findings.add("envelope", text);
            return Seen::Nothing;
        };
        if !self.saw_hello && !matches!(envelope.op, 7 | 10) {
            self.findings.add("HELLO", text);
        }
        let seen = if envelope.op == 0 {
            self.on_dispatch(&envelope, text, now_ns)
        } else {
            self.parse::<IgnoredAny>(text);
            self.on_control(&envelope)
        };
        if let Some(seen) = seen {
            return seen;
        }
        self.findings.add("payload", text);
        Seen::Nothing
    }

    fn on_control(&mut self, envelope: &Envelope) -> Option<Seen> {
        if envelope.s.is_some() || envelope.t.is_some() {
            return None;
        }
        match (envelope.op, envelope.d) {
            (10, d) => {
                self.saw_hello = true;
                let hello: Hello = self.parse(d)?;
                Some(Seen::Hello { heartbeat_interval_ms: hello.heartbeat_interval })
            }
            (11, "null") => Some(Seen::HeartbeatAck),
            (1, "null") => Some(Seen::HeartbeatWanted),
            (7, "null") => Some(Seen::Reconnect),
            (9, "true") => Some(Seen::InvalidSession { is_resumable: true }),
            (9, "false") => {
                if self.terms.may_lose_snapshot && !self.guilds_pending.is_empty() {
                    self.snapshots_cut += 1;
                } else if !self.terms.may_lose_session {
                    self.findings.add("op 9", &format!("the session was lost at s {}", self.last_s));
                }
                self.on_renew();
                Some(Seen::InvalidSession { is_resumable: false })
            }
            _ => None,
        }
    }

    fn on_dispatch(&mut self, envelope: &Envelope, text: &str, now_ns: u64) -> Option<Seen> {
        let (name, s) = (envelope.t?, envelope.s?);
        self.dispatches += 1;
        if name == "READY" {
            self.last_s = 0;
        }
        if matches!(
            (name, self.asked),
            ("READY", Asked::Nothing | Asked::Resume) | ("RESUMED", Asked::Nothing | Asked::Identify)
        ) {
            self.findings.add("unasked", &format!("{name} at s {s}, asked: {:?}", self.asked));
        }
        if matches!(name, "READY" | "RESUMED") {
            self.asked = Asked::Nothing;
        }
        if s != self.last_s + 1 {
            self.findings.add("s", &format!("{s} after {}, {name}", self.last_s));
        }
        self.last_s = s;
        if let Some(mark) = load_mark(envelope.d) {
            self.delivered += 1;
            if self.delivered.is_multiple_of(self.terms.parse_every) {
                self.parse::<IgnoredAny>(text);
            }
            if !self.guilds_pending.is_empty() {
                self.findings.add("live before guilds", &format!("{name} before {} guilds", self.guilds_pending.len()));
            }
            if mark.shard != self.terms.shard {
                self.findings.add("foreign shard", text);
            } else {
                self.counters.on_counter(mark.counter);
            }
            let latency_ns = now_ns.saturating_sub(mark.sent_ns);
            return Some(Seen::Traffic {
                sent_ns: mark.sent_ns,
                latency_ns,
                is_live: mark.sent_ns >= self.live_since_ns,
            });
        }
        match name {
            "READY" => self.on_ready(envelope.d, now_ns),
            "RESUMED" => {
                let _: BTreeMap<String, IgnoredAny> = self.parse(envelope.d)?;
                self.live_since_ns = now_ns;
                Some(Seen::Resumed)
            }
            "GUILD_CREATE" | "GUILD_DELETE" => {
                let guild: Guild = self.parse(envelope.d)?;
                let id = guild.id.parse().ok()?;
                let is_answer = self.guilds_pending.remove(&id);
                let is_there = match name {
                    "GUILD_CREATE" => !self.guilds_available.insert(id),
                    _ => {
                        self.guilds_available.remove(&id);
                        false
                    }
                };
                if is_there && self.terms.guilds_stay {
                    self.findings.add("guild told twice", &guild.id);
                }
                // Absent would mean that the bot has just joined.
                if is_answer && guild.unavailable != Some(name == "GUILD_DELETE") {
                    self.findings.add("unavailable", &format!("{name} {} says {:?}", guild.id, guild.unavailable));
                }
                Some(Seen::Dispatch)
            }
            "GUILD_MEMBERS_CHUNK" => self.on_chunk(envelope.d),
            _ => {
                self.parse::<IgnoredAny>(envelope.d);
                Some(Seen::Dispatch)
            }
        }
    }

    fn on_ready(&mut self, d: &str, now_ns: u64) -> Option<Seen> {
        let ready: Ready = self.parse(d)?;
        let is_whole = !ready.user.id.is_empty() && !ready.application.id.is_empty() && matches!(ready.v, 9 | 10);
        if !is_whole || ready.shard.is_some_and(|it| it[0] != self.terms.shard) {
            self.findings.add("READY", d);
        }
        if ready.guilds.iter().any(|it| it.unavailable != Some(true)) {
            self.findings.add("READY", "a guild without unavailable:true");
        }
        self.guilds = ready.guilds.iter().filter_map(|it| it.id.parse().ok()).collect();
        self.guilds_pending = self.guilds.iter().copied().collect();
        self.guilds_available.clear();
        self.session = Some(SessionRef { id: ready.session_id, resume_url: ready.resume_gateway_url });
        self.live_since_ns = now_ns;
        Some(Seen::Ready)
    }

    fn on_chunk(&mut self, d: &str) -> Option<Seen> {
        let chunk: Chunk = self.parse(d)?;
        let nonce = chunk.nonce.unwrap_or_default();
        let Some(chunks) = self.chunks.get_mut(&nonce) else {
            self.findings.add("foreign chunk", &format!("nonce {nonce:?}"));
            return Some(Seen::Dispatch);
        };
        if chunk.chunk_index != chunks.next_index || chunk.members.len() > 1000 {
            let detail =
                format!("index {} of {}, {} members", chunk.chunk_index, chunk.chunk_count, chunk.members.len());
            self.findings.add("chunk", &detail);
        }
        chunks.next_index = chunk.chunk_index + 1;
        chunks.is_doubtful = false;
        chunks.members += chunk.members.len();
        if chunks.next_index == chunk.chunk_count {
            self.chunked.insert(nonce.clone(), chunks.members);
            self.chunks.remove(&nonce);
        }
        Some(Seen::Dispatch)
    }

    fn parse<'a, T: Deserialize<'a>>(&mut self, text: &'a str) -> Option<T> {
        match serde_json::from_str(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.findings.add("JSON", &format!("{error} in {text}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge() -> Judge {
        let terms = Terms {
            shard: 3,
            is_binary: false,
            parse_every: 1,
            first_counter: Some(1),
            may_lose_session: false,
            guilds_stay: true,
            may_lose_snapshot: false,
        };
        let mut judge = Judge::new(terms);
        connect(&mut judge);
        judge.on_identify();
        judge
    }

    fn connect(judge: &mut Judge) {
        judge.on_connect();
        judge.on_payload(true, br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#, 0);
    }

    const READY: &str = r#"{"v":10,"user":{"id":"1"},"shard":[3,4],"session_id":"a","resume_gateway_url":"ws://x",
        "private_channels":[],"guilds":[{"unavailable":true,"id":"7"}],"application":{"id":"1"}}"#;

    fn dispatch(judge: &mut Judge, name: &str, s: u64, d: &str) -> Seen {
        judge.on_payload(true, format!("{{\"t\":\"{name}\",\"s\":{s},\"op\":0,\"d\":{d}}}").as_bytes(), 100)
    }

    fn traffic(judge: &mut Judge, s: u64, counter: u64) -> Seen {
        dispatch(judge, "TYPING_START", s, &format!("{{\"_load\":\"3:{counter}:60\"}}"))
    }

    fn ready(judge: &mut Judge) {
        assert_eq!(dispatch(judge, "READY", 1, READY), Seen::Ready);
        dispatch(judge, "GUILD_CREATE", 2, r#"{"id":"7","unavailable":false}"#);
    }

    fn kinds(judge: &Judge) -> Vec<&'static str> {
        judge.findings.counts.keys().copied().collect()
    }

    #[test]
    fn a_faultless_session_has_no_findings() {
        let mut judge = judge();
        ready(&mut judge);
        assert!(judge.is_ready());
        assert_eq!(traffic(&mut judge, 3, 1), Seen::Traffic { sent_ns: 60, latency_ns: 40, is_live: false });
        connect(&mut judge);
        judge.on_resume();
        traffic(&mut judge, 4, 2);
        assert_eq!(dispatch(&mut judge, "RESUMED", 5, "{}"), Seen::Resumed);
        judge.on_payload(true, br#"{"t":null,"s":null,"op":11,"d":null}"#, 0);
        assert!(judge.findings.is_empty(), "{:?}", judge.findings);
        assert_eq!((judge.counters.lost(), judge.delivered), (0, 2));
    }

    #[test]
    fn a_gap_and_a_repeat_in_s_are_found() {
        for s in [1, 2, 4] {
            let mut judge = judge();
            ready(&mut judge);
            traffic(&mut judge, s, 1);
            assert_eq!(kinds(&judge), ["s"], "s {s}");
        }
        let mut judge = judge();
        dispatch(&mut judge, "READY", 2, READY);
        assert_eq!(kinds(&judge), ["s"]);
    }

    #[test]
    fn lost_doubled_and_swapped_events_are_found_although_s_is_right() {
        let mut judge = judge();
        ready(&mut judge);
        for (s, counter) in (3..).zip([1, 3, 2, 2, 6]) {
            traffic(&mut judge, s, counter);
        }
        assert!(judge.findings.is_empty());
        let counters = &judge.counters;
        assert_eq!((counters.lost(), counters.duplicated, counters.out_of_order), (2, 1, 1));
    }

    #[test]
    fn traffic_before_the_guilds_is_found() {
        let mut judge = judge();
        dispatch(&mut judge, "READY", 1, READY);
        traffic(&mut judge, 2, 1);
        assert_eq!(kinds(&judge), ["live before guilds"]);
    }

    #[test]
    fn a_guild_that_looks_joined_is_found() {
        let mut judge = judge();
        dispatch(&mut judge, "READY", 1, READY);
        dispatch(&mut judge, "GUILD_CREATE", 2, r#"{"id":"7"}"#);
        assert_eq!(kinds(&judge), ["unavailable"]);
    }

    #[test]
    fn wrong_frames_order_json_and_shard_are_found() {
        let good = r#"{"t":"X","s":3,"op":0,"d":{"_load":"3:1:0"}}"#;
        for (is_text, payload, kind) in [
            (false, good, "frame type"),
            (true, r#"{"op":0,"t":"X","s":3,"d":{"_load":"3:1:0"}}"#, "envelope"),
            (true, r#"{"t":"X","s":3,"op":0,"d":{"_load":"3:1:0",}}"#, "JSON"),
            (true, r#"{"t":"X","s":3,"op":0,"d":{"_load":"2:1:0"}}"#, "foreign shard"),
            (true, r#"{"t":null,"s":null,"op":9,"d":false}"#, "op 9"),
            (true, r#"{"t":null,"s":null,"op":9,"d":null}"#, "payload"),
            (true, r#"{"t":"RESUMED","s":3,"op":0,"d":null}"#, "JSON"),
            (
                true,
                r#"{"t":"GUILD_MEMBERS_CHUNK","s":3,"op":0,"d":{"members":[],"chunk_index":0,"chunk_count":1}}"#,
                "foreign chunk",
            ),
        ] {
            let mut judge = judge();
            ready(&mut judge);
            judge.on_payload(is_text, payload.as_bytes(), 100);
            assert!(kinds(&judge).contains(&kind), "{payload}: {:?}", judge.findings);
        }
    }

    #[test]
    fn anything_before_hello_is_found() {
        let mut judge = judge();
        judge.on_connect();
        judge.on_identify();
        dispatch(&mut judge, "READY", 1, READY);
        assert_eq!(kinds(&judge), ["HELLO"]);
    }

    #[test]
    fn a_ready_or_resumed_that_nobody_asked_for_is_found() {
        let found = |ask: fn(&mut Judge), answer: &str| {
            let mut judge = judge();
            ready(&mut judge);
            connect(&mut judge);
            ask(&mut judge);
            match answer {
                "READY" => dispatch(&mut judge, "READY", 1, READY),
                _ => dispatch(&mut judge, "RESUMED", 3, "{}"),
            };
            kinds(&judge)
        };
        assert_eq!(found(Judge::on_resume, "RESUMED"), [""; 0]);
        assert_eq!(found(Judge::on_identify, "READY"), [""; 0]);
        assert_eq!(found(Judge::on_resume, "READY"), ["unasked"]);
        assert_eq!(found(Judge::on_identify, "RESUMED"), ["unasked"]);
        assert_eq!(found(|_| {}, "READY"), ["unasked"]);
        let mut judge = judge();
        ready(&mut judge);
        dispatch(&mut judge, "READY", 1, READY);
        assert_eq!(kinds(&judge), ["unasked"], "in the middle of a session");
    }

    #[test]
    fn a_guild_that_is_told_twice_is_found_where_guilds_stay() {
        let found = |guilds_stay, told: &[(&str, &str)]| {
            let mut judge = judge();
            judge.terms.guilds_stay = guilds_stay;
            ready(&mut judge);
            for (s, (name, d)) in (3..).zip(told) {
                dispatch(&mut judge, name, s, d);
            }
            kinds(&judge)
        };
        let create = ("GUILD_CREATE", r#"{"id":"7","unavailable":false}"#);
        let delete = ("GUILD_DELETE", r#"{"id":"7","unavailable":true}"#);
        assert_eq!(found(true, &[create]), ["guild told twice"]);
        assert_eq!(found(false, &[create]), [""; 0]);
        assert_eq!(found(true, &[delete, create]), [""; 0]);
        assert_eq!(found(true, &[("GUILD_CREATE", r#"{"id":"8"}"#)]), [""; 0]);
    }

    #[test]
    fn chunks_that_never_come_are_found() {
        let mut judge = judge();
        judge.on_request_members("n");
        judge.settle(0);
        assert_eq!(kinds(&judge), ["chunks missing"]);
    }

    #[test]
    fn chunks_are_counted_by_nonce() {
        let mut judge = judge();
        ready(&mut judge);
        judge.on_request_members("n");
        let chunk = |index| format!(r#"{{"nonce":"n","members":[{{}},{{}}],"chunk_index":{index},"chunk_count":2}}"#);
        dispatch(&mut judge, "GUILD_MEMBERS_CHUNK", 3, &chunk(0));
        assert!(judge.chunked.is_empty() && !judge.has_all(0));
        dispatch(&mut judge, "GUILD_MEMBERS_CHUNK", 4, &chunk(1));
        assert_eq!((judge.chunked["n"], judge.findings.is_empty()), (4, true));
    }

    #[test]
    fn a_request_on_a_connection_that_broke_may_be_answered_or_not() {
        let mut judge = judge();
        ready(&mut judge);
        judge.on_request_members("n");
        judge.on_connect();
        assert!(!judge.awaits_chunks());
        judge.on_payload(true, br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#, 0);
        dispatch(&mut judge, "GUILD_MEMBERS_CHUNK", 3, r#"{"nonce":"n","members":[],"chunk_index":0,"chunk_count":2}"#);
        judge.settle(0);
        assert_eq!(kinds(&judge), ["chunks missing"], "an answer that has begun must end");
    }

    #[test]
    fn a_session_that_ends_in_its_guild_stream_is_forgiven_by_the_terms_alone() {
        for (may_lose_snapshot, found) in [(true, vec![]), (false, vec!["op 9"])] {
            let mut judge = judge();
            judge.terms.may_lose_snapshot = may_lose_snapshot;
            dispatch(&mut judge, "READY", 1, READY);
            judge.on_payload(true, br#"{"t":null,"s":null,"op":9,"d":false}"#, 0);
            assert_eq!((kinds(&judge), judge.snapshots_cut), (found, may_lose_snapshot.into()));
            judge.on_identify();
            ready(&mut judge);
            judge.on_payload(true, br#"{"t":null,"s":null,"op":9,"d":false}"#, 0);
            assert_eq!(kinds(&judge), ["op 9"]);
        }
    }
}
