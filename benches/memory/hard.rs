//! Guilds that are hard to pack: random names, ids, times to the microsecond, decorations, none to six roles. The distributions
//! are our assumption; the keys are today's.

use fastrand::Rng;

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
const NAMES: [&str; 12] = [
    "Counter-Strike 2",
    "Visual Studio Code",
    "League of Legends",
    "Spotify",
    "VALORANT",
    "Minecraft",
    "Genshin Impact",
    "Apex Legends",
    "Dota 2",
    "osu!",
    "Roblox",
    "YouTube Music",
];

/// Draws from its generator alone.
pub struct Hard(pub Rng);

impl Hard {
    pub fn id(&mut self) -> u64 {
        self.0.u64(100_000_000_000..1_250_000_000_000 << 8) << 14
    }

    pub fn member(&mut self, user: u64, roles: &[u64]) -> String {
        let count = self.0.usize(..7).min(roles.len());
        let roles: Vec<_> = self.0.choose_multiple(roles.iter(), count).iter().map(|it| format!("\"{it}\"")).collect();
        let avatar = self.hash(8);
        let banner = self.hash(1);
        let nick = self.text(3, 3..20);
        let premium = if self.0.u8(..20) == 0 { self.time() } else { "null".to_owned() };
        let (user, joined) = (self.user(user), self.time());
        format!(
            r#"{{"user":{user},"roles":[{}],"premium_since":{premium},"pending":{},"nick":{nick},"mute":false,"joined_at":{joined},"flags":{},"deaf":false,"communication_disabled_until":null,"banner":{banner},"avatar":{avatar}}}"#,
            roles.join(","),
            self.0.u8(..20) == 0,
            self.0.choice([0, 0, 0, 2, 9]).unwrap_or(0),
            avatar = if self.0.u8(..10) == 0 { avatar } else { "null".to_owned() },
        )
    }

    fn user(&mut self, id: u64) -> String {
        let name = self.text(10, 4..16).to_lowercase();
        let global = self.text(7, 3..18);
        let avatar = self.hash(8);
        let decoration = match self.0.u8(..8) {
            0 => format!(
                r#"{{"sku_id":"{}","expires_at":null,"asset":"a_{:032x}"}}"#,
                1_144_058_844_004_233_369 + self.0.u64(..60),
                u128::from(self.0.u64(..60)) << 64 | 0xfed4_3ab1_2698
            ),
            _ => "null".to_owned(),
        };
        let clan = match self.0.u8(..6) {
            0 => format!(
                r#"{{"tag":"{}","identity_guild_id":"{}","identity_enabled":true,"badge":"{:032x}"}}"#,
                self.0.choice(["WOLF", "ABC", "LFG", "OSS", "meow"]).unwrap_or("X"),
                700_000_000_000_000_000 + self.0.u64(..40),
                self.0.u64(..40)
            ),
            _ => "null".to_owned(),
        };
        let flags = self.0.choice([0, 0, 64, 128, 256, 4_194_304]).unwrap_or(0);
        format!(
            r#"{{"username":{name},"public_flags":{flags},"primary_guild":{clan},"id":"{id}","global_name":{global},"display_name_styles":null,"discriminator":"0","collectibles":null,"clan":{clan},"bot":{},"avatar_decoration_data":{decoration},"avatar":{avatar}}}"#,
            self.0.u8(..50) == 0,
        )
    }

    pub fn presence(&mut self, user: u64) -> String {
        let status = self.0.choice(["online", "idle", "dnd"]).unwrap_or("online");
        let device = self.0.choice(["desktop", "mobile", "web"]).unwrap_or("web");
        let mut activities = Vec::new();
        if self.0.u8(..3) == 0 {
            let state = self.text(10, 4..40);
            activities.push(format!(
                r#"{{"type":4,"state":{state},"name":"Custom Status","id":"custom","created_at":{}}}"#,
                self.millis()
            ));
        }
        if self.0.u8(..3) == 0 {
            let name = self.0.choice(NAMES).unwrap_or(NAMES[0]);
            let details = self.text(8, 5..30);
            activities.push(format!(
                r#"{{"type":0,"timestamps":{{"start":{}}},"name":"{name}","id":"{:016x}","details":{details},"created_at":{},"assets":{{"small_text":"{name}","large_image":"{}"}},"application_id":"{}"}}"#,
                self.millis(),
                self.0.u64(..),
                self.millis(),
                380_000_000_000_000_000 + self.0.u64(..400),
                380_000_000_000_000_000 + self.0.u64(..100),
            ));
        }
        format!(
            r#"{{"user":{{"id":"{user}"}},"status":"{status}","processed_at_timestamp":{},"game":null,"client_status":{{"{device}":"{status}"}},"activities":[{}]}}"#,
            self.millis(),
            activities.join(",")
        )
    }

    pub fn voice_state(&mut self, user: u64, channel: u64) -> String {
        let (mute, deaf, video) = (self.0.bool(), self.0.bool(), self.0.u8(..9) == 0);
        format!(
            r#"{{"user_id":"{user}","suppress":false,"session_id":"{:032x}","self_video":{video},"self_mute":{mute},"self_deaf":{deaf},"request_to_speak_timestamp":null,"mute":false,"deaf":false,"channel_id":"{channel}"}}"#,
            self.0.u128(..)
        )
    }

    pub fn channel(&mut self, id: u64, roles: &[u64]) -> String {
        let topic = self.text(4, 10..80);
        let name = self.text(10, 4..20).to_lowercase();
        let overwrites: Vec<_> = (0..self.0.u8(..5))
            .filter_map(|_| Some((*self.0.choice(roles.iter())?, self.0.u8(..40))))
            .map(|(role, bit)| format!(r#"{{"type":0,"id":"{role}","deny":"{}","allow":"1024"}}"#, 1_u64 << bit))
            .collect();
        format!(
            r#"{{"version":{},"type":{},"topic":{topic},"rate_limit_per_user":0,"position":{},"permission_overwrites":[{}],"parent_id":"{}","nsfw":false,"name":{name},"last_message_id":"{}","id":"{id}","icon_emoji":null,"theme_color":null,"flags":0}}"#,
            self.millis(),
            self.0.choice([0, 0, 0, 2, 5]).unwrap_or(0),
            self.0.u8(..40),
            overwrites.join(","),
            id & !0xfff_ffff,
            self.id(),
        )
    }

    pub fn role(&mut self, id: u64) -> String {
        let name = self.text(10, 3..18);
        let (color, permissions) = (self.0.u32(..1 << 24), self.0.u64(..1 << 50));
        format!(
            r#"{{"version":{},"unicode_emoji":null,"tags":{{}},"position":{},"permissions":"{permissions}","name":{name},"mentionable":{},"managed":false,"id":"{id}","icon":null,"hoist":{},"flags":0,"colors":{{"tertiary_color":null,"secondary_color":null,"primary_color":{color}}},"color":{color}}}"#,
            self.millis(),
            self.0.u8(..40),
            self.0.bool(),
            self.0.bool(),
        )
    }

    pub fn emoji(&mut self, id: u64) -> String {
        let name = self.text(10, 4..16);
        format!(
            r#"{{"version":0,"roles":[],"require_colons":true,"name":{name},"managed":false,"id":"{id}","available":true,"animated":{}}}"#,
            self.0.u8(..5) == 0
        )
    }

    /// A string of random letters in `of_ten` cases of ten, else `null`.
    fn text(&mut self, of_ten: u8, len: std::ops::Range<usize>) -> String {
        if self.0.u8(..10) >= of_ten {
            return "null".to_owned();
        }
        let len = self.0.usize(len);
        let letters: String = (0..len).filter_map(|_| self.0.choice(LETTERS).map(|&it| char::from(it))).collect();
        format!("\"{letters}\"")
    }

    fn hash(&mut self, of_ten: u8) -> String {
        let animated = if self.0.u8(..8) == 0 { "a_" } else { "" };
        if self.0.u8(..10) < of_ten { format!("\"{animated}{:032x}\"", self.0.u128(..)) } else { "null".to_owned() }
    }

    fn time(&mut self) -> String {
        let (year, month, day) = (self.0.u16(2016..2026), self.0.u8(1..13), self.0.u8(1..29));
        let (hour, minute, second, micros) =
            (self.0.u8(..24), self.0.u8(..60), self.0.u8(..60), self.0.u32(..1_000_000));
        format!("\"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00\"")
    }

    fn millis(&mut self) -> u64 {
        1_700_000_000_000 + self.0.u64(..60_000_000_000)
    }
}
