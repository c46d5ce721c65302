//! One example per rule of what an event does to its guild.

use serde_json::{Value, json};

use super::*;

const GUILD: u64 = 10;

/// A guild with one or two of each kind; the bot is user `OWN`.
fn small_guild() -> Value {
    json!({
        "id": "10", "name": "before", "member_count": 2, "large": false, "joined_at": "then", "unknown": {"a": [1.0, null]},
        "future_array": [{"id": "1"}],
        "channels": [{"id": "100", "type": 0, "name": "text", "last_message_id": "5"}, {"id": "101", "type": 15, "name": "forum"}],
        "threads": [
            {"id": "200", "guild_id": "10", "parent_id": "100", "type": 11, "member": {"flags": 1}},
            {"id": "201", "guild_id": "10", "parent_id": "101", "type": 12, "member": {"flags": 2}},
        ],
        "roles": [{"id": "10", "name": "@everyone"}, {"id": "300", "name": "mods"}],
        "emojis": [{"id": "400", "name": "e"}], "stickers": [{"id": "410", "guild_id": "10"}],
        "members": [
            {"user": {"id": OWN.to_string(), "username": "bot"}, "roles": ["300"], "nick": null, "joined_at": "t", "deaf": false, "mute": false},
            {"user": {"id": "11", "username": "eleven"}, "roles": ["300", "301"], "nick": "n", "joined_at": "t", "deaf": false, "mute": false},
        ],
        "presences": [{"user": {"id": "11"}, "status": "online", "activities": []}],
        "voice_states": [{"user_id": "11", "channel_id": "100", "session_id": "v"}],
        "stage_instances": [{"id": "500", "guild_id": "10", "topic": "a"}],
        "guild_scheduled_events": [{"id": "600", "guild_id": "10", "status": 1}],
        "soundboard_sounds": [{"sound_id": "700", "guild_id": "10", "name": "s"}],
        "unavailable": false,
    })
}

fn cache_with(flags: CacheFlags) -> Cache {
    let mut cache = Cache::new(flags, Shapes::default());
    cache.on_ready(fixture::ready(OWN, &[GUILD]).as_bytes()).unwrap();
    cache.apply(b"GUILD_CREATE", small_guild().to_string().as_bytes()).unwrap();
    cache
}

/// The small guild's GUILD_CREATE after some events, all flags on.
fn after(events: &[(&str, Value)]) -> Value {
    after_with(ALL, events)
}

fn after_with(flags: CacheFlags, events: &[(&str, Value)]) -> Value {
    let mut cache = cache_with(flags);
    for (event, d) in events {
        cache.apply(event.as_bytes(), d.to_string().as_bytes()).unwrap();
        assert_eq!(cache.counts(), recount(&cache), "{event}");
    }
    created(&cache, GUILD)
}

/// The small guild with one key of it changed.
fn but(key: &str, value: Value) -> Value {
    let mut guild = small_guild();
    guild[key] = value;
    guild
}

#[test]
fn a_guild_comes_back_to_the_byte() {
    for (size, bytes) in [(fixture::USUAL, 50_000..80_000), (fixture::LARGE, 950_000..1_150_000)] {
        let mut cache = Cache::new(ALL, Shapes::default());
        let d = fixture::guild(10, size);
        assert!(bytes.contains(&d.len()), "{}", d.len());
        cache.apply(b"GUILD_CREATE", d.as_bytes()).unwrap();
        assert_eq!(announced(&cache, 10).unwrap().1, d);
    }
}

#[test]
fn guild_create_replaces_everything() {
    let new = json!({"id": "10", "members": [], "unavailable": false});
    assert_eq!(after(&[("GUILD_CREATE", new.clone())]), new);
}

#[test]
fn guild_update_replaces_the_keys_given_and_keeps_the_rest() {
    let mut expected = but("name", json!("after"));
    expected["roles"] = json!([{"id": "10"}]);
    expected["new_key"] = json!(1);
    let update = json!({"id": "10", "name": "after", "roles": [{"id": "10"}], "new_key": 1});
    assert_eq!(after(&[("GUILD_UPDATE", update)]), expected);
}

#[test]
fn guild_delete_forgets_the_guild() {
    let mut cache = cache_with(ALL);
    cache.apply(b"GUILD_DELETE", br#"{"id":"10","name":"as in old recordings","roles":[]}"#).unwrap();
    assert_eq!(announced(&cache, GUILD), None);
    assert_eq!(cache.counts(), recount(&cache));
}

#[test]
fn emojis_and_stickers_are_replaced_whole() {
    let emojis = json!([{"id": "401"}, {"id": "402"}]);
    assert_eq!(after(&[("GUILD_EMOJIS_UPDATE", json!({"guild_id": "10", "emojis": emojis}))]), but("emojis", emojis));
    let stickers = json!([]);
    assert_eq!(
        after(&[("GUILD_STICKERS_UPDATE", json!({"guild_id": "10", "stickers": stickers}))]),
        but("stickers", stickers)
    );
}

#[test]
fn a_role_is_put_in_place_or_at_the_end() {
    let update = ("GUILD_ROLE_UPDATE", json!({"guild_id": "10", "role": {"id": "10", "name": "x"}}));
    let create = ("GUILD_ROLE_CREATE", json!({"guild_id": "10", "role": {"id": "301"}}));
    let expected = but("roles", json!([{"id": "10", "name": "x"}, {"id": "300", "name": "mods"}, {"id": "301"}]));
    assert_eq!(after(&[update, create]), expected);
}

#[test]
fn a_deleted_role_is_taken_from_the_members_too() {
    let mut expected = but("roles", json!([{"id": "10", "name": "@everyone"}]));
    expected["members"][0]["roles"] = json!([]);
    expected["members"][1]["roles"] = json!(["301"]);
    assert_eq!(after(&[("GUILD_ROLE_DELETE", json!({"guild_id": "10", "role_id": "300"}))]), expected);
}

#[test]
fn a_channel_loses_its_guild_id() {
    let expected = json!([{"id": "100", "type": 0, "name": "text", "last_message_id": "5"},
        {"id": "101", "type": 15, "name": "forum"}, {"id": "102", "type": 2}]);
    assert_eq!(
        after(&[("CHANNEL_CREATE", json!({"id": "102", "guild_id": "10", "type": 2}))]),
        but("channels", expected)
    );
}

#[test]
fn a_channel_update_keeps_what_changes_without_one() {
    let events = [
        ("VOICE_CHANNEL_STATUS_UPDATE", json!({"id": "100", "guild_id": "10", "status": "hi"})),
        ("CHANNEL_UPDATE", json!({"id": "100", "guild_id": "10", "type": 0, "name": "renamed"})),
    ];
    let expected = json!({"id": "100", "type": 0, "name": "renamed", "last_message_id": "5", "status": "hi"});
    assert_eq!(after(&events)["channels"][0], expected);
    let explicit = ("CHANNEL_UPDATE", json!({"id": "100", "guild_id": "10", "last_message_id": null}));
    assert_eq!(after(&[explicit])["channels"][0], json!({"id": "100", "last_message_id": null}));
}

#[test]
fn a_deleted_channel_takes_its_threads_along() {
    let guild = after(&[("CHANNEL_DELETE", json!({"id": "101", "guild_id": "10", "type": 15}))]);
    assert_eq!(guild["channels"].as_array().unwrap().len(), 1);
    assert_eq!(guild["threads"], json!([small_guild()["threads"][0]]));
}

#[test]
fn pins_are_noted_in_channel_or_thread() {
    let pins =
        |id: &str| ("CHANNEL_PINS_UPDATE", json!({"guild_id": "10", "channel_id": id, "last_pin_timestamp": "now"}));
    let guild = after(&[pins("100"), pins("200"), pins("999")]);
    assert_eq!(guild["channels"][0]["last_pin_timestamp"], "now");
    assert_eq!(guild["threads"][0]["last_pin_timestamp"], "now");
    let direct = ("CHANNEL_PINS_UPDATE", json!({"channel_id": "100", "last_pin_timestamp": "now"}));
    assert_eq!(after(&[direct]), small_guild());
}

#[test]
fn a_new_thread_is_stored_as_guild_create_would_list_it() {
    let create = json!({"id": "202", "guild_id": "10", "parent_id": "100", "type": 11, "newly_created": true,
        "member": {"id": "202", "user_id": OWN.to_string(), "flags": 1}, "thread_metadata": {"archived": false}});
    let expected = json!({"id": "202", "guild_id": "10", "parent_id": "100", "type": 11, "member": {"flags": 1},
        "thread_metadata": {"archived": false}});
    let guild = after(&[("THREAD_CREATE", create)]);
    assert_eq!(guild["threads"][2], expected);
    assert_eq!(guild["channels"][0]["last_message_id"], "5");
}

#[test]
fn a_new_post_is_the_last_message_of_its_forum() {
    let create =
        |new: bool| ("THREAD_CREATE", json!({"id": "202", "guild_id": "10", "parent_id": "101", "newly_created": new}));
    assert_eq!(after(&[create(true)])["channels"][1]["last_message_id"], "202");
    assert_eq!(after(&[create(false)])["channels"][1].get("last_message_id"), None);
}

#[test]
fn a_thread_update_keeps_the_member_it_does_not_mention() {
    let guild = after(&[("THREAD_UPDATE", json!({"id": "200", "guild_id": "10", "name": "renamed"}))]);
    assert_eq!(guild["threads"][0], json!({"id": "200", "guild_id": "10", "name": "renamed", "member": {"flags": 1}}));
}

#[test]
fn an_archived_thread_is_gone_and_an_unarchived_one_is_back() {
    let update = |archived: bool| {
        ("THREAD_UPDATE", json!({"id": "200", "guild_id": "10", "thread_metadata": {"archived": archived}}))
    };
    assert_eq!(after(&[update(true)])["threads"], json!([small_guild()["threads"][1]]));
    assert_eq!(after(&[update(true), update(false)])["threads"][1]["id"], "200");
}

#[test]
fn a_deleted_thread_is_removed() {
    let delete = ("THREAD_DELETE", json!({"id": "200", "guild_id": "10", "parent_id": "100", "type": 11}));
    assert_eq!(after(&[delete])["threads"], json!([small_guild()["threads"][1]]));
}

#[test]
fn a_thread_list_sync_replaces_the_threads_of_its_channels() {
    let thread = json!({"id": "203", "guild_id": "10", "parent_id": "101"});
    let member = json!({"id": "203", "user_id": OWN.to_string(), "flags": 3});
    let expected = json!({"id": "203", "guild_id": "10", "parent_id": "101", "member": {"flags": 3}});
    let sync = json!({"guild_id": "10", "channel_ids": ["101"], "threads": [thread], "members": [member]});
    assert_eq!(after(&[("THREAD_LIST_SYNC", sync)])["threads"], json!([small_guild()["threads"][0], expected]));
    let sync = json!({"guild_id": "10", "threads": [thread], "members": [member]});
    assert_eq!(after(&[("THREAD_LIST_SYNC", sync)])["threads"], json!([expected]));
}

#[test]
fn a_thread_list_sync_may_empty_a_channel() {
    let sync = json!({"guild_id": "10", "channel_ids": ["100", "101"], "threads": [], "members": []});
    assert_eq!(after(&[("THREAD_LIST_SYNC", sync)])["threads"], json!([]));
}

#[test]
fn the_own_thread_member_is_updated() {
    let update = json!({"id": "200", "guild_id": "10", "user_id": OWN.to_string(), "flags": 8});
    assert_eq!(after(&[("THREAD_MEMBER_UPDATE", update)])["threads"][0]["member"], json!({"flags": 8}));
}

#[test]
fn thread_members_are_counted_and_the_own_one_noted() {
    let own = json!({"id": "200", "user_id": OWN.to_string(), "flags": 4, "member": {}, "presence": null});
    let added = json!({"id": "200", "guild_id": "10", "member_count": 7, "added_members": [{"user_id": "11", "flags": 9}, own]});
    let thread = after(&[("THREAD_MEMBERS_UPDATE", added)])["threads"][0].clone();
    assert_eq!((&thread["member_count"], &thread["member"]), (&json!(7), &json!({"flags": 4})));
}

#[test]
fn a_thread_that_the_bot_left_has_no_member_and_a_private_one_is_gone() {
    let removed = |id: &str| json!({"id": id, "guild_id": "10", "member_count": 1, "removed_member_ids": ["11", OWN.to_string()]});
    let guild = after(&[("THREAD_MEMBERS_UPDATE", removed("200")), ("THREAD_MEMBERS_UPDATE", removed("201"))]);
    assert_eq!(
        guild["threads"],
        json!([{"id": "200", "guild_id": "10", "parent_id": "100", "type": 11, "member_count": 1}])
    );
}

fn join(id: &str) -> (&'static str, Value) {
    let member =
        json!({"guild_id": "10", "user": {"id": id}, "roles": [], "joined_at": "now", "deaf": false, "mute": false});
    ("GUILD_MEMBER_ADD", member)
}

#[test]
fn a_member_who_joins_is_listed_and_counted_once() {
    let guild = after(&[join("12"), join("12")]);
    assert_eq!(guild["member_count"], 3);
    assert_eq!(
        guild["members"][2],
        json!({"user": {"id": "12"}, "roles": [], "joined_at": "now", "deaf": false, "mute": false})
    );
}

#[test]
fn members_are_counted_also_when_they_are_not_kept() {
    assert_eq!(after_with(NONE, &[join("12")])["member_count"], 3);
    let remove = ("GUILD_MEMBER_REMOVE", json!({"guild_id": "10", "user": {"id": "12"}}));
    assert_eq!(after_with(NONE, &[join("12"), remove])["member_count"], 2);
}

#[test]
fn a_member_update_is_merged() {
    let update = json!({"guild_id": "10", "user": {"id": "11", "username": "new"}, "nick": null, "flags": 1});
    let expected = json!({"user": {"id": "11", "username": "new"}, "roles": ["300", "301"], "nick": null, "joined_at": "t",
        "deaf": false, "mute": false, "flags": 1});
    assert_eq!(after(&[("GUILD_MEMBER_UPDATE", update)])["members"][1], expected);
}

#[test]
fn an_update_of_an_unknown_member_inserts_it_if_it_is_whole() {
    let partial = json!({"guild_id": "10", "user": {"id": "12"}, "roles": []});
    assert_eq!(after(&[("GUILD_MEMBER_UPDATE", partial)]), small_guild());
    let guild = after(&[("GUILD_MEMBER_UPDATE", join("12").1)]);
    assert_eq!((&guild["members"][2]["user"]["id"], &guild["member_count"]), (&json!("12"), &json!(2)));
}

#[test]
fn a_member_who_leaves_takes_presence_and_voice_state_along() {
    let guild = after(&[("GUILD_MEMBER_REMOVE", json!({"guild_id": "10", "user": {"id": "11"}}))]);
    assert_eq!(
        (&guild["presences"], &guild["voice_states"], &guild["member_count"]),
        (&json!([]), &json!([]), &json!(1))
    );
    assert_eq!(guild["members"], json!([small_guild()["members"][0]]));
}

#[test]
fn a_chunk_puts_members_and_presences_without_counting() {
    let chunk = json!({"guild_id": "10", "chunk_index": 0, "chunk_count": 1, "nonce": "x", "not_found": [3],
        "members": [{"user": {"id": "12"}, "roles": []}, {"user": {"id": "11"}, "roles": []}],
        "presences": [{"user": {"id": "12"}, "status": "idle"}, {"user": {"id": "11"}, "status": "offline"}]});
    let guild = after(&[("GUILD_MEMBERS_CHUNK", chunk)]);
    assert_eq!(guild["members"][1], json!({"user": {"id": "11"}, "roles": []}));
    assert_eq!(guild["members"][2], json!({"user": {"id": "12"}, "roles": []}));
    assert_eq!(guild["presences"], json!([{"user": {"id": "12"}, "status": "idle"}]));
    assert_eq!(guild["member_count"], 2);
}

#[test]
fn a_presence_keeps_no_guild_and_of_its_user_the_id() {
    let update = json!({"user": {"username": "new", "id": "11"}, "guild_id": "10", "status": "dnd", "activities": 7});
    let guild = after(&[("PRESENCE_UPDATE", update)]);
    assert_eq!(guild["presences"], json!([{"user": {"id": "11"}, "status": "dnd", "activities": 7}]));
}

#[test]
fn a_user_that_changed_in_a_presence_changes_the_member() {
    let update = json!({"user": {"username": "new", "x": 1, "id": "11"}, "guild_id": "10", "status": "dnd"});
    let expected = json!({"id": "11", "username": "new", "x": 1});
    assert_eq!(after(&[("PRESENCE_UPDATE", update.clone())])["members"][1]["user"], expected);
    let flags = CacheFlags { presences: false, ..ALL };
    let guild = after_with(flags, &[("PRESENCE_UPDATE", update)]);
    assert_eq!((&guild["members"][1]["user"], &guild["presences"]), (&expected, &json!([])));
}

#[test]
fn an_offline_presence_is_removed() {
    let update = json!({"user": {"id": "11"}, "guild_id": "10", "status": "offline"});
    assert_eq!(after(&[("PRESENCE_UPDATE", update)]), but("presences", json!([])));
}

fn voice(user: &str, channel: Value) -> (&'static str, Value) {
    let mut member = join(user).1;
    member.as_object_mut().unwrap().remove("guild_id");
    let state = json!({"user_id": user, "guild_id": "10", "channel_id": channel, "session_id": "w", "member": member});
    ("VOICE_STATE_UPDATE", state)
}

#[test]
fn a_voice_state_keeps_neither_guild_nor_member() {
    let guild = after(&[voice("12", json!("100"))]);
    assert_eq!(guild["voice_states"][1], json!({"user_id": "12", "channel_id": "100", "session_id": "w"}));
}

#[test]
fn without_the_intent_members_are_the_bot_and_who_is_in_voice() {
    let ids = |cache: &Cache| -> Vec<String> {
        let members = created(cache, GUILD)["members"].take();
        members.as_array().unwrap().iter().map(|it| it["user"]["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut cache = Cache::new(ALL, Shapes::default()).with_intents(!INTENT_GUILD_MEMBERS);
    cache.on_ready(fixture::ready(OWN, &[GUILD]).as_bytes()).unwrap();
    let member = |id: &str| json!({"user": {"id": id}, "roles": [], "joined_at": "j", "deaf": false, "mute": false});
    let mut guild = small_guild();
    let own = OWN.to_string();
    let own = own.as_str();
    guild["members"] = json!([member(own), member("11")]);
    cache.apply(b"GUILD_CREATE", guild.to_string().as_bytes()).unwrap();
    let chunk = json!({"guild_id": "10", "members": [member(own), member("11"), member("13")]});
    let (joins, leaves, goes) = (voice("12", json!("100")), voice("12", json!(null)), voice("11", json!(null)));
    let mut apply = |event: &str, d: &Value| {
        cache.apply(event.as_bytes(), d.to_string().as_bytes()).unwrap();
        assert_eq!(cache.counts(), recount(&cache), "{event}");
        ids(&cache)
    };
    assert_eq!(apply("GUILD_MEMBERS_CHUNK", &chunk), [own, "11"]);
    assert_eq!(apply(joins.0, &joins.1), [own, "11", "12"]);
    assert_eq!(apply(leaves.0, &leaves.1), [own, "11"]);
    assert_eq!(apply(goes.0, &goes.1), [own]);
    let own_goes = voice(own, json!(null));
    assert_eq!(apply(own_goes.0, &own_goes.1), [own]);
}

#[test]
fn a_member_in_voice_is_listed() {
    assert_eq!(after(&[voice("12", json!("100"))])["members"][2]["user"]["id"], "12");
    assert_eq!(after(&[voice("11", json!("100"))])["members"][1]["roles"], json!([]));
    let mut without_user = voice("12", json!("100"));
    without_user.1["member"].as_object_mut().unwrap().remove("user");
    assert_eq!(after(&[without_user])["members"], small_guild()["members"]);
}

#[test]
fn leaving_voice_removes_the_state_and_lists_nobody() {
    assert_eq!(after(&[voice("11", Value::Null)])["voice_states"], json!([]));
    assert_eq!(after(&[voice("12", Value::Null)]), small_guild());
}

#[test]
fn stage_instances_come_and_go() {
    let stage = json!({"id": "500", "guild_id": "10", "topic": "b"});
    assert_eq!(after(&[("STAGE_INSTANCE_UPDATE", stage.clone())]), but("stage_instances", json!([stage])));
    assert_eq!(after(&[("STAGE_INSTANCE_DELETE", stage)]), but("stage_instances", json!([])));
}

#[test]
fn scheduled_events_come_and_go() {
    let event = |status: u64| json!({"id": "600", "guild_id": "10", "status": status});
    let listed = |events: Value| but("guild_scheduled_events", events);
    assert_eq!(after(&[("GUILD_SCHEDULED_EVENT_UPDATE", event(2))]), listed(json!([event(2)])));
    assert_eq!(after(&[("GUILD_SCHEDULED_EVENT_UPDATE", event(3))]), listed(json!([])));
    assert_eq!(after(&[("GUILD_SCHEDULED_EVENT_CREATE", event(4))]), listed(json!([])));
    assert_eq!(after(&[("GUILD_SCHEDULED_EVENT_DELETE", event(1))]), listed(json!([])));
}

#[test]
fn sounds_are_found_by_their_sound_id() {
    let sound = |id: &str, name: &str| json!({"sound_id": id, "guild_id": "10", "name": name});
    let listed = |sounds: Value| but("soundboard_sounds", sounds);
    let update = ("GUILD_SOUNDBOARD_SOUND_UPDATE", sound("700", "t"));
    assert_eq!(after(&[update]), listed(json!([sound("700", "t")])));
    let several = json!({"guild_id": "10", "soundboard_sounds": [sound("701", "u"), sound("700", "v")]});
    let merged = json!([sound("700", "v"), sound("701", "u")]);
    assert_eq!(after(&[("GUILD_SOUNDBOARD_SOUNDS_UPDATE", several.clone())]), listed(merged));
    assert_eq!(after(&[("SOUNDBOARD_SOUNDS", several.clone())]), listed(several["soundboard_sounds"].clone()));
    let delete = ("GUILD_SOUNDBOARD_SOUND_DELETE", json!({"guild_id": "10", "sound_id": "700"}));
    assert_eq!(after(&[delete]), listed(json!([])));
}

#[test]
fn events_without_cached_state_change_nothing() {
    for event in [
        "GUILD_BAN_ADD",
        "GUILD_INTEGRATIONS_UPDATE",
        "INTEGRATION_CREATE",
        "WEBHOOKS_UPDATE",
        "CHANNEL_INFO",
        "VOICE_SERVER_UPDATE",
        "GUILD_SCHEDULED_EVENT_USER_ADD",
        "MESSAGE_CREATE",
        "INVITE_CREATE",
        "SOMETHING_NEW",
    ] {
        assert_eq!(
            after(&[(event, json!({"guild_id": "10", "id": "100", "user": {"id": "11"}}))]),
            small_guild(),
            "{event}"
        );
    }
}

#[test]
fn what_is_off_is_an_empty_array_and_takes_no_memory() {
    let guild = after_with(NONE, &[join(&OWN.to_string()), voice("11", json!("100"))]);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::SoundboardSounds) {
        assert_eq!(guild[kind.key()], json!([]), "{kind:?}");
    }
    assert_eq!(guild["future_array"], small_guild()["future_array"]);
    assert_eq!(guild["soundboard_sounds"], small_guild()["soundboard_sounds"]);
    let cache = cache_with(NONE);
    let stored = cache.guilds[&GuildId(GUILD)].as_ref().unwrap();
    assert!(Kind::ALL.into_iter().all(|kind| kind == Kind::SoundboardSounds || stored.ids_of(kind).next().is_none()));
    let CacheBytes { members, presences, voice_states, roles, channels, emojis, other, .. } = cache.bytes();
    assert_eq!((members, presences, voice_states, roles, channels, emojis), (0, 0, 0, 0, 0, 0));
    assert!(other < 1024, "{other}");
}

#[test]
fn each_flag_switches_its_own_arrays() {
    let cases: [(CacheFlags, &[&str]); 9] = [
        (CacheFlags { channels: true, ..NONE }, &["channels", "threads"]),
        (CacheFlags { presences: true, ..NONE }, &["presences"]),
        (CacheFlags { emojis: true, ..NONE }, &["emojis"]),
        (CacheFlags { members: true, ..NONE }, &["members"]),
        (CacheFlags { roles: true, ..NONE }, &["roles"]),
        (CacheFlags { scheduled_events: true, ..NONE }, &["guild_scheduled_events"]),
        (CacheFlags { stage_instances: true, ..NONE }, &["stage_instances"]),
        (CacheFlags { stickers: true, ..NONE }, &["stickers"]),
        (CacheFlags { voice_states: true, ..NONE }, &["voice_states"]),
    ];
    for (flags, on) in cases {
        let mut expected = small_guild();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::SoundboardSounds && !on.contains(&kind.key())) {
            expected[kind.key()] = json!([]);
        }
        assert_eq!(after_with(flags, &[]), expected, "{on:?}");
    }
}

#[test]
fn the_current_member_alone_is_kept_by_its_flag() {
    let flags = CacheFlags { current_member: true, ..NONE };
    let guild = after_with(flags, &[join("12"), voice("13", json!("100"))]);
    assert_eq!(guild["members"], json!([small_guild()["members"][0]]));
    let update = json!({"guild_id": "10", "user": {"id": OWN.to_string()}, "nick": "me"});
    assert_eq!(after_with(flags, &[("GUILD_MEMBER_UPDATE", update)])["members"][0]["nick"], "me");
}

#[test]
fn users_are_counted_once_and_only_with_their_flag() {
    let mut cache = cache_with(ALL);
    let mut other = small_guild();
    other["id"] = json!("20");
    cache.apply(b"GUILD_CREATE", other.to_string().as_bytes()).unwrap();
    assert_eq!((cache.counts().members, cache.counts().users), (4, 2));
    assert_eq!(cache_with(CacheFlags { users: false, ..ALL }).counts().users, 0);
}

#[test]
fn counts_are_those_of_the_gauges() {
    let expected = CacheCounts {
        emojis: 1,
        guilds: 1,
        members: 2,
        presences: 1,
        channels: 4,
        roles: 2,
        unavailable_guilds: 0,
        users: 2,
        voice_states: 1,
        bytes: cache_with(ALL).counts().bytes,
    };
    assert_eq!(cache_with(ALL).counts(), expected);
}

#[test]
fn ids_may_be_numbers_and_elements_may_be_odd() {
    let odd = json!({"id": 10, "roles": [{"id": 300}, null, {"name": "no id"}, 7], "members": null, "emojis": {"a": 1},
        "member_count": "2", "unavailable": false});
    let mut cache = Cache::new(ALL, Shapes::default());
    cache.apply(b"GUILD_CREATE", odd.to_string().as_bytes()).unwrap();
    assert_eq!(created(&cache, GUILD), odd);
    cache.apply(b"GUILD_ROLE_UPDATE", br#"{"guild_id":10,"role":{"id":"300","x":1}}"#).unwrap();
    cache.apply(b"GUILD_MEMBER_ADD", br#"{"guild_id":10,"user":{"id":12}}"#).unwrap();
    let guild = created(&cache, GUILD);
    assert_eq!(guild["roles"], json!([{"id": "300", "x": 1}, null, {"name": "no id"}, 7]));
    assert_eq!((&guild["members"], &guild["member_count"]), (&json!([{"user": {"id": 12}}]), &json!("2")));
}

#[test]
fn the_last_of_two_elements_with_one_id_counts() {
    let mut cache = Cache::new(ALL, Shapes::default());
    let d = json!({"id": "10", "roles": [{"id": "1", "a": 1}, {"id": "2"}, {"id": "1", "a": 2}]}).to_string();
    cache.apply(b"GUILD_CREATE", d.as_bytes()).unwrap();
    assert_eq!(created(&cache, GUILD)["roles"], json!([{"id": "1", "a": 2}, {"id": "2"}]));
}

#[test]
fn an_array_that_upstream_left_out_appears_when_there_is_something_in_it() {
    let mut cache = Cache::new(ALL, Shapes::default());
    cache.apply(b"GUILD_CREATE", br#"{"id":"10"}"#).unwrap();
    cache.apply(b"CHANNEL_CREATE", br#"{"id":"100","guild_id":"10"}"#).unwrap();
    assert_eq!(announced(&cache, GUILD).unwrap().1, r#"{"id":"10","unavailable":false,"channels":[{"id":"100"}]}"#);
}

#[test]
fn updates_touch_no_byte_of_their_neighbours() {
    let mut cache = Cache::new(ALL, Shapes::default());
    let d = fixture::guild(10, fixture::USUAL);
    cache.apply(b"GUILD_CREATE", d.as_bytes()).unwrap();
    let old = fixture::channel(10 + fixture::FIRST_CHANNEL + 3);
    let new = old.replace("general", "special");
    cache.apply(b"CHANNEL_UPDATE", fixture::in_guild(10, &new).as_bytes()).unwrap();
    cache.apply(b"GUILD_MEMBER_ADD", fixture::in_guild(10, &fixture::member(5, &[])).as_bytes()).unwrap();
    let leave = r#"{"guild_id":"10","user":{"id":"5"}}"#;
    cache.apply(b"GUILD_MEMBER_REMOVE", leave.as_bytes()).unwrap();
    assert_eq!(announced(&cache, GUILD).unwrap().1, d.replace(&old, &new));
}
