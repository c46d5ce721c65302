//! Makes events of every type about few guilds, users and channels, so that they meet; and damages them.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Every event type that changes the state of a guild, and READY and USER_UPDATE.
pub const EVENTS: [&str; 38] = [
    "READY",
    "USER_UPDATE",
    "GUILD_CREATE",
    "GUILD_UPDATE",
    "GUILD_DELETE",
    "GUILD_EMOJIS_UPDATE",
    "GUILD_STICKERS_UPDATE",
    "GUILD_ROLE_CREATE",
    "GUILD_ROLE_UPDATE",
    "GUILD_ROLE_DELETE",
    "CHANNEL_CREATE",
    "CHANNEL_UPDATE",
    "CHANNEL_DELETE",
    "CHANNEL_PINS_UPDATE",
    "VOICE_CHANNEL_STATUS_UPDATE",
    "THREAD_CREATE",
    "THREAD_UPDATE",
    "THREAD_DELETE",
    "THREAD_LIST_SYNC",
    "THREAD_MEMBER_UPDATE",
    "THREAD_MEMBERS_UPDATE",
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "GUILD_MEMBERS_CHUNK",
    "PRESENCE_UPDATE",
    "VOICE_STATE_UPDATE",
    "STAGE_INSTANCE_CREATE",
    "STAGE_INSTANCE_UPDATE",
    "STAGE_INSTANCE_DELETE",
    "GUILD_SCHEDULED_EVENT_CREATE",
    "GUILD_SCHEDULED_EVENT_UPDATE",
    "GUILD_SCHEDULED_EVENT_DELETE",
    "GUILD_SOUNDBOARD_SOUND_CREATE",
    "GUILD_SOUNDBOARD_SOUND_UPDATE",
    "GUILD_SOUNDBOARD_SOUND_DELETE",
    "GUILD_SOUNDBOARD_SOUNDS_UPDATE",
    "SOUNDBOARD_SOUNDS",
];

pub const OWN_USER: &str = "30";

/// Draws from its generator alone: one seed, one event.
pub struct Maker {
    pub rng: Rng,
    /// Hundreds of objects with ids like Discord's, instead of a few that meet all the time.
    pub is_wide: bool,
}

/// Texts, and values that look as if they could be packed, or are.
const WORDS: [&str; 28] = [
    "null",
    r#""a \"b\" \\ {""#,
    r#""ü]\n""#,
    r#""40""#,
    "1.5",
    r#"{"id":"40"}"#,
    r#""""#,
    "true",
    "0",
    "-17",
    "1e3",
    "18446744073709551615",
    r#""0001""#,
    r#""1030118727418646629""#,
    r#""18446744073709551616""#,
    r#""2022-10-13T14:35:40.794000+00:00""#,
    r#""2022-10-13T14:35:40.794123+00:00""#,
    r#""2022-02-30T14:35:40+00:00""#,
    r#""561939e4a1550313f5cfdf2bd6dc3732""#,
    r#""a_561939e4a1550313f5cfdf2bd6dc3732""#,
    r#""561939E4A1550313F5CFDF2BD6DC3732""#,
    r#""ec0b28a579ecb4bd""#,
    r#""Visual Studio Code""#,
    "[]",
    r#"["40","9","1030118727418646629"]"#,
    r#"[1,null,{"a":[],"b":{"c":1,"d":2,"e":3,"f":{"g":"x"}}}]"#,
    r#"{"sku_id":"1144058844004233369","expires_at":null,"asset":"a_fed43ab12698df65902ba06727e20c0e"}"#,
    r#"{"a":1,"b":"2","c":null,"d":[[]],"e":{}}"#,
];

impl Maker {
    pub fn event(&mut self) -> (&'static str, Value) {
        let event = match self.rng.u8(..) {
            0..30 if !self.is_wide => "GUILD_CREATE",
            _ => EVENTS[self.rng.usize(1..EVENTS.len())],
        };
        (event, self.data(event))
    }

    fn data(&mut self, event: &str) -> Value {
        let guild = (10 + self.rng.u64(..if self.is_wide { 1 } else { 3 })).to_string();
        let mut d = match event {
            "READY" => return ready_value(),
            "USER_UPDATE" => json!({"id": OWN_USER, "username": self.word(), "extra": self.word()}),
            "GUILD_CREATE" if self.rng.u8(..) > 20 => return self.guild(guild),
            "GUILD_CREATE" => return json!({"id": guild, "unavailable": true}),
            "GUILD_UPDATE" => {
                json!({"id": guild, "name": self.word(), "roles": self.some(Self::role), "emojis": self.some(Self::emoji)})
            }
            "GUILD_DELETE" if self.rng.bool() => return json!({"id": guild, "unavailable": true}),
            "GUILD_DELETE" => return json!({"id": guild}),
            "GUILD_EMOJIS_UPDATE" => json!({"emojis": self.some(Self::emoji)}),
            "GUILD_STICKERS_UPDATE" => json!({"stickers": self.some(Self::emoji)}),
            "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" => json!({"role": self.role()}),
            "GUILD_ROLE_DELETE" => json!({"role_id": self.id(40, 3)}),
            "CHANNEL_CREATE" | "CHANNEL_UPDATE" | "CHANNEL_DELETE" => self.channel(),
            "CHANNEL_PINS_UPDATE" => {
                let (first, many) = *self.rng.choice(&[(50, 4), (60, 4)]).unwrap();
                let pins = json!({"channel_id": self.id(first, many)});
                self.maybe(pins, "last_pin_timestamp")
            }
            "VOICE_CHANNEL_STATUS_UPDATE" => json!({"id": self.id(50, 4), "status": self.word()}),
            "THREAD_CREATE" => {
                let thread = self.thread();
                let mut thread = self.maybe(thread, "x");
                if self.rng.bool() {
                    thread["newly_created"] = json!(true);
                }
                thread
            }
            "THREAD_UPDATE" => self.thread(),
            "THREAD_DELETE" => json!({"id": self.id(60, 4), "parent_id": self.id(50, 4), "type": 11}),
            "THREAD_LIST_SYNC" => {
                let mut sync = json!({"threads": self.some(Self::thread), "members": self.some(Self::thread_member)});
                if self.rng.bool() {
                    sync["channel_ids"] = json!([self.id(50, 4), self.id(50, 4)]);
                }
                sync
            }
            "THREAD_MEMBER_UPDATE" => self.thread_member(),
            "THREAD_MEMBERS_UPDATE" => {
                let mut update = json!({"id": self.id(60, 4), "member_count": self.rng.u8(..50)});
                if self.rng.bool() {
                    update["added_members"] = self.some(Self::thread_member);
                }
                if self.rng.bool() {
                    update["removed_member_ids"] = json!([self.id(30, 4)]);
                }
                update
            }
            "GUILD_MEMBER_ADD" => self.member(),
            "GUILD_MEMBER_UPDATE" => {
                let member = self.member();
                if self.rng.bool() { without(&member, &["joined_at", "deaf", "mute"]) } else { member }
            }
            "GUILD_MEMBER_REMOVE" => json!({"user": self.user()}),
            "GUILD_MEMBERS_CHUNK" => {
                json!({"members": self.some(Self::member), "presences": self.some(Self::presence)})
            }
            "PRESENCE_UPDATE" => self.presence(),
            "VOICE_STATE_UPDATE" => {
                let member = self.member();
                let channel = *self.rng.choice(&[Some("50"), Some("51"), None]).unwrap();
                let state =
                    json!({"user_id": member["user"]["id"], "channel_id": channel, "x": self.word(), "member": member});
                if self.rng.bool() { state } else { without(&state, &["member"]) }
            }
            "STAGE_INSTANCE_CREATE" | "STAGE_INSTANCE_UPDATE" | "STAGE_INSTANCE_DELETE" => self.stage(),
            "GUILD_SCHEDULED_EVENT_CREATE" | "GUILD_SCHEDULED_EVENT_UPDATE" | "GUILD_SCHEDULED_EVENT_DELETE" => {
                self.scheduled()
            }
            "GUILD_SOUNDBOARD_SOUNDS_UPDATE" | "SOUNDBOARD_SOUNDS" => {
                json!({"soundboard_sounds": self.some(Self::sound)})
            }
            _ => self.sound(),
        };
        if !["USER_UPDATE", "GUILD_UPDATE"].contains(&event) {
            d["guild_id"] = json!(guild);
        }
        d
    }

    /// The `d` of a GUILD_CREATE.
    pub fn guild(&mut self, id: String) -> Value {
        json!({
            "id": id, "name": self.word(), "member_count": self.rng.u8(..9), "unknown": [self.word(), {"members": [1.5]}],
            "channels": self.some(Self::channel), "threads": self.some(Self::listed_thread), "roles": self.some(Self::role),
            "emojis": self.some(Self::emoji), "stickers": self.some(Self::emoji), "members": self.some(Self::member),
            "presences": self.some(Self::online), "voice_states": self.some(Self::voice_state),
            "stage_instances": self.some(Self::stage), "guild_scheduled_events": self.some(Self::scheduled),
            "soundboard_sounds": self.some(Self::sound), "unavailable": false,
        })
    }

    fn channel(&mut self) -> Value {
        let channel =
            json!({"id": self.id(50, 4), "type": *self.rng.choice(&[0, 2, 15, 16]).unwrap(), "name": self.word()});
        let channel = self.maybe(channel, "last_message_id");
        self.maybe(channel, "status")
    }

    fn thread(&mut self) -> Value {
        let mut thread = self.listed_thread();
        thread["thread_metadata"] = json!({"archived": self.rng.u8(..4) == 0});
        if self.rng.bool() {
            thread["member"] = self.thread_member();
        }
        thread
    }

    fn listed_thread(&mut self) -> Value {
        json!({"id": self.id(60, 4), "parent_id": self.id(50, 4), "type": 11 + self.rng.u8(..2), "name": self.word()})
    }

    fn thread_member(&mut self) -> Value {
        json!({"id": self.id(60, 4), "user_id": self.id(30, 4), "flags": self.rng.u8(..), "presence": null})
    }

    fn role(&mut self) -> Value {
        let role = json!({"id": self.id(40, 3), "name": self.word(), "permissions": "0"});
        self.maybe(role, "tags")
    }

    fn emoji(&mut self) -> Value {
        let emoji = json!({"id": self.id(70, 3), "name": self.word()});
        self.maybe(emoji, "roles")
    }

    fn user(&mut self) -> Value {
        let user = json!({"id": self.id(30, 4)});
        self.maybe(user, "username")
    }

    fn member(&mut self) -> Value {
        let member = json!({"user": self.user(), "roles": [self.id(40, 2), "9"], "joined_at": "t", "deaf": false, "mute": false});
        self.maybe(member, "nick")
    }

    fn presence(&mut self) -> Value {
        let presence = json!({"user": self.user(), "status": *self.rng.choice(&["online", "offline", "dnd"]).unwrap(), "activities": [self.word()]});
        self.maybe(presence, "client_status")
    }

    fn online(&mut self) -> Value {
        json!({"user": {"id": self.id(30, 4)}, "status": "online", "x": self.word()})
    }

    fn voice_state(&mut self) -> Value {
        let state = json!({"user_id": self.id(30, 4), "channel_id": self.id(50, 4)});
        self.maybe(state, "session_id")
    }

    fn stage(&mut self) -> Value {
        let stage = json!({"id": self.id(80, 2), "topic": self.word()});
        self.maybe(stage, "privacy_level")
    }

    fn scheduled(&mut self) -> Value {
        json!({"id": self.id(90, 2), "status": self.rng.u8(1..5), "name": self.word()})
    }

    fn sound(&mut self) -> Value {
        json!({"sound_id": self.id(95, 3), "volume": 0.5, "name": self.word()})
    }

    fn some(&mut self, make: impl Fn(&mut Self) -> Value) -> Value {
        (0..self.rng.u8(..if self.is_wide { 40 } else { 4 })).map(|_| make(self)).collect()
    }

    /// With `key`, and with keys that nobody knows.
    fn maybe(&mut self, mut object: Value, key: &str) -> Value {
        if self.rng.bool() {
            object[key] = self.word();
        }
        for _ in 0..self.rng.u8(..4) {
            let unknown = format!("unknown_{}", self.rng.u8(..12));
            object[unknown] = self.word();
        }
        object
    }

    fn word(&mut self) -> Value {
        let text = WORDS[self.rng.usize(..WORDS.len())];
        serde_json::from_str(text).unwrap()
    }

    fn id(&mut self, first: u64, many: u64) -> String {
        let place = self.rng.u64(..if self.is_wide { 100 * many } else { many });
        let id = if self.is_wide && place > 0 { (first << 52) + place * 0x0137_F00D_1234 } else { first + place };
        id.to_string()
    }
}

/// READY of two guilds.
pub fn ready_value() -> Value {
    json!({"user": {"id": OWN_USER, "verified": true}, "guilds": [{"id": "10", "unavailable": true}, {"id": "11"}]})
}

/// Some value in `value`, itself included.
fn some_place<'a>(value: &'a mut Value, rng: &mut Rng) -> &'a mut Value {
    let len = value.as_object().map(Map::len).or(value.as_array().map(Vec::len)).unwrap_or(0);
    if len == 0 || rng.u8(..3) == 0 {
        return value;
    }
    let at = rng.usize(..len);
    match value {
        Value::Object(map) => some_place(map.values_mut().nth(at).unwrap(), rng),
        Value::Array(list) => some_place(&mut list[at], rng),
        _ => unreachable!("only these have a len"),
    }
}

/// One event, bent or broken: a value of another type in place of some value, or the text cut or overwritten somewhere.
pub fn damaged(mut d: Value, seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    if rng.bool() {
        let odd = [
            json!(null),
            json!(7),
            json!([]),
            json!({}),
            json!("x"),
            json!([null, {}, [1]]),
            json!({"id": {}}),
            json!(true),
        ];
        let place = some_place(&mut d, &mut rng);
        *place = rng.choice(&odd).unwrap().clone();
        return d.to_string().into_bytes();
    }
    let mut text = d.to_string().into_bytes();
    let at = rng.usize(..text.len());
    match rng.u8(..3) {
        0 => text.truncate(at),
        1 => text[at] = *rng.choice(b"{}[]\",:\\0 \xff").unwrap(),
        _ => drop(text.remove(at)),
    }
    text
}

pub fn without(object: &Value, drop: &[&str]) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().retain(|key, _| !drop.contains(&key.as_str()));
    object
}
