//! What happens in the guilds: a mix of events as a real bot sees it, each a template and three numbers.
//!
//! An event is rendered when it is sent and again when it is replayed; the same numbers give the same bytes.
//!
//! The mix, by share: messages 45, typing 15, presences 12, reactions 9, edits 6, voice states 5, members 4,
//! deletes 2, channels 1, roles 1. About 0.8 kB on average.

use fastrand::Rng;

use super::template::{Scene, Template};
use super::world::World;

macro_rules! payload {
    ($name:literal) => {
        include_str!(concat!("payloads/", $name, ".json"))
    };
}

/// What people write, as it stands inside a JSON string: look-alikes, escapes, surrogate pairs, long ones.
const CONTENTS: [&str; 8] = [
    "ok",
    "does anyone know why this one fails? I tried it twice today and it still does the same thing",
    "{\\\"t\\\":\\\"READY\\\",\\\"s\\\":1,\\\"op\\\":0,\\\"d\\\":{}}",
    "日本語のメッセージ 🎉 と絵文字 👩‍👩‍👧 naïve café",
    "C:\\\\path\\\\",
    "first line\\nsecond\\ttab \\\"s\\\":17,\\\"op\\\":7 \\u0023idle \\\\u0023 \\ud83d\\ude00 \\/ ]}",
    "@{name}: see `\\\"s\\\":@{unix}` and <#@{c}> <@@{u}>",
    LONG,
];
/// What comes with each of `CONTENTS`, and its share of the mix.
const PARTS: [(&str, usize); 8] =
    [("", 9), ("", 9), ("mention", 5), ("attachment", 4), ("", 6), ("embed", 4), ("mention", 6), ("", 2)];
const LONG: &str = "```rs\\nfn main() {\\n    let text = \\\"a \\\\\\\"quoted\\\\\\\" word\\\";\\n    println!(\\\"{text}\\\");\\n}\\n```\\nThe above \
is what I run. Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam nonumy eirmod tempor invidunt ut labore et dolore \
magna aliquyam erat, sed diam voluptua. At vero eos et accusam et justo duo dolores et ea rebum. Stet clita kasd gubergren, no sea \
takimata sanctus est. — ünd so weiter, {[{[\\\"d\\\":null";

/// One event of the traffic, enough to render it again.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    kind: u16,
    guild_index: u16,
    salt: u64,
    pub counter: u64,
    pub sent_ns: u64,
}

struct Kind {
    name: &'static str,
    template: Template,
}

pub struct Traffic {
    kinds: Vec<Kind>,
    /// Indices into `kinds`, each as often as its share.
    mix: Vec<u16>,
}

impl Traffic {
    pub fn new(world: &World) -> Self {
        let mut traffic = Self { kinds: Vec::new(), mix: Vec::new() };
        for (content, (part, share)) in CONTENTS.iter().zip(PARTS) {
            let given = |name: &str, text: &str| if part == name { text.to_owned() } else { String::new() };
            let parts = [
                ("content", content.to_string()),
                ("embeds", given("embed", payload!("embed"))),
                ("attachments", given("attachment", payload!("attachment"))),
                ("mentions", given("mention", payload!("mention"))),
            ];
            let mut text = payload!("message_create").to_owned();
            for (name, part) in parts {
                text = text.replace(&format!("@{{{name}}}"), &part);
            }
            traffic.add(world, "MESSAGE_CREATE", &text, share);
        }
        for (name, text, share) in [
            ("TYPING_START", payload!("typing_start"), 15),
            ("PRESENCE_UPDATE", payload!("presence_update"), 12),
            ("MESSAGE_REACTION_ADD", payload!("message_reaction_add"), 8),
            ("MESSAGE_REACTION_REMOVE", payload!("message_reaction_remove"), 1),
            ("MESSAGE_UPDATE", payload!("message_update"), 6),
            ("VOICE_STATE_UPDATE", payload!("voice_state_update"), 5),
            ("GUILD_MEMBER_UPDATE", payload!("guild_member_update"), 4),
            ("MESSAGE_DELETE", payload!("message_delete"), 2),
            ("CHANNEL_UPDATE", payload!("channel_update"), 1),
            ("GUILD_ROLE_UPDATE", payload!("guild_role_update"), 1),
        ] {
            traffic.add(world, name, text, share);
        }
        traffic
    }

    fn add(&mut self, world: &World, name: &'static str, text: &str, share: usize) {
        let kind = self.kinds.len() as u16;
        self.kinds.push(Kind { name, template: Template::compile(text, &world.includes, &[]) });
        self.mix.extend(std::iter::repeat_n(kind, share));
    }

    /// The next event of a shard. Busy guilds get more: the pick is squared.
    pub fn pick(&self, world: &World, shard: u32, counter: u64, sent_ns: u64, rng: &mut Rng) -> Event {
        let guilds = world.size.guilds;
        let share = rng.f32();
        let mut guild_index = ((share * share * guilds as f32) as u32).min(guilds.saturating_sub(1));
        if world.is_in_outage(shard, guild_index) {
            guild_index = 0;
        }
        let kind = self.mix[rng.usize(..self.mix.len())];
        Event { kind, guild_index: guild_index as u16, salt: rng.u64(..), counter, sent_ns }
    }

    pub fn name(&self, event: &Event) -> &'static str {
        self.kinds[event.kind as usize].name
    }

    /// Appends the `d` of `event`.
    pub fn render(&self, world: &World, shard: u32, event: &Event, out: &mut Vec<u8>) {
        let scene = Scene {
            counter: event.counter,
            sent_ns: event.sent_ns,
            message: World::message_id(event.counter, shard),
            ..world.scene(shard, event.guild_index.into(), event.salt)
        };
        self.kinds[event.kind as usize].template.render(&scene, out, |_, _| {});
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::world::Size;
    use super::*;
    use crate::payload::load_mark;

    #[test]
    fn every_event_is_valid_json_with_its_mark_first() {
        let world = World::new(Size { shards: 4, guilds: 3, members: 20, outage_every: 0, ..Size::default() });
        let traffic = Traffic::new(&world);
        let mut rng = Rng::with_seed(1);
        let (mut bytes, mut seen) = (0, std::collections::HashSet::new());
        for counter in 1..=2000 {
            let event = traffic.pick(&world, 2, counter, 77, &mut rng);
            let mut out = Vec::new();
            traffic.render(&world, 2, &event, &mut out);
            let text = String::from_utf8(out).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|it| panic!("{it}: {text}"));
            assert_eq!(load_mark(&text).map(|it| (it.shard, it.counter, it.sent_ns)), Some((2, counter, 77)));
            let guild = value["guild_id"].as_str().unwrap().parse().unwrap();
            assert_eq!(world.find_guild(guild).unwrap().0, 2);
            bytes += text.len();
            seen.insert(traffic.name(&event));
        }
        assert_eq!(seen.len(), 11);
        assert!((700..1000).contains(&(bytes / 2000)), "{} bytes on average", bytes / 2000);
    }

    #[test]
    fn a_replayed_event_has_the_same_bytes() {
        let world = World::new(Size { shards: 1, guilds: 3, members: 20, outage_every: 0, ..Size::default() });
        let traffic = Traffic::new(&world);
        let event = traffic.pick(&world, 0, 1, 2, &mut Rng::with_seed(3));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        traffic.render(&world, 0, &event, &mut first);
        traffic.render(&world, 0, &event, &mut second);
        assert_eq!(first, second);
    }
}
