//! What each event changes in a guild that is available, but for channels (`channels`) and people (`people`).
//!
//! Each rule reads all that it needs from `d` before it changes anything, so an error leaves whole objects behind.
//! An event without the ids that it should have changes nothing.
//!
//! Source: Discord, Gateway events; the effects on a guild's GUILD_CREATE are our reading of them.

#![forbid(unsafe_code)]

use super::Keep;
use super::event::Event;
use super::guild::Guild;
use super::kind::Kind;
use super::told::Told;
use super::users::Users;
use super::{channels, people};
use crate::wire::json::{self, Invalid};

/// A scheduled event whose `status` is completed or cancelled is no longer in GUILD_CREATE (unconfirmed).
const SCHEDULED_EVENT_ENDED: [u64; 2] = [3, 4];

/// Applies an event about `guild`. READY, USER_UPDATE, GUILD_CREATE and GUILD_DELETE are the cache's own.
///
/// The frequent ones use the members that are found already; the others read `d` as they need it.
pub fn apply(guild: &mut Guild, told: &Told<'_>, keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
    let d = told.d;
    match told.event {
        Event::Ready | Event::UserUpdate | Event::GuildCreate | Event::GuildDelete => Ok(()),
        Event::GuildUpdate => guild.update(d, keep, users),
        Event::GuildEmojisUpdate => replace(guild, Kind::Emojis, d, keep, users),
        Event::GuildStickersUpdate => replace(guild, Kind::Stickers, d, keep, users),
        Event::RolePut => put_role(guild, d),
        Event::RoleDelete => people::on_role_delete(guild, d),
        Event::ChannelPut => channels::put(guild, told),
        Event::ChannelDelete => channels::on_delete(guild, d),
        Event::ChannelPinsUpdate => channels::on_pins_update(guild, d),
        Event::VoiceChannelStatusUpdate => channels::on_status_update(guild, d),
        Event::ThreadCreate => channels::on_thread_create(guild, d),
        Event::ThreadUpdate => channels::put_thread(guild, d),
        Event::ThreadDelete => remove(guild, Kind::Threads, d),
        Event::ThreadListSync => channels::on_thread_list_sync(guild, d),
        Event::ThreadMemberUpdate => channels::on_thread_member_update(guild, d),
        Event::ThreadMembersUpdate => channels::on_thread_members_update(guild, d, keep),
        Event::MemberAdd => people::on_member_add(guild, told, keep, users),
        Event::MemberUpdate => people::on_member_update(guild, told, keep, users),
        Event::MemberRemove => people::on_member_remove(guild, d, users),
        Event::MembersChunk => people::on_members_chunk(guild, told, keep, users),
        Event::PresenceUpdate => people::on_presence(guild, d, told.pick(["user", "status"]), keep),
        Event::VoiceStateUpdate => people::on_voice_state(guild, told, keep, users),
        Event::StageInstancePut => put(guild, Kind::StageInstances, d),
        Event::StageInstanceDelete => remove(guild, Kind::StageInstances, d),
        Event::ScheduledEventPut => put_scheduled_event(guild, d),
        Event::ScheduledEventDelete => remove(guild, Kind::ScheduledEvents, d),
        Event::SoundPut => put(guild, Kind::SoundboardSounds, d),
        Event::SoundDelete => remove(guild, Kind::SoundboardSounds, d),
        Event::SoundsUpdate => put_sounds(guild, d),
        Event::Sounds => replace(guild, Kind::SoundboardSounds, d, keep, users),
    }
}

/// The payload is the element, `guild_id` included.
fn put(guild: &mut Guild, kind: Kind, element: &[u8]) -> Result<(), Invalid> {
    if let Some(id) = kind.id_of(element)? {
        guild.put(kind, Some(id), element);
    }
    Ok(())
}

fn remove(guild: &mut Guild, kind: Kind, d: &[u8]) -> Result<(), Invalid> {
    if let Some(id) = kind.id_of(d)? {
        guild.remove(kind, id);
    }
    Ok(())
}

/// The payload holds the whole array, under the key that GUILD_CREATE has for it.
fn replace(guild: &mut Guild, kind: Kind, d: &[u8], keep: &Keep, users: &mut Users) -> Result<(), Invalid> {
    let [array] = json::pick(d, [kind.key()])?;
    guild.replace(kind, array, keep, users)
}

fn put_role(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [role] = json::pick(d, ["role"])?;
    role.map_or(Ok(()), |role| put(guild, Kind::Roles, role))
}

fn put_scheduled_event(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [status] = json::pick(d, ["status"])?;
    let ended = status.and_then(json::integer).is_some_and(|status| SCHEDULED_EVENT_ENDED.contains(&status));
    if ended { remove(guild, Kind::ScheduledEvents, d) } else { put(guild, Kind::ScheduledEvents, d) }
}

/// Whether the sounds are all of the guild's is unconfirmed. Putting each is right either way: a deleted sound has its own event.
fn put_sounds(guild: &mut Guild, d: &[u8]) -> Result<(), Invalid> {
    let [sounds] = json::pick(d, [Kind::SoundboardSounds.key()])?;
    let Some(sounds) = sounds.filter(|it| json::is_array(it)) else { return Ok(()) };
    json::elements(sounds)?.try_for_each(|sound| put(guild, Kind::SoundboardSounds, sound?))
}
