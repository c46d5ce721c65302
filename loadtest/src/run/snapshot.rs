//! All counts at one moment; a scenario's are the difference of two.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use super::report::Outcome;
use crate::client::Client;

/// Finding texts that a report shows.
const TEXTS_MAX: usize = 12;

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    lost: u64,
    duplicated: u64,
    out_of_order: u64,
    invalid_sessions: u64,
    snapshots_cut: u64,
    resumes: u64,
    client_identifies: u64,
    drops: u64,
    closes: BTreeMap<u16, u64>,
    upstream_resumes: u64,
    upstream_identifies: u64,
    findings: BTreeMap<String, u64>,
    texts: Vec<String>,
}

impl Snapshot {
    /// `stats` is what `/fake/stats` answers.
    pub fn take(clients: &[Rc<Client>], stats: &Value) -> Self {
        let mut now = Self {
            upstream_resumes: stats["resumes"].as_u64().unwrap_or(0),
            upstream_identifies: stats["identifies"].as_u64().unwrap_or(0),
            ..Self::default()
        };
        for client in clients {
            let (judge, history) = (client.judge.borrow(), client.history.borrow());
            now.lost += judge.counters.lost();
            now.duplicated += judge.counters.duplicated;
            now.out_of_order += judge.counters.out_of_order;
            now.invalid_sessions += history.invalid_sessions - judge.snapshots_cut;
            now.snapshots_cut += judge.snapshots_cut;
            now.resumes += history.resumes;
            now.client_identifies += history.identifies;
            now.drops += history.drops;
            for (code, count) in &history.closes {
                *now.closes.entry(*code).or_default() += count;
            }
            for (kind, count) in &judge.findings.counts {
                *now.findings.entry((*kind).to_owned()).or_default() += count;
            }
            now.texts.extend(judge.findings.texts.iter().cloned());
        }
        for (kind, count) in stats["violations"].as_object().into_iter().flatten() {
            *now.findings.entry(format!("Discord: {kind}")).or_default() += count.as_u64().unwrap_or(0);
        }
        let complaints = stats["violations_recent"].as_array().into_iter().flatten();
        now.texts.extend(complaints.filter_map(|it| it.as_str()).map(|it| format!("Discord: {it}")));
        now
    }

    /// What the first scenario is compared with: all that was found while starting is its, and so is every IDENTIFY
    /// beyond those that starting needs.
    pub fn of_start(now: &Self, upstream_identifies: u64, client_identifies: u64) -> Self {
        Self {
            upstream_identifies: now.upstream_identifies.min(upstream_identifies),
            client_identifies: now.client_identifies.min(client_identifies),
            ..Self::default()
        }
    }

    /// Writes into `outcome` what happened since `before`.
    pub fn fill(&self, before: &Self, outcome: &mut Outcome) {
        outcome.lost = self.lost - before.lost;
        outcome.duplicated = self.duplicated - before.duplicated;
        outcome.out_of_order = self.out_of_order - before.out_of_order;
        outcome.invalid_sessions = self.invalid_sessions - before.invalid_sessions;
        outcome.snapshots_cut = self.snapshots_cut - before.snapshots_cut;
        outcome.client_resumes = self.resumes - before.resumes;
        outcome.client_identifies = self.client_identifies - before.client_identifies;
        outcome.client_drops = self.drops - before.drops;
        outcome.client_closes = difference(&self.closes, &before.closes);
        outcome.upstream_resumes = self.upstream_resumes - before.upstream_resumes;
        outcome.upstream_identifies = self.upstream_identifies - before.upstream_identifies;
        outcome.findings = difference(&self.findings, &before.findings);
        if !outcome.findings.is_empty() {
            let new = self.texts.iter().filter(|it| !before.texts.contains(it));
            outcome.texts = new.take(TEXTS_MAX).cloned().collect();
        }
    }
}

fn difference<K: Ord + Clone>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let changes = now.iter().map(|(key, count)| (key.clone(), count - before.get(key).unwrap_or(&0)));
    changes.filter(|it| it.1 > 0).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_new_is_reported() {
        let stats = |resumes, late| json!({"resumes": resumes, "identifies": 4, "violations": {"late": late}, "violations_recent": []});
        let before = Snapshot::take(&[], &stats(1, 2));
        let mut outcome = Outcome::default();
        Snapshot::take(&[], &stats(3, 2)).fill(&before, &mut outcome);
        assert_eq!((outcome.upstream_resumes, outcome.upstream_identifies, outcome.findings.len()), (2, 0, 0));
        Snapshot::take(&[], &stats(3, 5)).fill(&before, &mut outcome);
        assert_eq!(outcome.findings["Discord: late"], 3);
    }
}
