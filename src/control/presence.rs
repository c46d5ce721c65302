//! `activity` and `status` of the configuration as the `d` of an op 3.
//!
//! Not here: putting the shard's number in place of `{{shard}}`; each shard does that with its own.

#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::keys::{Found, Keys, Refusal};

/// The longest presence that is accepted, in bytes of JSON. It travels inside IDENTIFY, which Discord cuts off at 4096 bytes.
const PRESENCE_BYTES_MAX: usize = 3000;

/// What Discord lets a bot set in an activity.
///
/// Source: Discord, Gateway events › Activity object.
const SENT: [&str; 4] = ["name", "type", "url", "state"];

/// Keys of an activity that configurations may hold and that Discord does not take from bots.
const NOT_SENT: [&str; 13] = [
    "application_id",
    "assets",
    "buttons",
    "created_at",
    "details",
    "emoji",
    "flags",
    "id",
    "instance",
    "party",
    "secrets",
    "sync_id",
    "timestamps",
];

/// What `status` may be.
pub const STATUSES: [&str; 5] = ["online", "dnd", "idle", "invisible", "offline"];

/// `d` of op 3 as JSON text, or `None` when neither key is given; the warnings are about keys that are not sent.
pub fn presence(
    activity: Option<Found<'_>>,
    status: Option<Found<'_>>,
) -> Result<(Option<String>, Vec<String>), Refusal> {
    if activity.is_none() && status.is_none() {
        return Ok((None, Vec::new()));
    }
    let mut warnings = Vec::new();
    let status = status.map_or(Ok("online"), |found| found.word(&STATUSES))?;
    let activities = match &activity {
        Some(found) => vec![read_activity(found, &mut warnings)?],
        None => Vec::new(),
    };
    let text = json!({"since": null, "activities": activities, "status": status, "afk": false}).to_string();
    if text.len() > PRESENCE_BYTES_MAX {
        let wanted = format!("an activity that fits into {PRESENCE_BYTES_MAX} bytes");
        return Err(Refusal::new("activity", format_args!("{} bytes", text.len()), wanted));
    }
    Ok((Some(text), warnings))
}

fn read_activity(found: &Found<'_>, warnings: &mut Vec<String>) -> Result<Value, Refusal> {
    let map = found.object()?;
    let keys = Keys::new(format!("{}.", found.key()), map);
    let mut activity = Map::new();
    let kind = keys.get("type").map_or(Ok(0), |found| found.integer(0, 5))?;
    let name = match keys.get("name") {
        Some(found) => match found.text("a string")? {
            "" => return Err(found.refuse("a text of at least one character")),
            name => name,
        },
        // Of a custom status only `state` is shown, but Discord wants a name.
        None if kind == 4 => "Custom Status",
        None => return Err(keys.missing("name", "the text to show, such as \"on shard {{shard}}\"")),
    };
    activity.insert("name".into(), name.into());
    activity.insert("type".into(), kind.into());
    for key in ["url", "state"] {
        if let Some(found) = keys.get_nullable(key) {
            activity.insert(key.into(), found.text("a string")?.into());
        }
    }
    let not_sent = map.keys().filter(|key| NOT_SENT.contains(&key.as_str()) && !map[key.as_str()].is_null());
    warnings.extend(not_sent.map(|key| format!("`activity.{key}` is not sent: Discord takes {SENT:?} from bots")));
    warnings.extend(keys.unknown(&[&SENT[..], &NOT_SENT[..]].concat()));
    Ok(Value::Object(activity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Option<String>, Vec<String>), Refusal> {
        let map = serde_json::from_str(text).unwrap();
        let keys = Keys::new("", &map);
        presence(keys.get_nullable("activity"), keys.get("status"))
    }

    fn read_text(text: &str) -> Value {
        serde_json::from_str(&read(text).unwrap().0.unwrap()).unwrap()
    }

    #[test]
    fn without_both_keys_there_is_no_presence() {
        assert_eq!(read(r#"{"activity":null}"#), Ok((None, Vec::new())));
    }

    #[test]
    fn the_readme_example_of_gateway_proxy_becomes_a_presence() {
        let presence =
            read_text(r#"{"activity":{"type":0,"name":"on shard {{shard}} with kubernetes"},"status":"idle"}"#);
        let activity = json!({"name": "on shard {{shard}} with kubernetes", "type": 0});
        assert_eq!(presence, json!({"since":null,"activities":[activity],"status":"idle","afk":false}));
    }

    #[test]
    fn a_status_alone_has_no_activities() {
        assert_eq!(read_text(r#"{"status":"dnd"}"#)["activities"], json!([]));
    }

    #[test]
    fn a_custom_status_needs_no_name() {
        let presence = read_text(r#"{"activity":{"type":4,"state":"shard {{shard}}","emoji":null}}"#);
        assert_eq!(presence["activities"][0]["state"], "shard {{shard}}");
        assert_eq!(presence["activities"][0]["name"], "Custom Status");
        assert_eq!(presence["status"], "online");
    }

    #[test]
    fn each_mistake_names_its_key() {
        for (text, start) in [
            (r#"{"activity":"x"}"#, "activity: found \"x\", wanted an object"),
            (r#"{"activity":{}}"#, "activity.name: found nothing"),
            (r#"{"activity":{"name":""}}"#, "activity.name: found \"\""),
            (r#"{"activity":{"name":"x","type":"playing"}}"#, "activity.type: found \"playing\""),
            (r#"{"activity":{"name":"x","type":6}}"#, "activity.type: found 6"),
            (r#"{"activity":{"name":"x","url":1}}"#, "activity.url: found 1"),
            (r#"{"status":"away"}"#, "status: found \"away\", wanted one of \"online\", \"dnd\""),
        ] {
            let line = read(text).unwrap_err().to_string();
            assert!(line.starts_with(start), "{text} gave {line}");
        }
    }

    #[test]
    fn an_activity_that_would_not_fit_into_identify_is_refused() {
        let text = json!({"activity": {"name": "x".repeat(PRESENCE_BYTES_MAX)}}).to_string();
        assert!(read(&text).unwrap_err().to_string().starts_with("activity: found 30"));
    }

    #[test]
    fn keys_that_discord_does_not_take_from_bots_are_left_out_with_a_warning() {
        let (text, warnings) = read(r#"{"activity":{"name":"x","details":"y","stat":"z"}}"#).unwrap();
        assert!(!text.unwrap().contains("details"));
        assert!(warnings[0].starts_with("`activity.details` is not sent"), "{warnings:?}");
        assert!(warnings[1].contains("nearest known key is `activity.state`"), "{warnings:?}");
    }
}
