//! Reading typed keys out of a JSON object, so that every mistake becomes one line: key, found, wanted.
//!
//! Not here: which keys there are and what they mean (`config`). A value marked secret is never shown.

#![forbid(unsafe_code)]

use std::fmt;

use serde_json::{Map, Value};

/// Longest part of a wrong value that is repeated in a message, in characters.
const FOUND_CHARS_MAX: usize = 60;

/// Why the process does not start: one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

impl Refusal {
    /// A line in the form that all refusals have.
    pub fn new(key: &str, found: impl fmt::Display, wanted: impl fmt::Display) -> Self {
        Self(format!("{key}: found {found}, wanted {wanted}"))
    }

    /// A line that concerns no single key.
    pub fn of(line: impl Into<String>) -> Self {
        Self(line.into())
    }

    /// The same, told where it stands: a file, or the environment.
    pub fn within(self, source: &str) -> Self {
        Self(format!("{source}: {}", self.0))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// One JSON object of the configuration; `prefix` is what stands before its keys in messages (`cache.` or nothing).
pub struct Keys<'a> {
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub fn new(prefix: impl Into<String>, map: &'a Map<String, Value>) -> Self {
        Self { prefix: prefix.into(), map }
    }

    /// The value of a key, `null` included.
    pub fn get(&self, key: &str) -> Option<Found<'a>> {
        let value = self.map.get(key)?;
        Some(Found::new(format!("{}{key}", self.prefix), value))
    }

    /// The value of a key that may be `null`, which means the same as leaving it out.
    pub fn get_nullable(&self, key: &str) -> Option<Found<'a>> {
        self.get(key).filter(|found| !found.value.is_null())
    }

    /// Refuses because a key is not there.
    pub fn missing(&self, key: &str, wanted: &str) -> Refusal {
        Refusal::new(&format!("{}{key}", self.prefix), "nothing", wanted)
    }

    /// One warning for each key that is not in `known`.
    pub fn unknown(&self, known: &[&str]) -> Vec<String> {
        let unknown = self.map.keys().filter(|key| !known.contains(&key.as_str()));
        unknown.map(|key| unknown_line(&self.prefix, key, known)).collect()
    }
}

/// A warning about a key that is not in `known`; `prefix` is what stands before both.
pub fn unknown_line(prefix: &str, key: &str, known: &[&str]) -> String {
    let shown = shorten(&format!("{prefix}{key}").escape_debug().to_string());
    match nearest(key, known) {
        Some(near) => format!("unknown key `{shown}` is ignored; the nearest known key is `{prefix}{near}`"),
        None => format!("unknown key `{shown}` is ignored"),
    }
}

/// A value with the name it was found under.
pub struct Found<'a> {
    key: String,
    value: &'a Value,
    secret: bool,
}

impl<'a> Found<'a> {
    /// `key` is how messages name it.
    pub fn new(key: impl Into<String>, value: &'a Value) -> Self {
        Self { key: key.into(), value, secret: false }
    }

    /// How messages name it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Messages name only the type of this value from here on.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Refuses this value.
    pub fn refuse(&self, wanted: impl fmt::Display) -> Refusal {
        Refusal::new(&self.key, self.shown(), wanted)
    }

    pub fn boolean(&self) -> Result<bool, Refusal> {
        self.value.as_bool().ok_or_else(|| self.refuse("true or false"))
    }

    pub fn text(&self, wanted: &str) -> Result<&'a str, Refusal> {
        self.value.as_str().ok_or_else(|| self.refuse(wanted))
    }

    pub fn object(&self) -> Result<&'a Map<String, Value>, Refusal> {
        self.value.as_object().ok_or_else(|| self.refuse("an object"))
    }

    /// An integer within both bounds. `3.0` and `"3"` are none.
    pub fn integer(&self, min: u64, max: u64) -> Result<u64, Refusal> {
        let integer = self.value.as_u64().filter(|it| (min..=max).contains(it));
        integer.ok_or_else(|| self.refuse(format_args!("an integer from {min} to {max}")))
    }

    /// One of a few words.
    pub fn word(&self, words: &[&'static str]) -> Result<&'static str, Refusal> {
        let chosen = words.iter().find(|word| self.value.as_str() == Some(word));
        let wanted = || words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        chosen.copied().ok_or_else(|| self.refuse(format_args!("one of {}", wanted())))
    }

    fn shown(&self) -> String {
        match self.value {
            Value::Object(_) => "an object".into(),
            Value::Array(_) => "a list".into(),
            Value::String(_) if self.secret => "a string".into(),
            Value::Number(_) if self.secret => "a number".into(),
            simple => shown(simple),
        }
    }
}

/// A value as JSON text: quotes show that it is a string, escapes keep it on one line. Not for secrets.
pub fn shown(value: &Value) -> String {
    shorten(&value.to_string())
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The word of `known` with the fewest edits to `word`, unless even that has little to do with it.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Longer than any key: not a slip of the finger, and the distance costs the product of both lengths.
    if word.len() > FOUND_CHARS_MAX {
        return None;
    }
    let near = known.iter().map(|it| (edits(word, it), *it)).min_by_key(|(edits, _)| *edits)?;
    (near.0 <= word.len().max(near.1.len()).div_ceil(2)).then_some(near.1)
}

/// Edit distance (Levenshtein), one row of the table at a time; upper and lower case count as the same.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_wrong_type_names_key_found_and_wanted() {
        let map = object(r#"{"port":"7878"}"#);
        let refusal = Keys::new("", &map).get("port").unwrap().integer(0, 65535).unwrap_err();
        assert_eq!(refusal.to_string(), "port: found \"7878\", wanted an integer from 0 to 65535");
    }

    #[test]
    fn a_float_a_negative_and_a_too_large_number_are_no_integers_in_range() {
        let map = object(r#"{"a":3.0,"b":-1,"c":70000}"#);
        let found = |key| Keys::new("", &map).get(key).unwrap().integer(0, 65535).unwrap_err().to_string();
        assert!(found("a").starts_with("a: found 3.0,"));
        assert!(found("b").starts_with("b: found -1,"));
        assert!(found("c").starts_with("c: found 70000,"));
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let map = object(r#"{"token":123456789,"list":["s3cret"]}"#);
        let keys = Keys::new("", &map);
        let refusal = keys.get("token").unwrap().secret().text("a string").unwrap_err();
        assert_eq!(refusal.to_string(), "token: found a number, wanted a string");
        let refusal = keys.get("list").unwrap().secret().text("a string").unwrap_err();
        assert_eq!(refusal.to_string(), "list: found a list, wanted a string");
    }

    #[test]
    fn a_refusal_stays_on_one_line_however_the_value_looks() {
        let map = object(&format!(r#"{{"status":"two\nlines {}"}}"#, "x".repeat(500)));
        let refusal = Keys::new("", &map).get("status").unwrap().word(&["online", "dnd"]).unwrap_err();
        let line = refusal.within("config.json").to_string();
        assert!(line.starts_with(r#"config.json: status: found "two\nlines xxx"#), "{line}");
        assert!(line.ends_with(r#"…, wanted one of "online", "dnd""#), "{line}");
        assert!(!line.contains('\n') && line.len() < 200);
    }

    #[test]
    fn null_counts_as_absent_only_where_it_may() {
        let map = object(r#"{"shards":null}"#);
        assert!(Keys::new("", &map).get("shards").is_some());
        assert!(Keys::new("", &map).get_nullable("shards").is_none());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_nearest_neighbour() {
        let map = object(r#"{"membres":true,"roles":true}"#);
        let warnings = Keys::new("cache.", &map).unknown(&["members", "roles"]);
        assert_eq!(
            warnings,
            ["unknown key `cache.membres` is ignored; the nearest known key is `cache.members`".to_owned()]
        );
    }

    #[test]
    fn a_key_like_no_other_has_no_neighbour() {
        assert_eq!(nearest("zzzzzzzzzz", &["port", "token"]), None);
        assert_eq!(nearest(&"p".repeat(5000), &["port"]), None);
    }

    #[test]
    fn the_edit_distance_counts_insertions_deletions_and_replacements() {
        for (a, b, distance) in [("", "abc", 3), ("shard", "shards", 1), ("kitten", "sitting", 3), ("Port", "port", 0)]
        {
            assert_eq!(edits(a, b), distance, "{a} {b}");
            assert_eq!(edits(b, a), distance, "{b} {a}");
        }
    }
}
