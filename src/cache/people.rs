//! Members, presences and voice states: what their events change in a guild.
//!
//! All three lie in GUILD_CREATE without `guild_id`, a presence's `user` with nothing but `id`, a voice state without
//! `member`. What other members a guild has is Discord's to tell: nobody is listed who was not sent.

#![forbid(unsafe_code)]

use super::Keep;
use super::channels::array;
use super::edit::{self, Entry};
use super::guild::Guild;
use super::kind::{self, Kind};
use super::told::Told;
use super::users::Users;
use crate::wire::json::{self, Invalid};

/// In an event of a member, but not in GUILD_CREATE's.
const NOT_IN_MEMBER: [&str; 1] = ["guild_id"];

/// Who is stored already has been counted: Discord may send the same join twice.
pub fn on_member_add(guild: &mut Guild, told: &Told<'_>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
    let [user] = told.pick(["user"]);
    let Some(id) = kind::object_id(user)? else { return Ok(()) };
    if !guild.contains(Kind::Members, id) {
        guild.change_member_count(|count| count.saturating_add(1));
    }
    if keep.member(Some(id)) {
        guild.put_member(id, told.d, &NOT_IN_MEMBER, users);
    }
    Ok(())
}

pub fn on_member_update(guild: &mut Guild, told: &Told<'_>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
    let news = told.entries(&NOT_IN_MEMBER);
    match kind::object_id(value(&news, "user"))? {
        Some(id) => merge_member(guild, id, (told.d, &news), true, keep, users),
        None => Ok(()),
    }
}

pub fn on_member_remove(guild: &mut Guild, d: &[u8], users: &mut Users) -> Result<(), Invalid> {
    let Some(id) = kind::user_id(d)? else { return Ok(()) };
    guild.remove_member(id, users);
    guild.remove(Kind::Presences, id);
    guild.remove(Kind::VoiceStates, id);
    guild.change_member_count(|count| count.saturating_sub(1));
    Ok(())
}

/// The answer to one client's request is news to the cache whoever asked. A broken element ends it; those before it stay.
pub fn on_members_chunk(guild: &mut Guild, told: &Told<'_>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
    let [members, presences] = told.pick(["members", "presences"]);
    for member in array(members)? {
        let member = member?;
        if !json::is_object(member) {
            continue;
        }
        if let Some(id) = kind::user_id(member)?
            && keep.member(Some(id))
            && (keep.follows(id) || guild.get(Kind::Members, id).is_some())
        {
            guild.put_member(id, member, &NOT_IN_MEMBER, users);
        }
    }
    for presence in array(presences)? {
        let presence = presence?;
        if json::is_object(presence) {
            on_presence(guild, presence, json::pick(presence, ["user", "status"])?, keep)?;
        }
    }
    Ok(())
}

/// `presence`, with these values in it, is stored, or removed if it is offline. A `user` with more than its id is news of the member too.
pub fn on_presence(
    guild: &mut Guild,
    presence: &[u8],
    [user, status]: [Option<&[u8]>; 2],
    keep: &Keep,
) -> Result<(), Invalid> {
    let Some((id, user)) = kind::object_id(user)?.zip(user) else { return Ok(()) };
    let news = edit::entries(user, &["id"])?;
    if !news.is_empty()
        && let Some(member) = guild.get(Kind::Members, id)
    {
        let [Some(old)] = json::pick(&member, ["user"])? else { return Ok(()) };
        let merged = edit::edit(&member, &[], &[(b"user", &edit::edit(old, &[], &news)?)])?;
        guild.put(Kind::Members, Some(id), &merged);
    }
    if !keep.flags.presences {
        return Ok(());
    }
    if status.is_some_and(|status| json::string_is(status, "offline")) {
        guild.remove(Kind::Presences, id);
        return Ok(());
    }
    if news.is_empty() {
        guild.put_without(Kind::Presences, Some(id), presence, &["guild_id"]);
        return Ok(());
    }
    let extra: Vec<&str> = news.iter().filter_map(|(key, _)| std::str::from_utf8(key).ok()).collect();
    let user = edit::edit(user, &extra, &[])?;
    let presence = edit::edit(presence, &["guild_id"], &[(b"user", &user)])?;
    guild.put(Kind::Presences, Some(id), &presence);
    Ok(())
}

/// Without a channel the user has left. The `member` inside is as good as a GUILD_MEMBER_UPDATE: Discord lists who is in voice.
pub fn on_voice_state(guild: &mut Guild, told: &Told<'_>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
    let [user, channel, member] = told.pick(["user_id", "channel_id", "member"]);
    let Some(id) = user.and_then(json::snowflake) else { return Ok(()) };
    let is_connected = channel.is_some_and(|channel| channel != b"null");
    if let Some(member) = member.filter(|it| json::is_object(it)) {
        let news = edit::entries(member, &NOT_IN_MEMBER)?;
        merge_member(guild, id, (member, &news), is_connected, keep, users)?;
    }
    if !is_connected {
        guild.remove(Kind::VoiceStates, id);
        if !keep.follows(id) {
            guild.remove_member(id, users);
        }
    } else if keep.flags.voice_states {
        guild.put_without(Kind::VoiceStates, Some(id), told.d, &["guild_id", "member"]);
    }
    Ok(())
}

/// Takes the role, and takes it from the members that have it: Discord announces that for some of them only (unconfirmed).
///
/// Searches every member's packed bytes, and unpacks those that may have the role. Roles go rarely.
pub fn on_role_delete(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [role] = json::pick(d, ["role_id"])?;
    let Some(role) = role.and_then(json::snowflake) else { return Ok(()) };
    guild.remove(Kind::Roles, role);
    for id in guild.ids_that_may_name(Kind::Members, role) {
        if let Some(member) = guild.get(Kind::Members, id)
            && let Ok(Some(member)) = without_role(&member, role)
        {
            guild.put(Kind::Members, Some(id), &member);
        }
    }
    Ok(())
}

/// `None` if the member has no such role.
fn without_role(member: &[u8], role: u64) -> Result<Option<Box<[u8]>>, Invalid> {
    if !json::is_object(member) {
        return Ok(None);
    }
    let [roles] = json::pick(member, ["roles"])?;
    let mut had_it = false;
    let mut left = vec![b'['];
    for id in array(roles)? {
        let id = id?;
        if json::snowflake(id) == Some(role) {
            had_it = true;
        } else {
            edit::write_comma(&mut left);
            left.extend_from_slice(id);
        }
    }
    left.push(b']');
    if had_it { edit::edit(member, &[], &[(b"roles", &left)]).map(Some) } else { Ok(None) }
}

/// Merges a member object, given with its entries, into the stored member. One that is not stored is put if `may_insert` and it
/// has what every member in a GUILD_CREATE has.
fn merge_member(
    guild: &mut Guild,
    id: u64,
    (member, news): (&[u8], &[Entry<'_>]),
    may_insert: bool,
    keep: &Keep,
    users: &mut Users,
) -> Result<(), Invalid> {
    if guild.has_keys(Kind::Members, id, news) {
        // It has a new value for every key that there was: nothing is left to merge with.
        guild.put_member(id, member, &NOT_IN_MEMBER, users);
    } else if let Some(old) = guild.get(Kind::Members, id) {
        let merged = edit::edit(&old, &[], news)?;
        guild.put_member(id, &merged, &[], users);
    } else if may_insert
        && keep.member(Some(id))
        && ["joined_at", "roles", "deaf", "mute"].iter().all(|key| value(news, key).is_some())
        && kind::object_id(value(news, "user"))? == Some(id)
    {
        guild.put_member(id, member, &NOT_IN_MEMBER, users);
    }
    Ok(())
}

fn value<'a>(entries: &[Entry<'a>], key: &str) -> Option<&'a [u8]> {
    entries.iter().find(|entry| json::key_is(entry.0, key)).map(|entry| entry.1)
}
