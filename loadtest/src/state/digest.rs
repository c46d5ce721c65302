//! A guild's JSON reduced to what two of them are compared by: each key's value, each array as a bag of elements.
//!
//! The order within an array is no promise of anybody, nor is the order of keys. No more than one element is held parsed at a
//! time, so a guild of half a million members is compared in a few MB.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Hashes of the elements of each array, sorted, and of each other value, by key.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Digest(BTreeMap<String, Vec<u64>>);

impl Digest {
    /// Errs when `json` is no JSON object.
    pub fn of(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|it| it.to_string())
    }

    /// The keys whose values differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(other.0.keys().filter(|it| !self.0.contains_key(*it)));
        keys.filter(|it| self.0.get(*it) != other.0.get(*it))
            .map(|key| {
                let len = |it: &Self| it.0.get(key).map_or(0, Vec::len);
                format!("{key} ({} and {})", len(self), len(other))
            })
            .collect()
    }
}

/// `Value` sorts keys, so its text is the same for all orders.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Digest, A::Error> {
                let mut digest = Digest::default();
                while let Some((key, Hashes(hashes))) = map.next_entry::<String, Hashes>()? {
                    digest.0.insert(key, hashes);
                }
                Ok(digest)
            }
        }
        from.deserialize_map(Keys)
    }
}

struct Hashes(Vec<u64>);

impl<'de> Deserialize<'de> for Hashes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Hashes;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Hashes, A::Error> {
                let mut hashes = Vec::new();
                while let Some(element) = elements.next_element::<Value>()? {
                    hashes.push(hash(&element));
                }
                hashes.sort_unstable();
                Ok(Hashes(hashes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hashes, A::Error> {
                let mut object = serde_json::Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    object.insert(key, value);
                }
                Ok(one(&Value::Object(object)))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Hashes, E> {
                Ok(one(&value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Hashes, E> {
                Ok(one(&value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Hashes, E> {
                Ok(one(&value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Hashes, E> {
                Ok(one(&value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Hashes, E> {
                Ok(one(&value.into()))
            }

            fn visit_unit<E>(self) -> Result<Hashes, E> {
                Ok(one(&Value::Null))
            }
        }
        from.deserialize_any(Elements)
    }
}

fn one(value: &Value) -> Hashes {
    Hashes(vec![hash(value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differ(a: &str, b: &str) -> Vec<String> {
        Digest::of(a.as_bytes()).unwrap().differences(&Digest::of(b.as_bytes()).unwrap())
    }

    #[test]
    fn the_order_of_keys_and_elements_does_not_count() {
        let a = r#"{"id":"1","x":{"a":1,"b":[1,2]},"roles":[{"id":"1","n":null},{"id":"2"}],"f":1.5,"t":true,"i":-1}"#;
        let b = r#"{"i":-1,"t":true,"roles":[{"id":"2"},{"n":null,"id":"1"}],"f":1.5,"x":{"b":[1,2],"a":1},"id":"1"}"#;
        assert!(differ(a, b).is_empty());
    }

    #[test]
    fn every_other_difference_is_named() {
        assert_eq!(differ(r#"{"a":1}"#, r#"{"a":"1"}"#), ["a (1 and 1)"]);
        assert_eq!(differ(r#"{"a":null}"#, "{}"), ["a (1 and 0)"]);
        assert_eq!(differ("{}", r#"{"b":[1,1]}"#), ["b (0 and 2)"]);
        assert_eq!(differ(r#"{"a":[1]}"#, r#"{"a":[1,1]}"#), ["a (1 and 2)"]);
        // Within an element, order is the object's own business.
        assert_eq!(differ(r#"{"a":[[1,2]]}"#, r#"{"a":[[2,1]]}"#), ["a (1 and 1)"]);
        assert!(Digest::of(b"[]").is_err());
    }
}
