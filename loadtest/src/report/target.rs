//! What is to be reached, and whether it was.

use super::figures::{Figure, Report};
use super::plan::{HEADLINE, SINGLE_RATE, USUAL_RATE};
use super::table::number;

/// CPU seconds per million events at a rate, plain clients.
const CPU: [(u32, f64); 4] = [(2_000, 25.0), (10_000, 15.0), (60_000, 9.0), (100_000, 6.5)];
/// CPU seconds per million that zlib-stream to the clients adds.
const ZLIB_CPU: f64 = 6.0;
/// Added at 10,000 events/s, in microseconds.
const ADDED_US: [(Figure, &str, f64); 3] =
    [(Figure::P50, "p50", 80.0), (Figure::P99, "p99", 400.0), (Figure::P999, "p99.9", 2_000.0)];
const SINGLE_P50_US: f64 = 100.0;
const FLOOD_EVENTS_PER_S: f64 = 250_000.0;
const IDLE_PERCENT: f64 = 0.1;
const ALONE_MIB: f64 = 15.0;
/// Times the CPU of the bare relay, with plain text on both sides and no cache.
pub const FLOOR_MULTIPLE: f64 = 1.4;

/// One target and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub what: String,
    pub wanted: String,
    /// `None` when it was not measured.
    pub found: Option<f64>,
    pub is_met: Option<bool>,
}

impl Target {
    fn at_most(what: String, limit: f64, unit: &str, found: Option<f64>) -> Self {
        let wanted = format!("≤ {}{unit}", number(limit));
        Self { what, wanted, found, is_met: found.map(|it| it <= limit) }
    }

    /// The verdict in a word or two: by how much it was missed.
    pub fn verdict(&self) -> String {
        match (self.is_met, self.found) {
            (Some(true), _) => "met".to_owned(),
            (Some(false), _) => "missed".to_owned(),
            _ => "not measured".to_owned(),
        }
    }
}

/// The target of CPU time at this rate, if there is one.
pub fn cpu_at(rate: u32) -> Option<f64> {
    CPU.iter().find(|it| it.0 == rate).map(|it| it.1)
}

/// All targets, those of the rates that were measured and all others.
pub fn targets(report: &Report) -> Vec<Target> {
    let cpu = |setup: &str, rate: u32| report.median(setup, &rate.to_string(), Figure::CpuPerMillion);
    let rates = || CPU.iter().filter(|it| report.rates.contains(&it.0));
    let events = |rate: u32| format!("{} events/s", number(rate.into()));
    let mut targets: Vec<Target> = rates()
        .map(|(rate, limit)| {
            let what = format!("CPU s per million at {}, plain clients", events(*rate));
            Target::at_most(what, *limit, "", cpu(HEADLINE, *rate))
        })
        .collect();
    let zlib = cpu("clients-zlib", USUAL_RATE).zip(cpu(HEADLINE, USUAL_RATE)).map(|(zlib, plain)| zlib - plain);
    let what = format!("CPU s per million that zlib-stream to clients adds, at {}", events(USUAL_RATE));
    targets.push(Target::at_most(what, ZLIB_CPU, "", zlib));
    for (figure, name, limit) in ADDED_US {
        let what = format!("latency added, {name}, at {}", events(USUAL_RATE));
        targets.push(Target::at_most(what, limit, " µs", report.added_us(HEADLINE, USUAL_RATE, figure)));
    }
    let single = report.median("single", &SINGLE_RATE.to_string(), Figure::P50);
    targets.push(Target::at_most(format!("one shard at {}, p50", events(SINGLE_RATE)), SINGLE_P50_US, " µs", single));
    let flood = report.median("flood", "flood", Figure::EventsPerS);
    let lost = report.case("flood", "flood").map_or(0, |it| it.sum(|it| it.lost + it.duplicated + it.out_of_order));
    targets.push(Target {
        what: "most events/s, and none lost in silence".to_owned(),
        wanted: format!("≥ {}", number(FLOOD_EVENTS_PER_S)),
        found: flood,
        is_met: flood.map(|it| it >= FLOOD_EVENTS_PER_S && lost == 0),
    });
    let idle = report.median("idle", "idle", Figure::CpuPercent);
    targets.push(Target::at_most("CPU without events, shards and clients there".to_owned(), IDLE_PERCENT, " %", idle));
    let alone = report.median("alone-zlib", "alone", Figure::Rss);
    targets.push(Target::at_most("RSS without guilds and clients".to_owned(), ALONE_MIB, " MiB", alone));
    let multiples = report.rates.iter().filter_map(|rate| {
        let backends = ["bare-ring", "bare-epoll"].map(|it| report.multiple(it, *rate));
        let best = backends.into_iter().flatten().min_by(f64::total_cmp);
        let what = format!("times the floor at {}, the cheaper backend, no cache, no compression", events(*rate));
        best.map(|it| Target::at_most(what, FLOOR_MULTIPLE, "", Some(it)))
    });
    targets.extend(multiples);
    targets
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::report;
    use super::*;

    fn found(targets: &[Target], beginning: &str) -> (Option<f64>, Option<bool>) {
        let target = targets.iter().find(|it| it.what.starts_with(beginning));
        target.map(|it| (it.found, it.is_met)).unwrap_or_else(|| panic!("no {beginning}: {targets:?}"))
    }

    #[test]
    fn each_target_is_judged_by_its_own_figure() {
        let targets = targets(&report(&[
            (HEADLINE, "2000", &[25.0]),
            (HEADLINE, "10000", &[16.0]),
            ("clients-zlib", "10000", &[21.5]),
            ("direct", "10000", &[1.0]),
            ("direct-zlib", "10000", &[10.0]),
            ("floor-epoll", "2000", &[10.0]),
            ("bare-ring", "2000", &[15.0]),
            ("bare-epoll", "2000", &[14.0]),
        ]));
        assert_eq!(found(&targets, "CPU s per million at 2000"), (Some(25.0), Some(true)));
        assert_eq!(found(&targets, "CPU s per million at 10"), (Some(16.0), Some(false)));
        assert_eq!(found(&targets, "CPU s per million that"), (Some(5.5), Some(true)));
        assert_eq!(found(&targets, "latency added, p50"), (Some(60.0), Some(true)));
        assert_eq!(found(&targets, "latency added, p99.9"), (Some(6000.0), Some(false)));
        assert_eq!(found(&targets, "times the floor at 2000"), (Some(1.4), Some(true)));
        assert_eq!(found(&targets, "RSS"), (None, None));
    }

    #[test]
    fn a_flood_that_loses_has_missed_however_fast_it_was() {
        let mut report = report(&[("flood", "flood", &[1.0])]);
        report.cases[0].samples[0].events_per_s = 300_000.0;
        assert_eq!(found(&targets(&report), "most events/s"), (Some(300_000.0), Some(true)));
        report.cases[0].samples[0].lost = 1;
        assert_eq!(found(&targets(&report), "most events/s").1, Some(false));
    }
}
