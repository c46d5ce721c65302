//! What the pages ask: one stored object, and the bytes held.

use super::*;

const GUILD: u64 = 600_000_000_000_000_000;

fn cache() -> Cache {
    let mut cache = Cache::new(ALL, Shapes::default());
    cache.on_ready(fixture::ready(OWN + 77_777, &[10, GUILD]).as_bytes()).unwrap();
    cache.apply(b"GUILD_CREATE", fixture::guild(GUILD, fixture::USUAL).as_bytes()).unwrap();
    cache
}

fn text(found: Option<Vec<u8>>) -> Option<String> {
    found.map(|it| String::from_utf8(it).unwrap())
}

#[test]
fn a_guild_is_found_as_it_would_be_announced() {
    let cache = cache();
    let (_, announced) = announced(&cache, GUILD).unwrap();
    assert_eq!(text(cache.find_guild(GuildId(GUILD))), Some(announced));
    assert_eq!(cache.find_guild(GuildId(10)), None, "unavailable");
    assert_eq!(cache.find_guild(GuildId(11)), None, "unknown");
}

#[test]
fn channels_and_threads_are_found_as_stored() {
    let cache = cache();
    let channel = GUILD + fixture::FIRST_CHANNEL + 3;
    let thread = GUILD + fixture::FIRST_THREAD + 1;
    assert_eq!(text(cache.find_channel(channel)), Some(fixture::channel(channel)));
    let stored = fixture::thread(GUILD, thread, GUILD + fixture::FIRST_CHANNEL);
    assert_eq!(text(cache.find_channel(thread)), Some(stored));
    assert_eq!(cache.find_channel(GUILD + fixture::FIRST_ROLE), None);
}

#[test]
fn a_user_is_found_in_its_member_and_the_bots_own_in_ready_too() {
    let cache = cache();
    let member: Value = serde_json::from_str(&fixture::member(OWN + 5, &[])).unwrap();
    let found: Value = serde_json::from_str(&text(cache.find_user(OWN + 5)).unwrap()).unwrap();
    assert_eq!(found, member["user"]);
    let own: Value = serde_json::from_str(&text(cache.find_user(OWN + 77_777)).unwrap()).unwrap();
    assert_eq!(own["username"], "bot");
    assert_eq!(cache.find_user(OWN + 77_778), None);
}

#[test]
fn bytes_are_counted_where_they_are_held() {
    let full = cache().bytes();
    let CacheBytes { members, presences, voice_states, roles, channels, emojis, other, ready, .. } = full;
    for bytes in [members, presences, voice_states, roles, channels, emojis, other, ready] {
        assert!(bytes > 0, "{full:?}");
    }
    let mut cache = Cache::new(NONE, Shapes::default());
    cache.on_ready(fixture::ready(OWN, &[GUILD]).as_bytes()).unwrap();
    let before = cache.bytes().other;
    cache.apply(b"GUILD_CREATE", fixture::guild(GUILD, fixture::USUAL).as_bytes()).unwrap();
    let bytes = cache.bytes();
    assert_eq!((bytes.members, bytes.presences, bytes.channels, bytes.roles, bytes.emojis), (0, 0, 0, 0, 0));
    assert!(bytes.other > before);
}
