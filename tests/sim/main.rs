//! Seeded simulation of whole proxies: the real state machines and the real store between a scripted Discord, scripted clients and a
//! disk in memory, on a clock that jumps to the next deadline.
//!
//! The seed picks everything: cuts, half-open connections, lost ACKs, op 7, op 9 and storms of it, close codes, refused hosts, skipped
//! numbers, guilds that come and go, slow clients, clients that leave with bytes in flight and come back; and the process's death, by
//! SIGTERM or SIGKILL, at any step, with a write torn or lost, and a disk that fails. `SIM_SEEDS=10000` runs more of them on all cores,
//! `SIM_FROM=n` from there on, `SIM_SEED=n` one again, with its history. `Sabotage` breaks the promises to see that it is noticed.

mod client;
mod discord;
mod process;
mod sabotage;
mod storage;
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sabotage::Sabotage;
use world::{Totals, World};

/// Enough for each kind of trouble to meet each other kind; thousands more are run by hand.
const SEEDS_DEFAULT: u64 = 300;
/// A break that is not noticed in this many seeds is not noticed.
const SABOTAGED_SEEDS_MAX: u64 = 400;

thread_local! {
    /// Panics of this thread are expected: nobody wants to read them.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn every_client_sees_every_event_once_in_order_whatever_breaks() {
    if let Some(seed) = number("SIM_SEED") {
        World::new(seed, true, None).run();
        return;
    }
    let (from, seeds) = (number("SIM_FROM").unwrap_or(0), number("SIM_SEEDS").unwrap_or(SEEDS_DEFAULT));
    let next = AtomicU64::new(from);
    let threads = thread::available_parallelism().map_or(1, |it| it.get());
    let totals = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&next, from + seeds))).collect();
        let mut totals = Totals::default();
        for worker in workers {
            totals.add(&worker.join().expect("a seed failed; it is named above"));
        }
        totals
    });
    println!("{seeds} seeds: {totals:?}");
    // A simulation in which nothing happens proves nothing.
    assert!(totals.dispatches > 100 * seeds && totals.client_resumes > seeds && totals.upstream_resumes > seeds);
    assert!(totals.takeovers > seeds / 2 && totals.storms > seeds / 4 && totals.crossings > seeds / 2);
    assert!(totals.op9_by_discord > seeds / 4 && totals.fell_off > 0 && totals.chunks > seeds);
    assert!(totals.kills > seeds && totals.torn > seeds && totals.terminations > seeds / 4);
    assert!(totals.store_losses > seeds / 20 && totals.log_reads > seeds && totals.rotations > seeds / 20);
}

fn work(next: &AtomicU64, end: u64) -> Totals {
    let mut totals = Totals::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return totals;
        }
        match catch_unwind(|| World::new(seed, false, None).run()) {
            Ok(done) => totals.add(&done),
            Err(panic) => {
                eprintln!("seed {seed} failed; see it again with SIM_SEED={seed}");
                next.store(end, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Some seed fails when `sabotage` is committed, and it was committed in it.
fn is_noticed(sabotage: Sabotage) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                usual(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let noticed = (0..SABOTAGED_SEEDS_MAX).any(|seed| {
        let mut world = World::new(seed, false, Some(sabotage));
        let failed = catch_unwind(AssertUnwindSafe(|| world.run())).is_err();
        failed && world.strikes() > 0
    });
    IS_QUIET.set(false);
    assert!(noticed, "{sabotage:?} was not noticed in {SABOTAGED_SEEDS_MAX} seeds");
}

macro_rules! noticed {
    ($($name:ident: $sabotage:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                is_noticed(Sabotage::$sabotage);
            }
        )*
    };
}

noticed! {
    a_batch_that_is_acknowledged_and_not_written_is_noticed: DropBatch,
    batches_in_another_order_are_noticed: SwapBatches,
    an_answer_before_its_record_is_written_is_noticed: SkipGates,
    a_forgotten_client_is_noticed: ForgetSeats,
    a_spoilt_checkpoint_is_noticed: SpoilState,
    an_empty_disk_is_noticed: WipeDisk,
    an_old_disk_is_noticed: OldDisk,
    a_lost_dispatch_is_noticed: LoseDispatch,
    a_doubled_dispatch_is_noticed: DoubleDispatch,
    repeated_bytes_are_noticed: RepeatBytes,
    missing_bytes_are_noticed: SkipBytes,
    a_chunk_for_somebody_else_is_noticed: ForeignChunk,
    too_many_payloads_are_noticed: Flood,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|it| it.parse().unwrap_or_else(|_| panic!("{name}={it:?}: a number is wanted")))
}
