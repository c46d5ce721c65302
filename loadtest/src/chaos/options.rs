//! The settings of `loadtest chaos` and their names on the command line.

use std::path::PathBuf;

use crate::args::{Args, Spec};
use crate::run;

pub const SPECS: &[Spec] = &[
    ("seed", Some("N"), "of everything that happens, default 1"),
    ("minutes", Some("N"), "how long it goes on, default 5; fractions are fine"),
    ("shards", Some("N"), "default 32"),
    ("rate", Some("N"), "events per second over all shards, default 2000"),
    ("max-concurrency", Some("N"), "Discord's, once all shards have started; default = shards"),
    ("clients-per-shard", Some("N"), "default 2: one plain, one compressed"),
    ("away-seconds", Some("N"), "how long a client may be away at most, default 120"),
    ("guilds", Some("N"), "per shard, default 20"),
    ("members", Some("N"), "listed in each guild, default 20"),
    ("parse-every", Some("N"), "clients parse every N-th event whole, default 16"),
    ("proxy", Some("PATH"), "the proxy's binary; default: build it in release mode"),
    ("backend", Some("NAME"), "the proxy's: auto, io_uring, epoll; default auto"),
    ("cores", Some("N"), "the proxy's; default all"),
    ("upstream-compression", Some("NAME"), "the proxy's; default its own"),
    ("config", Some("PATH"), "a JSON object whose keys are added to the proxy's configuration"),
    ("no-restarts", None, "the proxy is left alone; everything else goes wrong"),
    ("no-control", None, "without the second proxy that is never restarted and whose state is compared at the end"),
    ("json", Some("PATH"), "write the figures there"),
];

#[derive(Clone, Debug)]
pub struct Options {
    /// What `run` needs to start its processes. Its seconds, scenarios and compression mean nothing here.
    pub base: run::options::Options,
    pub seconds: f64,
    pub away_seconds: f64,
    pub restarts: bool,
    pub has_control: bool,
    pub json: Option<PathBuf>,
}

impl Options {
    /// Errs with one line that names the option.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let mut base = run::options::Options::from_args(args)?;
        base.shards = args.get("shards", 32)?;
        base.events_per_s = args.get("rate", 2000.0)?;
        base.clients_per_shard = args.get("clients-per-shard", 2)?;
        if base.shards == 0 || base.clients_per_shard == 0 {
            return Err("--shards and --clients-per-shard must be at least 1".to_owned());
        }
        let minutes: f64 = args.get("minutes", 5.0)?;
        if minutes.is_nan() || minutes <= 0.0 {
            return Err("--minutes must be more than 0".to_owned());
        }
        Ok(Self {
            base,
            seconds: minutes * 60.0,
            away_seconds: args.get("away-seconds", 120.0)?,
            restarts: !args.has("no-restarts"),
            has_control: !args.has("no-control"),
            json: args.text("json").map(PathBuf::from),
        })
    }
}
