//! One core: its loop, its shards, its clients. Everything that happens here happens on one pinned thread.
//!
//! A turn: enter the kernel once, hand what arrived to the state machines, do what they ask, pump clients whose shard has
//! something new, sleep. It decides nothing about sessions; it owns tokens, timers and buffers. This file is the loop, the timers and
//! the end; `upstream` is Discord's side, `clients` their connections, `seating` how they come to a session, `delivery` what they are sent,
//! `keeping` what is stored, `live` what a reload changes, `gathering` whether the loop wakes for every event.

mod clients;
mod delivery;
mod gathering;
mod keeping;
mod live;
mod seating;
mod upstream;

use self::gathering::Gathering;
pub use self::keeping::Keeping;
use self::keeping::Restored;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};
use tracing::{info, warn};

use super::client::{Client, Phase};
use super::client_tls::Failures;
use super::clock;
use super::conns::{Conn, Conns};
use super::delays::Delays;
use super::link::{Link, Scratch};
use super::mesh::{CloseReport, CoreReport, CoreSender, Detail, ResumesRefused, ToControl, ToCore, TurnedAway};
use super::net::{Event, Net, Token};
use super::placement::Placement;
use crate::session::client::Rules;
use crate::session::upstream::Status;
use crate::shard::group::Group;
use crate::shard::seat::SeatKey;
use crate::wire::egress::EgressProxy;
use crate::wire::{CloseCode, Compression};

/// How often blocked clients are looked at and logs are trimmed by age.
const TICK: Duration = Duration::from_secs(1);
/// When a turn has lasted this long, one timeout of a shard and one piece of recovered state are handled in it and no more; the others, still the
/// earliest, come in the next, which does not sleep. Shards that replay their logs after a restart ask to go on at once, and those that have not resumed
/// yet need several turns for that.
const TURN_MAX: Duration = Duration::from_millis(1);
/// After our close frame the other side has this long to read what was sent.
const LINGER: Duration = Duration::from_secs(2);

/// What all cores begin with. A core that is told of other settings makes itself another (`live`).
#[derive(Clone)]
pub struct Shared {
    pub rules: Rules,
    pub placement: Placement,
    pub upstream_compression: Compression,
    pub allow_compression: bool,
    /// Sockets of clients on one core.
    pub clients_max: usize,
    pub tls: Arc<ClientConfig>,
    /// Every connection to Discord goes through it.
    pub egress: Option<Arc<EgressProxy>>,
    pub backend: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Tick,
    Shard(usize),
    Client(Token),
    Keeping,
}

/// One shard's place on this core. `clients` is sorted by nothing; a shard has few.
#[derive(Default)]
struct Place {
    link: Option<Link>,
    clients: Vec<(SeatKey, Token)>,
    /// Its clients must be pumped before the turn ends.
    dirty: bool,
    armed: Option<Instant>,
    /// It is in `Core::touched`.
    touched: bool,
    /// It is in `Core::replays`.
    replays: bool,
    /// The place of its mark in the batch that is being collected.
    collected: Option<usize>,
    /// The shard's status as the log was told it last.
    told: Option<Status>,
}

struct Draining {
    until: Instant,
}

pub struct Core<N: Net> {
    index: usize,
    net: N,
    shared: Arc<Shared>,
    group: Group,
    places: Vec<Place>,
    dirty: Vec<usize>,
    /// Shards that may have journaled something since the turn began, each once.
    touched: Vec<usize>,
    /// Shards that want something since their clients were pumped.
    pumped: Vec<usize>,
    /// Shards that replay their logs after a restart, each once, in turn.
    replays: VecDeque<usize>,
    snapshots: delivery::Snapshots,
    conns: Conns,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    mail: mpsc::Receiver<ToCore>,
    control: mpsc::Sender<ToControl>,
    peers: Vec<CoreSender>,
    scratch: Scratch,
    rng: fastrand::Rng,
    turned_away: TurnedAway,
    resumes_refused: ResumesRefused,
    draining: Option<Draining>,
    /// Upgrades answered 503 because memory was used up.
    upgrades_refused: u64,
    /// Payloads of Discord's in this turn, and how long those of all turns were with us.
    payloads: u32,
    delays: Delays,
    gathering: Gathering,
    closes: CloseReport,
    keeping: Keeping,
    /// What a client that connects now is shown; `None`: no TLS.
    client_tls: Option<Arc<ServerConfig>>,
    tls_failures: Failures,
    /// What a client's TLS decrypts to, all clients in turn.
    client_plain: Vec<u8>,
}

/// Whether the turn that began at `now` has had its time.
fn is_spent(now: Instant) -> bool {
    clock::now().saturating_duration_since(now) >= TURN_MAX
}

/// Whether a client's connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Gone,
}

/// What a core is made of. The channel ends come from `runtime::start`.
pub struct Parts<N: Net> {
    pub index: usize,
    pub net: N,
    pub shared: Arc<Shared>,
    pub group: Group,
    pub mail: mpsc::Receiver<ToCore>,
    pub control: mpsc::Sender<ToControl>,
    pub peers: Vec<CoreSender>,
    pub keeping: Keeping,
    pub client_tls: Option<Arc<ServerConfig>>,
    pub seed: u64,
    /// When the shards of `group` were made: ticks fall together with their heartbeats.
    pub now: Instant,
}

impl<N: Net> Core<N> {
    pub fn new(parts: Parts<N>) -> Self {
        let places = parts.group.shards.iter().map(|_| Place::default()).collect();
        Self {
            index: parts.index,
            net: parts.net,
            shared: parts.shared,
            group: parts.group,
            places,
            dirty: Vec::new(),
            touched: Vec::new(),
            pumped: Vec::new(),
            replays: VecDeque::new(),
            snapshots: delivery::Snapshots::default(),
            conns: Conns::default(),
            timers: BinaryHeap::from([Reverse((parts.now + TICK, Timer::Tick))]),
            mail: parts.mail,
            control: parts.control,
            peers: parts.peers,
            scratch: Scratch::default(),
            rng: fastrand::Rng::with_seed(parts.seed),
            turned_away: TurnedAway::default(),
            resumes_refused: ResumesRefused::default(),
            draining: None,
            upgrades_refused: 0,
            payloads: 0,
            delays: Delays::default(),
            gathering: Gathering::default(),
            closes: CloseReport::default(),
            keeping: parts.keeping,
            client_tls: parts.client_tls,
            tls_failures: Failures::default(),
            client_plain: Vec::new(),
        }
    }

    /// Runs until drained.
    pub fn run(mut self) -> io::Result<()> {
        let now = clock::now();
        for at in 0..self.places.len() {
            self.on_shard_timeout(now, at);
        }
        loop {
            let timeout = match self.timers.peek() {
                _ if self.keeping.is_restoring() || !self.replays.is_empty() || self.snapshots.are_due() => {
                    Some(Duration::ZERO)
                }
                Some(Reverse((due, _))) => Some(due.saturating_duration_since(clock::now())),
                None => None,
            };
            self.net.turn(timeout)?;
            let now = clock::now();
            self.snapshots.begin_turn();
            self.pump_snapshots(now);
            while let Some(event) = self.net.next() {
                self.on_event(now, event);
            }
            self.run_timers(now);
            self.restore_some(now);
            self.replay_some(now);
            self.pump_dirty(now);
            self.run_actions_of_pumping(now);
            self.note_delay(now);
            self.keep(now);
            if let Some(Draining { until }) = self.draining
                && (self.net.is_empty() || now >= until)
                && self.end_keeping(now, until)
            {
                let _ = self.control.send(ToControl::Drained { core: self.index });
                return Ok(());
            }
        }
    }

    /// Everything that this turn brought is in the outboxes now.
    fn note_delay(&mut self, now: Instant) {
        let payloads = std::mem::take(&mut self.payloads);
        if let Some(time) = self.gathering.on_turn(now, payloads) {
            self.net.gather(time);
        }
        if payloads > 0 {
            self.delays.add(clock::now().saturating_duration_since(now), payloads);
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted(socket) => self.on_accepted(now, socket),
            Event::Connected(token) => self.on_connected(now, token),
            Event::Read(token, chunk) => match self.conns.get(token) {
                Some(Conn::Shard(at)) => {
                    let at = *at;
                    self.on_link_bytes(now, at, &chunk);
                }
                Some(Conn::Client(_)) => {
                    self.with_client(token, |core, client| core.on_client_bytes(now, token, client, &chunk))
                }
                None => {}
            },
            Event::Drained(token) => self.with_client(token, |core, client| core.on_drained(now, token, client)),
            Event::Closed(token, error) => self.on_socket_closed(now, token, error),
            Event::Released(token, socket, unsent) => self.on_released(token, socket, unsent),
            Event::Mail => {
                while let Ok(message) = self.mail.try_recv() {
                    self.on_mail(now, message);
                }
            }
        }
    }

    fn on_socket_closed(&mut self, now: Instant, token: Token, error: Option<io::Error>) {
        match self.conns.remove(token) {
            Some(Conn::Shard(at)) => {
                let shard = self.shard_id(at).0;
                let Some(link) = &mut self.places[at].link else { return };
                link.token = None;
                let reason = error.map_or_else(|| "end of stream".to_owned(), |it| it.to_string());
                if link.is_connecting() {
                    warn!(shard, host = link.peer().0, cause = reason, "cannot connect");
                    self.connect_next(now, at);
                } else {
                    info!(shard, cause = reason, "the connection to Discord ended");
                    self.lose_link(now, at, None);
                }
                self.run_actions(now, at);
            }
            Some(Conn::Client(client)) => {
                if let Some(seated) = client.seated {
                    self.unseat(now, seated, client.peer, false);
                }
            }
            None => {}
        }
    }

    fn on_mail(&mut self, now: Instant, message: ToCore) {
        match message {
            ToCore::HandOver(hand_over) => self.on_hand_over(now, *hand_over),
            ToCore::IdentifyTurn { shard, not_before } => {
                if let Some(at) = self.place_of(shard) {
                    self.group.shards[at].on_turn(now, not_before);
                    self.run_actions(now, at);
                }
            }
            ToCore::Resolved { shard, host, addresses } => {
                if let Some(at) = self.place_of(shard) {
                    self.on_resolved(now, at, &host, addresses);
                }
            }
            ToCore::Report(reply, detail) => {
                let shards = self.group.shards.iter().map(|it| {
                    let mut report = it.report(now);
                    if detail == Detail::Whole {
                        it.measure(&mut report);
                    }
                    report
                });
                let report = CoreReport {
                    core: self.index,
                    backend: self.shared.backend,
                    greeting: self.conns.greeting(),
                    turned_away: self.turned_away,
                    resumes_refused: self.resumes_refused,
                    log_dropped_early: self.group.dropped_early(),
                    upgrades_refused: self.upgrades_refused,
                    busy: clock::thread_cpu(),
                    traffic: self.net.traffic(),
                    delays: self.delays.clone(),
                    closes: self.closes.clone(),
                    store_inflight_bytes: self.keeping.inflight_bytes(),
                    shards: shards.collect(),
                    store: self.keeping.report(),
                };
                // Whoever asked may have given up waiting.
                let _ = reply.send(report);
            }
            ToCore::Turn => self.tell_control(ToControl::Turned { core: self.index }),
            ToCore::Find { wanted, reply } => {
                let found = self.group.shards.iter().find_map(|it| it.find(wanted));
                // As above.
                let _ = reply.send(found);
            }
            ToCore::Drain { upstream_close, within, leave_listeners } => {
                if leave_listeners {
                    self.net.leave_listeners();
                } else {
                    self.net.stop_listening();
                }
                self.drain(now, upstream_close, within);
            }
            ToCore::Settings(live) => self.on_settings(now, &live),
            ToCore::Pressure(pressure) => {
                self.group.set_pressure(now, pressure);
                // Those that were held back may have their READY now.
                for at in 0..self.places.len() {
                    self.mark_dirty(at);
                }
            }
            ToCore::ClientTls(config) => self.client_tls = Some(config),
            ToCore::StoreWritten(batch) => self.on_store_written(now, batch),
            ToCore::StoreSegment { shard, index, segment } => {
                if let Some(at) = self.place_of(shard) {
                    self.on_store_segment(now, at, index, segment);
                }
            }
            ToCore::StoreState { shard, blob } => {
                if let Some(at) = self.place_of(shard) {
                    self.keeping.take_in(Restored::State(at, blob));
                }
            }
            ToCore::StoreStateLost { shard } => {
                if let Some(at) = self.place_of(shard) {
                    self.keeping.take_in(Restored::Lost(at));
                }
            }
            ToCore::StoreStateComplete { shard } => {
                if let Some(at) = self.place_of(shard) {
                    self.keeping.take_in(Restored::Complete(at));
                }
            }
            ToCore::StoreTail { shard, tail } => {
                if let Some(at) = self.place_of(shard) {
                    self.on_store_tail(now, at, tail);
                }
            }
            ToCore::StoreRotate { wal } => self.on_store_rotate(now, wal),
            ToCore::StoreLost => self.on_store_lost(now),
            ToCore::StoreBegin { generation } => self.on_store_begin(now, generation),
            ToCore::StoreEnded => self.on_store_ended(),
            ToCore::StoreReport(report) => self.keeping.set_report(*report),
        }
    }

    // ---- timers

    fn run_timers(&mut self, now: Instant) {
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Tick => {
                    self.on_tick(now);
                    let next = due + TICK.max(now.saturating_duration_since(due));
                    self.timers.push(Reverse((next, Timer::Tick)));
                }
                // An entry that an earlier one has overtaken is void: if it were to arm again, each would stay for ever.
                Timer::Shard(at) if self.places[at].armed == Some(due) => {
                    self.places[at].armed = None;
                    self.on_shard_timeout(now, at);
                }
                Timer::Client(token) => self.with_client(token, |core, client| {
                    if client.armed != Some(due) {
                        return Fate::Stays;
                    }
                    client.armed = None;
                    core.on_client_timeout(now, token, client)
                }),
                Timer::Keeping => self.on_keeping_timeout(now, due),
                Timer::Shard(_) => {}
            }
        }
    }

    /// Once a turn, which began at `now`: shards replay their logs in what is left of the turn's time, one at least.
    fn replay_some(&mut self, now: Instant) {
        while let Some(at) = self.replays.pop_front() {
            self.places[at].replays = false;
            self.group.shards[at].replay(now);
            self.run_actions(now, at);
            if is_spent(now) {
                return;
            }
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.group.trim_by_age(now);
        self.keep_by_age(now);
        for token in self.conns.blocked() {
            self.with_client(token, |core, client| core.on_blocked_tick(now, token, client));
        }
        self.thin_the_crowd(now);
        if self.group.pressure().cuts_laggards() {
            self.cut_laggards(now);
        }
    }

    fn arm_shard(&mut self, at: usize) {
        let place = &mut self.places[at];
        let next_address_at = place.link.as_ref().and_then(|it| it.next_address_at);
        let shard = &self.group.shards[at];
        if shard.replay_due().is_some() && !std::mem::replace(&mut place.replays, true) {
            self.replays.push_back(at);
        }
        let Some(due) = shard.timers_due().into_iter().chain(next_address_at).min() else { return };
        if place.armed.is_none_or(|armed| due < armed) {
            place.armed = Some(due);
            self.timers.push(Reverse((due, Timer::Shard(at))));
        }
    }

    fn arm_client(&mut self, token: Token, client: &mut Client) {
        let Some(due) = client.due() else { return };
        if client.armed.is_none_or(|armed| due < armed) {
            client.armed = Some(due);
            self.timers.push(Reverse((due, Timer::Client(token))));
        }
    }

    // ---- the end

    fn drain(&mut self, now: Instant, upstream_close: CloseCode, within: Duration) {
        for token in self.conns.clients() {
            self.with_client(token, |core, client| {
                if core.pump(now, token, client) == Fate::Gone {
                    return Fate::Gone;
                }
                match client.phase {
                    Phase::Http(_) => core.turn_away(token, client),
                    Phase::Open => core.dismiss(now, token, client, CloseCode::UNKNOWN_ERROR, "The proxy restarts."),
                    _ => {
                        core.net.close(token, Duration::ZERO);
                        Fate::Gone
                    }
                }
            });
        }
        for at in 0..self.places.len() {
            self.group.shards[at].shut_down(upstream_close);
            self.run_actions(now, at);
        }
        self.draining = Some(Draining { until: now + within });
        self.timers.push(Reverse((now + within, Timer::Tick)));
    }
}

#[cfg(test)]
mod tests;
