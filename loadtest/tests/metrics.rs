//! The metrics page of a running proxy: well-formed, listed in `docs/metrics.md` with its size, and enough for the alerts and the dashboard.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::exposition::{self, Family};
use common::folder::Folder;
use common::judged::{self, has};
use common::proxy::{Proxy, cores};
use common::raw::Raw;
use common::{order, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

const POLL: Duration = Duration::from_millis(5);

fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The page of a proxy with a store, to which something of everything has happened.
fn scraped(test: impl Fn(BTreeMap<String, Family>)) {
    with_discord(&["--shards", "2", "--guilds", "2"], async |discord: Address| {
        let folder = Folder::new();
        let mut proxy = Proxy::start(&discord, &[], json!({"data_dir": folder.text()})).await;
        let client = judged::join(&proxy.url, [0, 2], Compression::None).await;
        order(&discord, "burst?shard=0&events=100", "").await;
        has(&client, 100).await;
        let mut guesser = Raw::saying(&proxy.url, "nonsense").await;
        assert_eq!(guesser.close_code().await, 4002);
        order(&discord, "close?shard=1&code=4000", "").await;
        // A report of the store's comes with its first tick.
        for line in ["shardgate_upstream_reconnects_total{reason=\"closed\"} 1\n", "\nshardgate_store_lost 0\n"] {
            while !proxy.page("/metrics").await.1.contains(line) {
                proxy.check();
                sleep(POLL).await;
            }
        }
        let (_, page) = proxy.page("/metrics").await;
        test(exposition::read(&page));
        proxy.stop().await;
    });
}

/// The first value of this name whose labels hold these.
fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families.get(name).into_iter().flat_map(|it| &it.samples);
    let holds = |it: &&exposition::Sample| {
        labels.iter().all(|(name, value)| it.labels.get(*name).is_some_and(|it| it == value))
    };
    samples.filter(holds).map(|it| it.value).sum()
}

#[test]
fn the_page_is_well_formed_and_counts_what_has_happened() {
    scraped(|families| {
        let value = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
        assert!(value("shardgate_core_busy_seconds_total", &[]) > 0.0);
        assert!(value("shardgate_received_bytes_total", &[("peer", "discord")]) > 100.0);
        assert!(value("shardgate_sent_bytes_total", &[("peer", "clients")]) > 100.0 * 100.0);
        assert!(value("shardgate_sent_bytes_total", &[("peer", "discord")]) > 100.0);
        assert!(value("shardgate_received_bytes_total", &[("peer", "clients")]) > 100.0);
        let counted = families["shardgate_event_delay_seconds"].samples.iter().find(|it| it.name.ends_with("_count"));
        assert!(counted.unwrap().value >= 100.0);
        assert_eq!(value("shardgate_client_closes_total", &[("by", "proxy"), ("code", "4002")]), 1.0);
        assert_eq!(value("shardgate_upstream_reconnects_total", &[]), 1.0);
        assert_eq!(value("shardgate_clients", &[("shard", "0")]), 1.0);
        assert!(value("shardgate_guild_members", &[]) > 0.0);
        for (name, family) in &families {
            assert!(family.help.ends_with('.'), "{name}: {}", family.help);
            let is_total = name.ends_with("_total") || name == "gateway_shard_events";
            assert_eq!(family.kind == "counter", is_total, "{name}");
        }
    });
}

/// Rows of the tables of docs/metrics.md: name, kind, series at 225 shards on 2 cores.
fn listed() -> BTreeMap<String, (String, String)> {
    let text = document("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[0].trim_matches('`').split('{').next().unwrap().to_owned();
        (name, (cells[1].to_owned(), cells[2].to_owned()))
    };
    rows.map(row).collect()
}

#[test]
fn the_document_lists_each_metric_with_its_kind_and_nothing_else() {
    let listed = listed();
    scraped(|families| {
        let there: BTreeSet<_> = families.keys().collect();
        let said: BTreeSet<_> = listed.keys().collect();
        assert_eq!(there, said, "docs/metrics.md");
        for (name, family) in &families {
            let (kind, series) = &listed[name];
            assert_eq!(*kind, family.kind, "{name} in docs/metrics.md");
            // What depends on what happens is given as a bound.
            if !series.starts_with('≤') {
                assert_eq!(series.parse(), Ok(series_at_225(family)), "{name} in docs/metrics.md");
            }
        }
    });
}

/// With 225 shards on two cores, by what there is with two shards.
fn series_at_225(family: &Family) -> usize {
    let with = |label| family.samples.iter().filter(|it| it.labels.contains_key(label)).count();
    let (by_shard, by_core) = (with("shard"), with("core"));
    by_shard / 2 * 225 + by_core / cores() * 2 + family.samples.len() - by_shard - by_core
}

/// All names in a text that can only be metrics.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let words = text.split(|it| !is_part(it)).filter(|it| it.starts_with("shardgate_") || it.starts_with("gateway_"));
    words.map(str::to_owned).collect()
}

/// A histogram's series have its name and more.
fn is_there(families: &BTreeMap<String, Family>, name: &str) -> bool {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|it| name.strip_suffix(it));
    families.contains_key(name) || base.is_some_and(|it| families.get(it).is_some_and(|it| it.kind == "histogram"))
}

#[test]
fn what_alerts_and_dashboard_ask_for_is_there() {
    let alerts = document("deploy/compose/prometheus/alerts.yml");
    let dashboard: Value = serde_json::from_str(&document("deploy/compose/grafana/dashboards/shardgate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|it| it["targets"].as_array().into_iter().flatten());
    let asked: Vec<String> = targets.map(|it| it["expr"].as_str().unwrap().to_owned()).collect();
    let alerts: Vec<_> = alerts.lines().filter(|it| !it.trim_start().starts_with('#')).collect();
    scraped(|families| {
        for name in named(&alerts.join("\n")).into_iter().chain(named(&asked.join("\n"))) {
            assert!(is_there(&families, &name), "{name} is asked for and not there");
        }
    });
    assert!(asked.len() > 10);
}

#[test]
fn each_alert_has_a_section_on_what_to_do() {
    let alerts = document("deploy/compose/prometheus/alerts.yml");
    let page = document("docs/alerts.md");
    let named: BTreeSet<_> = alerts.lines().filter_map(|it| it.trim().strip_prefix("- alert: ")).collect();
    let described: BTreeSet<_> = page.lines().filter_map(|it| it.strip_prefix("## ")).collect();
    assert!(named.len() > 5);
    assert_eq!(named, described);
    for name in named {
        let link = format!("docs/alerts.md#{}", name.to_lowercase());
        assert!(alerts.contains(&link), "no runbook_url ends in {link}");
    }
}
