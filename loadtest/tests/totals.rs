//! SIGUSR2 and `shardgate stats`: totals of guilds, members, clients and events of a running proxy.

mod common;

use common::folder::Folder;
use common::judged::{self, has};
use common::proxy::Proxy;
use common::{order, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

const POLL: Duration = Duration::from_millis(5);
const SIGUSR2: i32 = libc::SIGUSR2;

/// What `shardgate stats` says, and whether it found everything.
fn stats(proxy: &Proxy) -> (bool, Value) {
    let (success, text) = proxy.ask(&["stats"]);
    (success, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Waits for the file, which is there whole or not at all.
async fn written(path: &str, proxy: &mut Proxy) -> Value {
    loop {
        if let Ok(text) = std::fs::read(path) {
            return serde_json::from_slice(&text).unwrap();
        }
        proxy.check();
        sleep(POLL).await;
    }
}

#[test]
fn the_file_and_the_subcommand_tell_the_same_of_all_shards() {
    with_discord(&["--shards", "2", "--guilds", "3"], async |discord: Address| {
        let folder = Folder::new();
        let mut proxy = Proxy::start(&discord, &[], json!({"data_dir": folder.text()})).await;
        let client = judged::join(&proxy.url, [1, 2], Compression::None).await;
        order(&discord, "burst?shard=1&events=50", "").await;
        has(&client, 50).await;
        proxy.process.signal(SIGUSR2);
        let path = format!("{}/totals.json", folder.text());
        let file = written(&path, &mut proxy).await;
        proxy.logged(&format!("totals are written path={path}")).await;
        let (success, stats) = stats(&proxy);
        assert!(success, "{stats}");
        assert_eq!((&file["total"], &file["shards"]), (&stats["total"], &stats["shards"]));
        let total = &file["total"];
        assert_eq!((&total["guilds"], &total["clients"], &total["sessions"]), (&json!(6), &json!(1), &json!(1)));
        assert!(total["members"].as_u64() >= Some(6), "{total}");
        let shard = &file["shards"][1];
        assert_eq!((&shard["shard"], &shard["guilds"], &shard["status"]), (&json!(1), &json!(3), &json!(4)));
        // READY, three guilds, fifty events.
        assert_eq!(shard["events"], 54);
        assert_eq!((&file["complete"], &file["missing"], &file["shard_count"]), (&json!(true), &json!([]), &json!(2)));
        proxy.stop().await;
    });
}

#[test]
fn shards_that_are_not_ready_are_waited_for_and_meanwhile_named() {
    with_discord(&["--shards", "2", "--guilds", "1"], async |discord: Address| {
        let folder = Folder::new();
        order(&discord, "refuse?count=1000000", "").await;
        let runtime_directory = vec![("RUNTIME_DIRECTORY", folder.text())];
        let mut proxy = Proxy::spawn_in(&discord, &[], json!({}), runtime_directory);
        while proxy.page("/shard-count").await.0 != 200 {
            proxy.check();
            sleep(POLL).await;
        }
        proxy.process.signal(SIGUSR2);
        let (success, stats) = stats(&proxy);
        assert!(!success);
        assert_eq!((&stats["complete"], stats["missing"].as_array().map(Vec::len)), (&json!(false), Some(2)));
        assert!(stats["missing"][0]["why"].is_string(), "{stats}");
        order(&discord, "refuse?count=0", "").await;
        // Without `data_dir` it lies in the runtime directory.
        let file = written(&format!("{}/totals.json", folder.text()), &mut proxy).await;
        assert_eq!((&file["complete"], &file["total"]["guilds"]), (&json!(true), &json!(2)));
        proxy.stop().await;
    });
}

#[test]
fn with_an_address_of_its_own_the_totals_are_asked_for_there() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = Proxy::start(&discord, &[], json!({"admin_bind": address})).await;
        assert_eq!(proxy.page("/stats").await.0, 403);
        let (success, stats) = stats(&proxy);
        assert!(success, "{stats}");
        proxy.stop().await;
    });
}
