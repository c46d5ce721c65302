//! What `memory`, `churn` and `identify` have in common on the command line: how large the state is, and which proxy.

use std::path::PathBuf;

use crate::args::{Args, Spec};

/// One list for all three; each command says in its help which it does not use.
pub const SPECS: &[Spec] = &[
    ("shards", Some("N"), "default 225; churn: 4"),
    ("guilds", Some("N"), "per shard, default 50; churn: 20"),
    ("members", Some("N"), "of each guild, default 100; churn: 200"),
    ("channels", Some("N"), "text channels of each guild, 4 others on top; default 21"),
    ("roles", Some("N"), "of each guild on top of 5, default 10"),
    ("emojis", Some("N"), "of each guild on top of 2, default 18"),
    ("presence-share", Some("X"), "of the members, how many are online; default 0.4"),
    ("voice-share", Some("X"), "of the members, how many are in voice; default 0.1"),
    ("rich", None, "1.1 kB a member with its share instead of 0.7: decorations, two activities a presence"),
    ("seed", Some("N"), "default 1"),
    ("proxy", Some("PATH"), "the proxy's binary; default: build it in release mode"),
    ("backend", Some("NAME"), "the proxy's: auto, io_uring, epoll; default auto"),
    ("cores", Some("N"), "the proxy's; default all"),
    ("upstream-compression", Some("NAME"), "the proxy's; default its own"),
    ("log-bytes", Some("N"), "the proxy's; default 1 MiB, that the state is measured and not the log; churn: 256 MiB"),
    ("settle-seconds", Some("N"), "memory, churn: how long the memory must stand still before it counts, default 12"),
    ("judge", None, "memory, identify: end with status 1 when a target for the default size is missed"),
    ("minutes", Some("X"), "churn: how long events happen, default 10"),
    ("day-events", Some("N"), "churn: events that count as one day, default 2000000"),
    ("big-guild", Some("N"), "churn: members of the guild that is chunked in, default 500000"),
    ("rounds", Some("N"), "identify: how often all clients identify at once, default 3"),
];

/// How large the state is, and the proxy that holds it.
#[derive(Clone, Debug)]
pub struct Options {
    pub shards: u32,
    pub guilds: u32,
    pub members: u32,
    pub channels: u32,
    pub roles: u32,
    pub emojis: u32,
    pub presence_share: f64,
    pub voice_share: f64,
    pub is_rich: bool,
    /// Members of the first guild of each shard, if more than `members`.
    pub big_guild: u32,
    pub seed: u64,
    pub proxy: Option<PathBuf>,
    pub backend: String,
    pub cores: Option<u32>,
    pub upstream_compression: Option<String>,
    pub log_bytes: u64,
    pub settle_s: u64,
    pub is_judged: bool,
    pub minutes: f64,
    pub day_events: u64,
    pub rounds: u32,
}

impl Options {
    /// For `memory` and `identify`. Errs with one line that names the option.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let options = Self {
            shards: args.get("shards", 225)?,
            guilds: args.get("guilds", 50)?,
            members: args.get("members", 100)?,
            channels: args.get("channels", 21)?,
            roles: args.get("roles", 10)?,
            emojis: args.get("emojis", 18)?,
            presence_share: args.get("presence-share", 0.4)?,
            voice_share: args.get("voice-share", 0.1)?,
            is_rich: args.has("rich"),
            big_guild: 0,
            seed: args.get("seed", 1)?,
            proxy: args.text("proxy").map(PathBuf::from),
            backend: args.get("backend", "auto".to_owned())?,
            upstream_compression: args.text("upstream-compression").map(str::to_owned),
            cores: args.text("cores").map(|_| args.get("cores", 1)).transpose()?,
            log_bytes: args.get("log-bytes", 1 << 20)?,
            settle_s: args.get("settle-seconds", 12)?,
            is_judged: args.has("judge"),
            minutes: args.get("minutes", 10.0)?,
            day_events: args.get("day-events", 2_000_000)?,
            rounds: args.get("rounds", 3)?,
        };
        if options.shards == 0 || options.guilds == 0 || options.members < 2 || options.rounds == 0 {
            return Err("--shards, --guilds and --rounds must be at least 1, --members 2".to_owned());
        }
        Ok(options)
    }

    /// For `churn`.
    pub fn of_churn(args: &Args) -> Result<Self, String> {
        Ok(Self {
            shards: args.get("shards", 4)?,
            guilds: args.get("guilds", 20)?,
            members: args.get("members", 200)?,
            big_guild: args.get("big-guild", 500_000)?,
            log_bytes: args.get("log-bytes", 256 << 20)?,
            ..Self::from_args(args)?
        })
    }

    /// The options of `loadtest discord`.
    pub fn discord_words(&self) -> Vec<String> {
        let words = [
            ("shards", self.shards.to_string()),
            ("guilds", self.guilds.to_string()),
            ("members", self.members.to_string()),
            ("channels", self.channels.to_string()),
            ("roles", self.roles.to_string()),
            ("emojis", self.emojis.to_string()),
            ("presence-share", self.presence_share.to_string()),
            ("voice-share", self.voice_share.to_string()),
            ("big-guild", self.big_guild.to_string()),
            ("seed", self.seed.to_string()),
            ("rate", "0".to_owned()),
            // All that happens is kept to be replayed: nobody resumes here.
            ("replay-events", "100".to_owned()),
            ("members-interval-ms", "0".to_owned()),
            ("identify-interval-ms", "0".to_owned()),
            ("identify-limit", "1000000".to_owned()),
        ];
        let lean = (!self.is_rich).then(|| "--lean".to_owned());
        words.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).chain(lean).collect()
    }
}
