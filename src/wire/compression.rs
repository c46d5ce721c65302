//! The transport compressions of the gateway, as the `compress` key of the URL names them.

/// What runs through one connection from HELLO on, in one context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Text frames, no `compress` key.
    None,
    /// `compress=zlib-stream`
    Zlib,
    /// `compress=zstd-stream`
    Zstd,
}

impl Compression {
    /// The value of the `compress` query key; `None` for no compression.
    pub fn query_value(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Zlib => Some("zlib-stream"),
            Self::Zstd => Some("zstd-stream"),
        }
    }

    /// Reads the value of the `compress` query key or of `upstream_compression`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "zlib-stream" => Some(Self::Zlib),
            "zstd-stream" => Some(Self::Zstd),
            _ => None,
        }
    }
}
