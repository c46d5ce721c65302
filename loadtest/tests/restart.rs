//! The proxy ends, well or not, and is started again on its `data_dir`: nobody notices more than a pause.

mod common;

use std::rc::Rc;

use common::folder::Folder;
use common::judged::{self, assert_faultless};
use common::proxy::{Proxy, on_backends};
use common::raw::{Raw, identified, resume};
use common::stats::connected;
use common::{order, stats, stats_until, until, with_discord};
use fastrand::Rng;
use loadtest::client::{Client, Order};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::run::proxy::{Death, all_flags};
use loadtest::told;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep, timeout};

const SHARDS: u32 = 3;
/// More than any client may wait for its events: then it will not get them.
const PATIENCE: Duration = Duration::from_secs(75);
const DISCORD: [&str; 4] = ["--shards", "3", "--guilds", "3"];

/// Everything cached; on disk when there is a folder.
fn keys(backend: &str, folder: Option<&Folder>) -> Value {
    let mut keys = json!({"backend": backend, "cache": all_flags(true)});
    if let Some(folder) = folder {
        keys["data_dir"] = folder.text().into();
    }
    keys
}

/// A client without and one with compression for each shard.
async fn join_all(proxy: &Proxy) -> Vec<Rc<Client>> {
    let mut clients = Vec::new();
    for shard in 0..SHARDS {
        for compression in [Compression::None, Compression::Zlib] {
            clients.push(judged::join(&proxy.url, [shard, SHARDS], compression).await);
        }
    }
    clients
}

/// All clients have the traffic up to `last`, by RESUME where they had to come back, and nothing is wrong.
async fn all_have(clients: &[Rc<Client>], last: u64) {
    for client in clients {
        let arrived = timeout(
            PATIENCE,
            until(|| {
                let judge = client.judge.borrow();
                !judge.findings.is_empty() || client.is_live.get() && judge.delivered >= last
            }),
        );
        if arrived.await.is_err() {
            let (judge, history) = (client.judge.borrow(), client.history.borrow());
            let shard = client.settings.terms.shard;
            panic!("shard {shard}: s {}, {} of {last} delivered: {history:?}", judge.last_s, judge.delivered);
        }
        assert_faultless(client);
        assert_eq!(client.history.borrow().identifies, 1);
    }
}

/// A client that identifies now is told the same by both, once both have heard everything.
async fn assert_same_state(proxy: &Proxy, control: &Proxy) {
    for shard in 0..SHARDS {
        for attempt in 0.. {
            let place = [shard, SHARDS];
            let one = told::take(&proxy.url, place).await.unwrap();
            let other = told::take(&control.url, place).await.unwrap();
            let with_its_url = |mut it: told::State| {
                it.remove("READY");
                it
            };
            let Some(difference) = told::difference(&with_its_url(one), &with_its_url(other)) else { break };
            assert!(attempt < 100, "shard {shard}: {difference}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Traffic, changes of state, one death after the other, at moments picked by the seed: what was sent before, at and
/// after each arrives once.
fn survives(seed: u64, deaths: &[Death], pause_ms_max: u64) {
    on_backends(|backend| {
        with_discord(&DISCORD, async |discord: Address| {
            let folder = Folder::new();
            let mut rng = Rng::with_seed(seed);
            let control = Proxy::start(&discord, &[], keys(backend, None)).await;
            order(&discord, "limits?max_concurrency=1000", "").await;
            let mut proxy = Proxy::start(&discord, &[], keys(backend, Some(&folder))).await;
            let clients = join_all(&proxy).await;
            clients[0].order(Order::Away(Duration::from_millis(rng.u64(100..3000))));
            let mut sent = 0;
            for death in deaths {
                for place in ["before", "down", "after"] {
                    if place == "down" {
                        sleep(Duration::from_millis(rng.u64(0..pause_ms_max))).await;
                        proxy.end(*death).await;
                    }
                    order(&discord, "burst?shard=all&events=100", "").await;
                    sent += 100;
                    if place == "down" {
                        proxy.begin();
                    }
                }
            }
            all_have(&clients, sent).await;
            let stats = stats_until(&discord, |it| connected(it) == 2 * SHARDS as usize).await;
            assert_eq!((&stats["identifies"], &stats["violations"]), (&(2 * SHARDS).into(), &json!({})), "{stats}");
            assert_same_state(&proxy, &control).await;
            proxy.stop().await;
            control.stop().await;
        });
    });
}

#[test]
fn a_restart_costs_no_event_no_session_and_no_identify() {
    survives(1, &[Death::Terminated, Death::Terminated], 50);
}

#[test]
fn a_kill_costs_no_event_no_session_and_no_identify() {
    survives(2, &[Death::Killed, Death::Killed, Death::Killed], 50);
}

#[test]
fn a_proxy_that_dies_again_and_again_while_it_starts_comes_right() {
    survives(3, &[Death::Killed; 8], 400);
}

#[test]
fn a_torn_tail_costs_nothing_because_discord_tells_it_again() {
    for share in [0.0, 0.3, 0.999] {
        on_backends(|backend| {
            with_discord(&DISCORD, async |discord: Address| {
                let folder = Folder::new();
                let mut proxy = Proxy::start(&discord, &[], keys(backend, Some(&folder))).await;
                let clients = join_all(&proxy).await;
                // What clients depend on was on disk before they got it; what follows may be lost.
                let before = folder.files("wal");
                order(&discord, "burst?shard=all&events=300", "").await;
                all_have(&clients, 300).await;
                while folder.files("wal") == before {
                    sleep(Duration::from_millis(5)).await;
                }
                proxy.end(Death::Killed).await;
                folder.tear("wal", &before, share);
                proxy.begin();
                order(&discord, "burst?shard=all&events=100", "").await;
                all_have(&clients, 400).await;
                let stats = stats(&discord).await;
                assert_eq!((&stats["identifies"], &stats["violations"]), (&SHARDS.into(), &json!({})), "{share}");
                proxy.stop().await;
            });
        });
    }
}

#[test]
fn without_its_files_a_proxy_starts_afresh_and_says_op_9() {
    with_discord(&DISCORD, async |discord: Address| {
        let folder = Folder::new();
        let mut proxy = Proxy::start(&discord, &[], keys("auto", Some(&folder))).await;
        let (client, ready, seq) = identified(&proxy.url, [1, SHARDS]).await;
        proxy.end(Death::Terminated).await;
        drop(client);
        folder.clear();
        order(&discord, "limits?max_concurrency=1000", "").await;
        proxy.begin();
        proxy.ready().await;
        let mut back = Raw::saying(&proxy.url, &resume(ready["session_id"].as_str().unwrap(), seq)).await;
        back.until("\"op\":9,\"d\":false").await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["violations"]), (&(2 * SHARDS).into(), &json!({})), "{stats}");
        drop(back);
        proxy.stop().await;
    });
}

#[test]
fn a_request_for_members_is_answered_to_the_one_who_asked_across_a_kill() {
    on_backends(|backend| {
        with_discord(&DISCORD, async |discord: Address| {
            let folder = Folder::new();
            let mut proxy = Proxy::start(&discord, &[], keys(backend, Some(&folder))).await;
            let asking = judged::join(&proxy.url, [0, SHARDS], Compression::None).await;
            // What Discord answers is held up until the proxy that asked is gone.
            let other = judged::join(&proxy.url, [0, SHARDS], Compression::None).await;
            let guild = asking.judge.borrow().guilds()[0];
            asking.order(Order::RequestMembers { guild, nonce: "mine".to_owned() });
            stats_until(&discord, |it| it["commands"]["8"] == 1).await;
            proxy.restart(Death::Killed).await;
            until(|| asking.judge.borrow().chunked.contains_key("mine")).await;
            order(&discord, "burst?shard=0&events=10", "").await;
            all_have(&[asking, other], 10).await;
            proxy.stop().await;
        });
    });
}
