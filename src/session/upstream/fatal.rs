//! What a close code of Discord's that stops a shard for good means, and what the operator does about it.
//!
//! Which codes these are is `wire::close`'s affair.
#![forbid(unsafe_code)]

use super::UpstreamSettings;
use crate::wire::CloseCode;

/// Intents that an application must be granted.
///
/// Source: Discord, Gateway › Privileged intents.
const PRIVILEGED: [(u64, &str, &str); 3] = [
    (1 << 1, "GUILD_MEMBERS", "Server Members Intent"),
    (1 << 8, "GUILD_PRESENCES", "Presence Intent"),
    (1 << 15, "MESSAGE_CONTENT", "Message Content Intent"),
];

/// One sentence: what is wrong, and the remedy.
pub fn remedy(code: CloseCode, settings: &UpstreamSettings) -> String {
    let UpstreamSettings { shard, shard_count, intents, .. } = settings;
    match code {
        CloseCode::AUTHENTICATION_FAILED => "the token is wrong or was reset: take a new one from the developer portal (Bot › Reset Token) and put it into `token`, `token_file` or TOKEN"
            .to_owned(),
        CloseCode::INVALID_SHARD => format!(
            "shard {shard} of {shard_count} is not valid: check `shards`, `shard_start` and `shard_end`, or leave them out; a bot with large bot sharding needs a multiple of the number that Discord assigned"
        ),
        CloseCode::SHARDING_REQUIRED => format!(
            "with {shard_count} shards this one would hold more than 2,500 guilds: set a higher `shards`, or leave it out to have as many as Discord recommends"
        ),
        CloseCode::INVALID_API_VERSION => "version 10 of the API is not served any more: take a newer shardgate".to_owned(),
        CloseCode::INVALID_INTENTS => {
            format!("`intents` ({intents}) has bits that Discord does not know: sum up those of the documentation's list of intents")
        }
        CloseCode::DISALLOWED_INTENTS => disallowed(*intents),
        _ => format!("close code {} is final", code.0),
    }
}

fn disallowed(intents: u64) -> String {
    let wanted: Vec<_> = PRIVILEGED.iter().filter(|(bit, ..)| intents & bit != 0).collect();
    let without = intents & !PRIVILEGED.iter().map(|(bit, ..)| bit).sum::<u64>();
    if wanted.is_empty() {
        return format!(
            "`intents` ({intents}) has bits that this application was not granted (developer portal › Bot)"
        );
    }
    let names: Vec<_> = wanted.iter().map(|(bit, name, _)| format!("{name} ({bit})")).collect();
    let switches: Vec<_> = wanted.iter().map(|(_, _, switch)| *switch).collect();
    format!(
        "`intents` ({intents}) has privileged intents that are not enabled for this application: {}; switch on {} in the developer portal (https://discord.com/developers/applications › Bot › Privileged Gateway Intents), or set `intents` to {without}",
        names.join(", "),
        switches.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Compression, ShardId};

    fn remedy_of(code: CloseCode, intents: u64) -> String {
        let settings = UpstreamSettings {
            shard: ShardId(3),
            shard_count: 2,
            token: "hush".to_owned(),
            intents,
            presence: None,
            gateway_url: "ws://gateway.invalid".to_owned(),
            compression: Compression::None,
        };
        remedy(code, &settings)
    }

    #[test]
    fn each_final_code_has_one_sentence() {
        for code in 4000..=4020 {
            let line = remedy_of(CloseCode(code), 513 | 1 << 1);
            assert!(!line.contains("  ") && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn privileged_intents_are_named_with_their_switches_and_what_is_left_without_them() {
        let line = remedy_of(CloseCode::DISALLOWED_INTENTS, 513 | 1 << 1 | 1 << 15);
        assert!(line.contains("GUILD_MEMBERS (2), MESSAGE_CONTENT (32768)"), "{line}");
        assert!(line.contains("Server Members Intent, Message Content Intent in the developer portal"), "{line}");
        assert!(!line.contains("PRESENCE") && line.ends_with("or set `intents` to 513"), "{line}");
        assert!(remedy_of(CloseCode::DISALLOWED_INTENTS, 513).contains("was not granted"));
    }

    #[test]
    fn each_fatal_code_names_what_to_change_and_never_the_token() {
        for (code, wanted) in [
            (CloseCode::AUTHENTICATION_FAILED, "Reset Token"),
            (CloseCode::INVALID_SHARD, "shard 3 of 2 is not valid: check `shards`"),
            (CloseCode::SHARDING_REQUIRED, "set a higher `shards`"),
            (CloseCode::INVALID_API_VERSION, "newer shardgate"),
            (CloseCode::INVALID_INTENTS, "`intents` (1099511627776)"),
        ] {
            let line = remedy_of(code, 1 << 40);
            assert!(line.contains(wanted) && !line.contains("hush"), "{line}");
        }
    }
}
