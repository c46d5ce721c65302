//! The cached state, judged from outside: a late client is told what Discord would tell it, and the operator's pages show it.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::proxy::{Proxy, binary, on_backends};
use common::raw::{Raw, good, identified, resume};
use common::{order, stats, stats_until, with_discord};
use loadtest::discord::Address;
use loadtest::http;
use loadtest::run::proxy::all_flags;
use loadtest::state::digest::Digest;
use loadtest::state::pages;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

/// Beside the proxy's sessions there are those of whoever looks for comparison.
const MANY_IDENTIFIES: [&str; 4] = ["--identify-interval-ms", "0", "--identify-limit", "1000"];
const POLL: Duration = Duration::from_millis(20);

/// Waits until all that was ordered has happened, and the proxy has had every dispatch.
async fn caught_up(discord: &Address, proxy: &mut Proxy) {
    loop {
        proxy.check();
        let stats = stats(discord).await;
        let metrics = pages::metrics(&proxy.url).await.unwrap();
        let has = |shard: &Value| {
            let had = metrics.sum(&format!("gateway_shard_events{{shard=\"{}\",", shard["shard"]));
            shard["sessions"][0]["seq"].as_u64().is_some_and(|sent| had as u64 >= sent)
        };
        if stats["life_left"] == 0 && stats["shards"].as_array().unwrap().iter().all(has) {
            return;
        }
        sleep(POLL).await;
    }
}

/// What a client of `url` is shown after its IDENTIFY: the `d` of each guild's dispatch, and the dispatch's name, by id.
async fn shown(url: &str, [shard, shards]: [u32; 2]) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut raw = Raw::saying(url, &good(shard, shards)).await;
    let ready = raw.dispatch("READY").await;
    let mut guilds = BTreeMap::new();
    for _ in ready["d"]["guilds"].as_array().unwrap() {
        let text = raw.until("{\"t\":\"GUILD_").await;
        let payload: Value = serde_json::from_str(&text).unwrap();
        let id = payload["d"]["id"].as_str().unwrap().to_owned();
        let name = payload["t"].as_str().unwrap().to_owned();
        assert!(guilds.insert(id, (name, payload["d"].to_string().into_bytes())).is_none());
    }
    raw.close(1000);
    guilds
}

/// Compares what a late client is shown through the proxy and by Discord itself.
async fn assert_same(discord: &Address, proxy: &Proxy, shards: u32) {
    let mut counts = BTreeMap::new();
    for shard in 0..shards {
        let direct = shown(&discord.gateway, [shard, shards]).await;
        let proxied = shown(&proxy.url, [shard, shards]).await;
        assert_eq!(direct.keys().collect::<Vec<_>>(), proxied.keys().collect::<Vec<_>>());
        for (id, (name, d)) in &direct {
            assert_eq!(name, &proxied[id].0, "guild {id}");
            let differences = Digest::of(d).unwrap().differences(&Digest::of(&proxied[id].1).unwrap());
            assert!(
                differences.is_empty(),
                "guild {id} differs in {differences:?}:\n{}\n{}",
                String::from_utf8_lossy(d),
                String::from_utf8_lossy(&proxied[id].1)
            );
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
    }
    assert!(counts["GUILD_CREATE"] > 0, "{counts:?}");
}

#[test]
fn after_thousands_of_events_a_late_client_is_shown_what_discord_would_show() {
    on_backends(|backend| {
        let words = ["--shards", "2", "--guilds", "6", "--members", "15", "--big-guild", "0", "--outage-every", "2"];
        with_discord(&[&words[..], &MANY_IDENTIFIES].concat(), async |discord: Address| {
            let keys = json!({"backend": backend, "cache": all_flags(true), "upstream_compression": "none"});
            let mut proxy = Proxy::start(&discord, &[], keys).await;
            for _ in 0..4 {
                order(&discord, "live?events=1500", "").await;
                caught_up(&discord, &mut proxy).await;
                assert_same(&discord, &proxy, 2).await;
            }
            order(&discord, "replace", "").await;
            caught_up(&discord, &mut proxy).await;
            assert_same(&discord, &proxy, 2).await;
            proxy.stop().await;
        });
    });
}

#[test]
fn the_cached_state_is_shown_by_id() {
    let words = ["--shards", "2", "--guilds", "2", "--big-guild", "0"];
    with_discord(&[&words[..], &MANY_IDENTIFIES].concat(), async |discord: Address| {
        let mut proxy = Proxy::start(&discord, &[], json!({"cache": all_flags(true)})).await;
        caught_up(&discord, &mut proxy).await;
        let guilds = shown(&discord.gateway, [1, 2]).await;
        let (id, (_, d)) = guilds.first_key_value().unwrap();
        let (status, body) = proxy.page(&format!("/cache/guild/{id}")).await;
        assert_eq!(status, 200);
        assert!(Digest::of(d).unwrap().differences(&Digest::of(body.as_bytes()).unwrap()).is_empty());
        let guild: Value = serde_json::from_slice(d).unwrap();
        for (kind, object) in [
            ("channel", &guild["channels"][0]),
            ("channel", &guild["threads"][0]),
            ("user", &guild["members"][3]["user"]),
            ("user", &guild["members"][0]["user"]),
        ] {
            let path = format!("/cache/{kind}/{}", object["id"].as_str().unwrap());
            let (status, body) = proxy.page(&path).await;
            assert_eq!(status, 200, "{path}: {body}");
            let found: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(found["id"], object["id"]);
        }
        for kind in ["guild", "channel", "user"] {
            let unknown = json!({"message": format!("Unknown {kind}")}).to_string();
            assert_eq!(proxy.page(&format!("/cache/{kind}/41")).await, (404, unknown));
            let (status, body) = proxy.page(&format!("/cache/{kind}/x41")).await;
            assert_eq!(status, 400);
            assert!(serde_json::from_str::<Value>(&body).unwrap()["message"].is_string());
        }
        proxy.stop().await;
    });
}

#[test]
fn with_an_address_of_their_own_the_operators_pages_leave_the_gateways_port() {
    with_discord(&[&["--shards", "1", "--guilds", "1"][..], &MANY_IDENTIFIES].concat(), async |discord: Address| {
        let mut proxy = Proxy::start(&discord, &[], json!({"admin_bind": "127.0.0.1:0"})).await;
        let guild = shown(&discord.gateway, [0, 1]).await.into_keys().next().unwrap();
        let address = proxy.admin().await;
        let admin = async |path: &str| http::call("GET", &format!("{address}{path}"), "", None).await.unwrap();
        for path in ["/gateway", "/gateway/bot", "/shard-count", "/health", "/livez", "/readyz"] {
            assert_eq!(proxy.page(path).await, admin(path).await, "{path}");
            assert_eq!(proxy.page(path).await.0, 200, "{path}");
        }
        assert_eq!(proxy.page("/metrics").await.0, 404);
        let (status, body) = proxy.page(&format!("/cache/guild/{guild}")).await;
        assert_eq!(status, 403);
        assert!(body.contains("admin_bind"), "{body}");
        while !admin("/metrics").await.1.contains("gateway_cache_guilds{shard=\"0\"} 1\n") {
            proxy.check();
            sleep(POLL).await;
        }
        assert_eq!(admin(&format!("/cache/guild/{guild}")).await.0, 200);
        assert_eq!(admin("/nothing").await.0, 404);
        proxy.stop().await;
    });
}

#[test]
fn a_session_is_not_replayed_from_before_guilds_that_have_changed_since() {
    with_discord(&["--shards", "2", "--guilds", "3", "--members", "5"], async |discord: Address| {
        let mut sessions = Vec::new();
        for shard in [0, 1] {
            let (raw, ready, last) = identified(&discord.gateway, [shard, 2]).await;
            raw.link.cut();
            sessions.push((ready["session_id"].as_str().unwrap().to_owned(), last));
        }
        order(&discord, "live?events=20", "").await;
        stats_until(&discord, |it| it["life_left"] == 0).await;
        let mut whole = Raw::saying(&discord.gateway, &resume(&sessions[0].0, sessions[0].1)).await;
        whole.dispatch("RESUMED").await;
        let mut before = Raw::saying(&discord.gateway, &resume(&sessions[1].0, 1)).await;
        before.until("\"op\":9,\"d\":false").await;
    });
}

/// Runs a command of the load test in a small size, and answers what it printed.
fn measured(command: &str, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([command, "--shards", "2", "--guilds", "3", "--members", "8", "--settle-seconds", "0", "--cores", "1"])
        .args(words)
        .arg("--proxy")
        .arg(binary())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}:\n{text}");
    text
}

#[test]
fn the_memory_table_has_a_row_for_each_state_and_kind() {
    let text = measured("memory", &[]);
    for row in ["| no guilds |", "| guilds, all flags off |", "| guilds with members, all flags on |"] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
    assert_eq!(text.matches("every object replaced once").count(), 2, "{text}");
    // Two shards of three guilds of eight members, of whom 0.4 are online.
    for row in ["| members | 48 |", "| presences | 18 |", "| roles | 90 |", "| emojis | 120 |", "| channels | 156 |"] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
}

#[test]
fn all_clients_get_their_whole_state_at_once() {
    let text = measured("identify", &["--rounds", "2"]);
    assert!(text.contains("\n| 2 | "), "{text}");
}

#[test]
fn churn_compares_with_a_fresh_proxy() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["churn", "--shards", "2", "--guilds", "3", "--members", "8", "--settle-seconds", "0", "--cores", "1"])
        .args(["--minutes", "0.001", "--big-guild", "3000", "--proxy"])
        .arg(binary())
        .output()
        .unwrap();
    // So small a state says nothing about memory: what counts here is that it is the same.
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("3 guilds of shard 0 compared as JSON, 0 differ"), "{text}");
}
