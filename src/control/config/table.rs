//! The one table of all keys: name, shape, default, meaning, and whether a reload takes it.
//!
//! All that knows about keys follows it: what is read from the file, which `SHARDGATE_*` variables and which flags there are, the page
//! `docs/configuration.md`, `check`, the reload. A new key is one entry here, and a field with its default in `Config`. Not here: what concerns
//! several keys at once (`config::join`), and where values come from (`sources`).

use std::time::Duration;

use super::{BackendWanted, Config, LogFormat, Notice};
use super::{ordinal, readers};
use crate::control::keys::{Found, Refusal};
use crate::control::{address, presence};
use crate::store::DISK_BYTES_MIN;
use crate::wire::Compression;

/// 65,536 shards of 1,000 guilds are more guilds than Discord has.
pub const SHARDS_MAX: u64 = 65_536;
pub const LOG_BYTES_MIN: u64 = 1 << 20;
const LOG_BYTES_MAX: u64 = 1 << 40;
/// A proxy with no guild and no client uses about as much.
const MEMORY_LIMIT_MIN: u64 = 8 << 20;
const MEMORY_LIMIT_MAX: u64 = 1 << 50;
const DISK_BYTES_MAX: u64 = 1 << 46;
const LOG_SECONDS_MAX: u64 = 7 * 24 * 3600;
const CLIENTS_LIMIT: u64 = 1 << 20;
const IDENTIFY_RESERVE_MAX: u64 = 1_000_000;

/// A reader of a value that no simple shape describes.
type Read = fn(&Found<'_>, &mut Config, &mut Vec<Notice>) -> Result<(), Refusal>;

/// What a value looks like, and where it goes.
pub enum Shape {
    Boolean(fn(&mut Config, bool)),
    /// Both bounds are within.
    Integer {
        min: u64,
        max: u64,
        set: fn(&mut Config, u64),
    },
    /// The setter gets one of the words.
    Word {
        words: &'static [&'static str],
        set: fn(&mut Config, &str),
    },
    /// A string; `wanted` describes it for people.
    Text {
        wanted: &'static str,
        read: Read,
    },
    /// Any other JSON.
    Json {
        wanted: &'static str,
        read: Read,
    },
}

/// What counts when a key is not given.
pub enum Otherwise {
    /// This value, as JSON. A `null` is refused.
    Value(&'static str),
    /// What this text says. A `null` means the same.
    Unset(&'static str),
    /// Nothing: the start is refused.
    Refused,
}

/// What a change of the key in a running proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    AtOnce,
    Restart,
    /// A restart after which nothing in `data_dir` counts any more (`store::identity`): an IDENTIFY per shard, and clients start over.
    NewSessions,
}

/// One row of the table.
pub struct Key {
    /// As in the file; `cache.members` is `members` in the object `cache`.
    pub name: &'static str,
    pub shape: Shape,
    pub otherwise: Otherwise,
    pub reload: Reload,
    /// Never shown.
    pub is_secret: bool,
    /// One sentence or two, for `docs/configuration.md`.
    pub meaning: &'static str,
}

/// Keys that belong together, under a heading.
pub struct Section {
    pub title: &'static str,
    pub keys: &'static [Key],
}

use Otherwise::{Refused, Unset, Value};
use Reload::{AtOnce, NewSessions, Restart};
use Shape::{Boolean, Integer, Json, Text, Word};

/// What most rows have in common.
const KEY: Key = Key {
    name: "",
    shape: Boolean(|_, _| {}),
    otherwise: Value("false"),
    reload: Restart,
    is_secret: false,
    meaning: "",
};

/// Accepted in the file and nowhere else: editors put `$schema` there, people `$comment`.
pub const IGNORED: [&str; 2] = ["$schema", "$comment"];

/// All keys, in the order in which they are read and shown.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "The bot",
        keys: &[
            Key {
                name: "token",
                shape: Text { wanted: "the bot's token, with or without `Bot `", read: |_, _, _| Ok(()) },
                otherwise: Unset("the other places of [the token](#the-token)"),
                reload: NewSessions,
                is_secret: true,
                meaning: "Also what clients must show, unless `validate_token` is off.",
            },
            Key {
                name: "token_file",
                shape: Text { wanted: "a path", read: readers::token_file },
                otherwise: Unset("none"),
                meaning: "A file with the token and nothing else; a newline at its end does not count.",
                ..KEY
            },
            Key {
                name: "intents",
                shape: Integer { min: 0, max: u64::MAX, set: |config, bits| config.intents = bits },
                otherwise: Refused,
                reload: NewSessions,
                meaning: "The sum of the intents' bits: what Discord sends. All clients get it.",
                ..KEY
            },
            Key {
                name: "shards",
                shape: Integer { min: 1, max: SHARDS_MAX, set: |config, shards| config.shards = Some(shards as u32) },
                otherwise: Unset("as Discord recommends"),
                reload: NewSessions,
                meaning: "The number of shards in all. Left out, the number from before a restart is kept while Discord's recommendation is within a factor of two.",
                ..KEY
            },
            Key {
                name: "shard_start",
                shape: Integer {
                    min: 0,
                    max: SHARDS_MAX,
                    set: |config, start| config.shard_start = Some(start as u32),
                },
                otherwise: Unset("0"),
                meaning: "The first shard that this process holds.",
                ..KEY
            },
            Key {
                name: "shard_end",
                shape: Integer { min: 1, max: SHARDS_MAX, set: |config, end| config.shard_end = Some(end as u32) },
                otherwise: Unset("`shards`"),
                meaning: "The shard after the last one that this process holds.",
                ..KEY
            },
            Key {
                name: "ordinal",
                shape: Json {
                    wanted: "an integer from 0, or a name that ends in one such as `shardgate-2`",
                    read: |found, config, _| {
                        config.ordinal = Some(ordinal::ordinal(found)?);
                        Ok(())
                    },
                },
                otherwise: Unset("none"),
                meaning: "The number of this process, or the name of its pod: with `shards_per_process` and `shards` it stands for `shard_start` and `shard_end`.",
                ..KEY
            },
            Key {
                name: "shards_per_process",
                shape: Integer {
                    min: 1,
                    max: SHARDS_MAX,
                    set: |config, shards| config.shards_per_process = Some(shards as u32),
                },
                otherwise: Unset("none"),
                meaning: "How many shards each process holds; the last one holds what is left.",
                ..KEY
            },
            Key {
                name: "activity",
                shape: Json {
                    wanted: "an object with `name`, `type`, `state`, `url`, as Discord's activity",
                    read: readers::object,
                },
                otherwise: Unset("none"),
                reload: AtOnce,
                meaning: "What the bot is shown doing; `{{shard}}` is replaced in `name` and `state`.",
                ..KEY
            },
            Key {
                name: "status",
                shape: Word { words: &presence::STATUSES, set: |_, _| {} },
                otherwise: Value("\"online\""),
                reload: AtOnce,
                meaning: "How the bot is shown.",
                ..KEY
            },
            Key {
                name: "identify_reserve",
                shape: Integer {
                    min: 0,
                    max: IDENTIFY_RESERVE_MAX,
                    set: |config, reserve| config.identify_reserve = Some(reserve as u32),
                },
                otherwise: Unset("one per shard, from 10 to a tenth of the limit"),
                reload: AtOnce,
                meaning: "IDENTIFYs of the day's limit that are never spent: spending the last one resets the token.",
                ..KEY
            },
        ],
    },
    Section {
        title: "Clients",
        keys: &[
            Key {
                name: "bind",
                shape: Text { wanted: "an IP address such as `0.0.0.0` or `::`", read: readers::bind },
                otherwise: Value("\"0.0.0.0\""),
                meaning: "Where clients connect: WebSocket and pages.",
                ..KEY
            },
            Key {
                name: "port",
                shape: Integer { min: 0, max: u16::MAX as u64, set: |config, port| config.port = port as u16 },
                otherwise: Value("7878"),
                meaning: "The same; 0 takes a free one, which the log names.",
                ..KEY
            },
            Key {
                name: "admin_bind",
                shape: Text { wanted: "an address and a port such as `127.0.0.1:7879`", read: readers::admin_bind },
                otherwise: Unset("none: pages on the gateway's port"),
                meaning: "A listener for the operator: every page is there, and `/metrics` and `/cache/…` leave the gateway's port.",
                ..KEY
            },
            Key {
                name: "externally_accessible_url",
                shape: Text {
                    wanted: "a URL without path such as `ws://proxy:7878`",
                    read: readers::externally_accessible_url,
                },
                otherwise: Unset("`ws://localhost:PORT`, or `wss` with `tls_cert`"),
                meaning: "Where bots reach the proxy: it goes into READY and `/gateway/bot`. Set it when bots run elsewhere.",
                ..KEY
            },
            Key {
                name: "validate_token",
                shape: Boolean(|config, on| config.validate_token = on),
                otherwise: Value("true"),
                reload: AtOnce,
                meaning: "Off: any token may connect.",
                ..KEY
            },
            Key {
                name: "allow_compression",
                shape: Boolean(|config, on| config.allow_compression = on),
                otherwise: Value("true"),
                reload: AtOnce,
                meaning: "`compress=zlib-stream` and `zstd-stream` for clients that ask. A reload counts for those that connect from then on.",
                ..KEY
            },
            Key {
                name: "disable_compression",
                shape: Boolean(|_, _| {}),
                otherwise: Unset("the opposite of `allow_compression`"),
                reload: AtOnce,
                meaning: "What forks of gateway-proxy call the opposite of `allow_compression`.",
                ..KEY
            },
            Key {
                name: "clients_max",
                shape: Integer { min: 1, max: CLIENTS_LIMIT, set: |config, max| config.clients_max = max as usize },
                otherwise: Value("16384"),
                reload: AtOnce,
                meaning: "Sockets of clients; never more than the open files leave to the shards.",
                ..KEY
            },
            Key {
                name: "client_handshake_seconds",
                shape: Integer {
                    min: 1,
                    max: 600,
                    set: |config, seconds| config.client_limits.handshake = Duration::from_secs(seconds),
                },
                otherwise: Value("10"),
                reload: AtOnce,
                meaning: "How long a client may take for its WebSocket upgrade.",
                ..KEY
            },
            Key {
                name: "client_payloads_per_minute",
                // Discord grants 120: less would close clients that keep all its rules.
                shape: Integer {
                    min: 120,
                    max: 1_000_000,
                    set: |config, payloads| config.client_limits.payloads_per_minute = payloads as u32,
                },
                otherwise: Value("240"),
                reload: AtOnce,
                meaning: "Pings included; Discord itself grants 120. Over it: 4008.",
                ..KEY
            },
            Key {
                name: "client_failed_resumes",
                shape: Integer {
                    min: 1,
                    max: 1_000_000,
                    set: |config, resumes| config.client_limits.failed_resumes = resumes as u32,
                },
                otherwise: Value("10"),
                reload: AtOnce,
                meaning: "On one connection, one after the other. Over it: 4008.",
                ..KEY
            },
            Key {
                name: "backpressure",
                shape: Integer { min: 0, max: u64::MAX, set: |_, _| {} },
                otherwise: Value("100"),
                reload: AtOnce,
                meaning: "Accepted for gateway-proxy's sake and not needed: the log replaces it.",
                ..KEY
            },
        ],
    },
    Section {
        title: "Security",
        keys: &[
            Key {
                name: "admin_key",
                shape: Text {
                    wanted: "a key of at least 16 printable characters without white space",
                    read: readers::admin_key,
                },
                otherwise: Unset("none"),
                is_secret: true,
                meaning: "`Authorization: Bearer KEY` for `/metrics`, `/stats` and `/cache/…`: wanted on the gateway's port from everybody, on `admin_bind` from other machines.",
                ..KEY
            },
            Key {
                name: "tls_cert",
                shape: Text {
                    wanted: "the path of a PEM file",
                    read: |found, config, _| readers::path(found, &mut config.tls_cert),
                },
                otherwise: Unset("none: clients speak without TLS"),
                meaning: "The chain of certificates that clients are shown, our own first: with it the gateway's port speaks TLS alone, pages included. The file is read again when it changes.",
                ..KEY
            },
            Key {
                name: "tls_key",
                shape: Text {
                    wanted: "the path of a PEM file",
                    read: |found, config, _| readers::path(found, &mut config.tls_key),
                },
                otherwise: Unset("none"),
                meaning: "The private key of `tls_cert`, not encrypted.",
                ..KEY
            },
            Key {
                name: "tls_client_ca",
                shape: Text {
                    wanted: "the path of a PEM file",
                    read: |found, config, _| readers::path(found, &mut config.tls_client_ca),
                },
                otherwise: Unset("none: nobody is asked for a certificate"),
                meaning: "Only clients with a certificate that one of these has signed get in; health checks then need `admin_bind`.",
                ..KEY
            },
        ],
    },
    Section { title: "What is kept of each guild and replayed to bots", keys: &CACHE },
    Section {
        title: "The log, memory and disk",
        keys: &[
            Key {
                name: "log_bytes",
                shape: Integer {
                    min: LOG_BYTES_MIN,
                    max: LOG_BYTES_MAX,
                    set: |config, bytes| config.log_bytes = Some(bytes),
                },
                otherwise: Unset("268435456, or a quarter of a smaller `memory_limit`"),
                reload: AtOnce,
                meaning: "How much a client may miss and still RESUME without `data_dir`. It bounds all shards together and is hard.",
                ..KEY
            },
            Key {
                name: "log_seconds",
                shape: Integer {
                    min: 1,
                    max: LOG_SECONDS_MAX,
                    set: |config, seconds| config.log_keep = Duration::from_secs(seconds),
                },
                otherwise: Value("300"),
                reload: AtOnce,
                meaning: "How long a client may be away and still RESUME, if `log_bytes` and `disk_bytes` reach.",
                ..KEY
            },
            Key {
                name: "memory_limit",
                shape: Integer {
                    min: MEMORY_LIMIT_MIN,
                    max: MEMORY_LIMIT_MAX,
                    set: |config, bytes| config.memory_limit = Some(bytes),
                },
                otherwise: Unset("75 % of the control group's limit, else of the machine's memory"),
                reload: AtOnce,
                meaning: "Bytes of resident memory. From 80, 90 and 100 % of it the log shrinks, slow clients are closed resumably and new IDENTIFYs wait, and new connections are refused.",
                ..KEY
            },
            Key {
                name: "data_dir",
                shape: Text { wanted: "a folder that can be written", read: readers::data_dir },
                otherwise: Unset("none: memory alone"),
                meaning: "A folder of its own for what survives a restart: sessions, log, state, the budget of IDENTIFYs. One process at a time.",
                ..KEY
            },
            Key {
                name: "disk_bytes",
                shape: Integer {
                    min: DISK_BYTES_MIN,
                    max: DISK_BYTES_MAX,
                    set: |config, bytes| config.disk_bytes = bytes,
                },
                otherwise: Value("4294967296"),
                meaning: "Bounds all files in `data_dir`: the oldest log goes first. With `data_dir` a client may be away for this much, not `log_bytes`.",
                ..KEY
            },
        ],
    },
    Section {
        title: "Discord",
        keys: &[
            Key {
                name: "api_url",
                shape: Text {
                    wanted: "an `http://` or `https://` URL",
                    read: |found, config, _| {
                        config.api_url = address::http_url(found)?;
                        Ok(())
                    },
                },
                otherwise: Value("\"https://discord.com/api/v10\""),
                reload: NewSessions,
                meaning: "REST; the gateway's URL comes from its `/gateway/bot`.",
                ..KEY
            },
            Key {
                name: "twilight_http_proxy",
                shape: Text {
                    wanted: "`host:port`",
                    read: |found, config, _| {
                        config.twilight_http_proxy = Some(address::authority(found)?);
                        Ok(())
                    },
                },
                otherwise: Unset("none"),
                meaning: "twilight's HTTP proxy: REST goes through it.",
                ..KEY
            },
            Key {
                name: "upstream_compression",
                shape: Word {
                    words: &["zstd-stream", "zlib-stream", "none"],
                    set: |config, word| {
                        config.upstream_compression = match word {
                            "zlib-stream" => Compression::Zlib,
                            "none" => Compression::None,
                            _ => Compression::Zstd,
                        }
                    },
                },
                otherwise: Value("\"zstd-stream\""),
                meaning: "How Discord compresses what it sends.",
                ..KEY
            },
            Key {
                name: "egress_proxy",
                shape: Text {
                    wanted: "`http://user:password@host:port` or `socks5://user:password@host:port`",
                    read: |found, config, _| {
                        config.egress_proxy = Some(address::egress_proxy(found)?);
                        Ok(())
                    },
                },
                otherwise: Unset("none: Discord is reached directly"),
                is_secret: true,
                meaning: "A proxy (HTTP's CONNECT, or SOCKS5) for everything sent to Discord, which also resolves Discord's names. User and password are percent-encoded, or left out. With `twilight_http_proxy` it carries the gateway alone.",
                ..KEY
            },
        ],
    },
    Section {
        title: "The machine and the log for people",
        keys: &[
            Key {
                name: "cores",
                shape: Json {
                    wanted: "a number of cores, or a list of CPU numbers",
                    read: |found, config, _| {
                        config.cores = readers::cores(found)?;
                        Ok(())
                    },
                },
                otherwise: Unset("all"),
                meaning: "One thread each.",
                ..KEY
            },
            Key {
                name: "backend",
                shape: Word {
                    words: &["auto", "io_uring", "epoll"],
                    set: |config, word| {
                        config.backend = match word {
                            "io_uring" => BackendWanted::IoUring,
                            "epoll" => BackendWanted::Epoll,
                            _ => BackendWanted::Auto,
                        }
                    },
                },
                otherwise: Value("\"auto\""),
                meaning: "`auto` takes io_uring where the machine allows it ([tuning](../tuning/README.md)).",
                ..KEY
            },
            Key {
                name: "log_level",
                shape: Text {
                    wanted: "`trace`, `debug`, `info`, `warn`, `error` or `off`",
                    read: |found, config, _| {
                        config.log_level = readers::log_level(found)?;
                        Ok(())
                    },
                },
                otherwise: Value("\"info\""),
                reload: AtOnce,
                meaning: "The log for people, on standard output.",
                ..KEY
            },
            Key {
                name: "log_format",
                shape: Word {
                    words: &["human", "json"],
                    set: |config, word| {
                        config.log_format = if word == "json" { LogFormat::Json } else { LogFormat::Human }
                    },
                },
                otherwise: Value("\"human\""),
                meaning: "`json`: one object a line with `time`, `level`, `message`, and `shard`, `session` (its beginning), `client`, `cause` where known.",
                ..KEY
            },
        ],
    },
];

/// The eleven switches of gateway-proxy.
const CACHE: [Key; 11] = [
    cached("cache.channels", "true", |config, on| config.cache.channels = on, "Channels and threads."),
    cached("cache.presences", "false", |config, on| config.cache.presences = on, "Presences."),
    cached("cache.emojis", "false", |config, on| config.cache.emojis = on, "Emojis."),
    cached("cache.current_member", "true", |config, on| config.cache.current_member = on, "The bot's own member."),
    cached("cache.members", "false", |config, on| config.cache.members = on, "All members."),
    cached("cache.roles", "true", |config, on| config.cache.roles = on, "Roles."),
    cached("cache.scheduled_events", "false", |config, on| config.cache.scheduled_events = on, "Scheduled events."),
    cached("cache.stage_instances", "false", |config, on| config.cache.stage_instances = on, "Stage instances."),
    cached("cache.stickers", "false", |config, on| config.cache.stickers = on, "Stickers."),
    cached("cache.users", "false", |config, on| config.cache.users = on, "Users, beside those in members."),
    cached("cache.voice_states", "false", |config, on| config.cache.voice_states = on, "Voice states."),
];

const fn cached(name: &'static str, otherwise: &'static str, set: fn(&mut Config, bool), meaning: &'static str) -> Key {
    Key { name, shape: Boolean(set), otherwise: Value(otherwise), reload: NewSessions, meaning, ..KEY }
}

/// All rows.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

/// The row of a name as it stands in the file.
pub fn find(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// Names of objects in the file whose keys are rows of their own: `cache`.
pub fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = keys().filter_map(|key| Some(key.name.split_once('.')?.0)).collect();
    groups.dedup();
    groups
}

/// The environment variable of a key or a group.
pub fn variable(name: &str) -> String {
    format!("SHARDGATE_{}", name.to_uppercase().replace('.', "_"))
}

/// The flag of a key or a group.
pub fn flag(name: &str) -> String {
    format!("--{}", name.replace(['.', '_'], "-"))
}

impl Key {
    /// Reads a value of this key into `config`.
    pub fn read(&self, found: &Found<'_>, config: &mut Config, notices: &mut Vec<Notice>) -> Result<(), Refusal> {
        match self.shape {
            Boolean(set) => set(config, found.boolean()?),
            Integer { min, max, set } => set(config, found.integer(min, max)?),
            Word { words, set } => set(config, found.word(words)?),
            Text { read, .. } | Json { read, .. } => read(found, config, notices)?,
        }
        Ok(())
    }

    /// As JSON; `null` where it is not one value.
    pub fn default_value(&self) -> serde_json::Value {
        match self.otherwise {
            Value(json) => serde_json::from_str(json).unwrap_or_default(),
            Unset(_) | Refused => serde_json::Value::Null,
        }
    }

    pub fn is_nullable(&self) -> bool {
        matches!(self.otherwise, Unset(_))
    }

    /// For people.
    pub fn default_text(&self) -> String {
        match self.otherwise {
            Value(json) => json.trim_matches('"').to_owned(),
            Unset(text) => text.to_owned(),
            Refused => "required".to_owned(),
        }
    }

    /// Shape and range, for people.
    pub fn shape_text(&self) -> String {
        match self.shape {
            Boolean(_) => "true or false".to_owned(),
            Integer { min, max: u64::MAX, .. } => format!("an integer from {min}"),
            Integer { min, max, .. } => format!("an integer from {min} to {max}"),
            Word { words, .. } => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Text { wanted, .. } | Json { wanted, .. } => wanted.to_owned(),
        }
    }
}
