//! The guilds that the fake Discord has: ids by formula and objects by template, so that no guild costs memory until it changes.
//!
//! What has changed is kept as numbers (`state`), so that whoever identifies late is shown the guilds as they are now. What
//! changes is `life`'s. The traffic of `traffic` is told and not remembered.

use std::borrow::Cow;
use std::collections::HashMap;

use super::options::NO_RESUME_URL;
use super::parts;
use super::state::{GuildState, NO_ROLE, Part, Person, Standing, Thing};
use super::template::{Scene, Template, compact, include, push_number};

/// The bot's own user and application id.
pub const BOT_ID: u64 = 180_000_000_000 << 22;
/// Text channels that every guild has, whatever else; the traffic happens in them.
pub const TEXT_CHANNELS: u32 = 5;
pub const MEMBERS_PER_GUILD_MAX: u32 = 1_000_000;

/// Milliseconds since Discord's epoch in a guild's id, about 2020.
const GUILD_MS: u64 = 160_000_000_000;
const USER_MS: u64 = 170_000_000_000;
const MESSAGE_MS: u64 = 340_000_000_000;
/// Distance between the ids of created things of one part and of the next.
const PART_IDS: u64 = 400_000;
const SALT: u64 = 0x9E37_79B9_7F4A_7C15;
/// GUILD_CREATE's arrays of people, and its other keys that depend on the state.
const PEOPLE: [&str; 3] = ["members", "presences", "voice_states"];

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
    /// `member_count` of the first guild of each shard, if that is more than `members`; all of them come in chunks.
    pub big_guild: u32,
    /// Text channels in each guild, at least `TEXT_CHANNELS`; 4 of other types come on top.
    pub channels: u32,
    /// Roles and emojis on top of the 5 and 2 that every guild has.
    pub roles: u32,
    pub emojis: u32,
    /// Of the listed members, how many are online and how many in voice.
    pub presence_share: f64,
    pub voice_share: f64,
    /// Members without decorations and presences of one activity: some 0.7 kB a member with its share, instead of 1.1.
    pub is_lean: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            shards: 225,
            guilds: 20,
            members: 20,
            outage_every: 0,
            big_guild: 2500,
            channels: TEXT_CHANNELS,
            roles: 0,
            emojis: 0,
            presence_share: 1.0 / 3.0,
            voice_share: 0.1,
            is_lean: false,
        }
    }
}

pub struct World {
    pub size: Size,
    pub includes: HashMap<&'static str, String>,
    guild: Template,
    guild_update: Template,
    member: Template,
    bot_member: Template,
    presence: Template,
    voice_state: Template,
    ready: Template,
    /// What every guild has at the start, by `Part as usize`.
    base: [Vec<Template>; Part::ALL.len()],
    /// What further channels, threads, roles and emojis look like.
    text_channel: Template,
    thread: Template,
    role: Template,
    emoji: Template,
    /// Guilds that have changed.
    states: HashMap<(u32, u32), GuildState>,
}

impl World {
    pub fn new(size: Size) -> Self {
        let includes = includes();
        let compile = |text: &str, slots: &[&str]| Template::compile(text, &includes, slots);
        let guild = include(payload!("guild"), &includes);
        let (guild, base) = parts::take_apart(&guild);
        let keys: Vec<&str> =
            PEOPLE.into_iter().chain(["large", "member_count"]).chain(Part::ALL.map(Part::key)).collect();
        let roles = |text: &str| text.replace("\"roles\":[\"@{g+2}\",\"@{g+4}\"]", "\"roles\":[@{roles}]");
        // Listed members show every key of a user with a value, those in events what most users have.
        let user = if size.is_lean { "@{>user}" } else { "@{>rich_user}" };
        let member = roles(payload!("member")).replace("@{>user}", user);
        let presence = if size.is_lean { payload!("presence_lean") } else { payload!("presence") };
        let voice_state =
            payload!("voice_state").replace("\"channel_id\":\"@{g+110}\"", "\"channel_id\":@{channel_id}");
        Self {
            guild: compile(&guild, &keys),
            guild_update: compile(&parts::guild_update(&guild), &keys),
            member: compile(&member.replace("\"nick\":null", "\"nick\":@{nick}"), &["roles"]),
            bot_member: compile(payload!("bot_member"), &[]),
            presence: compile(presence, &[]),
            voice_state: compile(&voice_state, &["channel_id"]),
            ready: compile(payload!("ready"), &["shard", "shards", "session_id", "resume_url", "ready_guilds"]),
            base: base.map(|it| it.iter().map(|text| compile(text, &[])).collect()),
            text_channel: compile(payload!("text_channel"), &[]),
            thread: compile(payload!("thread"), &["archived"]),
            role: compile(payload!("role"), &[]),
            emoji: compile(payload!("emoji"), &[]),
            states: HashMap::new(),
            includes,
            size: Size { channels: size.channels.max(TEXT_CHANNELS), ..size },
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

    /// Whether the guild is in an outage at the start.
    pub fn is_in_outage(&self, shard: u32, index: u32) -> bool {
        let every = self.size.outage_every;
        every > 0 && shard.is_multiple_of(every) && self.size.guilds > 1 && index == self.size.guilds - 1
    }

    pub fn standing(&self, shard: u32, index: u32) -> Standing {
        match self.states.get(&(shard, index)) {
            Some(state) => state.standing,
            None if self.is_in_outage(shard, index) => Standing::Outage,
            None => Standing::Available,
        }
    }

    /// Members at the start.
    fn first_members(&self, index: u32) -> u32 {
        if index == 0 { self.size.members.max(self.size.big_guild) } else { self.size.members }
    }

    /// How many things of a part a guild has at the start, and how many of them are base objects.
    pub(super) fn first_things(&self, part: Part) -> (u32, u32) {
        let base = self.base[part as usize].len() as u32;
        let more = match part {
            Part::Channels => self.size.channels,
            Part::Roles => self.size.roles,
            Part::Emojis => self.size.emojis,
            _ => 0,
        };
        (base + more, base)
    }

    fn first_state(&self, shard: u32, index: u32) -> GuildState {
        let listed = self.size.members;
        let share = |share: f64| ((f64::from(listed) * share).round() as u32).min(listed.saturating_sub(1));
        let (online, in_voice) = (share(self.size.presence_share), share(self.size.voice_share));
        let person = |number: u32| Person {
            version: 0,
            presence: u32::from((1..=online).contains(&number)),
            voice: u32::from((1..=in_voice).contains(&number)),
            roles: [2, 4],
            is_in: true,
            is_listed: number < listed,
        };
        let people = (0..self.first_members(index)).map(person).collect();
        GuildState::new(self.standing(shard, index), people, Part::ALL.map(|part| self.first_things(part).0))
    }

    pub(super) fn state(&self, shard: u32, index: u32) -> Cow<'_, GuildState> {
        match self.states.get(&(shard, index)) {
            Some(state) => Cow::Borrowed(state),
            None => Cow::Owned(self.first_state(shard, index)),
        }
    }

    /// Lets `change` change a guild.
    pub(super) fn change<T>(&mut self, shard: u32, index: u32, change: impl FnOnce(&Self, &mut GuildState) -> T) -> T {
        let mut state = self.states.remove(&(shard, index)).unwrap_or_else(|| self.first_state(shard, index));
        let result = change(self, &mut state);
        self.states.insert((shard, index), state);
        result
    }

    /// Member 0 of every guild is the bot.
    pub fn user_id(&self, shard: u32, index: u32, member: u32) -> u64 {
        if member == 0 {
            return BOT_ID;
        }
        let number = shard as u64 * 100_000_000 + (index as u64 % 100) * MEMBERS_PER_GUILD_MAX as u64 + member as u64;
        ((USER_MS + number) << 22) | ((member as u64 * 7) & 0xFFF)
    }

    /// The numbers of the guild's members.
    pub fn members(&self, shard: u32, index: u32) -> Vec<u32> {
        let state = self.state(shard, index);
        (0..).zip(&state.people).filter(|it| it.1.is_in).map(|it| it.0).collect()
    }

    /// The member number of a user; `None` when that user is in another guild or nowhere.
    pub fn find_member(&self, shard: u32, index: u32, user: u64) -> Option<u32> {
        if user == BOT_ID {
            return Some(0);
        }
        let base = USER_MS + shard as u64 * 100_000_000 + (index as u64 % 100) * MEMBERS_PER_GUILD_MAX as u64;
        let member = u32::try_from((user >> 22).checked_sub(base)?).ok().filter(|it| *it > 0)?;
        let is_in = self.state(shard, index).people.get(member as usize)?.is_in;
        (is_in && self.user_id(shard, index, member) == user).then_some(member)
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
            salt: salt.wrapping_mul(SALT),
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
            _ => {
                let guilds = (0..self.size.guilds).filter(|it| self.standing(shard, *it) != Standing::Left);
                separated(out, guilds, |index, out| {
                    out.extend_from_slice(b"{\"unavailable\":true,\"id\":\"");
                    push_number(out, self.guild_id(shard, index));
                    out.extend_from_slice(b"\"}");
                });
            }
        });
    }

    /// Appends the `d` of a guild's GUILD_CREATE, as the guild is now.
    pub fn guild(&self, shard: u32, index: u32, out: &mut Vec<u8>) {
        self.guild_of(shard, index, &self.state(shard, index), &self.guild, out);
    }

    /// Appends the `d` of GUILD_UPDATE.
    pub(super) fn guild_update(&self, shard: u32, index: u32, state: &GuildState, out: &mut Vec<u8>) {
        self.guild_of(shard, index, state, &self.guild_update, out);
    }

    /// As `guild`, with a state that is being changed.
    pub(super) fn guild_create(&self, shard: u32, index: u32, state: &GuildState, out: &mut Vec<u8>) {
        self.guild_of(shard, index, state, &self.guild, out);
    }

    fn guild_of(&self, shard: u32, index: u32, state: &GuildState, template: &Template, out: &mut Vec<u8>) {
        let scene = Scene { version: state.version, ..self.scene(shard, index, index as u64) };
        let listed = |is: fn(&Person) -> bool| {
            (0..).zip(&state.people).filter(move |(_, it)| it.is_in && is(it)).map(|(number, _)| number)
        };
        template.render(&scene, out, |slot, out| match slot {
            0 => separated(out, listed(|it| it.is_listed), |it, out| self.member_of(shard, index, state, it, out)),
            1 => separated(out, listed(|it| it.presence > 0), |it, out| self.presence_of(shard, index, state, it, out)),
            2 => separated(out, listed(|it| it.voice > 0), |it, out| self.voice_of(shard, index, state, it, out)),
            // Whether a guild is large is told once; joins do not change it.
            3 => out.extend_from_slice(if self.first_members(index) > self.size.members { b"true" } else { b"false" }),
            4 => push_number(out, state.member_count.into()),
            slot => self.things(shard, index, state, Part::ALL[slot - PEOPLE.len() - 2], out),
        });
    }

    /// Appends one member object, with `user`.
    pub(super) fn member_of(&self, shard: u32, index: u32, state: &GuildState, member: u32, out: &mut Vec<u8>) {
        let person = state.people[member as usize];
        let template = if member == 0 { &self.bot_member } else { &self.member };
        let scene = self.member_scene(shard, index, member, person.version);
        template.render(&scene, out, |_, out| {
            separated(out, person.roles.into_iter().filter(|it| *it != NO_ROLE), |role, out| {
                out.push(b'"');
                push_number(out, self.thing_id(scene.guild, Part::Roles, role));
                out.push(b'"');
            });
        });
    }

    /// Appends one presence, as GUILD_CREATE and chunks carry it.
    pub(super) fn presence_of(&self, shard: u32, index: u32, state: &GuildState, member: u32, out: &mut Vec<u8>) {
        let version = state.people[member as usize].presence.saturating_sub(1);
        self.presence.render(&self.member_scene(shard, index, member, version), out, |_, _| {});
    }

    /// Who is not in voice has a state with `channel_id` null.
    pub(super) fn voice_of(&self, shard: u32, index: u32, state: &GuildState, member: u32, out: &mut Vec<u8>) {
        let voice = state.people[member as usize].voice;
        let scene = self.member_scene(shard, index, member, voice.saturating_sub(1));
        self.voice_state.render(&scene, out, |_, out| {
            if voice == 0 {
                return out.extend_from_slice(b"null");
            }
            out.push(b'"');
            push_number(out, scene.guild + 110);
            out.push(b'"');
        });
    }

    fn member_scene(&self, shard: u32, index: u32, member: u32, version: u32) -> Scene {
        let user = self.user_id(shard, index, member);
        let salt = (user ^ u64::from(version)).wrapping_mul(SALT);
        Scene { user, member, salt, version, ..self.scene(shard, index, 0) }
    }

    /// Appends the array's elements.
    pub(super) fn things(&self, shard: u32, index: u32, state: &GuildState, part: Part, out: &mut Vec<u8>) {
        separated(out, 0..state.of(part).len() as u32, |at, out| {
            self.thing(shard, index, part, state.of(part)[at as usize], out);
        });
    }

    /// Appends one object of an array, as GUILD_CREATE has it.
    pub(super) fn thing(&self, shard: u32, index: u32, part: Part, thing: Thing, out: &mut Vec<u8>) {
        let scene = self.thing_scene(shard, index, part, thing);
        let further = match part {
            Part::Channels => &self.text_channel,
            Part::Threads => &self.thread,
            Part::Roles => &self.role,
            _ => &self.emoji,
        };
        let template = self.base[part as usize].get(thing.number as usize).unwrap_or(further);
        template.render(&scene, out, |_, out| out.extend_from_slice(b"false"));
    }

    /// Appends a thread that is archived, which GUILD_CREATE never has.
    pub(super) fn archived_thread(&self, shard: u32, index: u32, thread: Thing, out: &mut Vec<u8>) {
        let scene = self.thing_scene(shard, index, Part::Threads, thread);
        self.thread.render(&scene, out, |_, out| out.extend_from_slice(b"true"));
    }

    fn thing_scene(&self, shard: u32, index: u32, part: Part, thing: Thing) -> Scene {
        let scene = self.scene(shard, index, index as u64);
        Scene {
            channel: self.thing_id(scene.guild, part, thing.number),
            channel_index: thing.number.saturating_sub(self.first_things(part).1),
            parent: self.thing_id(scene.guild, Part::Channels, thing.parent),
            version: thing.version,
            salt: (scene.guild ^ u64::from(thing.number) << 32 ^ u64::from(thing.version)).wrapping_mul(SALT),
            ..scene
        }
    }

    /// The id of a thing that is no base object, or of a role.
    pub(super) fn thing_id(&self, guild: u64, part: Part, number: u32) -> u64 {
        let base = self.base[part as usize].len() as u32;
        match (part, number.checked_sub(base)) {
            (_, None) => guild + u64::from(number),
            // The traffic happens here.
            (Part::Channels, Some(at)) if at < TEXT_CHANNELS => guild + 100 + u64::from(at),
            (_, Some(at)) => guild + (part as u64 + 1) * PART_IDS + u64::from(at),
        }
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
        World::new(Size { shards: 4, guilds: 3, members: 20, outage_every: 2, ..Size::default() })
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
    fn a_guild_has_as_many_of_everything_as_its_size_says() {
        let size = Size {
            shards: 1,
            guilds: 1,
            members: 100,
            big_guild: 0,
            channels: 21,
            roles: 10,
            emojis: 18,
            presence_share: 0.4,
            voice_share: 0.1,
            ..Size::default()
        };
        let guild = json(|out| World::new(size).guild(0, 0, out));
        let lens = ["channels", "roles", "emojis", "members", "presences", "voice_states"]
            .map(|key| guild[key].as_array().unwrap().len());
        assert_eq!(lens, [25, 15, 20, 100, 40, 10]);
        let mut ids: Vec<&str> = ["channels", "roles", "emojis", "threads"]
            .iter()
            .flat_map(|key| guild[key].as_array().unwrap())
            .map(|it| it["id"].as_str().unwrap())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "every object has its own id");
    }

    #[test]
    fn a_lean_member_has_the_size_that_the_memory_is_judged_for() {
        let size = Size { members: 100, big_guild: 0, presence_share: 0.4, is_lean: true, ..Size::default() };
        let [one, many] = [Size { members: 1, ..size.clone() }, size].map(|size| {
            let mut out = Vec::new();
            World::new(size).guild(0, 1, &mut out);
            out.len()
        });
        assert!((680..740).contains(&((many - one) / 99)), "{} bytes", (many - one) / 99);
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
