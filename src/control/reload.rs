//! Reading the configuration again while the proxy runs: on SIGHUP, and when its file has changed.
//!
//! What may change is marked in the table of keys. A change of any other key is named and left out; a configuration that would refuse a start
//! changes nothing. Not here: how the cores take new settings (`runtime/core/live`).

#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::args::Args;
use super::config::sources::Given;
use super::config::table::{self, Key, Reload};
use super::config::{self, Environment, Loaded};
use super::keys::{Refusal, shown};
use super::log::Level;
use super::probe::Machine;
use super::{memory, settings, tell};
use crate::runtime::settings::LiveSettings;
use crate::session::identify::Reserve;

/// What follows for the cores and the control thread.
#[derive(Clone, Debug)]
pub struct Changes {
    pub live: LiveSettings,
    pub reserve: Reserve,
    /// Bytes of resident memory.
    pub memory_limit: Option<u64>,
}

/// What came of reading the configuration again.
#[derive(Debug)]
pub enum Reread {
    /// Nobody asked and nothing has changed.
    Nothing,
    Taken(Changes),
    /// It is broken: everything stays as it was.
    Refused,
}

/// Knows what the proxy runs with, and where to read it again.
pub struct Reloader {
    args: Args,
    environment: Environment,
    running: Loaded,
    machine: Machine,
    /// How many shards this process holds.
    held: u32,
    level: Level,
    file: Watched,
}

impl Reloader {
    /// `file` was looked at before `running` was read from it.
    pub fn new(
        args: &Args,
        environment: &Environment,
        running: &Loaded,
        file: Watched,
        machine: Machine,
        held: u32,
        level: Level,
    ) -> Self {
        let file = if running.values.file.is_some() { file } else { Watched::new(None) };
        let (args, environment, running) = (args.clone(), environment.clone(), running.clone());
        Self { args, environment, running, machine, held, level, file }
    }

    /// Reads everything again if `asked`, or if the file has changed and stands still. What comes of it is told in the log.
    pub fn reload(&mut self, asked: bool) -> Reread {
        let has_changed = self.file.changed();
        if !asked && !has_changed {
            return Reread::Nothing;
        }
        // What is read for a signal is not read again because it stands still.
        self.file.read = self.file.seen;
        match self.read() {
            Ok(changes) => Reread::Taken(changes),
            Err(refusal) => {
                warn!("the configuration is not taken, everything stays as it was: {refusal}");
                Reread::Refused
            }
        }
    }

    fn read(&mut self) -> Result<Changes, Refusal> {
        let wanted = config::load_with(self.args.config.as_deref(), &self.environment, &self.args.keys)?;
        let merged = merge(&self.running, wanted, &self.environment)?;
        let config = &merged.loaded.config;
        let budget = memory::budget(config, &self.machine)?;
        tell(&merged.loaded.notices);
        for line in merged.refused.iter().chain(&budget.warning) {
            warn!("{line}");
        }
        match merged.taken.as_slice() {
            [] => info!("configuration read again: nothing changes"),
            taken => info!(taken = taken.join(", "), "configuration read again"),
        }
        self.level.set(config.log_level);
        let clients_max = self.machine.clients_max(config.clients_max, self.held);
        let changes = Changes {
            live: settings::live(config, budget.log_bytes, clients_max),
            reserve: settings::reserve(config, self.held),
            memory_limit: budget.limit,
        };
        self.running = merged.loaded;
        Ok(changes)
    }
}

/// What the proxy runs with after a reload.
struct Merged {
    loaded: Loaded,
    /// Keys whose new values count.
    taken: Vec<&'static str>,
    /// A line for each change that needs a restart.
    refused: Vec<String>,
}

/// Takes from `wanted` what a running proxy can take, and the rest from `running`.
fn merge(running: &Loaded, wanted: Loaded, environment: &Environment) -> Result<Merged, Refusal> {
    let (mut values, mut taken, mut refused) = (wanted.values.clone(), Vec::new(), Vec::new());
    for key in table::keys().filter(|key| !is_of_token(key)) {
        let before = running.values.given.get(key.name);
        if is_same(key, before, wanted.values.given.get(key.name)) {
            continue;
        }
        if key.reload == Reload::AtOnce {
            taken.push(key.name);
            continue;
        }
        refused.push(refusal(key, &running_value(key, before)));
        match before {
            Some(given) => values.given.insert(key.name, given.clone()),
            None => values.given.remove(key.name),
        };
    }
    // Wherever it stands now: what counts is the token itself.
    if wanted.config.token != running.config.token {
        refused.extend(table::find("token").map(|key| refusal(key, "running one")));
    }
    let mut loaded = config::read(values, environment, Vec::new())?;
    loaded.notices = wanted.notices;
    loaded.config.token = running.config.token.clone();
    Ok(Merged { loaded, taken, refused })
}

fn is_of_token(key: &Key) -> bool {
    matches!(key.name, "token" | "token_file")
}

fn refusal(key: &Key, stays: &str) -> String {
    let cost = match key.reload {
        Reload::NewSessions => ", which may cost every session",
        Reload::AtOnce | Reload::Restart => "",
    };
    format!("`{}` changed: needs a restart{cost}; the {stays} stays", key.name)
}

fn running_value(key: &Key, given: Option<&Given>) -> String {
    match given {
        Some(_) if key.is_secret => "running value".to_owned(),
        Some(given) if !given.value.is_null() => format!("running value {}", shown(&given.value)),
        _ => format!("running value ({})", key.default_text()),
    }
}

/// A default that is written out is no change.
fn is_same(key: &Key, one: Option<&Given>, other: Option<&Given>) -> bool {
    let default = key.default_value();
    one.map_or(&default, |it| &it.value) == other.map_or(&default, |it| &it.value)
}

/// A file, as its metadata tell. They are those of the file that a symbolic link leads to: Kubernetes swaps links.
pub struct Watched {
    path: Option<PathBuf>,
    /// As it was when it was read.
    read: Option<Stamp>,
    /// As it was when it was looked at last.
    seen: Option<Stamp>,
}

/// Device, number, length, and time of the last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Watched {
    pub fn new(path: Option<PathBuf>) -> Self {
        let read = path.as_deref().and_then(stamp);
        Self { path, read, seen: read }
    }

    /// Whether it is another one than when this was last true, and the same as at the last look: a file that is being written is waited for.
    fn changed(&mut self) -> bool {
        let now = self.path.as_deref().and_then(stamp);
        let stands = std::mem::replace(&mut self.seen, now) == now;
        let changed = stands && now.is_some() && now != self.read;
        if changed {
            self.read = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let it = std::fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.len(), it.mtime(), it.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(more: &str) -> Loaded {
        let json = format!(r#"{{"token":"hush","intents":513{more}}}"#);
        config::load(None, &Environment { config: Some(json), ..Environment::default() }).unwrap()
    }

    fn merged(before: &str, after: &str) -> Merged {
        merge(&loaded(before), loaded(after), &Environment::default()).unwrap()
    }

    #[test]
    fn what_may_change_is_taken_and_the_rest_is_named_and_stays() {
        let merged = merged(
            r#","port":7878,"shards":2"#,
            r#","port":8000,"status":"idle","validate_token":false,"log_seconds":5,"cache":{"members":true}"#,
        );
        let config = &merged.loaded.config;
        assert_eq!((config.port, config.shards, config.cache.members), (7878, Some(2), false));
        assert!(!config.validate_token && config.presence.as_ref().unwrap().contains("idle"));
        assert_eq!(config.log_keep.as_secs(), 5);
        assert_eq!(merged.taken, ["status", "validate_token", "log_seconds"]);
        assert_eq!(
            merged.refused,
            [
                "`shards` changed: needs a restart, which may cost every session; the running value 2 stays",
                "`port` changed: needs a restart; the running value 7878 stays",
                "`cache.members` changed: needs a restart, which may cost every session; the running value (false) stays",
            ]
        );
    }

    #[test]
    fn a_default_that_is_written_out_is_no_change() {
        let merged = merged("", r#","port":7878,"log_level":"info","shards":null,"cache":{"roles":true}"#);
        assert!(merged.taken.is_empty() && merged.refused.is_empty(), "{:?} {:?}", merged.taken, merged.refused);
    }

    #[test]
    fn another_token_is_refused_and_not_shown_and_another_place_of_the_same_is_none() {
        let same = Environment { token: Some("Bot hush".into()), ..Environment::default() };
        let wanted = |environment: &Environment| {
            let json = Some(r#"{"intents":513}"#.to_owned());
            config::load(None, &Environment { config: json, ..environment.clone() }).unwrap()
        };
        assert!(merge(&loaded(""), wanted(&same), &same).unwrap().refused.is_empty());
        let other = Environment { token: Some("other".into()), ..Environment::default() };
        let merged = merge(&loaded(""), wanted(&other), &other).unwrap();
        let line = "`token` changed: needs a restart, which may cost every session; the running one stays";
        assert_eq!(merged.refused, [line]);
        assert_eq!(merged.loaded.config.token.secret(), "hush");
    }

    #[test]
    fn values_that_do_not_go_together_change_nothing() {
        // The number of shards cannot change, so the end must still fit.
        let after = loaded(r#","shards":8,"status":"idle","shard_end":7"#);
        let merged = merge(&loaded(r#","shards":4"#), after, &Environment::default()).unwrap();
        assert_eq!((merged.loaded.config.shards, merged.loaded.config.shard_end), (Some(4), None));
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shardgate-reload-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_that_was_written_counts_when_it_stands_still() {
        let folder = Folder::new("written");
        let path = folder.0.join("config.json");
        std::fs::write(&path, "{}").unwrap();
        let mut watched = Watched::new(Some(path.clone()));
        assert!(!watched.changed());
        std::fs::write(&path, "{} ").unwrap();
        assert!(!watched.changed());
        std::fs::write(&path, "{}  ").unwrap();
        assert!(!watched.changed());
        assert!(watched.changed());
        assert!(!watched.changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!watched.changed() && !watched.changed());
    }

    #[test]
    fn a_link_that_is_swapped_is_a_change() {
        // As Kubernetes does: config.json -> ..data/config.json, ..data -> ..1, and ..data is renamed over.
        let folder = Folder::new("link");
        let file = |version: &str| {
            std::fs::create_dir_all(folder.0.join(version)).unwrap();
            std::fs::write(folder.0.join(version).join("config.json"), version).unwrap();
        };
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.0.join(name)).unwrap();
        file("..1");
        file("..2");
        link("..1", "..data");
        link("..data/config.json", "config.json");
        let mut watched = Watched::new(Some(folder.0.join("config.json")));
        assert!(!watched.changed());
        link("..2", "..tmp");
        std::fs::rename(folder.0.join("..tmp"), folder.0.join("..data")).unwrap();
        assert!(!watched.changed());
        assert!(watched.changed());
    }
}
