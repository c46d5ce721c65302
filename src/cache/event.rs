//! The event types that change cached state, and which kinds each of them can change.
//!
//! Everything else (messages, reactions, typing, interactions, moderation, invites, what Discord invents tomorrow) is told
//! from its name alone and never looked into. What an event changes is in `rules`.

#![forbid(unsafe_code)]

use super::CacheFlags;
use super::kind::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Ready,
    UserUpdate,
    GuildCreate,
    GuildUpdate,
    GuildDelete,
    GuildEmojisUpdate,
    GuildStickersUpdate,
    RolePut,
    RoleDelete,
    ChannelPut,
    ChannelDelete,
    ChannelPinsUpdate,
    VoiceChannelStatusUpdate,
    ThreadCreate,
    ThreadUpdate,
    ThreadDelete,
    ThreadListSync,
    ThreadMemberUpdate,
    ThreadMembersUpdate,
    MemberAdd,
    MemberUpdate,
    MemberRemove,
    MembersChunk,
    PresenceUpdate,
    VoiceStateUpdate,
    StageInstancePut,
    StageInstanceDelete,
    ScheduledEventPut,
    ScheduledEventDelete,
    SoundPut,
    SoundDelete,
    SoundsUpdate,
    Sounds,
}

impl Event {
    /// `None` for an event type without cached state, the unknown ones among them.
    pub fn of_type(event_type: &[u8]) -> Option<Self> {
        Some(match event_type {
            b"PRESENCE_UPDATE" => Self::PresenceUpdate,
            b"VOICE_STATE_UPDATE" => Self::VoiceStateUpdate,
            b"GUILD_MEMBER_ADD" => Self::MemberAdd,
            b"GUILD_MEMBER_UPDATE" => Self::MemberUpdate,
            b"GUILD_MEMBER_REMOVE" => Self::MemberRemove,
            b"GUILD_MEMBERS_CHUNK" => Self::MembersChunk,
            b"READY" => Self::Ready,
            b"USER_UPDATE" => Self::UserUpdate,
            b"GUILD_CREATE" => Self::GuildCreate,
            b"GUILD_UPDATE" => Self::GuildUpdate,
            b"GUILD_DELETE" => Self::GuildDelete,
            b"GUILD_EMOJIS_UPDATE" => Self::GuildEmojisUpdate,
            b"GUILD_STICKERS_UPDATE" => Self::GuildStickersUpdate,
            b"GUILD_ROLE_CREATE" | b"GUILD_ROLE_UPDATE" => Self::RolePut,
            b"GUILD_ROLE_DELETE" => Self::RoleDelete,
            b"CHANNEL_CREATE" | b"CHANNEL_UPDATE" => Self::ChannelPut,
            b"CHANNEL_DELETE" => Self::ChannelDelete,
            b"CHANNEL_PINS_UPDATE" => Self::ChannelPinsUpdate,
            b"VOICE_CHANNEL_STATUS_UPDATE" => Self::VoiceChannelStatusUpdate,
            b"THREAD_CREATE" => Self::ThreadCreate,
            b"THREAD_UPDATE" => Self::ThreadUpdate,
            b"THREAD_DELETE" => Self::ThreadDelete,
            b"THREAD_LIST_SYNC" => Self::ThreadListSync,
            b"THREAD_MEMBER_UPDATE" => Self::ThreadMemberUpdate,
            b"THREAD_MEMBERS_UPDATE" => Self::ThreadMembersUpdate,
            b"STAGE_INSTANCE_CREATE" | b"STAGE_INSTANCE_UPDATE" => Self::StageInstancePut,
            b"STAGE_INSTANCE_DELETE" => Self::StageInstanceDelete,
            b"GUILD_SCHEDULED_EVENT_CREATE" | b"GUILD_SCHEDULED_EVENT_UPDATE" => Self::ScheduledEventPut,
            b"GUILD_SCHEDULED_EVENT_DELETE" => Self::ScheduledEventDelete,
            b"GUILD_SOUNDBOARD_SOUND_CREATE" | b"GUILD_SOUNDBOARD_SOUND_UPDATE" => Self::SoundPut,
            b"GUILD_SOUNDBOARD_SOUND_DELETE" => Self::SoundDelete,
            b"GUILD_SOUNDBOARD_SOUNDS_UPDATE" => Self::SoundsUpdate,
            b"SOUNDBOARD_SOUNDS" => Self::Sounds,
            _ => return None,
        })
    }

    /// Whether the event can change anything under `flags`.
    pub fn matters(self, flags: &CacheFlags) -> bool {
        self.kinds().is_none_or(|kinds| kinds.iter().any(|kind| kind.is_kept(flags)))
    }

    /// The key whose value names the guild that the event is about.
    pub fn guild_key(self) -> &'static str {
        match self {
            Self::GuildCreate | Self::GuildUpdate | Self::GuildDelete => "id",
            _ => "guild_id",
        }
    }

    /// The kinds that the event can change, `None` if it changes more than those.
    fn kinds(self) -> Option<&'static [Kind]> {
        Some(match self {
            Self::Ready | Self::UserUpdate | Self::GuildCreate | Self::GuildUpdate | Self::GuildDelete => return None,
            Self::MemberAdd | Self::MemberRemove => return None, // `member_count`
            Self::GuildEmojisUpdate => &[Kind::Emojis],
            Self::GuildStickersUpdate => &[Kind::Stickers],
            Self::RolePut => &[Kind::Roles],
            Self::RoleDelete => &[Kind::Roles, Kind::Members],
            Self::ChannelPut | Self::VoiceChannelStatusUpdate => &[Kind::Channels],
            Self::ChannelDelete | Self::ChannelPinsUpdate => &[Kind::Channels, Kind::Threads],
            Self::ThreadCreate | Self::ThreadUpdate | Self::ThreadDelete | Self::ThreadListSync => &[Kind::Threads],
            Self::ThreadMemberUpdate | Self::ThreadMembersUpdate => &[Kind::Threads],
            Self::MemberUpdate => &[Kind::Members],
            Self::MembersChunk | Self::PresenceUpdate => &[Kind::Members, Kind::Presences],
            Self::VoiceStateUpdate => &[Kind::Members, Kind::VoiceStates],
            Self::StageInstancePut | Self::StageInstanceDelete => &[Kind::StageInstances],
            Self::ScheduledEventPut | Self::ScheduledEventDelete => &[Kind::ScheduledEvents],
            Self::SoundPut | Self::SoundDelete | Self::SoundsUpdate | Self::Sounds => &[Kind::SoundboardSounds],
        })
    }
}
