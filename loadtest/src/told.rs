//! What a gateway tells a client that identifies: READY and its guilds, taken whole, to be compared with another's.
//!
//! Two gateways that saw the same events must tell the same. Arrays of objects are compared by id, since Discord
//! promises no order; everything else must be equal as JSON.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

use crate::client::options::INTENTS;
use crate::http;
use crate::payload::envelope;
use crate::tls;
use crate::url::Url;
use crate::ws::{self, Deframer};

const MESSAGE_BYTES_MAX: u64 = 1 << 30;
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);
/// What READY says of the session and not of the state.
const OF_THE_SESSION: [&str; 3] = ["session_id", "resume_gateway_url", "_trace"];

/// READY under `READY`, and the last word on each guild under its id.
pub type State = BTreeMap<String, Value>;

/// Identifies at `url` as `shard` of `shards` with the token `fake`, takes READY and all its guilds, and leaves with 1000.
///
/// Errs when the connection does not become a session or ends early.
pub async fn take(url: &str, [shard, shards]: [u32; 2]) -> io::Result<State> {
    let url = Url::parse(url).ok_or_else(|| io::Error::other(format!("no ws URL: {url:?}")))?;
    let link = tls::connect(&url, None).await?;
    link.send(
        format!(
            "GET /?v=10&encoding=json HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            url.authority(),
            ws::key([1; 16]),
        )
        .as_bytes(),
    );
    let mut deframer = Deframer::new(false, MESSAGE_BYTES_MAX);
    let status = http::receive(&link, &mut deframer.bytes).await?.status();
    if status != 101 {
        return Err(io::Error::other(format!("the upgrade was answered {status}")));
    }
    let identify = format!(
        "{{\"op\":2,\"d\":{{\"token\":\"fake\",\"properties\":{{}},\"shard\":[{shard},{shards}],\"intents\":{INTENTS}}}}}"
    );
    let mut frame = Vec::new();
    ws::push_frame(&mut frame, ws::TEXT, identify.as_bytes(), MASK);
    link.send(&frame);
    let mut state = State::new();
    let mut due = None;
    while due != Some(0) {
        let Some((opcode, message)) = deframer.next_message().map_err(|it| io::Error::other(format!("{it:?}")))? else {
            deframer.compact();
            if link.read(&mut deframer.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        if opcode == ws::CLOSE {
            return Err(io::Error::other(format!("closed with {}", ws::close_code(message))));
        }
        let text = std::str::from_utf8(message).map_err(io::Error::other)?;
        let Some(envelope) = envelope(text) else { continue };
        match envelope.t {
            Some("READY") => {
                let mut ready: Value = serde_json::from_str(envelope.d)?;
                due = Some(ready["guilds"].as_array().map_or(0, Vec::len));
                OF_THE_SESSION.iter().for_each(|it| ready[it] = Value::Null);
                state.insert("READY".to_owned(), sorted(ready));
            }
            Some("GUILD_CREATE" | "GUILD_DELETE") => {
                let guild: Value = serde_json::from_str(envelope.d)?;
                let id = guild["id"].as_str().unwrap_or_default().to_owned();
                if state.insert(id, sorted(guild)).is_none() {
                    due = due.map(|it| it - 1);
                }
            }
            _ => {}
        }
    }
    frame.clear();
    ws::push_close(&mut frame, 1000, "", MASK);
    link.send(&frame);
    Ok(state)
}

/// The first place where two states differ, in words; `None` when they tell the same.
pub fn difference(left: &State, right: &State) -> Option<String> {
    let ids: Vec<_> = left.keys().chain(right.keys()).collect();
    ids.into_iter().find_map(|id| match (left.get(id), right.get(id)) {
        (Some(left), Some(right)) => differs(id.clone(), left, right),
        (left, _) => Some(format!("{id} is only on the {}", if left.is_some() { "left" } else { "right" })),
    })
}

fn differs(path: String, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: Vec<_> = left.keys().chain(right.keys().filter(|it| !left.contains_key(*it))).collect();
            keys.into_iter().find_map(|key| match (left.get(key), right.get(key)) {
                (Some(left), Some(right)) => differs(format!("{path}.{key}"), left, right),
                (left, _) => {
                    Some(format!("{path}.{key} is only on the {}", if left.is_some() { "left" } else { "right" }))
                }
            })
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            let mut pairs = left.iter().zip(right).enumerate();
            pairs.find_map(|(at, (left, right))| {
                let name = id_of(left).map_or(at.to_string(), |it| it.to_string());
                differs(format!("{path}[{name}]"), left, right)
            })
        }
        (Value::Array(left), Value::Array(right)) => Some(format!("{path} has {} and {}", left.len(), right.len())),
        _ if left == right => None,
        _ => Some(format!("{path} is {left} and {right}")),
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            if items.iter().all(|it| id_of(it).is_some()) {
                items.sort_by_cached_key(|it| id_of(it).map(str::to_owned));
            }
            Value::Array(items)
        }
        Value::Object(keys) => Value::Object(keys.into_iter().map(|(key, value)| (key, sorted(value))).collect()),
        other => other,
    }
}

/// What names an object inside its array: its id, or that of its user.
fn id_of(value: &Value) -> Option<&str> {
    value["id"].as_str().or(value["user"]["id"].as_str()).or(value["user_id"].as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(guild: Value) -> State {
        State::from([("7".to_owned(), sorted(guild))])
    }

    #[test]
    fn the_order_of_objects_with_ids_does_not_matter_and_that_of_others_does() {
        let one = state(json!({"roles": [{"id": "1"}, {"id": "2"}], "features": ["A", "B"]}));
        let other = state(json!({"features": ["A", "B"], "roles": [{"id": "2"}, {"id": "1"}]}));
        assert_eq!(difference(&one, &other), None);
        let swapped = state(json!({"roles": [{"id": "1"}, {"id": "2"}], "features": ["B", "A"]}));
        assert_eq!(difference(&one, &swapped).unwrap(), "7.features[0] is \"A\" and \"B\"");
    }

    #[test]
    fn a_difference_is_named_by_its_path() {
        let base = json!({"members": [{"user": {"id": "5"}, "nick": null}]});
        for (other, words) in [
            (json!({"members": [{"user": {"id": "5"}, "nick": "x"}]}), "7.members[5].nick is null and \"x\""),
            (json!({"members": [{"user": {"id": "5"}}]}), "7.members[5].nick is only on the left"),
            (json!({"members": []}), "7.members has 1 and 0"),
        ] {
            assert_eq!(difference(&state(base.clone()), &state(other)).unwrap(), words);
        }
        assert_eq!(difference(&State::new(), &state(base)).unwrap(), "7 is only on the right");
    }
}
