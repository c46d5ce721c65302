//! Discord misbehaves in ways that a state machine alone cannot show: on the socket, in the stream, in REST and DNS. Clients with a
//! judge stay connected throughout and miss nothing.

mod common;

use std::rc::Rc;

use common::judged::{self, assert_faultless, has};
use common::proxy::Proxy;
use common::raw::identified;
use common::stats::connected;
use common::{order, stats, stats_until, with_discord};
use loadtest::client::Client;
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::json;

/// A judged client on each of the shards.
async fn join_all(proxy: &Proxy, shards: u32) -> Vec<Rc<Client>> {
    let mut clients = Vec::new();
    for shard in 0..shards {
        clients.push(judged::join(&proxy.url, [shard, shards], Compression::None).await);
    }
    clients
}

async fn burst(discord: &Address, shard: usize, events: u32) {
    order(discord, &format!("burst?shard={shard}&events={events}"), "").await;
}

/// Every client has had exactly one connection and one session, and Discord saw no more IDENTIFYs than shards and no rule broken.
async fn assert_unnoticed(discord: &Address, clients: &[Rc<Client>]) {
    for (shard, client) in clients.iter().enumerate() {
        assert_faultless(client);
        let history = client.history.borrow();
        assert_eq!((history.connects, history.identifies), (1, 1), "shard {shard}");
    }
    let stats = stats(discord).await;
    assert_eq!((&stats["identifies"], &stats["violations"]), (&clients.len().into(), &json!({})), "{stats}");
}

#[test]
fn a_stream_that_is_slow_cut_up_broken_or_dead_costs_clients_nothing() {
    for compression in ["none", "zlib-stream", "zstd-stream"] {
        let options = ["--shards", "5", "--guilds", "1", "--heartbeat-interval-ms", "2000"];
        with_discord(&options, async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"upstream_compression": compression})).await;
            let clients = join_all(&proxy, 5).await;
            // Discord has forgotten the connection, and no RST tells: the missing ACK does.
            order(&discord, "half_open?shard=0", "").await;
            burst(&discord, 0, 50).await;
            order(&discord, "trickle?shard=1", "").await;
            burst(&discord, 1, 50).await;
            order(&discord, "fragment?shard=2", "").await;
            burst(&discord, 2, 50).await;
            burst(&discord, 3, 20).await;
            order(&discord, "garbage?shard=3", "").await;
            burst(&discord, 3, 30).await;
            // Everything freezes for a while, within what heartbeats forgive.
            order(&discord, "stall?shard=4&ms=500", "").await;
            burst(&discord, 4, 50).await;
            for client in &clients {
                has(client, 50).await;
            }
            assert_unnoticed(&discord, &clients).await;
            // Half open and garbage cost a connection each, and only they.
            let stats = stats_until(&discord, |it| connected(it) == 5).await;
            assert_eq!((&stats["resumes"], &stats["upgrades"]), (&2.into(), &7.into()), "{compression}: {stats}");
            proxy.stop().await;
        });
    }
}

#[test]
fn payloads_that_make_no_sense_cost_a_connection_or_nothing() {
    // What is said, and whether the connection is given up over it.
    let cases = [
        (r#"{"t":"MESSAGE_CREATE","s":5,"op":0,"d":{"content":"cut"#, true),
        (r#"{"t":"MESSAGE_CREATE","s":5,"op":0,"d":{"content":"~~"}}"#, true),
        ("[]", true),
        ("null", true),
        (r#"{"t":null,"s":null,"op":99,"d":{"new":true}}"#, false),
        (r#"{"t":null,"s":null,"op":11,"d":null}"#, false),
        (r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#, false),
        (r#"{"hello":"world"}"#, false),
    ];
    with_discord(&["--shards", "8", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 8).await;
        for (shard, (payload, _)) in cases.iter().enumerate() {
            burst(&discord, shard, 10).await;
            order(&discord, &format!("say?shard={shard}"), payload).await;
            burst(&discord, shard, 10).await;
            order(&discord, &format!("emit?shard={shard}"), r#"{"t":"OF_TOMORROW","d":{"new":[true]}}"#).await;
            burst(&discord, shard, 10).await;
        }
        for client in &clients {
            has(client, 30).await;
        }
        assert_unnoticed(&discord, &clients).await;
        let given_up = cases.iter().filter(|case| case.1).count();
        let stats = stats_until(&discord, |it| connected(it) == cases.len()).await;
        assert_eq!(stats["resumes"], given_up, "{stats}");
        assert_eq!(stats["closes_received"], json!({"4002": given_up}), "{stats}");
        for client in &clients {
            // READY, one guild, thirty events and the one of tomorrow.
            assert_eq!(client.judge.borrow().dispatches, 33);
        }
        proxy.stop().await;
    });
}

#[test]
fn a_d_that_is_no_json_is_passed_on_and_spoils_no_state() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (mut client, ready, seq) = identified(&proxy.url, [0, 1]).await;
        let guild = ready["guilds"][0]["id"].as_str().unwrap();
        let broken = [
            format!(r#"{{"guild_id":"{guild}","role":{{"id":"17","name":}}}}"#),
            format!(r#"{{"guild_id":"{guild}","role":}}"#),
            format!(r#"{{"guild_id":"{guild}","role":[}}}}"#),
        ];
        for (number, d) in (seq + 1..).zip(&broken) {
            // Its number is Discord's next one, as the READY and the guild had theirs.
            order(&discord, "skip?shard=0&by=1", "").await;
            let payload = |s| format!(r#"{{"t":"GUILD_ROLE_CREATE","s":{s},"op":0,"d":{d}}}"#);
            order(&discord, "say?shard=0", &payload(number)).await;
            assert_eq!(client.until("GUILD_ROLE_CREATE").await, payload(number));
        }
        order(&discord, "emit?shard=0", r#"{"t":"AFTER","d":{}}"#).await;
        client.until(&format!(r#"{{"t":"AFTER","s":{},"#, seq + 1 + broken.len() as u64)).await;
        // READY and the guild of a new client are whole: they are parsed here.
        drop(identified(&proxy.url, [0, 1]).await);
        assert_eq!(stats(&discord).await["upgrades"], 1);
        proxy.stop().await;
    });
}

#[test]
fn a_jump_of_the_sequence_is_no_gap_for_clients() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 1).await;
        let late = judged::join(&proxy.url, [0, 1], Compression::Zlib).await;
        for round in 1..=2 {
            burst(&discord, 0, 10).await;
            order(&discord, "skip?shard=0&by=5000", "").await;
            burst(&discord, 0, 10).await;
            // Also in what is replayed.
            order(&discord, "drop?shard=0&events=10", "").await;
            order(&discord, "skip?shard=0&by=1", "").await;
            burst(&discord, 0, 10).await;
            has(&clients[0], 40 * round).await;
            has(&late, 40 * round).await;
            stats_until(&discord, |it| connected(it) == 1).await;
        }
        assert_faultless(&late);
        assert_unnoticed(&discord, &clients).await;
        proxy.stop().await;
    });
}

#[test]
fn every_close_code_that_keeps_the_session_is_resumed_after() {
    const CODES: [u16; 11] = [1000, 1001, 1006, 1011, 1012, 4000, 4001, 4002, 4005, 4008, 4009];
    with_discord(&["--shards", "11", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 11).await;
        for (shard, code) in CODES.iter().enumerate() {
            match code {
                // No code at all: the connection is cut.
                1006 => order(&discord, &format!("drop?shard={shard}"), "").await,
                _ => order(&discord, &format!("close?shard={shard}&code={code}"), "").await,
            }
            burst(&discord, shard, 10).await;
        }
        for client in &clients {
            has(client, 10).await;
        }
        assert_unnoticed(&discord, &clients).await;
        assert_eq!(stats(&discord).await["resumes"], CODES.len());
        proxy.stop().await;
    });
}

#[test]
fn storms_of_op_7_and_op_9_spend_no_identify() {
    with_discord(&["--shards", "2", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 2).await;
        for round in 1..=3 {
            order(&discord, "op7?shard=0", "").await;
            order(&discord, "op9?shard=1&resumable=true", "").await;
            burst(&discord, 0, 10).await;
            burst(&discord, 1, 10).await;
            has(&clients[0], 10 * round).await;
            has(&clients[1], 10 * round).await;
        }
        assert_unnoticed(&discord, &clients).await;
        assert_eq!(stats(&discord).await["resumes"], 6);
        proxy.stop().await;
    });
}

#[test]
fn a_replay_of_100_000_events_is_complete() {
    with_discord(&["--shards", "1", "--guilds", "1", "--replay-events", "200000"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 1).await;
        order(&discord, "drop?shard=0&events=100000", "").await;
        has(&clients[0], 100_000).await;
        assert_unnoticed(&discord, &clients).await;
        assert_eq!(stats(&discord).await["replayed"], 100_000);
        proxy.stop().await;
    });
}

#[test]
fn an_upgrade_that_is_refused_is_tried_again_no_sooner_than_told() {
    with_discord(&["--shards", "4", "--guilds", "1"], async |discord: Address| {
        let mut proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 4).await;
        let refusals = ["status=429&retry_after=1", "status=502", "status=500", "status=503&retry_after=1"];
        for (shard, query) in refusals.iter().enumerate() {
            order(&discord, &format!("refuse?count=1&{query}"), "").await;
            order(&discord, &format!("drop?shard={shard}&events=10"), "").await;
            has(&clients[shard], 10).await;
        }
        assert_unnoticed(&discord, &clients).await;
        assert_eq!(stats(&discord).await["upgrades_refused"], 4);
        proxy.logged("HTTP status 429, Retry-After 1 s").await;
        proxy.stop().await;
    });
}

#[test]
fn rest_may_fail_in_every_way_before_it_answers() {
    for fault in ["status=500", "status=502", "status=503&retry_after=1", "status=429&retry_after=1", "status=429"] {
        with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
            order(&discord, &format!("rest?count=1&{fault}"), "").await;
            let proxy = Proxy::start(&discord, &[], json!({})).await;
            let stats = stats(&discord).await;
            assert_eq!(stats["rest"]["/api/v10/gateway/bot"], 2, "{fault}");
            assert_eq!((&stats["identifies"], &stats["violations"]), (&1.into(), &json!({})));
            proxy.stop().await;
        });
    }
}

#[test]
fn without_a_resume_url_or_with_a_name_that_nobody_knows_the_main_host_is_resumed_at() {
    for url in ["none", "ws://nobody.invalid:1", "not a url"] {
        with_discord(&["--shards", "1", "--guilds", "1", "--resume-url", url], async |discord: Address| {
            let mut proxy = Proxy::start(&discord, &[], json!({})).await;
            let clients = join_all(&proxy, 1).await;
            order(&discord, "drop?shard=0&events=20", "").await;
            has(&clients[0], 20).await;
            assert_unnoticed(&discord, &clients).await;
            if url.contains("nobody") {
                proxy.logged("nobody.invalid cannot be resolved").await;
            } else {
                assert!(!proxy.log().contains("cannot be resolved"), "{url}");
            }
            proxy.stop().await;
        });
    }
}

#[test]
fn a_lost_ack_costs_the_connection_and_nothing_else() {
    let options = ["--shards", "2", "--guilds", "1", "--heartbeat-interval-ms", "1000"];
    with_discord(&options, async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let clients = join_all(&proxy, 2).await;
        order(&discord, "lost_acks?count=1", "").await;
        stats_until(&discord, |it| it["resumes"] == 1 && connected(it) == 2).await;
        for (shard, client) in clients.iter().enumerate() {
            burst(&discord, shard, 20).await;
            has(client, 20).await;
        }
        assert_unnoticed(&discord, &clients).await;
        proxy.stop().await;
    });
}
