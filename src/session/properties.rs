//! What must hold for any input: called by property tests and by the fuzz targets.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::commands::Commands;
use super::payload::{self, ClientPayload, PAYLOAD_BYTES_MAX};

/// A client's payload is refused with one of Discord's close codes, or is understood; and a command that is understood goes up
/// as valid JSON of at most 4096 bytes, with its op and with nothing of `d` lost but the nonce.
pub fn client_payload(bytes: &[u8]) {
    let command = match payload::parse(bytes) {
        Ok(ClientPayload::Command(command)) => command,
        Ok(_) => return,
        Err(error) => {
            let code = error.close_code().0;
            assert!((4001..=4014).contains(&code), "{code} is no code of Discord's");
            return;
        }
    };
    let sent: Value = serde_json::from_str(&command.d).expect("a command's d is JSON");
    let op = command.op as u64;
    let now = origin();
    let mut commands = Commands::new(&mut fastrand::Rng::with_seed(1), now);
    commands.push(1, command, now).expect("an empty queue has room");
    commands.resume(now);
    let Some(up) = commands.poll(now) else { panic!("a command waits although nothing stands before it") };
    assert!(up.len() <= PAYLOAD_BYTES_MAX, "{} bytes would go up", up.len());
    let up: Value = serde_json::from_slice(&up).expect("what goes up is JSON");
    assert_eq!(up["op"], op);
    assert_eq!(without_nonce(&up["d"]), without_nonce(&sent));
    assert!(commands.poll(now + Duration::from_secs(120)).is_none(), "one command went up twice");
}

fn without_nonce(d: &Value) -> Value {
    let mut d = d.clone();
    if let Some(object) = d.as_object_mut() {
        object.remove("nonce");
    }
    d
}

/// Some instant to count from: for this and for what stands above.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant has no other constructor, and this one is never compared with the clock"
)]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::client_payload;

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            client_payload(&bytes);
        }

        #[test]
        fn damaged_commands_are_refused_or_understood(
            op in prop::sample::select(vec![1u8, 2, 3, 4, 6, 8, 31, 43, 99]), at in 0usize..160, byte in any::<u8>(), cut in 0usize..200,
        ) {
            let mut text = format!(
                r#"{{"op":{op},"d":{{"guild_id":"1","channel_id":null,"self_mute":false,"self_deaf":true,"query":"","limit":0,"guild_ids":["1"],"fields":["status"],"since":null,"activities":[],"status":"online","afk":false,"nonce":"n"}}}}"#
            ).into_bytes();
            if let Some(slot) = text.get_mut(at) {
                *slot = byte;
            }
            text.truncate(text.len().saturating_sub(if cut < 40 { cut } else { 0 }));
            client_payload(&text);
        }
    }
}
