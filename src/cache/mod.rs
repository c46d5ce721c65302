//! One shard's state as Discord would send it now: its READY, and a GUILD_CREATE for each guild.
//!
//! The state is Discord's own JSON, cut into fragments, replaced and merged as events tell, and put together again by
//! concatenation. Nothing is re-typed: unknown keys, key order, numbers and escapes come back as they came. Here is no socket,
//! no clock and no client; who gets what, and when, is the shard's business.
//!
//! How events change a guild: `rules`, `channels`, `people`. How fragments are edited: `edit`. How they are stored: `guild` has a
//! `table` of `block`s for each array, in which each element lies packed (`pack`): its shape's number and what it has of its
//! own. That form is behind `Cache`: nobody else sees it, and nothing outlives the process in it.
//! Elements stand in the order in which they came, new ones at the end.
//!
//! Memory, with today's keys: a member 70 to 110 bytes of JSON's 550, a presence 30 to 90, a guild of 25 channels, 15 roles and 20
//! emojis 4 KiB, without any of these 0.6 KiB. `cargo bench --bench memory` prints the table. It is bounded by Discord's own
//! limits on a guild; the proxy's are `GUILDS_MAX`, `table::ENTRIES_MAX`, `pack::Ids`, and for what a core shares those of `pack`.

#![forbid(unsafe_code)]

mod block;
mod channels;
mod edit;
mod event;
mod guild;
mod kind;
mod pack;
mod people;
pub mod properties;
mod ready;
mod restore;
mod rules;
mod table;
#[cfg(test)]
mod tests;
mod told;
mod users;

use std::collections::BTreeMap;

use crate::wire::GuildId;
use crate::wire::json::{self, Invalid};
use event::Event;
use guild::Guild;
use kind::Kind;
pub use pack::Shapes;
use ready::Ready;
pub use told::Told;
use users::Users;

/// Guilds of one shard. Discord refuses shards of more than 2,500; further guilds are not kept, their events still pass.
pub const GUILDS_MAX: usize = 1 << 16;

/// Which kinds of object are kept; gateway-proxy's eleven flags, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFlags {
    pub channels: bool,
    pub presences: bool,
    pub emojis: bool,
    pub current_member: bool,
    pub members: bool,
    pub roles: bool,
    pub scheduled_events: bool,
    pub stage_instances: bool,
    pub stickers: bool,
    pub users: bool,
    pub voice_states: bool,
}

impl CacheFlags {
    /// One bit per flag, for what is written to disk: their order must not change.
    pub fn bits(self) -> u16 {
        let flags = [
            self.channels,
            self.presences,
            self.emojis,
            self.current_member,
            self.members,
            self.roles,
            self.scheduled_events,
            self.stage_instances,
            self.stickers,
            self.users,
            self.voice_states,
        ];
        flags.into_iter().enumerate().fold(0, |bits, (n, flag)| bits | u16::from(flag) << n)
    }
}

impl CacheFlags {
    pub const ALL: Self = Self::each(true);
    pub const NONE: Self = Self::each(false);

    const fn each(on: bool) -> Self {
        Self {
            channels: on,
            presences: on,
            emojis: on,
            current_member: on,
            members: on,
            roles: on,
            scheduled_events: on,
            stage_instances: on,
            stickers: on,
            users: on,
            voice_states: on,
        }
    }
}

impl Default for CacheFlags {
    /// gateway-proxy's defaults: channels, current_member and roles.
    fn default() -> Self {
        Self { channels: true, current_member: true, roles: true, ..Self::NONE }
    }
}

/// Cached objects of one shard, by gateway-proxy's gauges.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CacheCounts {
    pub emojis: u64,
    pub guilds: u64,
    pub members: u64,
    pub presences: u64,
    pub channels: u64,
    pub roles: u64,
    pub unavailable_guilds: u64,
    pub users: u64,
    pub voice_states: u64,
    /// Bytes of READY and of the packed elements, without what finds them.
    pub bytes: u64,
}

/// Heap bytes of one shard's state by kind, as held: slack and indices included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CacheBytes {
    pub members: u64,
    pub presences: u64,
    pub voice_states: u64,
    pub roles: u64,
    /// Channels and threads.
    pub channels: u64,
    pub emojis: u64,
    /// The guilds' own keys, the remaining kinds, and the tables that hold it all together.
    pub other: u64,
    pub ready: u64,
    /// This shard's share of what the shards of a core have in common.
    pub shapes: u64,
}

/// Whose synthesised form an event may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Nothing,
    /// READY, by its `user`. (A READY itself changes every guild too.)
    Ready,
    /// One guild: its contents, whether it is available, or whether it is listed at all.
    Guild(GuildId),
}

/// Which dispatch carries what `Cache::write_guild` wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuildForm {
    /// GUILD_CREATE, `unavailable` being `false`.
    Create,
    /// GUILD_DELETE, `unavailable` being `true`: an outage, or a guild that Discord has not sent yet.
    Delete,
}

/// The state of one shard.
#[derive(Debug)]
pub struct Cache {
    keep: Keep,
    ready: Option<Ready>,
    /// READY's order, then as joined. Exactly the keys of `guilds`.
    order: Vec<GuildId>,
    /// `None` while a guild is unavailable.
    guilds: BTreeMap<GuildId, Option<Box<Guild>>>,
    users: Users,
    shapes: Shapes,
    /// Without `users` and without READY's bytes; kept up with every change.
    counts: CacheCounts,
}

/// Source: Discord, Gateway › List of intents.
const INTENT_GUILD_MEMBERS: u64 = 1 << 1;

/// What decides whether an object is kept.
#[derive(Debug)]
struct Keep {
    flags: CacheFlags,
    /// Known once there was a READY.
    own_user: Option<u64>,
    /// Discord says who joins, changes and leaves.
    follows_members: bool,
}

impl Keep {
    fn member(&self, id: Option<u64>) -> bool {
        self.flags.members || (self.flags.current_member && id.is_some() && id == self.own_user)
    }

    /// Whether what is known of this user, who is not in voice, stays right.
    fn follows(&self, id: u64) -> bool {
        self.follows_members || self.own_user == Some(id)
    }
}

impl Cache {
    /// `shapes` is shared with the other caches of the core.
    pub fn new(flags: CacheFlags, shapes: Shapes) -> Self {
        Self {
            keep: Keep { flags, own_user: None, follows_members: true },
            ready: None,
            order: Vec::new(),
            guilds: BTreeMap::new(),
            users: Users::new(flags.users),
            shapes,
            counts: CacheCounts::default(),
        }
    }

    /// For these intents. Without GUILD_MEMBERS only the bot itself and who is in voice are kept, as Discord lists them: of others nothing more is heard.
    #[must_use]
    pub fn with_intents(mut self, intents: u64) -> Self {
        self.keep.follows_members = intents & INTENT_GUILD_MEMBERS != 0;
        self
    }

    /// Starts over from READY's `d`: its guilds are the shard's, each unavailable until its GUILD_CREATE arrives.
    ///
    /// On an error nothing has changed.
    pub fn on_ready(&mut self, d: &[u8]) -> Result<(), Invalid> {
        let contents = Ready::read(d)?;
        self.keep.own_user = contents.own_user;
        self.ready = Some(contents.ready);
        self.order.clear();
        self.guilds.clear();
        self.users.clear();
        self.counts = CacheCounts::default();
        for id in contents.guilds {
            self.set_guild(id, None);
        }
        Ok(())
    }

    /// Whether there is a READY to give to clients.
    pub fn has_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Reads a dispatch for `apply_told`; `None` if it says nothing to the cache, which most types do by their name alone. What it `touches` is
    /// judged by the state of this moment.
    ///
    /// `event_type` is the dispatch's `t` without quotes, `d` the raw JSON of its `d`.
    pub fn read<'a>(&self, event_type: &[u8], d: &'a [u8]) -> Option<Told<'a>> {
        let event = Event::of_type(event_type).filter(|event| event.matters(&self.keep.flags))?;
        let mut told = Told::read(event, d);
        let is_own_rule = matches!(event, Event::GuildCreate | Event::GuildDelete);
        if let Some(id) = told.guild
            && (is_own_rule || self.is_available(id))
        {
            told.touch = Touch::Guild(id);
        }
        Some(told)
    }

    /// What `apply` of this event may change, judged before it.
    pub fn touches(&self, event_type: &[u8], d: &[u8]) -> Touch {
        self.read(event_type, d).map_or(Touch::Nothing, |told| told.touch)
    }

    /// Changes the state as the dispatch tells. An event that says nothing to the cache is `Ok`.
    ///
    /// Errs if `d` is broken where it had to be read; then nothing has changed, or (in an event that brings several objects)
    /// only whole objects.
    pub fn apply(&mut self, event_type: &[u8], d: &[u8]) -> Result<(), Invalid> {
        self.read(event_type, d).map_or(Ok(()), |told| self.apply_told(&told))
    }

    /// `apply` of what was `read`.
    pub fn apply_told(&mut self, told: &Told<'_>) -> Result<(), Invalid> {
        if let Some(invalid) = told.broken {
            return Err(invalid);
        }
        match told.event {
            Event::Ready => self.on_ready(told.d),
            Event::UserUpdate => self.ready.as_mut().map_or(Ok(()), |ready| ready.merge_user(told.d)),
            Event::GuildCreate => self.on_guild_create(told),
            Event::GuildDelete => {
                self.on_guild_delete(told);
                Ok(())
            }
            _ => self.on_guild_event(told),
        }
    }

    /// In READY's order, then as joined.
    pub fn guilds(&self) -> impl Iterator<Item = GuildId> {
        self.order.iter().copied()
    }

    /// Appends READY's `d` as a client of this session gets it, with the guilds known now, all unavailable.
    ///
    /// Without a READY (`has_ready`) nothing is appended.
    pub fn write_ready(&self, session_id: &str, resume_gateway_url: &str, shard: [u32; 2], out: &mut Vec<u8>) {
        let Some(ready) = &self.ready else { return };
        let mut guilds = vec![b'['];
        for id in self.guilds() {
            edit::write_comma(&mut guilds);
            guilds.extend_from_slice(b"{\"unavailable\":true,\"id\":\"");
            guilds.extend_from_slice(itoa::Buffer::new().format(id.0).as_bytes());
            guilds.extend_from_slice(b"\"}");
        }
        guilds.push(b']');
        ready.write(session_id, resume_gateway_url, shard, &guilds, out);
    }

    /// In which dispatch Discord would announce the guild now; `None` if it is unknown.
    pub fn form(&self, guild: GuildId) -> Option<GuildForm> {
        Some(if self.guilds.get(&guild)?.is_some() { GuildForm::Create } else { GuildForm::Delete })
    }

    /// Appends the `d` of that dispatch, and says what `form` says.
    pub fn write_guild(&self, guild: GuildId, out: &mut Vec<u8>) -> Option<GuildForm> {
        match self.guilds.get(&guild)? {
            Some(contents) => contents.write(out),
            None => edit::write_unavailable(guild.0, out),
        }
        self.form(guild)
    }

    /// Costs nothing: the counts are kept up with every event.
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            users: self.users.len() as u64,
            bytes: self.counts.bytes + self.ready.as_ref().map_or(0, |ready| ready.bytes() as u64),
            ..self.counts
        }
    }

    /// What the guilds say of their members, cached or not. A walk over the guilds.
    pub fn guild_members(&self) -> u64 {
        self.guilds.values().flatten().map(|guild| guild.member_count()).sum()
    }

    /// A walk over the guilds: for a metrics scrape, not for every event.
    pub fn bytes(&self) -> CacheBytes {
        let mut bytes = CacheBytes {
            ready: self.ready.as_ref().map_or(0, |ready| ready.bytes() as u64),
            shapes: self.shapes.bytes_share(1 + (self.counts.guilds as usize)),
            other: self.users.heap_bytes() as u64,
            ..CacheBytes::default()
        };
        for guild in self.guilds.values().flatten() {
            guild.add_bytes(&mut bytes);
        }
        bytes
    }

    /// The `d` of the guild's GUILD_CREATE; `None` if it is unknown or unavailable.
    pub fn find_guild(&self, id: GuildId) -> Option<Vec<u8>> {
        let guild = self.guilds.get(&id)?.as_ref()?;
        let mut out = Vec::new();
        guild.write(&mut out);
        Some(out)
    }

    /// A channel or thread as stored. Asks guild by guild, since nothing tells a channel's guild by its id.
    pub fn find_channel(&self, id: u64) -> Option<Vec<u8>> {
        [Kind::Channels, Kind::Threads].into_iter().find_map(|kind| self.find(kind, id))
    }

    /// The user object of a cached member, or of READY if it is the bot's own and no member is cached. Asks guild by guild.
    pub fn find_user(&self, id: u64) -> Option<Vec<u8>> {
        if let Some(member) = self.find(Kind::Members, id) {
            let [user] = json::pick(&member, ["user"]).ok()?;
            return user.map(<[u8]>::to_vec);
        }
        let ready = self.ready.as_ref().filter(|_| self.keep.own_user == Some(id))?;
        ready.user().map(<[u8]>::to_vec)
    }

    /// The element as stored in the first guild that has one.
    fn find(&self, kind: Kind, id: u64) -> Option<Vec<u8>> {
        self.guilds.values().flatten().find_map(|guild| guild.get(kind, id))
    }

    /// Replaces everything of the guild, or marks it unavailable if that is all the payload says.
    fn on_guild_create(&mut self, told: &Told<'_>) -> Result<(), Invalid> {
        let created = Guild::read(told, &self.keep, &self.shapes)?;
        if let Some(id) = created.id {
            self.set_guild(GuildId(id), (!created.is_unavailable).then(|| Box::new(created.guild)));
        }
        Ok(())
    }

    /// An outage keeps the guild known. Old payloads carry a whole guild; only these two keys count.
    fn on_guild_delete(&mut self, told: &Told<'_>) {
        let Some(id) = told.guild.filter(|id| self.guilds.contains_key(id)) else { return };
        self.set_guild(id, None);
        let [unavailable] = told.pick(["unavailable"]);
        if unavailable != Some(b"true") {
            self.guilds.remove(&id);
            self.order.retain(|known| *known != id);
            self.counts.unavailable_guilds -= 1;
        }
    }

    /// An event for a guild that is unknown or unavailable passes the cache by.
    fn on_guild_event(&mut self, told: &Told<'_>) -> Result<(), Invalid> {
        let Some(Some(guild)) = told.guild.and_then(|id| self.guilds.get_mut(&id)) else { return Ok(()) };
        self.counts.subtract(&guild.counts());
        let result = rules::apply(guild, told, &self.keep, &mut self.users);
        self.counts.add(&guild.counts());
        result
    }

    /// Puts a guild into its place, or a new one at the end; `None` is an unavailable guild.
    fn set_guild(&mut self, id: GuildId, guild: Option<Box<Guild>>) {
        if !self.guilds.contains_key(&id) {
            if self.guilds.len() >= GUILDS_MAX {
                return;
            }
            self.order.push(id);
        }
        self.counts.add(&counts_of(guild.as_deref()));
        if let Some(guild) = &guild {
            guild.add_to(&mut self.users);
        }
        if let Some(old) = self.guilds.insert(id, guild) {
            self.counts.subtract(&counts_of(old.as_deref()));
            if let Some(old) = old {
                old.remove_from(&mut self.users);
            }
        }
        debug_assert_eq!(self.order.len(), self.guilds.len());
    }
}

fn counts_of(guild: Option<&Guild>) -> CacheCounts {
    guild.map_or(CacheCounts { unavailable_guilds: 1, ..CacheCounts::default() }, Guild::counts)
}

impl CacheCounts {
    fn add(&mut self, other: &Self) {
        self.change(other, |a, b| a + b);
    }

    fn subtract(&mut self, other: &Self) {
        self.change(other, |a, b| a - b);
    }

    fn change(&mut self, other: &Self, change: impl Fn(u64, u64) -> u64) {
        let Self {
            emojis,
            guilds,
            members,
            presences,
            channels,
            roles,
            unavailable_guilds,
            users,
            voice_states,
            bytes,
        } = other;
        for (own, other) in [
            (&mut self.emojis, emojis),
            (&mut self.guilds, guilds),
            (&mut self.members, members),
            (&mut self.presences, presences),
            (&mut self.channels, channels),
            (&mut self.roles, roles),
            (&mut self.unavailable_guilds, unavailable_guilds),
            (&mut self.users, users),
            (&mut self.voice_states, voice_states),
            (&mut self.bytes, bytes),
        ] {
            *own = change(*own, *other);
        }
    }
}
