//! The arrays of a GUILD_CREATE that are kept element by element, and what names an element of each.
//!
//! Says nothing about how elements are stored or changed. Arrays that are not listed here stay in the guild as they came.

#![forbid(unsafe_code)]

use super::{CacheBytes, CacheFlags};
use crate::wire::json::{self, Invalid};

/// A managed array of GUILD_CREATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Channels,
    Threads,
    Roles,
    Emojis,
    Stickers,
    Members,
    Presences,
    VoiceStates,
    StageInstances,
    ScheduledEvents,
    SoundboardSounds,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Channels,
        Self::Threads,
        Self::Roles,
        Self::Emojis,
        Self::Stickers,
        Self::Members,
        Self::Presences,
        Self::VoiceStates,
        Self::StageInstances,
        Self::ScheduledEvents,
        Self::SoundboardSounds,
    ];

    /// The array's key in GUILD_CREATE.
    pub fn key(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Threads => "threads",
            Self::Roles => "roles",
            Self::Emojis => "emojis",
            Self::Stickers => "stickers",
            Self::Members => "members",
            Self::Presences => "presences",
            Self::VoiceStates => "voice_states",
            Self::StageInstances => "stage_instances",
            Self::ScheduledEvents => "guild_scheduled_events",
            Self::SoundboardSounds => "soundboard_sounds",
        }
    }

    /// The kind that a guild's packed keys have this slot for: see `guild`.
    pub fn of_slot(slot: u8) -> Option<Self> {
        Self::ALL.get(usize::from(slot.checked_sub(b'A')?)).copied()
    }

    pub fn slot(self) -> u8 {
        b'A' + self as u8
    }

    /// The kind whose array a raw key of a guild names.
    pub fn of_key(key: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| json::key_is(key, kind.key()))
    }

    /// Whether any element of this kind is kept. Soundboard sounds have no switch.
    pub fn is_kept(self, flags: &CacheFlags) -> bool {
        match self {
            Self::Channels | Self::Threads => flags.channels,
            Self::Roles => flags.roles,
            Self::Emojis => flags.emojis,
            Self::Stickers => flags.stickers,
            Self::Members => flags.members || flags.current_member,
            Self::Presences => flags.presences,
            Self::VoiceStates => flags.voice_states,
            Self::StageInstances => flags.stage_instances,
            Self::ScheduledEvents => flags.scheduled_events,
            Self::SoundboardSounds => true,
        }
    }

    /// Where the bytes of this kind are counted.
    pub fn bytes_of(self, bytes: &mut CacheBytes) -> &mut u64 {
        match self {
            Self::Members => &mut bytes.members,
            Self::Presences => &mut bytes.presences,
            Self::VoiceStates => &mut bytes.voice_states,
            Self::Roles => &mut bytes.roles,
            Self::Channels | Self::Threads => &mut bytes.channels,
            Self::Emojis => &mut bytes.emojis,
            Self::Stickers | Self::StageInstances | Self::ScheduledEvents | Self::SoundboardSounds => &mut bytes.other,
        }
    }

    /// The snowflake that names `element`; `None` if it has none, is odd in type, or is no object at all.
    ///
    /// Errs if an object is not whole.
    pub fn id_of(self, element: &[u8]) -> Result<Option<u64>, Invalid> {
        if !json::is_object(element) {
            return Ok(None);
        }
        let name = match self {
            Self::Members | Self::Presences => return user_id(element),
            Self::VoiceStates => "user_id",
            Self::SoundboardSounds => "sound_id",
            _ => "id",
        };
        let [id] = json::pick(element, [name])?;
        Ok(id.and_then(json::snowflake))
    }
}

/// `user.id` of a member, a presence or an event about either.
pub fn user_id(object: &[u8]) -> Result<Option<u64>, Invalid> {
    let [user] = json::pick(object, ["user"])?;
    object_id(user)
}

/// `id` of a value that should be an object.
pub fn object_id(object: Option<&[u8]>) -> Result<Option<u64>, Invalid> {
    let Some(object) = object.filter(|it| json::is_object(it)) else { return Ok(None) };
    let [id] = json::pick(object, ["id"])?;
    Ok(id.and_then(json::snowflake))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found_by_its_key() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_key(kind.key().as_bytes()), Some(kind));
        }
        assert_eq!(Kind::of_key(b"embedded_activities"), None);
    }

    #[test]
    fn elements_are_named_by_the_id_of_their_kind() {
        let element = br#"{"id":"1","user_id":"2","sound_id":"3","user":{"id":"4"}}"#;
        let id = |kind: Kind| kind.id_of(element).unwrap();
        assert_eq!(id(Kind::Channels), Some(1));
        assert_eq!(id(Kind::VoiceStates), Some(2));
        assert_eq!(id(Kind::SoundboardSounds), Some(3));
        assert_eq!(id(Kind::Members), Some(4));
        assert_eq!(id(Kind::Presences), Some(4));
    }

    #[test]
    fn odd_elements_have_no_id() {
        for element in ["null", "1", "[]", "{}", r#"{"user":null}"#, r#"{"user":{"id":null}}"#] {
            assert_eq!(Kind::Members.id_of(element.as_bytes()), Ok(None), "{element}");
        }
        assert!(Kind::Members.id_of(br#"{"user":{"id":"1" "x":1}}"#).is_err());
    }
}
