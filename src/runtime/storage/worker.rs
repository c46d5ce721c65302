//! The storage thread: takes what cores hand over, writes it, says so; reads what they ask for; hands recovered state back; keeps the disk in
//! bounds. When the disk fails it says that, too, wipes what it can, and tries to begin anew. What could not be read at the start is not wiped:
//! the next start may succeed, until this process has something better to put there and the disk can be read again.
//!
//! It decides nothing about formats (`store`) or shards. Everything that waits here is bounded by the cores (`INFLIGHT_BYTES_MAX` each) and,
//! towards them, by `RESTORE_BYTES_MAX`.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::Opening;
use super::folder::Lock;
use super::mail::{Batch, Mail, StoreReport, ToStore};
use crate::runtime::clock;
use crate::runtime::mesh::{CoreSender, ToCore};
use crate::runtime::placement::Placement;
use crate::store::disk::Disk;
use crate::store::{Settings, StateStep, Store, Written, disk};
use crate::wire::ShardId;

/// After this much the batches that have come are written, and the rest waits for the next write.
const WRITE_BYTES_MAX: u64 = 4 << 20;

/// What was written is made sure against a loss of power after this at the latest.
const SYNC_AFTER: Duration = Duration::from_secs(5);

/// After a failure a new store is tried this often.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Recovered state on its way to the cores.
const RESTORE_BYTES_MAX: usize = 8 << 20;

/// The report for the metrics is renewed this often, if there is anything new.
const REPORT_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    pub settings: Settings,
    pub cores: Vec<CoreSender>,
    pub placement: Placement,
    pub mail: Receiver<Mail>,
    pub lock: Option<Lock>,
    /// Of the store that is, or the last one that was.
    pub generation: u64,
    /// By core: it has said that nothing more comes.
    pub ended: Vec<bool>,
    pub report: StoreReport,
    pub reported: Option<Instant>,
    /// Told and not yet taken.
    pub restoring_bytes: usize,
}

/// Why a store's life is over.
enum End {
    /// All cores have ended, everything is written and sure.
    Stopped,
    Failed(io::Error),
    /// What an earlier process left could not be read. The shards began without it, so it is out of use but not out of date: sessions that nobody
    /// has touched.
    Unread(io::Error),
}

impl Worker {
    /// Opens the store, says what was found, and serves until all cores have ended.
    pub fn run(mut self, files: &mut impl Disk, opened: impl FnOnce(Opening)) {
        let mut end = match Store::open(&mut *files, self.settings.clone()) {
            Ok((mut store, recovery)) => {
                if let Some(line) = &recovery.dropped {
                    warn!("what is stored in data_dir does not fit and is dropped: {line}");
                }
                opened(Opening { begun: true, shards: recovery.shards });
                if let Some(wal) = recovery.rotate {
                    self.tell_all(|| ToCore::StoreRotate { wal });
                }
                self.serve(&mut store)
            }
            Err(error) => {
                opened(Opening { begun: false, shards: Vec::new() });
                End::Unread(error)
            }
        };
        loop {
            match end {
                End::Stopped => return self.end(),
                // Nothing goes on in memory that would make the files untrue: they hold what they held a moment ago, as after a kill.
                End::Failed(ref error) if !self.ended.contains(&false) => {
                    error!("data_dir: the last write failed, what was stored before it stays: {error}");
                    return self.end();
                }
                End::Failed(ref error) => {
                    self.say_lost(error, "is removed");
                    // What cannot be removed now is removed before anything new is written.
                    let _ = disk::wipe(files);
                }
                End::Unread(ref error) => self.say_lost(error, "is left alone until it can be read"),
            }
            if !self.wait_lost() {
                return self.end();
            }
            if let End::Unread(_) = end
                && let Err(error) = Store::open(&mut *files, self.settings.clone())
            {
                end = End::Unread(error);
                continue;
            }
            end = match Store::create(&mut *files, self.settings.clone()) {
                Ok(mut store) => {
                    info!("data_dir can be written again: everything is stored anew");
                    self.generation += 1;
                    let generation = self.generation;
                    self.report.is_lost = false;
                    self.tell_all(|| ToCore::StoreBegin { generation });
                    self.serve(&mut store)
                }
                Err(error) => End::Failed(error),
            };
        }
    }

    fn serve<D: Disk>(&mut self, store: &mut Store<&mut D>) -> End {
        match self.try_serve(store) {
            Ok(()) => End::Stopped,
            Err(error) => End::Failed(error),
        }
    }

    fn try_serve<D: Disk>(&mut self, store: &mut Store<&mut D>) -> io::Result<()> {
        let mut batches: Vec<Batch> = Vec::new();
        let mut sync_at: Option<Instant> = None;
        let (mut restores, mut tends) = (true, false);
        self.restoring_bytes = 0;
        loop {
            let can_restore = restores && self.restoring_bytes < RESTORE_BYTES_MAX;
            let wait = if can_restore || tends { Duration::ZERO } else { self.until_next(sync_at) };
            let mut next = match self.mail.recv_timeout(wait) {
                Ok(mail) => Some(mail),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.finish(store),
            };
            while let Some(mail) = next {
                self.take(store, mail, &mut batches)?;
                next = if store.waiting_bytes() < WRITE_BYTES_MAX { self.mail.try_recv().ok() } else { None };
            }
            if !batches.is_empty() {
                self.write(store, &mut batches)?;
                sync_at.get_or_insert(clock::now() + SYNC_AFTER);
            }
            if !self.ended.contains(&false) {
                return self.finish(store);
            }
            if can_restore {
                restores = self.restore_some(store)?;
            }
            tends = store.tend()?;
            let now = clock::now();
            if sync_at.is_some_and(|at| now >= at) {
                store.sync()?;
                sync_at = None;
            }
            self.tell_report(now, store);
        }
    }

    fn until_next(&self, sync_at: Option<Instant>) -> Duration {
        let now = clock::now();
        let until_sync = sync_at.map_or(SYNC_AFTER, |it| it.saturating_duration_since(now));
        // While something was written there is something to report.
        if sync_at.is_some() { until_sync.min(REPORT_EVERY) } else { until_sync }
    }

    fn take<D: Disk>(&mut self, store: &mut Store<&mut D>, mail: Mail, batches: &mut Vec<Batch>) -> io::Result<()> {
        if let ToStore::CoreEnded { core } = mail.message {
            self.ended[core] = true;
            return Ok(());
        }
        if mail.generation != self.generation {
            return Ok(());
        }
        match mail.message {
            ToStore::Batch(batch) => {
                store.on_records(&batch.records);
                for (shard, it) in &batch.segments {
                    store.on_segment(*shard, it.first, it.end, &it.bytes)?;
                }
                for (shard, it) in &batch.states {
                    store.on_state(*shard, it.guild, it.as_of, &it.bytes)?;
                }
                batches.push(batch);
            }
            ToStore::Read { core, shard, index } => {
                let segment = store.read(shard, index)?;
                self.cores[core].send(ToCore::StoreSegment { shard, index, segment });
            }
            ToStore::Rotated { core, wal, floors } => store.on_rotated(core, wal, &floors)?,
            ToStore::StateTaken { bytes } => self.restoring_bytes = self.restoring_bytes.saturating_sub(bytes),
            ToStore::TooSlow => return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk stands still")),
            ToStore::CoreEnded { .. } => {}
        }
        Ok(())
    }

    fn write<D: Disk>(&mut self, store: &mut Store<&mut D>, batches: &mut Vec<Batch>) -> io::Result<()> {
        let began = clock::now();
        let Written { rotate, tails } = store.write()?;
        // What merely happened Discord tells again. A number that a client was given on our word it does not.
        if batches.iter().any(|it| it.is_awaited) {
            store.sync()?;
        }
        self.report.writes.add(clock::now().saturating_duration_since(began));
        for mut batch in batches.drain(..) {
            batch.empty();
            let core = batch.core;
            self.cores[core].send(ToCore::StoreWritten(batch));
        }
        for (shard, tail) in tails {
            self.tell(shard, ToCore::StoreTail { shard, tail });
        }
        if let Some(wal) = rotate {
            self.tell_all(|| ToCore::StoreRotate { wal });
        }
        Ok(())
    }

    /// Hands the next recovered checkpoints to their cores; false when there are no more.
    fn restore_some<D: Disk>(&mut self, store: &mut Store<&mut D>) -> io::Result<bool> {
        // So many at a time that batches do not wait for them.
        for _ in 0..32 {
            match store.next_state()? {
                None => return Ok(false),
                Some(StateStep::Blob(shard, blob)) => {
                    self.restoring_bytes += blob.bytes.len();
                    self.tell(shard, ToCore::StoreState { shard, blob });
                }
                Some(StateStep::Damaged(shard)) => {
                    error!(shard = shard.0, "a checkpoint in data_dir is damaged: the shard starts afresh");
                    self.tell(shard, ToCore::StoreStateLost { shard });
                }
                Some(StateStep::Complete(shard)) => self.tell(shard, ToCore::StoreStateComplete { shard }),
            }
        }
        Ok(true)
    }

    /// All cores have ended: everything is made sure.
    fn finish<D: Disk>(&mut self, store: &mut Store<&mut D>) -> io::Result<()> {
        store.write()?;
        store.sync()
    }

    /// `fate`: what becomes of the files.
    fn say_lost(&mut self, failure: &io::Error, fate: &str) {
        self.report.errors += 1;
        self.report.is_lost = true;
        error!(
            "data_dir cannot be used: {failure}. Sessions, log and state are kept in memory alone and do not survive a restart; what is stored \
             {fate}; the next attempt is in {RETRY_AFTER:?}"
        );
        self.tell_all(|| ToCore::StoreLost);
        self.reported = None;
        let report = self.report.clone();
        self.cores[0].send(ToCore::StoreReport(Box::new(report)));
    }

    /// Takes no notice of anything until the next attempt is due; false when all cores have ended.
    fn wait_lost(&mut self) -> bool {
        let until = clock::now() + RETRY_AFTER;
        while self.ended.contains(&false) {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return true;
            }
            match self.mail.recv_timeout(left) {
                Ok(Mail { message: ToStore::CoreEnded { core }, .. }) => self.ended[core] = true,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        false
    }

    fn end(&mut self) {
        // Before the cores hear of it: a successor may begin at once.
        self.lock = None;
        self.tell_all(|| ToCore::StoreEnded);
    }

    fn tell_report<D: Disk>(&mut self, now: Instant, store: &Store<&mut D>) {
        let due = self.reported.is_none_or(|it| now.saturating_duration_since(it) >= REPORT_EVERY);
        let stats = store.stats();
        if due && (self.reported.is_none() || stats != self.report.stats) {
            self.report.stats = stats;
            self.reported = Some(now);
            self.cores[0].send(ToCore::StoreReport(Box::new(self.report.clone())));
        }
    }

    fn tell(&self, shard: ShardId, message: ToCore) {
        if let Some((core, _)) = self.placement.place(shard.0) {
            self.cores[core].send(message);
        }
    }

    fn tell_all(&self, message: impl Fn() -> ToCore) {
        for core in &self.cores {
            core.send(message());
        }
    }
}
