//! Discord's READY, kept as it came, and given to each client with that client's own session in it.
//!
//! Does not hold the guilds: which there are changes, and the cache knows them.

#![forbid(unsafe_code)]

use super::edit::{self, Entry};
use super::kind;
use crate::wire::GuildId;
use crate::wire::json::{self, Invalid};

/// Arrays that some libraries crash without.
const EXPECTED: [&str; 3] = ["private_channels", "presences", "relationships"];

#[derive(Debug)]
pub struct Ready {
    /// READY's `d` with `guilds` emptied.
    text: Box<[u8]>,
}

/// What a READY says of the shard.
#[derive(Debug)]
pub struct Contents {
    pub ready: Ready,
    pub own_user: Option<u64>,
    /// In Discord's order.
    pub guilds: Vec<GuildId>,
}

impl Ready {
    /// Reads READY's `d`. Entries of `guilds` without an id are passed over.
    pub fn read(d: &[u8]) -> Result<Contents, Invalid> {
        let [user, guilds] = json::pick(d, ["user", "guilds"])?;
        let mut ids = Vec::new();
        if let Some(guilds) = guilds.filter(|it| json::is_array(it)) {
            for guild in json::elements(guilds)? {
                ids.extend(kind::object_id(Some(guild?))?.map(GuildId));
            }
        }
        let own_user = kind::object_id(user)?;
        let text = edit::edit(d, &[], &[(b"guilds", b"[]")])?;
        Ok(Contents { ready: Self { text }, own_user, guilds: ids })
    }

    /// USER_UPDATE: the user gets the keys of `d`, and keeps those that only READY has.
    pub fn merge_user(&mut self, d: &[u8]) -> Result<(), Invalid> {
        let [user] = json::pick(&self.text, ["user"])?;
        let user = edit::merge(user.filter(|it| json::is_object(it)).unwrap_or(b"{}"), d, &[])?;
        self.text = edit::edit(&self.text, &[], &[(b"user", &user)])?;
        Ok(())
    }

    /// The bot's own user object.
    pub fn user(&self) -> Option<&[u8]> {
        let [user] = json::pick(&self.text, ["user"]).ok()?;
        user.filter(|it| json::is_object(it))
    }

    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Appends READY's `d`, with `session_id`, `resume_gateway_url`, `shard` and `guilds` (a raw array) in their places.
    pub fn write(&self, session_id: &str, resume_gateway_url: &str, shard: [u32; 2], guilds: &[u8], out: &mut Vec<u8>) {
        let (mut session, mut url) = (Vec::new(), Vec::new());
        json::write_string(session_id, &mut session);
        json::write_string(resume_gateway_url, &mut url);
        let shard = format!("[{},{}]", shard[0], shard[1]);
        let mut set: Vec<Entry<'_>> = vec![
            (b"session_id", &session),
            (b"resume_gateway_url", &url),
            (b"shard", shard.as_bytes()),
            (b"guilds", guilds),
        ];
        let present = json::pick(&self.text, EXPECTED).unwrap_or_default();
        for (name, value) in EXPECTED.iter().zip(present) {
            if value.is_none() {
                set.push((name.as_bytes(), b"[]"));
            }
        }
        let written = edit::edit_into(&self.text, &[], &set, out);
        debug_assert!(written.is_ok(), "READY was whole when it was read");
    }
}
