//! What the state takes: bytes per object as held and as the kernel counts, fresh and after every fragment was replaced once,
//! against the same state as JSON and under `zstd -19`. Prints a table; measures no time.
//!
//! `cargo bench --bench memory`, or with a number of guilds behind `--`. Two sets of guilds of 25 channels, 15 roles, 20 emojis and 100 members, 40 of
//! whom have a presence and 10 are in voice: *regular* (the fixtures of the tests: few distinct texts) and *hard* (see `hard`). The load test's
//! guilds, in the whole proxy, are measured by `loadtest memory`.

#[path = "../../src/cache/tests/fixture.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod fixture;
mod hard;

use std::collections::BTreeMap;
use std::process::Command;

use fastrand::Rng;
use hard::Hard;
use shardgate::cache::{Cache, CacheFlags, Shapes};
use shardgate::wire::GuildId;

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

const MEMBERS: u32 = 100;
const PRESENCES: u32 = 40;
const VOICE_STATES: u32 = 10;
const CHANNELS: u64 = 25;
const ROLES: u64 = 15;
const EMOJIS: u64 = 20;
const GUILDS: u32 = 1000;
/// zstd -19 takes a second for a few megabytes.
const FLOOR_GUILDS: u32 = 100;

/// Returned pages go back to the kernel at once, so that RSS is what is held.
const CONF: (&str, &str) = ("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0,narenas:1");

/// A source of guilds: the same object for the same arguments, another for another `version`.
enum Set {
    Regular,
    Hard,
}

impl Set {
    fn name(&self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Hard => "hard",
        }
    }

    fn rng(kind: u64, guild: u32, n: u64, version: u64) -> Hard {
        Hard(Rng::with_seed(kind << 60 | version << 50 | u64::from(guild) << 20 | n))
    }

    fn guild_id(guild: u32) -> u64 {
        Self::rng(1, guild, 0, 0).id()
    }

    fn user(&self, guild: u32, member: u32) -> u64 {
        match self {
            Self::Regular => u64::from(guild * 1000 + member + 1) * 2_654_435_761 + (160_000_000_000 << 22),
            Self::Hard => Self::rng(2, guild, member.into(), 0).id(),
        }
    }

    fn roles(guild: u32) -> Vec<u64> {
        (0..ROLES).map(|n| Self::rng(3, guild, n, 0).id()).collect()
    }

    fn member(&self, guild: u32, member: u32, version: u64) -> String {
        match self {
            Self::Regular => {
                let roles = Self::roles(guild);
                let text = fixture::member(self.user(guild, member), &roles[..member as usize % 4]);
                let changed = text.replace("\"nick\":null", &format!("\"nick\":\"nick of {member}\""));
                if version > 0 { changed } else { text }
            }
            Self::Hard => {
                Self::rng(4, guild, member.into(), version).member(self.user(guild, member), &Self::roles(guild))
            }
        }
    }

    fn presence(&self, guild: u32, member: u32, version: u64) -> String {
        match self {
            Self::Regular => {
                let status = if version > 0 { "idle" } else { "online" };
                fixture::presence(self.user(guild, member), status)
            }
            Self::Hard => Self::rng(5, guild, member.into(), version).presence(self.user(guild, member)),
        }
    }

    fn voice_state(&self, guild: u32, member: u32, version: u64) -> String {
        let channel = Self::rng(6, guild, version, 0).id();
        Self::rng(7, guild, member.into(), version).voice_state(self.user(guild, member), channel)
    }

    fn channel(&self, guild: u32, n: u64, version: u64) -> String {
        let id = Self::rng(6, guild, n, 0).id();
        match self {
            Self::Regular => fixture::channel(id).replace("\"position\":3", &format!("\"position\":{}", n + version)),
            Self::Hard => Self::rng(8, guild, n, version).channel(id, &Self::roles(guild)),
        }
    }

    fn role(&self, guild: u32, n: u64, version: u64) -> String {
        let id = Self::rng(3, guild, n, 0).id();
        match self {
            Self::Regular => fixture::role(id).replace("\"position\":1", &format!("\"position\":{}", n + version)),
            Self::Hard => Self::rng(9, guild, n, version).role(id),
        }
    }

    fn emoji(&self, guild: u32, n: u64) -> String {
        let id = Self::rng(10, guild, n, 0).id();
        match self {
            Self::Regular => fixture::emoji(id),
            Self::Hard => Self::rng(11, guild, n, 0).emoji(id),
        }
    }

    /// The `d` of a GUILD_CREATE.
    fn guild(&self, guild: u32, members: u32) -> String {
        let list = |many: u64, of: &dyn Fn(u64) -> String| (0..many).map(of).collect::<Vec<_>>().join(",");
        let none = fixture::Size { channels: 0, threads: 0, roles: 0, emojis: 0, members: 0 };
        let share = |part: u32| u64::from(part * members / MEMBERS);
        let mut text = fixture::guild(Self::guild_id(guild), none);
        for (key, elements) in [
            ("channels", list(CHANNELS, &|n| self.channel(guild, n, 0))),
            ("roles", list(ROLES, &|n| self.role(guild, n, 0))),
            ("emojis", list(EMOJIS, &|n| self.emoji(guild, n))),
            ("members", list(members.into(), &|n| self.member(guild, n as u32, 0))),
            ("presences", list(share(PRESENCES), &|n| self.presence(guild, n as u32, 0))),
            ("voice_states", list(share(VOICE_STATES), &|n| self.voice_state(guild, n as u32, 0))),
        ] {
            text = text.replacen(&format!("\"{key}\":[]"), &format!("\"{key}\":[{elements}]"), 1);
        }
        text
    }
}

/// What is measured, each in a process of its own: what another left behind in the allocator would count too.
const STATES: [&str; 5] = ["empty", "flags off", "without members", "full", "each replaced once"];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    if let [set, state, guilds] = &args[..] {
        let guilds = guilds.parse().expect("the parent gave a number");
        let set = if set == "hard" { Set::Hard } else { Set::Regular };
        return measure(&set, state, guilds);
    }
    let guilds: u32 = args.first().and_then(|it| it.parse().ok()).unwrap_or(GUILDS);
    println!("{guilds} guilds of {CHANNELS} channels, {ROLES} roles, {EMOJIS} emojis, {MEMBERS} members; bytes");
    println!(
        "| set | state | RSS per guild | RSS per member | member | presence | voice state | role | channel | emoji | other per guild | shapes |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for set in ["regular", "hard"] {
        let mut rss = BTreeMap::new();
        for state in STATES {
            let line = child(set, state, guilds);
            let (measured, columns) = line.split_once(' ').unwrap_or((&line, ""));
            rss.insert(state, measured.parse::<usize>().unwrap_or_default());
            let over = |other: &str| (rss[state].saturating_sub(rss[other]), guilds as usize);
            let (of_guilds, guilds) = over("empty");
            let per_member = match state {
                "full" | "each replaced once" => (over("without members").0 / (guilds * MEMBERS as usize)).to_string(),
                _ => "-".to_owned(),
            };
            if state != "empty" {
                println!("| {set} | {state} | {} | {per_member} | {columns}", of_guilds / guilds);
            }
        }
        let set = if set == "hard" { Set::Hard } else { Set::Regular };
        floor(&set, guilds.min(FLOOR_GUILDS));
    }
}

/// RSS and the columns, from this program run again with the allocator's configuration, which it reads before `main`.
fn child(set: &str, state: &str, guilds: u32) -> String {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).args([set, state, &guilds.to_string()]).env(CONF.0, CONF.1).output();
    let output = output.expect("this program starts again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim().to_owned()
}

fn measure(set: &Set, state: &str, guilds: u32) {
    let flags = if state == "flags off" { CacheFlags::NONE } else { CacheFlags::ALL };
    let members = if matches!(state, "full" | "each replaced once" | "flags off") { MEMBERS } else { 0 };
    let mut cache = load(set, if state == "empty" { 0 } else { guilds }, flags, members);
    if state == "each replaced once" {
        replace_all(set, &mut cache, guilds);
    }
    line(&cache, guilds);
}

/// The state as JSON, and that under zstd: what a compressor finds that has all of it before it.
fn floor(set: &Set, guilds: u32) {
    let (bare, full) =
        (json(&load(set, guilds, CacheFlags::ALL, 0)), json(&load(set, guilds, CacheFlags::ALL, MEMBERS)));
    let line = |state: &str, bare: usize, full: usize| {
        let per_member = full.saturating_sub(bare) / (guilds * MEMBERS) as usize;
        println!("| {} | {state} | {} | {per_member} |", set.name(), bare / guilds as usize);
    };
    line("JSON", bare.len(), full.len());
    line("zstd -19 of the JSON", zstd(&bare), zstd(&full));
}

fn load(set: &Set, guilds: u32, flags: CacheFlags, members: u32) -> Cache {
    let mut cache = Cache::new(flags, Shapes::default());
    cache.on_ready(fixture::ready(1, &[]).as_bytes()).expect("the fixture is JSON");
    for guild in 0..guilds {
        cache.apply(b"GUILD_CREATE", set.guild(guild, members).as_bytes()).expect("the guild is JSON");
    }
    cache
}

/// Every fragment but the emojis once, in random order over all guilds.
fn replace_all(set: &Set, cache: &mut Cache, guilds: u32) {
    let mut rng = Rng::with_seed(7);
    let mut steps: Vec<(u32, u32)> = (0..guilds).flat_map(|guild| (0..MEMBERS).map(move |n| (guild, n))).collect();
    rng.shuffle(&mut steps);
    for (guild, n) in steps {
        let mut apply = |event: &str, object: String| {
            let d = fixture::in_guild(Set::guild_id(guild), &object);
            cache.apply(event.as_bytes(), d.as_bytes()).expect("the event is JSON");
        };
        apply("GUILD_MEMBER_UPDATE", set.member(guild, n, 1));
        if n < PRESENCES {
            apply("PRESENCE_UPDATE", set.presence(guild, n, 1));
        }
        if n < VOICE_STATES {
            apply("VOICE_STATE_UPDATE", set.voice_state(guild, n, 1));
        }
        if u64::from(n) < CHANNELS {
            apply("CHANNEL_UPDATE", set.channel(guild, n.into(), 1));
        }
        if u64::from(n) < ROLES {
            let role = format!("{{\"role\":{}}}", set.role(guild, n.into(), 1));
            apply("GUILD_ROLE_UPDATE", role);
        }
    }
}

fn line(cache: &Cache, guilds: u32) {
    let (bytes, counts) = (cache.bytes(), cache.counts());
    let per = |bytes: u64, count: u64| bytes.checked_div(count).map_or("-".to_owned(), |it| it.to_string());
    println!(
        "{} {} | {} | {} | {} | {} | {} | {} | {} |",
        rss(),
        per(bytes.members, counts.members),
        per(bytes.presences, counts.presences),
        per(bytes.voice_states, counts.voice_states),
        per(bytes.roles, counts.roles),
        per(bytes.channels, counts.channels),
        per(bytes.emojis, counts.emojis),
        per(bytes.other, guilds.into()),
        bytes.shapes,
    );
}

fn json(cache: &Cache) -> Vec<u8> {
    let mut out = Vec::new();
    let guilds: Vec<GuildId> = cache.guilds().collect();
    for guild in guilds {
        assert!(cache.write_guild(guild, &mut out).is_some());
    }
    out
}

/// Length under zstd, level 19, with a window over all of it.
fn zstd(text: &[u8]) -> usize {
    let mut context = zstd_safe::CCtx::create();
    for parameter in [zstd_safe::CParameter::CompressionLevel(19), zstd_safe::CParameter::WindowLog(27)] {
        context.set_parameter(parameter).expect("zstd knows the parameter");
    }
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
    context.compress2(&mut out, text).expect("the buffer is large enough")
}

/// Bytes resident, of the kernel's count.
fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).and_then(|it| it.parse::<usize>().ok()).expect("statm has a second number");
    pages * 4096
}
