//! `loadtest churn`: whether memory and state stay what they should be while everything changes for a long time.
//!
//! Events that change guilds happen as fast as the proxy takes them, with one large guild chunked in again and again. In the end
//! a second proxy is started in front of the same fake Discord, and must hold the same state in hardly less memory.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::digest::Digest;
use super::options::Options;
use super::pages;
use super::stage::{binary, caught_up, machine, mib, settled_rss, start_proxy};
use crate::args::Args;
use crate::client::{Client, Order};
use crate::judge::Terms;
use crate::run::fake::Fake;
use crate::run::in_temp_dir;
use crate::run::proc::rss_bytes;
use crate::run::proxy::Proxy;

/// How much more memory than a fresh proxy's an old one may hold.
const GROWTH_MAX: f64 = 0.10;
/// Events between two looks at the memory.
const ROUND_EVENTS: u64 = 20_000;
/// Lines of memory over time that are printed, about.
const LINES: f64 = 30.0;
/// Rounds between two requests for all members of the large guild.
const CHUNKS_EVERY: u64 = 20;
/// Guilds of each shard whose state is compared, the large one among them.
const COMPARED_MAX: u32 = 10;
const POLL: Duration = Duration::from_millis(50);
/// A request for members of which nothing comes for this long is lost.
const CHUNK_SILENCE: Duration = Duration::from_secs(60);

/// A proxy with a client that asks for members.
struct Side {
    proxy: Proxy,
    client: Rc<Client>,
    /// Which of the fake Discord's sessions of each shard is this proxy's.
    nth: usize,
}

/// Runs it and answers whether memory and state were right.
pub async fn run(options: Options) -> io::Result<bool> {
    in_temp_dir(async |dir| judged(&options, dir).await).await
}

async fn judged(options: &Options, dir: &Path) -> io::Result<bool> {
    let binary = binary(options).await?;
    let mut words = options.discord_words();
    // Reconnects, should any happen, replay instead of starting over.
    words.extend(["--replay-events".to_owned(), "2000".to_owned()]);
    let fake = Fake::start_with(words, dir).await?;
    println!("{}", machine());
    let mut old = Side::start(options, &binary, &fake, &dir.join("old"), 0).await?;
    old.chunk_in(&fake, "first").await?;
    println!("| minutes | events | days | RSS, MiB |\n|---|---|---|---|");
    let events = churn(options, &fake, &mut old).await?;
    let old_rss = settled_rss(options, &old.proxy).await?;
    let mut fresh = Side::start(options, &binary, &fake, &dir.join("fresh"), 1).await?;
    fresh.chunk_in(&fake, "fresh").await?;
    caught_up(&fake, &mut fresh.proxy, fresh.nth).await?;
    let fresh_rss = settled_rss(options, &fresh.proxy).await?;
    let growth = old_rss as f64 / fresh_rss as f64 - 1.0;
    let is_small = growth <= GROWTH_MAX;
    println!(
        "\n{} events, {:.2} days: {:.1} MiB, a fresh proxy {:.1} MiB: {:+.1} %, at most {:.0} %: {}",
        events,
        events as f64 / options.day_events as f64,
        mib(old_rss),
        mib(fresh_rss),
        growth * 100.0,
        GROWTH_MAX * 100.0,
        if is_small { "ok" } else { "MISSED" }
    );
    let is_same = compare(&old, &fresh)?;
    let findings = [&old, &fresh].map(|it| it.client.judge.borrow().findings.clone());
    for finding in findings.iter().flat_map(|it| &it.texts) {
        println!("FOUND {finding}");
    }
    for side in [old, fresh] {
        side.client.order(Order::Leave);
        side.proxy.process.stop().await;
    }
    fake.process.stop().await;
    let kept = is_small && is_same && findings.iter().all(|it| it.is_empty());
    println!("{}", if kept { "memory and state stayed what they should be" } else { "NOT what it should be" });
    Ok(kept)
}

/// Lets events happen until the time is over; answers how many.
async fn churn(options: &Options, fake: &Fake, old: &mut Side) -> io::Result<u64> {
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let began = Instant::now();
    let (mut events, mut shown) = (0, Duration::ZERO);
    for round in 1.. {
        fake.post(&format!("live?events={ROUND_EVENTS}")).await?;
        events += ROUND_EVENTS;
        if round % CHUNKS_EVERY == 0 {
            old.chunk_in(fake, &format!("round {round}")).await?;
        }
        caught_up(fake, &mut old.proxy, old.nth).await?;
        let passed = began.elapsed();
        if passed >= shown || passed >= time {
            shown = passed + time.div_f64(LINES);
            let days = events as f64 / options.day_events as f64;
            let minutes = passed.as_secs_f64() / 60.0;
            println!("| {minutes:.1} | {events} | {days:.2} | {:.1} |", mib(rss_bytes(old.proxy.process.pid)));
        }
        if passed >= time {
            break;
        }
    }
    Ok(events)
}

impl Side {
    async fn start(options: &Options, binary: &Path, fake: &Fake, dir: &Path, nth: usize) -> io::Result<Self> {
        let mut proxy = start_proxy(options, binary, fake, dir, true).await?;
        caught_up(fake, &mut proxy, nth).await?;
        let mut settings = crate::client::options::settings(&Args::default()).map_err(io::Error::other)?;
        settings.url = proxy.url.clone();
        settings.shards = options.shards;
        settings.terms = Terms { shard: 0, ..settings.terms };
        let client = Client::new(settings, Rc::default(), options.seed);
        spawn_local(client.clone().run());
        while !client.judge.borrow().is_ready() {
            sleep(POLL).await;
            if let Some(status) = proxy.process.exited() {
                return Err(io::Error::other(format!("the proxy ended, {status}")));
            }
        }
        Ok(Self { proxy, client, nth })
    }

    /// Has the client ask for all members of the first guild of its shard, and waits for all chunks.
    async fn chunk_in(&mut self, fake: &Fake, nonce: &str) -> io::Result<()> {
        // The guild with the lowest id: READY names it first, and nobody leaves it.
        let guild = self.client.judge.borrow().guilds().iter().min().copied();
        let guild = guild.ok_or_else(|| io::Error::other("there is no guild"))?;
        self.client.judge.borrow_mut().on_request_members(nonce);
        self.client.order(Order::Send(format!(
            "{{\"op\":8,\"d\":{{\"guild_id\":\"{guild}\",\"query\":\"\",\"limit\":0,\"presences\":true,\"nonce\":\"{nonce}\"}}}}"
        )));
        let (mut seen, mut silence) = (0, Duration::ZERO);
        while self.client.judge.borrow().awaits_chunks() {
            sleep(POLL).await;
            let dispatches = self.client.judge.borrow().dispatches;
            silence = if dispatches == seen { silence + POLL } else { Duration::ZERO };
            seen = dispatches;
            if silence > CHUNK_SILENCE {
                return Err(io::Error::other(format!("the members of {guild} did not come ({nonce})")));
            }
        }
        caught_up(fake, &mut self.proxy, self.nth).await
    }
}

/// Whether both proxies hold the same guilds, as far as they are compared.
fn compare(old: &Side, fresh: &Side) -> io::Result<bool> {
    let guilds: Vec<u64> = {
        let judge = fresh.client.judge.borrow();
        let mut guilds = judge.guilds().to_vec();
        guilds.sort_unstable();
        guilds.into_iter().take(COMPARED_MAX as usize).collect()
    };
    let mut compared = 0;
    let mut differ = 0;
    for guild in guilds {
        let digest = |side: &Side| -> io::Result<(u16, Digest)> {
            let (status, body) = pages::fetch(&side.proxy.url, &format!("/cache/guild/{guild}"))?;
            Ok((status, Digest::of(&body).map_err(io::Error::other)?))
        };
        let ((old_status, old), (fresh_status, fresh)) = (digest(old)?, digest(fresh)?);
        let differences = old.differences(&fresh);
        compared += 1;
        if old_status != fresh_status || !differences.is_empty() {
            differ += 1;
            println!("guild {guild} differs: {old_status} and {fresh_status}, {}", differences.join(", "));
        }
    }
    println!("{compared} guilds of shard 0 compared as JSON, {differ} differ");
    Ok(compared > 0 && differ == 0)
}
