//! `loadtest run`: fake Discord, proxy (or what stands in its place) and clients, each in its own process, a scenario or all, and a verdict.
//!
//! The clients live on this process's one thread. Every process is killed when the run ends, however it ends.

pub mod fake;
pub mod held;
pub mod options;
pub mod port;
pub mod proc;
pub mod proxy;
mod relay;
pub mod report;
pub mod scenario;
pub mod snapshot;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, interval, sleep};

use self::fake::Fake;
use self::options::Options;
use self::proxy::Proxy;
use self::relay::Relay;
use self::report::{Latency, Outcome};
use self::scenario::Scenario;
use self::snapshot::Snapshot;
use crate::client::{Client, Order, Settings, silence};
use crate::clock::{SECOND_NS, now_ns};
use crate::compress::Compression;
use crate::judge::Terms;
use crate::tally::Tally;
use crate::tls;

/// Until every client has READY and its guilds.
const READY: Duration = Duration::from_secs(120);
/// Until every client has what was sent, after the traffic stopped.
const DRAIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// The receive buffer of clients that may stop reading: theirs is not the memory that is tested.
const STALLED_BUFFER_BYTES: u32 = 64 * 1024;
/// Events sent within this time after Discord dropped its connections come late by design, and are no latency.
const DROP_NS: u64 = 3 * SECOND_NS;
/// Lines of a log that are shown when a process fails.
const TAIL_LINES: usize = 20;
/// Between two looks at the proxy's memory.
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// Runs it all. Answers whether every promise held.
///
/// Errs when something could not be started or did not answer; then nothing was judged.
pub async fn run(options: Options) -> io::Result<bool> {
    in_temp_dir(async |dir| judged(&options, dir).await).await
}

/// Does `work` in a folder of its own, which is removed in the end; a signal ends it with an error.
pub(crate) async fn in_temp_dir<T>(work: impl AsyncFnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    let dir = TempDir::new()?;
    tokio::select! {
        done = work(&dir.0) => done,
        _ = tokio::signal::ctrl_c() => Err(io::Error::other("interrupted")),
        _ = terminate.recv() => Err(io::Error::other("terminated")),
    }
}

async fn judged(options: &Options, dir: &Path) -> io::Result<bool> {
    let mut run = Run::open(options, dir).await?;
    let mut outcomes = Vec::new();
    for scenario in &options.scenarios {
        let outcome = run.perform(*scenario, options.events_per_s, Duration::from_secs(options.seconds)).await?;
        println!("{}\n{}", outcome.scenario, outcome.text());
        outcomes.push(outcome);
    }
    let proxy_ended_well = run.stop().await;
    if !proxy_ended_well {
        println!("  BROKEN: the proxy did not end by itself with status 0 after SIGTERM");
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcomes)?)?;
    }
    let kept = proxy_ended_well && outcomes.iter().all(|it| it.broken().is_empty());
    println!("{}", if kept { "every promise was kept" } else { "NOT every promise was kept" });
    Ok(kept)
}

/// What stands between the fake Discord and the clients.
enum Middle {
    Nothing,
    Relay(Relay),
    Proxy(Proxy),
}

impl Middle {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Relay(relay) => Some(relay.process.pid),
            Self::Proxy(proxy) => Some(proxy.process.pid),
        }
    }
}

/// All processes of a run, their clients ready.
pub(crate) struct Run<'a> {
    options: &'a Options,
    fake: Fake,
    middle: Middle,
    clients: Vec<Rc<Client>>,
    tasks: Vec<JoinHandle<()>>,
    /// What was already reported.
    before: Snapshot,
    /// No SIGTERM was answered with anything but a clean end.
    ended_well: bool,
}

impl<'a> Run<'a> {
    /// Starts everything, with its files in `dir`, and waits until every client has its guilds.
    ///
    /// Errs when a process ends early or takes too long.
    pub(crate) async fn open(options: &'a Options, dir: &Path) -> io::Result<Self> {
        let fake = Fake::start(options, dir).await?;
        let is_durable = options.is_durable || options.scenarios.iter().any(|it| it.death().is_some());
        let data_dir = is_durable.then(|| dir.join("data"));
        let (middle, url) = if options.is_direct {
            (Middle::Nothing, fake.address.gateway.clone())
        } else if let Some(kind) = options.relay {
            let relay = Relay::start(kind, options, &fake, dir).await?;
            let url = relay.url.clone();
            (Middle::Relay(relay), url)
        } else {
            let proxy = Proxy::start(options, &fake, dir, "proxy", data_dir.as_deref()).await?;
            let url = proxy.url.clone();
            (Middle::Proxy(proxy), url)
        };
        let mut run = Self::new(options, fake, middle, &url)?;
        run.start().await?;
        Ok(run)
    }

    fn new(options: &'a Options, fake: Fake, middle: Middle, url: &str) -> io::Result<Self> {
        let roots = match (&middle, &fake.address.cert) {
            (Middle::Proxy(proxy), _) => proxy.roots.clone(),
            (Middle::Nothing, Some(path)) => tls::roots_from(Path::new(path))?,
            _ => None,
        };
        let may_stall = options.scenarios.contains(&Scenario::Stalled);
        let clients = (0..options.shards * options.clients_per_shard).map(|number| {
            let settings = Settings {
                url: url.to_owned(),
                roots: roots.clone(),
                shards: options.shards,
                compression: options.compression,
                token: "fake".to_owned(),
                intents: crate::client::options::INTENTS,
                terms: Terms {
                    shard: number % options.shards,
                    is_binary: options.compression != Compression::None,
                    parse_every: options.parse_every,
                    first_counter: Some(1),
                    may_lose_session: false,
                    guilds_stay: true,
                    may_lose_snapshot: false,
                },
                beats_at_once: number % 4 == 0,
                heartbeat_ms_max: options.heartbeat_ms_max,
                receive_buffer_bytes: (may_stall && (number as usize) < scenario::STALLED_CLIENTS)
                    .then_some(STALLED_BUFFER_BYTES),
            };
            Client::new(settings, Rc::default(), options.seed + number as u64)
        });
        Ok(Self {
            options,
            fake,
            clients: clients.collect(),
            middle,
            tasks: Vec::new(),
            before: Snapshot::default(),
            ended_well: true,
        })
    }

    /// Connects all clients, waits for their guilds, and lets some ask for all members of one.
    async fn start(&mut self) -> io::Result<()> {
        let started = Instant::now();
        self.tasks = self.clients.iter().map(|it| spawn_local(it.clone().run())).collect();
        while !self.clients.iter().all(|it| it.is_live.get() && it.judge.borrow().is_ready()) {
            self.check_proxy()?;
            if started.elapsed() > READY {
                let missing = self.clients.iter().filter(|it| !it.judge.borrow().is_ready()).count();
                return Err(io::Error::other(format!("{missing} clients did not become ready")));
            }
            sleep(POLL).await;
        }
        if !self.options.is_quiet {
            println!("{} clients ready after {:.1} s", self.clients.len(), started.elapsed().as_secs_f64());
        }
        for client in self.clients.iter().take(self.options.shards as usize).step_by(10) {
            let guild = client.judge.borrow().guilds().first().copied();
            if let Some(guild) = guild {
                client.order(Order::RequestMembers { guild, nonce: format!("load-{guild:x}") });
            }
        }
        // The traffic's latency is measured without this start-up work; lost chunks are found at the end.
        loop {
            sleep(POLL).await;
            if started.elapsed() > READY || !self.clients.iter().any(|it| it.judge.borrow().awaits_chunks()) {
                break;
            }
        }
        if let Some(max_concurrency) = self.options.max_concurrency {
            self.fake.post(&format!("limits?max_concurrency={max_concurrency}")).await?;
        }
        let now = self.snapshot().await?;
        let wanted =
            if self.options.is_without_proxy() { self.clients.len() as u64 } else { self.options.shards as u64 };
        self.before = Snapshot::of_start(&now, wanted, self.clients.len() as u64);
        Ok(())
    }

    async fn snapshot(&self) -> io::Result<Snapshot> {
        Ok(Snapshot::take(&self.clients, &self.fake.stats().await?))
    }

    fn check_proxy(&mut self) -> io::Result<()> {
        let (name, process, log) = match &mut self.middle {
            Middle::Nothing => return Ok(()),
            Middle::Relay(relay) => ("relay", &mut relay.process, &relay.log),
            Middle::Proxy(proxy) => ("proxy", &mut proxy.process, &proxy.log),
        };
        match process.exited() {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the {name} ended, {status}:\n{}", tail(log)))),
        }
    }

    /// Lets `scenario` happen within `time` of traffic, and waits until every client has what was sent.
    pub(crate) async fn perform(
        &mut self,
        scenario: Scenario,
        events_per_s: f64,
        time: Duration,
    ) -> io::Result<Outcome> {
        let (tally, apart) = (Rc::new(RefCell::new(Tally::new())), Rc::new(RefCell::new(Tally::new())));
        for (number, client) in self.clients.iter().enumerate() {
            client.take_outages();
            client.set_tally(if scenario.is_apart(number) { apart.clone() } else { tally.clone() });
        }
        let usages = Usages::take(self);
        let pid = match &self.middle {
            Middle::Proxy(proxy) => proxy.pid.clone(),
            other => Rc::new(Cell::new(other.pid().unwrap_or(0))),
        };
        let began = Instant::now();
        self.fake.post(&format!("rate?events_per_s={events_per_s}")).await?;
        let Self { options, clients, fake, middle, .. } = &mut *self;
        let happens = async {
            sleep(time.mul_f64(0.4)).await;
            if scenario == Scenario::Drop {
                let now_ns = now_ns();
                tally.borrow_mut().disturbed_ns = now_ns..now_ns + DROP_NS;
            }
            if let (Some(death), Middle::Proxy(proxy)) = (scenario.death(), middle) {
                return proxy.restart(death).await;
            }
            scenario.perform(clients, fake, time.mul_f64(0.3), options.seed).await?;
            Ok(true)
        };
        let shown = async {
            match options.is_quiet {
                true => sleep(time).await,
                false => show(scenario, clients, &tally, pid.get(), time).await,
            }
        };
        let (happened, (), memory) = tokio::join!(happens, shown, watch_memory(&pid, time));
        self.ended_well &= happened?;
        let seconds = began.elapsed().as_secs_f64();
        let mut outcome = Outcome { scenario: scenario.name(), seconds, memory, ..Outcome::default() };
        // Costs are those of the time under traffic, not of the drain.
        let delivered = tally.borrow().delivered + apart.borrow().delivered;
        usages.fill(self, &mut outcome, delivered);
        outcome.events_per_s = delivered as f64 / seconds;
        self.fake.post("rate?events_per_s=0").await?;
        self.drain().await?;
        self.check_proxy()?;
        let outages: Vec<u64> = self.clients.iter().flat_map(|it| it.take_outages()).collect();
        outcome.outage = Latency::of_each(&outages);
        outcome.latency = Latency::of(&tally.borrow().latency);
        outcome.latency_apart = (apart.borrow().delivered > 0).then(|| Latency::of(&apart.borrow().latency));
        outcome.delivered = tally.borrow().delivered + apart.borrow().delivered;
        outcome.replayed = tally.borrow().late + apart.borrow().late;
        outcome.client_resumes_wanted = scenario.client_resumes(self.clients.len() as u64);
        outcome.upstream_resumes_wanted = scenario.upstream_resumes(self.options.shards);
        let now = self.snapshot().await?;
        now.fill(&self.before, &mut outcome);
        self.before = now;
        Ok(outcome)
    }

    /// Waits until every client has every event and all that it asked for; what is missing after `DRAIN` is lost.
    async fn drain(&mut self) -> io::Result<()> {
        // The order of rate 0 was answered, so the counters stand still.
        let counters = self.fake.counters().await?;
        let last = |client: &Client| counters[client.settings.terms.shard as usize];
        let began = Instant::now();
        let has_all = |it: &Rc<Client>| it.is_live.get() && it.judge.borrow().has_all(last(it));
        while !self.clients.iter().all(has_all) && began.elapsed() < DRAIN {
            self.check_proxy()?;
            sleep(POLL).await;
        }
        silence(&self.clients).await;
        self.clients.iter().for_each(|it| it.judge.borrow_mut().settle(last(it)));
        Ok(())
    }

    /// Lets everybody go. Answers whether the proxy ended as it should, each time.
    pub(crate) async fn stop(self) -> bool {
        self.clients.iter().for_each(|it| it.order(Order::Leave));
        sleep(POLL * 4).await;
        self.tasks.iter().for_each(JoinHandle::abort);
        let ended_well = match self.middle {
            Middle::Nothing => true,
            Middle::Relay(relay) => {
                relay.process.stop().await;
                true
            }
            Middle::Proxy(proxy) => proxy.process.stop().await.is_some_and(|it| it.success()),
        };
        self.fake.process.stop().await;
        self.ended_well && ended_well
    }
}

/// What the three processes had used before a scenario.
struct Usages([(u32, proc::Usage); 3], Instant);

impl Usages {
    fn take(run: &Run) -> Self {
        let pids = [run.middle.pid().unwrap_or(0), run.fake.process.pid, std::process::id()];
        Self(pids.map(|pid| (pid, proc::Usage::of(pid))), Instant::now())
    }

    fn fill(&self, run: &Run, outcome: &mut Outcome, delivered: u64) {
        let seconds = self.1.elapsed().as_secs_f64();
        let [proxy, discord, clients] = self.0.map(|(pid, before)| {
            let now = proc::Usage::of(pid);
            let cpu_s = now.cpu_s - before.cpu_s;
            let events = delivered.max(1) as f64;
            report::Cost {
                cpu_s,
                cpu_s_per_million: cpu_s * 1e6 / events,
                cpu_percent: cpu_s / seconds * 100.0,
                rss_mib: now.rss_bytes as f64 / (1 << 20) as f64,
                rss_peak_mib: now.rss_peak_bytes as f64 / (1 << 20) as f64,
                voluntary_switches_per_event: now.voluntary_switches.saturating_sub(before.voluntary_switches) as f64
                    / events,
            }
        });
        (outcome.discord, outcome.clients) = (discord, clients);
        // Of one that was restarted nobody knows what its end and its beginning took.
        let is_same = run.middle.pid() == Some(self.0[0].0);
        outcome.proxy = is_same.then_some(proxy);
    }
}

/// Shows how it goes for `time`: a line that renews itself on a terminal, else a line every five seconds.
async fn show(scenario: Scenario, clients: &[Rc<Client>], tally: &RefCell<Tally>, proxy: u32, time: Duration) {
    let is_terminal = io::stdout().is_terminal();
    let mut tick = interval(Duration::from_secs(1));
    tick.tick().await;
    let sum = |count: fn(&Client) -> u64| clients.iter().map(|it| count(it)).sum::<u64>();
    let mut delivered = sum(|it| it.judge.borrow().delivered);
    let mut cpu_s = proc::Usage::of(proxy).cpu_s;
    for second in 1..=time.as_secs() {
        tick.tick().await;
        if !is_terminal && second % 5 != 0 {
            continue;
        }
        let period = if is_terminal { 1.0 } else { 5.0 };
        let now_delivered = sum(|it| it.judge.borrow().delivered);
        let (p50, p99) = tally.borrow_mut().take_recent();
        let usage = proc::Usage::of(proxy);
        let line = format!(
            "{} {second:>3}/{} s  {} live  {:.0} events/s  p50 {} µs p99 {} µs  lost {}  findings {}  proxy {:.0} % {} MiB",
            scenario.name(),
            time.as_secs(),
            sum(|it| it.is_live.get().into()),
            (now_delivered - std::mem::replace(&mut delivered, now_delivered)) as f64 / period,
            p50 / 1000,
            p99 / 1000,
            sum(|it| it.judge.borrow().counters.lost()),
            sum(|it| it.judge.borrow().findings.counts.values().sum()),
            (usage.cpu_s - std::mem::replace(&mut cpu_s, usage.cpu_s)) / period * 100.0,
            usage.rss_bytes >> 20,
        );
        if is_terminal {
            print!("\r\x1b[K{line}");
            io::stdout().flush().ok();
        } else {
            println!("{line}");
        }
    }
    if is_terminal {
        println!();
    }
}

/// Looks at the resident memory of whoever has the id now, for `time`: seconds since the beginning, and MiB.
async fn watch_memory(pid: &Cell<u32>, time: Duration) -> Vec<(f64, f64)> {
    let began = Instant::now();
    let mut memory = Vec::new();
    while pid.get() != 0 && began.elapsed() < time {
        let rss_mib = proc::rss_bytes(pid.get()) as f64 / f64::from(1 << 20);
        memory.push((began.elapsed().as_secs_f64(), rss_mib));
        sleep(MEMORY_EVERY).await;
    }
    memory
}

/// This very program.
pub(crate) fn program() -> io::Result<PathBuf> {
    // A test's own binary cannot be started as `discord`; cargo tells it where the program is.
    std::env::var_os("LOADTEST_BIN").map_or_else(std::env::current_exe, |it| Ok(it.into()))
}

/// The end of a log file.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A directory of this run's own, removed at its end.
pub(crate) struct TempDir(pub PathBuf);

impl TempDir {
    pub(crate) fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("loadtest-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
