//! Clients of the load test, each with a judge that misses nothing.

use std::rc::Rc;

use loadtest::args::Args;
use loadtest::client::{Client, Settings, options};
use loadtest::compress::Compression;
use tokio::task::spawn_local;

use super::until;

/// A client of `url` for `shard` of `shards`, that parses everything and forgives nothing.
pub fn settings(url: &str, [shard, shards]: [u32; 2], compression: Compression) -> Settings {
    let mut settings = options::settings(&Args::default()).unwrap();
    settings.url = url.to_owned();
    settings.shards = shards;
    settings.compression = compression;
    settings.terms.shard = shard;
    settings.terms.first_counter = Some(1);
    settings.terms.guilds_stay = true;
    settings.terms.is_binary = compression != Compression::None;
    settings
}

pub fn start(settings: Settings) -> Rc<Client> {
    let client = Client::new(settings, Rc::default(), 7);
    spawn_local(client.clone().run());
    client
}

/// A client of `url` for `shard` of `shards`, ready.
pub async fn join(url: &str, shard_of: [u32; 2], compression: Compression) -> Rc<Client> {
    let client = start(settings(url, shard_of, compression));
    ready(&client).await;
    client
}

/// Waits until `client` has READY and its guilds.
pub async fn ready(client: &Client) {
    until(|| client.is_live.get() && client.judge.borrow().is_ready()).await;
}

/// Waits until `client` has every event up to `last`.
pub async fn has(client: &Client, last: u64) {
    until(|| client.judge.borrow().delivered >= last).await;
}

pub fn assert_faultless(client: &Client) {
    let judge = client.judge.borrow();
    let counters = &judge.counters;
    assert!(judge.findings.is_empty(), "{:?}", judge.findings);
    assert_eq!((counters.lost(), counters.duplicated, counters.out_of_order), (0, 0, 0));
}
