//! One available guild: a skeleton and a table per managed array, taken apart from a GUILD_CREATE and put together again.
//!
//! The skeleton is the guild's own JSON with its keys in their order, each managed array emptied to `[]` and `unavailable`
//! set to `false`. Writing the guild is one walk over the skeleton that puts the tables back into their places.
//! Which event changes what is not decided here (see `channels`, `people`, `rules`).
//!
//! Cost: taking a guild apart reads each byte three or four times (top level, elements, their ids) and copies it once; putting
//! it together is one copy per element and a walk over the skeleton, some 2 KiB.

#![forbid(unsafe_code)]

use super::edit::{self, Entry};
use super::kind::Kind;
use super::table::Table;
use super::users::Users;
use super::{CacheBytes, CacheCounts, Keep};
use crate::wire::json::{self, Invalid, Member};

#[derive(Debug)]
pub struct Guild {
    skeleton: Box<[u8]>,
    /// Overrides the skeleton's `member_count`, if that is a whole number: joins are too many to rewrite the skeleton.
    member_count: Option<u64>,
    /// By `Kind as usize`.
    tables: [Table; Kind::ALL.len()],
}

/// What a GUILD_CREATE says.
#[derive(Debug)]
pub struct Created {
    pub id: Option<u64>,
    /// The payload says nothing but that: what else it holds does not count.
    pub is_unavailable: bool,
    pub guild: Guild,
}

impl Guild {
    /// Takes the `d` of a GUILD_CREATE apart, or says where it is broken.
    pub fn read(d: &[u8], keep: &Keep) -> Result<Created, Invalid> {
        let (mut id, mut unavailable) = (None, None);
        let mut guild = Self { skeleton: Box::default(), member_count: None, tables: Default::default() };
        let mut skeleton = vec![b'{'];
        for member in json::members(d)? {
            let member = member?;
            if json::key_is(member.key, "unavailable") {
                unavailable = Some(member.value);
                edit::write_entry((member.key, b"false"), &mut skeleton);
            } else if let Some((kind, place)) = managed(&member, keep) {
                guild.tables[kind as usize] = table(kind, member.value, keep)?;
                edit::write_entry((member.key, place), &mut skeleton);
            } else {
                guild.note_member_count(&member);
                if json::key_is(member.key, "id") {
                    id = json::snowflake(member.value);
                }
                edit::write_comma(&mut skeleton);
                skeleton.extend_from_slice(&d[member.span]);
            }
        }
        if unavailable.is_none() {
            edit::write_entry((b"unavailable", b"false"), &mut skeleton);
        }
        skeleton.push(b'}');
        guild.skeleton = skeleton.into_boxed_slice();
        Ok(Created { id, is_unavailable: unavailable == Some(b"true"), guild })
    }

    /// Takes every key of a guild object that lacks GUILD_CREATE's extras, and keeps the rest.
    pub fn update(&mut self, d: &[u8], keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
        let mut set: Vec<Entry<'_>> = Vec::new();
        let mut arrays = Vec::new();
        for member in json::members(d)? {
            let member = member?;
            if json::key_is(member.key, "unavailable") || json::key_is(member.key, "guild_id") {
                continue;
            }
            let mut value = member.value;
            if let Some((kind, place)) = managed(&member, keep) {
                arrays.push((kind, table(kind, member.value, keep)?));
                value = place;
            }
            set.retain(|(key, _)| !json::same_key(key, member.key));
            set.push((member.key, value));
        }
        self.skeleton = edit::edit(&self.skeleton, &[], &set)?;
        for (kind, table) in arrays {
            self.install(kind, table, users);
        }
        for (key, value) in set {
            self.note_member_count(&Member { key, value, span: 0..0 });
        }
        Ok(())
    }

    /// Replaces one whole array. A value that is no array, or `None`, changes nothing.
    pub fn replace(&mut self, kind: Kind, array: Option<&[u8]>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
        if let Some(array) = array.filter(|it| json::is_array(it)) {
            let table = table(kind, array, keep)?;
            self.install(kind, table, users);
        }
        Ok(())
    }

    /// Counts the members as users. From then on every change of a member is counted where it is made.
    pub fn add_to(&self, users: &mut Users) {
        self.table(Kind::Members).iter_ids().for_each(|id| users.add(id));
    }

    /// Undoes `add_to` and what was counted since.
    pub fn remove_from(&self, users: &mut Users) {
        self.table(Kind::Members).iter_ids().for_each(|id| users.remove(id));
    }

    pub fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    /// For every kind but `Members`, whose changes `users` must hear of: see `put_member`.
    pub fn table_mut(&mut self, kind: Kind) -> &mut Table {
        &mut self.tables[kind as usize]
    }

    pub fn put_member(&mut self, id: u64, text: Box<[u8]>, users: &mut Users) {
        if self.table_mut(Kind::Members).put(Some(id), text) {
            users.add(id);
        }
    }

    pub fn remove_member(&mut self, id: u64, users: &mut Users) {
        if self.table_mut(Kind::Members).remove(id) {
            users.remove(id);
        }
    }

    /// `change` maps the old `member_count` to the new; a guild that came without one stays without.
    pub fn change_member_count(&mut self, change: impl FnOnce(u64) -> u64) {
        self.member_count = self.member_count.map(change);
    }

    /// Appends the `d` of a GUILD_CREATE.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut placed = [false; Kind::ALL.len()];
        out.push(b'{');
        // The skeleton was written by this type: there is no error to see.
        for member in json::members(&self.skeleton).into_iter().flatten().map_while(Result::ok) {
            edit::write_comma(out);
            if json::key_is(member.key, "member_count")
                && let Some(count) = self.member_count
            {
                out.extend_from_slice(&self.skeleton[member.span.start..member.span.end - member.value.len()]);
                out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
                continue;
            }
            match Kind::of_key(member.key) {
                Some(kind) if json::is_array(member.value) || self.table(kind).len() > 0 => {
                    placed[kind as usize] = true;
                    out.extend_from_slice(&self.skeleton[member.span.start..member.span.end - member.value.len()]);
                    self.table(kind).write(out);
                }
                _ => out.extend_from_slice(&self.skeleton[member.span]),
            }
        }
        for kind in Kind::ALL {
            if !placed[kind as usize] && self.table(kind).len() > 0 {
                edit::write_entry((kind.key().as_bytes(), b""), out);
                self.table(kind).write(out);
            }
        }
        out.push(b'}');
    }

    /// This guild's share of the shard's counts, `users` apart.
    pub fn counts(&self) -> CacheCounts {
        let len = |kind| self.table(kind).len() as u64;
        CacheCounts {
            emojis: len(Kind::Emojis),
            guilds: 1,
            members: len(Kind::Members),
            presences: len(Kind::Presences),
            channels: len(Kind::Channels) + len(Kind::Threads),
            roles: len(Kind::Roles),
            unavailable_guilds: 0,
            users: 0,
            voice_states: len(Kind::VoiceStates),
            bytes: (self.skeleton.len() + self.tables.iter().map(Table::bytes).sum::<usize>()) as u64,
        }
    }

    /// Adds what this guild holds.
    pub fn add_bytes(&self, bytes: &mut CacheBytes) {
        bytes.other += (size_of::<Self>() + self.skeleton.len()) as u64;
        for kind in Kind::ALL {
            *kind.bytes_of(bytes) += self.table(kind).heap_bytes() as u64;
        }
    }

    fn install(&mut self, kind: Kind, table: Table, users: &mut Users) {
        if kind == Kind::Members {
            self.remove_from(users);
            self.tables[kind as usize] = table;
            self.add_to(users);
        } else {
            self.tables[kind as usize] = table;
        }
    }

    fn note_member_count(&mut self, member: &Member<'_>) {
        if json::key_is(member.key, "member_count") {
            self.member_count = json::integer(member.value);
        }
    }
}

/// The kind whose table `member` feeds, and what stands in the skeleton for it: `[]`, or a value that is no array as it came.
fn managed<'a>(member: &Member<'a>, keep: &Keep) -> Option<(Kind, &'a [u8])> {
    let kind = Kind::of_key(member.key)?;
    let odd = !json::is_array(member.value) && kind.is_kept(&keep.flags);
    Some((kind, if odd { member.value } else { b"[]" }))
}

/// The elements of `array` that are kept. Empty for a value that is no array.
fn table(kind: Kind, array: &[u8], keep: &Keep) -> Result<Table, Invalid> {
    let mut table = Table::default();
    if !json::is_array(array) || !kind.is_kept(&keep.flags) {
        return Ok(table);
    }
    for element in json::elements(array)? {
        let element = element?;
        let id = kind.id_of(element)?;
        if kind != Kind::Members || keep.member(id) {
            table.put(id, element.into());
        }
    }
    table.shrink();
    Ok(table)
}
