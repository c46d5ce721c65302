//! Invented guilds of any size with the keys that Discord sends today, for tests and benches.
//!
//! Compact JSON, keys in no particular order, as Discord's; texts with escapes, non-ASCII and look-alikes of JSON.

/// How many of each.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub channels: u64,
    pub threads: u64,
    pub roles: u64,
    pub emojis: u64,
    pub members: u64,
}

/// A guild as most are: some 60 KB.
pub const USUAL: Size = Size { channels: 25, threads: 3, roles: 15, emojis: 20, members: 60 };

/// Some 1 MiB.
pub const LARGE: Size = Size { channels: 200, threads: 40, roles: 120, emojis: 200, members: 1_400 };

/// The first user of each fixture guild.
pub const FIRST_USER: u64 = 700_000_000_000_000_000;
/// The first channel, thread, role and emoji of a guild, behind its id.
pub const FIRST_CHANNEL: u64 = 1_000;
pub const FIRST_THREAD: u64 = 2_000;
pub const FIRST_ROLE: u64 = 3_000;
pub const FIRST_EMOJI: u64 = 4_000;

/// The `d` of a GUILD_CREATE. A third of the members have a presence, every twentieth is in voice.
pub fn guild(id: u64, size: Size) -> String {
    let channels = list(size.channels, |n| channel(id + FIRST_CHANNEL + n));
    let threads = list(size.threads, |n| thread(id, id + FIRST_THREAD + n, id + FIRST_CHANNEL));
    let roles = list(size.roles, |n| role(id + FIRST_ROLE + n));
    let emojis = list(size.emojis, |n| emoji(id + FIRST_EMOJI + n));
    let members = list(size.members, |n| member(FIRST_USER + n, &[id + FIRST_ROLE + n % size.roles.max(1)]));
    let presences = list(size.members / 3, |n| presence(FIRST_USER + 3 * n, "online"));
    let voice_states = list(size.members / 20, |n| voice_state(FIRST_USER + 20 * n, id + FIRST_CHANNEL));
    let count = size.members;
    format!(
        r#"{{"mfa_level":0,"nsfw":false,"voice_states":[{voice_states}],"region":"deprecated","premium_tier":1,"emojis":[{emojis}],"stickers":[],"members":[{members}],"explicit_content_filter":2,"max_video_channel_users":25,"banner":null,"splash":null,"application_id":null,"soundboard_sounds":[{{"volume":1.0,"user_id":"1","sound_id":"{sound}","name":"\ud83d\udc4d","guild_id":"{id}","emoji_name":"👍","emoji_id":null,"available":true}}],"nsfw_level":0,"large":false,"application_command_counts":{{"1":14}},"channels":[{channels}],"default_message_notifications":1,"afk_timeout":300,"stage_instances":[],"id":"{id}","max_members":500000,"hub_type":null,"presences":[{presences}],"joined_at":"2022-10-13T14:35:40.794000+00:00","preferred_locale":"en-US","icon":"32fca57f35b60772ba29adc1c826f297","threads":[{threads}],"embedded_activities":[],"member_count":{count},"premium_subscription_count":2,"description":"a \"quoted\" \\u0023 {{\"s\":1}}","lazy":true,"guild_scheduled_events":[],"owner_id":"{FIRST_USER}","unavailable":false,"roles":[{roles}],"guild_hashes":{{"version":1,"roles":{{"omitted":false,"hash":"o3/rM7wcZTw"}}}},"activity_instances":[],"name":"Gilde – ギルド","system_channel_id":null,"features":["COMMUNITY","NEWS"]}}"#,
        sound = id + 5_000,
    )
}

pub fn channel(id: u64) -> String {
    format!(
        r#"{{"version":1665671740794,"type":0,"topic":"what\nwe \u2019 do","rate_limit_per_user":0,"position":3,"permission_overwrites":[{{"type":0,"id":"{role}","deny":"1024","allow":"0"}}],"parent_id":null,"nsfw":false,"name":"general-{id}","last_message_id":"1030118727418646629","id":"{id}","icon_emoji":{{"name":"👋","id":null}},"flags":0}}"#,
        role = id + 1,
    )
}

pub fn thread(guild: u64, id: u64, parent: u64) -> String {
    format!(
        r#"{{"type":11,"total_message_sent":8,"thread_metadata":{{"locked":false,"create_timestamp":"2022-10-13T14:35:40.794000+00:00","auto_archive_duration":4320,"archived":false,"archive_timestamp":"2022-10-13T14:35:40.794000+00:00"}},"rate_limit_per_user":0,"parent_id":"{parent}","owner_id":"{FIRST_USER}","name":"thread","message_count":8,"member_count":2,"member":{{"muted":false,"mute_config":null,"join_timestamp":"2022-10-13T14:35:40.794000+00:00","flags":1}},"last_message_id":"1030118727418646629","id":"{id}","guild_id":"{guild}","flags":0}}"#
    )
}

pub fn role(id: u64) -> String {
    format!(
        r#"{{"version":0,"unicode_emoji":null,"tags":{{}},"position":1,"permissions":"1071698660929","name":"rôle","mentionable":false,"managed":false,"id":"{id}","icon":null,"hoist":false,"flags":0,"colors":{{"tertiary_color":null,"secondary_color":null,"primary_color":0}},"color":0}}"#
    )
}

pub fn emoji(id: u64) -> String {
    format!(
        r#"{{"version":0,"roles":[],"require_colons":true,"name":"Queen","managed":false,"id":"{id}","available":true,"animated":false}}"#
    )
}

pub fn member(user: u64, roles: &[u64]) -> String {
    let roles = roles.iter().map(|role| format!("\"{role}\"")).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"user":{{"username":"user{user}","public_flags":64,"primary_guild":null,"id":"{user}","global_name":"Zoë \\\"{user}\\\"","display_name_styles":null,"discriminator":"0","collectibles":null,"bot":false,"avatar_decoration_data":null,"avatar":"561939e4a1550313f5cfdf2bd6dc3732"}},"roles":[{roles}],"premium_since":null,"pending":false,"nick":null,"mute":false,"joined_at":"2022-10-13T14:35:40.794000+00:00","flags":0,"deaf":false,"communication_disabled_until":null,"banner":null,"avatar":null}}"#
    )
}

pub fn presence(user: u64, status: &str) -> String {
    format!(
        r#"{{"user":{{"id":"{user}"}},"status":"{status}","processed_at_timestamp":0,"game":null,"client_status":{{"desktop":"{status}"}},"activities":[{{"type":0,"timestamps":{{"start":1546453930491}},"name":"a ] game }}","id":"5d8f1a","created_at":1546453931355}}]}}"#
    )
}

pub fn voice_state(user: u64, channel: u64) -> String {
    format!(
        r#"{{"user_id":"{user}","suppress":false,"session_id":"8876d2ad2842d6d6e318267227de6eec","self_video":false,"self_mute":false,"self_deaf":false,"request_to_speak_timestamp":null,"mute":false,"deaf":false,"channel_id":"{channel}"}}"#
    )
}

/// `object` with `"guild_id"` in front, as in an event about it.
pub fn in_guild(guild: u64, object: &str) -> String {
    format!(r#"{{"guild_id":"{guild}",{}"#, &object[1..])
}

/// READY's `d` with the keys that bots get.
pub fn ready(own_user: u64, guilds: &[u64]) -> String {
    let guilds = guilds.iter().map(|id| format!(r#"{{"unavailable":true,"id":"{id}"}}"#)).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"v":10,"user_settings":{{}},"user":{{"verified":true,"username":"bot","mfa_enabled":true,"id":"{own_user}","flags":0,"email":null,"discriminator":"0861","bot":true,"avatar":null}},"shard":[0,1],"session_type":"normal","session_id":"bf8eb88e4939e52df093261f3abbc638","resume_gateway_url":"wss://upstream.invalid","relationships":[],"private_channels":[],"presences":[],"guilds":[{guilds}],"guild_join_requests":[],"geo_ordered_rtc_regions":["milan"],"application":{{"id":"{own_user}","flags":565248}},"_trace":["[\"gateway\",{{\"micros\":96353}}]"]}}"#
    )
}

fn list(len: u64, element: impl Fn(u64) -> String) -> String {
    (0..len).map(element).collect::<Vec<_>>().join(",")
}
