//! What the tests share: a fake Discord in this process, its orders, and waiting without a clock's opinion.

#![allow(dead_code, reason = "each test file uses its own part of it")]

pub mod exposition;
pub mod folder;
pub mod judged;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod stats;

use std::time::Duration;

use loadtest::args::Args;
use loadtest::discord::options::{self, Options};
use loadtest::discord::{self, Address};
use loadtest::http;
use serde_json::Value;
use tokio::time::{sleep, timeout};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// Runs `test` on one thread, with a fake Discord that has these options.
pub fn with_discord<F: Future<Output = ()>>(words: &[&str], test: impl FnOnce(Address) -> F) {
    let words: Vec<String> = ["--rate", "0"].iter().chain(words).map(|it| it.to_string()).collect();
    let options = Options::from_args(&Args::parse(&words, options::SPECS).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let address = discord::serve(options).await.unwrap();
        timeout(PATIENCE, test(address)).await.expect("the test hangs");
    });
}

/// `POST /fake/ORDER`
pub async fn order(address: &Address, order: &str, body: &str) {
    let url = format!("{}/fake/{order}", address.admin);
    let (status, answer) = http::call("POST", &url, body, None).await.unwrap();
    assert_eq!(status, 200, "{order}: {answer}");
}

/// `GET /fake/stats`
pub async fn stats(address: &Address) -> Value {
    let (_, body) = http::call("GET", &format!("{}/fake/stats", address.admin), "", None).await.unwrap();
    serde_json::from_str(&body).unwrap()
}

/// Waits until `is_true`; the test's patience is the limit.
pub async fn until(mut is_true: impl FnMut() -> bool) {
    while !is_true() {
        sleep(POLL).await;
    }
}

/// Waits until the fake Discord's statistics are as `is_true` wants them, and answers them.
pub async fn stats_until(address: &Address, is_true: impl Fn(&Value) -> bool) -> Value {
    loop {
        let stats = stats(address).await;
        if is_true(&stats) {
            return stats;
        }
        sleep(POLL).await;
    }
}
