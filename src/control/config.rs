//! The configuration: what it holds once it is read, its defaults, and the rules that concern several keys at once.
//!
//! A file written for gateway-proxy is read unchanged. Not here: the keys one by one (`table`), the places values come from (`sources`), the
//! token's (`token`), the page of all keys (`document`); the command line (`args`), what the machine can do (`probe`), what Discord answers
//! (`rest`), and what the runtime is told in the end (`settings`).

#![forbid(unsafe_code)]

pub mod document;
mod ordinal;
mod readers;
pub mod sources;
pub mod table;
pub mod token;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

pub use self::sources::Environment;
use self::sources::{FlagValue, Values};
pub use self::table::{LOG_BYTES_MIN, SHARDS_MAX};
pub use self::token::Token;
use super::access::AdminKey;
use super::certificates::TlsFiles;
use super::keys::Refusal;
use super::{address, presence};
use crate::cache::CacheFlags;
use crate::session::client::ClientLimits;
use crate::wire::Compression;
use crate::wire::egress::EgressProxy;

/// `cores`: which CPUs get a core thread each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoresWanted {
    All,
    Count(usize),
    List(Vec<usize>),
}

/// `backend`, before the machine was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendWanted {
    Auto,
    IoUring,
    Epoll,
}

/// `log_format`: how a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// Everything that the operator can decide, checked and with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    pub log_level: LevelFilter,
    pub log_format: LogFormat,
    pub token: Token,
    pub intents: u64,
    pub bind: IpAddr,
    pub port: u16,
    /// A listener for the operator's pages alone.
    pub admin_bind: Option<SocketAddr>,
    pub shards: Option<u32>,
    pub shard_start: Option<u32>,
    /// Exclusive.
    pub shard_end: Option<u32>,
    /// The number of this process among those that share the shards.
    pub ordinal: Option<u32>,
    pub shards_per_process: Option<u32>,
    /// `d` of op 3, `{{shard}}` not replaced yet.
    pub presence: Option<String>,
    pub validate_token: bool,
    /// `host` or `host:port`.
    pub twilight_http_proxy: Option<String>,
    /// Without trailing slash. Empty until all keys are read, if it is not given.
    pub externally_accessible_url: String,
    pub cache: CacheFlags,
    pub allow_compression: bool,
    /// Opens the operator's pages.
    pub admin_key: Option<AdminKey>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_client_ca: Option<PathBuf>,
    /// Made of the three paths once all keys are read. `None`: clients speak without TLS.
    pub tls: Option<TlsFiles>,
    /// Through which Discord is reached.
    pub egress_proxy: Option<EgressProxy>,
    /// Without trailing slash.
    pub api_url: String,
    pub cores: CoresWanted,
    pub backend: BackendWanted,
    pub upstream_compression: Compression,
    pub data_dir: Option<PathBuf>,
    /// `None`: as `memory` says.
    pub log_bytes: Option<u64>,
    /// All files in `data_dir` together.
    pub disk_bytes: u64,
    pub log_keep: Duration,
    /// IDENTIFYs that are never spent; `None` for the default, which depends on the number of shards.
    pub identify_reserve: Option<u32>,
    /// Connections of clients, before the machine was asked.
    pub clients_max: usize,
    pub client_limits: ClientLimits,
    /// Bytes of resident memory; `None`: as `memory` says.
    pub memory_limit: Option<u64>,
}

impl Default for Config {
    /// With no token, and what the table says of the other keys.
    fn default() -> Self {
        Self {
            log_level: LevelFilter::INFO,
            log_format: LogFormat::Human,
            token: Token::default(),
            intents: 0,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            port: 7878,
            admin_bind: None,
            shards: None,
            shard_start: None,
            shard_end: None,
            ordinal: None,
            shards_per_process: None,
            presence: None,
            validate_token: true,
            twilight_http_proxy: None,
            externally_accessible_url: String::new(),
            cache: CacheFlags::default(),
            allow_compression: true,
            admin_key: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            tls: None,
            egress_proxy: None,
            api_url: address::API_URL.into(),
            cores: CoresWanted::All,
            backend: BackendWanted::Auto,
            upstream_compression: Compression::Zstd,
            data_dir: None,
            log_bytes: None,
            disk_bytes: 4 << 30,
            log_keep: Duration::from_secs(300),
            identify_reserve: None,
            clients_max: 16_384,
            client_limits: ClientLimits::default(),
            memory_limit: None,
        }
    }
}

/// What the operator should hear about a configuration that is good enough to start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Note(String),
    Warning(String),
}

/// A configuration and where it was found.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// For messages: the path, `CONFIG`, or that there is no file.
    pub source: String,
    /// What was given, and where.
    pub values: Values,
    /// Where the token stood.
    pub token_source: String,
    pub notices: Vec<Notice>,
}

impl Loaded {
    fn new(config: Config, values: Values, token_source: String, notices: Vec<Notice>) -> Self {
        let source = values.file.clone().unwrap_or_else(|| "no file: environment and flags".to_owned());
        Self { config, source, values, token_source, notices }
    }
}

/// Reads the configuration: `--config PATH`, else env `CONFIG`, else `config.json` in the working directory; and the environment.
pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Loaded, Refusal> {
    load_with(path, environment, &[])
}

/// The same, with keys from the command line before all others.
///
/// Errs at the first key that is missing, of the wrong type or out of range, and at broken JSON with line and column.
pub fn load_with(path: Option<&Path>, environment: &Environment, flags: &[FlagValue]) -> Result<Loaded, Refusal> {
    let (values, notices) = sources::collect(path, environment, flags)?;
    read(values, environment, notices)
}

/// The same, of these keys alone: what the others say, and a token that is missing, does not matter to whoever only asks the running proxy.
pub fn load_some(
    path: Option<&Path>,
    environment: &Environment,
    flags: &[FlagValue],
    keys: &[&str],
) -> Result<Loaded, Refusal> {
    let (values, mut notices) = sources::collect(path, environment, flags)?;
    let mut config = read_keys(&values, &mut notices, |key| keys.contains(&key.name))?;
    join_tls(&values, &mut config)?;
    Ok(Loaded::new(config, values, String::new(), notices))
}

/// Makes a configuration of the values.
pub fn read(values: Values, environment: &Environment, unknown: Vec<Notice>) -> Result<Loaded, Refusal> {
    let mut notices = Vec::new();
    let mut config = read_keys(&values, &mut notices, |_| true)?;
    let hinted = |refusal| match unknown.first() {
        // A key that is missing may be there under a wrong name.
        Some(Notice::Warning(line)) => Refusal::of(format!("{refusal} ({line})")),
        _ => refusal,
    };
    let (token, token_source) = token::find(&values, environment, &mut notices).map_err(hinted)?;
    config.token = token;
    join(&values, &mut config, &mut notices).map_err(hinted)?;
    notices.extend(unknown);
    Ok(Loaded::new(config, values, token_source, notices))
}

fn read_keys(
    values: &Values,
    notices: &mut Vec<Notice>,
    is_wanted: impl Fn(&table::Key) -> bool,
) -> Result<Config, Refusal> {
    let mut config = Config::default();
    for key in table::keys().filter(|key| is_wanted(key)) {
        if let Some(found) = values.found(key) {
            key.read(&found, &mut config, notices).map_err(|refusal| values.told(key.name, refusal))?;
        }
    }
    Ok(config)
}

/// The rules that concern several keys, and keys that must be there.
fn join(values: &Values, config: &mut Config, notices: &mut Vec<Notice>) -> Result<(), Refusal> {
    if values.get("intents").is_none() {
        let wanted = "an integer, the sum of the intents' bits";
        return Err(values.told("intents", Refusal::new("intents", "nothing", wanted)));
    }
    check_shards(values, config)?;
    ordinal::join(values, config)?;
    let (presence, warnings) = presence::presence(values.get("activity"), values.get("status"))
        .map_err(|refusal| values.told("activity", refusal))?;
    config.presence = presence;
    notices.extend(warnings.into_iter().map(Notice::Warning));
    if values.get("backpressure").is_some() {
        notices.push(Notice::Note(
            "`backpressure` is accepted and not needed: a slow client finds its events in the log (`log_bytes`, `log_seconds`)".into(),
        ));
    }
    join_compression(values, config, notices)?;
    join_tls(values, config)?;
    check_admin_bind(values, config)?;
    if config.externally_accessible_url.is_empty() {
        let s = if config.tls.is_some() { "s" } else { "" };
        config.externally_accessible_url = format!("ws{s}://localhost:{}", config.port);
    }
    Ok(())
}

/// Two listeners of ours at one address would each be "another program" to the other.
fn check_admin_bind(values: &Values, config: &Config) -> Result<(), Refusal> {
    let Some(admin) = config.admin_bind.filter(|it| it.port() != 0 && it.port() == config.port) else { return Ok(()) };
    if admin.ip() != config.bind && !admin.ip().is_unspecified() && !config.bind.is_unspecified() {
        return Ok(());
    }
    let wanted = format_args!("another port than `port` ({})", config.port);
    Err(values.told("admin_bind", Refusal::new("admin_bind", admin, wanted)))
}

/// Certificate and key go together; what is in the files is read by `certificates`.
fn join_tls(values: &Values, config: &mut Config) -> Result<(), Refusal> {
    let missing = |name, wanted| Err(values.told(name, Refusal::new(name, "nothing", wanted)));
    config.tls = match (config.tls_cert.clone(), config.tls_key.clone(), config.tls_client_ca.clone()) {
        (None, None, None) => None,
        (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca }),
        (Some(_), None, _) => return missing("tls_key", "the private key of tls_cert, a PEM file"),
        (None, ..) => return missing("tls_cert", "the certificate that clients are shown, a PEM file"),
    };
    Ok(())
}

/// As far as the three keys can be judged without knowing Discord's recommendation; `settings` does the rest.
fn check_shards(values: &Values, config: &Config) -> Result<(), Refusal> {
    let (shards, end) = (config.shards.map(u64::from), config.shard_end.map(u64::from));
    let (start_max, end_max) = (end.or(shards).unwrap_or(SHARDS_MAX) - 1, shards.unwrap_or(SHARDS_MAX));
    for (name, min, max) in [("shard_end", 1, end_max), ("shard_start", 0, start_max)] {
        if let Some(found) = values.get(name) {
            found.integer(min, max).map_err(|refusal| values.told(name, refusal))?;
        }
    }
    Ok(())
}

/// Forks of gateway-proxy know the opposite key.
fn join_compression(values: &Values, config: &mut Config, notices: &mut Vec<Notice>) -> Result<(), Refusal> {
    let Some(found) = values.get("disable_compression") else { return Ok(()) };
    let disable = found.boolean().map_err(|refusal| values.told("disable_compression", refusal))?;
    if values.get("allow_compression").is_none() {
        config.allow_compression = !disable;
    } else if config.allow_compression == disable {
        let line = "`allow_compression` and `disable_compression` contradict each other; `allow_compression` counts";
        notices.push(Notice::Warning(line.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
