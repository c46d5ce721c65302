//! What a chaos run found: for a reader, as JSON, and as one bit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::run::report::{Latency, Outcome};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    pub seed: u64,
    pub shards: u32,
    pub clients: usize,
    /// How often each thing was done.
    pub happened: BTreeMap<&'static str, u64>,
    /// Delivery and what was found. Its `client_identifies` are those that were ordered and no breach.
    pub outcome: Outcome,
    /// By the kind of restart: of each client that was connected, from the last event before to the first after.
    pub outages: BTreeMap<&'static str, Latency>,
    /// Clients that were not back in time after a restart, summed over the restarts.
    pub not_back: u64,
    /// SIGTERMs that were not answered by a clean end in time.
    pub bad_ends: u64,
    /// Shards whose state was compared with that of a proxy that never stopped, and those where it differed.
    pub states_compared: u64,
    pub states_different: Vec<String>,
}

impl Verdict {
    /// Every promise that was not kept, in words.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Outcome { client_identifies: 0, ..self.outcome.clone() }.broken();
        if self.not_back > 0 {
            broken.push(format!("{} clients were not back in time after a restart", self.not_back));
        }
        if self.bad_ends > 0 {
            broken.push(format!("{} SIGTERMs without a clean end", self.bad_ends));
        }
        broken.extend(self.states_different.iter().map(|it| format!("another state than without restarts: {it}")));
        broken
    }

    pub fn text(&self) -> String {
        let mut text = format!("chaos, seed {}, {} shards, {} clients\n", self.seed, self.shards, self.clients);
        let mut line = |name: &str, value: String| writeln!(text, "  {name:<24} {value}").expect("a String takes all");
        let happened: Vec<_> = self.happened.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        line("what happened", happened.join(", "));
        let outcome = &self.outcome;
        line("delivered", format!("{} events in {:.0} s", outcome.delivered, outcome.seconds));
        line("lost", outcome.lost.to_string());
        line("duplicated", outcome.duplicated.to_string());
        line("out of order", outcome.out_of_order.to_string());
        line("op 9 to clients", format!("{}, {} in the guild stream", outcome.invalid_sessions, outcome.snapshots_cut));
        line("client RESUMEs", format!("{}, IDENTIFYs {}", outcome.client_resumes, outcome.client_identifies));
        line(
            "upstream RESUMEs",
            format!("{}, IDENTIFYs beyond the first {}", outcome.upstream_resumes, outcome.upstream_identifies),
        );
        for (kind, outage) in &self.outages {
            let [p50, p99, max] = [outage.p50_us, outage.p99_us, outage.max_us].map(|it| it / 1000.0);
            let value = format!("p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms ({} of clients)", outage.count);
            line(&format!("outage, {kind}"), value);
        }
        line("states compared", self.states_compared.to_string());
        for broken in self.broken() {
            writeln!(text, "  BROKEN: {broken}").expect("a String takes all");
        }
        for detail in &outcome.texts {
            writeln!(text, "    {detail}").expect("a String takes all");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Verdict {
        Verdict { outcome: Outcome { delivered: 5, client_identifies: 3, ..Outcome::default() }, ..Verdict::default() }
    }

    #[test]
    fn each_promise_can_be_broken_alone() {
        assert_eq!(good().broken(), Vec::<String>::new());
        let outcome = |change: fn(&mut Outcome)| {
            let mut verdict = good();
            change(&mut verdict.outcome);
            verdict
        };
        for bad in [
            outcome(|it| it.lost = 1),
            outcome(|it| it.duplicated = 1),
            outcome(|it| it.out_of_order = 1),
            outcome(|it| it.invalid_sessions = 1),
            outcome(|it| it.upstream_identifies = 1),
            Verdict { not_back: 1, ..good() },
            Verdict { bad_ends: 1, ..good() },
            Verdict { states_different: vec!["shard 1".to_owned()], ..good() },
        ] {
            assert_eq!(bad.broken().len(), 1, "{bad:?}");
            assert!(bad.text().contains("BROKEN"));
        }
    }
}
