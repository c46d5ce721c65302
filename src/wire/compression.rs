//! The transport compressions of the gateway, as the `compress` key of the URL names them.

#![forbid(unsafe_code)]

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_value_is_read_back_as_the_compression_it_names() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            assert_eq!(compression.query_value().and_then(Compression::from_name), Some(compression));
        }
        assert_eq!(Compression::None.query_value(), None);
        assert_eq!(Compression::from_name("none"), Some(Compression::None));
        assert_eq!(Compression::from_name("zlib"), None);
    }
}
