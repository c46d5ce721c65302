//! Bytes to meaning and back: RFC 6455 frames, the HTTP upgrade, the payload scanner, compression.
//!
//! Nothing here knows a socket, a clock, a session or a cache.

pub mod close;
pub mod compression;
pub mod http;
pub mod id;

pub use close::CloseCode;
pub use compression::Compression;
pub use id::{GuildId, ShardId};
