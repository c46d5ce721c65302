//! `loadtest chaos`: traffic, changes, deploys, restarts and kills of the proxy, and every fault of Discord's and of
//! clients' that must cost nothing, drawn from a seed, for minutes; and at the end a verdict.
//!
//! Discord and the proxies are processes of their own and are ended by their ids; clients live on this one thread.

pub mod options;
mod trouble;
mod verdict;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use self::options::Options;
use self::trouble::Troubles;
use self::verdict::Verdict;
use crate::client::{Client, Order, Settings, silence};
use crate::compress::Compression;
use crate::judge::Terms;
use crate::run::fake::Fake;
use crate::run::proxy::{Death, Proxy};
use crate::run::report::{Latency, Outcome};
use crate::run::snapshot::Snapshot;
use crate::run::{in_temp_dir, tail};
use crate::told;

/// Until every client has READY and its guilds.
const READY: Duration = Duration::from_secs(120);
/// Until every client is back after a restart; longer is a breach.
const BACK: Duration = Duration::from_secs(30);
/// Until every client has everything, after the traffic stopped.
const DRAIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// How often a line says how it goes.
const SHOW: Duration = Duration::from_secs(10);
/// No client is told to be away for longer than there is time, less this.
const LAST_RETURN: Duration = Duration::from_secs(2);
const HEARTBEAT_MS_MAX: u64 = 10_000;
/// The receive buffer of every fourth client: one that stops reading is felt at once.
const SMALL_BUFFER_BYTES: u32 = 64 * 1024;

/// Runs it all. Answers whether every promise held.
///
/// Errs when something could not be started or the proxy ended by itself.
pub async fn chaos(options: Options) -> io::Result<bool> {
    in_temp_dir(async |dir| judged(&options, dir).await).await
}

async fn judged(options: &Options, dir: &Path) -> io::Result<bool> {
    let base = &options.base;
    let fake = Fake::start(base, dir).await?;
    let proxy = Proxy::start(base, &fake, dir, "proxy", Some(&dir.join("data"))).await?;
    let control = match options.has_control {
        true => {
            // One shard may IDENTIFY once per interval, and the first proxy has just done so for all.
            fake.post("limits?max_concurrency=1000000").await?;
            Some(Proxy::start(base, &fake, dir, "control", None).await?)
        }
        false => None,
    };
    let mut chaos = Chaos::new(options, fake, proxy, control);
    chaos.start().await?;
    chaos.rage().await?;
    let verdict = chaos.judge().await?;
    print!("{}", verdict.text());
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&verdict)?)?;
    }
    let kept = verdict.broken().is_empty();
    println!("{}", if kept { "every promise was kept" } else { "NOT every promise was kept" });
    Ok(kept)
}

struct Chaos<'a> {
    options: &'a Options,
    fake: Fake,
    proxy: Proxy,
    control: Option<Proxy>,
    clients: Vec<Rc<Client>>,
    tasks: Vec<JoinHandle<()>>,
    before: Snapshot,
    began: Instant,
    verdict: RefCell<Verdict>,
    /// Guilds whose members somebody asked for: only the proxy that was asked knows them.
    asked: RefCell<BTreeSet<u64>>,
    /// By the kind of restart, in nanoseconds.
    outages: RefCell<BTreeMap<&'static str, Vec<u64>>>,
}

impl<'a> Chaos<'a> {
    fn new(options: &'a Options, fake: Fake, proxy: Proxy, control: Option<Proxy>) -> Self {
        let base = &options.base;
        let clients = (0..base.shards * base.clients_per_shard).map(|number| {
            let round = number / base.shards;
            let compression = match round % 2 {
                0 => Compression::None,
                _ if number % 2 == 0 => Compression::Zlib,
                _ => Compression::Zstd,
            };
            let settings = Settings {
                url: proxy.url.clone(),
                roots: None,
                shards: base.shards,
                compression,
                token: "fake".to_owned(),
                intents: crate::client::options::INTENTS,
                terms: Terms {
                    shard: number % base.shards,
                    is_binary: compression != Compression::None,
                    parse_every: base.parse_every,
                    first_counter: Some(1),
                    may_lose_session: false,
                    guilds_stay: false,
                    may_lose_snapshot: true,
                },
                beats_at_once: number % 4 == 0,
                heartbeat_ms_max: HEARTBEAT_MS_MAX,
                receive_buffer_bytes: (number % 4 == 1).then_some(SMALL_BUFFER_BYTES),
            };
            Client::new(settings, Rc::default(), base.seed + number as u64)
        });
        let clients: Vec<_> = clients.collect();
        let now = Instant::now();
        let verdict = Verdict { seed: base.seed, shards: base.shards, clients: clients.len(), ..Verdict::default() };
        Self {
            options,
            fake,
            proxy,
            control,
            clients,
            tasks: Vec::new(),
            before: Snapshot::default(),
            began: now,
            verdict: RefCell::new(verdict),
            asked: RefCell::default(),
            outages: RefCell::default(),
        }
    }

    /// Connects all clients and waits for their guilds.
    async fn start(&mut self) -> io::Result<()> {
        let started = Instant::now();
        self.tasks = self.clients.iter().map(|it| spawn_local(it.clone().run())).collect();
        while !self.clients.iter().all(|it| it.is_live.get() && it.judge.borrow().is_ready()) {
            check(&mut self.proxy)?;
            if started.elapsed() > READY {
                return Err(io::Error::other("the clients did not become ready"));
            }
            sleep(POLL).await;
        }
        let now = Snapshot::take(&self.clients, &self.fake.stats().await?);
        let proxies = 1 + u64::from(self.control.is_some());
        let base = &self.options.base;
        self.before = Snapshot::of_start(&now, proxies * u64::from(base.shards), self.clients.len() as u64);
        self.fake.post(&format!("limits?max_concurrency={}", base.max_concurrency.unwrap_or(base.shards))).await?;
        println!("{} clients ready after {:.1} s", self.clients.len(), started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Everything at once, until the time is over.
    async fn rage(&mut self) -> io::Result<()> {
        self.began = Instant::now();
        self.fake.post(&format!("rate?events_per_s={}", self.options.base.events_per_s)).await?;
        let end = self.began + Duration::from_secs_f64(self.options.seconds);
        let Self { options, fake, proxy, clients, verdict, asked, outages, began, .. } = self;
        let stage = Stage { options, fake, clients, verdict, asked, outages, end };
        let is_over = Cell::new(false);
        let restarts = async {
            let done = if options.restarts { stage.restarts(proxy).await } else { stage.watch(proxy).await };
            is_over.set(true);
            done
        };
        let show = async {
            stage.show(*began, &is_over).await;
            Ok(())
        };
        // What cannot go on ends the run at once.
        tokio::try_join!(restarts, stage.troubles(), show).map(|_| ())
    }

    /// Peace: everybody comes back, and everything is counted.
    async fn judge(mut self) -> io::Result<Verdict> {
        for order in ["refuse?count=0", "hello_op7?count=0", "rate?events_per_s=0"] {
            self.fake.post(order).await?;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let counters = self.fake.counters().await?;
        let last = |client: &Client| counters[client.settings.terms.shard as usize];
        let drain = Instant::now();
        let has_all = |it: &Rc<Client>| {
            let judge = it.judge.borrow();
            it.is_live.get() && judge.is_ready() && judge.has_all(last(it))
        };
        while !self.clients.iter().all(has_all) && drain.elapsed() < DRAIN {
            check(&mut self.proxy)?;
            sleep(POLL).await;
        }
        silence(&self.clients).await;
        self.clients.iter().for_each(|it| it.judge.borrow_mut().settle(last(it)));
        let mut outcome = Outcome { scenario: "chaos", seconds, ..Outcome::default() };
        outcome.delivered = self.clients.iter().map(|it| it.judge.borrow().delivered).sum();
        for proxy in std::iter::once(&mut self.proxy).chain(&mut self.control) {
            proxy.wait().await?;
        }
        self.compare().await?;
        // After all shards are back: whoever was away for too long has identified anew by now, and is counted.
        Snapshot::take(&self.clients, &self.fake.stats().await?).fill(&self.before, &mut outcome);
        self.clients.iter().for_each(|it| it.order(Order::Leave));
        sleep(POLL * 4).await;
        self.tasks.iter().for_each(JoinHandle::abort);
        let mut verdict = self.verdict.take();
        for proxy in std::iter::once(self.proxy).chain(self.control) {
            verdict.bad_ends += u64::from(!proxy.process.stop().await.is_some_and(|it| it.success()));
        }
        self.fake.process.stop().await;
        verdict.outcome = outcome;
        verdict.outages =
            self.outages.take().into_iter().filter_map(|(kind, all)| Some((kind, Latency::of_each(&all)?))).collect();
        Ok(verdict)
    }

    /// Every shard tells a new client what the proxy tells that was never restarted.
    async fn compare(&self) -> io::Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        let patience = Instant::now() + DRAIN;
        for shard in 0..self.options.base.shards {
            let place = [shard, self.options.base.shards];
            loop {
                // What was sent last may still be under way to the other, which has no client to wait for it.
                let (proxy, control) = (told::take(&self.proxy.url, place), told::take(&control.url, place));
                let (mut proxy, mut control) = (proxy.await?, control.await?);
                [&mut proxy, &mut control].into_iter().for_each(|it| {
                    it.retain(|id, _| id.parse().is_ok_and(|id| !self.asked.borrow().contains(&id)));
                });
                let Some(difference) = told::difference(&proxy, &control) else { break };
                if Instant::now() > patience {
                    self.verdict.borrow_mut().states_different.push(format!("shard {shard}: {difference}"));
                    break;
                }
                sleep(POLL * 4).await;
            }
            self.verdict.borrow_mut().states_compared += 1;
        }
        Ok(())
    }
}

/// What those who make trouble share.
struct Stage<'a> {
    options: &'a Options,
    fake: &'a Fake,
    clients: &'a [Rc<Client>],
    verdict: &'a RefCell<Verdict>,
    asked: &'a RefCell<BTreeSet<u64>>,
    outages: &'a RefCell<BTreeMap<&'static str, Vec<u64>>>,
    end: Instant,
}

impl Stage<'_> {
    fn count(&self, name: &'static str) {
        *self.verdict.borrow_mut().happened.entry(name).or_default() += 1;
    }

    async fn troubles(&self) -> io::Result<()> {
        let base = &self.options.base;
        let away_max = Duration::from_secs_f64(self.options.away_seconds);
        let mut troubles = Troubles::new(base.seed, base.shards, self.clients.len(), away_max);
        // The guilds of each shard do not change: what is made up is made up inside them.
        let guilds: Vec<Vec<u64>> =
            (0..base.shards).map(|it| self.clients[it as usize].judge.borrow().guilds().to_vec()).collect();
        loop {
            sleep(troubles.pause()).await;
            let left = self.end.saturating_duration_since(Instant::now()).saturating_sub(LAST_RETURN);
            if left.is_zero() {
                return Ok(());
            }
            let trouble = troubles.next(|shard| guilds[shard as usize].clone(), left);
            self.count(trouble.name);
            for post in &trouble.posts {
                self.fake.post_body(&post.order, &post.body).await?;
            }
            for (client, order) in trouble.orders {
                if let Order::RequestMembers { guild, .. } = &order {
                    self.asked.borrow_mut().insert(*guild);
                }
                self.clients[client].order(order);
            }
        }
    }

    /// Ends the proxy again and again, in the three ways.
    async fn restarts(&self, proxy: &mut Proxy) -> io::Result<()> {
        let mut rng = Rng::with_seed(self.options.base.seed ^ 0x5EED);
        loop {
            let pause = Duration::from_millis(rng.u64(1000..12_000));
            let until = Instant::now() + pause;
            while Instant::now() < until.min(self.end) {
                check(proxy)?;
                sleep_until((Instant::now() + POLL).min(until)).await;
            }
            if Instant::now() + BACK / 4 > self.end {
                return self.watch(proxy).await;
            }
            self.clients.iter().for_each(|it| drop(it.take_outages()));
            let (name, death, again) = match rng.u8(..10) {
                0..4 => ("SIGTERM", Death::Terminated, 0),
                4..8 => ("kill -9", Death::Killed, 0),
                _ => ("kill -9, again while starting", Death::Killed, rng.u8(1..3)),
            };
            self.count(name);
            let mut ended_well = proxy.restart(death).await?;
            for _ in 0..again {
                sleep(Duration::from_millis(rng.u64(0..1500))).await;
                ended_well &= proxy.restart(Death::Killed).await?;
            }
            self.verdict.borrow_mut().bad_ends += u64::from(!ended_well);
            self.await_return(proxy).await?;
            let all = self.clients.iter().flat_map(|it| it.take_outages());
            self.outages.borrow_mut().entry(name).or_default().extend(all);
        }
    }

    /// Until all clients that should be there are, and have had an event.
    async fn await_return(&self, proxy: &mut Proxy) -> io::Result<()> {
        let began = Instant::now();
        // Until everybody has noticed.
        sleep(POLL * 4).await;
        loop {
            check(proxy)?;
            let is_missing = |it: &&Rc<Client>| !it.is_absent.get() && (!it.is_live.get() || it.is_in_outage());
            let missing = self.clients.iter().filter(is_missing);
            match missing.count() {
                0 => return Ok(()),
                missing if began.elapsed() > BACK => {
                    self.verdict.borrow_mut().not_back += missing as u64;
                    return Ok(());
                }
                _ => sleep(POLL).await,
            }
        }
    }

    /// Nothing but a look at whether the proxy lives, until the end.
    async fn watch(&self, proxy: &mut Proxy) -> io::Result<()> {
        while Instant::now() < self.end {
            check(proxy)?;
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn show(&self, began: Instant, is_over: &Cell<bool>) {
        let mut delivered = 0;
        while Instant::now() < self.end && !is_over.get() {
            sleep_until((Instant::now() + SHOW).min(self.end)).await;
            let sum = |count: fn(&Client) -> u64| self.clients.iter().map(|it| count(it)).sum::<u64>();
            let now_delivered = sum(|it| it.judge.borrow().delivered);
            let verdict = self.verdict.borrow();
            let restarts: u64 = verdict.happened.iter().filter(|it| it.0.starts_with(['S', 'k'])).map(|it| *it.1).sum();
            println!(
                "{:>5.0} s  {} of {} live  {} events/s  {restarts} restarts, {} things  lost {}  op 9 {}  findings {}",
                began.elapsed().as_secs_f64(),
                sum(|it| it.is_live.get().into()),
                self.clients.len(),
                (now_delivered - std::mem::replace(&mut delivered, now_delivered)) / SHOW.as_secs(),
                verdict.happened.values().sum::<u64>(),
                sum(|it| it.judge.borrow().counters.lost()),
                sum(|it| it.history.borrow().invalid_sessions),
                sum(|it| it.judge.borrow().findings.counts.values().sum()),
            );
        }
    }
}

/// Errs with the end of its log when the proxy has ended by itself.
fn check(proxy: &mut Proxy) -> io::Result<()> {
    match proxy.process.exited() {
        None => Ok(()),
        Some(status) => Err(io::Error::other(format!("the proxy ended, {status}:\n{}", tail(&proxy.log)))),
    }
}
