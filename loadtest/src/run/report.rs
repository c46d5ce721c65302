//! What a run found: for a reader, as JSON, and as one bit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest duration that is told apart; longer ones count as this.
const DURATION_NS_MAX: u64 = 3_600_000_000_000;

/// Quantiles of latency in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// Of durations in nanoseconds; `None` when there are none.
    pub fn of_each(durations_ns: &[u64]) -> Option<Self> {
        let mut histogram =
            Histogram::new_with_bounds(1000, DURATION_NS_MAX, 3).expect("bounds and digits are in range");
        durations_ns.iter().for_each(|it| histogram.saturating_record(*it));
        (!durations_ns.is_empty()).then(|| Self::of(&histogram))
    }

    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let max_us = histogram.max() as f64 / 1000.0;
        Self { count: histogram.len(), p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999), max_us }
    }
}

/// What a process cost in one scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    pub cpu_s: f64,
    pub cpu_s_per_million: f64,
    /// Of one core.
    pub cpu_percent: f64,
    pub rss_mib: f64,
    pub rss_peak_mib: f64,
    pub voluntary_switches_per_event: f64,
}

/// One scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    pub scenario: &'static str,
    pub seconds: f64,
    pub delivered: u64,
    /// While the traffic lasted, without what came after it.
    pub events_per_s: f64,
    pub replayed: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    /// Op 9 that clients got.
    pub invalid_sessions: u64,
    /// Op 9 before all guilds of READY had come, where that is allowed; not among `invalid_sessions`.
    pub snapshots_cut: u64,
    pub client_resumes: u64,
    pub client_resumes_wanted: u64,
    pub client_identifies: u64,
    pub client_drops: u64,
    pub client_closes: BTreeMap<u16, u64>,
    pub upstream_resumes: u64,
    pub upstream_resumes_wanted: u64,
    /// IDENTIFYs after the start.
    pub upstream_identifies: u64,
    /// What clients found, and what the fake Discord had to complain of.
    pub findings: BTreeMap<String, u64>,
    pub texts: Vec<String>,
    pub latency: Latency,
    /// Of the clients that the scenario disturbs on purpose.
    pub latency_apart: Option<Latency>,
    /// Of each client whose connection was lost: from the last event before to the first after.
    pub outage: Option<Latency>,
    /// `None` in a direct run, and when the proxy was restarted.
    pub proxy: Option<Cost>,
    pub discord: Cost,
    pub clients: Cost,
    /// Resident memory of the proxy over time: seconds since the scenario began, MiB.
    pub memory: Vec<(f64, f64)>,
}

impl Outcome {
    /// Every promise that was not kept, in words.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (what, count) in [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("out of order", self.out_of_order),
            ("op 9", self.invalid_sessions),
            ("IDENTIFYs of clients after the start", self.client_identifies),
            ("IDENTIFYs upstream after the start", self.upstream_identifies),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        if self.delivered == 0 {
            broken.push("nothing was delivered".to_owned());
        }
        if self.client_resumes < self.client_resumes_wanted {
            broken.push(format!("{} client RESUMEs, wanted {}", self.client_resumes, self.client_resumes_wanted));
        }
        if self.upstream_resumes < self.upstream_resumes_wanted {
            broken.push(format!("{} upstream RESUMEs, wanted {}", self.upstream_resumes, self.upstream_resumes_wanted));
        }
        let final_closes =
            self.client_closes.iter().filter(|it| matches!(it.0, 1000 | 1001 | 4003..=4007 | 4010..=4014));
        broken.extend(final_closes.map(|(code, count)| format!("{count} closes with {code}, which ends a session")));
        broken.extend(self.findings.iter().map(|(kind, count)| format!("{count} × {kind}")));
        broken
    }

    /// The scenario for a reader.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| writeln!(text, "  {name:<20} {value}").expect("a String takes all");
        line(
            "delivered",
            format!("{} events in {:.1} s, {} of them by RESUME", self.delivered, self.seconds, self.replayed),
        );
        line("lost", self.lost.to_string());
        line("duplicated", self.duplicated.to_string());
        line("out of order", self.out_of_order.to_string());
        line("op 9", self.invalid_sessions.to_string());
        line("client RESUMEs", format!("{}{}", self.client_resumes, closes(&self.client_closes, self.client_drops)));
        line(
            "upstream RESUMEs",
            format!("{}, IDENTIFYs after the start {}", self.upstream_resumes, self.upstream_identifies),
        );
        line("latency", latency(&self.latency));
        if let Some(it) = &self.outage {
            let [p50, p99, max] = [it.p50_us, it.p99_us, it.max_us].map(|it| it / 1000.0);
            line(
                "outage per client",
                format!("p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms ({} clients)", it.count),
            );
        }
        if let Some(apart) = &self.latency_apart {
            line("  the disturbed", latency(apart));
        }
        if let Some(proxy) = &self.proxy {
            line(
                "proxy",
                format!(
                    "{:.1} CPU s per million events ({:.0} % of a core), {:.2} sleeps per event",
                    proxy.cpu_s_per_million, proxy.cpu_percent, proxy.voluntary_switches_per_event
                ),
            );
            line("proxy memory", format!("{:.0} MiB, peak {:.0} MiB", proxy.rss_mib, proxy.rss_peak_mib));
        }
        let (discord, clients) = (self.discord.cpu_percent, self.clients.cpu_percent);
        line("load test itself", format!("fake Discord {discord:.0} % of a core, clients {clients:.0} %"));
        for broken in self.broken() {
            writeln!(text, "  BROKEN: {broken}").expect("a String takes all");
        }
        for detail in &self.texts {
            writeln!(text, "    {detail}").expect("a String takes all");
        }
        text
    }
}

fn latency(it: &Latency) -> String {
    format!(
        "p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs ({} live events)",
        it.p50_us, it.p99_us, it.p999_us, it.max_us, it.count
    )
}

fn closes(closes: &BTreeMap<u16, u64>, drops: u64) -> String {
    let mut text = String::new();
    for (code, count) in closes {
        write!(text, ", {count} × close {code}").expect("a String takes all");
    }
    if drops > 0 {
        write!(text, ", {drops} × dropped").expect("a String takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Outcome {
        Outcome { delivered: 10, client_resumes: 2, client_resumes_wanted: 2, ..Outcome::default() }
    }

    #[test]
    fn a_good_outcome_breaks_nothing() {
        assert_eq!(good().broken(), Vec::<String>::new());
        let resumable = BTreeMap::from([(4000, 2), (1012, 1), (4008, 1)]);
        assert!(Outcome { client_closes: resumable, ..good() }.broken().is_empty());
    }

    #[test]
    fn durations_keep_their_size() {
        let outage = Latency::of_each(&[1_000_000, 2_000_000_000, 70_000_000_000]).unwrap();
        assert_eq!((outage.count, outage.p50_us.round() as u64 / 10_000), (3, 200));
        assert!((outage.max_us / 70e6 - 1.0).abs() < 0.01);
        assert_eq!(Latency::of_each(&[]), None);
    }

    #[test]
    fn each_promise_can_be_broken_alone() {
        for bad in [
            Outcome { lost: 1, ..good() },
            Outcome { duplicated: 1, ..good() },
            Outcome { out_of_order: 1, ..good() },
            Outcome { invalid_sessions: 1, ..good() },
            Outcome { client_identifies: 1, ..good() },
            Outcome { upstream_identifies: 1, ..good() },
            Outcome { delivered: 0, ..good() },
            Outcome { client_resumes: 1, ..good() },
            Outcome { upstream_resumes_wanted: 1, ..good() },
            Outcome { client_closes: BTreeMap::from([(1000, 1)]), ..good() },
            Outcome { findings: BTreeMap::from([("s".to_owned(), 1)]), ..good() },
        ] {
            assert_eq!(bad.broken().len(), 1, "{bad:?}");
            assert!(bad.text().contains("BROKEN"));
        }
    }
}
