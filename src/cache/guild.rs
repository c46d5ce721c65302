//! One available guild: a skeleton and a table per managed array, taken apart from a GUILD_CREATE and put together again.
//!
//! The skeleton is the guild's own JSON with its keys in their order, `unavailable` set to `false`, and a slot in the place of
//! each managed array and of `member_count`. Writing the guild is unpacking the skeleton with the tables filled in.
//! Which event changes what is not decided here (see `channels`, `people`, `rules`).
//!
//! Cost: taking a guild apart reads each byte four times (top level, elements, their ids, packing); putting it together is
//! unpacking. Memory is what the tables hold, a skeleton of some 200 bytes, and some 100 bytes more; a kind without elements
//! takes nothing.

#![forbid(unsafe_code)]

use super::edit::{self, Entry};
use super::kind::Kind;
use super::pack::{self, Ids, Shapes, Style, scalar};
use super::table::Table;
use super::told::Told;
use super::users::Users;
use super::{CacheBytes, CacheCounts, Keep};
use crate::wire::json::{self, Invalid};

/// The slot of `member_count`.
const MEMBER_COUNT: u8 = b'#';

#[derive(Debug)]
pub struct Guild {
    id: u64,
    /// Packed.
    skeleton: Box<[u8]>,
    /// What the slot for it holds: joins are too many to rewrite the skeleton.
    member_count: u64,
    /// Whether the skeleton has such a slot.
    counts_members: bool,
    /// Kinds whose array has a slot in the skeleton, a bit each.
    placed: u16,
    /// Of the kinds that have elements. Which these are changes rarely, and each guild pays for the field.
    tables: Box<[(Kind, Table)]>,
    ids: Ids,
    shapes: Shapes,
}

/// What a GUILD_CREATE says.
#[derive(Debug)]
pub struct Created {
    pub id: Option<u64>,
    /// The payload says nothing but that: what else it holds does not count.
    pub is_unavailable: bool,
    pub guild: Guild,
}

/// The elements of one array that are to be kept, with their ids.
type Elements<'a> = Vec<(Option<u64>, &'a [u8])>;

impl Guild {
    /// Takes the `d` of a GUILD_CREATE apart, or says where it is broken.
    pub fn read(told: &Told<'_>, keep: &Keep, shapes: &Shapes) -> Result<Created, Invalid> {
        let mut unavailable = None;
        let mut arrays = Vec::new();
        let mut skeleton = vec![b'{'];
        for member in told.members() {
            if json::key_is(member.key, "unavailable") {
                unavailable = Some(member.value);
                edit::write_entry((member.key, b"false"), &mut skeleton);
            } else if let Some(kind) = Kind::of_key(member.key) {
                arrays.retain(|(known, _)| *known != kind);
                arrays.push((kind, elements(kind, member.value, keep)?));
                edit::write_entry((member.key, place(kind, member.value, keep)), &mut skeleton);
            } else {
                edit::write_comma(&mut skeleton);
                skeleton.extend_from_slice(&told.d[member.span.clone()]);
            }
        }
        let id = told.guild.map(|id| id.0);
        if unavailable.is_none() {
            edit::write_entry((b"unavailable", b"false"), &mut skeleton);
        }
        skeleton.push(b'}');
        let mut guild = Self {
            id: id.unwrap_or_default(),
            skeleton: Box::default(),
            member_count: 0,
            counts_members: false,
            placed: 0,
            tables: Box::default(),
            ids: Ids::default(),
            shapes: shapes.clone(),
        };
        guild.learn_ids(&arrays);
        guild.set_skeleton(&skeleton)?;
        for (kind, elements) in arrays {
            guild.fill(kind, &elements);
        }
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
            if let Some(kind) = Kind::of_key(member.key) {
                arrays.push((kind, elements(kind, member.value, keep)?));
                value = place(kind, member.value, keep);
            }
            set.retain(|(key, _)| !json::same_key(key, member.key));
            set.push((member.key, value));
        }
        self.learn_ids(&arrays);
        self.set_skeleton(&edit::edit(&self.skeleton_text(), &[], &set)?)?;
        for (kind, elements) in arrays {
            self.install(kind, &elements, users);
        }
        Ok(())
    }

    /// Replaces one whole array. A value that is no array, or `None`, changes nothing.
    pub fn replace(&mut self, kind: Kind, array: Option<&[u8]>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
        if let Some(array) = array.filter(|it| json::is_array(it)) {
            self.install(kind, &elements(kind, array, keep)?, users);
        }
        Ok(())
    }

    /// Counts the members as users. From then on every change of a member is counted where it is made.
    pub fn add_to(&self, users: &mut Users) {
        self.ids_of(Kind::Members).for_each(|id| users.add(id));
    }

    /// Undoes `add_to` and what was counted since.
    pub fn remove_from(&self, users: &mut Users) {
        self.ids_of(Kind::Members).for_each(|id| users.remove(id));
    }

    // ---- elements

    pub fn contains(&self, kind: Kind, id: u64) -> bool {
        self.table(kind).is_some_and(|table| table.contains(id))
    }

    /// The JSON of an element.
    pub fn get(&self, kind: Kind, id: u64) -> Option<Vec<u8>> {
        let packed = self.table(kind)?.get(id)?;
        let mut text = Vec::with_capacity(4 * packed.len() + 256);
        self.shapes.unpack(packed, id, &self.ids, &mut text);
        Some(text)
    }

    /// Ids in ascending order.
    pub fn ids_of(&self, kind: Kind) -> impl Iterator<Item = u64> {
        self.table(kind).into_iter().flat_map(Table::iter_ids)
    }

    /// Replaces the element of that id, or appends one; `true` if an element with an id is new.
    ///
    /// For every kind but `Members`, whose changes `users` must hear of: see `put_member`.
    pub fn put(&mut self, kind: Kind, id: Option<u64>, text: &[u8]) -> bool {
        self.put_without(kind, id, text, &[])
    }

    /// The same for `text` without the members that `drop` names.
    pub fn put_without(&mut self, kind: Kind, id: Option<u64>, text: &[u8], drop: &[&str]) -> bool {
        if matches!(kind, Kind::Roles | Kind::Channels)
            && let Some(id) = id
        {
            self.ids.intern(id);
        }
        self.place(kind);
        let at = match self.tables.iter().position(|(known, _)| *known == kind) {
            Some(at) => at,
            None => {
                self.change_tables(|tables| {
                    tables.reserve_exact(1);
                    tables.push((kind, Table::default()));
                });
                self.tables.len() - 1
            }
        };
        let Self { tables, ids, shapes, .. } = self;
        let table = &mut tables[at].1;
        shapes.pack(text, drop, id.unwrap_or_default(), ids, style(kind), |packed| table.put(id, packed))
    }

    /// Whether there is an element that has just these keys, in this order. `false` where that takes more than a look.
    pub fn has_keys(&self, kind: Kind, id: u64, entries: &[Entry<'_>]) -> bool {
        let packed = self.table(kind).and_then(|table| table.get(id));
        packed.is_some_and(|packed| self.shapes.has_keys(packed, entries))
    }

    /// Whether there is no element, or one without the key. `false` where that takes more than a look.
    pub fn lacks_key(&self, kind: Kind, id: u64, name: &str) -> bool {
        let packed = self.table(kind).and_then(|table| table.get(id));
        packed.is_none_or(|packed| self.shapes.lacks_key(packed, name))
    }

    pub fn put_member(&mut self, id: u64, text: &[u8], drop: &[&str], users: &mut Users) {
        if self.put_without(Kind::Members, Some(id), text, drop) {
            users.add(id);
        }
    }

    /// Whether there was one.
    pub fn remove(&mut self, kind: Kind, id: u64) -> bool {
        let Some(at) = self.tables.iter().position(|(known, _)| *known == kind) else { return false };
        let table = &mut self.tables[at].1;
        let was_there = table.remove(id);
        if table.len() == 0 {
            self.change_tables(|tables| drop(tables.remove(at)));
        }
        was_there
    }

    pub fn remove_member(&mut self, id: u64, users: &mut Users) {
        if self.remove(Kind::Members, id) {
            users.remove(id);
        }
    }

    /// Removes the elements that have an id and for whose JSON `drop` says so.
    pub fn remove_where(&mut self, kind: Kind, mut drop: impl FnMut(&[u8]) -> bool) {
        let dropped: Vec<u64> =
            self.ids_of(kind).filter(|&id| self.get(kind, id).is_some_and(|text| drop(&text))).collect();
        for id in dropped {
            self.remove(kind, id);
        }
    }

    /// Ids of the elements that may hold the id `named`, told by their packed bytes: all that do, and some more.
    pub fn ids_that_may_name(&self, kind: Kind, named: u64) -> Vec<u64> {
        let needles = pack::Needles::of(named, &self.ids);
        let packed = self.table(kind).into_iter().flat_map(Table::iter);
        packed.filter(|(id, packed)| *id != 0 && needles.may_be_in(packed)).map(|(id, _)| id).collect()
    }

    // ---- the guild itself

    /// `change` maps the old `member_count` to the new; a guild that came without one stays without.
    pub fn change_member_count(&mut self, change: impl FnOnce(u64) -> u64) {
        if self.counts_members {
            self.member_count = change(self.member_count);
        }
    }

    /// Appends the `d` of a GUILD_CREATE.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut fill = |slot: u8, out: &mut Vec<u8>| match Kind::of_slot(slot) {
            Some(kind) => self.write_array(kind, out),
            None => scalar::write_number(self.member_count, out),
        };
        self.shapes.unpack_filled(&self.skeleton, self.id, &self.ids, &mut fill, out);
    }

    /// 0 when Discord did not say.
    pub fn member_count(&self) -> u64 {
        self.member_count
    }

    /// This guild's share of the shard's counts, `users` apart.
    pub fn counts(&self) -> CacheCounts {
        let mut counts = CacheCounts { guilds: 1, bytes: self.skeleton.len() as u64, ..CacheCounts::default() };
        for (kind, table) in &*self.tables {
            counts.bytes += table.bytes() as u64;
            let len = table.len() as u64;
            match kind {
                Kind::Emojis => counts.emojis = len,
                Kind::Members => counts.members = len,
                Kind::Presences => counts.presences = len,
                Kind::Channels | Kind::Threads => counts.channels += len,
                Kind::Roles => counts.roles = len,
                Kind::VoiceStates => counts.voice_states = len,
                Kind::Stickers | Kind::StageInstances | Kind::ScheduledEvents | Kind::SoundboardSounds => {}
            }
        }
        counts
    }

    /// Adds what this guild holds.
    pub fn add_bytes(&self, bytes: &mut CacheBytes) {
        let tables = size_of_val(&*self.tables);
        bytes.other += (size_of::<Self>() + self.skeleton.len() + tables + self.ids.heap_bytes()) as u64;
        for (kind, table) in &*self.tables {
            *kind.bytes_of(bytes) += table.heap_bytes() as u64;
        }
    }

    fn table(&self, kind: Kind) -> Option<&Table> {
        self.tables.iter().find(|(known, _)| *known == kind).map(|(_, table)| table)
    }

    fn change_tables(&mut self, change: impl FnOnce(&mut Vec<(Kind, Table)>)) {
        let mut tables = std::mem::take(&mut self.tables).into_vec();
        change(&mut tables);
        self.tables = tables.into_boxed_slice();
    }

    fn write_array(&self, kind: Kind, out: &mut Vec<u8>) {
        out.push(b'[');
        if let Some(table) = self.table(kind) {
            table.for_each(|id, packed| {
                edit::write_comma(out);
                self.shapes.unpack(packed, id, &self.ids, out);
            });
        }
        out.push(b']');
    }

    /// Roles, channels and the guild are what other objects name.
    fn learn_ids(&mut self, arrays: &[(Kind, Elements<'_>)]) {
        let named = arrays.iter().filter(|(kind, _)| matches!(kind, Kind::Roles | Kind::Channels));
        let mut ids: Vec<u64> = named.flat_map(|(_, elements)| elements.iter().filter_map(|(id, _)| *id)).collect();
        // Nobody names the guild where nothing is kept.
        if arrays.iter().any(|(_, elements)| !elements.is_empty()) {
            ids.push(self.id);
        }
        self.ids.intern_all(ids);
    }

    fn install(&mut self, kind: Kind, elements: &Elements<'_>, users: &mut Users) {
        if kind == Kind::Members {
            self.remove_from(users);
        }
        self.change_tables(|tables| tables.retain(|(known, _)| *known != kind));
        self.fill(kind, elements);
        if kind == Kind::Members {
            self.add_to(users);
        }
    }

    fn fill(&mut self, kind: Kind, elements: &Elements<'_>) {
        for &(id, text) in elements {
            self.put(kind, id, text);
        }
    }

    /// Gives the kind's array a slot, if the guild came without the array or with an odd value in its place.
    fn place(&mut self, kind: Kind) {
        if self.placed & 1 << kind as u16 == 0 {
            let text = edit::edit(&self.skeleton_text(), &[], &[(kind.key().as_bytes(), b"[]")]);
            let placed = text.and_then(|text| self.set_skeleton(&text));
            debug_assert!(placed.is_ok(), "the skeleton was whole when it was packed");
        }
    }

    /// The skeleton as JSON, managed arrays being empty.
    fn skeleton_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut fill = |slot: u8, out: &mut Vec<u8>| match slot {
            MEMBER_COUNT => scalar::write_number(self.member_count, out),
            _ => out.extend_from_slice(b"[]"),
        };
        self.shapes.unpack_filled(&self.skeleton, self.id, &self.ids, &mut fill, &mut text);
        text
    }

    /// Packs `text`, a guild whose managed arrays are empty or odd values.
    ///
    /// Errs, and changes nothing, if it holds control characters, among which the slots are.
    fn set_skeleton(&mut self, text: &[u8]) -> Result<(), Invalid> {
        if let Some(offset) = text.iter().position(|&byte| pack::is_reserved(byte)) {
            return Err(Invalid { offset });
        }
        let (mut placed, mut member_count) = (0, None);
        let mut slotted = vec![b'{'];
        for member in json::members(text)? {
            let member = member?;
            let mut slot = None;
            if let Some(kind) = Kind::of_key(member.key)
                && json::is_array(member.value)
            {
                placed |= 1 << kind as u16;
                slot = Some(kind.slot());
            } else if json::key_is(member.key, "member_count")
                && let Some(count) = scalar::number(member.value)
            {
                member_count = Some(count);
                slot = Some(MEMBER_COUNT);
            }
            edit::write_comma(&mut slotted);
            match slot {
                Some(slot) => {
                    slotted.extend_from_slice(&text[member.span.start..member.span.end - member.value.len()]);
                    pack::write_slot(slot, &mut slotted);
                }
                None => slotted.extend_from_slice(&text[member.span]),
            }
        }
        slotted.push(b'}');
        self.skeleton = self.shapes.pack(&slotted, &[], self.id, &mut self.ids, Style::Long, |packed| packed.into());
        self.placed = placed;
        self.counts_members = member_count.is_some();
        self.member_count = member_count.unwrap_or_default();
        Ok(())
    }
}

/// What stands in the skeleton for a managed array: `[]`, or a value that is no array as it came.
fn place<'a>(kind: Kind, value: &'a [u8], keep: &Keep) -> &'a [u8] {
    if !json::is_array(value) && kind.is_kept(&keep.flags) { value } else { b"[]" }
}

/// The elements of `array` that are kept. Empty for a value that is no array.
fn elements<'a>(kind: Kind, array: &'a [u8], keep: &Keep) -> Result<Elements<'a>, Invalid> {
    let mut kept = Vec::new();
    if json::is_array(array) && kind.is_kept(&keep.flags) {
        for element in json::elements(array)? {
            let element = element?;
            let id = kind.id_of(element)?;
            if kind != Kind::Members || keep.member(id) {
                kept.push((id, element));
            }
        }
    }
    Ok(kept)
}

fn style(kind: Kind) -> Style {
    if kind == Kind::Members { Style::WithIds } else { Style::Element }
}
