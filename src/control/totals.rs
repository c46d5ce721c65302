//! Totals of guilds, members, clients and events, per shard and in all, as JSON: the page `/stats`, `shardgate stats`, and the file that SIGUSR2
//! asks for.
//!
//! The file waits for shards that are not ready yet, up to a limit; what is missing after that is named in it. It is written beside and renamed,
//! so that whoever reads it sees all of it. Not here: asking the cores (`coordinator::collect`).

#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tracing::{info, warn};

use super::pages::Reports;
use crate::runtime::clock;
use crate::shard::report::ShardReport;

/// How long the file waits for shards that are not ready.
const READY_MAX: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(500);
/// In `data_dir` and in the runtime directory.
const FILE_NAME: &str = "totals.json";

/// `"complete"` is true when every shard of the process is ready; the others stand in `"missing"` with the reason.
pub fn totals(shards: &Range<u32>, shard_count: u32, reports: &Reports) -> Value {
    let mut known: Vec<&ShardReport> = reports.cores.iter().flat_map(|core| &core.shards).collect();
    known.sort_by_key(|it| it.shard);
    let why = |shard| match known.binary_search_by_key(&shard, |it| it.shard) {
        Ok(at) => known[at].unready.as_deref(),
        Err(_) => Some("its core does not answer"),
    };
    let missing: Vec<Value> = shards.clone().filter_map(|it| Some(json!({"shard": it, "why": why(it)?}))).collect();
    let greeting: usize = reports.cores.iter().map(|core| core.greeting).sum();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "at": clock::since_epoch().as_secs(),
        "shard_count": shard_count,
        "complete": missing.is_empty(),
        "missing": missing,
        "total": sum(&known),
        "clients_without_session": greeting,
        "shards": known.iter().map(|it| with_shard(it)).collect::<Vec<_>>(),
    })
}

fn sum(shards: &[&ShardReport]) -> Value {
    let sum = |value: fn(&ShardReport) -> u64| shards.iter().map(|it| value(it)).sum::<u64>();
    json!({
        "guilds": sum(|it| it.cache.guilds),
        "unavailable_guilds": sum(|it| it.cache.unavailable_guilds),
        "members": sum(|it| it.guild_members),
        "clients": sum(|it| it.clients as u64),
        "sessions": sum(|it| it.sessions as u64),
        "events": sum(events),
    })
}

fn with_shard(shard: &ShardReport) -> Value {
    let mut value = sum(&[shard]);
    value["shard"] = shard.shard.into();
    value["status"] = shard.status.into();
    value
}

fn events(shard: &ShardReport) -> u64 {
    shard.events.iter().map(|(_, count)| count).sum()
}

/// Where the file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    /// `data_dir`, else the service manager's runtime directory (its first, if there are several), else the directory for temporary files, under
    /// a name with the process's id.
    pub fn new(data_dir: Option<&Path>, runtime_directory: Option<&str>) -> Self {
        let runtime = || runtime_directory.and_then(|it| it.split(':').next()).filter(|it| !it.is_empty());
        Self(match (data_dir, runtime()) {
            (Some(dir), _) => dir.join(FILE_NAME),
            (None, Some(dir)) => Path::new(dir).join(FILE_NAME),
            (None, None) => std::env::temp_dir().join(format!("shardgate-{}-{FILE_NAME}", std::process::id())),
        })
    }
}

/// Writes the file when asked. One at a time: who asks meanwhile gets the one that is under way.
pub struct Writer {
    place: Place,
    shards: Range<u32>,
    shard_count: u32,
    collect: Arc<dyn Fn() -> Reports + Send + Sync>,
    is_writing: Arc<AtomicBool>,
}

impl Writer {
    /// `collect` asks all cores, as for the pages.
    pub fn new(
        place: Place,
        shards: Range<u32>,
        shard_count: u32,
        collect: impl Fn() -> Reports + Send + Sync + 'static,
    ) -> Self {
        Self { place, shards, shard_count, collect: Arc::new(collect), is_writing: Arc::default() }
    }

    /// Never blocks: a thread waits and writes, and the log says where to.
    pub fn begin(&self) {
        if self.is_writing.swap(true, Ordering::Relaxed) {
            return info!("totals are being written already");
        }
        let (place, shards, shard_count) = (self.place.clone(), self.shards.clone(), self.shard_count);
        let (collect, done) = (self.collect.clone(), self.is_writing.clone());
        let write = move || {
            let value = wait_for(|| totals(&shards, shard_count, &collect()));
            let is_complete = value["complete"] == true;
            match write(&place.0, &value) {
                Ok(()) if is_complete => info!(path = %place.0.display(), "totals are written"),
                Ok(()) => {
                    let missing = value["missing"].as_array().map_or(0, Vec::len);
                    warn!(path = %place.0.display(), missing, waited = ?READY_MAX, "totals are written, but some shards are not ready");
                }
                Err(error) => warn!(path = %place.0.display(), "totals cannot be written: {error}"),
            }
            done.store(false, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new().name("totals".into()).spawn(write) {
            self.is_writing.store(false, Ordering::Relaxed);
            warn!("totals cannot be written: no thread: {error}");
        }
    }
}

/// Asks until all is there or the time is over.
fn wait_for(mut ask: impl FnMut() -> Value) -> Value {
    let end = clock::now() + READY_MAX;
    loop {
        let value = ask();
        if value["complete"] == true || clock::now() >= end {
            return value;
        }
        thread::sleep(READY_POLL);
    }
}

/// All of it or nothing: written beside and renamed, for this user alone. A link that somebody has put in its place is replaced, not followed.
fn write(path: &Path, value: &Value) -> io::Result<()> {
    let beside = path.with_extension(format!("json.{}", std::process::id()));
    // Of a process with our number that was killed while it wrote.
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = writeln!(file, "{value:#}").and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cache::CacheCounts;
    use crate::runtime::mesh::CoreReport;

    fn shard(shard: u32, unready: Option<&str>) -> ShardReport {
        ShardReport {
            shard,
            status: 4,
            unready: unready.map(str::to_owned),
            cache: CacheCounts { guilds: 50, unavailable_guilds: 1, members: 3, ..Default::default() },
            guild_members: 1000,
            clients: 2,
            sessions: 3,
            events: vec![("READY".into(), 1), ("MESSAGE_CREATE".into(), 6)],
            ..Default::default()
        }
    }

    fn reports(shards: Vec<ShardReport>) -> Reports {
        Reports { cores: vec![CoreReport { greeting: 4, shards, ..Default::default() }], silent: Vec::new() }
    }

    #[test]
    fn the_totals_are_the_sum_of_the_shards() {
        let value = totals(&(0..2), 2, &reports(vec![shard(1, None), shard(0, None)]));
        let total =
            json!({"guilds": 100, "unavailable_guilds": 2, "members": 2000, "clients": 4, "sessions": 6, "events": 14});
        assert_eq!((&value["total"], &value["complete"], &value["missing"]), (&total, &json!(true), &json!([])));
        assert_eq!(value["shards"][0]["shard"], 0);
        assert_eq!(value["shards"][1]["members"], 1000);
        assert_eq!(value["clients_without_session"], 4);
    }

    #[test]
    fn shards_that_are_not_ready_are_named_with_the_reason() {
        let value = totals(&(0..3), 3, &reports(vec![shard(0, None), shard(1, Some("receives its guilds"))]));
        let missing =
            json!([{"shard": 1, "why": "receives its guilds"}, {"shard": 2, "why": "its core does not answer"}]);
        assert_eq!((&value["missing"], &value["complete"]), (&missing, &json!(false)));
    }

    #[test]
    fn the_file_goes_where_the_operator_keeps_data() {
        let data = Some(Path::new("/data"));
        assert_eq!(Place::new(data, Some("/run/x")).0, Path::new("/data/totals.json"));
        assert_eq!(Place::new(None, Some("/run/x:/run/y")).0, Path::new("/run/x/totals.json"));
        let fallback = Place::new(None, Some("")).0;
        assert!(fallback.starts_with(std::env::temp_dir()));
        assert!(fallback.to_str().unwrap().contains(&std::process::id().to_string()));
    }

    #[test]
    fn a_file_is_replaced_whole_for_this_user_alone_and_a_link_is_not_followed() {
        let dir = std::env::temp_dir().join(format!("shardgate-totals-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, victim) = (dir.join("totals.json"), dir.join("victim"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write(&path, &json!({"a": 1})).unwrap();
        write(&path, &json!({"a": 2})).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap(), json!({"a": 2}));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing is left beside it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&dir).unwrap();
    }
}
