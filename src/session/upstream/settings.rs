//! What a shard says to Discord about itself: its IDENTIFY, and the URL it connects to.
#![forbid(unsafe_code)]

use crate::wire::{Compression, ShardId};

/// What a shard says to Discord about itself.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    pub shard: ShardId,
    pub shard_count: u32,
    /// Without the prefix `Bot `.
    pub token: String,
    pub intents: u64,
    /// `d` of op 3 as JSON text, for this shard.
    pub presence: Option<String>,
    /// The main URL, without query.
    pub gateway_url: String,
    pub compression: Compression,
}

impl UpstreamSettings {
    /// The whole IDENTIFY.
    pub(super) fn identify_payload(&self) -> Vec<u8> {
        let mut d = serde_json::json!({
            "token": self.token,
            "properties": {"os": "linux", "browser": "shardgate", "device": "shardgate"},
            "shard": [self.shard.0, self.shard_count],
            "intents": self.intents,
            "large_threshold": 250,
        });
        if let Some(presence) = self.presence.as_deref().and_then(|it| serde_json::from_str(it).ok()) {
            d["presence"] = presence;
        }
        let payload = serde_json::json!({"op": 2, "d": d});
        payload.to_string().into_bytes()
    }

    /// `base` without its trailing slash and query, with ours.
    pub(super) fn connect_url(&self, base: &str) -> String {
        let base = base.split('?').next().unwrap_or(base).trim_end_matches('/');
        match self.compression.query_value() {
            Some(value) => format!("{base}/?v=10&encoding=json&compress={value}"),
            None => format!("{base}/?v=10&encoding=json"),
        }
    }
}
