//! A proxy's life between Discord and its clients: start, outages, fatal closes, commands, the end.

mod common;

use std::rc::Rc;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, backends};
use common::raw::{Got, Raw, good, resume};
use common::{order, stats, stats_until, with_discord};
use loadtest::client::Client;
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::run::port::Port;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

/// A client for one shard, ready, that misses nothing.
async fn judged(proxy: &Proxy, shard: u32, shards: u32, compression: Compression) -> Rc<Client> {
    let client = judged::start(judged::settings(&proxy.url, [shard, shards], compression));
    judged::ready(&client).await;
    client
}

/// A client whose session has begun, its READY and its last number.
async fn identified(proxy: &Proxy, shard: u32, shards: u32) -> (Raw, Value, u64) {
    let mut raw = Raw::saying(&proxy.url, &good(shard, shards)).await;
    let (ready, seq) = raw.ready().await;
    (raw, ready, seq)
}

fn connected(stats: &Value) -> usize {
    let shards = stats["shards"].as_array().unwrap();
    let sessions = shards.iter().flat_map(|it| it["sessions"].as_array().unwrap());
    sessions.filter(|it| it["connected"] == true).count()
}

fn sessions(stats: &Value) -> usize {
    stats["shards"].as_array().unwrap().iter().map(|it| it["sessions"].as_array().unwrap().len()).sum()
}

#[test]
fn sigterm_closes_clients_resumably_after_their_events_and_keeps_discords_sessions() {
    for backend in backends() {
        with_discord(&["--shards", "3", "--guilds", "2"], async |discord: Address| {
            let mut proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let (mut reader, ..) = identified(&proxy, 1, 3).await;
            let mut stranger = Raw::open(&proxy.url, "/").await;
            stranger.until("\"op\":10").await;
            let witness = judged(&proxy, 1, 3, Compression::None).await;
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
    }
}

#[test]
fn the_flag_for_it_ends_discords_sessions_with_1000() {
    with_discord(&["--shards", "3"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &["--close-upstream-offline"], json!({})).await;
        let (mut client, ..) = identified(&proxy, 0, 3).await;
        proxy.stop().await;
        assert_eq!(client.close_code().await, 4000);
        let stats = stats_until(&discord, |it| sessions(it) == 0).await;
        assert_eq!(stats["closes_received"], json!({"1000": 3}));
    });
}

#[test]
fn a_fatal_close_stops_its_shard_and_no_other() {
    const CODES: [u16; 6] = [4004, 4010, 4011, 4012, 4013, 4014];
    with_discord(&["--shards", "7", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let witness = judged(&proxy, 6, 7, Compression::None).await;
        for (shard, code) in CODES.iter().enumerate() {
            order(&discord, &format!("close?shard={shard}&code={code}"), "").await;
            while proxy.metric(&format!("gateway_shard_status{{shard=\"{shard}\"}}")).await != Some(0.0) {
                sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(proxy.page("/readyz").await.1.contains("shard 0: fatally closed\n"));
        // The last shard loses its connection and comes back: enough time for the others to try, if they did.
        order(&discord, "drop?shard=6&events=100", "").await;
        has(&witness, 100).await;
        sleep(Duration::from_secs(2)).await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["resumes"], &stats["upgrades"]), (&7.into(), &1.into(), &8.into()));
        assert_eq!(stats["violations"], json!({}));
        assert_faultless(&witness);
        let log = proxy.log();
        assert!(CODES.iter().all(|code| log.contains(&format!("code={code}"))), "{log}");
        proxy.stop().await;
    });
}

#[test]
fn an_outage_in_every_form_costs_clients_nothing() {
    with_discord(&["--shards", "5", "--guilds", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let mut clients = Vec::new();
        for shard in 0..5 {
            clients.push(judged(&proxy, shard, 5, Compression::None).await);
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
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let client = judged(&proxy, 1, 2, Compression::Zlib).await;
        order(&discord, "drop?shard=1&events=100", "").await;
        has(&client, 100).await;
        assert_faultless(&client);
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["resumes"], &stats["replayed"]), (&2.into(), &1.into(), &100.into()));
        assert!(proxy.log().contains("cannot connect"), "the resume host was not tried");
        proxy.stop().await;
    });
}

#[test]
fn a_session_that_discord_ended_is_begun_anew_and_clients_identify_on_their_connection() {
    with_discord(&["--shards", "2", "--guilds", "3"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let other = judged(&proxy, 0, 2, Compression::None).await;
        let (mut client, before, _) = identified(&proxy, 1, 2).await;
        order(&discord, "op9?shard=1&resumable=false", "").await;
        client.until("{\"t\":null,\"s\":null,\"op\":9,\"d\":false}").await;
        client.say(&good(1, 2));
        let (after, seq) = client.ready().await;
        assert_ne!(before["session_id"], after["session_id"]);
        order(&discord, "emit?shard=1", "{\"t\":\"A\",\"d\":{}}").await;
        client.until(&format!("{{\"t\":\"A\",\"s\":{},", seq + 1)).await;
        let old = before["session_id"].as_str().unwrap();
        Raw::saying(&proxy.url, &resume(old, 1)).await.until("\"op\":9,\"d\":false").await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["violations"]), (&3.into(), &json!({})), "{stats}");
        assert_faultless(&other);
        proxy.stop().await;
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
fn commands_reach_discord_as_they_were_sent() {
    with_discord(&["--shards", "2", "--guilds", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (mut client, ready, _) = identified(&proxy, 1, 2).await;
        let guild = ready["guilds"][1]["id"].as_str().unwrap().to_owned();
        let commands = [
            "{\"op\":3,\"d\":{\"since\":null,\"activities\":[{\"name\":\"ü\\u0041\",\"type\":0}],\"status\":\"idle\",\"afk\":false}}"
                .to_owned(),
            format!("{{\"op\":4,\"d\":{{\"guild_id\":{guild},\"channel_id\":\"5\",\"self_mute\":false,\"self_deaf\":true}}}}"),
            format!("{{\"op\":31,\"d\":{{\"guild_ids\":[\"{guild}\"]}}}}"),
            format!("{{\"op\":43,\"d\":{{\"guild_id\":[\"{guild}\"],\"fields\":[\"status\"]}}}}"),
        ];
        for command in &commands {
            client.say(command);
        }
        for answer in ["VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE", "SOUNDBOARD_SOUNDS", "CHANNEL_INFO"] {
            client.dispatch(answer).await;
        }
        let stats = stats_until(&discord, |it| it["commands_recent"].as_array().unwrap().len() == 4).await;
        let wanted: Vec<_> = commands.iter().map(|it| json!({"shard": 1, "raw": it})).collect();
        assert_eq!((&stats["commands_recent"], &stats["violations"]), (&wanted.into(), &json!({})));
        proxy.stop().await;
    });
}

#[test]
fn members_go_to_the_client_that_asked_with_its_own_nonce() {
    with_discord(&["--shards", "2", "--guilds", "3"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let bystander = judged(&proxy, 1, 2, Compression::None).await;
        let (mut asker, ready, _) = identified(&proxy, 1, 2).await;
        let (mut other, ..) = identified(&proxy, 1, 2).await;
        let guild = |at: usize| ready["guilds"][at]["id"].as_str().unwrap().to_owned();
        let ask = |guild: &str, nonce: &str| {
            format!("{{\"op\":8,\"d\":{{\"guild_id\":\"{guild}\",\"query\":\"\",\"limit\":0{nonce}}}}}")
        };
        asker.say(&ask(&guild(0), ",\"nonce\":\"mine\""));
        for index in 0..3 {
            let chunk = asker.dispatch("GUILD_MEMBERS_CHUNK").await;
            assert_eq!((&chunk["d"]["nonce"], &chunk["d"]["chunk_index"]), (&"mine".into(), &index.into()));
        }
        // The same nonce of another client, and none.
        other.say(&ask(&guild(1), ",\"nonce\":\"mine\""));
        let chunk = other.dispatch("GUILD_MEMBERS_CHUNK").await;
        assert_eq!((&chunk["d"]["guild_id"], &chunk["d"]["nonce"]), (&guild(1).into(), &"mine".into()));
        other.say(&ask(&guild(2), ""));
        let chunk = other.dispatch("GUILD_MEMBERS_CHUNK").await;
        assert_eq!((&chunk["d"]["guild_id"], chunk["d"].get("nonce")), (&guild(2).into(), None));
        // Again too soon: only who asked hears of it.
        other.say(&ask(&guild(0), ",\"nonce\":\"again\""));
        let limited = other.dispatch("RATE_LIMITED").await;
        assert_eq!((&limited["d"]["opcode"], &limited["d"]["meta"]["nonce"]), (&8.into(), &"again".into()));
        order(&discord, "emit?shard=1", "{\"t\":\"LAST\",\"d\":{}}").await;
        loop {
            match asker.hear().await {
                Got::Payload(it) if it.contains("\"LAST\"") => break,
                Got::Payload(it) => assert!(!it.contains("CHUNK") && !it.contains("RATE_LIMITED"), "{it}"),
                other => panic!("{other:?}"),
            }
        }
        order(&discord, "burst?shard=1&events=1", "").await;
        has(&bystander, 1).await;
        // A chunk that it did not ask for would be a finding.
        assert_faultless(&bystander);
        let stats = stats(&discord).await;
        let nonces: Vec<_> =
            stats["commands_recent"].as_array().unwrap().iter().map(|it| it["raw"].to_string()).collect();
        assert_eq!((&stats["violations"], stats["commands"]["8"].as_u64(), nonces.len()), (&json!({}), Some(4), 4));
        assert!(!nonces.iter().any(|it| it.contains("mine") || it.contains("again")), "{nonces:?}");
        proxy.stop().await;
    });
}

/// Op 43 for `guild`, told apart by its field.
fn ask_channels(guild: &str, field: &str) -> String {
    format!("{{\"op\":43,\"d\":{{\"guild_id\":\"{guild}\",\"fields\":[\"{field}\"]}}}}")
}

/// How many of the commands that Discord got have this field.
fn share(stats: &Value, field: &str) -> usize {
    stats["commands_recent"].as_array().unwrap().iter().filter(|it| it["raw"].as_str().unwrap().contains(field)).count()
}

#[test]
fn a_burst_of_two_clients_stays_within_discords_limit_and_is_shared() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (one, ready, _) = identified(&proxy, 0, 1).await;
        let (two, ..) = identified(&proxy, 0, 1).await;
        let guild = ready["guilds"][0]["id"].as_str().unwrap();
        for _ in 0..65 {
            one.say(&ask_channels(guild, "status"));
            two.say(&ask_channels(guild, "voice_start_time"));
        }
        // What Discord has not got waits in the proxy.
        let stats = loop {
            let stats = stats(&discord).await;
            let sent = stats["commands"]["43"].as_u64().unwrap_or(0);
            let queued = proxy.metric("shardgate_commands_queued{shard=\"0\"}").await.unwrap() as u64;
            if sent + queued == 130 && sent >= 100 {
                break stats;
            }
            sleep(Duration::from_millis(5)).await;
        };
        let (one, two) = (share(&stats, "\"status"), share(&stats, "\"voice"));
        assert!(one + two < 120 && one >= 45 && two >= 45, "{one} and {two}");
        assert_eq!(stats["violations"], json!({}));
        proxy.stop().await;
    });
}

#[test]
fn what_waited_for_discord_goes_up_in_turns() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (one, ready, _) = identified(&proxy, 0, 1).await;
        let (two, ..) = identified(&proxy, 0, 1).await;
        let guild = ready["guilds"][0]["id"].as_str().unwrap();
        // Discord is away until the end of the commands is in the queue.
        order(&discord, "refuse?count=1000000", "").await;
        order(&discord, "drop?shard=0", "").await;
        stats_until(&discord, |it| it["upgrades_refused"].as_u64() > Some(0)).await;
        for _ in 0..60 {
            one.say(&ask_channels(guild, "status"));
        }
        for _ in 0..60 {
            two.say(&ask_channels(guild, "voice_start_time"));
        }
        while proxy.metric("shardgate_commands_queued{shard=\"0\"}").await != Some(120.0) {
            sleep(Duration::from_millis(5)).await;
        }
        order(&discord, "refuse?count=0", "").await;
        let stats = stats_until(&discord, |it| it["commands"]["43"].as_u64() >= Some(100)).await;
        let (one, two) = (share(&stats, "\"status"), share(&stats, "\"voice"));
        assert!(one.abs_diff(two) <= 1 && one + two < 120, "{one} and {two}");
        assert_eq!(stats["violations"], json!({}));
        proxy.stop().await;
    });
}

#[test]
fn the_pages_answer_with_the_proxys_own_address_and_state() {
    for backend in backends() {
        with_discord(&["--shards", "3", "--guilds", "2"], async |discord: Address| {
            let mut proxy = Proxy::spawn(&discord, &[], json!({"backend": backend}));
            proxy.ready().await;
            let (_client, ..) = identified(&proxy, 1, 3).await;
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
    }
}

#[test]
fn a_shard_that_is_not_active_shows_on_the_pages() {
    with_discord(&["--shards", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        order(&discord, "close?shard=1&code=4014", "").await;
        while proxy.page("/health").await != (400, "Not ready!".into()) {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(proxy.page("/readyz").await, (503, "shard 1: fatally closed\n".into()));
        assert_eq!(proxy.page("/livez").await.0, 200);
        proxy.stop().await;
    });
}

#[test]
fn clients_of_one_shard_in_every_compression_each_get_everything() {
    for backend in backends() {
        with_discord(&["--shards", "2", "--guilds", "3", "--outage-every", "1"], async |discord: Address| {
            let proxy = Proxy::start(&discord, &[], json!({"backend": backend})).await;
            let mut clients = Vec::new();
            for compression in [Compression::None, Compression::Zlib, Compression::Zstd, Compression::None] {
                clients.push(judged(&proxy, 1, 2, compression).await);
            }
            order(&discord, "burst?shard=1&events=1000", "").await;
            order(&discord, "drop?shard=1&events=1000", "").await;
            for client in &clients {
                has(client, 2000).await;
                assert_faultless(client);
            }
            proxy.stop().await;
        });
    }
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
