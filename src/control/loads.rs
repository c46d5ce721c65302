//! What each shard costs, estimated while it runs and kept in `data_dir`: the next process deals the shards out to its cores by it.
//!
//! A shard never moves while the process lives, since its state, its log and its clients are one core's alone. Not here: the dealing
//! (`runtime::placement`), and the file (`ledger`).

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::Duration;

use super::ledger::Ledger;
use super::pages::Reports;
use crate::runtime::mesh::CoreReport;
use crate::shard::report::ShardReport;

/// How often the loads are written; a process that lives for less leaves those of the one before it.
const KEPT_EVERY: Duration = Duration::from_secs(300);
/// What is taken in, and what each client is sent, in nanoseconds: measured at 10,000 events/s of 0.8 kB, rounded. Only their ratio counts.
const PER_DISPATCH: u64 = 8_000;
const PER_DISPATCH_AND_CLIENT: u64 = 6_000;
const PER_KIB: u64 = 1_500;
const PER_KIB_AND_CLIENT: u64 = 500;

/// What a shard has taken in since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Intake {
    dispatches: u64,
    kib: u64,
}

impl Intake {
    fn of(shard: &ShardReport) -> Self {
        let dispatches = shard.events.iter().map(|(_, count)| count).sum();
        Self { dispatches, kib: shard.dispatched_bytes / 1024 }
    }

    fn since(self, before: Self) -> Self {
        Self { dispatches: self.dispatches.saturating_sub(before.dispatches), kib: self.kib.saturating_sub(before.kib) }
    }

    /// What it costs to take this in and to send it to so many clients.
    fn cost(self, clients: u64) -> u64 {
        self.dispatches * (PER_DISPATCH + clients * PER_DISPATCH_AND_CLIENT)
            + self.kib * (PER_KIB + clients * PER_KIB_AND_CLIENT)
    }
}

/// Of each core, by number: what its shards cost, and the part of the costliest of them. Since the start, and as if each had had one client all
/// the time: how many are there now says nothing about then.
pub fn by_core(cores: &[CoreReport]) -> Vec<(usize, u64, u64)> {
    let of = |core: &CoreReport| {
        let costs = core.shards.iter().map(|shard| Intake::of(shard).cost(1));
        (core.core, costs.clone().sum(), costs.max().unwrap_or(0))
    };
    cores.iter().map(of).collect()
}

/// Starts the thread that keeps the loads. `collect` asks all cores, as for the pages. It ends with the process.
pub fn keep(
    mut ledger: Ledger,
    shard_count: u32,
    mut loads: HashMap<u32, u64>,
    collect: impl Fn() -> Reports + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let mut before = HashMap::new();
        loop {
            thread::sleep(KEPT_EVERY);
            let reports = collect();
            note(&mut loads, &mut before, reports.cores.iter().flat_map(|it| &it.shards));
            ledger.keep_loads(shard_count, &loads);
        }
    };
    thread::Builder::new().name("loads".into()).spawn(run).map(|_| ())
}

/// `before` has what was taken in until the round before this one; what came since then was sent to the clients of now. A load follows slowly: an
/// hour of noise does not move a shard.
fn note<'a>(
    loads: &mut HashMap<u32, u64>,
    before: &mut HashMap<u32, Intake>,
    shards: impl Iterator<Item = &'a ShardReport>,
) {
    for shard in shards {
        let intake = Intake::of(shard);
        let now = intake.since(before.insert(shard.shard, intake).unwrap_or_default()).cost(shard.clients as u64);
        let load = loads.entry(shard.shard).or_insert(now);
        *load = (*load * 7 + now) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(shard: u32, dispatches: u64, bytes: u64, clients: usize) -> ShardReport {
        let events = vec![("A".to_owned(), dispatches / 2), ("B".to_owned(), dispatches - dispatches / 2)];
        ShardReport { shard, events, dispatched_bytes: bytes, clients, ..ShardReport::default() }
    }

    fn cost(shard: &ShardReport) -> u64 {
        Intake::of(shard).cost(shard.clients as u64)
    }

    #[test]
    fn dispatches_bytes_and_clients_cost() {
        let base = cost(&report(0, 100, 1 << 20, 1));
        assert!(cost(&report(0, 200, 1 << 20, 1)) > base);
        assert!(cost(&report(0, 100, 2 << 20, 1)) > base);
        assert!(cost(&report(0, 100, 1 << 20, 2)) > base);
        assert_eq!(cost(&report(0, 0, 0, 5)), 0);
    }

    #[test]
    fn a_load_is_that_of_the_last_rounds_and_not_of_the_whole_life() {
        let (mut loads, mut before) = (HashMap::new(), HashMap::new());
        note(&mut loads, &mut before, [report(3, 80_000, 0, 0)].iter());
        let busy = loads[&3];
        assert_eq!(busy, cost(&report(3, 80_000, 0, 0)));
        for _ in 0..50 {
            note(&mut loads, &mut before, [report(3, 80_000, 0, 0)].iter());
        }
        assert!(loads[&3] < busy / 100, "it has been silent since: {}", loads[&3]);
    }

    #[test]
    fn a_client_that_goes_and_comes_back_weighs_what_it_was_sent_and_not_all_that_ever_came() {
        let (mut loads, mut before) = (HashMap::new(), HashMap::new());
        let usual = cost(&report(3, 1000, 0, 1));
        for round in 1..=1000 {
            // It is away at every tenth look.
            note(&mut loads, &mut before, [report(3, round * 1000, 0, usize::from(round % 10 != 0))].iter());
            assert!(loads[&3] <= usual, "round {round}: {} for {usual}", loads[&3]);
        }
        assert!(loads[&3] > usual / 2, "{}", loads[&3]);
    }

    #[test]
    fn what_a_core_has_carried_does_not_depend_on_who_is_connected_now() {
        let core = |clients| CoreReport { shards: vec![report(0, 1000, 1 << 20, clients)], ..CoreReport::default() };
        assert_eq!(by_core(&[core(0)]), by_core(&[core(5)]));
    }
}
