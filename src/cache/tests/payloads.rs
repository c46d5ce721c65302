//! Recorded guilds and events, read where they lie beside the project; without them these tests have nothing to read.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// Every payload file, with what it parses to.
fn payloads() -> Vec<(PathBuf, String, Value)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("../shared/payloads")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "json")
                && let Ok(text) = fs::read_to_string(&path)
                && let Ok(value) = serde_json::from_str(&text)
            {
                found.push((path, text, value));
            }
        }
    }
    found
}

/// The raw `d` of a frame, or the object itself.
fn data(text: &str) -> &[u8] {
    let text = text.trim().as_bytes();
    let [op, d] = json::pick(text, ["op", "d"]).unwrap_or_default();
    op.and(d).unwrap_or(text)
}

#[test]
fn recorded_guilds_come_back_as_they_were() {
    for (path, text, value) in payloads() {
        let mut expected = value.get("d").unwrap_or(&value).clone();
        if !expected.get("id").is_some_and(Value::is_string)
            || !["roles", "emojis"].iter().all(|key| expected.get(key).is_some())
        {
            continue;
        }
        let d = data(&text);
        let mut cache = Cache::new(ALL, Shapes::default());
        cache.apply(b"GUILD_CREATE", d).unwrap_or_else(|error| panic!("{error} in {}", path.display()));
        let [id] = cache.guilds().collect::<Vec<_>>()[..] else { panic!("no guild in {}", path.display()) };
        let (_, written) = announced(&cache, id.0).unwrap();
        if !d.contains(&b'\n') && !text.contains("\": ") && expected.get("unavailable") == Some(&json!(false)) {
            assert_eq!(written.as_bytes(), d, "{}", path.display());
        }
        expected["unavailable"] = json!(false);
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), expected, "{}", path.display());
        assert_eq!(cache.counts(), recount(&cache));
    }
}

#[test]
fn recorded_objects_of_any_kind_leave_a_valid_guild_behind_every_event() {
    for (path, text, _) in payloads() {
        let mut cache = Cache::new(ALL, Shapes::default());
        cache.on_ready(fixture::ready(OWN, &[10]).as_bytes()).unwrap();
        cache.apply(b"GUILD_CREATE", fixture::guild(10, fixture::USUAL).as_bytes()).unwrap();
        let d = data(&text);
        let Ok(in_guild) = super::edit::edit(d, &[], &[(b"guild_id", b"\"10\"")]) else { continue };
        for event in maker::EVENTS.iter().filter(|event| !["READY", "GUILD_CREATE", "GUILD_DELETE"].contains(event)) {
            cache
                .apply(event.as_bytes(), &in_guild)
                .unwrap_or_else(|error| panic!("{event}: {error} in {}", path.display()));
            created(&cache, 10);
            assert_eq!(cache.counts(), recount(&cache));
        }
    }
}

/// Every object in `value`, itself included, with an id if it has one.
fn objects<'a>(value: &'a [u8], found: &mut Vec<(u64, &'a [u8])>) {
    if json::is_object(value) {
        found.push((kind::object_id(Some(value)).ok().flatten().unwrap_or_default(), value));
        json::members(value).into_iter().flatten().flatten().for_each(|member| objects(member.value, found));
    } else if json::is_array(value) {
        json::elements(value).into_iter().flatten().flatten().for_each(|element| objects(element, found));
    }
}

#[test]
fn every_recorded_object_comes_back_from_the_packer() {
    let (shapes, mut ids) = (Shapes::default(), pack::Ids::default());
    let (mut len, mut packed_len) = (0, 0);
    for (path, text, _) in payloads() {
        let mut found = Vec::new();
        objects(text.trim().as_bytes(), &mut found);
        for (id, object) in found {
            for style in [pack::Style::Element, pack::Style::WithIds, pack::Style::Long] {
                let packed = shapes.pack(object, &[], id, &mut ids, style, <[u8]>::to_vec);
                let mut out = Vec::new();
                shapes.unpack(&packed, id, &ids, &mut out);
                assert_eq!(out, object, "{} in {}", String::from_utf8_lossy(object), path.display());
                (len, packed_len) = (len + object.len(), packed_len + packed.len());
            }
        }
    }
    assert!(packed_len <= len / 2, "{packed_len} of {len}");
}

#[test]
fn recorded_readys_come_back_with_another_session() {
    for (path, text, value) in payloads().into_iter().filter(|(.., value)| value["t"] == "READY") {
        let mut expected = value["d"].clone();
        let mut cache = Cache::new(ALL, Shapes::default());
        cache.on_ready(data(&text)).unwrap();
        expected["session_id"] = json!("our session");
        expected["resume_gateway_url"] = json!("ws://ours");
        expected["shard"] = json!([3, 9]);
        assert_eq!(serde_json::from_str::<Value>(&ready_of(&cache)).unwrap(), expected, "{}", path.display());
    }
}
