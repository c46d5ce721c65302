//! Bytes to meaning and back: RFC 6455 frames, the HTTP upgrade, the payload scanner, compression.
//!
//! Nothing here knows a socket, a clock, a session or a cache.

pub mod close;
pub mod compression;
mod deflate;
pub mod deframe;
pub mod egress;
pub mod encode;
pub mod frame;
pub mod http;
pub mod id;
pub mod inflate;
pub mod json;
pub mod mask;
#[doc(hidden)]
pub mod properties;
pub mod scan;
pub mod url;

pub use close::CloseCode;
pub use compression::Compression;
pub use deframe::{Deframer, Message};
pub use encode::Encoder;
pub use frame::{FrameError, Opcode, Role};
pub use id::{GuildId, ShardId};
pub use inflate::{InflateError, Inflated, Inflater};
pub use scan::{Envelope, ScanError};
pub use url::GatewayUrl;
