//! What goes wrong next, drawn from a seed: orders to the fake Discord and to clients. Nothing is done here.
//!
//! Only what a proxy can make good is drawn: no session is taken away, so no IDENTIFY is ever needed.

use std::time::Duration;

use fastrand::Rng;

use crate::client::Order;

/// Codes after which Discord's session can be resumed.
const CLOSE_CODES: [u16; 6] = [1001, 4000, 4001, 4002, 4008, 4009];
/// One in this many of the clients' absences is a long one.
const LONG_AWAY_EVERY: u32 = 4;

/// `POST /fake/ORDER` with this body.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    pub order: String,
    pub body: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    pub name: &'static str,
    pub posts: Vec<Post>,
    /// By the client's number.
    pub orders: Vec<(usize, Order)>,
}

/// How many there are to pick from, and what has been made up so far.
pub struct Troubles {
    rng: Rng,
    shards: u32,
    clients: usize,
    away_max: Duration,
    /// Objects made up, so that no two have one id.
    made: u64,
    /// The guild whose members are asked for next, of each shard: Discord answers for each once in a while only.
    asked: Vec<usize>,
}

impl Troubles {
    pub fn new(seed: u64, shards: u32, clients: usize, away_max: Duration) -> Self {
        let asked = vec![0; shards as usize];
        Self { rng: Rng::with_seed(seed), shards, clients, away_max, made: 0, asked }
    }

    /// The pause before the next one.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(50..1500))
    }

    /// `guilds` are those of each shard; `left` is how long clients may still be away.
    pub fn next(&mut self, guilds: impl Fn(u32) -> Vec<u64>, left: Duration) -> Trouble {
        let shard = self.rng.u32(..self.shards);
        let (name, post) = match self.rng.u32(..100) {
            0..10 => ("cut", format!("drop?shard={shard}&events={}", self.rng.u32(..800))),
            10..11 => ("cut of all", format!("drop?shard=all&events={}", self.rng.u32(..100))),
            11..17 => ("op 7", format!("op7?shard={shard}")),
            17..21 => ("op 9 d:true", format!("op9?shard={shard}&resumable=true")),
            21..26 => {
                let code = CLOSE_CODES[self.rng.usize(..CLOSE_CODES.len())];
                ("close", format!("close?shard={shard}&code={code}"))
            }
            26..31 => ("stall", format!("stall?shard={shard}&ms={}", self.rng.u32(500..8000))),
            31..34 => ("op 1", "op1?shard=all".to_owned()),
            34..37 => ("op 7 instead of HELLO", format!("hello_op7?count={}", self.rng.u32(1..4))),
            37..40 => ("upgrade refused", format!("refuse?count={}", self.rng.u32(1..6))),
            40..48 => ("burst", format!("burst?shard={shard}&events={}", self.rng.u32(100..3000))),
            48..66 => return self.change(shard, &guilds(shard)),
            66..70 => return self.request(&guilds),
            other => return self.clients(other - 70, left),
        };
        Trouble { name, posts: vec![Post { order: post, body: String::new() }], orders: Vec::new() }
    }

    /// Something in a guild comes into being, which the proxy must know from then on.
    fn change(&mut self, shard: u32, guilds: &[u64]) -> Trouble {
        self.made += 1;
        let number = self.made;
        let Some(guild) = self.rng.choice(guilds) else {
            return Trouble { name: "change", posts: Vec::new(), orders: Vec::new() };
        };
        let id = guild + 10_000 + number;
        let channel = format!(
            "{{\"id\":\"{id}\",\"type\":0,\"guild_id\":\"{guild}\",\"name\":\"made {number}\",\"position\":{number},\
             \"permission_overwrites\":[],\"topic\":null,\"nsfw\":false,\"parent_id\":null}}"
        );
        let role = format!(
            "{{\"id\":\"{id}\",\"name\":\"made {number}\",\"permissions\":\"0\",\"position\":1,\"color\":0,\"hoist\":false,\
             \"managed\":false,\"mentionable\":false}}"
        );
        let user = format!(
            "{{\"id\":\"{id}\",\"username\":\"made{number}\",\"discriminator\":\"0\",\"avatar\":null,\"global_name\":null}}"
        );
        let member = format!(
            "{{\"user\":{user},\"nick\":null,\"roles\":[],\"joined_at\":\"2024-01-01T00:00:00.000000+00:00\",\"deaf\":false,\
             \"mute\":false,\"flags\":0"
        );
        let events = match self.rng.u8(..6) {
            0 => vec![("CHANNEL_CREATE", channel)],
            1 => vec![("CHANNEL_CREATE", channel.clone()), ("CHANNEL_DELETE", channel)],
            2 => vec![("GUILD_ROLE_CREATE", format!("{{\"guild_id\":\"{guild}\",\"role\":{role}}}"))],
            3 => vec![
                ("GUILD_ROLE_CREATE", format!("{{\"guild_id\":\"{guild}\",\"role\":{role}}}")),
                ("GUILD_ROLE_DELETE", format!("{{\"guild_id\":\"{guild}\",\"role_id\":\"{id}\"}}")),
            ],
            4 => vec![("GUILD_MEMBER_ADD", format!("{member},\"guild_id\":\"{guild}\"}}"))],
            _ => vec![
                ("GUILD_MEMBER_ADD", format!("{member},\"guild_id\":\"{guild}\"}}")),
                ("GUILD_MEMBER_REMOVE", format!("{{\"guild_id\":\"{guild}\",\"user\":{user}}}")),
            ],
        };
        let posts = events.into_iter().map(|(name, d)| Post {
            order: format!("emit?shard={shard}"),
            body: format!("{{\"t\":\"{name}\",\"d\":{d}}}"),
        });
        Trouble { name: "change", posts: posts.collect(), orders: Vec::new() }
    }

    /// A client asks for the members of a guild that nobody has asked for yet.
    fn request(&mut self, guilds: &impl Fn(u32) -> Vec<u64>) -> Trouble {
        let client = self.rng.usize(..self.clients);
        let shard = client as u32 % self.shards;
        let asked = &mut self.asked[shard as usize];
        let order = guilds(shard).get(*asked).map(|guild| {
            *asked += 1;
            (client, Order::RequestMembers { guild: *guild, nonce: format!("chaos-{shard}-{asked}") })
        });
        Trouble { name: "members asked for", posts: Vec::new(), orders: order.into_iter().collect() }
    }

    /// `kind` is below 30.
    fn clients(&mut self, kind: u32, left: Duration) -> Trouble {
        let client = self.rng.usize(..self.clients);
        let (name, orders) = match kind {
            0..12 => {
                let is_long = self.rng.u32(..LONG_AWAY_EVERY) == 0;
                let time = if is_long { self.away_max.mul_f64(self.rng.f64()) } else { self.millis(100..8000) };
                (if is_long { "away long" } else { "away" }, vec![(client, Order::Away(time.min(left)))])
            }
            12..18 => {
                let time = self.millis(500..16_000).min(left);
                ("not reading", vec![(client, Order::StopReading(time))])
            }
            18..25 => ("identify anew", vec![(client, Order::Renew(self.millis(0..3000).min(left)))]),
            25..28 => {
                let all = (0..self.clients).map(|it| (it, Order::Away(self.millis(0..2000).min(left))));
                ("deploy with RESUME", all.collect::<Vec<_>>())
            }
            _ => {
                let some: Vec<usize> = (0..self.clients).filter(|_| self.rng.u8(..2) == 0).collect();
                let orders = some.into_iter().map(|it| (it, Order::Renew(self.millis(0..2000).min(left))));
                ("deploy with IDENTIFY", orders.collect())
            }
        };
        Trouble { name, posts: Vec::new(), orders }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn drawn(seed: u64, count: usize) -> Vec<Trouble> {
        let mut troubles = Troubles::new(seed, 3, 6, Duration::from_secs(60));
        (0..count).map(|_| troubles.next(|shard| vec![10 + shard as u64, 20], Duration::from_secs(60))).collect()
    }

    #[test]
    fn one_seed_draws_one_sequence() {
        assert_eq!(drawn(7, 200), drawn(7, 200));
        assert_ne!(drawn(7, 200), drawn(8, 200));
    }

    #[test]
    fn everything_is_drawn_and_names_what_exists() {
        let all = drawn(1, 3000);
        let names: BTreeSet<&str> = all.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), 18, "{names:?}");
        for trouble in &all {
            assert!(trouble.orders.iter().all(|it| it.0 < 6), "{trouble:?}");
            for post in trouble.posts.iter().filter(|it| !it.body.is_empty()) {
                serde_json::from_str::<serde_json::Value>(&post.body).unwrap_or_else(|it| panic!("{it}: {post:?}"));
            }
        }
    }

    #[test]
    fn no_guild_is_asked_for_twice() {
        let asked: Vec<_> = drawn(3, 3000).into_iter().filter(|it| it.name == "members asked for").collect();
        let orders: Vec<_> = asked.iter().flat_map(|it| &it.orders).map(|it| format!("{:?}", it.1)).collect();
        assert_eq!(orders.len(), 6);
        assert_eq!(orders.iter().collect::<BTreeSet<_>>().len(), 6);
    }
}
