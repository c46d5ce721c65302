//! What one dispatch says, walked once: the members of its `d`, and what its event may change.
//!
//! Both questions that a shard has (whose synthesised form may change, and then: change it) need the same members, and finding them is
//! a large part of the work. Nothing is decided here about what an event means.

#![forbid(unsafe_code)]

use super::Touch;
use super::edit::{self, Entry};
use super::event::Event;
use crate::wire::GuildId;
use crate::wire::json::{self, Invalid, Member};

/// Members that Discord's objects rarely exceed.
const MEMBERS_USUAL: usize = 24;

/// An event that matters to the cache, and its `d`.
#[derive(Debug)]
pub struct Told<'a> {
    pub(super) event: Event,
    pub(super) d: &'a [u8],
    /// Of READY and USER_UPDATE none: those are read where they are kept.
    members: Vec<Member<'a>>,
    /// `d` is not a whole object.
    pub(super) broken: Option<Invalid>,
    pub(super) guild: Option<GuildId>,
    /// What applying it may change.
    pub touch: Touch,
}

impl<'a> Told<'a> {
    pub(super) fn read(event: Event, d: &'a [u8]) -> Self {
        let mut told = Self { event, d, members: Vec::new(), broken: None, guild: None, touch: Touch::Nothing };
        if matches!(event, Event::Ready | Event::UserUpdate) {
            told.touch = Touch::Ready;
            return told;
        }
        told.members.reserve_exact(MEMBERS_USUAL);
        let mut read = || {
            for member in json::members(d)? {
                told.members.push(member?);
            }
            Ok(())
        };
        if let Err(invalid) = read() {
            told.members.clear();
            told.broken = Some(invalid);
        }
        let [id] = told.pick([event.guild_key()]);
        told.guild = id.and_then(json::snowflake).map(GuildId);
        told
    }

    /// As `json::pick`.
    pub(super) fn pick<const N: usize>(&self, names: [&str; N]) -> [Option<&'a [u8]>; N] {
        names.map(|name| self.members.iter().rfind(|it| json::key_is(it.key, name)).map(|it| it.value))
    }

    pub(super) fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// As `edit::entries`.
    pub(super) fn entries(&self, drop: &[&str]) -> Vec<Entry<'a>> {
        edit::distinct(self.members.iter().map(|it| (it.key, it.value)), drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_repeated_key_counts_and_a_broken_object_says_nothing() {
        let told = Told::read(Event::MemberUpdate, br#"{"guild_id":"1","a":1,"\u0061":2,"guild_id":"7"}"#);
        assert_eq!((told.guild, told.pick(["a"])), (Some(GuildId(7)), [Some(&b"2"[..])]));
        assert_eq!(told.entries(&["guild_id"]), [(&b"a"[..], &b"2"[..])]);
        let told = Told::read(Event::GuildCreate, br#"{"id":"7","guild_id":"1""#);
        assert!(told.broken.is_some() && told.guild.is_none() && told.members().is_empty());
    }
}
