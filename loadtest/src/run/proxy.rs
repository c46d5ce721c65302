//! The proxy under test: built, configured, started, ended and started again, and asked whether it is ready.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

use super::fake::Fake;
use super::options::Options;
use super::port::Port;
use super::proc::Process;
use crate::http;
use crate::tls::{self, Roots};

/// Until it serves every shard.
const START: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

const CACHE_FLAGS: [&str; 11] = [
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

/// How a proxy ends that is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGTERM.
    Terminated,
    /// SIGKILL.
    Killed,
}

pub struct Proxy {
    /// `ws://127.0.0.1:PORT`, or `wss`.
    pub url: String,
    /// Whom its clients must trust.
    pub roots: Roots,
    pub process: Process,
    /// Of the process that runs now; also for who cannot have this value meanwhile.
    pub pid: Rc<Cell<u32>>,
    pub log: PathBuf,
    binary: PathBuf,
    config: PathBuf,
    cert: Option<String>,
    _port: Port,
}

impl Proxy {
    /// Starts the proxy in front of `fake`, and waits until it is ready. Its files are `dir`/`name`.*, and what it
    /// keeps is in `data_dir`; `None`: in memory alone.
    ///
    /// Errs with the end of its log when it ends early or takes too long.
    pub async fn start(
        options: &Options,
        fake: &Fake,
        dir: &Path,
        name: &str,
        data_dir: Option<&Path>,
    ) -> io::Result<Self> {
        let binary = match &options.proxy {
            Some(path) => path.clone(),
            None => build().await?,
        };
        let config = |port| {
            let mut keys = config(options, fake, port)?;
            if options.is_client_tls {
                let (cert, key) = (dir.join("client-cert.pem"), dir.join("client-key.pem"));
                tls::write_throw_away(&cert, &key)?;
                keys["externally_accessible_url"] = format!("wss://127.0.0.1:{port}").into();
                keys["tls_cert"] = cert.display().to_string().into();
                keys["tls_key"] = key.display().to_string().into();
            }
            if let Some(data_dir) = data_dir {
                std::fs::create_dir_all(data_dir)?;
                keys["data_dir"] = data_dir.display().to_string().into();
            }
            Ok(keys)
        };
        Self::start_with(&binary, fake, dir, name, config).await
    }

    /// As `start`, with a program and a configuration, which is told the port.
    pub async fn start_with(
        binary: &Path,
        fake: &Fake,
        dir: &Path,
        name: &str,
        config: impl FnOnce(u16) -> io::Result<Value>,
    ) -> io::Result<Self> {
        let port = Port::reserve()?;
        let config = config(port.number)?;
        let roots = config["tls_cert"].as_str().map(|it| tls::roots_from(Path::new(it))).transpose()?.flatten();
        let s = if roots.is_some() { "s" } else { "" };
        let url = format!("ws{s}://127.0.0.1:{}", port.number);
        let config_path = dir.join(format!("{name}.json"));
        std::fs::write(&config_path, config.to_string())?;
        let log = dir.join(format!("{name}.log"));
        let cert = fake.address.cert.clone();
        let process = launch(binary, &config_path, cert.as_deref(), &log)?;
        let pid = Rc::new(Cell::new(process.pid));
        let binary = binary.to_owned();
        let mut proxy = Self { url, roots, process, pid, log, binary, config: config_path, cert, _port: port };
        proxy.wait().await?;
        Ok(proxy)
    }

    /// Ends the process and starts it again at once, with the same configuration on the same port. Waits for nothing
    /// but the old one's end. Answers whether that was a clean one; a killed process has no other.
    ///
    /// Errs when the new one could not be started.
    pub async fn restart(&mut self, death: Death) -> io::Result<bool> {
        let ended_well = match death {
            Death::Terminated => self.process.end().await.is_some_and(|it| it.success()),
            Death::Killed => {
                self.process.kill().await;
                true
            }
        };
        self.process = launch(&self.binary, &self.config, self.cert.as_deref(), &self.log)?;
        self.pid.set(self.process.pid);
        Ok(ended_well)
    }

    /// Until every shard is live. Errs when the process ends, or after `START`.
    pub async fn wait(&mut self) -> io::Result<()> {
        let url = format!("{}/readyz", self.url.replacen("ws", "http", 1));
        for _ in 0..START.as_millis() / POLL.as_millis() {
            if let Ok((200, _)) = http::call("GET", &url, "", self.roots.clone()).await {
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

fn launch(binary: &Path, config: &Path, cert: Option<&str>, log: &Path) -> io::Result<Process> {
    let env = cert.map(|it| ("SSL_CERT_FILE", it));
    Process::start(binary, ["--config".as_ref(), config.as_os_str()], env.as_slice(), log)
}

/// Builds the proxy in release mode, beside this program's own target directory.
pub async fn build() -> io::Result<PathBuf> {
    let program = super::program()?;
    let target = program.parent().and_then(Path::parent).ok_or(io::ErrorKind::NotFound)?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    // `cargo run` tells this program of its own package. ring's build script looks at that, and would have half the proxy built anew whenever
    // it is built by hand and from here in turn.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    let status = command
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

fn is_of_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|it| variable.starts_with(it))
}

/// `cache` with every flag on, or off.
pub fn all_flags(on: bool) -> Value {
    CACHE_FLAGS.iter().map(|it| (it.to_string(), on.into())).collect::<serde_json::Map<_, _>>().into()
}

/// What every proxy in front of `fake` is told.
pub fn base_config(fake: &Fake, port: u16, shards: u32, is_caching: bool) -> Value {
    json!({
        "log_level": "info",
        "token": "fake",
        "intents": crate::client::options::INTENTS,
        "bind": "127.0.0.1",
        "port": port,
        "shards": shards,
        "externally_accessible_url": format!("ws://127.0.0.1:{port}"),
        "cache": all_flags(is_caching),
        "api_url": fake.address.rest,
    })
}

fn config(options: &Options, fake: &Fake, port: u16) -> io::Result<Value> {
    let mut config = base_config(fake, port, options.shards, options.is_caching);
    config["backend"] = options.backend.as_str().into();
    if let Some(cores) = options.cores {
        config["cores"] = cores.into();
    }
    if let Some(compression) = &options.upstream_compression {
        config["upstream_compression"] = compression.as_str().into();
    }
    if let Some(log_bytes) = options.log_bytes {
        config["log_bytes"] = log_bytes.into();
    }
    if let Some(path) = &options.config {
        let more: serde_json::Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        more.into_iter().for_each(|(key, value)| config[key] = value);
    }
    Ok(config)
}
