//! The proxy's life and death: its start on what is on the disk, SIGTERM, SIGKILL with a write under way.

use super::*;

impl World {
    pub(super) fn start(&mut self) {
        self.processes += 1;
        let number = self.processes;
        if self.saboteur.strikes(Sabotage::WipeDisk, number > 1) {
            *self.disk.borrow_mut() = Default::default();
        }
        self.disk.borrow_mut().faults = Default::default();
        let found = self.disk.borrow().clone();
        if let Some(old) = self.old_disk.replace(found)
            && self.saboteur.strikes(Sabotage::OldDisk, true)
        {
            *self.disk.borrow_mut() = old;
        }
        let instant = self.instant();
        let process = Process::start(number, self.setup, &self.disk, instant, &mut self.rng, &mut self.saboteur);
        self.say(|| format!("process {number} starts, restoring {:?}", process.restoring));
        self.process = Some(process);
        self.is_storage_due = false;
        self.flush_at = None;
        for line in &mut self.lines {
            line.proxy_closed = true;
            line.received = None;
        }
        for shard in 0..SHARDS {
            if self.setup.has_store && !self.process.as_ref().expect("it has just begun").restoring[shard] {
                self.excuse(shard);
            }
        }
        self.at(self.now, Happening::Restore(number));
    }

    /// Nothing is left of the shard: neither its session with Discord nor its clients'.
    pub(super) fn excuse(&mut self, shard: usize) {
        assert!(!self.discord[shard].is_resumable, "shard {shard}: what was written is gone");
        self.clients.iter_mut().filter(|it| it.shard == shard).for_each(|it| it.may_lose = true);
    }

    pub(super) fn restore(&mut self, number: u64) {
        let asks_now = self.chance(60);
        let (instant, process) = (self.instant(), self.process.as_mut().expect("it is current"));
        if asks_now {
            process.rotate_at_start(instant);
        }
        if process.restore_next(instant, &mut self.saboteur) {
            let pause = self.millis(0..40);
            self.at(self.now + pause, Happening::Restore(number));
        } else {
            process.rotate_at_start(instant);
        }
        self.wake_storage();
    }

    pub(super) fn death(&mut self) {
        if !self.troubled() {
            return;
        }
        if self.process.is_some() {
            if self.chance(25) {
                self.terminate();
            } else {
                // Somewhere in the middle of a turn soon.
                self.steps_left = Some(self.rng.u32(..40));
            }
        }
        let pause = if self.chance(20) { self.millis(10..2000) } else { self.millis(2000..60_000) };
        self.at(self.now + pause, Happening::Death);
    }

    /// SIGTERM: everything is written, connections are closed.
    pub(super) fn terminate(&mut self) {
        self.say(|| "SIGTERM".to_owned());
        self.totals.terminations += 1;
        let instant = self.instant();
        for client in 0..CLIENTS {
            self.pump(client);
        }
        for shard in 0..SHARDS {
            self.shard(shard).shut_down(CloseCode(4900));
        }
        while let Some((shard, action)) = self.next_action() {
            if matches!(action, Action::Close(_) | Action::Send(_)) {
                continue;
            }
            self.act(shard, action);
        }
        let process = self.process.as_mut().expect("it lives");
        process.flush(instant, &mut self.saboteur);
        if let Some(storage) = process.storage.as_mut().filter(|it| !it.has_failed()) {
            let lost = storage.work().into_iter().any(|it| process.on_answer(instant, it));
            if let (false, Some(storage)) = (lost, process.storage.as_mut()) {
                storage.sync();
            }
        }
        self.bury();
    }

    /// SIGKILL. What is being written may be written, or some of it.
    pub(super) fn kill(&mut self) {
        self.say(|| "SIGKILL".to_owned());
        self.totals.kills += 1;
        for client in 0..CLIENTS {
            if self.chance(50) && self.clients[client].paused_until <= self.now {
                self.client_loses_touch(client);
            }
        }
        self.bury();
    }

    pub(super) fn bury(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let had_loss = process.had_loss;
        let resumable: Vec<bool> = (0..SHARDS).map(|it| process.is_resumable(it)).collect();
        self.count(&process);
        if let Some(storage) = process.storage.take()
            && self.chance(60)
        {
            self.totals.torn += 1;
            let (writes, torn) = (self.rng.u64(..3), self.rng.usize(..20_000));
            storage.die(writes, torn);
        }
        self.disk.borrow_mut().faults = Default::default();
        for (shard, is_resumable) in resumable.into_iter().enumerate() {
            self.lines[shard].proxy_closed = true;
            self.discord[shard].on_connection_lost();
            self.discord[shard].is_resumable &= is_resumable;
            if !is_resumable {
                self.clients.iter_mut().filter(|it| it.shard == shard).for_each(|it| it.may_lose = true);
            }
        }
        self.abandoned.clear();
        for client in &mut self.clients {
            client.seat = None;
            client.resuming = None;
            client.is_doubtful = true;
            // What was in memory alone when the store began anew is gone with the process.
            client.may_lose |= had_loss;
        }
        for client in 0..CLIENTS {
            let pause = self.millis(50..4000);
            self.at(self.now + pause, Happening::Client(client));
        }
        let pause = if self.chance(80) { self.millis(20..1500) } else { self.millis(1000..20_000) };
        self.at(self.now + pause, Happening::Start);
    }

    pub(super) fn count(&mut self, process: &Process) {
        for shard in &process.group.shards {
            let report = shard.report(self.instant());
            self.totals.client_resumes += report.resumes;
            self.totals.upstream_resumes += report.upstream_resumes;
            self.totals.log_reads += report.log_reads;
        }
    }

    pub(super) fn end_process_counts(&mut self) {
        if let Some(process) = self.process.take() {
            self.count(&process);
        }
    }
}
