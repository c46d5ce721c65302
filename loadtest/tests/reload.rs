//! A running proxy reads its configuration again: what may change changes, what may not is named, and a broken file changes nothing.

mod common;

use std::path::{Path, PathBuf};

use common::proxy::Proxy;
use common::raw::{Got, Raw, identified, identify, text};
use common::{order, stats, stats_until, with_discord};
use loadtest::client::options::INTENTS;
use loadtest::discord::Address;
use loadtest::run::port::Port;
use serde_json::{Value, json};

/// A configuration in a file, which goes away with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reload-{}-{name}.json", std::process::id())))
    }

    fn write(&self, keys: &Value) {
        // In one step, so that no half of it is ever read.
        let beside = self.0.with_extension("new");
        std::fs::write(&beside, keys.to_string()).unwrap();
        std::fs::rename(beside, &self.0).unwrap();
    }

    fn argument(&self) -> [&str; 2] {
        ["--config", self.0.to_str().unwrap()]
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn config(discord: &Address, port: u16) -> Value {
    json!({"token": "fake", "intents": INTENTS, "bind": "127.0.0.1", "port": port, "cores": 1, "api_url": discord.rest,
           "externally_accessible_url": format!("ws://127.0.0.1:{port}"), "validate_token": false})
}

fn hang_up(proxy: &mut Proxy) {
    proxy.process.signal(libc::SIGHUP);
}

/// Of the commands that Discord got, those with this text.
fn told_discord(stats: &Value, text: &str) -> usize {
    stats["commands_recent"].as_array().unwrap().iter().filter(|it| it["raw"].as_str().unwrap().contains(text)).count()
}

/// What a new client with this token is told first after HELLO.
async fn answer(proxy: &Proxy, token: &str) -> Got {
    let mut raw = Raw::open(&proxy.url, "/?v=10&encoding=json").await;
    raw.link.send(&text(&identify(token, ",\"shard\":[0,1]", INTENTS)));
    loop {
        match raw.hear().await {
            Got::Payload(payload) if payload.contains("\"op\":10") => {}
            other => return other,
        }
    }
}

#[test]
fn a_signal_takes_what_may_change_and_names_what_may_not() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let port = Port::reserve().unwrap();
        let (file, mut keys) = (File::new("signal"), config(&discord, port.number));
        file.write(&keys);
        let mut proxy = Proxy::spawn_with(&file.argument(), Vec::new(), port);
        proxy.ready().await;
        let (client, ..) = identified(&proxy.url, [0, 1]).await;
        assert!(matches!(answer(&proxy, "of somebody").await, Got::Payload(payload) if payload.contains("READY")));

        keys["activity"] = json!({"name": "reloaded on {{shard}}", "type": 0});
        keys["status"] = json!("idle");
        keys["validate_token"] = json!(true);
        keys["port"] = json!(1);
        file.write(&keys);
        hang_up(&mut proxy);
        let stats = stats_until(&discord, |it| told_discord(it, "reloaded on 0") == 1).await;
        assert_eq!((told_discord(&stats, "idle"), &stats["violations"]), (1, &json!({})));
        proxy.logged("taken=\"activity, status, validate_token\"").await;
        proxy.logged(&format!("`port` changed: needs a restart; the running value {} stays", port_of(&proxy))).await;
        assert!(matches!(answer(&proxy, "of somebody").await, Got::Close(4004)));
        proxy.logged("its token is not the proxy's").await;

        // A broken file: one line, and everything goes on.
        std::fs::write(&file.0, "{\"token\": ").unwrap();
        hang_up(&mut proxy);
        proxy.logged("the configuration is not taken, everything stays as it was").await;
        assert_eq!(proxy.metric("shardgate_configuration_refused").await, Some(1.0));
        assert!(matches!(answer(&proxy, "fake").await, Got::Payload(payload) if payload.contains("READY")));
        assert_eq!(stats_of_sessions(&discord).await, 1);
        file.write(&keys);
        while proxy.metric("shardgate_configuration_refused").await != Some(0.0) {
            proxy.check();
        }
        drop(client);
        proxy.stop().await;
    });
}

#[test]
fn a_file_that_changes_is_read_without_a_signal() {
    with_discord(&["--shards", "1"], async |discord: Address| {
        let port = Port::reserve().unwrap();
        let (file, mut keys) = (File::new("change"), config(&discord, port.number));
        file.write(&keys);
        let mut proxy = Proxy::spawn_with(&file.argument(), vec![("SHARDGATE_LOG_FORMAT", "json".into())], port);
        proxy.ready().await;
        keys["status"] = json!("dnd");
        keys["log_level"] = json!("warn");
        file.write(&keys);
        stats_until(&discord, |it| told_discord(it, "dnd") == 1).await;
        proxy.logged(r#""taken":"status, log_level""#).await;
        // From here on only warnings: the end is silent.
        proxy.process.terminate();
        assert!(proxy.ended().await.success());
        let log = proxy.log();
        assert!(!log.contains("stopping on a signal"), "{log}");
        for line in log.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert!(event["time"].is_string() && event["level"].is_string() && event["message"].is_string(), "{line}");
        }
        let live: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(live.iter().any(|it| it["message"] == "shard is live" && it["shard"] == 0), "{log}");
    });
}

#[test]
fn what_is_asked_and_written_while_rest_does_not_answer_counts_when_it_does() {
    with_discord(&["--shards", "1"], async |discord: Address| {
        for is_asked in [true, false] {
            let port = Port::reserve().unwrap();
            let (file, mut keys) = (File::new("outage"), config(&discord, port.number));
            file.write(&keys);
            order(&discord, "rest?status=503&count=1000000", "").await;
            let mut proxy = Proxy::spawn_with(&file.argument(), Vec::new(), port);
            proxy.logged("503").await;
            if is_asked {
                // What a signal asks for is read even where no file has changed.
                hang_up(&mut proxy);
                proxy.logged("once shards connect the configuration is read again").await;
                order(&discord, "rest?status=503&count=1", "").await;
                proxy.logged("configuration read again: nothing changes").await;
            } else {
                keys["status"] = json!("idle");
                file.write(&keys);
                order(&discord, "rest?status=503&count=1", "").await;
                proxy.logged("taken=\"status\"").await;
            }
            proxy.stop().await;
        }
    });
}

fn port_of(proxy: &Proxy) -> &str {
    proxy.url.rsplit(':').next().unwrap()
}

/// Sessions that Discord has begun: none was lost.
async fn stats_of_sessions(discord: &Address) -> u64 {
    stats(discord).await["identifies"].as_u64().unwrap()
}
