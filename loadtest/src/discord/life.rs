//! Events that change the guilds, drawn with a seed, and told as Discord tells them: what GUILD_CREATE says to a late client is
//! what the events said to an early one.
//!
//! The mix, by share: presences 40, members 20 (half of them updates), voice 10, threads 10, roles, channels and emojis 5 each,
//! the rest 5. Not here: messages and other events without state (`traffic`), and when an event happens.

use fastrand::Rng;

use super::state::{GuildState, NO_ROLE, Part, Person, Standing, Thing};
use super::template::push_number;
use super::world::{MEMBERS_PER_GUILD_MAX, TEXT_CHANNELS, World};

/// Members that are tried when one with some property is wanted; after that the event is another one.
const TRIES: usize = 8;
/// Of a guild with more members things happen to so many: whom events have told of is listed in GUILD_CREATE from then on, and half a million of them would be
/// more than the largest message there is.
const ACTIVE_MEMBERS_MAX: usize = 20_000;
/// Roles that every guild keeps.
const BASE_ROLES: u32 = 5;

/// What may happen in a guild that is available.
#[derive(Clone, Copy, Debug)]
enum Change {
    Presence,
    Voice,
    MemberUpdate,
    MemberAdd,
    MemberRemove,
    RoleCreate,
    RoleUpdate,
    RoleDelete,
    ChannelCreate,
    ChannelUpdate,
    ChannelDelete,
    ThreadCreate,
    ThreadUpdate,
    ThreadArchive,
    ThreadDelete,
    ThreadListSync,
    Emojis,
    Stickers,
    GuildUpdate,
    StageInstance,
    ScheduledEvent,
    Sound,
    Standing,
}

/// In thousandths.
const MIX: [(Change, u32); 23] = [
    (Change::Presence, 400),
    (Change::Voice, 100),
    (Change::MemberUpdate, 100),
    (Change::MemberAdd, 50),
    (Change::MemberRemove, 50),
    (Change::RoleCreate, 15),
    (Change::RoleUpdate, 20),
    (Change::RoleDelete, 15),
    (Change::ChannelCreate, 15),
    (Change::ChannelUpdate, 20),
    (Change::ChannelDelete, 15),
    (Change::ThreadCreate, 40),
    (Change::ThreadUpdate, 20),
    (Change::ThreadArchive, 18),
    (Change::ThreadDelete, 18),
    (Change::ThreadListSync, 4),
    (Change::Emojis, 50),
    (Change::Stickers, 10),
    (Change::GuildUpdate, 10),
    (Change::StageInstance, 9),
    (Change::ScheduledEvent, 9),
    (Change::Sound, 9),
    (Change::Standing, 3),
];

/// Name and `d` of a dispatch.
pub type Told = (&'static str, String);

impl World {
    /// Draws one event of `shard` and lets it happen. Busy guilds get more: the pick is squared.
    ///
    /// `None` when the shard has no guilds.
    pub fn live(&mut self, shard: u32, rng: &mut Rng) -> Option<Told> {
        let guilds = self.size.guilds;
        let share = rng.f32();
        let index = ((share * share * guilds as f32) as u32).min(guilds.checked_sub(1)?);
        Some(self.change(shard, index, |world, state| {
            let mut teller = Teller { world, shard, index, out: Vec::new() };
            let name = loop {
                if let Some(name) = teller.draw(state, rng) {
                    break name;
                }
                teller.out.clear();
            };
            teller.told(name)
        }))
    }

    /// Every object of a guild changes once, in a random order. Nothing happens in a guild that is not available.
    pub fn replace(&mut self, shard: u32, index: u32, rng: &mut Rng) -> Vec<Told> {
        if self.standing(shard, index) != Standing::Available {
            return Vec::new();
        }
        self.change(shard, index, |world, state| {
            let whole = [Change::GuildUpdate, Change::Stickers, Change::Emojis];
            let mut steps: Vec<Step> = whole.map(Step::Whole).into();
            for (number, person) in (0..).zip(&state.people).filter(|it| it.1.is_in) {
                steps.push(Step::Member(number));
                steps.extend((person.presence > 0).then_some(Step::Presence(number)));
                steps.extend((person.voice > 0).then_some(Step::Voice(number)));
            }
            for part in
                [Part::Channels, Part::Threads, Part::Roles, Part::StageInstances, Part::ScheduledEvents, Part::Sounds]
            {
                steps.extend(state.of(part).iter().map(|it| Step::Thing(part, it.number)));
            }
            rng.shuffle(&mut steps);
            let mut teller = Teller { world, shard, index, out: Vec::new() };
            steps
                .into_iter()
                .map(|step| {
                    let name = teller.step(state, step);
                    teller.told(name)
                })
                .collect()
        })
    }
}

/// One object that changes.
#[derive(Clone, Copy)]
enum Step {
    Member(u32),
    Presence(u32),
    Voice(u32),
    Thing(Part, u32),
    Whole(Change),
}

/// Changes the state of one guild and writes the event that tells it.
struct Teller<'a> {
    world: &'a World,
    shard: u32,
    index: u32,
    /// The event's `d`.
    out: Vec<u8>,
}

impl Teller<'_> {
    fn told(&mut self, name: &'static str) -> Told {
        (name, String::from_utf8(std::mem::take(&mut self.out)).expect("templates are UTF-8"))
    }

    /// `None` when what was drawn cannot happen now.
    fn draw(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        if state.standing != Standing::Available {
            return Some(self.come_back(state));
        }
        let whole: u32 = MIX.iter().map(|it| it.1).sum();
        let mut at = rng.u32(..whole);
        let change = MIX.iter().find(|it| at.checked_sub(it.1).map(|rest| at = rest).is_none())?.0;
        match change {
            Change::Presence => {
                let member = member(state, rng, |_| true)?;
                if state.people[member as usize].presence > 0 && rng.u32(..6) == 0 {
                    return Some(self.go_offline(state, member));
                }
                Some(self.step(state, Step::Presence(member)))
            }
            Change::Voice => {
                if let Some(member) = member(state, rng, |it| it.voice > 0).filter(|_| rng.bool()) {
                    return Some(self.leave_voice(state, member));
                }
                let member = member(state, rng, |_| true)?;
                Some(self.step(state, Step::Voice(member)))
            }
            Change::MemberUpdate => {
                let member = member(state, rng, |_| true)?;
                if member > 0 {
                    state.people[member as usize].roles = [role(state, rng), role(state, rng)];
                    let roles = &mut state.people[member as usize].roles;
                    if roles[0] == roles[1] {
                        roles[1] = NO_ROLE;
                    }
                }
                Some(self.step(state, Step::Member(member)))
            }
            Change::MemberAdd => self.join(state, rng),
            Change::MemberRemove => self.leave(state, rng),
            Change::RoleCreate => self.create(state, Part::Roles, 0),
            Change::RoleUpdate => self.update(state, Part::Roles, rng),
            Change::RoleDelete => self.delete_role(state, rng),
            Change::ChannelCreate => self.create(state, Part::Channels, 0),
            Change::ChannelUpdate => self.update(state, Part::Channels, rng),
            Change::ChannelDelete => self.delete_channel(state, rng),
            Change::ThreadCreate => {
                let base = self.world.first_things(Part::Channels).1;
                let parent = pick(state, Part::Channels, rng).filter(|it| it.number >= base)?;
                self.create(state, Part::Threads, parent.number)
            }
            Change::ThreadUpdate => self.update(state, Part::Threads, rng),
            Change::ThreadArchive | Change::ThreadDelete => self.end_thread(state, rng, change),
            Change::ThreadListSync => Some(self.sync_threads(state)),
            Change::Emojis => self.change_emojis(state, rng),
            Change::StageInstance => Some(self.toggle(state, Part::StageInstances, rng)),
            Change::ScheduledEvent => Some(self.toggle(state, Part::ScheduledEvents, rng)),
            Change::Sound => Some(self.toggle(state, Part::Sounds, rng)),
            Change::Standing => self.go_away(state, rng),
            Change::Stickers | Change::GuildUpdate => Some(self.step(state, Step::Whole(change))),
        }
    }

    fn update(&mut self, state: &mut GuildState, part: Part, rng: &mut Rng) -> Option<&'static str> {
        let thing = pick(state, part, rng)?;
        Some(self.step(state, Step::Thing(part, thing.number)))
    }

    fn step(&mut self, state: &mut GuildState, step: Step) -> &'static str {
        let version = state.next_version();
        match step {
            Step::Member(member) => {
                let person = &mut state.people[member as usize];
                (person.version, person.is_listed) = (version, true);
                self.with_guild(|it| it.world.member_of(it.shard, it.index, state, member, &mut it.out));
                "GUILD_MEMBER_UPDATE"
            }
            Step::Presence(member) => {
                state.people[member as usize].presence = version + 1;
                self.with_guild(|it| it.world.presence_of(it.shard, it.index, state, member, &mut it.out));
                "PRESENCE_UPDATE"
            }
            Step::Voice(member) => {
                state.people[member as usize].voice = version + 1;
                self.tell_voice(state, member)
            }
            Step::Thing(Part::Emojis, number) => {
                change(state, Part::Emojis, number, version);
                self.tell_list(state, Part::Emojis, "GUILD_EMOJIS_UPDATE")
            }
            Step::Thing(part, number) => {
                let thing = change(state, part, number, version);
                self.tell_thing(part, thing);
                updated(part)
            }
            Step::Whole(change @ (Change::Stickers | Change::Emojis)) => {
                let (part, name) = match change {
                    Change::Stickers => (Part::Stickers, "GUILD_STICKERS_UPDATE"),
                    _ => (Part::Emojis, "GUILD_EMOJIS_UPDATE"),
                };
                state.of_mut(part).iter_mut().for_each(|it| it.version = version);
                self.tell_list(state, part, name)
            }
            Step::Whole(_) => {
                state.version = version;
                self.world.guild_update(self.shard, self.index, state, &mut self.out);
                "GUILD_UPDATE"
            }
        }
    }

    fn guild_id(&self) -> u64 {
        self.world.guild_id(self.shard, self.index)
    }

    /// An object that `write` appends, with `guild_id` put before its own keys.
    fn with_guild(&mut self, write: impl FnOnce(&mut Self)) {
        self.open();
        self.out.push(b',');
        let at = self.out.len();
        write(self);
        self.out.remove(at);
    }

    /// `{"guild_id":"…"`
    fn open(&mut self) {
        self.out.extend_from_slice(b"{\"guild_id\":\"");
        let guild = self.guild_id();
        push_number(&mut self.out, guild);
        self.out.push(b'"');
    }

    /// One more key, its value written by `write`.
    fn key(&mut self, key: &str, write: impl FnOnce(&mut Self)) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        write(self);
    }

    fn close(&mut self) {
        self.out.push(b'}');
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A dispatch about one thing. Some objects have their guild in them, a role is wrapped.
    fn tell_thing(&mut self, part: Part, thing: Thing) {
        match part {
            Part::Roles => {
                self.open();
                self.key("role", |it| it.world.thing(it.shard, it.index, part, thing, &mut it.out));
                self.close();
            }
            Part::Channels => {
                self.with_guild(|it| it.world.thing(it.shard, it.index, part, thing, &mut it.out));
            }
            _ => self.world.thing(self.shard, self.index, part, thing, &mut self.out),
        }
    }

    /// A dispatch that carries a whole array.
    fn tell_list(&mut self, state: &GuildState, part: Part, name: &'static str) -> &'static str {
        self.open();
        self.key(part.key(), |it| {
            it.out.push(b'[');
            it.world.things(it.shard, it.index, state, part, &mut it.out);
            it.out.push(b']');
        });
        self.close();
        name
    }

    /// A voice state with the member in it, who is listed from then on.
    fn tell_voice(&mut self, state: &mut GuildState, member: u32) -> &'static str {
        state.people[member as usize].is_listed = true;
        self.with_guild(|it| it.world.voice_of(it.shard, it.index, state, member, &mut it.out));
        self.out.pop();
        self.key("member", |it| it.world.member_of(it.shard, it.index, state, member, &mut it.out));
        self.close();
        "VOICE_STATE_UPDATE"
    }

    fn leave_voice(&mut self, state: &mut GuildState, member: u32) -> &'static str {
        state.next_version();
        state.people[member as usize].voice = 0;
        self.tell_voice(state, member)
    }

    fn go_offline(&mut self, state: &mut GuildState, member: u32) -> &'static str {
        state.next_version();
        state.people[member as usize].presence = 0;
        self.open();
        let user = self.world.user_id(self.shard, self.index, member);
        let text = format!("{{\"id\":\"{user}\"}},\"status\":\"offline\",\"client_status\":{{}},\"activities\":[]");
        self.key("user", |it| it.text(&text));
        self.close();
        "PRESENCE_UPDATE"
    }

    /// Somebody new, or somebody who had left.
    fn join(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        let version = state.next_version();
        let person = Person { version, presence: 0, voice: 0, roles: [NO_ROLE; 2], is_in: true, is_listed: true };
        let is_full = state.people.len() as u32 == MEMBERS_PER_GUILD_MAX;
        let member = if !state.gone.is_empty() && (is_full || rng.bool()) {
            state.gone.swap_remove(rng.usize(..state.gone.len()))
        } else if is_full {
            return None;
        } else {
            state.people.push(person);
            state.people.len() as u32 - 1
        };
        state.people[member as usize] = person;
        state.member_count += 1;
        self.with_guild(|it| it.world.member_of(it.shard, it.index, state, member, &mut it.out));
        Some("GUILD_MEMBER_ADD")
    }

    /// Somebody who is not in voice: Discord says that they left the channel first.
    fn leave(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        let member = member(state, rng, |it| it.voice == 0).filter(|it| *it > 0)?;
        state.next_version();
        let person = &mut state.people[member as usize];
        (person.is_in, person.presence, person.is_listed) = (false, 0, false);
        state.gone.push(member);
        state.member_count -= 1;
        let user = self.world.user_id(self.shard, self.index, member);
        let text = format!(
            "{{\"username\":\"member_{member}\",\"id\":\"{user}\",\"global_name\":null,\"discriminator\":\"0\",\"bot\":false,\"avatar\":null}}"
        );
        self.open();
        self.key("user", |it| it.text(&text));
        self.close();
        Some("GUILD_MEMBER_REMOVE")
    }

    fn create(&mut self, state: &mut GuildState, part: Part, parent: u32) -> Option<&'static str> {
        if state.is_full(part, self.world.first_things(part).0 as usize) {
            return None;
        }
        let thing = state.create(part, parent);
        self.tell_thing(part, thing);
        if part == Part::Threads {
            self.out.pop();
            self.key("newly_created", |it| it.text("true"));
            self.close();
        }
        Some(created(part))
    }

    fn delete_role(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        let role = pick(state, Part::Roles, rng).filter(|it| it.number >= BASE_ROLES)?;
        state.next_version();
        state.delete_role(role.number);
        let id = self.world.thing_id(self.guild_id(), Part::Roles, role.number);
        self.open();
        self.key("role_id", |it| it.text(&format!("\"{id}\"")));
        self.close();
        Some("GUILD_ROLE_DELETE")
    }

    fn delete_channel(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        let kept = self.world.first_things(Part::Channels).1 + TEXT_CHANNELS;
        let channel = pick(state, Part::Channels, rng).filter(|it| it.number >= kept)?;
        state.next_version();
        state.delete_channel(channel.number);
        self.tell_thing(Part::Channels, channel);
        Some("CHANNEL_DELETE")
    }

    /// The base thread stays.
    fn end_thread(&mut self, state: &mut GuildState, rng: &mut Rng, change: Change) -> Option<&'static str> {
        let base = self.world.first_things(Part::Threads).1;
        let mut thread = pick(state, Part::Threads, rng).filter(|it| it.number >= base)?;
        thread.version = state.next_version();
        state.of_mut(Part::Threads).retain(|it| it.number != thread.number);
        if matches!(change, Change::ThreadArchive) {
            self.world.archived_thread(self.shard, self.index, thread, &mut self.out);
            return Some("THREAD_UPDATE");
        }
        let guild = self.guild_id();
        let [id, parent] = [(Part::Threads, thread.number), (Part::Channels, thread.parent)]
            .map(|(part, number)| self.world.thing_id(guild, part, number));
        self.open();
        let text = format!("11,\"parent_id\":\"{parent}\",\"id\":\"{id}\"");
        self.key("type", |it| it.text(&text));
        self.close();
        Some("THREAD_DELETE")
    }

    /// All threads of the guild, which changes nothing for who has seen all before.
    fn sync_threads(&mut self, state: &GuildState) -> &'static str {
        self.tell_list(state, Part::Threads, "THREAD_LIST_SYNC");
        self.out.pop();
        self.key("members", |it| it.text("[]"));
        self.close();
        "THREAD_LIST_SYNC"
    }

    fn change_emojis(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        let (first, base) = self.world.first_things(Part::Emojis);
        let emoji = pick(state, Part::Emojis, rng)?;
        match rng.u32(..3) {
            0 if !state.is_full(Part::Emojis, first as usize) => drop(state.create(Part::Emojis, 0)),
            1 if emoji.number >= base => state.of_mut(Part::Emojis).retain(|it| *it != emoji),
            _ => return Some(self.step(state, Step::Thing(Part::Emojis, emoji.number))),
        }
        Some(self.tell_list(state, Part::Emojis, "GUILD_EMOJIS_UPDATE"))
    }

    /// The one thing of a part changes, goes, or comes back.
    fn toggle(&mut self, state: &mut GuildState, part: Part, rng: &mut Rng) -> &'static str {
        let Some(thing) = state.of(part).first().copied() else {
            let thing = Thing { number: 0, version: state.next_version(), parent: 0 };
            state.of_mut(part).push(thing);
            self.tell_thing(part, thing);
            return created(part);
        };
        if rng.bool() {
            return self.step(state, Step::Thing(part, thing.number));
        }
        state.next_version();
        state.of_mut(part).clear();
        self.tell_thing(part, thing);
        deleted(part)
    }

    /// An outage, or the bot leaves. The first guild of a shard stays: it may be large.
    fn go_away(&mut self, state: &mut GuildState, rng: &mut Rng) -> Option<&'static str> {
        if self.index == 0 {
            return None;
        }
        let id = self.guild_id();
        state.standing = if rng.bool() { Standing::Outage } else { Standing::Left };
        let unavailable = if state.standing == Standing::Outage { "\"unavailable\":true," } else { "" };
        self.text(&format!("{{{unavailable}\"id\":\"{id}\"}}"));
        Some("GUILD_DELETE")
    }

    /// After an outage, or because the bot was invited again, which is told by `unavailable` being absent.
    fn come_back(&mut self, state: &mut GuildState) -> &'static str {
        let was_outage = state.standing == Standing::Outage;
        state.standing = Standing::Available;
        self.world.guild_create(self.shard, self.index, state, &mut self.out);
        if !was_outage {
            let text = String::from_utf8(std::mem::take(&mut self.out)).expect("templates are UTF-8");
            self.out = text.replacen("\"unavailable\":false,", "", 1).into_bytes();
        }
        "GUILD_CREATE"
    }
}

fn created(part: Part) -> &'static str {
    match part {
        Part::Channels => "CHANNEL_CREATE",
        Part::Threads => "THREAD_CREATE",
        Part::Roles => "GUILD_ROLE_CREATE",
        Part::StageInstances => "STAGE_INSTANCE_CREATE",
        Part::ScheduledEvents => "GUILD_SCHEDULED_EVENT_CREATE",
        Part::Sounds => "GUILD_SOUNDBOARD_SOUND_CREATE",
        Part::Emojis | Part::Stickers => unreachable!("they are told as a whole array"),
    }
}

fn updated(part: Part) -> &'static str {
    match part {
        Part::Channels => "CHANNEL_UPDATE",
        Part::Threads => "THREAD_UPDATE",
        Part::Roles => "GUILD_ROLE_UPDATE",
        Part::StageInstances => "STAGE_INSTANCE_UPDATE",
        Part::ScheduledEvents => "GUILD_SCHEDULED_EVENT_UPDATE",
        Part::Sounds => "GUILD_SOUNDBOARD_SOUND_UPDATE",
        Part::Emojis | Part::Stickers => unreachable!("they are told as a whole array"),
    }
}

fn deleted(part: Part) -> &'static str {
    match part {
        Part::StageInstances => "STAGE_INSTANCE_DELETE",
        Part::ScheduledEvents => "GUILD_SCHEDULED_EVENT_DELETE",
        Part::Sounds => "GUILD_SOUNDBOARD_SOUND_DELETE",
        _ => unreachable!("others are deleted in their own way"),
    }
}

/// Gives a thing its new version.
fn change(state: &mut GuildState, part: Part, number: u32, version: u32) -> Thing {
    let thing = state.of_mut(part).iter_mut().find(|it| it.number == number).expect("it was picked among those");
    thing.version = version;
    *thing
}

fn pick(state: &GuildState, part: Part, rng: &mut Rng) -> Option<Thing> {
    let things = state.of(part);
    (!things.is_empty()).then(|| things[rng.usize(..things.len())])
}

/// The number of a role that is not @everyone.
fn role(state: &GuildState, rng: &mut Rng) -> u32 {
    let roles = state.of(Part::Roles);
    roles[1 + rng.usize(..roles.len() - 1)].number
}

/// A member with some property, the bot among them; `None` when none is found soon.
fn member(state: &GuildState, rng: &mut Rng, is_fit: fn(&Person) -> bool) -> Option<u32> {
    let active = state.people.len().min(ACTIVE_MEMBERS_MAX);
    let tried = (0..TRIES).map(|_| rng.usize(..active));
    let mut fit = tried.filter(|it| state.people[*it].is_in && is_fit(&state.people[*it]));
    fit.next().map(|it| it as u32)
}

#[cfg(test)]
mod tests;
