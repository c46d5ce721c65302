//! The envelope in every form that JSON allows, and in forms that it does not.

use proptest::prelude::*;

use super::super::properties;
use super::*;

struct Read<'a> {
    op: Option<u64>,
    sequence: Option<u64>,
    event_type: Option<&'a str>,
    data: Option<&'a str>,
    canonical: bool,
}

fn read(payload: &str) -> Read<'_> {
    let envelope = scan(payload.as_bytes()).unwrap_or_else(|error| panic!("{payload}: {error}"));
    if let (Some(sequence), Some(span)) = (envelope.sequence, envelope.sequence_span) {
        assert_eq!(payload[span], sequence.to_string());
    }
    Read {
        op: envelope.op,
        sequence: envelope.sequence,
        event_type: envelope.event_type.map(|span| &payload[span]),
        data: envelope.data.map(|span| &payload[span]),
        canonical: envelope.canonical,
    }
}

#[track_caller]
fn assert_reads_dispatch(payload: &str, canonical: bool) {
    let read = read(payload);
    assert_eq!((read.op, read.sequence, read.event_type), (Some(0), Some(42), Some("TYPING_START")), "{payload}");
    assert_eq!(read.canonical, canonical, "{payload}");
}

#[test]
fn discords_own_form_is_canonical() {
    let payload = r#"{"t":"TYPING_START","s":42,"op":0,"d":{"user_id":"1"}}"#;
    assert_reads_dispatch(payload, true);
    assert_eq!(read(payload).data, Some(r#"{"user_id":"1"}"#));
}

#[test]
fn control_messages_are_canonical_and_have_no_sequence() {
    for (payload, op, data) in [
        (r#"{"t":null,"s":null,"op":11,"d":null}"#, 11, "null"),
        (r#"{"t":null,"s":null,"op":9,"d":false}"#, 9, "false"),
        (r#"{"t":null,"s":null,"op":1,"d":251}"#, 1, "251"),
        (r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\"x\",{}]"]}}"#, 10, ""),
    ] {
        let read = read(payload);
        assert_eq!((read.op, read.sequence, read.event_type, read.canonical), (Some(op), None, None, true));
        assert!(data.is_empty() || read.data == Some(data));
    }
}

#[test]
fn any_order_is_read() {
    assert_reads_dispatch(r#"{"op":0,"d":{"s":1},"s":42,"t":"TYPING_START"}"#, false);
    assert_reads_dispatch(r#"{"d":[{"op":3}],"op":0,"s":42,"t":"TYPING_START"}"#, false);
    assert_reads_dispatch(r#"{"t":"TYPING_START","op":0,"s":42,"d":{}}"#, false);
}

#[test]
fn white_space_may_stand_between_all_tokens() {
    assert_reads_dispatch("\r\n{ \"t\" :\t\"TYPING_START\" , \"s\" : 42 ,\n\"op\" : 0 , \"d\" : { } } ", false);
    assert_reads_dispatch(r#"{"t":"TYPING_START","s":42,"op":0,"d":{} }"#, false);
    assert_reads_dispatch("{\"t\":\"TYPING_START\",\"s\":42,\"op\":0,\"d\":{}}\n", false);
}

#[test]
fn nested_look_alikes_are_passed_over() {
    assert_reads_dispatch(
        r#"{"d":{"op":9,"s":7,"t":"X","d":{"s":8,"x":[{"t":"Y"}]}},"op":0,"t":"TYPING_START","s":42}"#,
        false,
    );
    assert_reads_dispatch(r#"{"x":"{\"t\":\"X\",\"s\":1,\"op\":2}","t":"TYPING_START","s":42,"op":0,"d":{}}"#, false);
    assert_reads_dispatch(r#"{"x":"a\\","t":"TYPING_START","s":42,"op":0,"d":"\\u0023idle\"}"}"#, false);
}

#[test]
fn keys_written_with_escapes_are_the_same_keys() {
    assert_reads_dispatch(r#"{"\u0074":"TYPING_START","\u0073":42,"o\u0070":0,"\u0064":{}}"#, false);
    // Neither is a key of ours: `\\u0073` is a backslash and text, and `\u0073s` has two letters.
    assert_reads_dispatch(r#"{"t":"TYPING_START","s":42,"op":0,"d":1,"\\u0073":7,"\u0073s":8,"\n":9}"#, false);
}

#[test]
fn of_a_key_twice_the_last_counts() {
    assert_reads_dispatch(r#"{"s":1,"t":null,"s":42,"op":2,"t":"TYPING_START","op":0}"#, false);
    let read = read(r#"{"t":"A","s":1,"op":0,"d":1,"s":null,"t":3}"#);
    assert_eq!((read.sequence, read.event_type), (None, None));
}

#[test]
fn a_scalar_data_does_not_hide_the_keys_behind_it() {
    assert_reads_dispatch(r#"{"t":"X","s":1,"op":0,"d":"}","s":42,"t":"TYPING_START"}"#, false);
    assert_reads_dispatch(r#"{"t":"X","s":1,"op":0,"d":{},"s":42,"t":"TYPING_START"}"#, false);
}

#[test]
fn an_escaped_event_type_stays_raw() {
    assert_eq!(read(r#"{"t":"A\"B","s":1,"op":0,"d":{}}"#).event_type, Some(r#"A\"B"#));
}

#[test]
fn numbers_that_are_no_sequence_are_none() {
    for number in ["-1", "1.0", "1e3", "18446744073709551616", "\"1\"", "[1]", "true"] {
        let read = read(&format!(r#"{{"t":null,"s":{number},"op":{number},"d":null}}"#)).sequence;
        assert_eq!(read, None, "{number}");
    }
    let largest = read(r#"{"t":null,"s":18446744073709551615,"op":0,"d":null}"#);
    assert_eq!(largest.sequence, Some(u64::MAX));
}

#[test]
fn a_payload_cut_anywhere_is_an_error() {
    for payload in [
        r#"{"op":0,"d":{"x":[1,"\"",true]},"s":42,"t":"TYPING_START"}"#,
        r#"{"t":null,"s":null,"op":9,"d":false}"#,
        r#"{"t":"X","s":1,"op":0,"d":"a}b"}"#,
    ] {
        for cut in 0..payload.len() {
            let cut_payload = &payload.as_bytes()[..cut];
            assert_eq!(scan(cut_payload), Err(ScanError::Truncated { len: cut }), "{}", &payload[..cut]);
        }
    }
}

#[test]
fn a_canonical_payload_cut_anywhere_is_an_error_to_the_exact_scan() {
    let payload = br#"{"t":"X","s":1,"op":0,"d":{"a":{"b":{}}}}"#;
    for cut in 0..payload.len() {
        assert_eq!(scan_exact(&payload[..cut]), Err(ScanError::Truncated { len: cut }));
        let looks_whole = payload[..cut].ends_with(b"}}");
        assert_eq!(scan(&payload[..cut]).is_ok(), looks_whole, "cut at {cut}");
    }
}

#[test]
fn what_is_no_object_is_an_error() {
    for payload in ["[]", "1", "null", "{]", "{}x", "{} {}", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1,}"#, r#"{a:1}"#, "\0"] {
        let result = scan(payload.as_bytes());
        assert!(matches!(result, Err(ScanError::Unexpected { .. })), "{payload}: {result:?}");
    }
    assert_eq!(read("{}").op, None);
}

#[test]
fn canonicalizing_moves_values_and_leaves_their_bytes() {
    let payload = br#" {"op":0, "x":1, "d":{ "b" : 1.0,"a":"\u0041"}, "s":7, "t":"X"} "#;
    let mut out = b"left over".to_vec();
    let envelope = canonicalize(payload, &scan(payload).unwrap(), &mut out);
    assert_eq!(str::from_utf8(&out), Ok(r#"{"t":"X","s":7,"op":0,"d":{ "b" : 1.0,"a":"\u0041"}}"#));
    assert_eq!(scan(&out), Ok(envelope));
}

#[test]
fn recorded_payloads_are_read_as_their_file_names_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/payloads/disgord/startup-smooth-1");
    let Ok(files) = std::fs::read_dir(folder) else { return };
    for file in files {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        // `2_0_GUILD_CREATE.json`: position, op, event.
        let mut parts = name.trim_end_matches(".json").splitn(3, '_');
        let (op, event_type) = (parts.nth(1), parts.next());
        let payload = std::fs::read(file.path()).unwrap();
        properties::scan(&payload);
        let envelope = scan(&payload).unwrap();
        assert_eq!(envelope.op, op.and_then(|op| op.parse().ok()), "{name}");
        assert_eq!(envelope.event_type.map(|span| &payload[span]), event_type.map(str::as_bytes), "{name}");
    }
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", " ", "\n\t", "\r "])
}

/// A string in quotes, made of what confuses scanners.
fn string() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "ä",
        "🎉",
        r"\\",
        r#"\""#,
        r"\/",
        r"\n",
        r"\u0073",
        r"\\u0073",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        r#"\"s\":1,"#,
        r#"{\"t\":\"READY\",\"s\":1,\"op\":0}"#,
        "READY",
    ]);
    prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn key() -> impl Strategy<Value = String> {
    let ours =
        vec!["t", "s", "op", "d", r"\u0074", r"\u0073", r"o\u0070", r"\u006f\u0070", r"\u0064", r"\\u0073", "_trace"];
    prop_oneof![4 => prop::sample::select(ours).prop_map(|key| format!("\"{key}\"")), 1 => string()]
}

fn scalar() -> impl Strategy<Value = String> {
    let fixed = vec!["null", "true", "false", "0", "-1", "1.0", "2e3", "18446744073709551615", "\"READY\""];
    prop_oneof![
        prop::sample::select(fixed).prop_map(str::to_owned),
        any::<u32>().prop_map(|it| it.to_string()),
        string()
    ]
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((space(), key(), space(), space(), value, space()), 0..7).prop_map(|members| {
        let members = members.into_iter().map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

fn json() -> impl Strategy<Value = String> {
    scalar().prop_recursive(3, 24, 5, |inner| {
        let array = (prop::collection::vec(inner.clone(), 0..4), space())
            .prop_map(|(values, space)| format!("[{}]", values.join(&format!(",{space}"))));
        prop_oneof![array, object(inner)]
    })
}

/// Payloads in Discord's own form, some of them with more behind it.
fn canonical() -> impl Strategy<Value = String> {
    let more =
        prop_oneof![4 => Just(String::new()), 1 => (key(), json()).prop_map(|(key, json)| format!(",{key}:{json}"))];
    (prop::option::of(string()), prop::option::of(any::<u64>()), any::<u8>(), json(), more).prop_map(
        |(event_type, sequence, op, data, more)| {
            let event_type = event_type.unwrap_or("null".into());
            let sequence = sequence.map_or("null".into(), |it| it.to_string());
            format!(r#"{{"t":{event_type},"s":{sequence},"op":{op},"d":{data}{more}}}"#)
        },
    )
}

fn envelope() -> impl Strategy<Value = String> {
    let any_form = (space(), object(json()), space()).prop_map(|(a, object, b)| format!("{a}{object}{b}"));
    prop_oneof![any_form, canonical()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn valid_json_is_read_as_simd_json_reads_it(payload in envelope()) {
        simd_json::to_tape(&mut payload.clone().into_bytes()).expect("the generator makes valid JSON");
        properties::scan(payload.as_bytes());
    }

    #[test]
    fn damaged_json_does_no_harm(
        payload in envelope(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut: prop::sample::Index,
    ) {
        let mut payload = payload.into_bytes();
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        properties::scan(&payload);
        payload.truncate(cut.index(payload.len()));
        properties::scan(&payload);
    }

    #[test]
    fn any_bytes_do_no_harm(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        properties::scan(&payload);
    }
}

#[test]
fn text_that_is_not_utf_8_is_refused_where_it_begins() {
    let mut payload = br#"{"t":"A","s":1,"op":0,"d":{"text":"x"}}"#.to_vec();
    assert!(scan_text(&payload).is_ok());
    let at = payload.iter().position(|it| *it == b'x').unwrap();
    payload[at] = 0xC3;
    assert!(scan(&payload).is_ok());
    assert_eq!(scan_text(&payload), Err(ScanError::NotUtf8 { offset: at }));
}
