//! A fake Discord: gateway and REST on loopback, strict about every rule a client must keep, generous with faults.
//!
//! One thread. This file holds what everybody shares and what passes time; `gateway` talks to a connection,
//! `conversation` answers its payloads, `rest` and `admin` answer HTTP.

pub mod admin;
mod commands;
mod connection;
mod conversation;
mod gateway;
mod identify;
mod life;
pub mod options;
mod parts;
mod rest;
mod serve;
mod session;
mod state;
mod stats;
mod template;
mod traffic;
pub mod world;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use fastrand::Rng;

use self::connection::Connection;
use self::identify::IdentifyGate;
use self::life::Told;
use self::options::Options;
use self::session::{Entry, Session};
use self::stats::Stats;
use self::template::push_number;
use self::traffic::Traffic;
use self::world::{Size, World};
use crate::clock::SECOND_NS;

pub use self::serve::{Address, command, serve};

/// Events of one tick; when the plan is further behind, the rest of it is forgotten and the rate falls short.
const TICK_EVENTS_MAX: f64 = 20_000.0;
/// One event in this many begins a burst on its shard.
const BURST_EVERY: u32 = 400;
const BURST_EVENTS: std::ops::Range<u32> = 8..32;
/// At an infinite rate: events of one shard in a row, of each shard in one tick. At 225 shards that is some milliseconds of work.
const FLOOD_EVENTS: u32 = 16;
/// At an infinite rate nothing happens on a shard while this many bytes wait for its client.
const FLOOD_BEHIND_BYTES: usize = 64 << 10;
/// Changes of guilds in one tick: a millisecond's worth.
const TICK_CHANGES_MAX: u32 = 500;
/// No more is sent to a connection of its own accord while this many bytes wait for it.
const BEHIND_BYTES: usize = 1 << 20;
/// A connection that was told to close and does not is cut after this.
const CLOSE_NS: u64 = 2 * SECOND_NS;
/// A client that was sent op 7 and stays is closed after this.
const RECONNECT_NS: u64 = 10 * SECOND_NS;

pub type Shared = Rc<RefCell<Discord>>;

/// One shard, with the sessions that identified as it.
#[derive(Default)]
struct Shard {
    /// Traffic events so far; the newest one carries this number.
    counter: u64,
    sessions: Vec<Session>,
    /// When all members of a guild were last asked for.
    chunked_ns: HashMap<u64, u64>,
}

/// Faults that are waiting for the next who comes.
#[derive(Default)]
struct Faults {
    hello_op7: u32,
    refuse_upgrade: u32,
    /// How upgrades are refused.
    refuse_status: u16,
    refuse_retry_after_s: Option<u32>,
    rest: Option<RestFault>,
    /// Heartbeats that are not acknowledged.
    lost_acks: u32,
    /// What `/gateway/bot` says in place of the gateway's own URL.
    gateway_url: Option<String>,
}

#[derive(Clone, Copy)]
struct RestFault {
    status: u16,
    count: u32,
    retry_after_s: f32,
}

pub struct Discord {
    options: Options,
    world: World,
    traffic: Traffic,
    rng: Rng,
    shards: Vec<Shard>,
    gate: IdentifyGate,
    stats: Stats,
    faults: Faults,
    connections: HashMap<u64, Rc<Connection>>,
    next_connection: u64,
    /// Connections to end at a time, with the reason why they get close 4000.
    doomed: Vec<(u64, u64)>,
    events_per_s: f64,
    debt: f64,
    ticked_ns: u64,
    burst: (u32, u32),
    scratch: Vec<u8>,
    /// Answers that wait until who asked has taken the ones before: shard, session id, entry.
    answers: VecDeque<(u32, String, Entry)>,
    /// Events that have changed a guild so far, and what draws them.
    changes: u64,
    life_rng: Rng,
    /// What `/fake/live` and `/fake/replace` ordered and has not happened yet.
    life_left: VecDeque<Life>,
}

/// Changes of the guilds that were ordered; a shard of `None` is all of them, in turn or by chance.
enum Life {
    Events {
        shard: Option<u32>,
        left: u64,
    },
    /// Every object of every guild from this one on, counted over all shards.
    Replace {
        next: u32,
    },
}

impl Discord {
    pub fn new(options: Options) -> Self {
        let world = World::new(options.size.clone());
        Self {
            traffic: Traffic::new(&world),
            rng: Rng::with_seed(options.seed),
            shards: (0..options.size.shards).map(|_| Shard::default()).collect(),
            gate: IdentifyGate::new(options.max_concurrency, options.identify_interval_ns, options.identify_limit),
            stats: Stats::default(),
            faults: Faults::default(),
            connections: HashMap::new(),
            next_connection: 0,
            doomed: Vec::new(),
            events_per_s: options.events_per_s,
            debt: 0.0,
            ticked_ns: 0,
            burst: (0, 0),
            scratch: Vec::new(),
            answers: VecDeque::new(),
            changes: 0,
            life_rng: Rng::with_seed(options.seed ^ 0x11FE),
            life_left: VecDeque::new(),
            world,
            options,
        }
    }

    /// Sends the traffic that is due. Call about once per millisecond.
    fn on_tick(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(std::mem::replace(&mut self.ticked_ns, now_ns));
        self.send_answers();
        self.live_on();
        if passed_ns == now_ns {
            return;
        }
        if self.events_per_s.is_infinite() {
            return self.flood();
        }
        self.debt += self.events_per_s * passed_ns as f64 / SECOND_NS as f64;
        let due = self.debt.floor().min(TICK_EVENTS_MAX);
        self.debt = (self.debt - due).min(1.0);
        let mut touched = Vec::new();
        for _ in 0..due as u32 {
            if self.burst.1 == 0 && self.rng.u32(..BURST_EVERY) == 0 {
                self.burst = (self.rng.u32(..self.options.size.shards), self.rng.u32(BURST_EVENTS));
            }
            let shard = if self.burst.1 > 0 {
                self.burst.1 -= 1;
                self.burst.0
            } else {
                self.rng.u32(..self.options.size.shards)
            };
            self.happen(shard, &mut touched);
            // A burst goes out in one send; any other event at once, since its time of sending is written in it.
            if self.burst.1 == 0 {
                touched.drain(..).for_each(|it: Rc<Connection>| it.flush());
            }
        }
        touched.iter().for_each(|it| it.flush());
    }

    /// As much as everybody takes: whoever is behind is left out.
    fn flood(&mut self) {
        for shard in 0..self.options.size.shards {
            let is_behind = |it: &Session| it.connection.as_ref().is_some_and(|it| it.backlog() > FLOOD_BEHIND_BYTES);
            if !self.shards[shard as usize].sessions.iter().any(is_behind) {
                self.burst(shard, FLOOD_EVENTS);
            }
        }
    }

    /// One event on `shard`, if anybody has ever identified as it. Connections that got it are added to `touched`.
    fn happen(&mut self, shard: u32, touched: &mut Vec<Rc<Connection>>) {
        let state = &mut self.shards[shard as usize];
        if state.sessions.is_empty() {
            return;
        }
        state.counter += 1;
        let now_ns = crate::clock::now_ns();
        let event = self.traffic.pick(&self.world, shard, state.counter, now_ns, &mut self.rng);
        self.dispatch(shard, Entry::Traffic(event), touched);
    }

    /// Lets some of the ordered changes happen, as fast as everybody takes them.
    fn live_on(&mut self) {
        let mut touched = Vec::new();
        for _ in 0..TICK_CHANGES_MAX {
            if self.life_left.is_empty() || self.connections.values().any(|it| it.backlog() > BEHIND_BYTES) {
                break;
            }
            for (shard, (name, d)) in self.next_changes() {
                self.changes += 1;
                self.dispatch(shard, Entry::Raw(Rc::new((name.to_owned(), d))), &mut touched);
            }
        }
        touched.iter().for_each(|it: &Rc<Connection>| it.flush());
    }

    /// The changes of one step of what was ordered first.
    fn next_changes(&mut self) -> Vec<(u32, Told)> {
        let Size { shards, guilds, .. } = self.options.size;
        match self.life_left.front_mut() {
            Some(Life::Events { shard, left }) if *left > 0 => {
                *left -= 1;
                let shard = shard.unwrap_or_else(|| self.life_rng.u32(..shards));
                self.world.live(shard, &mut self.life_rng).map(|it| (shard, it)).into_iter().collect()
            }
            Some(Life::Replace { next }) if *next < shards * guilds => {
                let (shard, index) = (*next % shards, *next / shards);
                *next += 1;
                self.world.replace(shard, index, &mut self.life_rng).into_iter().map(|it| (shard, it)).collect()
            }
            _ => {
                self.life_left.pop_front();
                Vec::new()
            }
        }
    }

    /// Whether a session's connection has enough to take already.
    fn is_behind(&self, shard: u32, session_id: &str) -> bool {
        let session = self.shards[shard as usize].sessions.iter().find(|it| it.id == session_id);
        session.and_then(|it| it.connection.as_ref()).is_some_and(|it| it.backlog() > BEHIND_BYTES)
    }

    /// `events` events on one shard, as fast as they can be made.
    fn burst(&mut self, shard: u32, events: u32) {
        let mut touched = Vec::new();
        for _ in 0..events {
            self.happen(shard, &mut touched);
        }
        touched.iter().for_each(|it: &Rc<Connection>| it.flush());
    }

    /// Gives `entry` to every session of `shard`: logged, and queued where there is a connection.
    fn dispatch(&mut self, shard: u32, entry: Entry, touched: &mut Vec<Rc<Connection>>) {
        for at in 0..self.shards[shard as usize].sessions.len() {
            let session = &mut self.shards[shard as usize].sessions[at];
            let seq = session.append(entry.clone());
            if let Some(connection) = session.connection.clone() {
                let id = std::mem::take(&mut session.id);
                self.push(&connection, shard, &id, seq, &entry);
                self.shards[shard as usize].sessions[at].id = id;
                touched.push(connection);
            }
        }
    }

    /// Gives `entry` to one session alone, and sends it.
    fn dispatch_to(&mut self, shard: u32, session_id: &str, entry: Entry) {
        let Some(session) = self.session_mut(shard, session_id) else { return };
        let seq = session.append(entry.clone());
        if let Some(connection) = session.connection.clone() {
            self.push(&connection, shard, session_id, seq, &entry);
            connection.flush();
        }
    }

    /// Renders a dispatch and queues it on `connection`.
    fn push(&mut self, connection: &Connection, shard: u32, session_id: &str, seq: u64, entry: &Entry) {
        if matches!(entry, Entry::Hole) {
            return;
        }
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        let name = match entry {
            Entry::Ready => "READY",
            Entry::Guild(_) => "GUILD_CREATE",
            Entry::Outage(_) => "GUILD_DELETE",
            Entry::Traffic(event) => self.traffic.name(event),
            Entry::Chunk(_) => "GUILD_MEMBERS_CHUNK",
            Entry::Raw(raw) => &raw.0,
            Entry::Resumed => "RESUMED",
            Entry::Hole => unreachable!("it was left out above"),
        };
        out.extend_from_slice(b"{\"t\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"s\":");
        push_number(&mut out, seq);
        out.extend_from_slice(b",\"op\":0,\"d\":");
        match entry {
            Entry::Ready => self.world.ready(shard, session_id, &self.options.resume_url, &mut out),
            Entry::Guild(index) => self.world.guild(shard, *index, &mut out),
            Entry::Outage(index) => {
                let id = self.world.guild_id(shard, *index);
                out.extend_from_slice(format!("{{\"unavailable\":true,\"id\":\"{id}\"}}").as_bytes());
            }
            Entry::Traffic(event) => self.traffic.render(&self.world, shard, event, &mut out),
            Entry::Chunk(chunk) => self.render_chunk(shard, chunk, &mut out),
            Entry::Raw(raw) => out.extend_from_slice(raw.1.as_bytes()),
            Entry::Hole => {}
            Entry::Resumed => out.extend_from_slice(b"{\"_trace\":[\"[\\\"gateway-fake\\\",{\\\"micros\\\":1}]\"]}"),
        }
        out.push(b'}');
        connection.push(&out);
        self.scratch = out;
    }

    fn session_mut(&mut self, shard: u32, session_id: &str) -> Option<&mut Session> {
        self.shards.get_mut(shard as usize)?.sessions.iter_mut().find(|it| it.id == session_id)
    }

    /// The connections that carry sessions of `shard`; of all shards for `None`.
    fn connections_of(&self, shard: Option<u32>) -> Vec<Rc<Connection>> {
        let carries = |it: &&Rc<Connection>| match &*it.session.borrow() {
            Some((carried, _)) => shard.is_none_or(|shard| shard == *carried),
            None => false,
        };
        self.connections.values().filter(carries).cloned().collect()
    }

    /// Closes `connection` with a code that Discord would send, and counts it.
    fn close(&mut self, connection: &Rc<Connection>, code: u16, reason: &str, now_ns: u64) {
        if connection.is_closing() {
            return;
        }
        *self.stats.closes_sent.entry(code).or_default() += 1;
        connection.close(code, reason);
        self.detach(connection, now_ns);
        self.doomed.push((now_ns + CLOSE_NS, connection.id));
    }

    /// The session, if there is one, goes on without `connection`.
    fn detach(&mut self, connection: &Connection, now_ns: u64) {
        let Some((shard, id)) = connection.session.take() else { return };
        if let Some(session) = self.session_mut(shard, &id)
            && session.connection.as_ref().is_some_and(|it| it.id == connection.id)
        {
            session.connection = None;
            session.gone_ns = now_ns;
        }
    }

    /// Finds late heartbeats, forgets sessions that were left, cuts who was told to go. Call a few times a second.
    fn on_housekeeping(&mut self, now_ns: u64) {
        let limit_ns = self.options.heartbeat_interval_ms * 1_500_000;
        let late: Vec<_> =
            self.connections.values().filter(|it| now_ns > it.heartbeat_ns.get() + limit_ns).cloned().collect();
        for connection in late {
            if !connection.is_closing() {
                self.stats.violate("heartbeat late", format!("connection {}", connection.id));
                self.close(&connection, 4009, "Session timed out", now_ns);
            }
        }
        let (due, doomed) = std::mem::take(&mut self.doomed).into_iter().partition(|it| it.0 <= now_ns);
        self.doomed = doomed;
        let due: Vec<(u64, u64)> = due;
        for connection in due.iter().filter_map(|it| self.connections.get(&it.1)).cloned().collect::<Vec<_>>() {
            if connection.is_closing() {
                connection.link.cut();
            } else {
                self.close(&connection, 4000, "Reconnect was requested", now_ns);
            }
        }
        let keep_ns = self.options.session_keep_ns;
        for shard in &mut self.shards {
            shard.sessions.retain(|it| it.connection.is_some() || now_ns < it.gone_ns + keep_ns);
        }
    }
}
