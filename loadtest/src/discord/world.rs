//! The guilds that the fake Discord has: ids by formula and objects by template, so that no guild costs memory.
//!
//! What is here never changes while the program runs: updates in the traffic are told, not remembered.

use std::collections::HashMap;

use super::options::NO_RESUME_URL;
use super::template::{Scene, Template, compact, push_number};

/// The bot's own user and application id.
pub const BOT_ID: u64 = 180_000_000_000 << 22;
pub const TEXT_CHANNELS: u32 = 5;
/// `member_count` of the first guild of each shard; all of them come in chunks.
pub const BIG_GUILD_MEMBERS: u32 = 2500;
const MEMBERS_PER_GUILD_MAX: u32 = 1_000_000;

/// Milliseconds since Discord's epoch in a guild's id, about 2020.
const GUILD_MS: u64 = 160_000_000_000;
const USER_MS: u64 = 170_000_000_000;
const MESSAGE_MS: u64 = 340_000_000_000;

macro_rules! payload {
    ($name:literal) => {
        include_str!(concat!("payloads/", $name, ".json"))
    };
}

/// How many there are of everything.
#[derive(Clone, Debug)]
pub struct Size {
    pub shards: u32,
    /// Guilds per shard.
    pub guilds: u32,
    /// Members listed in each GUILD_CREATE.
    pub members: u32,
    /// On every shard whose number leaves this remainder 0, the last guild is in an outage. 0: nowhere.
    pub outage_every: u32,
}

pub struct World {
    pub size: Size,
    pub includes: HashMap<&'static str, String>,
    guild: Template,
    member: Template,
    bot_member: Template,
    presence: Template,
    voice_state: Template,
    text_channel: Template,
    ready: Template,
}

impl World {
    pub fn new(size: Size) -> Self {
        let includes = includes();
        let compile = |text: &str, slots: &[&str]| Template::compile(text, &includes, slots);
        Self {
            guild: compile(
                payload!("guild"),
                &["members", "presences", "voice_states", "channels", "large", "member_count"],
            ),
            // Listed members show every key of a user with a value, those in events what most users have.
            member: compile(&payload!("member").replace("@{>user}", "@{>rich_user}"), &[]),
            bot_member: compile(payload!("bot_member"), &[]),
            presence: compile(payload!("presence"), &[]),
            voice_state: compile(payload!("voice_state"), &[]),
            text_channel: compile(payload!("text_channel"), &[]),
            ready: compile(payload!("ready"), &["shard", "shards", "session_id", "resume_url", "ready_guilds"]),
            includes,
            size,
        }
    }

    /// `(id >> 22) % shards` is the shard, as Discord routes.
    pub fn guild_id(&self, shard: u32, index: u32) -> u64 {
        let shards = self.size.shards as u64;
        ((GUILD_MS / shards + index as u64) * shards + shard as u64) << 22
    }

    /// Shard and index of the guild with this id; `None` when there is none.
    pub fn find_guild(&self, id: u64) -> Option<(u32, u32)> {
        let shards = self.size.shards as u64;
        let shard = ((id >> 22) % shards) as u32;
        let index = ((id >> 22) / shards).checked_sub(GUILD_MS / shards)?;
        (index < self.size.guilds as u64 && self.guild_id(shard, index as u32) == id).then_some((shard, index as u32))
    }

    pub fn is_in_outage(&self, shard: u32, index: u32) -> bool {
        let every = self.size.outage_every;
        every > 0 && shard.is_multiple_of(every) && self.size.guilds > 1 && index == self.size.guilds - 1
    }

    pub fn member_count(&self, index: u32) -> u32 {
        if index == 0 { self.size.members.max(BIG_GUILD_MEMBERS) } else { self.size.members }
    }

    /// Member 0 of every guild is the bot.
    pub fn user_id(&self, shard: u32, index: u32, member: u32) -> u64 {
        if member == 0 {
            return BOT_ID;
        }
        let number = shard as u64 * 100_000_000 + (index as u64 % 100) * MEMBERS_PER_GUILD_MAX as u64 + member as u64;
        ((USER_MS + number) << 22) | ((member as u64 * 7) & 0xFFF)
    }

    /// The member number of a user; `None` when that user is in another guild or nowhere.
    pub fn find_member(&self, shard: u32, index: u32, user: u64) -> Option<u32> {
        if user == BOT_ID {
            return Some(0);
        }
        let base = USER_MS + shard as u64 * 100_000_000 + (index as u64 % 100) * MEMBERS_PER_GUILD_MAX as u64;
        let member = (user >> 22).checked_sub(base)?;
        let is_member = (1..self.member_count(index) as u64).contains(&member);
        (is_member && self.user_id(shard, index, member as u32) == user).then_some(member as u32)
    }

    /// A scene in one guild, about one member and one text channel; all picks come from `salt`.
    pub fn scene(&self, shard: u32, index: u32, salt: u64) -> Scene {
        let guild = self.guild_id(shard, index);
        let member = 1 + (salt >> 8) as u32 % self.size.members.saturating_sub(1).max(1);
        let channel_index = (salt >> 32) as u32 % TEXT_CHANNELS;
        Scene {
            guild,
            guild_index: index,
            channel: guild + 100 + channel_index as u64,
            channel_index,
            user: self.user_id(shard, index, member),
            member,
            shard,
            salt: salt.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            ..Scene::default()
        }
    }

    pub fn message_id(counter: u64, shard: u32) -> u64 {
        ((MESSAGE_MS + counter) << 22) | shard as u64
    }

    /// Appends the `d` of READY.
    pub fn ready(&self, shard: u32, session_id: &str, resume_url: &str, out: &mut Vec<u8>) {
        self.ready.render(&Scene::default(), out, |slot, out| match slot {
            0 => push_number(out, shard.into()),
            1 => push_number(out, self.size.shards.into()),
            2 => out.extend_from_slice(session_id.as_bytes()),
            3 if resume_url == NO_RESUME_URL => {}
            3 => out.extend_from_slice(format!("\"resume_gateway_url\":\"{resume_url}\",").as_bytes()),
            _ => separated(out, 0..self.size.guilds, |index, out| {
                out.extend_from_slice(b"{\"unavailable\":true,\"id\":\"");
                push_number(out, self.guild_id(shard, index));
                out.extend_from_slice(b"\"}");
            }),
        });
    }

    /// Appends the `d` of a guild's GUILD_CREATE.
    pub fn guild(&self, shard: u32, index: u32, out: &mut Vec<u8>) {
        let scene = self.scene(shard, index, index as u64);
        let listed = self.size.members;
        self.guild.render(&scene, out, |slot, out| match slot {
            0 => separated(out, 0..listed, |member, out| self.member(shard, index, member, out)),
            1 => separated(out, 1..listed.div_ceil(3).max(1), |member, out| {
                self.presence.render(&self.member_scene(shard, index, member), out, |_, _| {});
            }),
            2 => separated(out, 1..listed.div_ceil(10).max(1), |member, out| {
                self.voice_state.render(&self.member_scene(shard, index, member), out, |_, _| {});
            }),
            3 => separated(out, 0..TEXT_CHANNELS, |channel_index, out| {
                let channel = scene.guild + 100 + channel_index as u64;
                self.text_channel.render(&Scene { channel, channel_index, ..scene }, out, |_, _| {});
            }),
            4 => out.extend_from_slice(if self.member_count(index) > listed { b"true" } else { b"false" }),
            _ => push_number(out, self.member_count(index).into()),
        });
    }

    /// Appends one member object, with `user`.
    pub fn member(&self, shard: u32, index: u32, member: u32, out: &mut Vec<u8>) {
        let template = if member == 0 { &self.bot_member } else { &self.member };
        template.render(&self.member_scene(shard, index, member), out, |_, _| {});
    }

    /// Appends one presence, as GUILD_CREATE and chunks carry it.
    pub fn presence(&self, shard: u32, index: u32, member: u32, out: &mut Vec<u8>) {
        self.presence.render(&self.member_scene(shard, index, member), out, |_, _| {});
    }

    fn member_scene(&self, shard: u32, index: u32, member: u32) -> Scene {
        let user = self.user_id(shard, index, member);
        Scene { user, member, salt: user.wrapping_mul(0x9E37_79B9_7F4A_7C15), ..self.scene(shard, index, 0) }
    }
}

/// Appends what `each` writes, with commas between.
pub fn separated(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>, mut each: impl FnMut(u32, &mut Vec<u8>)) {
    for (at, number) in numbers.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        each(number, out);
    }
}

fn includes() -> HashMap<&'static str, String> {
    let bot = |text: &str| compact(text).replace("@{>bot}", &BOT_ID.to_string());
    let user = bot(payload!("user"));
    let bot_user = bot(payload!("bot_user"));
    let member = bot(payload!("member")).replace("@{>user}", &user);
    let bot_member = bot(payload!("bot_member")).replace("@{>bot_user}", &bot_user);
    HashMap::from([
        ("bot", BOT_ID.to_string()),
        ("rich_user", compact(payload!("rich_user"))),
        ("user", user),
        ("member", member),
        ("bot_user", bot_user),
        ("bot_member", bot_member),
        ("author_member", bot(payload!("author_member"))),
        ("guild_channels", bot(payload!("guild_channels"))),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn world() -> World {
        World::new(Size { shards: 4, guilds: 3, members: 20, outage_every: 2 })
    }

    fn json(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_guild_is_valid_json_and_routes_to_its_shard() {
        let world = world();
        let guild = json(|out| world.guild(3, 1, out));
        let id: u64 = guild["id"].as_str().unwrap().parse().unwrap();
        assert_eq!((id >> 22) % 4, 3);
        assert_eq!(world.find_guild(id), Some((3, 1)));
        assert_eq!(world.find_guild(id + 1), None);
        assert_eq!(guild["unavailable"], false);
        assert_eq!(guild["members"].as_array().unwrap().len(), 20);
        assert_eq!(guild["member_count"], 20);
        assert_eq!(guild["channels"].as_array().unwrap().len(), TEXT_CHANNELS as usize + 4);
    }

    #[test]
    fn ready_names_every_guild_of_the_shard() {
        let world = world();
        let ready = json(|out| world.ready(2, "abc", "ws://x", out));
        assert_eq!(ready["guilds"].as_array().unwrap().len(), 3);
        assert_eq!(ready["shard"], serde_json::json!([2, 4]));
        assert_eq!(ready["session_id"], "abc");
    }

    #[test]
    fn members_are_found_by_their_user() {
        let world = world();
        for member in [0, 1, 19, 2499] {
            assert_eq!(world.find_member(1, 0, world.user_id(1, 0, member)), Some(member));
        }
        assert_eq!(world.find_member(1, 1, world.user_id(1, 0, 5)), None);
        assert_eq!(world.find_member(1, 1, world.user_id(1, 1, 20)), None);
    }
}
