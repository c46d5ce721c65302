//! Events faster than clients can take: who lags is cut off resumably while its events are still there, Discord's heartbeats are never
//! late, and when the load ends everybody has everything.

mod common;

use std::rc::Rc;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, on_backends};
use common::{order, stats, with_discord};
use loadtest::client::{Client, Order};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::json;
use tokio::time::{Duration, sleep};

const LOG_BYTES: u64 = 8 << 20;
/// Events at a time: 0.4 MB, and near the limit, where lagging clients are looked for once a second, 0.08 MB.
const STEP: u64 = 500;
const SMALL_STEP: u64 = 100;

#[test]
fn clients_slower_than_the_events_are_cut_off_resumably_and_all_recover() {
    on_backends(|backend| {
        let options = ["--shards", "2", "--guilds", "1", "--heartbeat-interval-ms", "1000"];
        with_discord(&options, async |discord: Address| {
            let proxy =
                Proxy::start(&discord, &[], json!({"backend": backend, "log_bytes": LOG_BYTES, "cores": 1})).await;
            let quick = judged::join(&proxy.url, [0, 2], Compression::None).await;
            let mut slow: Vec<Rc<Client>> = Vec::new();
            for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
                let mut settings = judged::settings(&proxy.url, [0, 2], compression);
                settings.receive_buffer_bytes = Some(16 << 10);
                slow.push(judged::start(settings));
            }
            for client in &slow {
                judged::ready(client).await;
                // Longer than it takes to fill the log; it comes to what it missed in the end.
                client.order(Order::StopReading(Duration::from_secs(12)));
            }
            // Until one of them is cut off, which is before the log is full: then no event has been lost to it yet.
            let mut events = 0;
            while proxy.metric("shardgate_client_lagging_closes_total{shard=\"0\"}").await == Some(0.0) {
                let held = proxy.metric("shardgate_log_bytes{shard=\"0\"}").await.unwrap();
                let is_near = held > LOG_BYTES as f64 * 0.8;
                let step = if is_near { SMALL_STEP } else { STEP };
                order(&discord, &format!("burst?shard=0&events={step}"), "").await;
                events += step;
                has(&quick, events).await;
                assert_eq!(proxy.metric("shardgate_log_dropped_early_total{core=\"0\"}").await, Some(0.0));
                if is_near {
                    sleep(Duration::from_millis(500)).await;
                }
            }
            for client in slow.iter().chain([&quick]) {
                has(client, events).await;
                judged::ready(client).await;
                assert_faultless(client);
                assert_eq!(client.history.borrow().identifies, 1, "the session was lost");
            }
            let cut_off: u64 = slow.iter().map(|it| it.history.borrow().resumes).sum();
            assert!(cut_off > 0 && quick.history.borrow().connects == 1);
            // Discord notices nothing: no connection was lost, and no heartbeat late.
            let stats = stats(&discord).await;
            assert_eq!((&stats["violations"], &stats["closes_sent"]), (&json!({}), &json!({})), "{stats}");
            assert_eq!((&stats["upgrades"], &stats["closes_received"]), (&2.into(), &json!({})), "{stats}");
            proxy.stop().await;
        });
    });
}

#[test]
fn a_flood_from_discord_delays_no_heartbeat_and_loses_nothing() {
    const SHARDS: u32 = 6;
    on_backends(|backend| {
        let options = ["--shards", "6", "--guilds", "1", "--heartbeat-interval-ms", "2000"];
        with_discord(&options, async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let mut clients = Vec::new();
            for shard in 0..SHARDS {
                clients.push(judged::join(&proxy.url, [shard, SHARDS], Compression::Zlib).await);
            }
            for _ in 0..4 {
                order(&discord, "burst?shard=all&events=1000", "").await;
                order(&discord, "op1", "").await;
            }
            for client in &clients {
                has(client, 4000).await;
                assert_faultless(client);
                assert_eq!(client.history.borrow().connects, 1);
            }
            let stats = stats(&discord).await;
            assert_eq!((&stats["violations"], &stats["closes_sent"]), (&json!({}), &json!({})), "{stats}");
            assert_eq!((&stats["upgrades"], &stats["closes_received"]), (&SHARDS.into(), &json!({})), "{stats}");
            proxy.stop().await;
        });
    });
}
