//! The clients: they come, read, ask, leave with bytes under way, come back, take over.

use super::*;

impl World {
    pub(super) fn client_acts(&mut self, client: usize) {
        if self.process.is_none() {
            // Nobody listens.
            let pause = self.millis(100..1000);
            return self.at(self.now + pause, Happening::Client(client));
        }
        if self.clients[client].seat.is_none() {
            self.client_connects(client);
        } else if self.troubled() {
            match self.rng.u8(..8) {
                6 => self.client_takes_over(client),
                0 | 1 => self.client_drops(client),
                2 => self.client_ends(client),
                3 => self.clients[client].paused_until = self.now + self.millis(100..20_000),
                4 | 5 => self.request_members(client),
                _ => {}
            }
        }
        let pause = self.millis(500..12_000);
        let is_planned = self.agenda.values().any(|it| matches!(it, Happening::Client(other) if *other == client));
        if self.troubled() && !is_planned {
            self.at(self.now + pause, Happening::Client(client));
        }
    }

    pub(super) fn client_returns(&mut self, client: usize) {
        self.clients[client].paused_until = Duration::ZERO;
        if self.clients[client].seat.is_none() {
            self.client_connects(client);
        }
    }

    pub(super) fn client_connects(&mut self, client: usize) {
        let resume = self.clients[client].session_id.clone();
        let Some(session_id) = resume else { return self.client_identifies(client) };
        let (seq, shard, instant) = (self.clients[client].last_sequence, self.clients[client].shard, self.instant());
        let resume = Resume { token: Token("secret".to_owned()), session_id, seq };
        let resumed = self.shard(shard).resume(instant, &resume);
        self.say(|| format!("client {client} resumes from {seq}: {resumed:?}"));
        match resumed {
            Ok(key) => {
                let it = &mut self.clients[client];
                it.on_connect();
                it.resuming = Some(self.now);
                it.seat = Some(key);
            }
            Err(ResumeRefused::InvalidSession) => {
                let fell_off = self.setup.is_tight && !self.has_disk();
                let it = &self.clients[client];
                self.totals.fell_off += u64::from(fell_off);
                assert!(
                    fell_off || it.may_lose || !it.has_snapshot() || self.has_lost_log(),
                    "op 9 to client {client} although its events are there"
                );
                self.client_identifies(client);
            }
            Err(ResumeRefused::InvalidSeq) => {
                assert!(self.clients[client].may_lose, "client {client}: a number that was given out is unknown");
                self.client_identifies(client);
            }
            Err(ResumeRefused::Stopped(code)) => panic!("the shard stopped with {code}"),
        }
    }

    /// The disk failed and took along what was not in memory: what is older than the process, or than a tight memory.
    pub(super) fn has_lost_log(&self) -> bool {
        self.process.as_ref().is_some_and(|it| it.had_loss && (it.number > 1 || self.setup.is_tight))
    }

    pub(super) fn has_disk(&self) -> bool {
        self.process.as_ref().and_then(|it| it.storage.as_ref()).is_some_and(|it| !it.has_failed())
    }

    pub(super) fn client_identifies(&mut self, client: usize) {
        self.say(|| format!("client {client} identifies"));
        let entropy = self.rng.u128(..).to_le_bytes()[..12].try_into().expect("12 bytes are 12 bytes");
        let shard = self.clients[client].shard;
        let is_settled = self.shard(shard).is_settled();
        let seat = self.shard(shard).identify(&identify(shard), entropy).expect("there are fewer clients than seats");
        let received = self.lines[shard].received;
        let it = &mut self.clients[client];
        it.forget();
        it.on_connect();
        it.seat = Some(seat);
        it.last_message = received.filter(|_| is_settled);
    }

    /// The connection breaks, and of what was sent last only a part arrives.
    pub(super) fn client_drops(&mut self, client: usize) {
        if let Some(key) = self.client_loses_touch(client) {
            let (instant, shard) = (self.instant(), self.clients[client].shard);
            self.shard(shard).leave(instant, key, false);
        }
    }

    /// The client has given its connection up and comes back on another before the proxy knows.
    pub(super) fn client_takes_over(&mut self, client: usize) {
        let Some(key) = self.client_loses_touch(client) else { return };
        let (instant, shard) = (self.instant(), self.clients[client].shard);
        if self.clients[client].session_id.is_none() {
            return self.shard(shard).leave(instant, key, false);
        }
        self.abandoned.push((shard, key));
        self.client_connects(client);
        self.totals.takeovers += 1;
        if self.clients[client].seat == Some(key) {
            self.abandoned.retain(|it| *it != (shard, key));
        }
    }

    pub(super) fn client_loses_touch(&mut self, client: usize) -> Option<SeatKey> {
        let key = self.clients[client].seat?;
        let shard = self.clients[client].shard;
        let mut bytes = Vec::new();
        let room = self.rng.usize(1..4000);
        let process = self.process.as_mut().expect("it lives");
        let pumped = process.group.shards[shard].pump(key, &mut self.clients[client].encoder, &mut bytes, room);
        if pumped == Pumped::FellOff {
            self.on_fell_off(client);
            return None;
        }
        let arrived = self.rng.usize(..=bytes.len());
        self.say(|| format!("client {client} drops, {arrived} of {} bytes arrive", bytes.len()));
        self.client_gets(client, &bytes[..arrived]);
        let it = &mut self.clients[client];
        it.seat = None;
        it.resuming = None;
        Some(key)
    }

    pub(super) fn client_ends(&mut self, client: usize) {
        let (instant, shard) = (self.instant(), self.clients[client].shard);
        if let Some(key) = self.clients[client].seat {
            self.say(|| format!("client {client} ends its session"));
            self.shard(shard).leave(instant, key, true);
            self.clients[client].forget();
        }
    }

    pub(super) fn request_members(&mut self, client: usize) {
        let (instant, shard) = (self.instant(), self.clients[client].shard);
        let it = &mut self.clients[client];
        // A library asks about guilds that it knows.
        let Some(key) = it.seat.filter(|_| it.has_snapshot()) else { return };
        it.requests += 1;
        let nonce = format!("client-{client}-{}", it.requests);
        let guild = first_guild(shard as u64);
        let payload = format!(r#"{{"op":8,"d":{{"guild_id":"{guild}","query":"","limit":0,"nonce":"{nonce}"}}}}"#);
        let Ok(ClientPayload::Command(command)) = payload::parse(payload.as_bytes()) else { panic!("{payload}") };
        // A full queue refuses; the runtime would close the client, here it just goes on.
        let _ = self.shard(shard).on_command(instant, key, command);
    }

    pub(super) fn pump(&mut self, client: usize) {
        let Some(key) = self.clients[client].seat else { return };
        let (room, shard) = (self.rng.usize(1..8000), self.clients[client].shard);
        let mut bytes = Vec::new();
        let process = self.process.as_mut().expect("it lives");
        let pumped = process.group.shards[shard].pump(key, &mut self.clients[client].encoder, &mut bytes, room);
        self.client_gets(client, &bytes);
        match pumped {
            Pumped::FellOff => self.on_fell_off(client),
            Pumped::Full if !self.agenda.keys().any(|it| it.0 <= self.now + Duration::from_millis(5)) => {
                // Room comes back soon.
                let soon = self.now + Duration::from_millis(5);
                self.at(soon, Happening::Wake);
            }
            Pumped::Full | Pumped::Current | Pumped::Reading => {}
        }
    }

    pub(super) fn client_gets(&mut self, client: usize, bytes: &[u8]) {
        if self.saboteur.strikes(Sabotage::SkipBytes, !bytes.is_empty()) {
            return;
        }
        self.say(|| format!("client {client} gets {}", shown(bytes)));
        self.clients[client].on_bytes(bytes);
        if self.saboteur.strikes(Sabotage::RepeatBytes, !bytes.is_empty()) {
            self.clients[client].on_bytes(bytes);
        }
        let it = &mut self.clients[client];
        let certain = &self.lines[it.shard].certain;
        for ((session, last), next) in it.crossings.drain(..) {
            self.totals.crossings += 1;
            let missed =
                certain.range(session..next).find(|(at, must)| **must > if **at == session { last } else { 0 });
            assert!(missed.is_none(), "client {client} went from {session}/{last} to {next} and missed {missed:?}");
        }
    }

    /// Only a tight log without a disk may lose a client's place.
    pub(super) fn on_fell_off(&mut self, client: usize) {
        assert!(
            self.setup.is_tight && !self.has_disk() || self.clients[client].may_lose || self.has_lost_log(),
            "client {client} fell off a log with room"
        );
        self.totals.fell_off += 1;
        self.clients[client].forget();
    }
}
