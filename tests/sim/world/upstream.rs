//! Between the proxy and Discord: what each receives, the traffic, and the trouble on the way.

use super::*;

impl World {
    pub(super) fn open(&mut self, shard: usize, connection: usize) {
        self.say(|| format!("shard {shard}: connection {connection} opens"));
        let instant = self.instant();
        self.shard(shard).on_open(instant);
        self.discord[shard].on_open();
        if self.troubled() && self.chance(5) {
            let op7 = br#"{"t":null,"s":null,"op":7,"d":null}"#.to_vec();
            self.send_to_proxy(shard, vec![Out::Payload(op7), Out::Close(None)]);
        } else if self.troubled() && self.chance(3) {
            self.say(|| "no HELLO comes".to_owned());
        } else {
            let hello = self.discord[shard].hello();
            self.send_to_proxy(shard, hello);
        }
    }

    pub(super) fn on_payload_at_discord(&mut self, shard: usize, payload: &[u8]) {
        let drop_ack = self.troubled() && self.chance(4);
        let is_resume = payload.windows(6).any(|it| it == br#""op":6"#);
        if is_resume && self.troubled() && self.chance(7) {
            self.discord[shard].take_session();
        }
        let process = self.process.as_ref().map_or(0, |it| it.number);
        let out = self.discord[shard].on_payload(self.now, payload, drop_ack, &mut self.last_identify, process);
        let is_op9 = |it: &&Out| matches!(it, Out::Payload(p) if p.ends_with(br#""op":9,"d":false}"#));
        self.totals.op9_by_discord += out.iter().filter(is_op9).count() as u64;
        if payload.windows(6).any(|it| it == br#""op":8"#) {
            for _ in 0..2 {
                let pause = self.millis(0..3000);
                self.at(self.now + pause, Happening::Chunk(shard));
            }
        }
        self.send_to_proxy(shard, out);
    }

    pub(super) fn on_payload_at_proxy(&mut self, shard: usize, payload: &[u8]) {
        let instant = self.instant();
        let mut value: serde_json::Value = serde_json::from_slice(payload).expect("Discord sends JSON");
        let is_dispatch = value["op"] == 0 && value["t"] != "READY";
        if self.saboteur.strikes(Sabotage::LoseDispatch, value["t"] == "MESSAGE_CREATE") {
            return;
        }
        let mut altered = None;
        if self.saboteur.strikes(Sabotage::ForeignChunk, value["t"] == "GUILD_MEMBERS_CHUNK") {
            value["d"]["nonce"] = "client-77-1".into();
            altered = Some(format!(r#"{{"t":{},"s":{},"op":0,"d":{}}}"#, value["t"], value["s"], value["d"]));
        }
        self.say(|| format!("shard {shard} gets {}", shown(payload)));
        let repeated = self.shard(shard).report(instant).repeated;
        let payload = altered.as_ref().map_or(payload, |it| it.as_bytes());
        if value["t"] == "READY" {
            let process = self.process.as_ref().expect("it lives");
            let is_early = process.restoring[shard] && process.group.shards[shard].has_past();
            assert!(!is_early, "IDENTIFY did not wait for the state, and clients cannot stay");
        }
        self.shard(shard).on_payload(instant, payload).expect("Discord sends JSON");
        if self.shard(shard).report(instant).repeated > repeated {
            return;
        }
        if self.saboteur.strikes(Sabotage::DoubleDispatch, is_dispatch) {
            let next = value["s"].as_u64().expect("it is numbered") + 1;
            let again = format!(r#"{{"t":{},"s":{next},"op":0,"d":{}}}"#, value["t"], value["d"]);
            self.shard(shard).on_payload(instant, again.as_bytes()).expect("it is JSON");
        }
        match value["t"].as_str() {
            Some("MESSAGE_CREATE") => {
                let (number, message) = (value["d"]["e"].as_u64(), value["d"]["n"].as_u64());
                self.lines[shard].received = number.zip(message);
            }
            Some("READY") => self.on_ready_at_proxy(shard, &value["d"]),
            _ => {}
        }
    }

    pub(super) fn on_ready_at_proxy(&mut self, shard: usize, d: &serde_json::Value) {
        let id = d["session_id"].as_str().expect("READY names its session");
        let number: u64 =
            id.rsplit('-').next().and_then(|it| it.parse().ok()).expect("the session's number ends its id");
        self.say(|| format!("shard {shard}: READY of {id}"));
        let line = &mut self.lines[shard];
        if let Some((old, last)) = line.received.replace((number, 0)) {
            line.certain.insert(old, last);
        }
        line.epoch += 1;
        self.discord[shard].is_resumable = true;
        let process = self.process.as_mut().expect("it lives");
        process.on_ready(shard);
        process.restoring[shard] = false;
        for client in self.clients.iter_mut().filter(|it| it.shard == shard) {
            client.may_lose |= client.is_doubtful;
            client.forget_chunks();
        }
    }

    pub(super) fn traffic(&mut self) {
        if self.now >= TRAFFIC_ENDS {
            return;
        }
        let shard = self.rng.usize(..SHARDS);
        for _ in 0..self.rng.u32(1..6) {
            let out = if self.chance(70) {
                let len = if self.chance(10) { self.rng.usize(..4000) } else { self.rng.usize(..200) };
                self.discord[shard].message(len)
            } else if self.chance(3) {
                self.discord[shard].skip_number();
                vec![]
            } else {
                let (pick, kind) = (self.rng.usize(..100), self.rng.u8(..20));
                self.discord[shard].change(pick, kind)
            };
            self.send_to_proxy(shard, out);
        }
        let pause = self.millis(10..900);
        self.at(self.now + pause, Happening::Traffic);
    }

    pub(super) fn trouble(&mut self) {
        if !self.troubled() {
            return;
        }
        let (kind, shard) = (self.rng.u8(..13), self.rng.usize(..SHARDS));
        self.say(|| format!("shard {shard}: trouble {kind}"));
        let is_live = self.discord[shard].is_live();
        match kind {
            0 | 1 => self.cut(shard, None),
            2 => {
                // The line is dead and nobody says so.
                self.lines[shard].half_open = true;
                self.discord[shard].on_connection_lost();
            }
            3 => {
                let code = [1000, 1001, 1006, 4000, 4008, 4009][self.rng.usize(..6)];
                self.cut(shard, Some(CloseCode(code)));
            }
            4 => {
                self.discord[shard].take_session();
                let code = if self.chance(50) { CloseCode::NOT_AUTHENTICATED } else { CloseCode::INVALID_SEQ };
                self.cut(shard, Some(code));
            }
            5 | 6 if is_live => {
                self.send_to_proxy(shard, vec![Out::Payload(br#"{"t":null,"s":null,"op":7,"d":null}"#.to_vec())]);
            }
            7 if is_live => {
                let resumable = self.chance(50);
                if !resumable {
                    self.discord[shard].take_session();
                    self.totals.op9_by_discord += 1;
                }
                let op9 = format!(r#"{{"t":null,"s":null,"op":9,"d":{resumable}}}"#);
                self.send_to_proxy(shard, vec![Out::Payload(op9.into_bytes())]);
            }
            8 if is_live => {
                self.send_to_proxy(shard, vec![Out::Payload(br#"{"t":null,"s":null,"op":1,"d":null}"#.to_vec())]);
            }
            10 => {
                let storm = Duration::from_secs_f64(STORM_MAX.as_secs_f64() * self.rng.f64());
                self.discord[shard].storm_until = self.now + storm;
                self.discord[shard].take_session();
                self.totals.storms += 1;
                self.cut(shard, Some(CloseCode::UNKNOWN_ERROR));
            }
            11 if self.setup.has_store && self.chance(50) => {
                // The disk is full, or broken.
                self.disk.borrow_mut().faults.writes_left = Some(self.rng.u64(..3));
            }
            _ => {}
        }
        let pause = self.millis(200..30_000);
        self.at(self.now + pause, Happening::Trouble);
    }

    /// Discord ends the connection; what is under way is lost when there is no code.
    pub(super) fn cut(&mut self, shard: usize, code: Option<CloseCode>) {
        self.discord[shard].on_connection_lost();
        if code.is_none() {
            let connection = self.lines[shard].connection;
            self.agenda.retain(|_, it| !matches!(it, Happening::ToProxy(s, at, _) if *s == shard && *at == connection));
        }
        self.send_to_proxy(shard, vec![Out::Close(code)]);
    }

    pub(super) fn send_to_proxy(&mut self, shard: usize, out: Vec<Out>) {
        if self.lines[shard].half_open {
            return;
        }
        for out in out {
            let delay = self.millis(5..60);
            let line = &mut self.lines[shard];
            line.arrival[0] = (self.now + delay).max(line.arrival[0]);
            let (time, connection) = (line.arrival[0], line.connection);
            match out {
                Out::Payload(payload) => self.at(time, Happening::ToProxy(shard, connection, payload)),
                Out::Close(code) => {
                    self.discord[shard].on_connection_lost();
                    self.at(time, Happening::Lost(shard, connection, code));
                }
            }
        }
    }
}
