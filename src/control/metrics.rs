//! The Prometheus page: what the cores report, as text.
//!
//! gateway-proxy's metrics keep their names, labels and meaning, so that its dashboards go on working; ours begin with
//! `shardgate_`. Not here: counting. The reports hold finished numbers.
//!
//! Size: about 5 KB per shard, 1.2 MB at 225 shards, in one buffer that is dropped with the page.

#![forbid(unsafe_code)]

mod cores;

use std::fmt::{self, Display, Write};
use std::time::Duration;

use super::memory::MemoryReport;
use crate::cache::CacheBytes;
use crate::runtime::mesh::CoreReport;
use crate::runtime::storage::mail::{StoreReport, WRITE_BUCKETS};
use crate::shard::report::{LATENCY_BUCKETS, ShardReport};

/// For the `Content-Type` header.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the control thread knows of the whole process.
#[derive(Clone, Debug, Default)]
pub struct ProcessReport {
    pub identify: IdentifyReport,
    /// Time since the start.
    pub uptime: Duration,
    /// Draining after a signal.
    pub stopping: bool,
    /// What the configuration's file says now is broken and was not taken.
    pub configuration_refused: bool,
    pub memory: MemoryReport,
}

/// The budget of IDENTIFYs.
#[derive(Clone, Debug, Default)]
pub struct IdentifyReport {
    /// Of `session_start_limit`, less the turns that are out.
    pub remaining: u32,
    /// Its `total`.
    pub limit: u32,
    /// Of what remains, what is never spent.
    pub reserve: u32,
    pub resets_in: Duration,
    /// Only the reserve is left: nothing is granted until the reset.
    pub held_back: bool,
    /// Shards that wait for their turn to IDENTIFY, sorted.
    pub waiting: Vec<u32>,
}

/// The whole page.
pub fn page(cores: &[CoreReport], process: &ProcessReport) -> String {
    let mut shards: Vec<&ShardReport> = cores.iter().flat_map(|core| &core.shards).collect();
    shards.sort_by_key(|shard| shard.shard);
    let mut page = Page { text: String::with_capacity(4096 + 6144 * shards.len()) };
    gateway_proxys_own(&mut page, &shards);
    ours_by_shard(&mut page, &shards);
    ours_by_process(&mut page, cores, process);
    if let Some(store) = cores.iter().find_map(|core| core.store.as_ref()) {
        ours_of_the_store(&mut page, store);
    }
    page.text
}

fn gateway_proxys_own(page: &mut Page, shards: &[&ShardReport]) {
    page.family("gateway_shard_events", "counter", "Dispatches received from Discord.");
    for shard in shards {
        for (event_type, count) in &shard.events {
            page.line("gateway_shard_events", &[("shard", &shard.shard), ("event_type", event_type)], count);
        }
    }
    page.family("gateway_shard_latency", "gauge", "Round trip of the newest heartbeat, in seconds.");
    for shard in shards {
        let seconds = shard.latency.map_or(f64::NAN, |it| it.as_secs_f64());
        page.line("gateway_shard_latency", &[("shard", &shard.shard)], &seconds);
    }
    page.family("gateway_shard_latency_histogram", "histogram", "Round trips of heartbeats, in seconds.");
    for shard in shards {
        latency_histogram(page, shard);
    }
    page.by_shard(
        shards,
        "gateway_shard_status",
        "gauge",
        "0 fatal, 1 disconnected, 2 identifying, 3 resuming, 4 active.",
        |shard| shard.status.into(),
    );
    type Count = fn(&ShardReport) -> u64;
    let counts: [(&str, Count); 9] = [
        ("emojis", |it| it.cache.emojis),
        ("guilds", |it| it.cache.guilds),
        ("members", |it| it.cache.members),
        ("presences", |it| it.cache.presences),
        ("channels", |it| it.cache.channels),
        ("roles", |it| it.cache.roles),
        ("unavailable_guilds", |it| it.cache.unavailable_guilds),
        ("users", |it| it.cache.users),
        ("voice_states", |it| it.cache.voice_states),
    ];
    for (what, count) in counts {
        let help = format!("Cached {}.", what.replace('_', " "));
        page.by_shard(shards, &format!("gateway_cache_{what}"), "gauge", &help, count);
    }
}

/// Buckets are cumulative in the text, and single in the report.
fn latency_histogram(page: &mut Page, shard: &ShardReport) {
    let mut below = 0;
    for (count, bound) in shard.latencies.counts.iter().zip(LATENCY_BUCKETS.into_iter().chain([f64::INFINITY])) {
        below += count;
        let labels: [(&str, &dyn Display); 2] = [("shard", &shard.shard), ("le", &Number(bound))];
        page.line("gateway_shard_latency_histogram_bucket", &labels, &below);
    }
    let sum = shard.latencies.sum.as_secs_f64();
    page.line("gateway_shard_latency_histogram_sum", &[("shard", &shard.shard)], &sum);
    page.line("gateway_shard_latency_histogram_count", &[("shard", &shard.shard)], &below);
}

fn ours_by_shard(page: &mut Page, shards: &[&ShardReport]) {
    type Value = fn(&ShardReport) -> u64;
    let families: [(&str, &str, &str, Value); 23] = [
        ("clients", "gauge", "Clients connected and identified.", |it| it.clients as u64),
        ("sessions", "gauge", "Client sessions, connected or waiting for RESUME.", |it| it.sessions as u64),
        ("log_bytes", "gauge", "Bytes held in the log.", |it| it.log_bytes as u64),
        ("log_dispatches", "gauge", "Dispatches held in the log.", |it| it.log_dispatches),
        ("cursor_lag_dispatches", "gauge", "How far connected clients are behind, all together.", |it| {
            it.lag.dispatches
        }),
        ("cursor_lag_max_dispatches", "gauge", "The same of the client that is furthest behind.", |it| {
            it.lag.dispatches_max
        }),
        ("cursor_lag_bytes", "gauge", "Bytes of log that connected clients have not been sent, all together.", |it| {
            it.lag.bytes
        }),
        ("cursor_lag_max_bytes", "gauge", "The same of the client that is furthest behind.", |it| it.lag.bytes_max),
        ("guild_members", "gauge", "Members of the guilds as Discord counts them, cached or not.", |it| {
            it.guild_members
        }),
        ("client_resumes_total", "counter", "RESUMEs of clients answered with a replay.", |it| it.resumes),
        ("client_lagging_closes_total", "counter", "Clients closed resumably because they fell behind.", |it| {
            it.lagging_closes
        }),
        ("upstream_connects_total", "counter", "Connections opened to Discord.", |it| it.connects),
        ("upstream_identifies_total", "counter", "IDENTIFYs sent to Discord.", |it| it.identifies),
        ("upstream_resumes_total", "counter", "RESUMEs sent to Discord.", |it| it.upstream_resumes),
        ("commands_queued", "gauge", "Client commands waiting for the budget of 120 in 60 s.", |it| {
            it.commands_queued as u64
        }),
        ("commands_misrouted_total", "counter", "Client commands left out: their guild is another shard's.", |it| {
            it.commands_misrouted
        }),
        ("commands_refused_total", "counter", "Client commands refused because the queue was full.", |it| {
            it.commands_refused
        }),
        (
            "upstream_repeated_total",
            "counter",
            "Dispatches of Discord that repeated a number and were left out.",
            |it| it.repeated,
        ),
        (
            "upstream_sequence_gaps_total",
            "counter",
            "How often Discord left numbers out between two dispatches.",
            |it| it.sequence_gaps,
        ),
        (
            "known_gaps_total",
            "counter",
            "How often Discord forgot the session; clients were told the difference of state.",
            |it| it.known_gaps,
        ),
        ("log_reads_total", "counter", "Segments of the log read back from the store.", |it| it.log_reads),
        ("cache_packed_bytes", "gauge", "Bytes of the packed state, without what finds it.", |it| it.cache.bytes),
        ("cache_errors_total", "counter", "Dispatches that the cache could not read; they were passed on.", |it| {
            it.cache_errors
        }),
    ];
    for (name, kind, help, value) in families {
        page.by_shard(shards, &format!("shardgate_{name}"), kind, help, value);
    }
    page.family("shardgate_log_age_seconds", "gauge", "Age of the oldest dispatch in the log.");
    for shard in shards {
        page.line("shardgate_log_age_seconds", &[("shard", &shard.shard)], &shard.log_age.as_secs_f64());
    }
    page.family(
        "shardgate_upstream_closes_total",
        "counter",
        "Closes by Discord, by close code; 0 where none was given.",
    );
    for shard in shards {
        for (code, count) in &shard.close_codes {
            page.line("shardgate_upstream_closes_total", &[("shard", &shard.shard), ("code", code)], count);
        }
    }
}

fn ours_by_process(page: &mut Page, cores: &[CoreReport], process: &ProcessReport) {
    cache_bytes(page, cores);
    cores::families(page, cores);
    page.family("shardgate_greeting_clients", "gauge", "Connections that have not identified yet.");
    for core in cores {
        page.line("shardgate_greeting_clients", &[("core", &core.core)], &core.greeting);
    }
    page.family(
        "shardgate_clients_turned_away_total",
        "counter",
        "Connections of clients closed by a limit: full (clients_max), silent (quietest of too many that had not identified), \
         handshake (client_handshake_seconds), tls (a TLS handshake that failed), flood (client_payloads_per_minute), guesses (client_failed_resumes, wrong tokens).",
    );
    for core in cores {
        for (reason, count) in core.turned_away.by_reason() {
            page.line("shardgate_clients_turned_away_total", &[("core", &core.core), ("reason", &reason)], &count);
        }
    }
    page.family(
        "shardgate_client_resumes_refused_total",
        "counter",
        "RESUMEs of clients answered with op 9: elsewhere (the session is of no shard held here), gone (it is over, or the log has run past it), \
         not_found (what the client had got was never stored and did not come again).",
    );
    for core in cores {
        for (reason, count) in core.resumes_refused.by_reason() {
            let labels: [(_, &dyn Display); 2] = [("core", &core.core), ("reason", &reason)];
            page.line("shardgate_client_resumes_refused_total", &labels, &count);
        }
    }
    page.family(
        "shardgate_log_dropped_early_total",
        "counter",
        "Log segments given back before log_seconds were over, for want of log_bytes.",
    );
    for core in cores {
        page.line("shardgate_log_dropped_early_total", &[("core", &core.core)], &core.log_dropped_early);
    }
    page.family("shardgate_upgrades_refused_total", "counter", "Upgrades answered 503 because memory was used up.");
    for core in cores {
        page.line("shardgate_upgrades_refused_total", &[("core", &core.core)], &core.upgrades_refused);
    }
    page.single("shardgate_memory_bytes", "Resident memory of the process.", &process.memory.bytes);
    if let Some(limit) = process.memory.limit {
        page.single("shardgate_memory_limit_bytes", "What it may use: memory_limit, or its default.", &limit);
    }
    let level = process.memory.level.percent();
    page.single("shardgate_memory_level", "0, or the 80, 90 or 100 % of the limit whose measures are taken.", &level);
    page.family("shardgate_backend_info", "gauge", "The kernel interface that carries the sockets of each core.");
    for core in cores {
        page.line("shardgate_backend_info", &[("core", &core.core), ("backend", &core.backend)], &1);
    }
    let identify = &process.identify;
    page.single("shardgate_identify_limit", "IDENTIFYs that Discord grants per day.", &identify.limit);
    page.single("shardgate_identify_remaining", "IDENTIFYs left until the limit resets.", &identify.remaining);
    page.single("shardgate_identify_reserve", "IDENTIFYs of these that are never spent.", &identify.reserve);
    page.single("shardgate_identify_resets_in_seconds", "Time until the limit resets.", &identify.resets_in.as_secs());
    page.single(
        "shardgate_identify_held_back",
        "1 while only the reserve is left and no IDENTIFY is sent.",
        &u8::from(identify.held_back),
    );
    page.single("shardgate_identify_waiting", "Shards waiting for their turn to IDENTIFY.", &identify.waiting.len());
    page.single(
        "shardgate_configuration_refused",
        "1 while the configuration was read again and not taken, for it is broken: a restart would fail.",
        &u8::from(process.configuration_refused),
    );
    page.single("shardgate_uptime_seconds", "Time since the start.", &process.uptime.as_secs_f64());
    page.family("shardgate_build_info", "gauge", "The version that runs.");
    page.line("shardgate_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], &1);
}

/// Summed over the shards: a line for each kind and shard would be a ninth of the page.
fn cache_bytes(page: &mut Page, cores: &[CoreReport]) {
    type Bytes = fn(&CacheBytes) -> u64;
    let kinds: [(&str, Bytes); 9] = [
        ("members", |it| it.members),
        ("presences", |it| it.presences),
        ("voice_states", |it| it.voice_states),
        ("roles", |it| it.roles),
        ("channels", |it| it.channels),
        ("emojis", |it| it.emojis),
        ("other", |it| it.other),
        ("ready", |it| it.ready),
        ("shapes", |it| it.shapes),
    ];
    page.family("shardgate_cache_bytes", "gauge", "Bytes of memory that the cached state holds, by kind of object.");
    for (kind, bytes) in kinds {
        let sum: u64 = cores.iter().flat_map(|core| &core.shards).map(|shard| bytes(&shard.cache_bytes)).sum();
        page.line("shardgate_cache_bytes", &[("kind", &kind)], &sum);
    }
}

/// Only with `data_dir`.
fn ours_of_the_store(page: &mut Page, store: &StoreReport) {
    let stats = &store.stats;
    page.single(
        "shardgate_store_lost",
        "1 while the disk has failed and everything is kept in memory alone.",
        &u8::from(store.is_lost),
    );
    page.family("shardgate_store_info", "gauge", "How the files in data_dir are read and written.");
    page.line("shardgate_store_info", &[("files", &store.files)], &1);
    for (name, help, value) in [
        ("shardgate_store_errors_total", "Failures of the disk.", store.errors),
        ("shardgate_store_written_bytes_total", "Bytes written to disk.", stats.written_bytes),
        ("shardgate_store_batches_total", "Batches written to disk.", stats.batches),
        ("shardgate_store_damaged_total", "Segments and checkpoints that the disk gave back damaged.", stats.damaged),
    ] {
        page.family(name, "counter", help);
        page.line(name, &[], &value);
    }
    page.family("shardgate_store_disk_bytes", "gauge", "Bytes on disk, by kind of file; disk_bytes bounds the sum.");
    for (kind, bytes) in [("wal", stats.wal_bytes), ("log", stats.log_bytes), ("state", stats.state_bytes)] {
        page.line("shardgate_store_disk_bytes", &[("kind", &kind)], &bytes);
    }
    page.single(
        "shardgate_store_state_live_bytes",
        "Bytes of checkpoints that are the newest.",
        &stats.state_live_bytes,
    );
    page.single("shardgate_store_wal_files", "Files of the write-ahead log.", &stats.wal_files);
    const WRITES: &str = "shardgate_store_write_seconds";
    page.family(WRITES, "histogram", "How long it took to write what all cores had sent.");
    let mut below = 0;
    for (bound, count) in WRITE_BUCKETS.iter().copied().chain([f64::INFINITY]).zip(store.writes.counts) {
        below += count;
        page.line(&format!("{WRITES}_bucket"), &[("le", &Number(bound))], &below);
    }
    page.line(&format!("{WRITES}_sum"), &[], &store.writes.sum.as_secs_f64());
    page.line(&format!("{WRITES}_count"), &[], &below);
    page.single(
        "shardgate_store_write_seconds_max",
        "The longest of them since the start.",
        &store.writes.longest.as_secs_f64(),
    );
}

struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: &dyn Display) {
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, Escaped(value));
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn by_shard(
        &mut self,
        shards: &[&ShardReport],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&ShardReport) -> u64,
    ) {
        self.family(name, kind, help);
        for shard in shards {
            self.line(name, &[("shard", &shard.shard)], &value(shard));
        }
    }

    fn single(&mut self, name: &str, help: &str, value: &dyn Display) {
        self.family(name, "gauge", help);
        self.line(name, &[], value);
    }
}

/// As Prometheus writes numbers: infinity is `+Inf`.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY { f.write_str("+Inf") } else { self.0.fmt(f) }
    }
}

/// A label's value with backslash, quote and line feed escaped: event types come from the network.
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|letter| match letter {
                    '\\' => self.0.write_str("\\\\"),
                    '"' => self.0.write_str("\\\""),
                    '\n' => self.0.write_str("\\n"),
                    letter => self.0.write_char(letter),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::cache::CacheCounts;
    use crate::runtime::delays::Delays;
    use crate::runtime::mesh::{CloseReport, ResumesRefused, TurnedAway};
    use crate::runtime::net::{Bytes, Traffic};
    use crate::session::upstream::{Reconnect, Reconnects};
    use crate::shard::pressure::Pressure;
    use crate::shard::report::{Lag, Latencies};
    use crate::wire::CloseCode;

    fn report(shard: u32) -> ShardReport {
        let mut latency_counts = [0; LATENCY_BUCKETS.len() + 1];
        latency_counts[3] = 2;
        latency_counts[5] = 1;
        latency_counts[LATENCY_BUCKETS.len()] = 1;
        let mut reconnects = Reconnects::default();
        reconnects.add(Reconnect::Requested);
        ShardReport {
            shard,
            status: 4,
            latency: Some(Duration::from_millis(42)),
            latencies: Latencies { counts: latency_counts, sum: Duration::from_millis(12_500) },
            events: vec![("MESSAGE_CREATE".into(), 17), ("TYPING_START".into(), 4)],
            cache: CacheCounts { guilds: 5, unavailable_guilds: 1, voice_states: 3, bytes: 999, ..Default::default() },
            cache_bytes: CacheBytes { members: 700, shapes: 50, ..Default::default() },
            log_age: Duration::from_millis(1500),
            lag: Lag { dispatches: 12, dispatches_max: 11, bytes: 1200, bytes_max: 1100 },
            guild_members: 5000,
            reconnects,
            close_codes: vec![(4000, 2)],
            clients: 1,
            ..Default::default()
        }
    }

    fn store() -> StoreReport {
        let mut store = StoreReport { files: "plain", errors: 2, is_lost: true, ..StoreReport::default() };
        store.stats.log_bytes = 4096;
        store.writes.add(Duration::from_millis(3));
        store.writes.add(Duration::from_secs(20));
        store
    }

    fn delays() -> Delays {
        let mut delays = Delays::default();
        delays.add(Duration::from_micros(100), 3);
        delays
    }

    fn closes() -> CloseReport {
        let mut closes = CloseReport::default();
        closes.to_discord.add(Some(CloseCode(4900)));
        closes.to_clients.add(Some(CloseCode(4008)));
        closes.by_clients.add(None);
        closes
    }

    fn text() -> String {
        let turned_away = TurnedAway { flood: 4, ..Default::default() };
        let core = |core, shards| CoreReport {
            core,
            backend: "epoll",
            greeting: 2,
            turned_away,
            resumes_refused: ResumesRefused { gone: 5, ..Default::default() },
            log_dropped_early: 0,
            upgrades_refused: 3,
            busy: Duration::from_millis(2500),
            traffic: Traffic { connected: Bytes { received: 7, sent: 8 }, added: Bytes { received: 9, sent: 10 } },
            delays: delays(),
            closes: closes(),
            store_inflight_bytes: 77,
            shards,
            store: (core == 0).then(store),
        };
        let process = ProcessReport {
            identify: IdentifyReport {
                remaining: 990,
                limit: 1000,
                reserve: 10,
                resets_in: Duration::from_secs(77),
                held_back: false,
                waiting: vec![1, 2, 3],
            },
            uptime: Duration::from_secs(9),
            stopping: false,
            configuration_refused: true,
            memory: MemoryReport { bytes: 950, limit: Some(1000), level: Pressure::Shed },
        };
        page(&[core(1, vec![report(1)]), core(0, vec![report(0)])], &process)
    }

    #[test]
    fn the_metrics_of_gateway_proxy_have_its_names_and_labels() {
        let text = text();
        for line in [
            r#"gateway_shard_events{shard="0",event_type="MESSAGE_CREATE"} 17"#,
            r#"gateway_shard_latency{shard="1"} 0.042"#,
            r#"gateway_shard_status{shard="0"} 4"#,
            r#"gateway_cache_emojis{shard="0"} 0"#,
            r#"gateway_cache_guilds{shard="0"} 5"#,
            r#"gateway_cache_members{shard="0"} 0"#,
            r#"gateway_cache_presences{shard="0"} 0"#,
            r#"gateway_cache_channels{shard="0"} 0"#,
            r#"gateway_cache_roles{shard="0"} 0"#,
            r#"gateway_cache_unavailable_guilds{shard="0"} 1"#,
            r#"gateway_cache_users{shard="0"} 0"#,
            r#"gateway_cache_voice_states{shard="0"} 3"#,
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_histogram_is_cumulative_up_to_infinity() {
        let text = text();
        let name = "gateway_shard_latency_histogram";
        for line in [
            format!(r#"{name}_bucket{{shard="0",le="0.025"}} 0"#),
            format!(r#"{name}_bucket{{shard="0",le="0.05"}} 2"#),
            format!(r#"{name}_bucket{{shard="0",le="0.1"}} 2"#),
            format!(r#"{name}_bucket{{shard="0",le="0.25"}} 3"#),
            format!(r#"{name}_bucket{{shard="0",le="10"}} 3"#),
            format!(r#"{name}_bucket{{shard="0",le="+Inf"}} 4"#),
            format!(r#"{name}_sum{{shard="0"}} 12.5"#),
            format!(r#"{name}_count{{shard="0"}} 4"#),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn each_family_is_announced_once_before_its_lines() {
        let text = text();
        let (mut announced, mut current) = (HashSet::new(), "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(announced.insert(current), "{current} twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(current), "{line} under {current}");
                let kind = text.lines().find(|it| it.starts_with(&format!("# TYPE {current} "))).unwrap();
                assert_eq!(kind.ends_with("counter"), current.ends_with("_total") || current == "gateway_shard_events");
            }
        }
        assert!(announced.len() > 25);
    }

    #[test]
    fn without_a_store_nothing_is_said_of_it() {
        assert!(!page(&[CoreReport::default()], &ProcessReport::default()).contains("shardgate_store"));
    }

    #[test]
    fn no_line_stands_twice() {
        let text = text();
        let mut seen = HashSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line}");
        }
    }

    #[test]
    fn ours_are_there_with_their_units() {
        let text = text();
        for line in [
            r#"shardgate_clients{shard="1"} 1"#,
            r#"shardgate_log_age_seconds{shard="0"} 1.5"#,
            r#"shardgate_upstream_closes_total{shard="0",code="4000"} 2"#,
            r#"shardgate_cache_packed_bytes{shard="0"} 999"#,
            r#"shardgate_cache_bytes{kind="members"} 1400"#,
            r#"shardgate_cache_bytes{kind="shapes"} 100"#,
            r#"shardgate_cache_bytes{kind="roles"} 0"#,
            r#"shardgate_greeting_clients{core="0"} 2"#,
            r#"shardgate_clients_turned_away_total{core="1",reason="flood"} 4"#,
            r#"shardgate_clients_turned_away_total{core="1",reason="full"} 0"#,
            r#"shardgate_client_resumes_refused_total{core="1",reason="gone"} 5"#,
            r#"shardgate_client_resumes_refused_total{core="0",reason="elsewhere"} 0"#,
            r#"shardgate_backend_info{core="0",backend="epoll"} 1"#,
            "shardgate_identify_remaining 990",
            "shardgate_identify_limit 1000",
            "shardgate_identify_reserve 10",
            "shardgate_identify_resets_in_seconds 77",
            "shardgate_identify_held_back 0",
            "shardgate_identify_waiting 3",
            "shardgate_memory_bytes 950",
            "shardgate_memory_limit_bytes 1000",
            "shardgate_memory_level 90",
            r#"shardgate_upgrades_refused_total{core="1"} 3"#,
            "shardgate_uptime_seconds 9",
            "shardgate_configuration_refused 1",
            r#"shardgate_core_busy_seconds_total{core="1"} 2.5"#,
            r#"shardgate_received_bytes_total{core="0",peer="discord"} 7"#,
            r#"shardgate_sent_bytes_total{core="0",peer="clients"} 10"#,
            r#"shardgate_event_delay_seconds_bucket{le="0.00005"} 0"#,
            r#"shardgate_event_delay_seconds_bucket{le="0.0001"} 6"#,
            r#"shardgate_event_delay_seconds_sum 0.0006"#,
            r#"shardgate_upstream_closes_sent_total{code="4900"} 2"#,
            r#"shardgate_client_closes_total{by="client",code="0"} 2"#,
            r#"shardgate_client_closes_total{by="proxy",code="4008"} 2"#,
            r#"shardgate_upstream_reconnects_total{reason="op_7"} 2"#,
            r#"shardgate_upstream_reconnects_total{reason="zombie"} 0"#,
            r#"shardgate_cursor_lag_dispatches{shard="0"} 12"#,
            r#"shardgate_cursor_lag_max_bytes{shard="1"} 1100"#,
            r#"shardgate_guild_members{shard="0"} 5000"#,
            r#"shardgate_store_inflight_bytes{core="1"} 77"#,
            "shardgate_store_lost 1",
            "shardgate_store_errors_total 2",
            r#"shardgate_store_info{files="plain"} 1"#,
            r#"shardgate_store_disk_bytes{kind="log"} 4096"#,
            r#"shardgate_store_write_seconds_bucket{le="0.0025"} 0"#,
            r#"shardgate_store_write_seconds_bucket{le="0.005"} 1"#,
            r#"shardgate_store_write_seconds_bucket{le="+Inf"} 2"#,
            "shardgate_store_write_seconds_max 20",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_shard_without_a_heartbeat_yet_has_no_number_as_latency() {
        let report = ShardReport { latency: None, ..report(0) };
        let core = CoreReport { shards: vec![report], ..Default::default() };
        assert!(page(&[core], &ProcessReport::default()).contains("gateway_shard_latency{shard=\"0\"} NaN\n"));
    }

    #[test]
    fn an_event_type_cannot_break_out_of_its_label() {
        let report = ShardReport { events: vec![("A\"} 1\nB\\".into(), 1)], ..report(0) };
        let core = CoreReport { shards: vec![report], ..Default::default() };
        let text = page(&[core], &ProcessReport::default());
        assert!(text.contains(r#"event_type="A\"} 1\nB\\"} 1"#), "{text}");
    }
}
