//! Answers to what a bot asks for: members, voice, sounds, channel info. Presence updates are only counted.

use std::rc::Rc;

use serde_json::{Value, json};

use super::Discord;
use super::conversation::Refusal;
use super::session::Entry;
use super::template::push_number;
use super::world::{BOT_ID, separated};
use crate::clock::SECOND_NS;

/// Members in one GUILD_MEMBERS_CHUNK.
const CHUNK_MEMBERS: usize = 1000;
/// Source: Discord, Gateway events › Request guild members.
const USER_IDS_MAX: usize = 100;
const LIMIT_MAX: u64 = 100;
const NONCE_BYTES_MAX: usize = 32;
/// One request for all members of a guild per this time.
const ALL_MEMBERS_NS: u64 = 30 * SECOND_NS;

impl Discord {
    pub(super) fn on_command(
        &mut self,
        shard: u32,
        session_id: &str,
        op: u64,
        d: &Value,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        match op {
            4 => self.on_voice(shard, session_id, d),
            8 => self.on_request_members(shard, session_id, d, now_ns),
            31 => self.on_request_sounds(shard, session_id, d),
            43 => self.on_request_channel_info(shard, session_id, d),
            _ => check_presence(d),
        }
    }

    /// The guild that `d.guild_id` names, if this shard has it. Libraries send string, number or an array of one.
    fn guild_of(&self, shard: u32, id: &Value) -> Option<(u64, u32)> {
        let id = snowflake(if id.is_array() { &id[0] } else { id })?;
        let (found, index) = self.world.find_guild(id)?;
        (found == shard).then_some((id, index))
    }

    fn answer(&mut self, shard: u32, session_id: &str, name: &str, d: String) {
        self.dispatch_to(shard, session_id, Entry::Raw(Rc::new((name.to_owned(), d))));
    }

    fn on_voice(&mut self, shard: u32, session_id: &str, d: &Value) -> Result<(), Refusal> {
        let (guild, _) = self.guild_of(shard, &d["guild_id"]).ok_or((4001, "op 4 for another shard's guild"))?;
        let channel = snowflake(&d["channel_id"]);
        let channel_json = channel.map_or("null".to_owned(), |it| format!("\"{it}\""));
        let (mute, deaf) = (d["self_mute"] == true, d["self_deaf"] == true);
        let voice_session = format!("{guild:032x}");
        let state = format!(
            "{{\"user_id\":\"{BOT_ID}\",\"suppress\":false,\"session_id\":\"{voice_session}\",\"self_video\":false,\
             \"self_mute\":{mute},\"self_deaf\":{deaf},\"request_to_speak_timestamp\":null,\"mute\":false,\
             \"guild_id\":\"{guild}\",\"deaf\":false,\"channel_id\":{channel_json}}}"
        );
        self.answer(shard, session_id, "VOICE_STATE_UPDATE", state);
        if channel.is_some() {
            let server =
                format!("{{\"token\":\"voice\",\"guild_id\":\"{guild}\",\"endpoint\":\"voice.example.invalid:443\"}}");
            self.answer(shard, session_id, "VOICE_SERVER_UPDATE", server);
        }
        Ok(())
    }

    fn on_request_members(&mut self, shard: u32, session_id: &str, d: &Value, now_ns: u64) -> Result<(), Refusal> {
        let (guild, index) = self.guild_of(shard, &d["guild_id"]).ok_or((4001, "op 8 for another shard's guild"))?;
        let nonce = d["nonce"].as_str().filter(|it| it.len() <= NONCE_BYTES_MAX).map(|it| json!(it).to_string());
        let (members, not_found) = match (&d["query"], &d["user_ids"]) {
            (_, Value::Array(ids)) if ids.len() > USER_IDS_MAX => return Err((4001, "op 8 with over 100 user_ids")),
            (_, Value::Array(ids)) => self.members_by_id(shard, index, ids),
            (_, id @ (Value::String(_) | Value::Number(_))) => {
                self.members_by_id(shard, index, std::slice::from_ref(id))
            }
            (Value::String(query), _) => {
                let limit = d["limit"].as_u64().ok_or((4001, "op 8 with query and without limit"))?;
                let all = query.is_empty() && limit == 0;
                if !all && !(1..=LIMIT_MAX).contains(&limit) {
                    return Err((4001, "op 8 with this limit"));
                }
                if all && self.is_chunked_again(shard, guild, now_ns, nonce.as_deref(), session_id) {
                    return Ok(());
                }
                let limit = if all { u64::MAX } else { limit };
                let count = self.world.member_count(index);
                let named = (0..count).filter(|it| format!("member_{it}").starts_with(query.as_str()));
                (named.take(limit as usize).collect(), Vec::new())
            }
            _ => return Err((4001, "op 8 without query and user_ids")),
        };
        let chunks: Vec<&[u32]> = if members.is_empty() { vec![&[]] } else { members.chunks(CHUNK_MEMBERS).collect() };
        let count = chunks.len();
        let texts: Vec<String> = (0..count)
            .map(|at| {
                let not_found = if at == 0 { &not_found[..] } else { &[] };
                self.chunk(
                    shard,
                    (guild, index),
                    chunks[at],
                    (at, count),
                    not_found,
                    d["presences"] == true,
                    nonce.as_deref(),
                )
            })
            .collect();
        for text in texts {
            self.answer(shard, session_id, "GUILD_MEMBERS_CHUNK", text);
        }
        Ok(())
    }

    /// Answers RATE_LIMITED when all members of `guild` were asked for a short time ago.
    fn is_chunked_again(&mut self, shard: u32, guild: u64, now_ns: u64, nonce: Option<&str>, session_id: &str) -> bool {
        let chunked_ns = &mut self.shards[shard as usize].chunked_ns;
        let since_ns = chunked_ns.get(&guild).map_or(u64::MAX, |it| now_ns - it);
        if since_ns >= ALL_MEMBERS_NS {
            chunked_ns.insert(guild, now_ns);
            return false;
        }
        self.stats.rate_limited += 1;
        let nonce = nonce.map_or(String::new(), |it| format!(",\"nonce\":{it}"));
        let retry_after = (ALL_MEMBERS_NS - since_ns) as f64 / SECOND_NS as f64;
        let d =
            format!("{{\"retry_after\":{retry_after:.3},\"opcode\":8,\"meta\":{{\"guild_id\":\"{guild}\"{nonce}}}}}");
        self.answer(shard, session_id, "RATE_LIMITED", d);
        true
    }

    fn members_by_id(&self, shard: u32, index: u32, ids: &[Value]) -> (Vec<u32>, Vec<String>) {
        let mut members = Vec::new();
        let mut not_found = Vec::new();
        for id in ids {
            match snowflake(id).and_then(|user| self.world.find_member(shard, index, user)) {
                Some(member) => members.push(member),
                None => not_found.push(id.to_string()),
            }
        }
        (members, not_found)
    }

    #[expect(clippy::too_many_arguments, reason = "one for each key of the event")]
    fn chunk(
        &self,
        shard: u32,
        (guild, index): (u64, u32),
        members: &[u32],
        (chunk_index, chunk_count): (usize, usize),
        not_found: &[String],
        presences: bool,
        nonce: Option<&str>,
    ) -> String {
        let mut out = Vec::new();
        if presences {
            out.extend_from_slice(b"{\"presences\":[");
            let listed = members.iter().copied().filter(|it| it % 3 == 1);
            separated(&mut out, listed, |it, out| self.world.presence(shard, index, it, out));
            out.extend_from_slice(b"],");
        } else {
            out.push(b'{');
        }
        if !not_found.is_empty() {
            out.extend_from_slice(format!("\"not_found\":[{}],", not_found.join(",")).as_bytes());
        }
        if let Some(nonce) = nonce {
            out.extend_from_slice(format!("\"nonce\":{nonce},").as_bytes());
        }
        out.extend_from_slice(b"\"members\":[");
        separated(&mut out, members.iter().copied(), |it, out| self.world.member(shard, index, it, out));
        out.extend_from_slice(b"],\"guild_id\":\"");
        push_number(&mut out, guild);
        out.extend_from_slice(format!("\",\"chunk_index\":{chunk_index},\"chunk_count\":{chunk_count}}}").as_bytes());
        String::from_utf8(out).expect("templates and JSON strings are UTF-8")
    }

    fn on_request_sounds(&mut self, shard: u32, session_id: &str, d: &Value) -> Result<(), Refusal> {
        let ids = d["guild_ids"].as_array().ok_or((4001, "op 31 without guild_ids"))?;
        for id in ids {
            let (guild, _) = self.guild_of(shard, id).ok_or((4001, "op 31 for another shard's guild"))?;
            let sounds = format!(
                "{{\"soundboard_sounds\":[{{\"volume\":0.66,\"user_id\":\"{BOT_ID}\",\"sound_id\":\"{}\",\"name\":\"quack\\\\\",\
                 \"guild_id\":\"{guild}\",\"emoji_name\":\"🦆\",\"emoji_id\":null,\"available\":true}}],\"guild_id\":\"{guild}\"}}",
                guild + 160
            );
            self.answer(shard, session_id, "SOUNDBOARD_SOUNDS", sounds);
        }
        Ok(())
    }

    fn on_request_channel_info(&mut self, shard: u32, session_id: &str, d: &Value) -> Result<(), Refusal> {
        let (guild, _) = self.guild_of(shard, &d["guild_id"]).ok_or((4001, "op 43 for another shard's guild"))?;
        let fields = d["fields"].as_array().ok_or((4001, "op 43 without fields"))?;
        let mut keys = String::new();
        for (field, key) in
            [("status", ",\"status\":\"playing\""), ("voice_start_time", ",\"voice_start_time\":1790000000")]
        {
            if fields.iter().any(|it| it == field) {
                keys.push_str(key);
            }
        }
        let info = format!("{{\"guild_id\":\"{guild}\",\"channels\":[{{\"id\":\"{}\"{keys}}}]}}", guild + 110);
        self.answer(shard, session_id, "CHANNEL_INFO", info);
        Ok(())
    }
}

fn check_presence(d: &Value) -> Result<(), Refusal> {
    let is_valid = ["online", "dnd", "idle", "invisible", "offline"].iter().any(|it| d["status"] == *it);
    if is_valid { Ok(()) } else { Err((4001, "op 3 without a valid status")) }
}

fn snowflake(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    }
}
