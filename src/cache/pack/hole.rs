//! What stands in a shape where objects differ: one marker byte in its text, and how the value behind it is packed.
//!
//! A marker is a control character that valid JSON never holds as such, so that a shape's text needs no escapes.

#![forbid(unsafe_code)]

/// The quotes of a string lie in the shape's text: holes hold what is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hole {
    /// A word's number or the text itself, as written. See `put_text`.
    Text = 0x01,
    /// An id or a hash that many objects have: a word, 8 or 16 bytes.
    Shared = 0x02,
    /// A whole number below 2^49: LEB128.
    Digits = 0x03,
    /// A larger one: 8 bytes.
    Id = 0x04,
    /// An id that the guild knows: its place in `Ids`, LEB128.
    Local = 0x05,
    /// The id by which the object is stored: nothing.
    Key = 0x06,
    /// ISO 8601 in UTC: 5 to 7 bytes. See `time`.
    Time = 0x07,
    /// 32 lower-case hex digits: 16 bytes.
    Hex16 = 0x08,
    /// 16 lower-case hex digits: 8 bytes.
    Hex8 = 0x0e,
    /// An object with a shape of its own.
    Object = 0x0f,
    /// An array: its length, then each element behind a tag.
    Array = 0x10,
    /// An array of strings, each an id that the guild knows: its length, then places in `Ids`.
    Ids = 0x11,
    /// Filled by who unpacks; the byte behind the marker says with what.
    Slot = 0x12,
    /// The end of a run: the object goes on with another shape.
    More = 0x13,
}

impl Hole {
    /// `None` for a byte that is no marker.
    pub fn of_marker(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Text,
            0x02 => Self::Shared,
            0x03 => Self::Digits,
            0x04 => Self::Id,
            0x05 => Self::Local,
            0x06 => Self::Key,
            0x07 => Self::Time,
            0x08 => Self::Hex16,
            0x0e => Self::Hex8,
            0x0f => Self::Object,
            0x10 => Self::Array,
            0x11 => Self::Ids,
            0x12 => Self::Slot,
            0x13 => Self::More,
            _ => return None,
        })
    }
}

/// Whether `byte` is a control character that JSON text never holds, a marker among them.
pub fn is_reserved(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')
}

/// Whether `text` holds such a byte. Looks at a stretch at a time without stopping, which the compiler makes many bytes at once of.
pub fn has_reserved(text: &[u8]) -> bool {
    const STRETCH: usize = 512;
    text.chunks(STRETCH).any(|it| it.iter().fold(false, |found, &byte| found | is_reserved(byte)))
}

/// What stands in front of an array's element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// As written: length and text.
    Raw,
    /// In quotes: as `Hole::Text`.
    Text,
    /// In quotes: as `Hole::Digits`.
    QuotedDigits,
    /// In quotes: as `Hole::Id`.
    QuotedId,
    /// In quotes: as `Hole::Local`.
    QuotedLocal,
    /// As `Hole::Digits`.
    Digits,
    /// As `Hole::Object`.
    Object,
}

impl Tag {
    pub fn of_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Raw,
            1 => Self::Text,
            2 => Self::QuotedDigits,
            3 => Self::QuotedId,
            4 => Self::QuotedLocal,
            5 => Self::Digits,
            6 => Self::Object,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_reserved_and_name_their_hole() {
        for byte in 0..=u8::MAX {
            if let Some(hole) = Hole::of_marker(byte) {
                assert_eq!(hole as u8, byte);
                assert!(is_reserved(byte));
            }
            if let Some(tag) = Tag::of_byte(byte) {
                assert_eq!(tag as u8, byte);
            }
        }
        assert!(!is_reserved(b'\n') && !is_reserved(b'{'));
        let mut text = [b'\n'; 1200];
        assert!(!has_reserved(&text));
        text[1111] = 1;
        assert!(has_reserved(&text));
    }
}
