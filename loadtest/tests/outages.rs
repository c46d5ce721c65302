//! Discord goes away in every way it has, and clients notice nothing, or what they must.

mod common;

use common::judged::{self, assert_faultless, has};
use common::proxy::Proxy;
use common::raw::identified;
use common::stats::connected;
use common::{order, stats, stats_until, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::run::port::Port;
use serde_json::json;
use tokio::time::{Duration, sleep};

#[test]
fn a_fatal_close_stops_its_shard_and_no_other() {
    const CODES: [u16; 6] = [4004, 4010, 4011, 4012, 4013, 4014];
    with_discord(&["--shards", "7", "--guilds", "1"], async |discord: Address| {
        let mut proxy = Proxy::start(&discord, &[], json!({})).await;
        let witness = judged::join(&proxy.url, [6, 7], Compression::None).await;
        for (shard, code) in CODES.iter().enumerate() {
            order(&discord, &format!("close?shard={shard}&code={code}"), "").await;
            while proxy.metric(&format!("gateway_shard_status{{shard=\"{shard}\"}}")).await != Some(0.0) {
                sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(proxy.page("/readyz").await.1.contains("shard 0: fatally closed by Discord with 4004\n"));
        // The last shard loses its connection and comes back: enough time for the others to try, if they did.
        order(&discord, "drop?shard=6&events=100", "").await;
        has(&witness, 100).await;
        sleep(Duration::from_secs(2)).await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["resumes"], &stats["upgrades"]), (&7.into(), &1.into(), &8.into()));
        assert_eq!(stats["violations"], json!({}));
        assert_faultless(&witness);
        for code in CODES {
            proxy.logged(&format!("code={code}")).await;
        }
        proxy.stop().await;
    });
}

#[test]
fn an_outage_in_every_form_costs_clients_nothing() {
    with_discord(&["--shards", "5", "--guilds", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let mut clients = Vec::new();
        for shard in 0..5 {
            clients.push(judged::join(&proxy.url, [shard, 5], Compression::None).await);
        }
        // Op 7 instead of HELLO, after that 503 instead of the upgrade; at one shard, so that it meets all of them.
        order(&discord, "hello_op7?count=1", "").await;
        order(&discord, "drop?shard=0&events=50", "").await;
        has(&clients[0], 50).await;
        order(&discord, "refuse?count=1", "").await;
        order(&discord, "drop?shard=0&events=50", "").await;
        has(&clients[0], 100).await;
        order(&discord, "op7?shard=1", "").await;
        order(&discord, "close?shard=2&code=1001", "").await;
        order(&discord, "close?shard=3&code=4009", "").await;
        order(&discord, "op9?shard=4&resumable=true", "").await;
        stats_until(&discord, |it| it["resumes"] == 6 && connected(it) == 5).await;
        for (shard, client) in clients.iter().enumerate() {
            order(&discord, &format!("burst?shard={shard}&events=50"), "").await;
            has(client, if shard == 0 { 150 } else { 50 }).await;
            assert_faultless(client);
            let history = client.history.borrow();
            assert_eq!((history.connects, history.identifies), (1, 1), "shard {shard}");
        }
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["upgrades_refused"]), (&5.into(), &1.into()));
        assert_eq!(stats["violations"], json!({}), "{stats}");
        proxy.stop().await;
    });
}

#[test]
fn a_resume_host_that_refuses_is_left_for_the_main_one() {
    // Bound and not listening: the kernel refuses every connection, and nobody else gets the port.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let refusing = runtime.block_on(async { Port::reserve() }).unwrap();
    let url = format!("ws://127.0.0.1:{}", refusing.number);
    with_discord(&["--shards", "2", "--resume-url", &url], async |discord: Address| {
        let mut proxy = Proxy::start(&discord, &[], json!({})).await;
        let client = judged::join(&proxy.url, [1, 2], Compression::Zlib).await;
        order(&discord, "drop?shard=1&events=100", "").await;
        has(&client, 100).await;
        assert_faultless(&client);
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["resumes"], &stats["replayed"]), (&2.into(), &1.into(), &100.into()));
        // The resume host was tried.
        proxy.logged("cannot connect").await;
        proxy.stop().await;
    });
}

#[test]
fn a_session_that_discord_ended_is_begun_anew_and_clients_stay() {
    with_discord(&["--shards", "2", "--guilds", "3"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let other = judged::join(&proxy.url, [0, 2], Compression::None).await;
        let (mut client, _, seq) = identified(&proxy.url, [1, 2]).await;
        order(&discord, "op9?shard=1&resumable=false", "").await;
        stats_until(&discord, |it| it["identifies"] == 3).await;
        order(&discord, "emit?shard=1", "{\"t\":\"A\",\"d\":{}}").await;
        // The guilds are as they were, so nothing comes before it.
        client.until(&format!("{{\"t\":\"A\",\"s\":{},", seq + 1)).await;
        assert_eq!(proxy.metric("shardgate_known_gaps_total{shard=\"1\"}").await, Some(1.0));
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["violations"]), (&3.into(), &json!({})), "{stats}");
        assert_faultless(&other);
        proxy.stop().await;
    });
}

#[test]
fn a_connection_without_acknowledgements_is_given_up_and_resumed() {
    with_discord(&["--shards", "2", "--guilds", "1", "--heartbeat-interval-ms", "1000"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let client = judged::join(&proxy.url, [1, 2], Compression::None).await;
        order(&discord, "stall?shard=1&ms=30000", "").await;
        order(&discord, "burst?shard=1&events=100", "").await;
        has(&client, 100).await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["resumes"]), (&2.into(), &1.into()), "{stats}");
        assert_faultless(&client);
        proxy.stop().await;
    });
}

#[test]
fn a_heartbeat_that_discord_asks_for_is_sent_at_once() {
    with_discord(&["--shards", "3", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        order(&discord, "op1", "").await;
        let stats = stats_until(&discord, |it| it["heartbeats_asked_answered"] == 3).await;
        assert_eq!((&stats["heartbeats_asked"], &stats["violations"]), (&3.into(), &json!({})));
        proxy.stop().await;
    });
}

#[test]
fn shards_identify_in_turn_within_discords_concurrency() {
    with_discord(&["--shards", "4", "--guilds", "1", "--max-concurrency", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["violations"]), (&4.into(), &json!({})), "{stats}");
        assert_eq!(stats["invalid_sessions"], json!({}));
        proxy.stop().await;
    });
}

#[test]
fn the_last_identify_of_the_day_is_not_overspent() {
    with_discord(&["--shards", "3", "--guilds", "1", "--identify-limit", "2"], async |discord: Address| {
        let mut proxy = Proxy::spawn(&discord, &[], json!({"cores": 1}));
        while proxy.metric("shardgate_identify_waiting").await != Some(1.0)
            || proxy.metric("shardgate_identify_remaining").await != Some(0.0)
        {
            sleep(Duration::from_millis(5)).await;
        }
        let client = judged::join(&proxy.url, [1, 3], Compression::None).await;
        order(&discord, "burst?shard=1&events=10", "").await;
        has(&client, 10).await;
        loop {
            let (status, why) = proxy.page("/readyz").await;
            let is_told = why.starts_with("shard 2: waits for the limit of IDENTIFYs to reset in ");
            if status == 503 && is_told && why.lines().count() == 1 {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["violations"]), (&2.into(), &json!({})), "{stats}");
        proxy.logged("only the reserve of IDENTIFYs is left").await;
        proxy.stop().await;
    });
}
