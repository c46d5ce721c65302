//! Payloads as templates: JSON text with holes such as `@{g+2}`, compiled once, filled by copying.
//!
//! The texts lie beside this file in `payloads/`; white space between their tokens is for the reader and not sent.

use std::collections::HashMap;
use std::io::Write as _;

/// Names that a member may have, as they stand inside a JSON string.
const NAMES: [&str; 8] =
    ["Ada", "Zoë 🦊", "山田太郎", "\\\"quoted\\\"", "back\\\\slash\\\\", "tab\\tbed", "{\\\"s\\\":3}", "\\u0394elta"];

const STATUSES: [&str; 3] = ["dnd", "online", "idle"];

/// What the holes of one payload are filled from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scene {
    /// `g`: the guild's id. `@{g+N}` is an id of something in it.
    pub guild: u64,
    /// `i`: index of the guild on its shard.
    pub guild_index: u32,
    /// `c`: a text channel's id; `k`: its index in the guild.
    pub channel: u64,
    pub channel_index: u32,
    /// `u`: a user's id; `n`: its number in the guild; also picks `name`.
    pub user: u64,
    pub member: u32,
    /// `m`: a message's id.
    pub message: u64,
    /// `load`: shard, counter and time of sending.
    pub shard: u32,
    pub counter: u64,
    pub sent_ns: u64,
    /// `x`: sixteen hex digits.
    pub salt: u64,
    /// `p`: the id of the channel that a thread lies in.
    pub parent: u64,
    /// How often the object has changed; what `rev`, `nick`, `status`, `odd` and `v+N` come from.
    pub version: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    Guild(u64),
    GuildIndex,
    Channel,
    ChannelIndex,
    User,
    Member,
    Name,
    Message,
    Load,
    Hex,
    Time,
    Unix,
    Parent,
    /// Nothing for an object that never changed, else `_` and its version.
    Rev,
    /// `null` for a member that never changed, else a string.
    Nick,
    /// A presence's status, as it stands inside a string.
    Status,
    /// `true` at odd versions.
    Odd,
    /// This number plus the version.
    Version(u64),
    /// Filled by the caller, by position in `slots`.
    Slot(usize),
}

/// A compiled payload.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<(String, Hole)>,
    tail: String,
}

impl Template {
    /// Compiles `text`. `includes` replaces `@{>name}`, and `slots` names the holes that the caller fills.
    ///
    /// Panics on a hole that nobody knows: the texts are part of this program.
    pub fn compile(text: &str, includes: &HashMap<&str, String>, slots: &[&str]) -> Self {
        let text = include(text, includes);
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("@{") {
            let (name, after) = after.split_once('}').expect("a hole ends");
            pieces.push((before.to_owned(), hole(name, slots)));
            rest = after;
        }
        Self { pieces, tail: rest.to_owned() }
    }

    /// Appends the payload that `scene` gives; `slot` writes the caller's holes, by position.
    pub fn render(&self, scene: &Scene, out: &mut Vec<u8>, mut slot: impl FnMut(usize, &mut Vec<u8>)) {
        for (text, hole) in &self.pieces {
            out.extend_from_slice(text.as_bytes());
            match hole {
                Hole::Guild(offset) => push_number(out, scene.guild + offset),
                Hole::GuildIndex => push_number(out, scene.guild_index.into()),
                Hole::Channel => push_number(out, scene.channel),
                Hole::ChannelIndex => push_number(out, scene.channel_index.into()),
                Hole::User => push_number(out, scene.user),
                Hole::Member => push_number(out, scene.member.into()),
                Hole::Name => out.extend_from_slice(NAMES[scene.member as usize % NAMES.len()].as_bytes()),
                Hole::Message => push_number(out, scene.message),
                Hole::Load => {
                    push_number(out, scene.shard.into());
                    out.push(b':');
                    push_number(out, scene.counter);
                    out.push(b':');
                    push_number(out, scene.sent_ns);
                }
                Hole::Hex => push_hex(out, scene.salt),
                Hole::Time => push_time(out, scene.counter),
                Hole::Unix => push_number(out, 1_790_000_000 + scene.counter),
                Hole::Parent => push_number(out, scene.parent),
                Hole::Rev if scene.version == 0 => {}
                Hole::Rev => {
                    out.push(b'_');
                    push_number(out, scene.version.into());
                }
                Hole::Nick if scene.version == 0 => out.extend_from_slice(b"null"),
                Hole::Nick => {
                    out.extend_from_slice(b"\"nick ");
                    push_number(out, scene.version.into());
                    out.extend_from_slice(b" \\\"q\\\"\"");
                }
                Hole::Status => out.extend_from_slice(STATUSES[scene.version as usize % STATUSES.len()].as_bytes()),
                Hole::Odd => out.extend_from_slice(if scene.version % 2 == 1 { b"true" } else { b"false" }),
                Hole::Version(base) => push_number(out, base + u64::from(scene.version)),
                Hole::Slot(position) => slot(*position, out),
            }
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

fn hole(name: &str, slots: &[&str]) -> Hole {
    if let Some(position) = slots.iter().position(|it| *it == name) {
        return Hole::Slot(position);
    }
    match name {
        "g" => Hole::Guild(0),
        "i" => Hole::GuildIndex,
        "c" => Hole::Channel,
        "k" => Hole::ChannelIndex,
        "u" => Hole::User,
        "n" => Hole::Member,
        "name" => Hole::Name,
        "m" => Hole::Message,
        "load" => Hole::Load,
        "x" => Hole::Hex,
        "time" => Hole::Time,
        "unix" => Hole::Unix,
        "p" => Hole::Parent,
        "rev" => Hole::Rev,
        "nick" => Hole::Nick,
        "status" => Hole::Status,
        "odd" => Hole::Odd,
        _ => match name.split_once('+').map(|(name, number)| (name, number.parse())) {
            Some(("g", Ok(offset))) => Hole::Guild(offset),
            Some(("v", Ok(base))) => Hole::Version(base),
            _ => panic!("no hole is named {name}"),
        },
    }
}

/// Replaces `@{>name}` and removes the white space between tokens.
pub fn include(text: &str, includes: &HashMap<&str, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("@{>") {
        let (name, after) = after.split_once('}').expect("an include ends");
        out.push_str(before);
        out.push_str(includes.get(name).unwrap_or_else(|| panic!("no payload is named {name}")));
        rest = after;
    }
    out.push_str(rest);
    compact(&out)
}

/// Drops line breaks: inside strings JSON has none, between tokens they mean nothing.
pub fn compact(text: &str) -> String {
    text.lines().collect()
}

pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_hex(out: &mut Vec<u8>, number: u64) {
    for shift in (0..16).rev() {
        out.push(b"0123456789abcdef"[(number >> (shift * 4)) as usize & 15]);
    }
}

/// A timestamp in Discord's form that grows by a millisecond per count.
fn push_time(out: &mut Vec<u8>, count: u64) {
    let (milli, second, minute, hour) = (count % 1000, count / 1000 % 60, count / 60_000 % 60, count / 3_600_000 % 24);
    write!(out, "2026-11-22T{hour:02}:{minute:02}:{second:02}.{milli:03}000+00:00").expect("a Vec takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_and_includes_nested() {
        let includes = HashMap::from([("a", "{\"u\":\"@{u}\"}".to_owned())]);
        let template =
            Template::compile("{\"g\":\"@{g+7}\",\n\"a\":@{>a},\"l\":\"@{load}\",\"z\":[@{z}]}", &includes, &["z"]);
        let scene = Scene { guild: 10, user: 5, shard: 1, counter: 2, sent_ns: 3, ..Scene::default() };
        let mut out = Vec::new();
        template.render(&scene, &mut out, |_, out| out.extend_from_slice(b"9"));
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"g":"17","a":{"u":"5"},"l":"1:2:3","z":[9]}"#);
    }

    #[test]
    #[should_panic(expected = "no hole is named q")]
    fn an_unknown_hole_is_refused() {
        Template::compile("@{q}", &HashMap::new(), &[]);
    }
}
