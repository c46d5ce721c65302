//! A shard whose process dies at any step, over a disk that has everything acknowledged and any part of the rest.
//!
//! The seed picks events, clients, cuts, what the disk got, and when the process dies. Clients believe nothing: they check each number and
//! each message, and build the state for themselves. In the end everybody's state is Discord's. `CRASH_SEEDS=10000` runs more seeds,
//! `CRASH_SEED=n` one again, with its history.

mod client;
mod discord;
mod disk;
mod points;
mod stage;

use stage::{Stage, Totals};

const SEEDS_DEFAULT: u64 = 400;

#[test]
fn whenever_the_process_dies_every_client_sees_every_event_once_and_the_state_comes_back() {
    if let Some(seed) = number("CRASH_SEED") {
        Stage::new(seed, true).run();
        return;
    }
    let seeds = number("CRASH_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let mut totals = Totals::default();
    for seed in 0..seeds {
        match std::panic::catch_unwind(|| Stage::new(seed, false).run()) {
            Ok(done) => totals.add(&done),
            Err(panic) => {
                eprintln!("seed {seed} failed; see it again with CRASH_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{seeds} seeds: {totals:?}");
    // Without these nothing was shown.
    assert!(totals.crashes > seeds && totals.resumed > seeds && totals.lost_bytes > 0);
    assert!(totals.found > seeds / 4 && totals.reads > seeds / 4 && totals.chunks > 0 && totals.rotations > seeds / 4);
    assert!(totals.forgotten > seeds / 4 && totals.store_losses > seeds / 20);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|it| it.parse().unwrap_or_else(|_| panic!("{name}={it:?}: a number is wanted")))
}
