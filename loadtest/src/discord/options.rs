//! The settings of the fake Discord and their names on the command line.

use std::path::PathBuf;

use super::world::Size;
use crate::args::{Args, Spec};
use crate::clock::{MILLI_NS, SECOND_NS};

/// The value of `--resume-url` for a READY without the key.
pub const NO_RESUME_URL: &str = "none";

pub const SPECS: &[Spec] = &[
    ("listen", Some("ADDR"), "gateway and REST, default 127.0.0.1:0 (a free port)"),
    ("shards", Some("N"), "what /gateway/bot recommends and IDENTIFY must say, default 225"),
    ("max-concurrency", Some("N"), "IDENTIFYs per interval, default = shards"),
    ("identify-interval-ms", Some("N"), "the interval of one bucket, default 5000"),
    ("identify-limit", Some("N"), "IDENTIFYs per day, default 1000"),
    ("guilds", Some("N"), "per shard, default 20"),
    ("members", Some("N"), "listed in each guild, default 20"),
    ("big-guild", Some("N"), "members of the first guild of each shard, if more than are listed; default 2500"),
    ("channels", Some("N"), "text channels of each guild, 4 others on top; default and least 5"),
    ("roles", Some("N"), "of each guild on top of 5, default 0"),
    ("emojis", Some("N"), "of each guild on top of 2, default 0"),
    ("presence-share", Some("X"), "of the listed members, how many are online; default a third"),
    ("voice-share", Some("X"), "of the listed members, how many are in voice; default 0.1"),
    ("lean", None, "members without decorations, presences of one activity"),
    ("members-interval-ms", Some("N"), "between two requests for all members of a guild, default 30000"),
    ("outage-every", Some("N"), "the last guild of every N-th shard is unavailable, default 0 = none"),
    ("rate", Some("N"), "events per second over all shards, default 10000; /fake/rate changes it"),
    ("heartbeat-interval-ms", Some("N"), "what HELLO says, default 41250"),
    ("session-seconds", Some("N"), "how long a session without connection is kept, default 180"),
    ("replay-events", Some("N"), "dispatches that a session can replay, default 20000"),
    ("resume-url", Some("URL"), "resume_gateway_url of READY, default the gateway itself; `none` leaves the key out"),
    ("token", Some("TEXT"), "the bot's token, default fake"),
    ("seed", Some("N"), "of everything random, default 1"),
    ("tls", None, "serve wss and https with a throw-away certificate; a plain port for /fake stays open"),
    ("cert-file", Some("PATH"), "where the certificate goes, default a file in the temp directory"),
    ("ready-file", Some("PATH"), "write the line of addresses there as well"),
    ("exit-with-stdin", None, "end when standard input closes"),
];

#[derive(Clone, Debug)]
pub struct Options {
    pub listen: String,
    pub size: Size,
    pub max_concurrency: u32,
    pub identify_interval_ns: u64,
    pub identify_limit: u32,
    pub events_per_s: f64,
    pub heartbeat_interval_ms: u64,
    pub session_keep_ns: u64,
    pub replay_events: usize,
    /// One request for all members of a guild per this time.
    pub members_interval_ns: u64,
    /// Empty until the listener knows its port, when not given.
    pub resume_url: String,
    pub token: String,
    pub seed: u64,
    pub is_tls: bool,
    pub cert_file: PathBuf,
    pub ready_file: Option<PathBuf>,
    pub exit_with_stdin: bool,
}

impl Options {
    /// Errs with one line that names the option.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let shards = args.get("shards", 225)?;
        if shards == 0 {
            return Err("--shards must be at least 1".to_owned());
        }
        let size = Size::default();
        let default_cert = std::env::temp_dir().join(format!("loadtest-{}.pem", std::process::id()));
        Ok(Self {
            listen: args.get("listen", "127.0.0.1:0".to_owned())?,
            size: Size {
                shards,
                guilds: args.get("guilds", 20)?,
                members: args.get("members", 20)?,
                outage_every: args.get("outage-every", 0)?,
                big_guild: args.get("big-guild", size.big_guild)?,
                channels: args.get("channels", size.channels)?,
                roles: args.get("roles", size.roles)?,
                emojis: args.get("emojis", size.emojis)?,
                presence_share: args.get("presence-share", size.presence_share)?,
                voice_share: args.get("voice-share", size.voice_share)?,
                is_lean: args.has("lean"),
            },
            max_concurrency: args.get("max-concurrency", shards)?,
            identify_interval_ns: args.get("identify-interval-ms", 5000u64)? * MILLI_NS,
            identify_limit: args.get("identify-limit", 1000)?,
            events_per_s: args.get("rate", 10_000.0)?,
            heartbeat_interval_ms: args.get("heartbeat-interval-ms", 41_250)?,
            session_keep_ns: args.get("session-seconds", 180u64)? * SECOND_NS,
            replay_events: args.get("replay-events", 20_000)?,
            members_interval_ns: args.get("members-interval-ms", 30_000u64)? * MILLI_NS,
            resume_url: args.get("resume-url", String::new())?,
            token: args.get("token", "fake".to_owned())?,
            seed: args.get("seed", 1)?,
            is_tls: args.has("tls"),
            cert_file: args.get("cert-file", default_cert)?,
            ready_file: args.text("ready-file").map(PathBuf::from),
            exit_with_stdin: args.has("exit-with-stdin"),
        })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::from_args(&Args::default()).expect("the defaults are valid")
    }
}
