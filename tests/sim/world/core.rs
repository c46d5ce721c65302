//! What the proxy's core does: turns, batches for the store, the shards' actions.

use super::*;

impl World {
    /// What the runtime does at the end of a turn.
    pub(super) fn turn(&mut self) {
        let instant = self.instant();
        let Some(process) = &mut self.process else { return };
        for shard in &mut process.group.shards {
            if shard.due().is_some_and(|it| it <= instant) {
                shard.on_timeout(instant);
            }
        }
        while let Some((shard, action)) = self.next_action() {
            if self.step() {
                return;
            }
            self.act(shard, action);
        }
        let process = self.process.as_mut().expect("it lives");
        let number = process.number;
        let mut turns = Vec::new();
        while let Some((shard, not_before)) = process.queue.poll(instant) {
            turns.push((shard.0 as usize, not_before));
        }
        for (shard, not_before) in turns {
            self.at(self.now, Happening::IdentifyTurn(number, shard, not_before));
        }
        for client in 0..CLIENTS {
            if self.clients[client].paused_until <= self.now {
                if self.step() {
                    return;
                }
                self.pump(client);
            }
        }
        let is_tight = self.setup.is_tight;
        let process = self.process.as_mut().expect("it lives");
        process.group.trim_by_age(instant);
        process.group.trim_to_budget();
        let has_store = process.storage.as_ref().is_some_and(|it| !it.has_failed());
        assert!(process.group.log_bytes() < if is_tight && !has_store { 256 * 1024 } else { 128 << 20 });
        for shard in 0..SHARDS {
            let process = self.process.as_mut().expect("it lives");
            if process.restoring[shard] && process.group.shards[shard].is_settled() {
                process.restoring[shard] = false;
            }
        }
        match self.process.as_mut().and_then(Process::wants_flush) {
            Some(true) => self.flush(),
            Some(false) if self.flush_at.is_none() => {
                self.flush_at = Some(self.now + BATCH);
                self.at(self.now + BATCH, Happening::Flush(number));
            }
            _ => {}
        }
    }

    /// True: the process has died here.
    pub(super) fn step(&mut self) -> bool {
        match &mut self.steps_left {
            Some(0) => {
                self.steps_left = None;
                self.kill();
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    pub(super) fn next_action(&mut self) -> Option<(usize, Action)> {
        let instant = self.instant();
        let shards = &mut self.process.as_mut()?.group.shards;
        shards.iter_mut().enumerate().find_map(|(at, shard)| Some((at, shard.poll(instant)?)))
    }

    pub(super) fn flush(&mut self) {
        self.flush_at = None;
        let (instant, process) = (self.instant(), self.process.as_mut().expect("it lives"));
        for answer in process.flush(instant, &mut self.saboteur) {
            process.on_answer(instant, answer);
        }
        self.wake_storage();
    }

    pub(super) fn wake_storage(&mut self) {
        let Some(process) = &self.process else { return };
        let number = process.number;
        let has_work = process.storage.as_ref().is_some_and(|it| !it.queue.is_empty());
        if has_work && !std::mem::replace(&mut self.is_storage_due, true) {
            let pause = if self.chance(3) { self.millis(100..3000) } else { self.millis(0..20) };
            self.at(self.now + pause, Happening::Storage(number));
        }
    }

    pub(super) fn storage_works(&mut self) {
        self.is_storage_due = false;
        let process = self.process.as_mut().expect("it is current");
        let number = process.number;
        let answers = process.storage.as_mut().map(|it| it.work()).unwrap_or_default();
        let mut arrival = self.now;
        for answer in answers {
            arrival += self.millis(0..5);
            self.at(arrival, Happening::FromStore(number, answer));
        }
    }

    pub(super) fn on_answer(&mut self, answer: FromStore) {
        self.totals.rotations += u64::from(matches!(answer, FromStore::Rotate(_)));
        let (instant, process) = (self.instant(), self.process.as_mut().expect("it is current"));
        let number = process.number;
        if process.on_answer(instant, answer) {
            self.say(|| "the store is lost".to_owned());
            self.totals.store_losses += 1;
            for shard in 0..SHARDS {
                let process = self.process.as_mut().expect("it is current");
                if std::mem::take(&mut process.restoring[shard]) {
                    // Its state cannot be had any more, and the session goes with it.
                    self.discord[shard].is_resumable = false;
                    self.clients.iter_mut().filter(|it| it.shard == shard).for_each(|it| it.may_lose = true);
                }
            }
            // What lagged behind memory is gone with the disk.
            self.clients.iter_mut().for_each(|it| it.may_lose |= self.setup.is_tight);
            self.at(self.now + BEGIN_ANEW, Happening::BeginAnew(number));
        }
        self.wake_storage();
    }

    pub(super) fn act(&mut self, shard: usize, action: Action) {
        let instant = self.instant();
        let process = self.process.as_mut().expect("it lives");
        let id = ShardId(shard as u32);
        match action {
            Action::IdentifyWanted => process.queue.on_wanted(id, instant),
            Action::IdentifySent => process.queue.on_sent(id, instant),
            Action::IdentifyReturned => process.queue.on_returned(id, instant),
            Action::ReadLog(index) => {
                if let Some(storage) = &mut process.storage {
                    storage.queue.push_back(crate::storage::ToStore::Read { shard, index });
                }
                self.wake_storage();
            }
            Action::Connect(url) => self.connect(shard, &url),
            Action::Send(payload) => self.send_to_discord(shard, payload),
            Action::Close(code) => {
                assert!(!code.ends_session(), "the proxy threw the session away");
                self.say(|| format!("shard {shard}: the proxy closes with {code}"));
                self.lines[shard].proxy_closed = true;
                self.discord[shard].on_connection_lost();
            }
            Action::InvalidSession(key) => {
                if let Some(at) = self.abandoned.iter().position(|it| *it == (shard, key)) {
                    // Nobody listens there any more.
                    self.abandoned.swap_remove(at);
                    return;
                }
                // Who has just left does not hear of it.
                let Some(client) = self.seated(shard, key) else { return };
                self.say(|| format!("client {client}: op 9"));
                let it = &self.clients[client];
                let is_waiting = it.is_doubtful && !self.discord[shard].is_live();
                let waited = is_waiting && it.resuming.is_some_and(|since| self.now - since >= SEEK_MAX);
                let is_excused = it.may_lose || waited || self.has_lost_log();
                assert!(is_excused, "op 9 to client {client} although nothing was lost");
                self.totals.op9_to_clients += 1;
                self.clients[client].forget();
                let delay = self.millis(0..3000);
                self.at(self.now + delay, Happening::Client(client));
            }
            Action::Disconnect(key, _) => match self.abandoned.iter().position(|it| *it == (shard, key)) {
                Some(at) => drop(self.abandoned.swap_remove(at)),
                None => panic!("client {:?} is disconnected without a reason", self.seated(shard, key)),
            },
            Action::Stopped(code) => panic!("no fatal code was sent, yet the shard stopped with {code}"),
        }
    }

    pub(super) fn seated(&self, shard: usize, key: SeatKey) -> Option<usize> {
        self.clients.iter().position(|it| it.shard == shard && it.seat == Some(key))
    }

    pub(super) fn connect(&mut self, shard: usize, url: &str) {
        self.discord[shard].on_connection_lost();
        let now = self.now;
        let line = &mut self.lines[shard];
        line.connection += 1;
        line.proxy_closed = false;
        line.half_open = false;
        line.arrival = [now; 2];
        let connection = line.connection;
        let dead_host = url.contains("resume.invalid") && self.troubled() && self.chance(20);
        self.say(|| format!("shard {shard}: connect {connection} to {url}"));
        let delay = self.millis(20..300);
        if dead_host || (self.troubled() && self.chance(8)) {
            self.at(self.now + delay, Happening::Lost(shard, connection, None));
        } else if !(self.troubled() && self.chance(2)) {
            self.at(self.now + delay, Happening::Opened(shard, connection));
        }
    }

    pub(super) fn send_to_discord(&mut self, shard: usize, payload: Vec<u8>) {
        assert!(!self.lines[shard].proxy_closed, "sent without a connection: {}", String::from_utf8_lossy(&payload));
        self.say(|| format!("shard {shard}: the proxy sends {}", String::from_utf8_lossy(&payload)));
        let times = if self.saboteur.strikes(Sabotage::Flood, payload.starts_with(b"{\"op\":1")) { 130 } else { 1 };
        let delay = self.millis(5..60);
        for _ in 0..times {
            let line = &mut self.lines[shard];
            line.arrival[1] = (self.now + delay).max(line.arrival[1]);
            let (time, connection) = (line.arrival[1], line.connection);
            self.at(time, Happening::ToDiscord(shard, connection, payload.clone()));
        }
    }
}
