//! What the cache costs: applying one event of each busy type, taking a large guild apart, and putting guilds together.
//!
//! The events are applied to a guild of some 1 MiB (1,400 members, 200 channels), again and again with the same effect; members
//! are replaced in guilds of up to 500,000, where the slowest of a hundred counts too, which is printed. So is CPU time, for a machine
//! that has other things to do.

#[path = "../src/cache/tests/fixture.rs"]
mod fixture;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fixture::{FIRST_CHANNEL, FIRST_ROLE, FIRST_THREAD, FIRST_USER, LARGE, Size, USUAL, in_guild};
use shardgate::cache::{Cache, CacheFlags, Shapes};
use shardgate::wire::GuildId;

/// As the proxy has it.
#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

const GUILD: u64 = 600_000_000_000_000_000;

fn cache_of(size: Size) -> Cache {
    let mut cache = Cache::new(CacheFlags::ALL, Shapes::default());
    cache.on_ready(fixture::ready(FIRST_USER, &[GUILD]).as_bytes()).expect("the fixture is JSON");
    cache.apply(b"GUILD_CREATE", fixture::guild(GUILD, size).as_bytes()).expect("the fixture is JSON");
    cache
}

/// One event of each type that is frequent, by how frequent it is.
fn events() -> Vec<(&'static str, String)> {
    let user = FIRST_USER + 600;
    let member = fixture::member(user, &[GUILD + FIRST_ROLE]);
    let channel = fixture::channel(GUILD + FIRST_CHANNEL + 100);
    let thread = fixture::thread(GUILD, GUILD + FIRST_THREAD + 20, GUILD + FIRST_CHANNEL);
    let leave = format!(r#"{{"guild_id":"{GUILD}","user":{{"id":"1","username":"gone"}}}}"#);
    let role = format!(r#"{{"guild_id":"{GUILD}","role":{}}}"#, fixture::role(GUILD + FIRST_ROLE + 60));
    let role_delete = format!(r#"{{"guild_id":"{GUILD}","role_id":"{}"}}"#, GUILD + FIRST_ROLE + 999);
    vec![
        ("MESSAGE_CREATE", in_guild(GUILD, &channel)),
        ("PRESENCE_UPDATE", in_guild(GUILD, &fixture::presence(user, "idle"))),
        ("VOICE_STATE_UPDATE", in_guild(GUILD, &fixture::voice_state(user, GUILD + FIRST_CHANNEL))),
        ("GUILD_MEMBER_UPDATE", in_guild(GUILD, &member)),
        ("GUILD_MEMBER_ADD", in_guild(GUILD, &member)),
        ("GUILD_MEMBERS_CHUNK of 100", chunk(0..100)),
        ("GUILD_MEMBER_REMOVE", leave),
        ("CHANNEL_UPDATE", in_guild(GUILD, &channel)),
        ("THREAD_UPDATE", thread),
        ("GUILD_ROLE_UPDATE", role),
        ("GUILD_ROLE_DELETE", role_delete),
        ("GUILD_UPDATE", format!(r#"{{"id":"{GUILD}","name":"renamed","features":[]}}"#)),
    ]
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache/apply");
    let mut cache = cache_of(LARGE);
    for (event, d) in events() {
        let event_type = event.split(' ').next().unwrap_or(event).as_bytes();
        group.throughput(Throughput::Bytes(d.len() as u64));
        group.bench_function(event, |b| b.iter(|| cache.apply(event_type, black_box(d.as_bytes()))));
    }
    let huge = Size { members: 4_600, ..LARGE };
    for (name, size) in [("GUILD_CREATE usual", USUAL), ("GUILD_CREATE 1 MiB", LARGE), ("GUILD_CREATE 3 MB", huge)] {
        let d = fixture::guild(GUILD, size);
        group.throughput(Throughput::Bytes(d.len() as u64));
        group.bench_function(name, |b| b.iter(|| cache.apply(b"GUILD_CREATE", black_box(d.as_bytes()))));
    }
    group.finish();
}

/// GUILD_MEMBERS_CHUNK, its keys in Discord's order.
fn chunk(members: std::ops::Range<u64>) -> String {
    let members: Vec<_> = members.map(|n| fixture::member(FIRST_USER + n, &[GUILD + FIRST_ROLE + n % 9])).collect();
    let members = members.join(",");
    format!(
        r#"{{"presences":[],"not_found":[],"nonce":"x","members":[{members}],"guild_id":"{GUILD}","chunk_index":0,"chunk_count":1}}"#
    )
}

/// GUILD_MEMBER_UPDATE of members at random.
#[expect(clippy::disallowed_methods, reason = "criterion has no percentiles")]
fn replace(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache/replace");
    for members in [100_u64, 10_000, 500_000] {
        let mut cache = cache_of(Size { members: 0, ..USUAL });
        for first in (0..members).step_by(1000) {
            let d = chunk(first..members.min(first + 1000));
            cache.apply(b"GUILD_MEMBERS_CHUNK", d.as_bytes()).expect("the chunk is JSON");
        }
        let mut rng = fastrand::Rng::with_seed(1);
        let updates: Vec<String> = (0..20_000)
            .map(|n| {
                let member = fixture::member(FIRST_USER + rng.u64(..members), &[GUILD + FIRST_ROLE + n % 15]);
                let nick = format!("\"nick\":\"{}\"", "n".repeat(n as usize % 20));
                in_guild(GUILD, &member.replace("\"nick\":null", &nick))
            })
            .collect();
        let mut times: Vec<Duration> = Vec::with_capacity(updates.len());
        let cpu = cpu_time();
        for update in &updates {
            let start = Instant::now();
            cache.apply(b"GUILD_MEMBER_UPDATE", black_box(update.as_bytes())).expect("the update is JSON");
            times.push(start.elapsed());
        }
        let mean = (cpu_time() - cpu) / updates.len() as u32;
        times.sort_unstable();
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "replace in {members}: {mean:?} of CPU on average; by the clock p50 {:?}, p99 {:?}, p99.9 {:?}, worst {:?}",
            at(0.5),
            at(0.99),
            at(0.999),
            times[times.len() - 1]
        );
        let mut next = updates.iter().cycle();
        group.bench_function(format!("GUILD_MEMBER_UPDATE in {members}"), |b| {
            b.iter(|| cache.apply(b"GUILD_MEMBER_UPDATE", next.next().map_or(b"", |it| it.as_bytes())));
        });
    }
    group.finish();
}

/// What this thread has had of its CPU, which other load does not lengthen.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or_default())
}

/// Every kind of event and synthesis once more, in CPU time.
fn cpu(_: &mut Criterion) {
    let mut cache = cache_of(LARGE);
    let huge = fixture::guild(GUILD, Size { members: 4_600, ..LARGE });
    let report = |name: &str, len: usize, rounds: u32, work: &mut dyn FnMut()| {
        let before = cpu_time();
        (0..rounds).for_each(|_| work());
        let each = (cpu_time() - before) / rounds;
        println!("CPU {name}: {each:?}, {} MB/s", len as u128 * 1000 / each.as_nanos().max(1));
    };
    for (event, d) in events() {
        let event_type = event.split(' ').next().unwrap_or(event).as_bytes();
        report(event, d.len(), 2000, &mut || {
            let _ = black_box(cache.apply(event_type, black_box(d.as_bytes())));
        });
    }
    let mut out = Vec::with_capacity(2 << 20);
    cache.write_guild(GuildId(GUILD), &mut out);
    report("write_guild 1 MiB", out.len(), 500, &mut || {
        out.clear();
        cache.write_guild(GuildId(GUILD), &mut out);
    });
    report("GUILD_CREATE 3 MB", huge.len(), 30, &mut || {
        let _ = black_box(cache.apply(b"GUILD_CREATE", black_box(huge.as_bytes())));
    });
}

fn touches(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache/touches");
    let cache = cache_of(LARGE);
    for (event, d) in events().into_iter().take(6) {
        let event_type = event.split(' ').next().unwrap_or(event).as_bytes();
        group.bench_function(event, |b| b.iter(|| cache.touches(black_box(event_type), black_box(d.as_bytes()))));
    }
    group.finish();
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache/write_guild");
    let least = Size { channels: 1, threads: 0, roles: 1, emojis: 0, members: 1 };
    for (name, size) in [("least", least), ("usual", USUAL), ("1 MiB", LARGE)] {
        let cache = cache_of(size);
        let mut out = Vec::new();
        cache.write_guild(GuildId(GUILD), &mut out);
        let len = out.len();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || Vec::with_capacity(len),
                |out| cache.write_guild(GuildId(GUILD), out),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, cpu, apply, replace, touches, write);
criterion_main!(benches);
