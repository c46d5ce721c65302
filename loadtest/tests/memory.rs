//! A proxy whose memory is used up: whom it refuses, whom it goes on serving, and what it says.

mod common;

use common::proxy::{Proxy, on_backends};
use common::raw::{Raw, upgrade};
use common::with_discord;
use loadtest::discord::Address;
use serde_json::json;
use tokio::time::{Duration, sleep};

#[test]
fn a_proxy_over_its_memory_limit_answers_503_and_says_so() {
    on_backends(|backend| {
        with_discord(&["--shards", "1", "--guilds", "1000"], async |discord: Address| {
            let limit = 8 << 20;
            let keys = json!({"backend": backend, "memory_limit": limit, "cache": {"emojis": true, "members": true}});
            let mut proxy = Proxy::spawn(&discord, &[], keys);
            // The program and a thousand guilds are more than that.
            while proxy.metric("shardgate_memory_level").await != Some(100.0) {
                sleep(Duration::from_millis(20)).await;
            }
            assert!(proxy.metric("shardgate_memory_bytes").await >= Some(f64::from(limit)));
            assert_eq!(proxy.metric("shardgate_memory_limit_bytes").await, Some(f64::from(limit)));
            let mut client = Raw::connect(&proxy.url, upgrade("/", "").as_bytes()).await;
            let answer = client.answer().await;
            assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("5")));
            let (status, text) = proxy.page("/readyz").await;
            assert!(status == 503 && text.contains("new connections are refused"), "{status} {text}");
            assert_eq!(proxy.page("/livez").await.0, 200);
            proxy.logged("memory: all is used").await;
            proxy.stop().await;
        });
    });
}
