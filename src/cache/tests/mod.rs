//! Tests of the cache as a whole: what goes in as events comes out as READY and GUILD_CREATE.

mod find;
pub mod fixture;
mod maker;
mod model;
mod payloads;
mod ready;
mod rules;

use std::collections::BTreeSet;

use serde_json::Value;

use super::kind::Kind;
use super::*;

const OWN: u64 = fixture::FIRST_USER;

const ALL: CacheFlags = CacheFlags::ALL;
const NONE: CacheFlags = CacheFlags::NONE;

/// What the guild's announcement would be, if it is known.
fn announced(cache: &Cache, guild: u64) -> Option<(GuildForm, String)> {
    let mut out = b"before ".to_vec();
    let form = cache.write_guild(GuildId(guild), &mut out)?;
    Some((form, String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()))
}

/// The guild's GUILD_CREATE, parsed.
fn created(cache: &Cache, guild: u64) -> Value {
    let (form, text) = announced(cache, guild).unwrap();
    assert_eq!(form, GuildForm::Create);
    serde_json::from_str(&text).unwrap()
}

fn ready_of(cache: &Cache) -> String {
    let mut out = Vec::new();
    cache.write_ready("our session", "ws://ours", [3, 9], &mut out);
    String::from_utf8(out).unwrap()
}

/// The counts, made anew from everything stored.
fn recount(cache: &Cache) -> CacheCounts {
    let mut counts = CacheCounts::default();
    let mut users = BTreeSet::new();
    for guild in cache.guilds.values() {
        counts.add(&counts_of(guild.as_deref()));
        users.extend(guild.iter().flat_map(|guild| guild.ids_of(Kind::Members)));
    }
    counts.users = if cache.keep.flags.users { users.len() as u64 } else { 0 };
    counts.bytes += cache.ready.as_ref().map_or(0, Ready::bytes) as u64;
    counts
}
