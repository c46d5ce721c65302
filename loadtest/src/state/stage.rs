//! A fake Discord and a proxy in front of it, and how to wait until the one has applied what the other sent.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::sleep;

use super::options::Options;
use super::pages;
use crate::run::fake::Fake;
use crate::run::proc::rss_bytes;
use crate::run::proxy::{self, Proxy};

const POLL: Duration = Duration::from_millis(250);
/// Nothing at all has moved for this long: something is broken, and waiting ends.
const STANDSTILL: Duration = Duration::from_secs(60);
/// The memory stands still while it does not change by more than this: the allocator gives back with a delay of some 10 s.
const SETTLED_SHARE: f64 = 0.002;
const TRIES: usize = 5;
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// A memory that never settles counts as it is then.
const SETTLING_MAX: Duration = Duration::from_secs(90);
/// How long the log keeps what everybody has taken.
const LOG_SECONDS: u64 = 5;

/// The proxy's program: the one given, or built now.
pub async fn binary(options: &Options) -> io::Result<PathBuf> {
    match &options.proxy {
        Some(path) => Ok(path.clone()),
        None => proxy::build().await,
    }
}

/// A proxy for `fake`, ready, its cache flags all on or all off; its files go to `dir`.
pub async fn start_proxy(
    options: &Options,
    binary: &Path,
    fake: &Fake,
    dir: &Path,
    is_caching: bool,
) -> io::Result<Proxy> {
    std::fs::create_dir_all(dir)?;
    Proxy::start_with(binary, fake, dir, "proxy", |port| {
        let mut config = proxy::base_config(fake, port, options.shards, is_caching);
        config["backend"] = options.backend.as_str().into();
        config["log_bytes"] = options.log_bytes.into();
        config["log_seconds"] = LOG_SECONDS.into();
        if let Some(compression) = &options.upstream_compression {
            config["upstream_compression"] = compression.as_str().into();
        }
        if let Some(cores) = options.cores {
            config["cores"] = cores.into();
        }
        Ok(config)
    })
    .await
}

/// Waits until nothing is left that was ordered, and the proxy has had every dispatch of the session of each shard that began as
/// the `nth`.
///
/// Errs when the proxy ends, or when nothing moves for a minute.
pub async fn caught_up(fake: &Fake, proxy: &mut Proxy, nth: usize) -> io::Result<()> {
    let mut moved = (0, 0, Duration::ZERO);
    loop {
        if let Some(status) = proxy.process.exited() {
            let log = crate::run::tail(&proxy.log);
            return Err(io::Error::other(format!("the proxy ended, {status}:\n{log}")));
        }
        let stats = patiently(async || fake.stats().await).await?;
        let is_idle = stats["life_left"] == 0 && stats["answers_left"] == 0;
        let shards = stats["shards"].as_array().cloned().unwrap_or_default();
        let sent: Vec<Option<u64>> = shards.iter().map(|it| it["sessions"][nth]["seq"].as_u64()).collect();
        let received = patiently(async || pages::metrics(&proxy.url).await).await?;
        let has = |shard: usize| received.sum(&format!("gateway_shard_events{{shard=\"{shard}\",")) as u64;
        let had: Vec<u64> = (0..sent.len()).map(has).collect();
        if is_idle && sent.iter().zip(&had).all(|(sent, had)| sent.is_some_and(|it| it <= *had)) {
            return Ok(());
        }
        let now =
            (sent.iter().flatten().sum::<u64>() + stats["changes"].as_u64().unwrap_or(0), had.iter().sum::<u64>());
        let still = if (moved.0, moved.1) == now { moved.2 + POLL } else { Duration::ZERO };
        if still > STANDSTILL {
            return Err(io::Error::other(format!("nothing moves: Discord sent {sent:?}, the proxy had {had:?}")));
        }
        moved = (now.0, now.1, still);
        sleep(POLL).await;
    }
}

/// The proxy's resident memory once its log is empty and it changes no more.
pub async fn settled_rss(options: &Options, proxy: &Proxy) -> io::Result<u64> {
    let (mut reference, mut still, mut waited) = (0_u64, Duration::ZERO, Duration::ZERO);
    loop {
        // The scrape also gives every core the occasion to hand memory back.
        let log_dispatches =
            patiently(async || pages::metrics(&proxy.url).await).await?.sum("shardgate_log_dispatches");
        let rss = rss_bytes(proxy.process.pid);
        let is_still = rss.abs_diff(reference) as f64 <= reference as f64 * SETTLED_SHARE && log_dispatches == 0.0;
        if is_still {
            still += POLL;
        } else {
            (reference, still) = (rss, Duration::ZERO);
        }
        if still >= Duration::from_secs(options.settle_s) || waited >= SETTLING_MAX {
            return Ok(rss);
        }
        waited += POLL;
        sleep(POLL).await;
    }
}

/// The answer, asked for again after an error: on a machine that has much else to do whoever is asked may give a page up, and half an hour of
/// measuring should not end with it.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES {
        if let Ok(answer) = ask().await {
            return Ok(answer);
        }
        sleep(TRY_PAUSE).await;
    }
    ask().await
}

/// What was measured where: processor, kernel, commit.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|it| it.strip_prefix("model name"))
        .map_or("unknown", |it| it.trim_start_matches([':', ' ', '\t']));
    let count = cpus.lines().filter(|it| it.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude", "*"])
        .output();
    let commit =
        git.ok().filter(|it| it.status.success()).map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    format!("{model}, {count} CPUs, Linux {}, commit {}", kernel.trim(), commit.unwrap_or_else(|| "unknown".to_owned()))
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
