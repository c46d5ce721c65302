//! The fake Discord in its own process, and its `/fake` orders.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::options::Options;
use super::proc::Process;
use crate::discord::Address;
use crate::http;

/// Until it listens.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub struct Fake {
    pub address: Address,
    pub process: Process,
}

impl Fake {
    /// Starts this very program as `discord`, with its files in `dir`.
    pub async fn start(options: &Options, dir: &Path) -> io::Result<Self> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("shards", options.shards.to_string());
        option("guilds", options.guilds.to_string());
        option("members", options.members.to_string());
        option("rate", "0".to_owned());
        option("seed", options.seed.to_string());
        option("outage-every", "8".to_owned());
        // Straight to Discord every client is a session of its own: the limit is not what is tested then.
        if options.is_without_proxy() {
            option("identify-interval-ms", "0".to_owned());
            option("identify-limit", "1000000".to_owned());
        }
        if options.is_tls {
            words.push("--tls".into());
        }
        Self::start_with(words, dir).await
    }

    /// As `start`, with `discord`'s own options.
    pub async fn start_with(options: Vec<String>, dir: &Path) -> io::Result<Self> {
        let ready = dir.join("discord.json");
        let mut words: Vec<String> = vec!["discord".into(), "--exit-with-stdin".into()];
        words.extend(["--ready-file".into(), ready.display().to_string()]);
        words.extend(["--cert-file".into(), dir.join("cert.pem").display().to_string()]);
        words.extend(options);
        let log = dir.join("discord.log");
        let mut process = Process::start(&super::program()?, &words, &[], &log)?;
        for _ in 0..START.as_millis() / POLL.as_millis() {
            if let Ok(line) = std::fs::read_to_string(&ready) {
                return Ok(Self { address: serde_json::from_str(&line)?, process });
            }
            if process.exited().is_some() {
                break;
            }
            sleep(POLL).await;
        }
        Err(io::Error::other(format!("the fake Discord did not start: {}", super::tail(&log))))
    }

    /// `POST /fake/ORDER`.
    pub async fn post(&self, order: &str) -> io::Result<()> {
        self.post_body(order, "").await
    }

    /// The same with a body.
    pub async fn post_body(&self, order: &str, body: &str) -> io::Result<()> {
        let (status, body) = http::call("POST", &format!("{}/fake/{order}", self.address.admin), body, None).await?;
        if status == 200 { Ok(()) } else { Err(io::Error::other(format!("/fake/{order}: {body}"))) }
    }

    /// `GET /fake/stats`.
    pub async fn stats(&self) -> io::Result<Value> {
        let (_, body) = http::call("GET", &format!("{}/fake/stats", self.address.admin), "", None).await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// The last counter of each shard.
    pub async fn counters(&self) -> io::Result<Vec<u64>> {
        let stats = self.stats().await?;
        let shards = stats["shards"].as_array().cloned().unwrap_or_default();
        Ok(shards.iter().map(|it| it["sent"].as_u64().unwrap_or(0)).collect())
    }
}
