//! The core's side of the store: journals are gathered into batches, batches sent, answers given to their shards.
//!
//! It decides nothing about what is stored. What a shard has journaled is copied to the batch that is being collected when the turn ends, while the
//! processor's cache has it. A batch goes at the end of a turn: at once when somebody waits for it, else when it is large enough or `BATCH_AGE` old. What is on its way is bounded: a disk that lags behind a burst (at a start all guilds of all shards come at once) slows
//! Discord down by TCP, and one that writes nothing any more counts as lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::error;

use super::{Core, Timer};
use crate::runtime::net::Net;
use crate::runtime::storage::StoreSender;
use crate::runtime::storage::mail::{Batch, StoreReport, ToStore};
use crate::store::{Sealed, StateBlob};
use crate::wire::ShardId;

/// Nothing that nobody waits for stays longer on the core. After a kill Discord tells again what was not written, so that this costs a longer
/// replay and nothing else: at 44 events/s a shard, eleven of them, where Discord keeps minutes. A batch costs the storage thread its waking, the
/// kernel a worker for each write, and the core a look at every shard.
pub const BATCH_AGE: Duration = Duration::from_millis(250);
/// More goes at once.
const BATCH_BYTES: usize = 1 << 20;

/// A shard's journal above this is given back when its turn has ended: what a snapshot needed once no shard keeps.
const JOURNAL_KEPT_MAX: usize = 4 << 10;

/// On its way to the disk, for one core. Beyond it nothing is read from Discord until half of it is written.
pub const INFLIGHT_BYTES_MAX: usize = 64 << 20;
/// With that much on its way, a disk that has written nothing for this long counts as lost.
pub const STANDSTILL_MAX: Duration = Duration::from_secs(5);
/// One behind which Discord was not read for this long in one go counts as lost, too: from 41 s on connections would be taken for dead.
pub const BEHIND_MAX: Duration = Duration::from_secs(15);
/// And one that has not written for this long what somebody waits for, however little: a client gets no READY meanwhile.
pub const AWAITED_MAX: Duration = Duration::from_secs(20);

/// While more than this is on its way, no checkpoints are made.
const CHECKPOINT_INFLIGHT_MAX: usize = 8 << 20;
/// Checkpoints in one batch, about.
const CHECKPOINT_BYTES: usize = 1 << 20;

/// What a recovery brings for the shard at this place, in order.
pub(super) enum Restored {
    State(usize, StateBlob),
    /// A checkpoint cannot be read any more.
    Lost(usize),
    Complete(usize),
}

/// Emptied batches that are kept for their buffers: one is being collected, one under way.
const SPARE_MAX: usize = 2;

/// After the time for sending is over, the disk has this much more to take the rest.
const END_MAX: Duration = Duration::from_millis(1500);

/// How far the end of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// `ToStore::CoreEnded` is sent: the disk has until then.
    Asked(Instant),
    Done,
}

/// A core's part of the store. Without `data_dir` there is no sender, and everything here is idle.
pub struct Keeping {
    sender: Option<StoreSender>,
    /// Of the store that takes batches; `None` while there is none.
    generation: Option<u64>,
    /// What is being collected: records alone, the rest is added when it goes.
    batch: Batch,
    spare: Vec<Batch>,
    inflight_bytes: usize,
    /// Batches on their way for which somebody waits.
    inflight_awaited: u32,
    /// When the disk last wrote something, or was first waited for.
    wrote_at: Option<Instant>,
    /// Discord is not read since then: the disk lags behind.
    behind_since: Option<Instant>,
    /// When what waits is sent at the latest.
    due: Option<Instant>,
    /// Where the next round of checkpoints begins, so that each shard has its turn.
    checkpoint_at: usize,
    /// Recovered state that has come and is yet to be taken back.
    restored: VecDeque<Restored>,
    ending: Ending,
    report: Option<StoreReport>,
}

impl Keeping {
    /// `generation`: of the store that is there at the start, if it could be opened.
    pub fn new(sender: Option<StoreSender>, generation: Option<u64>) -> Self {
        Self {
            sender,
            generation,
            batch: Batch::default(),
            spare: Vec::new(),
            inflight_bytes: 0,
            inflight_awaited: 0,
            wrote_at: None,
            behind_since: None,
            due: None,
            checkpoint_at: 0,
            restored: VecDeque::new(),
            ending: Ending::No,
            report: None,
        }
    }

    pub fn report(&self) -> Option<StoreReport> {
        self.report.clone()
    }

    /// Bytes on their way to the disk.
    pub fn inflight_bytes(&self) -> usize {
        self.inflight_bytes
    }

    pub fn set_report(&mut self, report: StoreReport) {
        self.report = Some(report);
    }

    pub(super) fn take_in(&mut self, restored: Restored) {
        self.restored.push_back(restored);
    }

    pub(super) fn is_restoring(&self) -> bool {
        !self.restored.is_empty()
    }

    /// What the disk has not done, for how long, that makes it a lost one.
    fn failing(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let lasts = |since: Option<Instant>, max| since.is_some_and(|it| now.saturating_duration_since(it) >= max);
        let is_behind = self.behind_since.is_some();
        if lasts(self.wrote_at.filter(|_| is_behind), STANDSTILL_MAX) {
            Some(("has written nothing", STANDSTILL_MAX))
        } else if lasts(self.wrote_at.filter(|_| self.inflight_awaited > 0), AWAITED_MAX) {
            Some(("has not written what clients wait for", AWAITED_MAX))
        } else if lasts(self.behind_since, BEHIND_MAX) {
            Some(("has been too slow for what happens", BEHIND_MAX))
        } else {
            None
        }
    }

    /// False when there is no store that could take it.
    fn send(&self, message: ToStore) -> bool {
        let (Some(sender), Some(generation)) = (&self.sender, self.generation) else { return false };
        sender.send(generation, message);
        true
    }
}

impl<N: Net> Core<N> {
    /// The end of a turn. Costs a look at each shard that something has happened to.
    pub(super) fn keep(&mut self, now: Instant) {
        while let Some(at) = self.touched.pop() {
            self.places[at].touched = false;
            self.collect(at);
        }
        if self.keeping.generation.is_none() {
            return;
        }
        let batch = &self.keeping.batch;
        if batch.is_awaited || batch.records.len() >= BATCH_BYTES {
            self.send_batch(now);
        } else if !batch.records.is_empty() && self.keeping.due.is_none() {
            self.arm_keeping(now);
        }
    }

    /// Puts what the shard has journaled into the batch.
    fn collect(&mut self, at: usize) {
        let Some(journal) = self.group.shards[at].journal() else { return };
        if journal.bytes.is_empty() {
            return;
        }
        let batch = &mut self.keeping.batch;
        batch.records.extend_from_slice(&journal.bytes);
        batch.is_awaited |= std::mem::take(&mut journal.urgent);
        journal.bytes.clear();
        journal.bytes.shrink_to(JOURNAL_KEPT_MAX);
        match self.places[at].collected {
            Some(n) => batch.marks[n].1 = journal.mark,
            None => {
                self.places[at].collected = Some(batch.marks.len());
                batch.marks.push((at, journal.mark));
            }
        }
    }

    /// The batch that was collected, and an empty one in its place.
    fn take_batch(&mut self) -> Batch {
        let next = self.keeping.spare.pop().unwrap_or_default();
        let mut batch = std::mem::replace(&mut self.keeping.batch, next);
        for (at, _) in &batch.marks {
            self.places[*at].collected = None;
        }
        batch.core = self.index;
        batch
    }

    /// What this shard has journaled is looked at when the turn ends.
    pub(super) fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.places[at].touched, true) {
            self.touched.push(at);
        }
    }

    fn arm_keeping(&mut self, now: Instant) {
        let due = now + BATCH_AGE;
        self.keeping.due = Some(due);
        self.timers.push(std::cmp::Reverse((due, Timer::Keeping)));
    }

    /// `Timer::Keeping` has gone off; one that a batch has overtaken is void.
    pub(super) fn on_keeping_timeout(&mut self, now: Instant, due: Instant) {
        if self.keeping.due == Some(due) {
            self.send_batch(now);
        }
    }

    /// Once a second: a disk that stands still, and guilds whose checkpoint is due by age alone.
    pub(super) fn keep_by_age(&mut self, now: Instant) {
        if let Some((what, time)) = self.keeping.failing(now) {
            error!(core = self.index, bytes = self.keeping.inflight_bytes, "the disk {what} for {time:?}");
            self.keeping.send(ToStore::TooSlow);
            return self.on_store_lost(now);
        }
        if self.keeping.generation.is_some() && self.keeping.due.is_none() {
            self.arm_keeping(now);
        }
    }

    /// Sends what the shards have written: records, then segments and checkpoints that were taken after them.
    fn send_batch(&mut self, now: Instant) {
        self.keeping.due = None;
        for at in 0..self.group.shards.len() {
            self.collect(at);
        }
        let mut batch = self.take_batch();
        batch.bytes = batch.records.len();
        for (at, shard) in self.group.shards.iter_mut().enumerate() {
            let id = self.shared.placement.shard(self.index, at);
            while let Some(sealed) = shard.take_sealed() {
                batch.bytes += sealed.bytes.len();
                batch.segments.push((id, sealed));
            }
        }
        let unfinished = self.add_checkpoints(now, &mut batch);
        if !batch.is_empty() {
            self.keeping.inflight_bytes += batch.bytes;
            if self.keeping.inflight_awaited == 0 && self.keeping.behind_since.is_none() {
                self.keeping.wrote_at = Some(now);
            }
            self.keeping.inflight_awaited += u32::from(batch.is_awaited);
            self.keeping.send(ToStore::Batch(batch));
            if self.keeping.inflight_bytes > INFLIGHT_BYTES_MAX {
                self.keeping.behind_since.get_or_insert(now);
                // Each time: connections may have been made meanwhile.
                self.read_from_discord(false);
            }
        }
        // Making checkpoints writes records, too: they must not overtake them.
        for at in 0..self.group.shards.len() {
            self.collect(at);
        }
        if !self.keeping.batch.records.is_empty() || unfinished {
            self.arm_keeping(now);
        }
    }

    /// Puts checkpoints that are due into the batch, shard after shard. True when some had to stay behind.
    fn add_checkpoints(&mut self, now: Instant, batch: &mut Batch) -> bool {
        let count = self.group.shards.len();
        let mut bytes = 0;
        for n in 0..count {
            let at = (self.keeping.checkpoint_at + n) % count;
            let id = self.shared.placement.shard(self.index, at);
            loop {
                if bytes >= CHECKPOINT_BYTES || self.keeping.inflight_bytes + batch.bytes > CHECKPOINT_INFLIGHT_MAX {
                    self.keeping.checkpoint_at = at;
                    return true;
                }
                let Some(blob) = self.group.shards[at].checkpoint(now) else { break };
                bytes += blob.bytes.len();
                batch.bytes += blob.bytes.len();
                batch.states.push((id, blob));
            }
        }
        false
    }

    // ---- what the storage thread says

    pub(super) fn on_store_written(&mut self, now: Instant, mut batch: Batch) {
        self.keeping.inflight_bytes = self.keeping.inflight_bytes.saturating_sub(batch.bytes);
        self.keeping.inflight_awaited = self.keeping.inflight_awaited.saturating_sub(batch.is_awaited.into());
        self.keeping.wrote_at = Some(now);
        if self.keeping.inflight_bytes <= INFLIGHT_BYTES_MAX / 2 {
            self.catch_up();
        }
        for (at, mark) in batch.marks.drain(..) {
            self.group.shards[at].on_written(mark);
            self.run_actions(now, at);
        }
        batch.is_awaited = false;
        if self.keeping.spare.len() < SPARE_MAX {
            self.keeping.spare.push(batch);
        }
    }

    /// A shard wants a part of its log that is not in memory any more.
    pub(super) fn read_log(&mut self, now: Instant, at: usize, index: u64) {
        let message = ToStore::Read { core: self.index, shard: self.shard_id(at), index };
        if !self.keeping.send(message) {
            self.group.shards[at].on_segment(now, index, None);
        }
    }

    pub(super) fn on_store_segment(&mut self, now: Instant, at: usize, index: u64, segment: Option<Sealed>) {
        self.group.shards[at].on_segment(now, index, segment);
        self.run_actions(now, at);
    }

    /// Once a turn, which began at `now`: takes back some of the state that has come, in what is left of the turn's time. What waits is bounded by
    /// the storage thread.
    pub(super) fn restore_some(&mut self, now: Instant) {
        while let Some(restored) = self.keeping.restored.pop_front() {
            match restored {
                Restored::State(at, blob) => {
                    self.group.shards[at].on_state(&blob);
                    self.keeping.send(ToStore::StateTaken { bytes: blob.bytes.len() });
                }
                Restored::Lost(at) => {
                    self.group.shards[at].on_state_lost(now);
                    self.run_actions(now, at);
                }
                // It begins to replay its log with that.
                Restored::Complete(at) => {
                    self.group.shards[at].on_state_complete(now);
                    self.run_actions(now, at);
                }
            }
            if super::is_spent(now) {
                return;
            }
        }
    }

    pub(super) fn on_store_tail(&mut self, now: Instant, at: usize, tail: u64) {
        self.group.shards[at].on_store_tail(tail);
        self.run_actions(now, at);
    }

    pub(super) fn on_store_rotate(&mut self, now: Instant, wal: u64) {
        if self.keeping.generation.is_none() {
            return;
        }
        for shard in &mut self.group.shards {
            shard.seal();
        }
        // What the records say that go now: floors that rise with checkpoints are in later ones.
        let floors: Vec<(ShardId, u64)> =
            self.group.shards.iter().enumerate().map(|(at, it)| (self.shard_id(at), it.floor())).collect();
        self.send_batch(now);
        self.keeping.send(ToStore::Rotated { core: self.index, wal, floors });
    }

    /// From here on everything is in memory alone, and nothing waits for a disk.
    pub(super) fn on_store_lost(&mut self, now: Instant) {
        if self.keeping.generation.take().is_none() {
            return;
        }
        (self.keeping.inflight_bytes, self.keeping.inflight_awaited) = (0, 0);
        self.keeping.due = None;
        drop(self.take_batch());
        self.keeping.restored.clear();
        self.catch_up();
        for at in 0..self.group.shards.len() {
            self.group.shards[at].on_store_lost(now);
            self.run_actions(now, at);
        }
    }

    pub(super) fn on_store_begin(&mut self, now: Instant, generation: u64) {
        if self.keeping.ending != Ending::No {
            return;
        }
        self.keeping.generation = Some(generation);
        for shard in &mut self.group.shards {
            shard.begin_journal();
        }
        self.send_batch(now);
    }

    /// Discord is read again.
    fn catch_up(&mut self) {
        if self.keeping.behind_since.take().is_some() {
            self.read_from_discord(true);
        }
    }

    fn read_from_discord(&mut self, reading: bool) {
        for place in &self.places {
            if let Some(token) = place.link.as_ref().and_then(|it| it.token) {
                self.net.set_reading(token, reading);
            }
        }
    }

    // ---- the end

    /// Nothing more happens on this core: the rest is handed over. True when the store has it, or has had its time, which lasts until
    /// a little after `until`.
    pub(super) fn end_keeping(&mut self, now: Instant, until: Instant) -> bool {
        match self.keeping.ending {
            Ending::Done => true,
            Ending::Asked(until) => {
                if now >= until {
                    error!(core = self.index, "the disk did not take everything in time");
                }
                now >= until
            }
            Ending::No => {
                let Some(sender) = self.keeping.sender.clone() else { return true };
                // Records that come of making checkpoints are left out: without them a restart replays a little more.
                if self.keeping.generation.is_some() {
                    self.send_batch(now);
                }
                sender.send(self.keeping.generation.unwrap_or(0), ToStore::CoreEnded { core: self.index });
                self.keeping.ending = Ending::Asked(until + END_MAX);
                self.timers.push(std::cmp::Reverse((until + END_MAX, Timer::Keeping)));
                false
            }
        }
    }

    pub(super) fn on_store_ended(&mut self) {
        self.keeping.ending = Ending::Done;
    }
}
