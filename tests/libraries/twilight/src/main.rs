//! A twilight bot for `../run`: tells what the library sees as JSON lines, and obeys the lines it reads.
//!
//! It does not judge; it uses nothing of the library but its public interface.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::env;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::task::{JoinSet, LocalSet};
use twilight_cache_inmemory::{DefaultInMemoryCache, Reference, ResourceType};
use twilight_gateway::queue::InMemoryQueue;
use twilight_gateway::{
    CloseFrame, ConfigBuilder, Event, EventTypeFlags, Intents, MessageSender, Shard, ShardId, StreamExt,
};
use twilight_model::gateway::payload::incoming::{GuildCreate, MemberChunk};
use twilight_model::gateway::payload::outgoing::RequestGuildMembers;
use twilight_model::id::Id;
use twilight_model::id::marker::{GuildMarker, UserMarker};

type GuildId = Id<GuildMarker>;

/// What all shards of the bot have seen.
struct Seen {
    cache: DefaultInMemoryCache,
    prefix: String,
    /// Guilds that READY named and that neither came nor were reported in an outage.
    awaited: HashSet<GuildId>,
    outages: HashSet<GuildId>,
    shards_to_come: u32,
    is_closing: bool,
    chunks: HashMap<GuildId, Chunks>,
}

#[derive(Default)]
struct Chunks {
    count: u32,
    users: Vec<Id<UserMarker>>,
}

fn tell(line: &Value) {
    println!("{line}");
}

fn trouble(text: impl std::fmt::Display) {
    tell(&json!({"event": "trouble", "text": text.to_string()}));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    rustls::crypto::ring::default_provider().install_default().expect("nobody installed one before");
    LocalSet::new().run_until(run()).await
}

async fn run() -> Result<(), Box<dyn Error>> {
    let shards: u32 = env::var("SHARDS")?.parse()?;
    let intents = Intents::from_bits(env::var("INTENTS")?.parse()?).ok_or("twilight does not know these intents")?;
    let config = ConfigBuilder::new(env::var("TOKEN")?, intents)
        .proxy_url(env::var("GATEWAY")?)
        .ratelimit_messages(false)
        .queue(InMemoryQueue::new(0, 1, Duration::ZERO, 1))
        .build();
    let seen = Rc::new(RefCell::new(Seen {
        cache: DefaultInMemoryCache::builder().resource_types(ResourceType::all()).build(),
        prefix: env::var("PREFIX")?,
        awaited: HashSet::new(),
        outages: HashSet::new(),
        shards_to_come: shards,
        is_closing: false,
        chunks: HashMap::new(),
    }));
    let mut senders = Vec::new();
    let mut tasks = JoinSet::new();
    for number in 0..shards {
        let shard = Shard::with_config(ShardId::new(number, shards), config.clone());
        senders.push(shard.sender());
        tasks.spawn_local(listen(shard, seen.clone()));
    }
    obey(&senders, &seen).await?;
    tasks.join_all().await;
    Ok(())
}

/// Runs one shard until it is closed. The library would connect anew after any close, so that stopping is up to us.
async fn listen(mut shard: Shard, seen: Rc<RefCell<Seen>>) {
    while let Some(event) = shard.next_event(EventTypeFlags::all()).await {
        match event {
            Ok(Event::GatewayClose(_)) if seen.borrow().is_closing => break,
            Ok(event) => seen.borrow_mut().on_event(shard.id().number(), &event),
            Err(error) => trouble(format!("{error}: {:?}", error.source().map(ToString::to_string))),
        }
    }
}

/// Obeys standard input until it says `close` or ends.
async fn obey(senders: &[MessageSender], seen: &RefCell<Seen>) -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["guilds"] => tell(&json!({"event": "guilds", "guilds": seen.borrow().portraits()})),
            ["members", guild] => {
                let guild: GuildId = guild.parse()?;
                let shard = (guild.get() >> 22) % senders.len() as u64;
                // Without a nonce, on purpose: the answer must come without one as well.
                senders[shard as usize].command(&RequestGuildMembers::builder(guild).query("", None))?;
            }
            ["close"] => break,
            _ => trouble(format!("unknown command {line}")),
        }
    }
    seen.borrow_mut().is_closing = true;
    for sender in senders {
        sender.close(CloseFrame::NORMAL)?;
    }
    Ok(())
}

impl Seen {
    fn on_event(&mut self, shard: u32, event: &Event) {
        self.cache.update(event);
        match event {
            Event::Ready(ready) => {
                tell(&json!({"event": "ready", "shard": shard}));
                self.awaited.extend(ready.guilds.iter().map(|it| it.id));
                self.shards_to_come = self.shards_to_come.saturating_sub(1);
                self.on_guild(None);
            }
            Event::GuildCreate(created) => {
                if let GuildCreate::Unavailable(guild) = &**created {
                    self.outages.insert(guild.id);
                }
                self.on_guild(Some(created.id()));
            }
            Event::GuildDelete(deleted) if deleted.unavailable == Some(true) => {
                self.outages.insert(deleted.id);
                self.on_guild(Some(deleted.id));
            }
            Event::Resumed => tell(&json!({"event": "resumed", "shard": shard})),
            Event::MessageCreate(message) => {
                if let Some(number) = message.content.strip_prefix(&self.prefix) {
                    tell(&json!({"event": "message", "shard": shard, "number": number.parse::<u32>().ok()}));
                }
            }
            Event::MemberChunk(chunk) => self.on_chunk(chunk),
            _ => {}
        }
    }

    fn on_guild(&mut self, guild: Option<GuildId>) {
        let was_awaited = guild.is_none_or(|it| self.awaited.remove(&it));
        if was_awaited && self.shards_to_come == 0 && self.awaited.is_empty() {
            tell(&json!({"event": "all_ready"}));
        }
    }

    fn on_chunk(&mut self, chunk: &MemberChunk) {
        if let Some(nonce) = &chunk.nonce {
            trouble(format!("a chunk carries the nonce {nonce}, and none was sent"));
        }
        let chunks = self.chunks.entry(chunk.guild_id).or_default();
        chunks.count += 1;
        chunks.users.extend(chunk.members.iter().map(|it| it.user.id));
        if chunks.count == chunk.chunk_count {
            tell(&json!({"event": "members", "guild": chunk.guild_id, "ids": chunks.users}));
        }
    }

    fn portraits(&self) -> Vec<Value> {
        let available = self.cache.iter().guilds().map(|guild| self.portrait(guild.id()));
        let outages = self.outages.iter().map(|id| json!({"id": id, "unavailable": true}));
        available.chain(outages).collect()
    }

    fn portrait(&self, id: GuildId) -> Value {
        let cache = &self.cache;
        let guild = cache.guild(id).expect("the caller found it in the cache");
        let (mut channels, mut threads) = (Vec::new(), Vec::new());
        for channel in ids(cache.guild_channels(id)).into_iter().filter_map(|id| cache.channel(id)) {
            let list = if channel.kind.is_thread() { &mut threads } else { &mut channels };
            list.push(json!([channel.id, channel.name]));
        }
        let roles = ids(cache.guild_roles(id)).into_iter().filter_map(|id| cache.role(id));
        let emojis = ids(cache.guild_emojis(id)).into_iter().filter_map(|id| cache.emoji(id));
        json!({
            "id": id,
            "name": guild.name(),
            "member_count": guild.member_count(),
            "channels": channels,
            "threads": threads,
            "roles": roles.map(|it| json!([it.id, it.name])).collect::<Vec<_>>(),
            "emojis": emojis.map(|it| json!([it.id(), it.name()])).collect::<Vec<_>>(),
        })
    }
}

/// The ids that the cache keeps for a guild, copied out so that no lock is held.
fn ids<T>(kept: Option<Reference<'_, GuildId, HashSet<Id<T>>>>) -> Vec<Id<T>> {
    kept.map(|it| it.iter().copied().collect()).unwrap_or_default()
}
