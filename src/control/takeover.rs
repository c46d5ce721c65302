//! `--takeover` and the door for it: what this process tells the other, and where its listeners come from.
//!
//! How the two speak is `runtime::takeover`; that a process leaves when it was taken over is `run`'s.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::Sender;

use tracing::warn;

use super::args::Args;
use super::config::Config;
use super::keys::Refusal;
use crate::runtime::mesh::ToControl;
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::takeover::{self, Answer, Inherited, Patience, Terms};

/// Refuses what can be refused before anybody is asked.
pub fn check(args: &Args, config: &Config) -> Result<(), Refusal> {
    if args.takeover && config.data_dir.is_none() {
        return Err(Refusal::new("data_dir", "nothing", "the directory of the running proxy, for --takeover"));
    }
    Ok(())
}

/// The listeners to begin with: the running proxy's, after it has left; those of the service manager; else none, and own ones are opened.
pub fn inherit(
    args: &Args,
    config: &Config,
    settings: &RuntimeSettings,
    activated: Inherited,
) -> Result<Inherited, Refusal> {
    let Some(data_dir) = config.data_dir.as_deref().filter(|_| args.takeover) else { return Ok(activated) };
    let path = takeover::path_in(data_dir);
    match takeover::knock(&path, &terms(settings, settings.listen), Patience::default()) {
        Ok(Answer::Listeners(inherited)) => Ok(inherited),
        Ok(Answer::Nobody) => {
            warn!(door = %path.display(), "--takeover: no proxy runs there; starting as without it");
            Ok(activated)
        }
        Err(line) => Err(Refusal::of(format!("--takeover: {line}"))),
    }
}

/// Lets another process take over from this one from now on. Without it this process runs as well.
pub fn open_door(
    data_dir: &Path,
    settings: &RuntimeSettings,
    listen: SocketAddr,
    ours: Inherited,
    control: Sender<ToControl>,
) {
    let path = takeover::path_in(data_dir);
    if let Err(error) = takeover::open(&path, terms(settings, listen), ours, control) {
        warn!(door = %path.display(), "this process cannot be taken over: {error}");
    }
}

fn terms(settings: &RuntimeSettings, listen: SocketAddr) -> Terms {
    Terms {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        shards: settings.shards.clone(),
        shard_count: settings.shard_count,
        listen,
    }
}
