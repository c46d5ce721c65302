//! (interface, being written)

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

impl Default for CacheFlags {
    /// gateway-proxy's defaults: channels, current_member and roles.
    fn default() -> Self {
        Self {
            channels: true,
            presences: false,
            emojis: false,
            current_member: true,
            members: false,
            roles: true,
            scheduled_events: false,
            stage_instances: false,
            stickers: false,
            users: false,
            voice_states: false,
        }
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
    /// Bytes of stored JSON.
    pub bytes: u64,
}
