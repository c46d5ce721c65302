//! `shardgate check`: what is configured and where it is from, what the machine offers, what would be used, what is amiss; a page for the
//! operator. Opens no connection and asks nobody but the kernel.

#![forbid(unsafe_code)]

use std::fmt::Write;

use super::certificates::TlsFiles;
use super::config::table::{self, Key};
use super::config::{Config, Loaded, Notice, SHARDS_MAX};
use super::keys::{Refusal, shown};
use super::memory::{self, Budget};
use super::probe::Machine;
use crate::runtime::settings::Backend;
use crate::runtime::takeover;

/// The page; or the refusal that a start would meet.
pub fn page(loaded: &Loaded, machine: &Machine) -> Result<String, Refusal> {
    let config = &loaded.config;
    let (backend, why) = machine.backend(config.backend)?;
    let cores = machine.cores(&config.cores, config.shards.unwrap_or(SHARDS_MAX as u32))?;
    let memory = memory::budget(config, machine)?;
    // Broken files would refuse a start.
    config.tls.as_ref().map(TlsFiles::load).transpose()?;
    let mut warnings: Vec<String> = why.into_iter().chain(memory.warning.clone()).collect();
    warnings.extend(machine.memlock_shortfall(backend, cores.len()));
    warnings.extend(machine.open_files_shortfall(config.shards.unwrap_or(1))?);
    warnings.extend(loaded.notices.iter().map(|notice| match notice {
        Notice::Note(line) | Notice::Warning(line) => line.clone(),
    }));

    let mut page = String::from("not the default:\n");
    for (key, value, source) in configured(loaded) {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  {key:<26} {value:<24} {source}");
    }
    for (title, rows) in [
        ("the machine", offered(machine)),
        ("what would be used", rows(loaded, config, backend, &cores, machine, &memory)),
    ] {
        let _ = writeln!(page, "{title}:");
        for (name, value) in rows {
            let _ = writeln!(page, "  {name:<26} {value}");
        }
    }
    for warning in warnings {
        let _ = writeln!(page, "note: {warning}");
    }
    page += "configuration and machine are fit to start\n";
    Ok(page)
}

/// Key, value and place of everything that is given and is not the default anyway.
fn configured(loaded: &Loaded) -> Vec<(&'static str, String, String)> {
    let given = |key: &'static Key| {
        let given = loaded.values.given.get(key.name)?;
        let is_default = given.value == key.default_value();
        let value = if key.is_secret { "(hidden)".to_owned() } else { shown(&given.value) };
        (!is_default && key.name != "token").then(|| (key.name, value, given.source.name().to_owned()))
    };
    let token = ("token", "(hidden)".to_owned(), loaded.token_source.clone());
    std::iter::once(token).chain(table::keys().filter_map(given)).collect()
}

fn offered(machine: &Machine) -> Vec<(&'static str, String)> {
    let limit = |value: Option<u64>| value.map_or("unlimited".to_owned(), |it| it.to_string());
    let memory = machine.memory.map_or("unknown".to_owned(), |it| {
        format!("{} bytes, of {}", it.bytes, if it.is_groups { "the control group" } else { "the machine" })
    });
    vec![
        ("kernel", machine.kernel.clone()),
        ("io_uring", machine.ring_text()),
        ("CPUs", format!("{:?}", machine.cpus)),
        ("memory", memory),
        ("open files, locked memory", format!("{}, {}", limit(machine.open_files), limit(machine.memlock))),
    ]
}

fn rows(
    loaded: &Loaded,
    config: &Config,
    backend: Backend,
    cores: &[usize],
    machine: &Machine,
    memory: &Budget,
) -> Vec<(&'static str, String)> {
    let or = |value: Option<u32>, otherwise: &str| value.map_or(otherwise.to_owned(), |it| it.to_string());
    let limit = |value: Option<u64>| value.map_or("unlimited".to_owned(), |it| it.to_string());
    let asked = match &config.twilight_http_proxy {
        Some(authority) => format!("{authority} (twilight_http_proxy)"),
        None => config.api_url.clone(),
    };
    let door = config
        .data_dir
        .as_ref()
        .map_or("none without data_dir".to_owned(), |data_dir| takeover::path_in(data_dir).display().to_string());
    vec![
        ("configuration", loaded.source.clone()),
        ("log_level, log_format", format!("{}, {:?}", config.log_level, config.log_format).to_lowercase()),
        ("token", format!("{:?}, from {}", config.token, loaded.token_source)),
        ("intents", config.intents.to_string()),
        ("listen", std::net::SocketAddr::new(config.bind, config.port).to_string()),
        ("admin_bind", config.admin_bind.map_or("none: pages on the gateway's port".into(), |it| it.to_string())),
        ("externally_accessible_url", config.externally_accessible_url.clone()),
        ("REST", asked),
        (
            "egress_proxy",
            config.egress_proxy.as_ref().map_or("none: Discord is reached directly".into(), |it| it.to_string()),
        ),
        ("clients' TLS", client_tls(config)),
        ("admin_key", config.admin_key.as_ref().map_or("none".into(), |it| format!("{it:?}"))),
        ("shards", or(config.shards, "as Discord recommends")),
        ("shard_start, shard_end", format!("{}, {}", or(config.shard_start, "0"), or(config.shard_end, "shards"))),
        ("presence", config.presence.clone().unwrap_or_else(|| "none".into())),
        ("validate_token", config.validate_token.to_string()),
        ("allow_compression", config.allow_compression.to_string()),
        ("upstream_compression", config.upstream_compression.query_value().unwrap_or("none").to_owned()),
        ("cache", cached(config)),
        ("memory_limit", format!("{} ({})", limit(memory.limit), memory.whence)),
        ("log", format!("{} bytes, {} s", memory.log_bytes, config.log_keep.as_secs())),
        ("identify_reserve", or(config.identify_reserve, "one per shard, from 10 to a tenth of the limit")),
        ("clients_max", machine.clients_max(config.clients_max, config.shards.unwrap_or(1)).to_string()),
        ("a client may", client_limits(config)),
        ("door for --takeover", door),
        ("data_dir", stored(config)),
        ("backend", if backend == Backend::IoUring { "io_uring".into() } else { "epoll".into() }),
        ("cores (CPU numbers)", format!("{cores:?}")),
    ]
}

fn client_tls(config: &Config) -> String {
    match &config.tls {
        None => "none".into(),
        Some(files) => {
            let ca = files
                .client_ca
                .as_ref()
                .map_or(String::new(), |it| format!(", clients show a certificate that {} has signed", it.display()));
            format!("{}, key {}{ca}", files.cert.display(), files.key.display())
        }
    }
}

fn client_limits(config: &Config) -> String {
    let limits = config.client_limits;
    format!(
        "take {} s for its upgrade, send {} payloads a minute, fail to RESUME {} times",
        limits.handshake.as_secs(),
        limits.payloads_per_minute,
        limits.failed_resumes
    )
}

fn stored(config: &Config) -> String {
    match &config.data_dir {
        Some(path) => format!("{}, at most {} bytes", path.display(), config.disk_bytes),
        None => "none: nothing survives a restart".into(),
    }
}

/// The flags that are on.
fn cached(config: &Config) -> String {
    let flags = config.cache;
    let names = [
        ("channels", flags.channels),
        ("presences", flags.presences),
        ("emojis", flags.emojis),
        ("current_member", flags.current_member),
        ("members", flags.members),
        ("roles", flags.roles),
        ("scheduled_events", flags.scheduled_events),
        ("stage_instances", flags.stage_instances),
        ("stickers", flags.stickers),
        ("users", flags.users),
        ("voice_states", flags.voice_states),
    ];
    let on: Vec<_> = names.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    if on.is_empty() { "nothing".into() } else { on.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::{Environment, load};
    use crate::control::probe::Ring;

    fn check(more: &str, ring: Ring) -> Result<String, String> {
        let json = format!(r#"{{"token":"hush.hush","intents":513{more}}}"#);
        let loaded = load(None, &Environment { config: Some(json), ..Environment::default() }).unwrap();
        let machine = Machine {
            ring,
            kernel: "6.1.0".into(),
            cpus: vec![0, 1],
            memlock: None,
            open_files: Some(300),
            memory: None,
        };
        page(&loaded, &machine).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_page_shows_what_would_be_used_and_hides_the_token() {
        let page = check(r#","shards":2,"cache":{"roles":false}"#, Ring::Works).unwrap();
        for row in
            ["intents                    513\n", "backend                    io_uring\n", "channels, current_member\n"]
        {
            assert!(page.contains(row), "{row} is not in\n{page}");
        }
        assert!(!page.contains("hush"), "{page}");
    }

    #[test]
    fn what_is_not_the_default_is_shown_with_its_place_and_secrets_are_not() {
        let page = check(r#","port":7878,"bind":"::1","cache":{"roles":false}"#, Ring::Works).unwrap();
        let part = page.split("the machine:").next().unwrap();
        let rows: Vec<Vec<&str>> = part.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows,
            [
                ["token", "(hidden)", "CONFIG"],
                ["intents", "513", "CONFIG"],
                ["bind", "\"::1\"", "CONFIG"],
                ["cache.roles", "false", "CONFIG"]
            ]
        );
        assert!(page.contains("  io_uring                   io_uring works\n"), "{page}");
    }

    #[test]
    fn the_page_says_where_the_operators_pages_are() {
        let row = |more| {
            check(more, Ring::Works)
                .unwrap()
                .lines()
                .find(|it| it.starts_with("  admin_bind ") && !it.contains("CONFIG"))
                .unwrap()
                .to_owned()
        };
        assert!(row("").ends_with(" none: pages on the gateway's port"));
        assert!(row(r#","admin_bind":"[::1]:7879""#).ends_with(" [::1]:7879"));
    }

    #[test]
    fn the_memory_budget_and_what_it_leaves_for_the_log_are_shown() {
        let page = check(r#","shards":2,"memory_limit":67108864"#, Ring::Works).unwrap();
        for row in [
            "memory_limit               67108864 (memory_limit)\n",
            "log                        16777216 bytes, 300 s\n",
        ] {
            assert!(page.contains(row), "{row} is not in\n{page}");
        }
        let line = check(r#","memory_limit":67108864,"log_bytes":67108864"#, Ring::Works).unwrap_err();
        assert!(line.starts_with("log_bytes: found 67108864, wanted at most 33554432"), "{line}");
    }

    #[test]
    fn shortfalls_and_warnings_are_notes() {
        let page = check(r#","shards":50,"backpressure":5,"prot":1"#, Ring::Forbidden).unwrap();
        for note in [
            "note: using epoll, since",
            "note: open files are limited",
            "note: `backpressure`",
            "note: unknown key `prot`",
        ] {
            assert!(page.contains(note), "{note} is not in\n{page}");
        }
    }

    #[test]
    fn what_would_refuse_a_start_refuses_the_check() {
        assert!(check(r#","backend":"io_uring""#, Ring::Forbidden).unwrap_err().starts_with("backend: "));
        assert!(check(r#","cores":3"#, Ring::Works).unwrap_err().starts_with("cores: "));
        assert!(check(r#","shards":1000"#, Ring::Works).unwrap_err().starts_with("open files "));
    }
}
