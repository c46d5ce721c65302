//! READY, the list of guilds, and what is told without looking.

use serde_json::{Value, json};

use super::*;

fn cache() -> Cache {
    let mut cache = Cache::new(ALL, Shapes::default());
    cache.on_ready(fixture::ready(OWN, &[20, 10]).as_bytes()).unwrap();
    cache
}

#[test]
fn ready_changes_in_the_session_the_url_the_shard_and_the_guilds_alone() {
    let expected = fixture::ready(OWN, &[20, 10])
        .replace("bf8eb88e4939e52df093261f3abbc638", "our session")
        .replace("wss://upstream.invalid", "ws://ours")
        .replace("[0,1]", "[3,9]");
    assert_eq!(ready_of(&cache()), expected);
}

#[test]
fn ready_gets_the_keys_that_upstream_left_out() {
    let mut cache = Cache::new(ALL, Shapes::default());
    cache.on_ready(br#"{"user":{"id":"1"}}"#).unwrap();
    let expected = json!({"user": {"id": "1"}, "session_id": "our session", "resume_gateway_url": "ws://ours", "shard": [3, 9],
        "guilds": [], "private_channels": [], "presences": [], "relationships": []});
    assert_eq!(serde_json::from_str::<Value>(&ready_of(&cache)).unwrap(), expected);
}

#[test]
fn ready_quotes_what_needs_it() {
    let mut out = Vec::new();
    cache().write_ready("a\"b\\\n", "ws://ours", [0, 1], &mut out);
    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap()["session_id"], "a\"b\\\n");
}

#[test]
fn there_is_no_ready_before_there_is_one() {
    let cache = Cache::new(ALL, Shapes::default());
    assert!(!cache.has_ready());
    assert_eq!(ready_of(&cache), "");
}

#[test]
fn user_update_merges_into_the_user_of_ready() {
    let mut cache = cache();
    let update = json!({"id": OWN.to_string(), "username": "renamed", "locale": "de"}).to_string();
    assert_eq!(cache.touches(b"USER_UPDATE", update.as_bytes()), Touch::Ready);
    cache.apply(b"USER_UPDATE", update.as_bytes()).unwrap();
    let user = &serde_json::from_str::<Value>(&ready_of(&cache)).unwrap()["user"];
    assert_eq!(
        (&user["username"], &user["locale"], &user["verified"]),
        (&json!("renamed"), &json!("de"), &json!(true))
    );
}

#[test]
fn guilds_are_unavailable_until_they_are_sent() {
    let mut cache = cache();
    assert_eq!(announced(&cache, 10), Some((GuildForm::Delete, r#"{"id":"10","unavailable":true}"#.to_owned())));
    assert_eq!(announced(&cache, 30), None);
    cache.apply(b"GUILD_CREATE", fixture::guild(10, fixture::USUAL).as_bytes()).unwrap();
    assert_eq!(announced(&cache, 10), Some((GuildForm::Create, fixture::guild(10, fixture::USUAL))));
}

#[test]
fn a_second_ready_starts_over() {
    let mut cache = cache();
    cache.apply(b"GUILD_CREATE", fixture::guild(10, fixture::USUAL).as_bytes()).unwrap();
    cache.on_ready(fixture::ready(OWN, &[10, 40, 10]).as_bytes()).unwrap();
    assert_eq!(cache.guilds().collect::<Vec<_>>(), [GuildId(10), GuildId(40)]);
    assert_eq!(announced(&cache, 10).unwrap().0, GuildForm::Delete);
    assert_eq!(announced(&cache, 20), None);
    let counts = cache.counts();
    assert_eq!((counts.guilds, counts.unavailable_guilds, counts.members, counts.users), (0, 2, 0, 0));
}

#[test]
fn a_broken_ready_changes_nothing() {
    let mut cache = cache();
    let before = ready_of(&cache);
    let broken = fixture::ready(1, &[1]);
    assert!(cache.on_ready(&broken.as_bytes()[..broken.len() - 1]).is_err());
    assert!(cache.on_ready(b"null").is_err());
    assert_eq!(ready_of(&cache), before);
}

#[test]
fn guilds_are_listed_in_the_order_of_ready_and_then_as_joined() {
    let mut cache = cache();
    cache.apply(b"GUILD_CREATE", br#"{"id":"5","name":"joined"}"#).unwrap();
    cache.apply(b"GUILD_CREATE", br#"{"id":"10"}"#).unwrap();
    cache.apply(b"GUILD_DELETE", br#"{"id":"20"}"#).unwrap();
    assert_eq!(cache.guilds().collect::<Vec<_>>(), [GuildId(10), GuildId(5)]);
    let ready: Value = serde_json::from_str(&ready_of(&cache)).unwrap();
    assert_eq!(ready["guilds"], json!([{"unavailable": true, "id": "10"}, {"unavailable": true, "id": "5"}]));
}

#[test]
fn a_guild_that_was_joined_gains_the_key_unavailable() {
    let mut cache = cache();
    cache.apply(b"GUILD_CREATE", br#"{"id":"5","name":"joined"}"#).unwrap();
    assert_eq!(announced(&cache, 5).unwrap().1, r#"{"id":"5","name":"joined","unavailable":false}"#);
}

#[test]
fn a_guild_in_an_outage_stays_known_without_its_contents() {
    for (event, d) in [
        (&b"GUILD_DELETE"[..], &br#"{"id":"10","unavailable":true}"#[..]),
        (b"GUILD_CREATE", br#"{"unavailable":true,"id":"10"}"#),
    ] {
        let mut cache = cache();
        cache.apply(b"GUILD_CREATE", fixture::guild(10, fixture::USUAL).as_bytes()).unwrap();
        cache.apply(event, d).unwrap();
        assert_eq!(announced(&cache, 10).unwrap().0, GuildForm::Delete);
        assert_eq!((cache.counts().members, cache.counts().users, cache.counts().unavailable_guilds), (0, 0, 2));
        assert_eq!(cache.counts(), recount(&cache));
    }
}

#[test]
fn an_outage_of_an_unknown_guild_makes_it_no_member_of_the_shard() {
    let mut cache = cache();
    cache.apply(b"GUILD_DELETE", br#"{"id":"5","unavailable":true}"#).unwrap();
    assert_eq!(announced(&cache, 5), None);
}

#[test]
fn events_without_cached_state_are_told_by_their_name() {
    let cache = cache();
    for event in [
        "MESSAGE_CREATE",
        "MESSAGE_REACTION_ADD",
        "TYPING_START",
        "INTERACTION_CREATE",
        "VOICE_SERVER_UPDATE",
        "NEW",
        "",
    ] {
        assert_eq!(cache.touches(event.as_bytes(), b"not even JSON"), Touch::Nothing, "{event}");
    }
}

#[test]
fn events_of_kinds_that_are_off_are_told_by_their_name() {
    let mut cache = Cache::new(NONE, Shapes::default());
    cache.apply(b"GUILD_CREATE", fixture::guild(10, fixture::USUAL).as_bytes()).unwrap();
    for event in ["PRESENCE_UPDATE", "CHANNEL_UPDATE", "VOICE_STATE_UPDATE", "GUILD_ROLE_DELETE", "GUILD_MEMBERS_CHUNK"]
    {
        assert_eq!(cache.touches(event.as_bytes(), br#"{"guild_id":"10"}"#), Touch::Nothing, "{event}");
        assert_eq!(cache.apply(event.as_bytes(), b"not even JSON"), Ok(()), "{event}");
    }
    assert_eq!(cache.touches(b"GUILD_MEMBER_ADD", br#"{"guild_id":"10"}"#), Touch::Guild(GuildId(10)));
}

#[test]
fn a_guild_that_is_not_cached_is_not_touched() {
    let cache = cache();
    let event = fixture::in_guild(10, &fixture::channel(1));
    assert_eq!(cache.touches(b"CHANNEL_CREATE", event.as_bytes()), Touch::Nothing);
    assert_eq!(cache.touches(b"GUILD_CREATE", br#"{"id":"10"}"#), Touch::Guild(GuildId(10)));
    assert_eq!(cache.touches(b"GUILD_DELETE", br#"{"id":10}"#), Touch::Guild(GuildId(10)));
}
