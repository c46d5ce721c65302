//! Dispatches on their way to clients of every kind: several on one shard, slow ones, late ones, early ones.

mod common;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, on_backends};
use common::raw::{Got, Raw, good, identified, resume};
use common::stats::connected;
use common::{order, stats_until, until, with_discord};
use loadtest::client::Order;
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::json;
use tokio::time::{Duration, sleep};

#[test]
fn clients_of_one_shard_in_every_compression_each_get_everything() {
    on_backends(|backend| {
        with_discord(&["--shards", "2", "--guilds", "3", "--outage-every", "1"], async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let mut clients = Vec::new();
            for compression in [Compression::None, Compression::Zlib, Compression::Zstd, Compression::None] {
                clients.push(judged::join(&proxy.url, [1, 2], compression).await);
            }
            order(&discord, "burst?shard=1&events=1000", "").await;
            order(&discord, "drop?shard=1&events=1000", "").await;
            for client in &clients {
                has(client, 2000).await;
                assert_faultless(client);
            }
            proxy.stop().await;
        });
    });
}

#[test]
fn a_dispatch_of_megabytes_arrives_whole() {
    let d = format!("{{\"text\":\"{}\",\"end\":true}}", "\\\"s\\\":1, ".repeat(300_000));
    let body = format!("{{\"t\":\"HUGE\",\"d\":{d}}}");
    on_backends(|backend| {
        for upstream in ["none", "zlib-stream", "zstd-stream"] {
            with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
                let keys = json!({"backend": backend, "upstream_compression": upstream});
                let proxy = Proxy::start(&discord, &[], keys).await;
                let (mut raw, _, seq) = identified(&proxy.url, [0, 1]).await;
                let zlib = judged::join(&proxy.url, [0, 1], Compression::Zlib).await;
                order(&discord, "emit?shard=0", &body).await;
                order(&discord, "burst?shard=0&events=10", "").await;
                let huge = raw.until("{\"t\":\"HUGE\"").await;
                assert!(
                    huge == format!("{{\"t\":\"HUGE\",\"s\":{},\"op\":0,\"d\":{d}}}", seq + 1),
                    "{} bytes",
                    huge.len()
                );
                has(&zlib, 10).await;
                assert_faultless(&zlib);
                drop(raw);
                proxy.stop().await;
            });
        }
    });
}

#[test]
fn a_client_that_stops_reading_is_closed_resumably_and_misses_nothing() {
    on_backends(|backend| {
        with_discord(&["--shards", "2", "--guilds", "2"], async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let mut settings = judged::settings(&proxy.url, [1, 2], Compression::None);
            settings.receive_buffer_bytes = Some(64 << 10);
            let slow = judged::start(settings);
            judged::ready(&slow).await;
            let quick = judged::join(&proxy.url, [1, 2], Compression::None).await;
            slow.order(Order::StopReading(Duration::from_secs(16)));
            for events in (1000..=8000).step_by(1000) {
                order(&discord, "burst?shard=1&events=1000", "").await;
                has(&quick, events).await;
            }
            has(&slow, 8000).await;
            until(|| slow.is_live.get()).await;
            assert_eq!(proxy.metric("shardgate_client_lagging_closes_total{shard=\"1\"}").await, Some(1.0));
            assert_eq!((slow.history.borrow().identifies, slow.history.borrow().resumes), (1, 1));
            assert_faultless(&slow);
            assert_faultless(&quick);
            assert_eq!(quick.history.borrow().connects, 1);
            proxy.stop().await;
        });
    });
}

#[test]
fn a_session_whose_events_have_left_the_log_is_told_so() {
    on_backends(|backend| {
        with_discord(&["--shards", "1", "--guilds", "2"], async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend, "log_bytes": 1 << 20})).await;
            let witness = judged::join(&proxy.url, [0, 1], Compression::None).await;
            let (client, ready, seq) = identified(&proxy.url, [0, 1]).await;
            let id = ready["session_id"].as_str().unwrap();
            drop(client);
            // In parts that the log can hold, for the one that stays.
            for events in (200..=4000).step_by(200) {
                order(&discord, "burst?shard=0&events=200", "").await;
                has(&witness, events).await;
            }
            let mut back = Raw::saying(&proxy.url, &resume(id, seq)).await;
            back.until("\"op\":9,\"d\":false").await;
            back.say(&good(0, 1));
            back.ready().await;
            assert_eq!(
                proxy.metric("shardgate_client_resumes_refused_total{core=\"0\",reason=\"gone\"}").await,
                Some(1.0)
            );
            assert_faultless(&witness);
            drop(back);
            proxy.stop().await;
        });
    });
}

#[test]
fn a_client_that_comes_before_discord_has_answered_waits_and_is_served() {
    on_backends(|backend| {
        with_discord(&["--shards", "2", "--guilds", "2"], async |discord: Address| {
            order(&discord, "refuse?count=1000000", "").await;
            let proxy = Proxy::spawn(&discord, &[], json!({"backend": backend}));
            stats_until(&discord, |it| it["upgrades_refused"].as_u64() > Some(0)).await;
            while proxy.page("/livez").await.0 != 200 {
                sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(proxy.page("/readyz").await.0, 503);
            let mut early = Raw::saying(&proxy.url, &good(1, 2)).await;
            early.until("\"op\":10,").await;
            early.say("{\"op\":1,\"d\":null}");
            assert_eq!(early.hear().await, Got::Payload("{\"t\":null,\"s\":null,\"op\":11,\"d\":null}".into()));
            order(&discord, "refuse?count=0", "").await;
            assert_eq!(early.ready().await.0["shard"], json!([1, 2]));
            drop(early);
            proxy.stop().await;
        });
    });
}

#[test]
fn clients_are_acknowledged_and_keep_their_session_while_discord_is_away() {
    with_discord(&["--shards", "2", "--guilds", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (mut client, ready, seq) = identified(&proxy.url, [0, 2]).await;
        order(&discord, "refuse?count=1000000", "").await;
        order(&discord, "drop?shard=0", "").await;
        stats_until(&discord, |it| it["upgrades_refused"].as_u64() > Some(0)).await;
        client.say(&format!("{{\"op\":1,\"d\":{seq}}}"));
        assert_eq!(client.hear().await, Got::Payload("{\"t\":null,\"s\":null,\"op\":11,\"d\":null}".into()));
        drop(client);
        let mut back = Raw::saying(&proxy.url, &resume(ready["session_id"].as_str().unwrap(), seq)).await;
        back.until(&format!("{{\"t\":\"RESUMED\",\"s\":{},", seq + 1)).await;
        // A new client gets the state that is known.
        let (other, ..) = identified(&proxy.url, [0, 2]).await;
        order(&discord, "emit?shard=0", "{\"t\":\"MEANWHILE\",\"d\":{}}").await;
        order(&discord, "refuse?count=0", "").await;
        back.until(&format!("{{\"t\":\"MEANWHILE\",\"s\":{},", seq + 2)).await;
        stats_until(&discord, |it| connected(it) == 2).await;
        drop((back, other));
        proxy.stop().await;
    });
}

#[test]
fn a_session_id_of_one_shard_opens_no_other() {
    with_discord(&["--shards", "2", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (client, ready, seq) = identified(&proxy.url, [1, 2]).await;
        let id = ready["session_id"].as_str().unwrap();
        // The first eight digits say which shard, under the next eight.
        let number = u32::from_str_radix(&id[..8], 16).unwrap() ^ 1;
        let mut thief = Raw::saying(&proxy.url, &resume(&format!("{number:08x}{}", &id[8..]), seq)).await;
        thief.until("\"op\":9,\"d\":false").await;
        drop((client, thief));
        proxy.stop().await;
    });
}
