//! Examples of the walker, and its agreement with two parsers.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

type Entries<'a> = Vec<(&'a [u8], &'a [u8])>;

fn keys_and_values(object: &[u8]) -> Result<Entries<'_>, Invalid> {
    members(object)?.map(|member| member.map(|it| (it.key, it.value))).collect()
}

#[test]
fn members_are_spans_of_the_text() {
    let text = br#" { "a" : [1, "]"] , "b":{"a":"}\""} ,"c":-1.5e3}"#;
    let found = keys_and_values(text).unwrap();
    assert_eq!(
        found,
        [(&b"a"[..], &br#"[1, "]"]"#[..]), (&b"b"[..], &br#"{"a":"}\""}"#[..]), (&b"c"[..], &b"-1.5e3"[..])]
    );
    let second = members(text).unwrap().nth(1).unwrap().unwrap();
    assert_eq!(&text[second.span], br#""b":{"a":"}\""}"#);
}

#[test]
fn elements_are_spans_of_the_text() {
    let found: Result<Vec<_>, _> = elements(br#"[ {"a":[]},"x,\\" , null,[[]] ]"#).unwrap().collect();
    assert_eq!(found.unwrap(), [&br#"{"a":[]}"#[..], br#""x,\\""#, b"null", b"[[]]"]);
}

#[test]
fn empty_containers_have_nothing_in_them() {
    assert_eq!(members(b"{ }").unwrap().count(), 0);
    assert_eq!(elements(b"[]").unwrap().count(), 0);
}

#[test]
fn malformed_text_is_an_error_and_then_the_end() {
    for text in [
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":}",
        "{\"a\":tru}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":-}",
        "{\"a\":[}",
        "{\"a\":[{]}}",
        "{\"a\":\"}",
        "{}x",
        "{a:1}",
        "{\"a\":\"\\",
    ] {
        let mut walk = members(text.as_bytes()).unwrap();
        let error = walk.find_map(Result::err).unwrap_or_else(|| panic!("{text} passed"));
        assert!(error.offset <= text.len());
        assert!(walk.next().is_none(), "{text}");
    }
    for text in ["", " ", "[]", "null", "\"{}\""] {
        assert!(members(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn an_error_names_the_offset() {
    assert_eq!(keys_and_values(b"{\"a\":1 2}"), Err(Invalid { offset: 7 }));
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(keys_and_values(nested(DEPTH_MAX as usize).as_bytes()).is_ok());
    assert!(keys_and_values(nested(DEPTH_MAX as usize + 1).as_bytes()).is_err());
}

#[test]
fn a_key_is_compared_with_its_escapes_undone() {
    assert!(key_is(b"guild_id", "guild_id"));
    assert!(key_is(br"guild\u005Fid", "guild_id"));
    assert!(key_is(br"\u0067uild_id", "guild_id"));
    assert!(key_is(br"\ud83d\ude00\n\/", "\u{1f600}\n/"));
    assert!(!key_is(br"guild\\u005fid", "guild_id"));
    assert!(!key_is(br"guild\u005fid_", "guild_id"));
    assert!(!key_is(br"\ud83d", "\u{1f600}"));
    assert!(same_key(br"\u0069d", br"i\u0064"));
    assert!(!same_key(br"\u0069d", b"ids"));
}

#[test]
fn the_last_of_equal_keys_is_picked() {
    let picked = pick(br#"{"id":"1","x":null,"\u0069d":"2"}"#, ["id", "y"]).unwrap();
    assert_eq!(picked, [Some(&b"\"2\""[..]), None]);
}

#[test]
fn scalars_are_read_by_their_type() {
    assert_eq!(snowflake(b"\"81384788765712384\""), Some(81_384_788_765_712_384));
    assert_eq!(snowflake(b"81384788765712384"), Some(81_384_788_765_712_384));
    assert_eq!(snowflake(b"\"\""), None);
    assert_eq!(snowflake(b"\"-1\""), None);
    assert_eq!(integer(b"18446744073709551615"), Some(u64::MAX));
    assert_eq!(integer(b"18446744073709551616"), None);
    assert_eq!(integer(b"\"1\""), None);
    assert_eq!((boolean(b"true"), boolean(b"false"), boolean(b"null")), (Some(true), Some(false), None));
    assert_eq!(string(br#""a\"b\ud83d\ude00""#).unwrap(), "a\"b\u{1f600}");
    assert!(matches!(string("\"é\"".as_bytes()), Some(Cow::Borrowed("é"))));
    assert_eq!(string(b"1"), None);
    assert!(string_is(br#""off\u006cine""#, "offline"));
}

/// JSON values of every kind, strings and keys with everything that needs an escape.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "\\PC{0,12}|[\"\\\\{}\\[\\],:\n\t]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map("[a-c\"\\\\{}é]{0,3}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// `value` as seen by this walker, every leaf by serde_json.
fn walked(value: &[u8]) -> Result<Value, Invalid> {
    Ok(match value.first() {
        Some(b'{') => Value::Object(
            members(value)?
                .map(|it| it.and_then(|it| Ok((string_of(it.key), walked(it.value)?))))
                .collect::<Result<_, _>>()?,
        ),
        Some(b'[') => Value::Array(elements(value)?.map(|it| it.and_then(walked)).collect::<Result<_, _>>()?),
        Some(b'"') => Value::String(string(value).ok_or(Invalid { offset: 0 })?.into_owned()),
        _ => serde_json::from_slice(value).map_err(|_| Invalid { offset: 0 })?,
    })
}

fn string_of(key: &[u8]) -> String {
    let quoted = [b"\"", key, b"\""].concat();
    string(&quoted).unwrap().into_owned()
}

proptest! {
    #[test]
    fn sees_what_serde_json_sees(value in value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        prop_assert_eq!(skip_value(&text, 0), Ok(text.len()));
        prop_assert_eq!(walked(&text).unwrap(), serde_json::from_slice::<Value>(&text).unwrap());
    }

    #[test]
    fn sees_what_simd_json_sees(value in value()) {
        let text = serde_json::to_vec(&BTreeMap::from([("d", value)])).unwrap();
        let parsed: Value = simd_json::serde::from_slice(&mut text.clone()).unwrap();
        let [d] = pick(&text, ["d"]).unwrap();
        prop_assert_eq!(walked(d.unwrap()).unwrap(), parsed["d"].clone());
    }

    #[test]
    fn every_true_prefix_of_a_container_is_truncated(value in value(), cut in any::<prop::sample::Index>()) {
        let text = serde_json::to_vec(&vec![value]).unwrap();
        let cut = cut.index(text.len());
        prop_assert!(skip_value(&text[..cut], 0).is_err());
    }

    #[test]
    fn what_serde_json_accepts_is_accepted(text in "[\\[\\]{}\",:a1 .e\\\\u-]{0,24}") {
        if let Ok(parsed) = serde_json::from_str::<Value>(&text) {
            prop_assert_eq!(walked(text.trim().as_bytes()), Ok(parsed));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop_oneof![vec(any::<u8>(), 0..64), "[\\[\\]{}\",:a1\\\\]{0,40}".prop_map(String::into_bytes)]) {
        let _ = members(&text).map(|walk| walk.filter(Result::is_ok).count());
        let _ = elements(&text).map(|walk| walk.filter(Result::is_ok).count());
        let _ = (pick(&text, ["a"]), walked(&text), string(&text), snowflake(&text), key_is(&text, "a"), same_key(&text, b"a\\"));
        for at in 0..text.len() {
            if let Ok(end) = skip_value(&text, at) {
                prop_assert!(at < end && end <= text.len());
            }
        }
    }
}
