//! The budget of IDENTIFYs and the last word of REST: kept in reserve, shown, and known to the next process.

mod common;

use std::path::{Path, PathBuf};

use common::judged::{self, assert_faultless, has};
use common::proxy::Proxy;
use common::{order, stats, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::json;
use tokio::time::{Duration, sleep};

/// A `data_dir` that is gone with the value.
struct DataDir(PathBuf);

impl DataDir {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("budget-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn below_the_reserve_shards_wait_and_every_page_says_why() {
    with_discord(&["--shards", "4", "--guilds", "1", "--identify-limit", "6"], async |discord: Address| {
        let mut proxy = Proxy::spawn(&discord, &[], json!({"identify_reserve": 3}));
        while proxy.metric("shardgate_identify_held_back").await != Some(1.0) {
            sleep(Duration::from_millis(5)).await;
        }
        let client = judged::join(&proxy.url, [0, 4], Compression::None).await;
        order(&discord, "burst?shard=0&events=10", "").await;
        has(&client, 10).await;
        assert_faultless(&client);
        for (name, value) in [("limit", 6.0), ("remaining", 3.0), ("reserve", 3.0), ("waiting", 1.0)] {
            assert_eq!(proxy.metric(&format!("shardgate_identify_{name}")).await, Some(value), "{name}");
        }
        let resets_in = proxy.metric("shardgate_identify_resets_in_seconds").await.unwrap();
        assert!(resets_in > 14_000.0 && resets_in <= 14_400.0, "{resets_in}");
        let (status, why) = proxy.page("/readyz").await;
        assert!(status == 503 && why.contains("(3 of 6 left, a reserve of 3 is not spent)"), "{why}");
        // A session that may be resumed needs no IDENTIFY.
        order(&discord, "drop?shard=0&events=10", "").await;
        has(&client, 20).await;
        let stats = stats(&discord).await;
        assert_eq!((&stats["identifies"], &stats["violations"]), (&3.into(), &json!({})), "{stats}");
        proxy.logged("only the reserve of IDENTIFYs is left").await;
        proxy.stop().await;
    });
}

#[test]
fn an_outage_of_rest_does_not_keep_a_restarted_proxy_from_starting() {
    with_discord(&["--shards", "3", "--guilds", "1"], async |discord: Address| {
        let dir = DataDir::new("rest");
        let keys = json!({"data_dir": dir.0});
        Proxy::start(&discord, &[], keys.clone()).await.stop().await;
        order(&discord, "rest?status=503&count=1000000", "").await;
        let mut proxy = Proxy::start(&discord, &[], keys.clone()).await;
        proxy.logged("REST does not answer: starting with its answer from before").await;
        let client = judged::join(&proxy.url, [2, 3], Compression::None).await;
        order(&discord, "burst?shard=2&events=10", "").await;
        has(&client, 10).await;
        assert_faultless(&client);
        // Nobody has told it: it has counted by itself, over two processes.
        let remaining = stats(&discord).await["identify_remaining"].as_f64();
        assert!(remaining < Some(1000.0));
        assert_eq!(proxy.metric("shardgate_identify_remaining").await, remaining);
        // The question goes on, and is answered in the end.
        order(&discord, "rest?status=503&count=1", "").await;
        proxy.stop().await;
        // Another bot's word is not taken.
        order(&discord, "rest?status=503&count=1000000", "").await;
        let mut other = Proxy::spawn(&discord, &[], json!({"data_dir": dir.0, "token": "other"}));
        other.logged("belongs to another token").await;
        other.logged("no answer about the gateway yet").await;
        assert!(!other.log().contains("starting with its answer from before"), "{}", other.log());
        other.stop().await;
    });
}

#[test]
fn what_a_killed_proxy_spent_is_known_to_the_next() {
    with_discord(&["--shards", "3", "--guilds", "1", "--identify-limit", "20"], async |discord: Address| {
        let dir = DataDir::new("kill");
        let keys = json!({"data_dir": dir.0});
        let mut proxy = Proxy::start(&discord, &[], keys.clone()).await;
        proxy.process.kill().await;
        let written = std::fs::read_to_string(dir.0.join("budget")).unwrap();
        let json: serde_json::Value = serde_json::from_str(written.lines().nth(1).unwrap()).unwrap();
        let remaining = &stats(&discord).await["identify_remaining"];
        assert_eq!((&json["limit"]["remaining"], &json["limit"]["total"]), (remaining, &20.into()), "{written}");
        assert!(!written.contains("fake"), "the token is in it: {written}");
    });
}
