//! Edits of raw JSON objects: members dropped, replaced in place, appended, and everything else left as written.
//!
//! Knows nothing of guilds. An edit that changes nothing gives the object back to the byte; one that does closes the gaps
//! between members (Discord leaves none), and never touches the inside of a member that it was not told to change.

#![forbid(unsafe_code)]

use crate::wire::json::{self, Invalid};

/// A member to write: a raw key (without quotes) and a raw value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// `object` without the members that `drop` names, and with those of `set`: replaced where they stand, else appended.
///
/// Errs if `object` is not whole.
pub fn edit(object: &[u8], drop: &[&str], set: &[Entry<'_>]) -> Result<Box<[u8]>, Invalid> {
    let added: usize = set.iter().map(|(key, value)| key.len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(object.len() + added);
    edit_into(object, drop, set, &mut out)?;
    Ok(out.into_boxed_slice())
}

/// `edit`, appended to `out`. On an error `out` is as it was.
pub fn edit_into(object: &[u8], drop: &[&str], set: &[Entry<'_>], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let start = out.len();
    let changed = write_edited(object, drop, set, out);
    if !matches!(changed, Ok(true)) {
        out.truncate(start);
    }
    if !changed? {
        out.extend_from_slice(object);
    }
    Ok(())
}

/// `old` with every member of `new`, but those that `drop` names, replaced where it stands, else appended.
///
/// Errs if either is not whole.
pub fn merge(old: &[u8], new: &[u8], drop: &[&str]) -> Result<Box<[u8]>, Invalid> {
    edit(old, &[], &entries(new, drop)?)
}

/// The members of `object` but those that `drop` names. A repeated key keeps its last value.
pub fn entries<'a>(object: &'a [u8], drop: &[&str]) -> Result<Vec<Entry<'a>>, Invalid> {
    let mut result = Ok(());
    let members = json::members(object)?.map_while(|member| match member {
        Ok(member) => Some((member.key, member.value)),
        Err(invalid) => {
            result = Err(invalid);
            None
        }
    });
    let entries = distinct(members, drop);
    result.map(|()| entries)
}

/// The same of members found already.
pub fn distinct<'a>(members: impl Iterator<Item = Entry<'a>>, drop: &[&str]) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::with_capacity(ENTRIES_USUAL);
    let mut seen = Seen::default();
    for member in members.filter(|(key, _)| !names(drop, key)) {
        let known = if seen.is_new(member.0) {
            None
        } else {
            entries.iter_mut().find(|(key, _)| json::same_key(key, member.0))
        };
        match known {
            Some(entry) => entry.1 = member.1,
            None => entries.push(member),
        }
    }
    entries
}

/// Members that Discord's objects rarely exceed.
const ENTRIES_USUAL: usize = 24;

/// Tells keys that are certainly new from those that may have been there: a bit for each of 64 hashes.
#[derive(Default)]
struct Seen {
    bits: u64,
    /// Keys with escapes may spell any other.
    has_escapes: bool,
}

impl Seen {
    fn is_new(&mut self, key: &[u8]) -> bool {
        let mut last = [0; 8];
        let tail = &key[key.len().saturating_sub(8)..];
        last[..tail.len()].copy_from_slice(tail);
        let hash = (u64::from_le_bytes(last) ^ key.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58;
        let is_new = self.bits >> hash & 1 == 0;
        self.bits |= 1 << hash;
        self.has_escapes |= key.contains(&b'\\');
        is_new && !self.has_escapes
    }
}

/// Appends `{"id":"ID","unavailable":true}`, with which Discord names a guild in an outage.
pub fn write_unavailable(id: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    out.extend_from_slice(b"\",\"unavailable\":true}");
}

/// Appends `"key":value`, behind a comma unless it is the first member since the bracket.
pub fn write_entry((key, value): Entry<'_>, out: &mut Vec<u8>) {
    write_comma(out);
    out.push(b'"');
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
}

/// A comma, unless the bracket has just been opened.
pub fn write_comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Whether anything differs from `object`. `out` holds the whole result, or rubbish after an error.
fn write_edited(object: &[u8], drop: &[&str], set: &[Entry<'_>], out: &mut Vec<u8>) -> Result<bool, Invalid> {
    let mut written = vec![false; set.len()];
    let mut changed = false;
    // Two objects of one kind mostly have their keys in one order: what follows the last find is tried first.
    let mut next = 0;
    out.push(b'{');
    for member in json::members(object)? {
        let member = member?;
        if names(drop, member.key) {
            changed = true;
        } else if let Some(at) = find(set, member.key, next) {
            next = at + 1;
            written[at] = true;
            changed |= set[at].1 != member.value;
            write_entry((member.key, set[at].1), out);
        } else {
            write_comma(out);
            out.extend_from_slice(&object[member.span]);
        }
    }
    for (&entry, _) in set.iter().zip(written).filter(|(_, written)| !written) {
        changed = true;
        write_entry(entry, out);
    }
    out.push(b'}');
    Ok(changed)
}

fn find(set: &[Entry<'_>], key: &[u8], next: usize) -> Option<usize> {
    if set.get(next).is_some_and(|entry| entry.0 == key) {
        return Some(next);
    }
    set.iter().position(|entry| json::same_key(entry.0, key))
}

/// Whether `key` is one of `list`.
pub fn names(list: &[&str], key: &[u8]) -> bool {
    list.iter().any(|name| json::key_is(key, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(object: &str, drop: &[&str], set: &[(&str, &str)]) -> String {
        let set: Vec<Entry<'_>> = set.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
        String::from_utf8(edit(object.as_bytes(), drop, &set).unwrap().into_vec()).unwrap()
    }

    #[test]
    fn an_edit_that_changes_nothing_keeps_every_byte() {
        let object = "{ \"a\" : 1 ,\n\"b\":[ ] }";
        assert_eq!(edited(object, &["c"], &[("a", "1")]), object);
    }

    #[test]
    fn members_are_dropped_wherever_they_stand() {
        let object = r#"{"a":1,"b":{"a":2},"c":"x"}"#;
        assert_eq!(edited(object, &["a"], &[]), r#"{"b":{"a":2},"c":"x"}"#);
        assert_eq!(edited(object, &["b"], &[]), r#"{"a":1,"c":"x"}"#);
        assert_eq!(edited(object, &["c"], &[]), r#"{"a":1,"b":{"a":2}}"#);
        assert_eq!(edited(object, &["a", "b", "c"], &[]), "{}");
        assert_eq!(edited(r#"{"\u0061":1}"#, &["a"], &[]), "{}");
    }

    #[test]
    fn members_are_replaced_in_place_and_new_ones_appended() {
        assert_eq!(edited(r#"{"a":1,"b":2}"#, &[], &[("a", "[]"), ("c", "null")]), r#"{"a":[],"b":2,"c":null}"#);
        assert_eq!(edited("{}", &[], &[("a", "1")]), r#"{"a":1}"#);
    }

    #[test]
    fn a_merge_takes_the_new_value_of_each_key() {
        let merged =
            merge(br#"{"id":"1","nick":null,"x":0}"#, br#"{"nick":"a","guild_id":"9","y":1,"y":2}"#, &["guild_id"]);
        assert_eq!(&*merged.unwrap(), br#"{"id":"1","nick":"a","x":0,"y":2}"#);
    }

    #[test]
    fn keys_may_be_spelt_in_other_ways_and_stand_in_any_order() {
        let merged = merge(br#"{"a":1,"b":2,"c":3}"#, br#"{"c":4,"\u0061":5,"d":6,"a":7,"d":8}"#, &[]);
        assert_eq!(&*merged.unwrap(), br#"{"a":7,"b":2,"c":4,"d":8}"#);
        let many: Vec<_> = (0..80).map(|n| format!("\"key {n}\":{n}")).collect();
        let many = format!("{{{}}}", many.join(","));
        assert_eq!(&*merge(b"{}", many.as_bytes(), &[]).unwrap(), many.as_bytes());
    }

    #[test]
    fn a_broken_object_leaves_the_output_alone() {
        let mut out = b"before".to_vec();
        assert!(edit_into(br#"{"a":1,"b""#, &["a"], &[], &mut out).is_err());
        assert_eq!(out, b"before");
    }
}
