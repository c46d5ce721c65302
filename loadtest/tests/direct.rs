//! Clients straight at the fake Discord: each must find the other faultless, and the judge must find planted faults.

mod common;

use std::process::Command;
use std::time::Duration;

use common::judged::{self, assert_faultless, has, ready, start};
use common::{order, stats, until, with_discord};
use loadtest::client::{Order, Settings};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::tls;

fn settings(address: &Address, shard: u32, compression: Compression) -> Settings {
    judged::settings(&address.gateway, [shard, 2], compression)
}

const ALL: [Compression; 3] = [Compression::None, Compression::Zlib, Compression::Zstd];

#[test]
fn a_session_survives_cuts_and_op_7_without_loss_in_every_compression() {
    for compression in ALL {
        with_discord(&["--shards", "2", "--guilds", "3", "--outage-every", "1"], async |address: Address| {
            let client = start(settings(&address, 1, compression));
            ready(&client).await;
            order(&address, "burst?shard=1&events=200", "").await;
            order(&address, "drop?shard=1&events=300", "").await;
            has(&client, 500).await;
            until(|| client.is_live.get()).await;
            order(&address, "op7?shard=1", "").await;
            until(|| client.history.borrow().resumes == 2).await;
            client.order(Order::Away(Duration::ZERO));
            until(|| client.history.borrow().resumes == 3).await;
            order(&address, "burst?shard=1&events=100", "").await;
            has(&client, 600).await;
            assert_faultless(&client);
            let stats = stats(&address).await;
            assert_eq!((&stats["identifies"], &stats["resumes"]), (&1.into(), &3.into()));
            assert_eq!(stats["violations"].as_object().unwrap().len(), 0, "{stats}");
        });
    }
}

#[test]
fn a_guild_of_2500_comes_in_three_chunks_and_again_only_later() {
    for compression in ALL {
        with_discord(&["--shards", "2", "--guilds", "2"], async |address: Address| {
            let client = start(settings(&address, 0, compression));
            ready(&client).await;
            let guild = client.judge.borrow().guilds()[0];
            client.order(Order::RequestMembers { guild, nonce: "first".to_owned() });
            until(|| client.judge.borrow().chunked.contains_key("first")).await;
            assert_eq!(client.judge.borrow().chunked["first"], 2500);
            let before = client.judge.borrow().dispatches;
            client.order(Order::RequestMembers { guild, nonce: "second".to_owned() });
            until(|| client.judge.borrow().dispatches > before).await;
            assert_eq!(client.judge.borrow().chunked.len(), 1);
            assert_eq!(stats(&address).await["rate_limited"], 1);
            assert_faultless(&client);
        });
    }
}

#[test]
fn voice_sounds_and_channel_info_are_answered() {
    with_discord(&["--shards", "2", "--guilds", "2"], async |address: Address| {
        let client = start(settings(&address, 0, Compression::None));
        ready(&client).await;
        let guild = client.judge.borrow().guilds()[1];
        let before = client.judge.borrow().dispatches;
        for command in [
            format!(
                "{{\"op\":4,\"d\":{{\"guild_id\":\"{guild}\",\"channel_id\":\"5\",\"self_mute\":false,\"self_deaf\":false}}}}"
            ),
            format!("{{\"op\":31,\"d\":{{\"guild_ids\":[\"{guild}\"]}}}}"),
            format!("{{\"op\":43,\"d\":{{\"guild_id\":\"{guild}\",\"fields\":[\"status\"]}}}}"),
        ] {
            client.order(Order::Send(command));
        }
        // VOICE_STATE_UPDATE, VOICE_SERVER_UPDATE, SOUNDBOARD_SOUNDS, CHANNEL_INFO.
        until(|| client.judge.borrow().dispatches == before + 4).await;
        assert_faultless(&client);
        assert_eq!(stats(&address).await["commands"], serde_json::json!({"4": 1, "31": 1, "43": 1}));
    });
}

#[test]
fn a_heartbeat_that_is_asked_for_is_sent() {
    with_discord(&["--shards", "2"], async |address: Address| {
        let client = start(settings(&address, 0, Compression::None));
        ready(&client).await;
        order(&address, "op1", "").await;
        while stats(&address).await["heartbeats_asked_answered"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_faultless(&client);
    });
}

#[test]
fn op_9_false_is_found_and_a_new_session_begun() {
    with_discord(&["--shards", "2", "--identify-interval-ms", "0"], async |address: Address| {
        let client = start(settings(&address, 0, Compression::None));
        ready(&client).await;
        order(&address, "op9?shard=0&resumable=false", "").await;
        until(|| client.history.borrow().identifies == 2 && client.is_live.get()).await;
        assert_eq!(client.judge.borrow().findings.counts.keys().collect::<Vec<_>>(), [&"op 9"]);
    });
}

#[test]
fn planted_losses_doubles_and_swaps_are_found() {
    with_discord(&["--shards", "2"], async |address: Address| {
        let client = start(settings(&address, 0, Compression::Zstd));
        ready(&client).await;
        for counter in [1, 4, 2, 2] {
            let body = format!("{{\"t\":\"TYPING_START\",\"d\":{{\"_load\":\"0:{counter}:1\",\"x\":1.0}}}}");
            order(&address, "emit?shard=0", &body).await;
        }
        has(&client, 4).await;
        let judge = client.judge.borrow();
        assert!(judge.findings.is_empty());
        assert_eq!((judge.counters.lost(), judge.counters.duplicated, judge.counters.out_of_order), (1, 1, 1));
    });
}

#[test]
fn the_client_command_exits_with_1_when_something_was_lost() {
    with_discord(&["--shards", "2"], async |address: Address| {
        let mut client = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["client", "--shards", "2", "--seconds", "3", "--url", &address.gateway])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while stats(&address).await["identifies"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for counter in [1, 3] {
            let body = format!("{{\"t\":\"TYPING_START\",\"d\":{{\"_load\":\"0:{counter}:1\"}}}}");
            order(&address, "emit?shard=0", &body).await;
        }
        assert_eq!(client.wait().await.unwrap().code(), Some(1));
    });
}

#[test]
fn everything_works_over_tls() {
    let cert = std::env::temp_dir().join(format!("loadtest-direct-{}.pem", std::process::id()));
    let words = ["--shards", "2", "--tls", "--cert-file", cert.to_str().unwrap()];
    with_discord(&words, async |address: Address| {
        assert!(address.gateway.starts_with("wss://localhost:") && address.rest.starts_with("https://"));
        let roots = tls::roots_from(&cert).unwrap();
        let client = start(Settings { roots, ..settings(&address, 1, Compression::Zlib) });
        ready(&client).await;
        order(&address, "drop?shard=1&events=2000", "").await;
        has(&client, 2000).await;
        assert_faultless(&client);
    });
    std::fs::remove_file(cert).unwrap();
}

#[test]
fn the_command_runs_every_scenario_and_exits_with_0() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--direct", "--scenario", "all", "--shards", "4", "--rate", "500", "--seconds", "2"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("every promise was kept"), "{text}");
    assert_eq!(text.matches("  lost                 0\n").count(), 5, "{text}");
}
