//! Channels and threads: what their events change in a guild.
//!
//! Channels lie in GUILD_CREATE without `guild_id`, threads with it; a thread's `member` is the bot's own, without the ids
//! that say whose and where. Only active threads are there. Losing access to a channel is not announced for its threads, so
//! stale threads remain, as they do with Discord.

#![forbid(unsafe_code)]

use super::Keep;
use super::edit::{self, Entry};
use super::guild::Guild;
use super::kind::{self, Kind};
use super::told::Told;
use crate::wire::json::{self, Invalid};

/// Keys that change without a CHANNEL_UPDATE. One that lacks them does not unset them.
const CARRIED: [&str; 3] = ["last_message_id", "last_pin_timestamp", "status"];

/// Keys of a thread member that say whose it is and where; in THREAD_MEMBERS_UPDATE it also carries a member and a presence.
const NOT_IN_THREAD_MEMBER: [&str; 5] = ["id", "user_id", "guild_id", "member", "presence"];

const GUILD_FORUM: u64 = 15;
const GUILD_MEDIA: u64 = 16;
const PRIVATE_THREAD: u64 = 12;

/// CHANNEL_CREATE and CHANNEL_UPDATE.
pub fn put(guild: &mut Guild, told: &Told<'_>) -> Result<(), Invalid> {
    let [id] = told.pick(["id"]);
    let Some(id) = id.and_then(json::snowflake) else { return Ok(()) };
    let new = told.pick(CARRIED);
    let is_complete = |(name, new): (&str, Option<&[u8]>)| new.is_some() || guild.lacks_key(Kind::Channels, id, name);
    if CARRIED.into_iter().zip(new).all(is_complete) {
        guild.put_without(Kind::Channels, Some(id), told.d, &["guild_id"]);
        return Ok(());
    }
    let mut carried: Vec<Entry<'_>> = Vec::new();
    let old = guild.get(Kind::Channels, id);
    if let Some(old) = &old {
        let old = json::pick(old, CARRIED)?;
        for (at, name) in CARRIED.into_iter().enumerate() {
            if let (Some(old), None) = (old[at], new[at]) {
                carried.push((name.as_bytes(), old));
            }
        }
    }
    let channel = edit::edit(told.d, &["guild_id"], &carried)?;
    guild.put(Kind::Channels, Some(id), &channel);
    Ok(())
}

/// CHANNEL_DELETE takes the channel's threads with it; its voice states have events of their own.
pub fn on_delete(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let Some(id) = Kind::Channels.id_of(d)? else { return Ok(()) };
    guild.remove(Kind::Channels, id);
    guild.remove_where(Kind::Threads, |thread| parent(thread) == Some(id));
    Ok(())
}

pub fn on_pins_update(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [channel, timestamp] = json::pick(d, ["channel_id", "last_pin_timestamp"])?;
    let (Some(id), Some(timestamp)) = (channel.and_then(json::snowflake), timestamp) else { return Ok(()) };
    set(guild, Kind::Channels, id, (b"last_pin_timestamp", timestamp))?;
    set(guild, Kind::Threads, id, (b"last_pin_timestamp", timestamp))
}

pub fn on_status_update(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [id, status] = json::pick(d, ["id", "status"])?;
    let (Some(id), Some(status)) = (id.and_then(json::snowflake), status) else { return Ok(()) };
    set(guild, Kind::Channels, id, (b"status", status))
}

pub fn on_thread_create(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [id, parent, new] = json::pick(d, ["id", "parent_id", "newly_created"])?;
    put_thread(guild, d)?;
    if let (Some(id), Some(parent), Some(b"true")) = (id, parent.and_then(json::snowflake), new) {
        note_post(guild, parent, id)?;
    }
    Ok(())
}

/// THREAD_UPDATE. The `member` stays if the payload has none.
pub fn put_thread(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let Some(id) = Kind::Threads.id_of(d)? else { return Ok(()) };
    let Some(mut thread) = active_thread(d)? else {
        guild.remove(Kind::Threads, id);
        return Ok(());
    };
    if let Some(old) = guild.get(Kind::Threads, id)
        && let ([Some(member)], [None]) = (json::pick(&old, ["member"])?, json::pick(d, ["member"])?)
    {
        thread = edit::edit(&thread, &[], &[(b"member", member)])?;
    }
    guild.put(Kind::Threads, Some(id), &thread);
    Ok(())
}

/// With `channel_ids` the sync is about the threads of those channels, without it about all.
pub fn on_thread_list_sync(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [channels, threads, members] = json::pick(d, ["channel_ids", "threads", "members"])?;
    let channels = match channels.filter(|it| json::is_array(it)) {
        Some(ids) => {
            Some(json::elements(ids)?.map(|id| Ok(json::snowflake(id?))).collect::<Result<Vec<_>, Invalid>>()?)
        }
        None => None,
    };
    let mut synced = Vec::new();
    for thread in array(threads)? {
        let thread = thread?;
        if let Some(id) = Kind::Threads.id_of(thread)? {
            synced.push((id, active_thread(thread)?));
        }
    }
    let mut joined = Vec::new();
    for member in array(members)? {
        let member = member?;
        if let Some(id) = kind::object_id(Some(member))? {
            joined.push((id, edit::edit(member, &NOT_IN_THREAD_MEMBER, &[])?));
        }
    }
    guild.remove_where(Kind::Threads, |thread| {
        channels.as_ref().is_none_or(|it| parent(thread).is_some_and(|id| it.contains(&Some(id))))
    });
    for (id, thread) in synced {
        match thread {
            Some(thread) => guild.put(Kind::Threads, Some(id), &thread),
            None => guild.remove(Kind::Threads, id),
        };
    }
    joined.iter().try_for_each(|(id, member)| set(guild, Kind::Threads, *id, (b"member", member)))
}

/// The bot's own thread member changed.
pub fn on_thread_member_update(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let Some(id) = Kind::Threads.id_of(d)? else { return Ok(()) };
    set(guild, Kind::Threads, id, (b"member", &edit::edit(d, &NOT_IN_THREAD_MEMBER, &[])?))
}

/// A private thread that the bot was removed from goes: that it cannot see it any more is likely but unconfirmed.
pub fn on_thread_members_update(guild: &mut Guild, d: &[u8], keep: &Keep) -> Result<(), Invalid> {
    let [id, count, added, removed] = json::pick(d, ["id", "member_count", "added_members", "removed_member_ids"])?;
    let Some(id) = id.and_then(json::snowflake) else { return Ok(()) };
    let Some(thread) = guild.get(Kind::Threads, id) else { return Ok(()) };
    let mut new: Vec<Entry<'_>> = count.iter().map(|&count| (&b"member_count"[..], count)).collect();
    let mut own = None;
    for member in array(added)? {
        let member = member?;
        if is_own(member, keep)? {
            own = Some(edit::edit(member, &NOT_IN_THREAD_MEMBER, &[])?);
        }
    }
    let mut has_left = false;
    for user in array(removed)? {
        has_left |= json::snowflake(user?).is_some_and(|user| keep.own_user == Some(user));
    }
    new.extend(own.iter().map(|member| (&b"member"[..], &**member)));
    let drop: &[&str] = if has_left { &["member"] } else { &[] };
    let [kind] = json::pick(&thread, ["type"])?;
    let is_private = kind.and_then(json::integer) == Some(PRIVATE_THREAD);
    let thread = edit::edit(&edit::edit(&thread, &[], &new)?, drop, &[])?;
    if has_left && is_private {
        guild.remove(Kind::Threads, id);
    } else {
        guild.put(Kind::Threads, Some(id), &thread);
    }
    Ok(())
}

/// A thread as GUILD_CREATE lists it; `None` if it is archived.
fn active_thread(thread: &[u8]) -> Result<Option<Box<[u8]>>, Invalid> {
    let [metadata, member] = json::pick(thread, ["thread_metadata", "member"])?;
    if let Some(metadata) = metadata.filter(|it| json::is_object(it))
        && let [Some(b"true")] = json::pick(metadata, ["archived"])?
    {
        return Ok(None);
    }
    let member = match member.filter(|it| json::is_object(it)) {
        Some(member) => Some(edit::edit(member, &NOT_IN_THREAD_MEMBER, &[])?),
        None => None,
    };
    let set: Vec<Entry<'_>> = member.iter().map(|member| (&b"member"[..], &**member)).collect();
    edit::edit(thread, &["newly_created"], &set).map(Some)
}

/// A new post is its forum's last message; no CHANNEL_UPDATE says so.
fn note_post(guild: &mut Guild, channel: u64, thread_id: &[u8]) -> Result<(), Invalid> {
    let Some(forum) = guild.get(Kind::Channels, channel) else { return Ok(()) };
    let [kind] = json::pick(&forum, ["type"])?;
    match kind.and_then(json::integer) {
        Some(GUILD_FORUM | GUILD_MEDIA) => set(guild, Kind::Channels, channel, (b"last_message_id", thread_id)),
        _ => Ok(()),
    }
}

fn is_own(thread_member: &[u8], keep: &Keep) -> Result<bool, Invalid> {
    if !json::is_object(thread_member) {
        return Ok(false);
    }
    let [user] = json::pick(thread_member, ["user_id"])?;
    Ok(user.and_then(json::snowflake).is_some_and(|user| keep.own_user == Some(user)))
}

/// Sets one key of a stored element; does nothing if there is none.
fn set(guild: &mut Guild, kind: Kind, id: u64, entry: Entry<'_>) -> Result<(), Invalid> {
    if let Some(old) = guild.get(kind, id) {
        let new = edit::edit(&old, &[], &[entry])?;
        guild.put(kind, Some(id), &new);
    }
    Ok(())
}

fn parent(thread: &[u8]) -> Option<u64> {
    let [parent] = json::pick(thread, ["parent_id"]).ok()?;
    parent.and_then(json::snowflake)
}

/// The elements of a value that should be an array.
pub fn array(value: Option<&[u8]>) -> Result<json::Elements<'_>, Invalid> {
    json::elements(value.filter(|it| json::is_array(it)).unwrap_or(b"[]"))
}
