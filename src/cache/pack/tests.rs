//! Whatever goes in comes out to the byte; what is worth it takes few bytes; the limits hold.

use proptest::prelude::*;

use super::shape::SHAPES_MAX;
use super::*;
use crate::cache::tests::fixture;

const KEY: u64 = 700_000_000_000_000_001;

fn packed(shapes: &Shapes, text: &[u8], key: u64, ids: &mut Ids, style: Style) -> Vec<u8> {
    shapes.pack(text, &[], key, ids, style, <[u8]>::to_vec)
}

fn unpacked(shapes: &Shapes, packed: &[u8], key: u64, ids: &Ids) -> Vec<u8> {
    let mut out = b"before".to_vec();
    shapes.unpack(packed, key, ids, &mut out);
    out.strip_prefix(b"before").unwrap().to_vec()
}

/// Packs it twice, so that the second time its strings are words, and gives the length of the second.
fn through(shapes: &Shapes, text: &str, ids: &mut Ids) -> usize {
    let mut len = 0;
    for key in [KEY + 1, KEY] {
        let bytes = packed(shapes, text.as_bytes(), key, ids, Style::WithIds);
        assert_eq!(String::from_utf8_lossy(&unpacked(shapes, &bytes, key, ids)), text);
        len = bytes.len();
    }
    len
}

#[test]
fn members_are_left_out_wherever_they_stand() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    let value = format!("\"{KEY}\"");
    let drop = ["a", "b"];
    for text in [
        r#"{"a":1,"x":VALUE,"y":[VALUE,{"a":2}]}"#,
        r#"{"x":{"a":VALUE},"a":{"a":[1]},"y":VALUE}"#,
        r#"{"x":VALUE,"y":null,"b":VALUE}"#,
        r#"{"a":1,"b":2,"x":VALUE,"a":3,"y":VALUE,"\u0061":4}"#,
        r#"{"a":1,"b":2}"#,
        r#"{"x":"raw, since this is a control character: \u0001","a":1}"#,
        "{\"x\":\"\u{1}\",\"a\":1}",
    ] {
        let text = text.replace("VALUE", &value);
        let wanted = edit::edit(text.as_bytes(), &drop, &[]).unwrap();
        let packed = shapes.pack(text.as_bytes(), &drop, KEY, &mut ids, Style::Element, <[u8]>::to_vec);
        let unpacked = unpacked(&shapes, &packed, KEY, &ids);
        assert_eq!(String::from_utf8_lossy(&unpacked), String::from_utf8_lossy(&wanted), "{text}");
    }
    // With gaps between its members, which an edit closes.
    let packed = shapes.pack(br#"{ "a" : 1 , "x" : 2 }"#, &drop, KEY, &mut ids, Style::Element, <[u8]>::to_vec);
    assert_eq!(unpacked(&shapes, &packed, KEY, &ids), br#"{ "x" : 2 }"#);
}

#[test]
fn the_keys_of_what_is_packed_are_known() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    let packed = packed(&shapes, br#"{"a":"x","b":{"d":1},"c":null}"#, KEY, &mut ids, Style::Element);
    let entries = |keys: &[&'static str]| keys.iter().map(|key| (key.as_bytes(), &b"1"[..])).collect::<Vec<_>>();
    assert!(shapes.has_keys(&packed, &entries(&["a", "b", "c"])));
    for other in [&["a", "b"][..], &["a", "c", "b"], &["a", "b", "c", "d"], &["a", "b", "cc"], &[]] {
        assert!(!shapes.has_keys(&packed, &entries(other)), "{other:?}");
    }
    assert!(shapes.lacks_key(&packed, "d") && !shapes.lacks_key(&packed, "b"));
    let raw = [RAW];
    assert!(!shapes.has_keys(&raw, &[]) && !shapes.lacks_key(&raw, "a"));
}

fn is_raw(text: &str) -> bool {
    packed(&Shapes::default(), text.as_bytes(), KEY, &mut Ids::default(), Style::Element)[0] == RAW
}

#[test]
fn what_discord_sends_takes_few_bytes() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    ids.intern_all((0..40).map(|n| 500_000_000_000_000_000 + n).collect());
    let role = 500_000_000_000_000_007;
    for (text, at_most) in [
        (fixture::member(KEY, &[role, role + 1]), 48),
        (fixture::presence(KEY, "online"), 28),
        (fixture::voice_state(KEY, role), 18),
        (fixture::role(KEY), 13),
        (fixture::emoji(KEY), 4),
        (fixture::channel(KEY), 50),
    ] {
        let len = through(&shapes, &text, &mut ids);
        assert!(len <= at_most, "{len} bytes for {text}");
    }
}

#[test]
fn what_only_looks_like_a_value_comes_back_as_it_was() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    for value in [
        r#""0001""#,
        r#""00000000000000000000""#,
        r#""18446744073709551616""#,
        r#""700000000000000001""#,
        r#""0700000000000000001""#,
        "700000000000000001",
        r#""561939E4A1550313F5CFDF2BD6DC3732""#,
        r#""a_561939e4a1550313f5cfdf2bd6dc3732""#,
        r#""a_561939e4a1550313f5cfdf2bd6dc373""#,
        r#""561939e4a1550313f5cfdf2bd6dc3732561939e4""#,
        r#""561939e4a1550313""#,
        r#""123e4567-e89b-12d3-a456-426614174000""#,
        r#""2022-10-13T14:35:40.000000+00:00""#,
        r#""2022-10-13T14:35:40.794+00:00""#,
        r#""2022-02-30T14:35:40+00:00""#,
        "1.0",
        "-0",
        "-17",
        "1e9",
        "01",
        "18446744073709551615",
        "true",
        "null",
        r#""\ud83d\udc4d\"}{""#,
        r#""\\""#,
        "[]",
        "{}",
        "[1,-2,3.5,null,true,[],[1],{},\"x\",\"7\",\"700000000000000001\"]",
        r#"["500000000000000001","500000000000000002"]"#,
        r#"["1",2]"#,
        "[ 1 , 2 ]",
        r#"{"a":{"b":{"c":{"d":{"e":1},"f":2,"g":3,"h":4},"i":1},"j":[]},"k":null}"#,
        r#"{"id":"700000000000000001","x":{"id":"700000000000000001"}}"#,
        r#"{"a":1,"a":2,"\u0061":3}"#,
    ] {
        through(
            &shapes,
            &format!(r#"{{"id":"700000000000000001","v":{value},"asset":{value},"w":[{value}]}}"#),
            &mut ids,
        );
        through(&shapes, &format!("{{ \"v\" :\n\t{value} , \"w\" : [ {value} ] }}"), &mut ids);
    }
}

#[test]
fn what_is_no_object_is_kept_raw() {
    for text in [
        "",
        "null",
        "[]",
        "[1]",
        "\"x\"",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1}x",
        "{\"a\":\"\u{1}\"}",
        "{a:1}",
    ] {
        assert!(is_raw(text), "{text}");
        through(&Shapes::default(), text, &mut Ids::default());
    }
    assert!(!is_raw("{}"));
    let deep = "{\"a\":".repeat(200) + "1" + &"}".repeat(200);
    through(&Shapes::default(), &deep, &mut Ids::default());
}

#[test]
fn a_string_is_written_out_once_and_named_from_then_on() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    let text = r#"{"name":"Visual Studio Code","asset":"a_fed43ab12698df65902ba06727e20c0e","application_id":"383226320970055681"}"#;
    let lens: Vec<_> =
        (1..4).map(|key| packed(&shapes, text.as_bytes(), key, &mut ids, Style::Element).len()).collect();
    assert_eq!(lens, [1 + 19 + 17 + 9, 4, 4]);
}

#[test]
fn a_long_object_fills_its_slots_packed_or_raw() {
    let mut text = b"{\"a\":".to_vec();
    write_slot(b'A', &mut text);
    for n in 0..30 {
        text.extend_from_slice(format!(",\"key {n}\":\"value {n}\"").as_bytes());
    }
    text.extend_from_slice(b",\"z\":");
    write_slot(b'Z', &mut text);
    text.push(b'}');
    let full = Shapes::default();
    for n in 0..SHAPES_MAX {
        packed(&full, format!("{{\"{n}\":1}}").as_bytes(), 1, &mut Ids::default(), Style::Element);
    }
    for (shapes, raw) in [(Shapes::default(), false), (full, true)] {
        let bytes = packed(&shapes, &text, 1, &mut Ids::default(), Style::Long);
        assert_eq!(bytes[0] == RAW, raw);
        let mut out = Vec::new();
        let mut fill = |slot, out: &mut Vec<u8>| out.extend_from_slice(&[b'<', slot, b'>']);
        shapes.unpack_filled(&bytes, 1, &Ids::default(), &mut fill, &mut out);
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("{\"a\":<A>,\"key 0\":") && out.ends_with(",\"z\":<Z>}"), "{out}");
    }
}

#[test]
fn a_new_shape_is_kept_raw_when_there_is_no_room_and_the_old_ones_still_serve() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    let mut raw = 0;
    for n in 0..SHAPES_MAX + 100 {
        let text = format!("{{\"{n}\":77}}");
        let bytes = packed(&shapes, text.as_bytes(), 1, &mut ids, Style::Element);
        assert_eq!(unpacked(&shapes, &bytes, 1, &ids), text.as_bytes());
        raw += usize::from(bytes[0] == RAW);
    }
    assert_eq!((raw, shapes.shape_count()), (101, SHAPES_MAX));
    assert_eq!(packed(&shapes, b"{\"5\":77}", 1, &mut ids, Style::Element).len(), 2);
}

#[test]
fn what_is_shared_is_counted_once_over_all_who_share_it() {
    let shapes = Shapes::default();
    packed(&shapes, b"{\"a\":1}", 1, &mut Ids::default(), Style::Element);
    let alone = shapes.bytes_share(1);
    let other = shapes.clone();
    assert!(alone > 0);
    assert!(alone.abs_diff(shapes.bytes_share(1) + other.bytes_share(1)) <= 1);
}

#[test]
fn needles_find_every_form_of_an_id() {
    let (shapes, mut ids) = (Shapes::default(), Ids::default());
    for id in [40, 500_000_000_000_000_001_u64] {
        for text in
            [format!(r#"{{"r":["{id}"]}}"#), format!(r#"{{"r":["{id}",null]}}"#), format!(r#"{{"r":[ "{id}" ]}}"#)]
        {
            for style in [Style::Element, Style::WithIds] {
                let bytes = packed(&shapes, text.as_bytes(), 1, &mut ids, style);
                assert!(Needles::of(id, &ids).may_be_in(&bytes), "{text}");
                assert!(!Needles::of(600_000_000_000_000_001, &ids).may_be_in(&bytes));
            }
        }
    }
}

/// Discord-like values, and things that look like them.
fn scalar_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| format!("\"{n}\"")),
        (0_u64..100).prop_map(|n| format!("\"{n}\"")),
        Just(format!("\"{KEY}\"")),
        "\"[0-9]{1,22}\"",
        "\"(a_)?[0-9a-f]{32}\"",
        "\"[0-9a-fA-F]{14,18}\"",
        "\"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{3}(000)?)?(\\+00:00|Z)\"",
        "-?[0-9]{1,4}(\\.[0-9]{1,3})?([eE][+-]?[0-9])?",
        "\"[a-c ü🔥]{0,8}\"",
        Just("\"\\ud83d\\udc4d \\\"}\"".to_owned()),
        prop_oneof![Just("null"), Just("true"), Just("false"), Just("0"), Just("\"\""), Just("[]"), Just("{}")]
            .prop_map(str::to_owned),
    ]
}

fn object_text() -> impl Strategy<Value = String> {
    let value = scalar_text().prop_recursive(4, 40, 6, |inner| {
        let space = prop_oneof![9 => Just(""), 1 => Just(" "), 1 => Just("\n\t")];
        prop_oneof![
            (proptest::collection::vec(inner.clone(), 0..6), space)
                .prop_map(|(list, space)| format!("[{}]", list.join(&format!(",{space}")))),
            proptest::collection::vec((key_text(), inner), 0..7).prop_map(object_of),
        ]
    });
    proptest::collection::vec((key_text(), value), 0..40).prop_map(object_of)
}

fn key_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-e]", Just("id".to_owned()), Just("asset".to_owned()), Just("\\u0061\\\"".to_owned()), "[a-z_]{4,9}"]
}

fn object_of(members: Vec<(String, String)>) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

proptest! {
    #[test]
    fn any_object_comes_back_to_the_byte(
        texts in proptest::collection::vec(object_text(), 1..6),
        known in proptest::collection::vec(0_u64..100, 0..9),
    ) {
        let shapes = Shapes::default();
        let mut ids = Ids::default();
        ids.intern_all(known);
        let mut kept = Vec::new();
        for (at, text) in texts.iter().chain(&texts).enumerate() {
            for style in [Style::Element, Style::WithIds, Style::Long] {
                let key = KEY + at as u64 % 3;
                let bytes = packed(&shapes, text.as_bytes(), key, &mut ids, style);
                prop_assert!(bytes.len() <= text.len() + 1);
                kept.push((bytes, key, text));
            }
        }
        for (bytes, key, text) in kept {
            prop_assert_eq!(&unpacked(&shapes, &bytes, key, &ids), text.as_bytes());
        }
    }

    #[test]
    fn any_bytes_come_back_and_nothing_panics(text in object_text(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (shapes, mut ids) = (Shapes::default(), Ids::default());
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        for text in [&text[..], &text[..at]] {
            let bytes = packed(&shapes, text, KEY, &mut ids, Style::Element);
            prop_assert_eq!(&unpacked(&shapes, &bytes, KEY, &ids), text);
        }
        // Bytes that nobody packed.
        unpacked(&shapes, &text, KEY, &ids);
        unpacked(&shapes, &[&[1], &text[..]].concat(), KEY, &ids);
    }
}
