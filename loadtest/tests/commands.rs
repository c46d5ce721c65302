//! What clients send to Discord: it arrives as sent, within Discord's limits, and its answers find who asked.

mod common;

use common::judged::{self, assert_faultless, has};
use common::proxy::Proxy;
use common::raw::{Got, identified};
use common::{order, stats, stats_until, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

#[test]
fn commands_reach_discord_as_they_were_sent() {
    with_discord(&["--shards", "2", "--guilds", "2"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (mut client, ready, _) = identified(&proxy.url, [1, 2]).await;
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
        drop(client);
        proxy.stop().await;
    });
}

#[test]
fn members_go_to_the_client_that_asked_with_its_own_nonce() {
    with_discord(&["--shards", "2", "--guilds", "3"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let bystander = judged::join(&proxy.url, [1, 2], Compression::None).await;
        let (mut asker, ready, _) = identified(&proxy.url, [1, 2]).await;
        let (mut other, ..) = identified(&proxy.url, [1, 2]).await;
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
        drop((asker, other));
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
        let (one, ready, _) = identified(&proxy.url, [0, 1]).await;
        let (two, ..) = identified(&proxy.url, [0, 1]).await;
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
        let shares = (share(&stats, "\"status"), share(&stats, "\"voice"));
        assert!(shares.0 + shares.1 < 120 && shares.0 >= 45 && shares.1 >= 45, "{shares:?}");
        assert_eq!(stats["violations"], json!({}));
        drop((one, two));
        proxy.stop().await;
    });
}

#[test]
fn what_waited_for_discord_goes_up_in_turns() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let proxy = Proxy::start(&discord, &[], json!({})).await;
        let (one, ready, _) = identified(&proxy.url, [0, 1]).await;
        let (two, ..) = identified(&proxy.url, [0, 1]).await;
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
        let shares = (share(&stats, "\"status"), share(&stats, "\"voice"));
        assert!(shares.0.abs_diff(shares.1) <= 1 && shares.0 + shares.1 < 120, "{shares:?}");
        assert_eq!(stats["violations"], json!({}));
        drop((one, two));
        proxy.stop().await;
    });
}
