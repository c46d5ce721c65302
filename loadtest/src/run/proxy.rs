//! The proxy under test: built, configured, started, and asked whether it is ready.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

use super::fake::Fake;
use super::options::Options;
use super::port::Port;
use super::proc::Process;
use crate::http;

/// Until it serves every shard.
const START: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

pub struct Proxy {
    /// `ws://127.0.0.1:PORT`
    pub url: String,
    pub process: Process,
    pub log: PathBuf,
    _port: Port,
}

impl Proxy {
    /// Starts the proxy in front of `fake`, with its files in `dir`, and waits until it is ready.
    ///
    /// Errs with the end of its log when it ends early or takes too long.
    pub async fn start(options: &Options, fake: &Fake, dir: &Path) -> io::Result<Self> {
        let binary = match &options.proxy {
            Some(path) => path.clone(),
            None => build().await?,
        };
        Self::start_with(&binary, fake, dir, |port| config(options, fake, port)).await
    }

    /// As `start`, with a program and a configuration, which is told the port.
    pub async fn start_with(
        binary: &Path,
        fake: &Fake,
        dir: &Path,
        config: impl FnOnce(u16) -> io::Result<Value>,
    ) -> io::Result<Self> {
        let port = Port::reserve()?;
        let url = format!("ws://127.0.0.1:{}", port.number);
        let config_path = dir.join("config.json");
        std::fs::write(&config_path, config(port.number)?.to_string())?;
        let log = dir.join("proxy.log");
        let words = ["--config".as_ref(), config_path.as_os_str()];
        let cert = fake.address.cert.clone().unwrap_or_default();
        let env = [("SSL_CERT_FILE", cert.as_str())];
        let process = Process::start(binary, words, if cert.is_empty() { &[] } else { &env }, &log)?;
        let number = port.number;
        let mut proxy = Self { url, process, log, _port: port };
        proxy.wait(number).await?;
        Ok(proxy)
    }

    async fn wait(&mut self, port: u16) -> io::Result<()> {
        for _ in 0..START.as_millis() / POLL.as_millis() {
            if let Ok((200, _)) = http::call("GET", &format!("http://127.0.0.1:{port}/readyz"), "", None).await {
                return Ok(());
            }
            if let Some(status) = self.process.exited() {
                return Err(io::Error::other(format!("the proxy ended, {status}:\n{}", super::tail(&self.log))));
            }
            sleep(POLL).await;
        }
        Err(io::Error::other(format!("the proxy did not become ready:\n{}", super::tail(&self.log))))
    }
}

/// Builds the proxy in release mode, beside this program's own target directory.
pub async fn build() -> io::Result<PathBuf> {
    let program = super::program()?;
    let target = program.parent().and_then(Path::parent).ok_or(io::ErrorKind::NotFound)?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .args(["build", "--release", "--bin", "shardgate", "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .kill_on_drop(true)
        .status()
        .await?;
    if !status.success() {
        return Err(io::Error::other("the proxy could not be built"));
    }
    Ok(target.join("release").join("shardgate"))
}

fn config(options: &Options, fake: &Fake, port: u16) -> io::Result<Value> {
    let flags = [
        "channels",
        "presences",
        "emojis",
        "current_member",
        "members",
        "roles",
        "scheduled_events",
        "stage_instances",
        "stickers",
        "users",
        "voice_states",
    ];
    let mut config = json!({
        "log_level": "info",
        "token": "fake",
        "intents": crate::client::options::INTENTS,
        "bind": "127.0.0.1",
        "port": port,
        "shards": options.shards,
        "externally_accessible_url": format!("ws://127.0.0.1:{port}"),
        "cache": flags.iter().map(|it| (it.to_string(), true.into())).collect::<serde_json::Map<_, _>>(),
        "api_url": fake.address.rest,
        "backend": options.backend,
    });
    if let Some(cores) = options.cores {
        config["cores"] = cores.into();
    }
    if let Some(compression) = &options.upstream_compression {
        config["upstream_compression"] = compression.as_str().into();
    }
    if let Some(path) = &options.config {
        let more: serde_json::Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        more.into_iter().for_each(|(key, value)| config[key] = value);
    }
    Ok(config)
}
