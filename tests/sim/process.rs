//! The proxy as one process: its shards on one core, the identify queue, and what the core does with the store. It dies when dropped.
//!
//! It does what `runtime/core` does and decides nothing of its own.

use std::time::{Duration, Instant};

use fastrand::Rng;
use shardgate::cache::Shapes;
use shardgate::session::identify::IdentifyQueue;
use shardgate::shard::group::{Group, LogBudget};
use shardgate::shard::{Shard, ShardSettings, properties};
use shardgate::store::{StateStep, frame};
use shardgate::wire::ShardId;

use crate::sabotage::{Sabotage, Saboteur};
use crate::storage::{Disk, FromStore, Storage, ToStore};

/// Records of clients' sessions.
const KIND_SEAT: u8 = 4;

/// How the seed wants the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub shards: usize,
    /// The log's memory holds next to nothing.
    pub is_tight: bool,
    pub has_store: bool,
    pub disk_bytes: u64,
}

/// What the stage knows of a shard and the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored {
    /// All guilds have been handed over since the journal began: the store stands for the shard once this is written.
    is_whole: bool,
    /// The marks at which the beginning and the newest READY are written.
    whole_at: Option<u64>,
    ready_at: Option<u64>,
    written: u64,
}

pub struct Process {
    pub number: u64,
    pub group: Group,
    pub queue: IdentifyQueue,
    pub storage: Option<Storage>,
    pub stored: Vec<Stored>,
    /// The shard's state has not come back yet.
    pub restoring: Vec<bool>,
    /// Checkpoints that are yet to be handed to their shards.
    states: Vec<StateStep>,
    rotate: Option<u64>,
    /// The store has failed in this process's life.
    pub had_loss: bool,
}

fn settings(shard: usize, shards: usize) -> ShardSettings {
    let mut settings = properties::settings();
    (settings.upstream.shard, settings.upstream.shard_count) = (ShardId(shard as u32), shards as u32);
    settings
}

impl Process {
    /// Starts on what is on the disk.
    pub fn start(number: u64, setup: Setup, disk: &Disk, now: Instant, rng: &mut Rng, saboteur: &mut Saboteur) -> Self {
        let budget = LogBudget {
            bytes: if setup.is_tight { 8 * 1024 } else { 64 << 20 },
            keep: Duration::from_secs(if setup.is_tight { 60 } else { 3600 }),
        };
        let mut seed = || rng.u64(..);
        let mut storage = None;
        let (mut shards, mut states, mut rotate) = (Vec::new(), Vec::new(), None);
        let mut recovered = std::collections::HashMap::new();
        if setup.has_store {
            let (mut opened, recovery) = Storage::open(disk.clone(), setup.shards as u32, setup.disk_bytes);
            while let Some(step) = opened.next_state() {
                states.push(step);
            }
            states.reverse();
            rotate = recovery.rotate;
            for (shard, stored) in recovery.shards {
                recovered.insert(shard.0 as usize, stored);
            }
            storage = Some(opened);
        }
        let shapes = Shapes::default();
        let mut restoring = vec![false; setup.shards];
        for (shard, is_restoring) in restoring.iter_mut().enumerate() {
            let settings = settings(shard, setup.shards);
            let Some(mut stored) = recovered.remove(&shard) else {
                let mut shard = Shard::new(settings, shapes.clone(), seed(), now);
                if storage.is_some() {
                    shard.begin_journal();
                }
                shards.push(shard);
                continue;
            };
            let mut kept = Vec::new();
            for record in frame::records(&stored.records) {
                if !saboteur.strikes(Sabotage::ForgetSeats, record.kind == KIND_SEAT) {
                    frame::append(&mut kept, record.shard, record.kind, |out| out.extend_from_slice(record.payload));
                }
            }
            stored.records = kept;
            let restored = Shard::restore(settings, shapes.clone(), &stored, seed(), now);
            *is_restoring = restored.has_past();
            shards.push(restored);
        }
        let mut stored = vec![Stored::default(); setup.shards];
        for (stored, restored) in stored.iter_mut().zip(&restoring) {
            if *restored {
                *stored = Stored { is_whole: true, whole_at: Some(0), ready_at: Some(0), written: 0 };
            }
        }
        Self {
            number,
            group: Group::new(shards, budget),
            queue: IdentifyQueue::new(1, 1000, 1000, Duration::from_secs(86_400), now),
            storage,
            stored,
            restoring,
            states,
            rotate,
            had_loss: false,
        }
    }

    /// The store asks right at the start for what the old files say.
    pub fn rotate_at_start(&mut self, now: Instant) {
        if let Some(wal) = self.rotate.take() {
            self.rotate_to(wal, now);
        }
    }

    /// The next checkpoint goes to its shard. False when there are no more.
    pub fn restore_next(&mut self, now: Instant, saboteur: &mut Saboteur) -> bool {
        match self.states.pop() {
            Some(StateStep::Blob(shard, mut blob)) => {
                if saboteur.strikes(Sabotage::SpoilState, blob.guild != 0) {
                    let text = String::from_utf8(blob.bytes).expect("it is JSON");
                    blob.bytes = text
                        .replace("\"name\":\"c\"", "\"name\":\"d\"")
                        .replace("version\":", "version\":1")
                        .into_bytes();
                }
                self.group.shards[shard.0 as usize].on_state(&blob);
                true
            }
            Some(StateStep::Complete(shard)) => {
                self.group.shards[shard.0 as usize].on_state_complete(now);
                true
            }
            Some(StateStep::Damaged(shard)) => panic!("shard {shard:?}: a checkpoint is damaged on a good disk"),
            None => false,
        }
    }

    /// Whether the store stands for this shard's session with Discord: a process that dies now takes nothing of it along.
    pub fn is_resumable(&self, shard: usize) -> bool {
        let stored = &self.stored[shard];
        let is_written = |mark: Option<u64>| mark.is_some_and(|it| it <= stored.written);
        self.storage.as_ref().is_some_and(|it| !it.has_failed())
            && stored.is_whole
            && is_written(stored.whole_at)
            && is_written(stored.ready_at)
    }

    /// READY came: it is written once everything journaled so far is.
    pub fn on_ready(&mut self, shard: usize) {
        self.stored[shard].ready_at = self.group.shards[shard].journal().map(|it| it.mark);
    }

    pub fn wants_flush(&mut self) -> Option<bool> {
        let mut wants = None;
        for shard in &mut self.group.shards {
            if let Some(journal) = shard.journal()
                && (journal.urgent || !journal.bytes.is_empty())
            {
                wants = Some(journal.urgent || wants == Some(true));
            }
        }
        wants
    }

    /// Everything journaled goes to the store: records first, then the segments and checkpoints that were taken after them.
    pub fn flush(&mut self, now: Instant, saboteur: &mut Saboteur) -> Vec<FromStore> {
        let Some(storage) = &mut self.storage else { return vec![] };
        let (mut marks, mut bytes) = (Vec::new(), Vec::new());
        for (at, shard) in self.group.shards.iter_mut().enumerate() {
            if let Some(journal) = shard.journal() {
                journal.urgent = false;
                marks.push((at, journal.mark));
                bytes.append(&mut journal.bytes);
            }
        }
        let mut early = Vec::new();
        if saboteur.strikes(Sabotage::SkipGates, true) {
            early.push(FromStore::Written(marks.clone()));
        }
        if saboteur.strikes(Sabotage::DropBatch, bytes.len() > 200) {
            bytes.clear();
        }
        let records = ToStore::Records { marks, bytes };
        if saboteur.strikes(Sabotage::SwapBatches, matches!(storage.queue.back(), Some(ToStore::Records { .. }))) {
            storage.queue.push_front(records);
        } else {
            storage.queue.push_back(records);
        }
        self.hand_over(now);
        early
    }

    fn hand_over(&mut self, now: Instant) {
        let Some(storage) = &mut self.storage else { return };
        for (at, shard) in self.group.shards.iter_mut().enumerate() {
            while let Some(it) = shard.take_sealed() {
                storage.queue.push_back(ToStore::Segment { shard: at, first: it.first, end: it.end, bytes: it.bytes });
            }
            while let Some(it) = shard.checkpoint(now) {
                storage.queue.push_back(ToStore::State {
                    shard: at,
                    guild: it.guild,
                    as_of: it.as_of,
                    bytes: it.bytes,
                });
            }
            let stored = &mut self.stored[at];
            if !stored.is_whole && shard.journal().is_some() {
                stored.is_whole = true;
                stored.whole_at = shard.journal().map(|it| it.mark);
            }
        }
    }

    /// The store began a new file: all that the older ones say is said again.
    fn rotate_to(&mut self, wal: u64, now: Instant) {
        let Some(storage) = &mut self.storage else { return };
        let (mut marks, mut bytes, mut floors) = (Vec::new(), Vec::new(), Vec::new());
        for (at, shard) in self.group.shards.iter_mut().enumerate() {
            if let Some(journal) = shard.journal() {
                marks.push((at, journal.mark));
                bytes.append(&mut journal.bytes);
            }
        }
        storage
            .queue
            .push_back(ToStore::Records { marks: std::mem::take(&mut marks), bytes: std::mem::take(&mut bytes) });
        for (at, shard) in self.group.shards.iter_mut().enumerate() {
            shard.seal();
            while let Some(it) = shard.take_sealed() {
                storage.queue.push_back(ToStore::Segment { shard: at, first: it.first, end: it.end, bytes: it.bytes });
            }
            if let Some(journal) = shard.journal() {
                marks.push((at, journal.mark));
                bytes.append(&mut journal.bytes);
            }
            floors.push((ShardId(at as u32), shard.floor()));
        }
        storage.queue.push_back(ToStore::Records { marks, bytes });
        storage.queue.push_back(ToStore::Rotated { wal, floors });
        self.hand_over(now);
    }

    /// What the storage thread says. True when it has failed.
    pub fn on_answer(&mut self, now: Instant, answer: FromStore) -> bool {
        match answer {
            FromStore::Written(marks) => {
                for (shard, mark) in marks {
                    self.stored[shard].written = self.stored[shard].written.max(mark);
                    self.group.shards[shard].on_written(mark);
                }
            }
            FromStore::Segment { shard, index, segment } => self.group.shards[shard].on_segment(now, index, segment),
            FromStore::Tail { shard, from } => self.group.shards[shard].on_store_tail(from),
            FromStore::Rotate(wal) => self.rotate_to(wal, now),
            FromStore::Lost => {
                for (shard, stored) in self.group.shards.iter_mut().zip(&mut self.stored) {
                    shard.on_store_lost(now);
                    *stored = Stored::default();
                }
                self.states.clear();
                self.had_loss = true;
                return true;
            }
        }
        false
    }

    /// There is a store again.
    pub fn begin_anew(&mut self) {
        if let Some(storage) = &mut self.storage {
            storage.begin_anew();
            self.rotate = None;
            for (at, shard) in self.group.shards.iter_mut().enumerate() {
                shard.begin_journal();
                // What READY said is written with everything else.
                self.stored[at] = Stored { ready_at: Some(0), ..Stored::default() };
            }
        }
    }
}
