//! The configuration: which keys there are, their types, ranges and defaults, and where the text comes from.
//!
//! A file written for gateway-proxy is read unchanged. Not here: the command line (`args`), what the machine can do
//! (`probe`), what Discord answers (`rest`), and what the runtime is told in the end (`settings`).

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tracing::level_filters::LevelFilter;

use super::access::AdminKey;
use super::certificates::TlsFiles;
use super::keys::{Found, Keys, Refusal};
use super::{address, presence};
use crate::cache::CacheFlags;
use crate::session::client::ClientLimits;
use crate::store::DISK_BYTES_MIN;
use crate::wire::Compression;
use crate::wire::egress::EgressProxy;

/// Read when neither the command line nor the environment names another.
const DEFAULT_PATH: &str = "config.json";
/// A configuration is a page of text; a path to something endless must not fill the memory.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// 65,536 shards of 1,000 guilds are more guilds than Discord has.
pub const SHARDS_MAX: u64 = 65_536;
pub const LOG_BYTES_MIN: u64 = 1 << 20;
const LOG_BYTES_MAX: u64 = 1 << 40;
/// A proxy with no guild and no client uses about as much.
const MEMORY_LIMIT_MIN: u64 = 8 << 20;
const MEMORY_LIMIT_MAX: u64 = 1 << 50;
const DISK_BYTES_DEFAULT: u64 = 4 << 30;
const DISK_BYTES_MAX: u64 = 1 << 46;
const LOG_SECONDS_DEFAULT: u64 = 300;
const LOG_SECONDS_MAX: u64 = 7 * 24 * 3600;
const CPUS_MAX: u64 = 4096;

/// Connections of clients: the machine's open files are the real limit, `settings` knows them.
const CLIENTS_DEFAULT: u64 = 16_384;
const CLIENTS_LIMIT: u64 = 1 << 20;
const IDENTIFY_RESERVE_MAX: u64 = 1_000_000;

const KEYS: [&str; 39] = [
    "log_level",
    "token",
    "intents",
    "port",
    "shards",
    "shard_start",
    "shard_end",
    "activity",
    "status",
    "backpressure",
    "validate_token",
    "twilight_http_proxy",
    "externally_accessible_url",
    "cache",
    "allow_compression",
    "disable_compression",
    "bind",
    "admin_bind",
    "api_url",
    "cores",
    "backend",
    "upstream_compression",
    "data_dir",
    "disk_bytes",
    "log_bytes",
    "log_seconds",
    "memory_limit",
    "egress_proxy",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "admin_key",
    "identify_reserve",
    "clients_max",
    "client_handshake_seconds",
    "client_payloads_per_minute",
    "client_failed_resumes",
    // Editors put it there; it configures nothing.
    "$schema",
    "$comment",
];

const CACHE_KEYS: [&str; 11] = [
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

/// The bot's token without the prefix `Bot `. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Strips a leading `Bot `; `None` for what cannot be a token: nothing, white space, control characters.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("Bot ").unwrap_or(text).trim_start();
        let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        printable.then(|| Self(text.to_owned()))
    }

    /// The secret itself, for IDENTIFY and for the REST header, and for nothing that is shown.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

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

/// Everything that the operator can decide, checked and with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    pub log_level: LevelFilter,
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
    /// `d` of op 3, `{{shard}}` not replaced yet.
    pub presence: Option<String>,
    pub validate_token: bool,
    /// `host` or `host:port`.
    pub twilight_http_proxy: Option<String>,
    /// Without trailing slash.
    pub externally_accessible_url: String,
    pub cache: CacheFlags,
    pub allow_compression: bool,
    /// Through which Discord is reached.
    pub egress_proxy: Option<EgressProxy>,
    /// Clients speak TLS.
    pub tls: Option<TlsFiles>,
    /// Opens the operator's pages.
    pub admin_key: Option<AdminKey>,
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

/// What the operator should hear about a configuration that is good enough to start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Note(String),
    Warning(String),
}

/// The part of the process's environment that the configuration depends on.
#[derive(Clone, Default)]
pub struct Environment {
    /// `CONFIG`: a path, or the JSON itself when it begins with `{`.
    pub config: Option<String>,
    /// `TOKEN`
    pub token: Option<String>,
}

impl Environment {
    pub fn of_process() -> Self {
        Self { config: std::env::var("CONFIG").ok(), token: std::env::var("TOKEN").ok() }
    }
}

/// A configuration and where it was found.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// For messages: the path, or `CONFIG`.
    pub source: String,
    pub notices: Vec<Notice>,
}

/// Reads the configuration: `--config PATH`, else env `CONFIG`, else `config.json` in the working directory.
pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Loaded, Refusal> {
    let (source, text) = match (path, environment.config.as_deref().filter(|it| !it.is_empty())) {
        (Some(path), _) => (path.display().to_string(), read_file(path)?),
        (None, Some(json)) if json.trim_start().starts_with('{') => ("CONFIG".to_owned(), json.as_bytes().to_vec()),
        (None, Some(path)) => (path.to_owned(), read_file(Path::new(path))?),
        (None, None) => (DEFAULT_PATH.to_owned(), read_file(Path::new(DEFAULT_PATH))?),
    };
    let (config, notices) = parse(&text, environment).map_err(|refusal| refusal.within(&source))?;
    Ok(Loaded { config, source, notices })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Refusal> {
    use std::io::Read;
    let wanted = "a readable file, named by --config PATH or CONFIG, or config.json in the working directory";
    let refuse = |found: String| Refusal::new(&path.display().to_string(), found, wanted);
    let file = std::fs::File::open(path).map_err(|error| refuse(error.to_string()))?;
    let mut text = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(refuse(format!("more than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Reads the JSON text of a configuration.
///
/// Errs at the first key that is missing, of the wrong type or out of range, and at broken JSON with line and column.
fn parse(text: &[u8], environment: &Environment) -> Result<(Config, Vec<Notice>), Refusal> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let value: Value = serde_json::from_slice(text).map_err(|error| syntax_refusal(&error))?;
    let Value::Object(map) = value else {
        return Err(Refusal::of("the JSON text is not an object: wanted {\"token\": …, \"intents\": …}"));
    };
    let keys = Keys::new("", &map);
    let mut notices = Vec::new();
    let config = read_config(&keys, environment, &mut notices)?;
    notices.extend(keys.unknown(&KEYS).into_iter().map(Notice::Warning));
    Ok((config, notices))
}

fn syntax_refusal(error: &serde_json::Error) -> Refusal {
    let (line, column, text) = (error.line(), error.column(), error.to_string());
    let what = text.split(" at line ").next().unwrap_or_default();
    Refusal::of(format!("line {line}, column {column}: not JSON: {what}"))
}

fn read_config(keys: &Keys<'_>, environment: &Environment, notices: &mut Vec<Notice>) -> Result<Config, Refusal> {
    let port = keys.get("port").map_or(Ok(7878), |it| it.integer(0, u16::MAX.into()))? as u16;
    let (shards, shard_start, shard_end) = read_shards(keys)?;
    let (presence, warnings) = presence::presence(keys.get_nullable("activity"), keys.get("status"))?;
    notices.extend(warnings.into_iter().map(Notice::Warning));
    if let Some(found) = keys.get("backpressure") {
        found.integer(0, u64::MAX)?;
        notices.push(Notice::Note(
            "`backpressure` is accepted and not needed: a slow client finds its events in the log (`log_bytes`, `log_seconds`)".into(),
        ));
    }
    let tls = read_tls(keys)?;
    Ok(Config {
        log_level: keys.get("log_level").map_or(Ok(LevelFilter::INFO), |it| read_log_level(&it))?,
        token: read_token(keys, environment)?,
        intents: keys
            .get("intents")
            .ok_or_else(|| keys.missing("intents", "an integer, the sum of the intents' bits"))?
            .integer(0, u64::MAX)?,
        bind: keys.get("bind").map_or(Ok(Ipv4Addr::UNSPECIFIED.into()), |it| read_bind(&it))?,
        port,
        admin_bind: keys.get_nullable("admin_bind").map(|it| read_admin_bind(&it)).transpose()?,
        shards,
        shard_start,
        shard_end,
        presence,
        validate_token: keys.get("validate_token").map_or(Ok(true), |it| it.boolean())?,
        twilight_http_proxy: keys.get_nullable("twilight_http_proxy").map(|it| address::authority(&it)).transpose()?,
        externally_accessible_url: match keys.get_nullable("externally_accessible_url") {
            Some(found) => address::websocket_url(&found, notices)?,
            None if tls.is_some() => format!("wss://localhost:{port}"),
            None => format!("ws://localhost:{port}"),
        },
        cache: keys.get("cache").map_or(Ok(CacheFlags::default()), |it| read_cache(&it, notices))?,
        allow_compression: read_allow_compression(keys, notices)?,
        egress_proxy: keys.get_nullable("egress_proxy").map(|it| address::egress_proxy(it.secret())).transpose()?,
        tls,
        admin_key: keys.get_nullable("admin_key").map(|it| read_admin_key(it.secret())).transpose()?,
        api_url: keys.get("api_url").map_or(Ok(address::API_URL.into()), |it| address::http_url(&it))?,
        cores: keys.get_nullable("cores").map_or(Ok(CoresWanted::All), |it| read_cores(&it))?,
        backend: keys.get("backend").map_or(Ok(BackendWanted::Auto), |it| it.one_of(&BACKENDS))?,
        upstream_compression: keys.get("upstream_compression").map_or(Ok(Compression::Zstd), |it| {
            it.one_of(&[
                ("zstd-stream", Compression::Zstd),
                ("zlib-stream", Compression::Zlib),
                ("none", Compression::None),
            ])
        })?,
        data_dir: keys.get_nullable("data_dir").map(|it| read_data_dir(&it)).transpose()?,
        disk_bytes: keys
            .get("disk_bytes")
            .map_or(Ok(DISK_BYTES_DEFAULT), |it| it.integer(DISK_BYTES_MIN, DISK_BYTES_MAX))?,
        log_bytes: keys.get("log_bytes").map(|it| it.integer(LOG_BYTES_MIN, LOG_BYTES_MAX)).transpose()?,
        log_keep: Duration::from_secs(
            keys.get("log_seconds").map_or(Ok(LOG_SECONDS_DEFAULT), |it| it.integer(1, LOG_SECONDS_MAX))?,
        ),
        identify_reserve: keys
            .get_nullable("identify_reserve")
            .map(|it| it.integer(0, IDENTIFY_RESERVE_MAX))
            .transpose()?
            .map(|it| it as u32),
        clients_max: keys.get("clients_max").map_or(Ok(CLIENTS_DEFAULT), |it| it.integer(1, CLIENTS_LIMIT))? as usize,
        client_limits: read_client_limits(keys)?,
        memory_limit: keys
            .get_nullable("memory_limit")
            .map(|it| it.integer(MEMORY_LIMIT_MIN, MEMORY_LIMIT_MAX))
            .transpose()?,
    })
}

/// `tls_cert` and `tls_key` go together; what is in the files is read by `certificates`.
fn read_tls(keys: &Keys<'_>) -> Result<Option<TlsFiles>, Refusal> {
    let path = |key| keys.get_nullable(key).map(|it| it.text("a path").map(PathBuf::from)).transpose();
    let (cert, key, client_ca) = (path("tls_cert")?, path("tls_key")?, path("tls_client_ca")?);
    match (cert, key, client_ca) {
        (None, None, None) => Ok(None),
        (Some(cert), Some(key), client_ca) => Ok(Some(TlsFiles { cert, key, client_ca })),
        (Some(_), None, _) => Err(keys.missing("tls_key", "the private key of tls_cert, a PEM file")),
        (None, ..) => Err(keys.missing("tls_cert", "the certificate that clients are shown, a PEM file")),
    }
}

fn read_admin_key(found: Found<'_>) -> Result<AdminKey, Refusal> {
    const WANTED: &str = "a key of at least 16 printable characters without white space";
    AdminKey::new(found.text(WANTED)?).ok_or_else(|| found.refuse(WANTED))
}

fn read_client_limits(keys: &Keys<'_>) -> Result<ClientLimits, Refusal> {
    let mut limits = ClientLimits::default();
    if let Some(found) = keys.get("client_handshake_seconds") {
        limits.handshake = Duration::from_secs(found.integer(1, 600)?);
    }
    if let Some(found) = keys.get("client_payloads_per_minute") {
        // Discord grants 120: less would close clients that keep all its rules.
        limits.payloads_per_minute = found.integer(120, 1_000_000)? as u32;
    }
    if let Some(found) = keys.get("client_failed_resumes") {
        limits.failed_resumes = found.integer(1, 1_000_000)? as u32;
    }
    Ok(limits)
}

const BACKENDS: [(&str, BackendWanted); 3] =
    [("auto", BackendWanted::Auto), ("io_uring", BackendWanted::IoUring), ("epoll", BackendWanted::Epoll)];

fn read_log_level(found: &Found<'_>) -> Result<LevelFilter, Refusal> {
    const WANTED: &str = "one of \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"off\"";
    found.text(WANTED)?.parse().map_err(|_| found.refuse(WANTED))
}

/// An empty `token` counts as none: the example of gateway-proxy has one, for the operator to fill in.
fn read_token(keys: &Keys<'_>, environment: &Environment) -> Result<Token, Refusal> {
    const WANTED: &str = "the bot's token here or in the environment variable TOKEN";
    const MALFORMED: &str = "a token of printable characters without white space";
    let in_file = match keys.get("token").map(Found::secret) {
        Some(found) => Some(found.text(WANTED)?).filter(|text| !text.is_empty()),
        None => None,
    };
    match (in_file, environment.token.as_deref().filter(|text| !text.is_empty())) {
        (Some(text), _) => Token::new(text).ok_or_else(|| Refusal::new("token", "another string", MALFORMED)),
        (None, Some(text)) => Token::new(text).ok_or_else(|| Refusal::new("TOKEN", "another string", MALFORMED)),
        (None, None) if keys.get("token").is_some() => Err(Refusal::new("token", "an empty string", WANTED)),
        (None, None) => Err(keys.missing("token", WANTED)),
    }
}

type ShardKeys = (Option<u32>, Option<u32>, Option<u32>);

/// As far as the three keys can be judged without knowing Discord's recommendation; `settings` does the rest.
fn read_shards(keys: &Keys<'_>) -> Result<ShardKeys, Refusal> {
    let read = |key, min| keys.get_nullable(key).map(|it| it.integer(min, SHARDS_MAX)).transpose();
    let (shards, start, end) = (read("shards", 1)?, read("shard_start", 0)?, read("shard_end", 1)?);
    let (start_max, end_max) = (end.or(shards).unwrap_or(SHARDS_MAX) - 1, shards.unwrap_or(SHARDS_MAX));
    if end.is_some_and(|end| end > end_max) {
        keys.get("shard_end").map_or(Ok(0), |it| it.integer(1, end_max))?;
    }
    if start.is_some_and(|start| start > start_max) {
        keys.get("shard_start").map_or(Ok(0), |it| it.integer(0, start_max))?;
    }
    let narrow = |it: Option<u64>| it.map(|it| it as u32);
    Ok((narrow(shards), narrow(start), narrow(end)))
}

fn read_cache(found: &Found<'_>, notices: &mut Vec<Notice>) -> Result<CacheFlags, Refusal> {
    let keys = Keys::new("cache.", found.object()?);
    let mut flags = CacheFlags::default();
    for (key, flag) in CACHE_KEYS.into_iter().zip([
        &mut flags.channels,
        &mut flags.presences,
        &mut flags.emojis,
        &mut flags.current_member,
        &mut flags.members,
        &mut flags.roles,
        &mut flags.scheduled_events,
        &mut flags.stage_instances,
        &mut flags.stickers,
        &mut flags.users,
        &mut flags.voice_states,
    ]) {
        if let Some(found) = keys.get(key) {
            *flag = found.boolean()?;
        }
    }
    notices.extend(keys.unknown(&CACHE_KEYS).into_iter().map(Notice::Warning));
    Ok(flags)
}

/// Forks of gateway-proxy know the opposite key.
fn read_allow_compression(keys: &Keys<'_>, notices: &mut Vec<Notice>) -> Result<bool, Refusal> {
    let allow = keys.get("allow_compression").map(|it| it.boolean()).transpose()?;
    let disable = keys.get("disable_compression").map(|it| it.boolean()).transpose()?;
    if allow.is_some() && allow == disable {
        let line = "`allow_compression` and `disable_compression` contradict each other; `allow_compression` counts";
        notices.push(Notice::Warning(line.into()));
    }
    Ok(allow.or(disable.map(|disable| !disable)).unwrap_or(true))
}

fn read_bind(found: &Found<'_>) -> Result<IpAddr, Refusal> {
    const WANTED: &str = "an IP address such as \"0.0.0.0\" or \"::\"";
    found.text(WANTED)?.parse().map_err(|_| found.refuse(WANTED))
}

/// Port 0 is a free one; the log names it.
fn read_admin_bind(found: &Found<'_>) -> Result<SocketAddr, Refusal> {
    const WANTED: &str = "an IP address and a port such as \"127.0.0.1:7879\" or \"[::1]:7879\"";
    found.text(WANTED)?.parse().map_err(|_| found.refuse(WANTED))
}

fn read_cores(found: &Found<'_>) -> Result<CoresWanted, Refusal> {
    let refuse = || found.refuse(format_args!("a number of cores from 1, or a list of different CPU numbers from 0"));
    if let Some(count) = found.value().as_u64() {
        return if (1..=CPUS_MAX).contains(&count) { Ok(CoresWanted::Count(count as usize)) } else { Err(refuse()) };
    }
    let list = found.value().as_array().filter(|list| !list.is_empty()).ok_or_else(refuse)?;
    let mut cpus = Vec::with_capacity(list.len());
    for cpu in list {
        let cpu = cpu.as_u64().filter(|cpu| *cpu < CPUS_MAX).ok_or_else(refuse)? as usize;
        if cpus.contains(&cpu) {
            return Err(refuse());
        }
        cpus.push(cpu);
    }
    Ok(CoresWanted::List(cpus))
}

fn read_data_dir(found: &Found<'_>) -> Result<PathBuf, Refusal> {
    const WANTED: &str = "a writable directory";
    let path = PathBuf::from(found.text(WANTED)?);
    let writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    if !path.is_dir() || writable.is_err() {
        return Err(found.refuse(WANTED));
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
