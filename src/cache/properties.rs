//! What must hold for any events of Discord's: called by a property test and by the fuzz target `state`.
//!
//! Not for use outside of tests.

use serde_json::{Map, Value};

use super::{Cache, CacheFlags, Shapes};
use crate::wire::GuildId;

/// Stands in front of the lines, so that their events find something to change.
const READY: &str =
    r#"{"v":10,"user":{"id":"1"},"guilds":[{"id":"5","unavailable":true},{"id":"6","unavailable":true}]}"#;

/// Lines of an event's type, a space and its `d`, applied one after the other: nothing panics; what is JSON is applied, and then all that is
/// written is JSON; a state put back from what was written is the same. Lines that are not UTF-8 are left out: the framing refuses them.
pub fn events(bytes: &[u8]) {
    let mut cache = Cache::new(CacheFlags::ALL, Shapes::default());
    cache.on_ready(READY.as_bytes()).expect("a READY");
    for line in bytes.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok()) {
        let Some((event, d)) = line.split_once(' ') else { continue };
        let is_json = serde_json::from_str::<Map<String, Value>>(d).is_ok();
        let result = match event {
            "READY" => cache.on_ready(d.as_bytes()),
            _ => cache.apply(event.as_bytes(), d.as_bytes()),
        };
        if is_json {
            assert!(event == "READY" || result.is_ok(), "{event} {d}: {result:?}");
        } else if result.is_ok() {
            // What a skipped value hides may pass. Starting over keeps it from what follows.
            cache = Cache::new(CacheFlags::ALL, Shapes::default());
            cache.on_ready(READY.as_bytes()).expect("a READY");
        }
    }
    let (ready, guilds) = written(&cache);
    for d in guilds.iter().map(|it| &it.1).chain([&ready]) {
        assert!(serde_json::from_slice::<Value>(d).is_ok(), "{}", String::from_utf8_lossy(d));
    }
    let mut other = Cache::new(CacheFlags::ALL, Shapes::default());
    other.on_ready(&ready).expect("what was written is a READY");
    for (guild, d) in guilds.iter().rev() {
        other.restore_guild(*guild, d).expect("what was written is a guild");
    }
    other.restore_order(cache.guilds().collect());
    assert!(written(&other) == (ready, guilds), "put back, the state is another");
}

/// READY and each guild, as a client would be sent them.
pub(super) fn written(cache: &Cache) -> (Vec<u8>, Vec<(GuildId, Vec<u8>)>) {
    let mut ready = Vec::new();
    cache.write_ready("s", "u", [0, 1], &mut ready);
    let guilds = cache.guilds().map(|id| {
        let mut d = Vec::new();
        cache.write_guild(id, &mut d).expect("a guild that is listed");
        (id, d)
    });
    (ready, guilds.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::events;

    /// Enough of Discord's words that something happens.
    fn line() -> impl Strategy<Value = String> {
        let event = prop::sample::select(vec![
            "READY",
            "GUILD_CREATE",
            "GUILD_DELETE",
            "GUILD_UPDATE",
            "GUILD_MEMBER_ADD",
            "GUILD_MEMBER_REMOVE",
            "PRESENCE_UPDATE",
            "VOICE_STATE_UPDATE",
            "THREAD_CREATE",
            "CHANNEL_CREATE",
        ]);
        let part = prop::sample::select(vec![
            r#""id":"5""#,
            r#""id":"6""#,
            r#""guild_id":"5""#,
            r#""user":{"id":"1"}"#,
            r#""user":{"id":"2","username":"\u00e9"}"#,
            r#""members":[{"user":{"id":"1"}},{"user":{"id":"2"}},{}]"#,
            r#""channels":[{"id":"7","type":0}]"#,
            r#""roles":[1,null,{"id":"8"}]"#,
            r#""unavailable":true"#,
            r#""new":[1,{}]"#,
            r#""channel_id":"7""#,
            r#""unfinished":["#,
        ]);
        (event, prop::collection::vec(part, 0..6)).prop_map(|(event, parts)| format!("{event} {{{}}}", parts.join(",")))
    }

    proptest! {
        #[test]
        fn any_lines_leave_a_state_that_can_be_written_and_put_back(lines in prop::collection::vec(line(), 0..12)) {
            events(lines.join("\n").as_bytes());
        }

        #[test]
        fn any_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            events(&bytes);
        }
    }
}
