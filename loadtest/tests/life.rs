//! A proxy's life: start, what its pages say, the end.

mod common;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, on_backends};
use common::raw::{Got, Raw, identified};
use common::stats::{connected, sessions};
use common::{order, stats, stats_until, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::http;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

#[test]
fn sigterm_closes_clients_resumably_after_their_events_and_keeps_discords_sessions() {
    on_backends(|backend| {
        with_discord(&["--shards", "3", "--guilds", "2"], async |discord: Address| {
            let mut proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let (mut reader, ..) = identified(&proxy.url, [1, 3]).await;
            let mut stranger = Raw::open(&proxy.url, "/").await;
            stranger.until("\"op\":10").await;
            let witness = judged::join(&proxy.url, [1, 3], Compression::None).await;
            order(&discord, "burst?shard=1&events=300", "").await;
            has(&witness, 300).await;
            proxy.process.terminate();
            // It has read nothing since READY, and gets everything before the close.
            for event in 1..=300 {
                reader.until(&format!("\"_load\":\"1:{event}:")).await;
            }
            assert_eq!(reader.hear().await, Got::Close(4000));
            assert_eq!(stranger.close_code().await, 4000);
            let status = proxy.ended().await;
            assert!(status.success(), "{status}:\n{}", proxy.log());
            assert_faultless(&witness);
            let stats = stats_until(&discord, |it| connected(it) == 0).await;
            assert_eq!((sessions(&stats), &stats["drops"]), (3, &json!(0)), "{stats}");
            assert_eq!(stats["closes_received"], json!({"4900": 3}));
        });
    });
}

#[test]
fn the_flag_for_it_ends_discords_sessions_with_1000() {
    with_discord(&["--shards", "3"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &["--close-upstream-offline"], json!({})).await;
        let (mut client, ..) = identified(&proxy.url, [0, 3]).await;
        proxy.stop().await;
        assert_eq!(client.close_code().await, 4000);
        let stats = stats_until(&discord, |it| sessions(it) == 0).await;
        assert_eq!(stats["closes_received"], json!({"1000": 3}));
    });
}

#[test]
fn rest_is_asked_again_after_429_and_401_is_final() {
    with_discord(&["--shards", "2"], async |discord: Address| {
        order(&discord, "rest?status=429&count=2&retry_after=1", "").await;
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let stats = stats(&discord).await;
        assert_eq!(stats["rest"]["/api/v10/gateway/bot"], 3);
        proxy.stop().await;
        let mut refused = Proxy::spawn(&discord, &[], json!({"token": "wrong"}));
        assert_eq!(refused.ended().await.code(), Some(1));
        assert!(refused.log().contains("Discord refuses the token (401)"), "{}", refused.log());
    });
}

#[test]
fn a_signal_before_discord_answers_ends_the_proxy_cleanly() {
    with_discord(&["--shards", "2"], async |discord: Address| {
        order(&discord, "rest?status=429&count=100&retry_after=3600", "").await;
        let proxy = Proxy::spawn(&discord, &[], json!({}));
        stats_until(&discord, |it| it["rest"]["/api/v10/gateway/bot"] == 1).await;
        proxy.stop().await;
        assert_eq!(stats(&discord).await["upgrades"], 0);
    });
}

#[test]
fn while_rest_does_not_answer_the_operators_pages_say_so() {
    with_discord(&["--shards", "2"], async |discord: Address| {
        order(&discord, "rest?status=503&count=1000000", "").await;
        let mut proxy = Proxy::spawn(&discord, &[], json!({"admin_bind": "127.0.0.1:0"}));
        proxy.logged("no answer about the gateway yet").await;
        let admin = proxy.admin().await;
        let page = async |path: &str| http::call("GET", &format!("{admin}{path}"), "", None).await.unwrap();
        assert_eq!(page("/livez").await, (200, "ok\n".into()));
        assert_eq!(page("/readyz").await, (503, "asks Discord for the gateway\n".into()));
        order(&discord, "rest?status=503&count=1", "").await;
        while page("/readyz").await.0 != 200 {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(page("/livez").await, (200, "ok\n".into()));
        proxy.stop().await;
    });
}

#[test]
fn the_pages_answer_with_the_proxys_own_address_and_state() {
    on_backends(|backend| {
        with_discord(&["--shards", "3", "--guilds", "2"], async |discord: Address| {
            let mut proxy = Proxy::spawn(&discord, &[], json!({"backend": backend}));
            proxy.ready().await;
            let (_client, ..) = identified(&proxy.url, [1, 3]).await;
            assert_eq!(proxy.page("/shard-count").await, (200, "3".into()));
            assert_eq!(proxy.page("/health").await, (200, "OK".into()));
            assert_eq!(proxy.page("/livez").await, (200, "ok\n".into()));
            assert_eq!(proxy.page("/readyz").await, (200, "ok\n".into()));
            for base in ["", "/api", "/api/v9", "/api/v10"] {
                let (status, body) = proxy.page(&format!("{base}/gateway/bot")).await;
                let bot: Value = serde_json::from_str(&body).unwrap();
                assert_eq!((status, &bot["url"], &bot["shards"]), (200, &proxy.url.as_str().into(), &3.into()));
                let limit = &bot["session_start_limit"];
                assert!(limit["remaining"].as_u64() >= Some(3) && limit["max_concurrency"].as_u64() >= Some(3));
                assert_eq!(proxy.page(&format!("{base}/gateway")).await, (200, json!({"url": proxy.url}).to_string()));
            }
            assert_eq!(proxy.page("/nothing").await.0, 404);
            for (line, value) in [
                ("gateway_shard_status{shard=\"2\"}", 4.0),
                ("gateway_cache_guilds{shard=\"1\"}", 2.0),
                ("gateway_shard_events{shard=\"0\",event_type=\"READY\"}", 1.0),
                ("gateway_shard_events{shard=\"0\",event_type=\"GUILD_CREATE\"}", 2.0),
                ("shardgate_clients{shard=\"1\"}", 1.0),
                ("shardgate_clients{shard=\"0\"}", 0.0),
            ] {
                assert_eq!(proxy.metric(line).await, Some(value), "{line}");
            }
            assert!(proxy.page("/metrics").await.1.contains(&format!("backend=\"{backend}\"")));
            proxy.stop().await;
        });
    });
}

#[test]
fn a_shard_that_is_not_active_shows_on_the_pages() {
    with_discord(&["--shards", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        order(&discord, "close?shard=1&code=4014", "").await;
        while proxy.page("/health").await != (400, "Not ready!".into()) {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(proxy.page("/readyz").await, (503, "shard 1: fatally closed by Discord with 4014\n".into()));
        assert_eq!(proxy.page("/livez").await.0, 200);
        proxy.stop().await;
    });
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    on_backends(|backend| {
        with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let (mute, ..) = identified(&proxy.url, [0, 1]).await;
            let witness = judged::join(&proxy.url, [0, 1], Compression::None).await;
            // More than all socket buffers take.
            for _ in 0..10 {
                order(&discord, "burst?shard=0&events=1000", "").await;
            }
            has(&witness, 10_000).await;
            proxy.stop().await;
            assert_faultless(&witness);
            drop(mute);
        });
    });
}
