//! The settings of `loadtest run` and their names on the command line.

use std::path::PathBuf;

use super::scenario::Scenario;
use crate::args::{Args, Spec};
use crate::compress::Compression;
use crate::relay::Kind;

/// So that heartbeats happen within a short run.
const HEARTBEAT_MS_MAX: u64 = 10_000;

pub const SPECS: &[Spec] = &[
    ("shards", Some("N"), "default 225"),
    ("rate", Some("N"), "events per second over all shards, default 10000; inf: as fast as clients take them"),
    ("seconds", Some("N"), "of each scenario, default 30"),
    ("scenario", Some("NAME"), "steady, deploy, away, drop, stalled, restart, kill or all; default deploy"),
    ("compress", Some("NAME"), "of the clients: none, zlib-stream, zstd-stream; default none"),
    ("clients-per-shard", Some("N"), "default 1"),
    ("guilds", Some("N"), "per shard, default 20"),
    ("members", Some("N"), "listed in each guild, default 20"),
    ("parse-every", Some("N"), "clients parse every N-th event whole, default 16"),
    ("seed", Some("N"), "default 1"),
    ("proxy", Some("PATH"), "the proxy's binary; default: build it in release mode"),
    ("backend", Some("NAME"), "the proxy's: auto, io_uring, epoll; default auto"),
    ("cores", Some("N"), "the proxy's; default all"),
    ("upstream-compression", Some("NAME"), "the proxy's; default its own"),
    ("config", Some("PATH"), "a JSON object whose keys are added to the proxy's configuration"),
    ("tls", None, "the fake Discord speaks TLS"),
    ("client-tls", None, "clients speak TLS to the proxy"),
    ("direct", None, "no proxy: clients connect to the fake Discord, which shows what the load test itself costs"),
    ("relay", Some("KIND"), "no proxy but a bare relay: epoll, ring, glommio; what moving the bytes costs at least"),
    ("no-cache", None, "all of the proxy's cache flags are off"),
    ("max-concurrency", Some("N"), "Discord's, once all shards have started; default = shards"),
    ("durable", None, "the proxy keeps its sessions in a data_dir of this run; always so with restart, kill and all"),
    ("json", Some("PATH"), "write the figures there"),
];

#[derive(Clone, Debug)]
pub struct Options {
    pub shards: u32,
    pub events_per_s: f64,
    pub seconds: u64,
    pub scenarios: Vec<Scenario>,
    pub compression: Compression,
    pub clients_per_shard: u32,
    pub guilds: u32,
    pub members: u32,
    pub parse_every: u64,
    pub seed: u64,
    pub proxy: Option<PathBuf>,
    pub backend: String,
    pub cores: Option<u32>,
    pub upstream_compression: Option<String>,
    pub config: Option<PathBuf>,
    pub is_tls: bool,
    pub is_client_tls: bool,
    pub is_direct: bool,
    /// A bare relay in the proxy's place.
    pub relay: Option<Kind>,
    pub is_caching: bool,
    /// The proxy's, where not its own.
    pub log_bytes: Option<u64>,
    /// Clients beat at least so often, whatever HELLO says.
    pub heartbeat_ms_max: u64,
    /// No line while it runs.
    pub is_quiet: bool,
    pub max_concurrency: Option<u32>,
    pub is_durable: bool,
    pub json: Option<PathBuf>,
}

impl Options {
    /// Errs with one line that names the option.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let scenario = args.text("scenario").unwrap_or("deploy");
        let mut options = Self {
            shards: args.get("shards", 225)?,
            events_per_s: args.get("rate", 10_000.0)?,
            seconds: args.get("seconds", 30)?,
            scenarios: Scenario::named(scenario).ok_or_else(|| format!("--scenario: there is no {scenario:?}"))?,
            compression: args.get("compress", Compression::None)?,
            clients_per_shard: args.get("clients-per-shard", 1)?,
            guilds: args.get("guilds", 20)?,
            members: args.get("members", 20)?,
            parse_every: args.get("parse-every", 16u64)?.max(1),
            seed: args.get("seed", 1)?,
            proxy: args.text("proxy").map(PathBuf::from),
            backend: args.get("backend", "auto".to_owned())?,
            cores: args.text("cores").map(|_| args.get("cores", 1)).transpose()?,
            upstream_compression: args.text("upstream-compression").map(str::to_owned),
            config: args.text("config").map(PathBuf::from),
            is_tls: args.has("tls"),
            is_client_tls: args.has("client-tls"),
            is_direct: args.has("direct"),
            relay: args.text("relay").map(|_| args.get("relay", Kind::Epoll)).transpose()?,
            is_caching: !args.has("no-cache"),
            log_bytes: None,
            heartbeat_ms_max: HEARTBEAT_MS_MAX,
            is_quiet: false,
            max_concurrency: args.text("max-concurrency").map(|_| args.get("max-concurrency", 1)).transpose()?,
            is_durable: args.has("durable"),
            json: args.text("json").map(PathBuf::from),
        };
        if options.shards == 0 || options.clients_per_shard == 0 || options.seconds == 0 {
            return Err("--shards, --clients-per-shard and --seconds must be at least 1".to_owned());
        }
        if options.is_direct && options.relay.is_some() {
            return Err("--direct and --relay exclude each other".to_owned());
        }
        if options.is_without_proxy() {
            // `all` means all that there can be.
            options.scenarios.retain(|it| it.death().is_none());
            if options.scenarios.is_empty() {
                return Err("--direct and --relay: there is no proxy to restart".to_owned());
            }
        }
        if options.relay.is_some() && options.scenarios != [Scenario::Steady] {
            return Err(
                "--relay: only --scenario steady, since a connection through it cannot be made again".to_owned()
            );
        }
        Ok(options)
    }

    /// Clients talk to the fake Discord itself.
    pub fn is_without_proxy(&self) -> bool {
        self.is_direct || self.relay.is_some()
    }
}
