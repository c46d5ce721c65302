//! Answers to what a bot asks for: members, voice, sounds, channel info. Presence updates are only counted.

use std::rc::Rc;

use serde_json::{Value, json};

use super::Discord;
use super::conversation::Refusal;
use super::session::{Chunk, Entry};
use super::template::push_number;
use super::world::{BOT_ID, separated};
use crate::clock::SECOND_NS;

/// Members in one GUILD_MEMBERS_CHUNK.
const CHUNK_MEMBERS: usize = 1000;
/// Source: Discord, Gateway events › Request guild members.
const USER_IDS_MAX: usize = 100;
const LIMIT_MAX: u64 = 100;
const NONCE_BYTES_MAX: usize = 32;

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
                let members = self.world.members(shard, index);
                let is_named = |it: &u32| query.is_empty() || format!("member_{it}").starts_with(query.as_str());
                let limit = if all { usize::MAX } else { limit as usize };
                (members.into_iter().filter(is_named).take(limit).collect(), Vec::new())
            }
            _ => return Err((4001, "op 8 without query and user_ids")),
        };
        let chunks: Vec<&[u32]> = if members.is_empty() { vec![&[]] } else { members.chunks(CHUNK_MEMBERS).collect() };
        let count = chunks.len();
        for (at, members) in chunks.into_iter().enumerate() {
            let chunk = Chunk {
                guild_index: index,
                members: members.to_vec(),
                not_found: if at == 0 { not_found.clone() } else { Vec::new() },
                index: at,
                count,
                presences: d["presences"] == true,
                nonce: nonce.clone(),
            };
            self.answers.push_back((shard, session_id.to_owned(), Entry::Chunk(Rc::new(chunk))));
        }
        self.send_answers();
        Ok(())
    }

    /// Sends what was asked for, as fast as it is taken.
    pub(super) fn send_answers(&mut self) {
        while let Some((shard, session_id, _)) = self.answers.front() {
            if self.is_behind(*shard, session_id) {
                return;
            }
            let Some((shard, session_id, entry)) = self.answers.pop_front() else { return };
            self.dispatch_to(shard, &session_id, entry);
        }
    }

    /// Answers RATE_LIMITED when all members of `guild` were asked for a short time ago.
    fn is_chunked_again(&mut self, shard: u32, guild: u64, now_ns: u64, nonce: Option<&str>, session_id: &str) -> bool {
        let interval_ns = self.options.members_interval_ns;
        let chunked_ns = &mut self.shards[shard as usize].chunked_ns;
        let since_ns = chunked_ns.get(&guild).map_or(u64::MAX, |it| now_ns - it);
        if since_ns >= interval_ns {
            chunked_ns.insert(guild, now_ns);
            return false;
        }
        self.stats.rate_limited += 1;
        let nonce = nonce.map_or(String::new(), |it| format!(",\"nonce\":{it}"));
        let retry_after = (interval_ns - since_ns) as f64 / SECOND_NS as f64;
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

    /// Appends the `d` of a GUILD_MEMBERS_CHUNK.
    pub(super) fn render_chunk(&self, shard: u32, chunk: &Chunk, out: &mut Vec<u8>) {
        let index = chunk.guild_index;
        let state = self.world.state(shard, index);
        // Who has left since the question was asked is no member any more.
        let members = || chunk.members.iter().copied().filter(|it| state.people[*it as usize].is_in);
        if chunk.presences {
            out.extend_from_slice(b"{\"presences\":[");
            let online = members().filter(|it| state.people[*it as usize].presence > 0);
            separated(out, online, |it, out| self.world.presence_of(shard, index, &state, it, out));
            out.extend_from_slice(b"],");
        } else {
            out.push(b'{');
        }
        if !chunk.not_found.is_empty() {
            out.extend_from_slice(format!("\"not_found\":[{}],", chunk.not_found.join(",")).as_bytes());
        }
        if let Some(nonce) = &chunk.nonce {
            out.extend_from_slice(format!("\"nonce\":{nonce},").as_bytes());
        }
        out.extend_from_slice(b"\"members\":[");
        separated(out, members(), |it, out| self.world.member_of(shard, index, &state, it, out));
        out.extend_from_slice(b"],\"guild_id\":\"");
        push_number(out, self.world.guild_id(shard, index));
        let (at, count) = (chunk.index, chunk.count);
        out.extend_from_slice(format!("\",\"chunk_index\":{at},\"chunk_count\":{count}}}").as_bytes());
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
