//! A JSON object taken apart at its top level only: keys and values stay the bytes that somebody wrote.
//!
//! It is for small payloads and rare dispatches. Whether the strings inside a value decode is not looked at.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object, in their order.
#[derive(Debug)]
pub(super) struct RawObject<'a> {
    fields: Vec<Field<'a>>,
}

#[derive(Debug)]
struct Field<'a> {
    /// As written, quotes included.
    raw_key: &'a str,
    key: Cow<'a, str>,
    value: &'a str,
}

/// More keys than any payload of Discord's or of a library has. Each is compared with each, and a payload of strangers must not cost more than
/// another of its length.
pub(super) const KEYS_MAX: usize = 64;

impl<'a> RawObject<'a> {
    /// `None` if `json` is not exactly one well-formed object of at most [`KEYS_MAX`] keys, or has a key twice: two readers could then disagree
    /// about what it says.
    pub fn parse(json: &'a str) -> Option<Self> {
        let Entries(entries) = serde_json::from_str(json).ok()?;
        let mut fields: Vec<Field> = Vec::with_capacity(entries.len());
        for (raw_key, value) in entries {
            let key = decode(raw_key.get())?;
            if fields.iter().any(|it| it.key == key) {
                return None;
            }
            fields.push(Field { raw_key: raw_key.get(), key, value: value.get() });
        }
        Some(Self { fields })
    }

    /// The value's JSON text.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.fields.iter().find(|it| it.key == key).map(|it| it.value)
    }

    /// The object as text, with `key` holding the JSON text `value` instead of what it held, at its old place or else at
    /// the end; without `key` if `value` is `None`. `key` needs no escaping.
    pub fn with(&self, key: &str, value: Option<&str>) -> String {
        let length: usize = self.fields.iter().map(|it| it.raw_key.len() + it.value.len() + 2).sum();
        let mut text = String::with_capacity(length + key.len() + value.map_or(0, str::len) + 6);
        let mut member = |raw_key: &str, value: &str| {
            text.push(if text.is_empty() { '{' } else { ',' });
            text.push_str(raw_key);
            text.push(':');
            text.push_str(value);
        };
        for field in &self.fields {
            match value {
                Some(value) if field.key == key => member(field.raw_key, value),
                None if field.key == key => {}
                _ => member(field.raw_key, field.value),
            }
        }
        if let (Some(value), None) = (value, self.get(key)) {
            member(&format!("\"{key}\""), value);
        }
        if text.is_empty() {
            text.push('{');
        }
        text.push('}');
        text
    }
}

/// A key without quotes and escapes; `None` if its escapes make no text.
fn decode(raw_key: &str) -> Option<Cow<'_, str>> {
    match raw_key.contains('\\') {
        false => Some(Cow::Borrowed(&raw_key[1..raw_key.len() - 1])),
        true => serde_json::from_str(raw_key).ok().map(Cow::Owned),
    }
}

struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() == KEYS_MAX {
                return Err(A::Error::custom("too many keys"));
            }
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_keep_the_bytes_they_were_written_with() {
        let object = RawObject::parse(r#" {"a" : 1.00 ,"b": [ 1, "\u00e9" ] } "#).unwrap();
        assert_eq!(object.get("a"), Some("1.00"));
        assert_eq!(object.get("b"), Some(r#"[ 1, "\u00e9" ]"#));
        assert_eq!(object.get("c"), None);
    }

    #[test]
    fn an_escaped_key_is_found_by_what_it_says() {
        let object = RawObject::parse(r#"{"\u006eonce":"x"}"#).unwrap();
        assert_eq!(object.get("nonce"), Some(r#""x""#));
        assert_eq!(object.with("nonce", None), "{}");
    }

    #[test]
    fn an_object_of_too_many_keys_is_refused() {
        let object = |keys: usize| {
            let members: Vec<_> = (0..keys).map(|n| format!(r#""{n}":1"#)).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(RawObject::parse(&object(KEYS_MAX)).is_some());
        assert!(RawObject::parse(&object(KEYS_MAX + 1)).is_none());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "1", "[]", "null", "{", "{}x", r#"{"a":}"#, r#"{"a":1,}"#, r#"{"a":1,"a":2}"#] {
            assert!(RawObject::parse(json).is_none(), "{json}");
        }
    }

    #[test]
    fn a_member_is_replaced_in_place_added_at_the_end_or_taken_out() {
        let object = RawObject::parse(r#"{"a":1,"b":2,"c":3}"#).unwrap();
        assert_eq!(object.with("b", Some("[]")), r#"{"a":1,"b":[],"c":3}"#);
        assert_eq!(object.with("d", Some("4")), r#"{"a":1,"b":2,"c":3,"d":4}"#);
        assert_eq!(object.with("a", None), r#"{"b":2,"c":3}"#);
        assert_eq!(RawObject::parse("{}").unwrap().with("a", Some("1")), r#"{"a":1}"#);
        assert_eq!(RawObject::parse("{}").unwrap().with("a", None), "{}");
    }

    proptest! {
        #[test]
        fn agrees_with_a_whole_parse(keys in prop::collection::btree_map("[a-c\"\\\\é]{0,3}", "[\\PC]{0,6}", 0..6)) {
            let json = serde_json::to_string(&keys).unwrap();
            let object = RawObject::parse(&json).unwrap();
            for (key, value) in &keys {
                let text: String = serde_json::from_str(object.get(key).unwrap()).unwrap();
                prop_assert_eq!(&text, value);
            }
            prop_assert_eq!(object.with("zz", None), json);
        }

        #[test]
        fn never_panics(json in "[{}\\[\\]\":,\\\\a0u ]{0,24}") {
            let _ = RawObject::parse(&json);
        }
    }
}
