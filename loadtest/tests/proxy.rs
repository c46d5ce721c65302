//! The load test's own verdict on the proxy, small: every scenario and every way in and out, on each backend.

mod common;

use std::process::Command;
use std::thread;

use common::proxy::{binary, cores, on_backends};

/// Runs `loadtest run` against the proxy, a second or two for each scenario, and wants every promise kept.
fn judge(backend: &str, scenario: &str, words: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--rate", "300", "--seconds", "1", "--guilds", "4", "--members", "5", "--parse-every", "1"])
        .args(["--scenario", scenario, "--backend", backend])
        .args(words)
        .arg("--proxy")
        .arg(binary())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("every promise was kept"), "{backend} {words:?}:\n{text}");
}

/// Every case on every backend, all at once.
fn judge_all(cases: &[(&str, &[&str])]) {
    on_backends(|backend| {
        thread::scope(|scope| {
            for (scenario, words) in cases {
                scope.spawn(move || judge(backend, scenario, words));
            }
        });
    });
}

#[test]
fn every_scenario_keeps_every_promise_on_one_core() {
    judge_all(&[("all", &["--shards", "4", "--cores", "1"])]);
}

#[test]
fn clients_are_handed_over_between_cores_and_lose_nothing() {
    let cores = cores().to_string();
    let words: &[&str] = &["--shards", "6", "--cores", &cores];
    judge_all(&[("deploy", words), ("drop", words)]);
}

#[test]
fn several_clients_of_one_shard_each_get_everything() {
    judge_all(&[("deploy", &["--shards", "2", "--cores", "1", "--clients-per-shard", "5"])]);
}

#[test]
fn every_compression_of_clients_and_of_discord_carries_every_event() {
    for (clients, upstream) in [("none", "zlib-stream"), ("zlib-stream", "zstd-stream"), ("zstd-stream", "none")] {
        let words: &[&str] =
            &["--shards", "3", "--cores", "1", "--compress", clients, "--upstream-compression", upstream];
        judge_all(&[("deploy", words), ("drop", words)]);
    }
}

#[test]
fn discord_is_reached_over_tls() {
    let words = |upstream| ["--shards", "3", "--cores", "1", "--tls", "--upstream-compression", upstream];
    judge_all(&[("drop", &words("none")), ("drop", &words("zstd-stream"))]);
}

#[test]
fn clients_over_tls_keep_every_promise_in_every_scenario() {
    let cores = cores().to_string();
    judge_all(&[("all", &["--shards", "4", "--client-tls", "--cores", &cores])]);
}
