//! The stage: one shard and its disk, Discord, some clients, and what goes wrong.

use crate::cache::Shapes;
use std::time::{Duration, Instant};

use super::client::Client;
use super::discord::{Discord, guilds};
use super::disk::Disk;
use crate::session::payload::{self, ClientPayload, Identify, Resume, Token};
use crate::session::upstream::Status;
use crate::shard::clients::SEEK_MAX;
use crate::shard::seat::Pumped;
use crate::shard::{Action, ResumeRefused, Shard, ShardSettings, properties};
use crate::store::StateBlob;
use crate::wire::CloseCode;

const CLIENTS: usize = 3;
const STEPS: usize = 400;

#[derive(Debug, Default)]
pub struct Totals {
    pub crashes: u64,
    /// Things handed to the disk that a crash took back.
    pub lost_bytes: u64,
    /// RESUMEs that were answered, and those of them whose number had to be looked for.
    pub resumed: u64,
    pub found: u64,
    pub reads: u64,
    pub chunks: u64,
    pub rotations: u64,
    pub forgotten: u64,
    pub store_losses: u64,
    pub refused: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.lost_bytes += other.lost_bytes;
        self.resumed += other.resumed;
        self.found += other.found;
        self.reads += other.reads;
        self.chunks += other.chunks;
        self.rotations += other.rotations;
        self.forgotten += other.forgotten;
        self.store_losses += other.store_losses;
        self.refused += other.refused;
    }
}

pub struct Stage {
    rng: fastrand::Rng,
    chatty: bool,
    now: Instant,
    shard: Shard,
    /// `None` while the store is lost.
    disk: Option<Disk>,
    /// Checkpoints on their way to a restarted shard; `None` when all were given.
    states: Option<Vec<StateBlob>>,
    reads: Vec<u64>,
    discord: Discord,
    connected: bool,
    /// Discord's session that the disk is known to have.
    stored_session: Option<String>,
    /// IDENTIFYs that were right.
    identifies_due: u64,
    clients: Vec<Client>,
    seeking_since: [Option<Instant>; CLIENTS],
    totals: Totals,
}

impl Stage {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    pub fn new(seed: u64, chatty: bool) -> Self {
        let now = Instant::now();
        let mut shard = Shard::new(settings(), Shapes::default(), seed, now);
        shard.begin_journal();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            chatty,
            now,
            shard,
            disk: Some(Disk::default()),
            states: None,
            reads: Vec::new(),
            discord: Discord::new(),
            connected: false,
            stored_session: None,
            identifies_due: 1,
            clients: (0..CLIENTS).map(Client::new).collect(),
            seeking_since: [None; CLIENTS],
            totals: Totals::default(),
        }
    }

    pub fn run(mut self) -> Totals {
        for _ in 0..STEPS {
            self.step();
        }
        self.make_peace();
        self.check();
        self.totals.chunks = self.clients.iter().map(|it| it.chunks).sum();
        self.totals
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.chatty {
            println!("{}", what());
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..30 => {
                let mut rng = self.rng.fork();
                (0..rng.usize(1..6)).for_each(|_| self.discord.event(&mut rng));
            }
            30..52 => {
                let count = self.rng.usize(1..10);
                self.deliver(count);
            }
            52..66 => {
                let client = self.rng.usize(..CLIENTS);
                self.client_acts(client);
            }
            66..74 => self.hand_over(),
            74..82 => {
                let count = self.rng.usize(1..6);
                self.write(count);
            }
            82 => self.cut(),
            83 => self.forget(),
            84..88 => self.crash(),
            88 => self.rotate(),
            89 if self.rng.u8(..4) == 0 => self.lose_or_begin_store(),
            90..93 => {
                // What the budget does: the oldest goes from memory, if the store has it.
                self.shard.close_segment();
                self.hand_over();
                while self.rng.u8(..3) > 0 {
                    // What no store has is gone for good.
                    let is_lost = self.disk.is_none() || self.shard.log.tail() < self.shard.stored_from;
                    if !self.shard.drop_oldest() {
                        break;
                    }
                    self.clients.iter_mut().for_each(|it| it.may_be_refused |= is_lost);
                }
            }
            93..95 => self.give_states(1),
            95 => self.give_states(usize::MAX),
            96 => self.now += Duration::from_secs(self.rng.u64(1..20)),
            _ => {
                let client = self.rng.usize(..CLIENTS);
                self.ask_for_members(client);
            }
        }
        self.turn();
    }

    // ---- Discord

    fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let Some(payload) = self.discord.wire.pop_front().filter(|_| self.connected) else { return };
            self.say(|| format!("Discord: {}", String::from_utf8_lossy(&payload)));
            if payload.starts_with(br#"{"t":"READY""#) && self.shard.has_past() {
                // The state is not back, so nobody can be told a difference.
                self.clients.iter_mut().for_each(|it| it.may_be_refused = true);
            }
            self.shard.on_payload(self.now, &payload).unwrap();
            self.act();
        }
    }

    fn cut(&mut self) {
        if self.connected {
            self.say(|| "cut".to_owned());
            self.connected = false;
            let known = self.discord.session.as_ref().map(|it| it.id.clone());
            if known.is_some() && self.shard.session_with_discord() != known {
                // Its READY was on its way.
                self.identifies_due += 1;
            }
            self.discord.on_connection_lost();
            self.shard.on_closed(self.now, Some(CloseCode(1006)));
        }
    }

    fn forget(&mut self) {
        if self.discord.session.is_some() {
            self.say(|| "Discord forgets".to_owned());
            self.discord.forget();
            self.totals.forgotten += 1;
            self.identifies_due += 1;
            self.clients.iter_mut().filter(|it| it.is_unknown).for_each(|it| it.may_be_refused = true);
        }
    }

    // ---- the core and the store

    fn turn(&mut self) {
        if self.shard.due().is_some_and(|it| it <= self.now) {
            self.shard.on_timeout(self.now);
        }
        self.act();
        for client in 0..CLIENTS {
            if self.rng.u8(..3) > 0 {
                let room = self.rng.usize(1..6000);
                self.pump(client, room, usize::MAX);
            }
        }
        self.act();
        if self.rng.u8(..4) == 0 {
            self.answer_reads();
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.shard.poll(self.now) {
            self.say(|| format!("{action:?}"));
            match action {
                Action::IdentifyWanted => self.shard.on_turn(self.now, self.now),
                Action::Connect(_) => {
                    self.connected = true;
                    self.discord.on_connection();
                    self.shard.on_open(self.now);
                }
                Action::Send(payload) => {
                    if payload.windows(7).any(|it| it == br#""op":2}"#) || payload.starts_with(br#"{"d":{"intents""#) {
                        assert!(
                            self.discord.session.is_none() || self.discord.identifies < self.identifies_due,
                            "an IDENTIFY was spent"
                        );
                    }
                    self.discord.on_payload(&payload);
                }
                Action::Close(_) => {
                    self.connected = false;
                    self.discord.on_connection_lost();
                }
                Action::ReadLog(index) => {
                    self.totals.reads += 1;
                    self.reads.push(index);
                }
                Action::InvalidSession(key) => {
                    // It may have left in the same moment: then it hears of it when it comes back.
                    if let Some(client) = self.clients.iter().position(|it| it.key == Some(key)) {
                        self.on_refused(client);
                    }
                }
                Action::Disconnect(..) => {}
                Action::IdentifySent | Action::IdentifyReturned => {}
                Action::Stopped(code) => panic!("nothing fatal was said, yet: {code}"),
            }
        }
    }

    fn answer_reads(&mut self) {
        for index in std::mem::take(&mut self.reads) {
            let segment = self.disk.as_ref().and_then(|it| it.read(index));
            self.shard.on_segment(self.now, index, segment);
        }
    }

    fn hand_over(&mut self) {
        let checkpoints = if self.rng.bool() { self.rng.usize(..8) } else { 0 };
        // A quiet shard's guilds are stored after some minutes; here they cannot wait so long.
        let now = if self.rng.bool() { self.now + Duration::from_secs(600) } else { self.now };
        if let Some(disk) = &mut self.disk {
            disk.take(&mut self.shard, now, checkpoints);
        }
    }

    fn write(&mut self, count: usize) {
        let Some(disk) = &mut self.disk else { return };
        disk.write(&mut self.shard, count);
        let drained = self.shard.journal().is_some_and(|it| it.bytes.is_empty());
        if disk.is_written() && drained && self.shard.beginning.is_none() {
            self.stored_session = self.shard.upstream.session().map(|it| it.id.clone());
        }
    }

    fn rotate(&mut self) {
        if let Some(disk) = &mut self.disk {
            self.totals.rotations += 1;
            disk.rotate(&mut self.shard);
        }
    }

    fn lose_or_begin_store(&mut self) {
        if self.disk.take().is_some() {
            self.say(|| "the store is lost".to_owned());
            self.totals.store_losses += 1;
            self.stored_session = None;
            self.reads.clear();
            if self.shard.has_past() {
                self.identifies_due += 1;
                self.clients.iter_mut().for_each(|it| it.may_be_refused = true);
            }
            // What memory alone does not have is gone.
            self.clients
                .iter_mut()
                .for_each(|it| it.may_be_refused |= it.key.is_none() || it.is_unknown || self.shard.log().tail() > 0);
            self.states = None;
            self.shard.on_store_lost(self.now);
        } else {
            self.say(|| "the store begins".to_owned());
            self.disk = Some(Disk::default());
            self.shard.begin_journal();
        }
    }

    fn give_states(&mut self, count: usize) {
        let Some(states) = &mut self.states else { return };
        for _ in 0..count {
            match states.pop() {
                Some(blob) => self.shard.on_state(&blob),
                None => {
                    self.states = None;
                    self.shard.on_state_complete(self.now);
                    return;
                }
            }
        }
    }

    fn crash(&mut self) {
        self.totals.crashes += 1;
        let seed = self.rng.u64(..);
        let was_stored = self.stored_session.take();
        let (mut refuses, mut rng) = (true, self.rng.fork());
        let before = self.shard.session_with_discord();
        let disk = self.disk.take();
        let was_beginning = self.shard.beginning.is_some();
        let mut states = None;
        let (shard, disk) = match disk {
            Some(mut disk) => {
                let lost = disk.crash(&mut rng);
                self.totals.lost_bytes += lost as u64;
                let trimmed = rng.u8(..4) == 0 && disk.trim();
                self.clients.iter_mut().for_each(|it| it.may_be_refused |= trimmed);
                let (recovered, mut blobs) = disk.recover();
                rng.shuffle(&mut blobs);
                let shard = Shard::restore(settings(), Shapes::default(), &recovered, seed, self.now);
                if shard.has_past() {
                    refuses = false;
                    states = Some(blobs);
                } else {
                    assert!(was_stored.is_none(), "the store had a session, and nothing came back");
                }
                (shard, disk)
            }
            None => {
                let mut shard = Shard::new(settings(), Shapes::default(), seed, self.now);
                shard.begin_journal();
                (shard, Disk::default())
            }
        };
        (self.shard, self.disk, self.states) = (shard, Some(disk), states);
        let log = &self.shard.log;
        self.say(|| {
            format!(
                "the process dies; refuses {refuses}, beginning {was_beginning}, log {}..{}, stored {:?}..{:?}, {:?}",
                log.tail(),
                log.head(),
                self.shard.stored_from,
                log.sealed_to(),
                self.shard.seats
            )
        });
        let after = self.shard.session_with_discord();
        if let Some(stored) = &was_stored {
            assert!(
                before.as_ref() != Some(stored) || after.as_ref() == Some(stored),
                "{stored} was stored; {after:?} is back"
            );
        }
        if after.is_some() {
            self.stored_session = after.clone();
        }
        if self.discord.session.is_some() && after != self.discord.session.as_ref().map(|it| it.id.clone()) {
            // A session whose READY had not come, or that only memory knew.
            self.identifies_due += 1;
        }
        self.connected = false;
        self.discord.on_connection_lost();
        self.reads.clear();
        let forgot = self.discord.session.as_ref().map(|it| &it.id) != after.as_ref();
        for client in &mut self.clients {
            // Also of one that was away: that it left may not have been written.
            client.is_unknown = true;
            client.key = None;
            client.resuming = false;
            client.may_be_refused |= refuses || (client.is_unknown && forgot);
        }
        self.seeking_since = [None; CLIENTS];
    }

    // ---- clients

    fn pump(&mut self, client: usize, room: usize, arriving: usize) {
        let it = &mut self.clients[client];
        let Some(key) = it.key else { return };
        let mut bytes = Vec::new();
        let pumped = self.shard.pump(key, &mut it.encoder, &mut bytes, room);
        let was_resuming = it.resuming;
        it.on_bytes(&bytes[..arriving.min(bytes.len())]);
        if was_resuming && !it.resuming {
            self.totals.resumed += 1;
            self.totals.found += u64::from(self.seeking_since[client].take().is_some());
        }
        if pumped == Pumped::FellOff {
            self.say(|| {
                format!("client {client} fell off; the log holds {}..{}", self.shard.log.tail(), self.shard.log.head())
            });
            self.on_refused(client);
        }
    }

    fn on_refused(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let late = self.seeking_since[client].take().is_some_and(|since| self.now >= since + SEEK_MAX);
        assert!(
            it.may_be_refused || late || !it.has_snapshot(),
            "client {client} is refused although its events are there"
        );
        self.totals.refused += 1;
        it.forget();
    }

    fn client_acts(&mut self, client: usize) {
        if self.clients[client].key.is_none() {
            return self.client_connects(client);
        }
        let it = &mut self.clients[client];
        match self.rng.u8(..6) {
            0 => {
                self.say(|| format!("client {client} ends its session"));
                self.shard.leave(self.now, it_key(&self.clients[client]), true);
                self.clients[client].forget();
            }
            1 | 2 => {
                // Its connection breaks, and of what was sent last only a part arrives.
                let (room, arriving) = (self.rng.usize(1..3000), self.rng.usize(..3000));
                self.pump(client, room, arriving);
                let Some(key) = self.clients[client].key.take() else { return };
                self.say(|| format!("client {client} drops at {}", self.clients[client].last_sequence));
                self.clients[client].resuming = false;
                self.shard.leave(self.now, key, false);
            }
            _ => it.resuming |= false,
        }
    }

    fn client_connects(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let token = Token("secret".to_owned());
        if let Some(session_id) = it.session_id.clone() {
            let seq = it.last_sequence;
            let resumed = self.shard.resume(self.now, &Resume { token: token.clone(), session_id, seq });
            self.say(|| format!("client {client} resumes from {seq}: {resumed:?}"));
            let it = &mut self.clients[client];
            match resumed {
                Ok(key) => {
                    it.on_connect(key);
                    it.resuming = true;
                    let seat = self.shard.seat_at(key).unwrap();
                    let is_sought = matches!(self.shard.seats[seat].phase, crate::shard::Phase::Seeking { .. });
                    self.seeking_since[client] = is_sought.then_some(self.now);
                    return;
                }
                Err(ResumeRefused::InvalidSession) => {
                    self.say(|| format!("readable from {}: {:?}", self.shard.readable_from(), self.shard.seats));
                    self.on_refused(client);
                }
                Err(refused) => panic!("client {client} at {seq}: {refused:?}"),
            }
        }
        let entropy = self.rng.u128(..).to_le_bytes()[..12].try_into().unwrap();
        let identify = Identify { token, shard: Some([0, 4]), intents: 1, compress: false };
        let key = self.shard.identify(&identify, entropy).unwrap();
        self.say(|| format!("client {client} identifies as {key:?}"));
        self.clients[client].forget();
        self.clients[client].on_connect(key);
    }

    fn ask_for_members(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let Some(key) = it.key else { return };
        it.requests += 1;
        let nonce = format!("client-{client}-{}", it.requests);
        let payload = format!(r#"{{"op":8,"d":{{"guild_id":"100","query":"","limit":0,"nonce":"{nonce}"}}}}"#);
        let Ok(ClientPayload::Command(command)) = payload::parse(payload.as_bytes()) else { panic!("{payload}") };
        let _ = self.shard.on_command(self.now, key, command);
    }

    // ---- the end

    fn make_peace(&mut self) {
        self.say(|| "peace".to_owned());
        if self.disk.is_none() {
            self.lose_or_begin_store();
        }
        for _ in 0..600 {
            self.give_states(usize::MAX);
            self.deliver(usize::MAX);
            self.hand_over();
            self.write(usize::MAX);
            self.answer_reads();
            for client in 0..CLIENTS {
                if self.clients[client].key.is_none() {
                    self.client_connects(client);
                }
                self.pump(client, 1 << 20, usize::MAX);
            }
            self.turn();
            let is_quiet = self.discord.wire.is_empty() && self.shard.status() == Status::Active;
            if is_quiet && !self.shard.has_past() && self.shard.is_settled() {
                self.now += Duration::from_millis(200);
            } else {
                self.now += Duration::from_millis(700);
            }
        }
    }

    fn check(&mut self) {
        assert_eq!(self.shard.status(), Status::Active);
        assert!(self.shard.is_settled() && !self.shard.has_past());
        let truth = guilds(&self.discord.truth);
        assert_eq!(texts(&guilds(&self.shard.cache)), texts(&truth));
        let (mut ready, mut wanted) = (Vec::new(), Vec::new());
        self.shard.cache.write_ready("", "", [0, 0], &mut ready);
        self.discord.truth.write_ready("", "", [0, 0], &mut wanted);
        if self.totals.forgotten == 0 && self.discord.identifies == 1 {
            let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            assert_eq!(json(&ready), json(&wanted));
        }
        for client in &self.clients {
            assert!(client.has_snapshot() && !client.resuming, "client {} was not served", client.number);
            assert_eq!(texts(&guilds(&client.state)), texts(&truth), "client {}", client.number);
            if let Some(last) = client.last_message() {
                let all_lost = self.discord.messages == self.discord.messages_before;
                assert!(last == self.discord.messages || all_lost, "client {} misses messages", client.number);
            }
        }
        assert!(self.discord.identifies <= self.identifies_due);
    }
}

fn it_key(client: &Client) -> crate::shard::SeatKey {
    client.key.expect("a connected client has a seat")
}

fn texts(guilds: &std::collections::BTreeMap<crate::wire::GuildId, Vec<u8>>) -> Vec<String> {
    guilds.values().map(|it| String::from_utf8_lossy(it).into_owned()).collect()
}

impl Shard {
    fn session_with_discord(&self) -> Option<String> {
        self.upstream.session().map(|it| it.id.clone())
    }
}

pub fn settings() -> ShardSettings {
    let mut settings = ShardSettings { cache: super::discord::flags(), ..properties::settings() };
    settings.upstream.shard_count = 4;
    settings
}
