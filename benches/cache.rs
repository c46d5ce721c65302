//! What the cache costs: applying one event of each busy type, taking a large guild apart, and putting guilds together.
//!
//! The events are applied to a guild of some 1 MiB (1,400 members, 200 channels), again and again with the same effect.

#[path = "../src/cache/tests/fixture.rs"]
mod fixture;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fixture::{FIRST_CHANNEL, FIRST_ROLE, FIRST_THREAD, FIRST_USER, LARGE, Size, USUAL, in_guild};
use shardgate::cache::{Cache, CacheFlags, Shapes};
use shardgate::wire::GuildId;

const GUILD: u64 = 600_000_000_000_000_000;

fn everything() -> CacheFlags {
    CacheFlags {
        channels: true,
        presences: true,
        emojis: true,
        current_member: true,
        members: true,
        roles: true,
        scheduled_events: true,
        stage_instances: true,
        stickers: true,
        users: true,
        voice_states: true,
    }
}

fn cache_of(size: Size) -> Cache {
    let mut cache = Cache::new(everything(), Shapes::default());
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
        group.throughput(Throughput::Bytes(d.len() as u64));
        group.bench_function(event, |b| b.iter(|| cache.apply(event.as_bytes(), black_box(d.as_bytes()))));
    }
    for (name, size) in [("GUILD_CREATE usual", USUAL), ("GUILD_CREATE 1 MiB", LARGE)] {
        let d = fixture::guild(GUILD, size);
        group.throughput(Throughput::Bytes(d.len() as u64));
        group.bench_function(name, |b| b.iter(|| cache.apply(b"GUILD_CREATE", black_box(d.as_bytes()))));
    }
    group.finish();
}

fn touches(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache/touches");
    let cache = cache_of(LARGE);
    for (event, d) in events().into_iter().take(2) {
        group.bench_function(event, |b| b.iter(|| cache.touches(black_box(event.as_bytes()), black_box(d.as_bytes()))));
    }
    group.finish();
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache/write_guild");
    for (name, size) in [("usual", USUAL), ("1 MiB", LARGE)] {
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

criterion_group!(benches, apply, touches, write);
criterion_main!(benches);
