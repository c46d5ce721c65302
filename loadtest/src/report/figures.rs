//! What a report holds: every run of every case, as numbers. It is what the JSON holds, too; nothing here measures or draws.

use serde::{Deserialize, Serialize};

use super::plan::without_proxy;
use crate::run::report::Outcome;

/// Below this share of what was asked for the load test itself did not keep up.
const OFFERED_SHARE_MIN: f64 = 0.95;

/// Everything that was measured, and where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Processor, kernel and commit.
    pub machine: String,
    /// What to type to measure it again.
    pub command: String,
    pub is_quick: bool,
    pub repeats: u32,
    /// Of traffic at each rate.
    pub seconds: u64,
    pub shards: u32,
    pub rates: Vec<u32>,
    pub cases: Vec<Case>,
    pub traces: Vec<Trace>,
    /// Setups that could not be measured, and why.
    pub failures: Vec<String>,
}

/// One setup under one load, and its runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub setup: String,
    /// A rate, or the name of what happens.
    pub step: String,
    /// Events per second that were asked for; `None` where no rate was.
    pub offered_per_s: Option<f64>,
    pub samples: Vec<Sample>,
}

/// One run of a case. What was not measured is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub events_per_s: f64,
    pub delivered: u64,
    pub replayed: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    /// Op 9 that clients got.
    pub invalid_sessions: u64,
    pub client_resumes: u64,
    pub upstream_resumes: u64,
    pub upstream_identifies: u64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    pub max_us: Option<f64>,
    /// From the last event before a lost connection to the first after, over the clients that lost one.
    pub outage_p50_ms: Option<f64>,
    pub outage_max_ms: Option<f64>,
    /// Of what stands in the middle, be it a proxy or a relay.
    pub cpu_s_per_million: Option<f64>,
    pub cpu_percent: Option<f64>,
    pub switches_per_event: Option<f64>,
    pub rss_mib: Option<f64>,
    pub discord_cpu_percent: f64,
    pub clients_cpu_percent: f64,
    /// Promises that were not kept, in words.
    pub broken: Vec<String>,
}

/// Resident memory of the proxy over time, and what happened when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub setup: String,
    /// Seconds, MiB.
    pub points: Vec<(f64, f64)>,
    /// Seconds, and what began then.
    pub marks: Vec<(f64, String)>,
}

/// One number of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    CpuPerMillion,
    CpuPercent,
    Switches,
    P50,
    P99,
    P999,
    EventsPerS,
    Rss,
    OutageMax,
}

/// Median and range of several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Report {
    pub fn case(&self, setup: &str, step: &str) -> Option<&Case> {
        self.cases.iter().find(|it| it.setup == setup && it.step == step)
    }

    pub fn spread(&self, setup: &str, step: &str, figure: Figure) -> Option<Spread> {
        self.case(setup, step)?.spread(figure)
    }

    pub fn median(&self, setup: &str, step: &str, figure: Figure) -> Option<f64> {
        Some(self.spread(setup, step, figure)?.median)
    }

    /// Where the case is, made if it is new.
    pub fn case_mut(&mut self, setup: &str, step: &str, offered_per_s: Option<f64>) -> &mut Case {
        let at = self.cases.iter().position(|it| it.setup == setup && it.step == step).unwrap_or_else(|| {
            let (setup, step) = (setup.to_owned(), step.to_owned());
            self.cases.push(Case { setup, step, offered_per_s, samples: Vec::new() });
            self.cases.len() - 1
        });
        &mut self.cases[at]
    }

    /// The CPU time per million events of the cheaper bare relay, over epoll or over a ring, and which it is.
    pub fn floor(&self, rate: u32) -> Option<(f64, &'static str)> {
        let cost = |setup| self.median(setup, &rate.to_string(), Figure::CpuPerMillion).map(|it| (it, setup));
        let costs = [cost("floor-epoll"), cost("floor-ring")];
        costs.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// What `setup` costs at this rate as a multiple of the floor.
    pub fn multiple(&self, setup: &str, rate: u32) -> Option<f64> {
        Some(self.median(setup, &rate.to_string(), Figure::CpuPerMillion)? / self.floor(rate)?.0)
    }

    /// What the middle adds to a quantile of latency: over that of clients straight at the fake Discord, which compresses as much.
    pub fn added_us(&self, setup: &str, rate: u32, figure: Figure) -> Option<f64> {
        let at = |setup| self.median(setup, &rate.to_string(), figure);
        Some(at(setup)? - at(without_proxy(setup))?)
    }
}

impl Case {
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|it| figure.of(it)))
    }

    /// The load test offered what it was asked to.
    pub fn is_full(&self) -> bool {
        let Some(offered) = self.offered_per_s else { return true };
        self.spread(Figure::EventsPerS).is_some_and(|it| it.median >= offered * OFFERED_SHARE_MIN)
    }

    pub fn sum(&self, count: fn(&Sample) -> u64) -> u64 {
        self.samples.iter().map(count).sum()
    }
}

impl Sample {
    /// `is_quiet` when no event was to happen.
    pub fn of(outcome: &Outcome, is_quiet: bool) -> Self {
        let latency = (outcome.latency.count > 0).then_some(&outcome.latency);
        let middle = outcome.proxy.as_ref();
        let per_event = middle.filter(|_| outcome.delivered > 0);
        Self {
            events_per_s: outcome.events_per_s,
            delivered: outcome.delivered,
            replayed: outcome.replayed,
            lost: outcome.lost,
            duplicated: outcome.duplicated,
            out_of_order: outcome.out_of_order,
            invalid_sessions: outcome.invalid_sessions,
            client_resumes: outcome.client_resumes,
            upstream_resumes: outcome.upstream_resumes,
            upstream_identifies: outcome.upstream_identifies,
            p50_us: latency.map(|it| it.p50_us),
            p99_us: latency.map(|it| it.p99_us),
            p999_us: latency.map(|it| it.p999_us),
            max_us: latency.map(|it| it.max_us),
            outage_p50_ms: outcome.outage.as_ref().map(|it| it.p50_us / 1000.0),
            outage_max_ms: outcome.outage.as_ref().map(|it| it.max_us / 1000.0),
            cpu_s_per_million: per_event.map(|it| it.cpu_s_per_million),
            cpu_percent: middle.map(|it| it.cpu_percent),
            switches_per_event: per_event.map(|it| it.voluntary_switches_per_event),
            rss_mib: middle.map(|it| it.rss_mib),
            discord_cpu_percent: outcome.discord.cpu_percent,
            clients_cpu_percent: outcome.clients.cpu_percent,
            broken: if is_quiet { Vec::new() } else { outcome.broken() },
        }
    }
}

impl Figure {
    /// Those that two reports are compared by.
    pub const COMPARED: [Self; 8] = [
        Self::CpuPerMillion,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::EventsPerS,
        Self::CpuPercent,
        Self::Rss,
        Self::OutageMax,
    ];

    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::CpuPerMillion => sample.cpu_s_per_million,
            Self::CpuPercent => sample.cpu_percent,
            Self::Switches => sample.switches_per_event,
            Self::P50 => sample.p50_us,
            Self::P99 => sample.p99_us,
            Self::P999 => sample.p999_us,
            Self::EventsPerS => Some(sample.events_per_s),
            Self::Rss => sample.rss_mib,
            Self::OutageMax => sample.outage_max_ms,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::CpuPerMillion => "CPU s per million",
            Self::CpuPercent => "CPU, % of a core",
            Self::Switches => "sleeps per event",
            Self::P50 => "p50, µs",
            Self::P99 => "p99, µs",
            Self::P999 => "p99.9, µs",
            Self::EventsPerS => "events/s",
            Self::Rss => "RSS, MiB",
            Self::OutageMax => "longest outage, ms",
        }
    }

    pub fn is_more_better(self) -> bool {
        self == Self::EventsPerS
    }
}

impl Spread {
    /// `None` for no values.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Self { median, min, max })
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A report with one case per triple of setup, step, and the CPU costs of its runs; all else follows from the cost.
    pub fn report(cases: &[(&str, &str, &[f64])]) -> Report {
        let mut report = Report { repeats: 3, shards: 225, rates: vec![2_000, 10_000], ..Report::default() };
        for (setup, step, costs) in cases {
            let case = report.case_mut(setup, step, step.parse().ok());
            case.samples.extend(costs.iter().map(|cost| Sample {
                cpu_s_per_million: Some(*cost),
                p50_us: Some(cost * 10.0),
                p99_us: Some(cost * 100.0),
                p999_us: Some(cost * 1000.0),
                events_per_s: step.parse().unwrap_or(1.0),
                delivered: 1,
                ..Sample::default()
            }));
        }
        report
    }

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 9.0].into_iter()), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([3.0, 1.0].into_iter()).map(|it| it.median), Some(2.0));
        assert_eq!(Spread::of([].into_iter()), None);
    }

    #[test]
    fn the_floor_is_the_cheaper_of_the_two_and_glommio_is_not_asked() {
        let report = report(&[
            ("floor-epoll", "2000", &[10.0]),
            ("floor-ring", "2000", &[8.0, 8.0, 90.0]),
            ("floor-glommio", "2000", &[1.0]),
            ("bare-ring", "2000", &[12.0]),
        ]);
        assert_eq!(report.floor(2000), Some((8.0, "floor-ring")));
        assert_eq!(report.multiple("bare-ring", 2000), Some(1.5));
        assert_eq!(report.multiple("bare-ring", 10_000), None);
    }

    #[test]
    fn a_load_that_fell_short_is_seen() {
        let mut report = report(&[("direct", "2000", &[1.0, 1.0, 1.0])]);
        assert!(report.cases[0].is_full());
        report.cases[0].samples.iter_mut().take(2).for_each(|it| it.events_per_s = 1800.0);
        assert!(!report.cases[0].is_full());
    }

    #[test]
    fn json_gives_back_what_it_was_made_of() {
        let mut report = report(&[("direct", "2000", &[0.1, 1.0 / 3.0]), ("idle", "idle", &[])]);
        report.traces.push(Trace { setup: "x".into(), points: vec![(0.1, 2.5)], marks: vec![(0.0, "deploy".into())] });
        report.failures.push("why \"quoted\"".to_owned());
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
