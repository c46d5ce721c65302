//! What a client's payload says: text or binary JSON of at most 4096 bytes to `ClientPayload`.
//!
//! Lenient where client libraries are odd and nobody else is hurt; strict about commands, since those go on to Discord on the
//! connection that all clients share. It does not know what the client may say at this moment; that is `client`'s.
//!
//! Cost: one pass for the envelope, one for `d`, on a few payloads a minute and client. serde_json is used since it keeps
//! the text of `d`, which simd-json overwrites while it parses.
#![forbid(unsafe_code)]

use std::fmt;

use serde_json::Value;

use super::raw::RawObject;
use crate::wire::{CloseCode, GuildId};

/// The longest payload that a client may send, and that Discord takes, in bytes.
///
/// Source: Discord, Gateway › Sending events.
pub const PAYLOAD_BYTES_MAX: usize = 4096;

/// One payload of a client.
#[derive(Debug, PartialEq)]
pub enum ClientPayload {
    /// Op 1, or op 40, which carries quality of service besides. `d` is never looked at: libraries send null, 0 and -1.
    Heartbeat,
    Identify(Identify),
    Resume(Resume),
    Command(Command),
    /// Op 5: Discord knows it and bots have no use for it.
    VoiceServerPing,
}

/// What the proxy needs of an IDENTIFY's `d`.
#[derive(Debug, PartialEq)]
pub struct Identify {
    pub token: Token,
    /// `[shard_id, num_shards]` as sent; `None` when absent, which means `[0, 1]`.
    pub shard: Option<[u32; 2]>,
    pub intents: u64,
    /// Payload compression was asked for.
    pub compress: bool,
}

impl Identify {
    pub fn shard_or_default(&self) -> [u32; 2] {
        self.shard.unwrap_or([0, 1])
    }
}

/// A RESUME's `d`.
#[derive(Debug, PartialEq)]
pub struct Resume {
    pub token: Token,
    pub session_id: String,
    pub seq: u64,
}

/// A bot token as a client wrote it. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The opcodes that go on to Discord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandOp {
    PresenceUpdate = 3,
    VoiceStateUpdate = 4,
    RequestGuildMembers = 8,
    RequestSoundboardSounds = 31,
    RequestChannelInfo = 43,
}

/// A payload for Discord, found to be of a shape that Discord takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub op: CommandOp,
    /// The text of `d`, as the client wrote it but for keys that were missing: an object.
    pub d: Box<str>,
    /// It was sent before, to a session that Discord has forgotten since.
    pub is_repeated: bool,
}

impl Command {
    pub fn new(op: CommandOp, d: impl Into<Box<str>>) -> Self {
        Self { op, d: d.into(), is_repeated: false }
    }

    /// Takes out what is about guilds that `is_ours` does not hold for: Discord has nothing to say about them on this shard's connection,
    /// and may close it. False when nothing is left of the command.
    pub fn keep_guilds(&mut self, is_ours: impl Fn(GuildId) -> bool) -> bool {
        let is_ours = |it: &Value| snowflake(it).is_none_or(|it| is_ours(GuildId(it)));
        let Ok(Value::Object(d)) = serde_json::from_str(&self.d) else { return true };
        match (self.op, d.get("guild_id"), d.get("guild_ids")) {
            (CommandOp::RequestSoundboardSounds, _, Some(Value::Array(guilds))) => {
                let ours: Vec<_> = guilds.iter().filter(|it| is_ours(it)).collect();
                if ours.len() < guilds.len() {
                    let ours = serde_json::to_string(&ours).unwrap_or_default();
                    self.d = RawObject::parse(&self.d)
                        .map_or_else(String::new, |it| it.with("guild_ids", Some(&ours)))
                        .into();
                    return ours != "[]";
                }
                true
            }
            (_, Some(Value::Array(guilds)), _) => guilds.iter().all(is_ours),
            (_, Some(guild), _) => is_ours(guild),
            _ => true,
        }
    }
}

/// Why a payload says nothing that can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    TooLong {
        len: usize,
    },
    NotUtf8,
    /// Not one JSON object, or one with a key twice.
    NotAnObject,
    /// `op` is missing or no integer.
    NoOp,
    UnknownOp {
        op: i64,
    },
    /// `d` or one of its keys is not what this op needs.
    Shape {
        op: i64,
        key: &'static str,
    },
    /// IDENTIFY's `shard` is no pair of numbers that a shard can have.
    Shard,
    /// IDENTIFY's `intents` is missing or no set of bits.
    Intents,
    /// RESUME's `seq` is no sequence.
    Seq,
}

impl ClientError {
    /// What the client is told. Each variant decides once, here.
    ///
    /// Source: Discord, Opcodes and status codes › Gateway close event codes.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::TooLong { .. } | Self::NotUtf8 | Self::NotAnObject | Self::NoOp | Self::Shape { .. } => {
                CloseCode::DECODE_ERROR
            }
            Self::UnknownOp { .. } => CloseCode::UNKNOWN_OPCODE,
            Self::Shard => CloseCode::INVALID_SHARD,
            Self::Intents => CloseCode::INVALID_INTENTS,
            Self::Seq => CloseCode::INVALID_SEQ,
        }
    }

    /// The reason in the close frame.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "Payload of more than 4096 bytes.",
            Self::NotUtf8 => "Payload is not UTF-8.",
            Self::NotAnObject => "Payload is not a JSON object.",
            Self::NoOp => "Payload has no opcode.",
            Self::UnknownOp { .. } => "Unknown opcode.",
            Self::Shape { .. } => "Error while decoding payload.",
            Self::Shard => "Invalid shard.",
            Self::Intents => "Invalid intent(s).",
            Self::Seq => "Invalid seq.",
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => write!(f, "payload of {len} bytes, {PAYLOAD_BYTES_MAX} at most"),
            Self::UnknownOp { op } => write!(f, "unknown op {op}"),
            Self::Shape { op, key } => write!(f, "op {op}: `{key}` has the wrong shape"),
            _ => f.write_str(self.reason()),
        }
    }
}

impl std::error::Error for ClientError {}

/// Reads one payload, from a text or a binary message alike.
pub fn parse(payload: &[u8]) -> Result<ClientPayload, ClientError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(ClientError::TooLong { len: payload.len() });
    }
    let text = std::str::from_utf8(payload).map_err(|_| ClientError::NotUtf8)?;
    let envelope = RawObject::parse(text).ok_or(ClientError::NotAnObject)?;
    let op = envelope.get("op").and_then(|it| serde_json::from_str(it).ok());
    let op = op.filter(Value::is_number).as_ref().and_then(integer).ok_or(ClientError::NoOp)?;
    let d = envelope.get("d").unwrap_or("null");
    match op {
        1 | 40 => Ok(ClientPayload::Heartbeat),
        2 => Members::parse(op, d)?.identify().map(ClientPayload::Identify),
        3 => command(CommandOp::PresenceUpdate, d),
        4 => command(CommandOp::VoiceStateUpdate, d),
        5 => Ok(ClientPayload::VoiceServerPing),
        6 => Members::parse(op, d)?.resume().map(ClientPayload::Resume),
        8 => command(CommandOp::RequestGuildMembers, d),
        31 => command(CommandOp::RequestSoundboardSounds, d),
        43 => command(CommandOp::RequestChannelInfo, d),
        _ => Err(ClientError::UnknownOp { op }),
    }
}

fn command(op: CommandOp, d: &str) -> Result<ClientPayload, ClientError> {
    // Two readers of a key that is there twice may disagree: what is checked here must be what Discord sees.
    let refuse = || ClientError::Shape { op: op as i64, key: "d" };
    RawObject::parse(d).ok_or_else(refuse)?;
    let members = Members::parse(op as i64, d)?;
    members.check(op)?;
    let mut text = d.to_owned();
    for (key, default) in defaults(op) {
        // Where null is what is meant, it may stand there.
        let is_there = if *default == "null" { members.d.contains_key(*key) } else { !members.get(key).is_null() };
        if !is_there && (op != CommandOp::RequestGuildMembers || members.get("query").is_string()) {
            text = RawObject::parse(&text).ok_or_else(refuse)?.with(key, Some(default));
        }
    }
    if text.len() > d.len() && text.len() > PAYLOAD_BYTES_MAX - ENVELOPE_BYTES_MAX {
        return Err(refuse());
    }
    Ok(ClientPayload::Command(Command::new(op, text)))
}

/// What is around `d` in a payload of ours.
const ENVELOPE_BYTES_MAX: usize = r#"{"op":43,"d":}"#.len();

/// Keys that Discord wants, and what they are where a client leaves them out. Discord would end the connection, or the session, of all clients of
/// the shard, where without a proxy it is the client's own.
///
/// Source: Discord, Gateway events › Update presence, Update voice state, Request guild members; discord-api-docs issues 732, 1372, 2226.
fn defaults(op: CommandOp) -> &'static [(&'static str, &'static str)] {
    match op {
        CommandOp::PresenceUpdate => {
            &[("since", "null"), ("activities", "[]"), ("status", r#""online""#), ("afk", "false")]
        }
        CommandOp::VoiceStateUpdate => &[("channel_id", "null"), ("self_mute", "false"), ("self_deaf", "false")],
        // Beside a query.
        CommandOp::RequestGuildMembers => &[("limit", "0")],
        CommandOp::RequestSoundboardSounds | CommandOp::RequestChannelInfo => &[],
    }
}

/// `d` as parsed values, with the op for errors. Parsing whole refuses what Discord's decoder might: lone surrogates,
/// numbers out of range, deep nesting.
struct Members {
    op: i64,
    d: serde_json::Map<String, Value>,
}

impl Members {
    fn parse(op: i64, d: &str) -> Result<Self, ClientError> {
        let d = serde_json::from_str(d).map_err(|_| ClientError::Shape { op, key: "d" })?;
        Ok(Self { op, d })
    }

    fn get(&self, key: &str) -> &Value {
        self.d.get(key).unwrap_or(&Value::Null)
    }

    fn require(&self, key: &'static str, is_right: impl Fn(&Value) -> bool) -> Result<(), ClientError> {
        is_right(self.get(key)).then_some(()).ok_or(ClientError::Shape { op: self.op, key })
    }

    /// Like `require`, for keys that libraries leave out or send as null.
    fn allow(&self, key: &'static str, is_right: impl Fn(&Value) -> bool) -> Result<(), ClientError> {
        self.require(key, |it| it.is_null() || is_right(it))
    }

    /// A null or missing string is an empty one: it is answered like any other wrong token or session.
    fn text(&self, key: &'static str) -> Result<String, ClientError> {
        match self.get(key) {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            _ => Err(ClientError::Shape { op: self.op, key }),
        }
    }

    fn identify(&self) -> Result<Identify, ClientError> {
        Ok(Identify {
            token: Token(self.text("token")?),
            shard: self.shard()?,
            // Discord's own bits end below 2^32 by far; unknown ones below it may be new, and are let through.
            intents: integer(self.get("intents"))
                .and_then(|it| u32::try_from(it).ok())
                .map(u64::from)
                .ok_or(ClientError::Intents)?,
            compress: *self.get("compress") == Value::Bool(true),
        })
    }

    fn shard(&self) -> Result<Option<[u32; 2]>, ClientError> {
        let pair = match self.get("shard") {
            Value::Null => return Ok(None),
            Value::Array(pair) => pair,
            _ => return Err(ClientError::Shape { op: self.op, key: "shard" }),
        };
        let number = |it: &Value| integer(it).and_then(|it| u32::try_from(it).ok()).ok_or(ClientError::Shard);
        match pair.as_slice() {
            [shard, count] => Ok(Some([number(shard)?, number(count)?])),
            _ => Err(ClientError::Shard),
        }
    }

    fn resume(&self) -> Result<Resume, ClientError> {
        let seq = integer(self.get("seq")).and_then(|it| u64::try_from(it).ok());
        Ok(Resume {
            token: Token(self.text("token")?),
            session_id: self.text("session_id")?,
            seq: seq.ok_or(ClientError::Seq)?,
        })
    }

    /// Types as documented, plus what libraries are known to send. Missing keys pass where a library is known to leave them out.
    fn check(&self, op: CommandOp) -> Result<(), ClientError> {
        match op {
            CommandOp::PresenceUpdate => {
                // `since` is not looked at: serenity 0.12 sends an object, and it passes.
                self.allow("status", |it| it.as_str().is_some_and(|it| STATUSES.contains(&it)))?;
                self.allow("activities", |it| is_list_of(it, is_activity))?;
                self.allow("afk", Value::is_boolean)
            }
            CommandOp::VoiceStateUpdate => {
                self.require("guild_id", is_guild)?;
                self.allow("channel_id", is_snowflake)?;
                self.allow("self_mute", Value::is_boolean)?;
                self.allow("self_deaf", Value::is_boolean)?;
                self.allow("self_video", Value::is_boolean)
            }
            CommandOp::RequestGuildMembers => {
                self.require("guild_id", is_guild)?;
                self.allow("query", Value::is_string)?;
                self.allow("user_ids", |it| is_id(it) || is_list_of(it, is_id))?;
                self.allow("limit", |it| integer(it).is_some_and(|it| it >= 0))?;
                let is_search = self.get("query").as_str().is_some_and(|it| !it.is_empty());
                self.require("limit", |limit| !is_search || !limit.is_null())?;
                self.allow("presences", Value::is_boolean)?;
                self.require("query", |query| !query.is_null() || !self.get("user_ids").is_null())
            }
            CommandOp::RequestSoundboardSounds => self.require("guild_ids", |it| is_list_of(it, is_snowflake)),
            CommandOp::RequestChannelInfo => {
                self.require("guild_id", is_guild)?;
                self.require("fields", |it| is_list_of(it, Value::is_string))
            }
        }
    }
}

const STATUSES: [&str; 5] = ["online", "dnd", "idle", "invisible", "offline"];

/// An integer however a serialiser wrote it: `1`, `1.0` or `"1"`.
fn integer(value: &Value) -> Option<i64> {
    // Above 2^53 a float no longer says which integer was meant.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64().filter(|it| it.fract() == 0.0 && it.abs() <= EXACT);
            float.map(|it| it as i64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A snowflake as text or as the number that discord.py sends.
fn snowflake(value: &Value) -> Option<u64> {
    match value {
        // `parse` takes a plus sign.
        Value::String(text) if !text.starts_with('+') => text.parse().ok(),
        _ => value.as_u64(),
    }
}

fn is_snowflake(value: &Value) -> bool {
    snowflake(value).is_some()
}

/// A guild's snowflake, or discordgo's array of one.
fn is_guild(value: &Value) -> bool {
    match value.as_array().map(Vec::as_slice) {
        Some([it]) => is_snowflake(it),
        Some(_) => false,
        None => is_snowflake(value),
    }
}

/// An object; its name and type are what they are called, where they are there.
fn is_activity(value: &Value) -> bool {
    let has = |key: &str, is_right: fn(&Value) -> bool| value.get(key).is_none_or(is_right);
    value.is_object() && has("name", Value::is_string) && has("type", Value::is_u64)
}

/// Whatever stands for a user: Discord answers ids that are no snowflakes with `not_found`.
fn is_id(value: &Value) -> bool {
    value.is_string() || value.is_number()
}

fn is_list_of(value: &Value, is_right: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|them| them.iter().all(is_right))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identify(d: &str) -> Result<Identify, ClientError> {
        match parse(format!(r#"{{"op":2,"d":{d}}}"#).as_bytes())? {
            ClientPayload::Identify(identify) => Ok(identify),
            other => panic!("{other:?}"),
        }
    }

    fn resume(d: &str) -> Result<Resume, ClientError> {
        match parse(format!(r#"{{"op":6,"d":{d}}}"#).as_bytes())? {
            ClientPayload::Resume(resume) => Ok(resume),
            other => panic!("{other:?}"),
        }
    }

    fn code(payload: &str) -> u16 {
        parse(payload.as_bytes()).unwrap_err().close_code().0
    }

    #[test]
    fn a_heartbeat_may_carry_anything() {
        for d in ["null", "0", "-1", "251", "2.0", r#""x""#, r#"{"seq":1,"qos":{}}"#] {
            assert_eq!(parse(format!(r#"{{"op":1,"d":{d}}}"#).as_bytes()), Ok(ClientPayload::Heartbeat));
        }
        for payload in [r#"{"op":1}"#, r#"{"d":3,"op":40}"#, r#" {"x":[],"op" : 1.0 } "#] {
            assert_eq!(parse(payload.as_bytes()), Ok(ClientPayload::Heartbeat));
        }
    }

    #[test]
    fn an_identify_is_read_whatever_else_it_carries() {
        let d = r#"{"token":"Bot a.b","properties":{"$os":"x"},"shard":[1.0,"4"],"intents":513,"compress":true,
            "v":3,"client_state":{},"presence":{"game":null}}"#;
        let read = identify(d).unwrap();
        assert_eq!(read.token, Token("Bot a.b".into()));
        assert_eq!((read.shard, read.intents, read.compress), (Some([1, 4]), 513, true));
    }

    #[test]
    fn a_missing_shard_means_the_only_one() {
        for d in [r#"{"token":"t","intents":0}"#, r#"{"token":"t","intents":0,"shard":null}"#] {
            let read = identify(d).unwrap();
            assert_eq!((read.shard, read.shard_or_default()), (None, [0, 1]));
        }
    }

    #[test]
    fn a_shard_that_cannot_be_is_4010() {
        for shard in ["[-1,1]", "[0]", "[0,1,2]", "[0.5,1]", "[0,5000000000]", "[null,1]"] {
            assert_eq!(identify(&format!(r#"{{"intents":0,"shard":{shard}}}"#)), Err(ClientError::Shard), "{shard}");
        }
        assert_eq!(code(r#"{"op":2,"d":{"shard":[9,-1],"intents":0}}"#), 4010);
    }

    #[test]
    fn intents_that_are_no_set_of_bits_are_4013() {
        for intents in ["null", "-1", "4294967296", "1.5", r#""all""#, "[]"] {
            let d = format!(r#"{{"token":"t","intents":{intents}}}"#);
            assert_eq!(identify(&d), Err(ClientError::Intents), "{intents}");
        }
        assert_eq!(code(r#"{"op":2,"d":{"token":"t"}}"#), 4013);
    }

    #[test]
    fn an_undocumented_low_intent_is_let_through() {
        assert_eq!(identify(r#"{"token":"t","intents":4294967295}"#).unwrap().intents, 0xffff_ffff);
    }

    #[test]
    fn a_resume_is_read() {
        let read = resume(r#"{"token":"t","session_id":"0a","seq":1337,"x":1}"#).unwrap();
        assert_eq!((read.session_id.as_str(), read.seq), ("0a", 1337));
    }

    #[test]
    fn a_resume_without_a_sequence_is_4007() {
        for seq in ["null", "-1", "1.5"] {
            let d = format!(r#"{{"token":"t","session_id":"0a","seq":{seq}}}"#);
            assert_eq!(resume(&d), Err(ClientError::Seq), "{seq}");
        }
        assert_eq!(code(r#"{"op":6,"d":{"token":"t","session_id":"0a"}}"#), 4007);
    }

    #[test]
    fn what_cannot_be_decoded_is_4002() {
        for payload in ["", "{", "[]", "null", "1", "{}", r#"{"op":null}"#, r#"{"op":"1"}"#, r#"{"op":1.5}"#] {
            assert_eq!(code(payload), 4002, "{payload}");
        }
        for payload in [r#"{"op":2}"#, r#"{"op":2,"d":[]}"#, r#"{"op":2,"d":{"token":1}}"#, r#"{"op":1,"op":2}"#] {
            assert_eq!(code(payload), 4002, "{payload}");
        }
        assert_eq!(parse(b"{\"op\":1,\"d\":\"\xff\"}"), Err(ClientError::NotUtf8));
    }

    #[test]
    fn an_unknown_op_is_4001() {
        for op in [-1, 0, 7, 9, 10, 11, 14, 36, 99] {
            assert_eq!(code(&format!(r#"{{"op":{op},"d":null}}"#)), 4001);
        }
    }

    #[test]
    fn a_payload_of_4096_bytes_is_read_and_a_longer_one_is_not() {
        let payload = |len: usize| format!(r#"{{"op":1,"d":"{}"}}"#, "x".repeat(len - r#"{"op":1,"d":""}"#.len()));
        assert_eq!(parse(payload(4096).as_bytes()), Ok(ClientPayload::Heartbeat));
        assert_eq!(parse(payload(4097).as_bytes()), Err(ClientError::TooLong { len: 4097 }));
    }

    #[test]
    fn commands_that_libraries_send_pass_as_they_came() {
        for (op, d) in [
            (3, r#"{"since":{"secs_since_epoch":1,"nanos_since_epoch":2},"activities":[],"status":"dnd","afk":false}"#),
            (3, r#"{"since":1.0,"activities":[{"name":"x","type":0,"state":null}],"status":"online","afk":false}"#),
            (4, r#"{"guild_id":1,"channel_id":null,"self_mute":false,"self_deaf":true,"flags":2}"#),
            (8, r#"{"guild_id":["1"],"query":"","limit":0,"presences":false,"nonce":""}"#),
            (8, r#"{"guild_id":1,"user_ids":[1,"2"],"limit":null}"#),
            (8, r#"{"guild_id":"1","user_ids":"2"}"#),
            (31, r#"{"guild_ids":["1","2"]}"#),
            (43, r#"{"guild_id":"1","fields":["status"]}"#),
        ] {
            let parsed = parse(format!(r#"{{"d": {d},"op":{op}}}"#).as_bytes());
            let Ok(ClientPayload::Command(command)) = parsed else { panic!("{d}: {parsed:?}") };
            assert_eq!((command.op as i64, &*command.d), (op, d));
        }
    }

    #[test]
    fn what_discord_wants_and_a_client_leaves_out_is_put_in() {
        for (op, d, completed) in [
            (3, "{}", r#"{"since":null,"activities":[],"status":"online","afk":false}"#),
            (
                3,
                r#"{"status":"dnd","activities":null}"#,
                r#"{"status":"dnd","activities":[],"since":null,"afk":false}"#,
            ),
            (4, r#"{"guild_id":"1"}"#, r#"{"guild_id":"1","channel_id":null,"self_mute":false,"self_deaf":false}"#),
            (8, r#"{"guild_id":"1","query":""}"#, r#"{"guild_id":"1","query":"","limit":0}"#),
        ] {
            let parsed = parse(format!(r#"{{"op":{op},"d":{d}}}"#).as_bytes());
            let Ok(ClientPayload::Command(command)) = parsed else { panic!("{d}: {parsed:?}") };
            assert_eq!(&*command.d, completed);
        }
        let name = "x".repeat(PAYLOAD_BYTES_MAX - 60);
        assert_eq!(
            code(&format!(r#"{{"op":3,"d":{{"activities":[{{"name":"{name}"}}]}}}}"#)),
            4002,
            "no room for what is missing"
        );
    }

    #[test]
    fn commands_of_a_wrong_shape_are_4002() {
        for (op, d) in [
            (3, "null"),
            (3, r#"{"status":"away"}"#),
            (3, r#"{"activities":{}}"#),
            (3, r#"{"activities":[{"name":"x","type":"WATCHING"}]}"#),
            (3, r#"{"activities":[{"name":1,"type":0}]}"#),
            (4, r#"{"guild_id":"+5","channel_id":null}"#),
            (8, r#"{"guild_id":"1","query":"a"}"#),
            (8, r#"{"guild_id":"1","query":"","limit":-7}"#),
            (4, "[]"),
            (4, r#"{"channel_id":"1"}"#),
            (4, r#"{"guild_id":"x"}"#),
            (4, r#"{"guild_id":"1","self_mute":"yes"}"#),
            (8, r#"{"guild_id":"1"}"#),
            (8, r#"{"guild_id":["1","2"],"query":""}"#),
            (8, r#"{"guild_id":"1","guild_id":"2","query":""}"#),
            (8, r#"{"guild_id":"1","query":1}"#),
            (8, r#"{"guild_id":"1","user_ids":[[]]}"#),
            (31, r#"{"guild_ids":"1"}"#),
            (43, r#"{"guild_id":"1"}"#),
        ] {
            assert_eq!(code(&format!(r#"{{"op":{op},"d":{d}}}"#)), 4002, "{d}");
        }
    }

    #[test]
    fn what_some_decoders_refuse_never_leaves_the_proxy() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for state in [r#""\ud800""#, r#""\udc00x""#, "1e999", &deep] {
            let payload = format!(r#"{{"op":3,"d":{{"status":"online","since":{state}}}}}"#);
            assert_eq!(code(&payload), 4002, "{state}");
        }
    }

    #[test]
    fn a_token_does_not_show_in_logs() {
        let shown = format!("{:?}", identify(r#"{"token":"hunter2","intents":0}"#).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), op in 0..50, d in "[{}\\[\\]\":,a0-9.e\\\\-]{0,24}") {
            let _ = parse(&bytes);
            let _ = parse(format!(r#"{{"op":{op},"d":{d}}}"#).as_bytes());
        }
    }
}
