//! The control thread: everything that is slow and serves all cores. Configuration, the machine's limits, Discord's REST, names,
//! pages, signals, the order of IDENTIFYs, the end.
//!
//! Nothing here runs on a core, and no event of Discord passes here.

pub mod access;
pub mod address;
pub mod admin;
pub mod args;
pub mod certificates;
pub mod check;
pub mod config;
pub mod coordinator;
pub mod first_answer;
pub mod first_contact;
pub mod health;
pub mod keys;
pub mod ledger;
pub mod loads;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod pages;
pub mod presence;
pub mod probe;
pub mod reload;
pub mod resolve;
pub mod rest;
pub mod service;
pub mod settings;
pub mod signals;
pub mod takeover;
pub mod topology;
pub mod totals;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{error, info, warn};

use self::access::Access;
use self::args::Args;
use self::certificates::Certificates;
use self::config::{Config, Environment, Loaded, Notice, SHARDS_MAX, sources};
use self::coordinator::{Coordinator, Core, CoreOf, End, Helpers, Opening};
use self::keys::Refusal;
use self::ledger::Ledger;
use self::memory::{Budget, Watch};
use self::notify::{Manager, Notifier};
use self::pages::{Pages, Site};
use self::probe::Machine;
use self::reload::{Reloader, Watched};
use self::resolve::Resolver;
use self::rest::{Endpoint, GatewayBot};
use self::service::Service;
use self::signals::Wish;
use self::totals::{Place, Writer};
use crate::runtime::mesh::{Detail, ToControl};
use crate::runtime::settings::{Backend, RuntimeSettings};
use crate::runtime::takeover::Inherited;
use crate::runtime::{clock, heap};
use crate::wire::CloseCode;

/// Threads that have said that they are done get this long to end: with `DRAIN_WITHIN` and the store's own time it stays below `DRAIN_MAX`.
const THREADS_END_MAX: Duration = Duration::from_millis(500);
const THREADS_END_POLL: Duration = Duration::from_millis(1);

/// After a takeover, how long the address of `admin_bind` is waited for.
const ADMIN_BIND_PATIENCE: Duration = Duration::from_secs(3);

/// The running cores, as starting the runtime yields them.
pub struct Cores<C> {
    /// By core number.
    pub senders: Vec<C>,
    pub threads: Vec<JoinHandle<()>>,
    pub core_of: CoreOf,
    /// Where clients connect, and duplicates of the sockets that listen there.
    pub listen: SocketAddr,
    pub listeners: Vec<OwnedFd>,
}

/// The whole life of the process, after the arguments are read. `activated` are listeners of the service manager's. `start` starts the
/// runtime with the listeners it is given, if any; it sends its mail to the given end.
pub fn run<C: Core>(
    args: &Args,
    environment: &Environment,
    activated: Vec<OwnedFd>,
    start: impl FnOnce(RuntimeSettings, Vec<OwnedFd>, mpsc::Sender<ToControl>) -> io::Result<Cores<C>>,
) -> ExitCode {
    // Looked at before it is read: a change from then on is one that the proxy does not run with.
    let file = Watched::new(sources::file_path(args.config.as_deref(), environment));
    let done = match config::load_with(args.config.as_deref(), environment, &args.keys) {
        Ok(loaded) if args.check => check::page(&loaded, &Machine::probe()).map(|page| show(&page)),
        Ok(loaded) => serve(&loaded, file, args, environment, activated, start),
        Err(refusal) => Err(refusal),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("shardgate: {refusal}");
            ExitCode::FAILURE
        }
    }
}

fn serve<C: Core>(
    loaded: &Loaded,
    file: Watched,
    args: &Args,
    environment: &Environment,
    activated: Vec<OwnedFd>,
    start: impl FnOnce(RuntimeSettings, Vec<OwnedFd>, mpsc::Sender<ToControl>) -> io::Result<Cores<C>>,
) -> Result<(), Refusal> {
    let config = &loaded.config;
    takeover::check(args, config)?;
    let log = log::start(config.log_level, config.log_format).map_err(refuse("the log"))?;
    info!(version = env!("CARGO_PKG_VERSION"), configuration = loaded.source, "starting");
    tell(&loaded.notices);
    if config.data_dir.is_none() {
        info!(
            "without `data_dir` sessions are in memory alone: a restart costs an IDENTIFY a shard, and clients start over"
        );
    }

    let (to_control, mail) = mpsc::channel();
    let wishes = to_control.clone();
    let on_signal = move |wish| {
        let message = match wish {
            Wish::Stop => ToControl::Stop,
            Wish::Totals => ToControl::WriteTotals,
            Wish::Reload => ToControl::Reload,
        };
        // The control thread has ended when nobody hears it.
        let _ = wishes.send(message);
    };
    signals::on_each(on_signal).map_err(refuse("signals"))?;
    let manager = Manager::of_process();
    let notifier = Notifier::new(manager.socket.as_deref()).unwrap_or_else(|error| {
        warn!("NOTIFY_SOCKET: the service manager is told nothing: {error}");
        Notifier::default()
    });
    notifier.say("STATUS=Asks Discord for the gateway.");

    let machine = Machine::probe();
    let backend = choose_backend(config, &machine)?;
    let memory = memory::budget(config, &machine)?;
    let endpoint = Endpoint::new(config)?;
    let watched = config.tls.clone().map(|it| Certificates::start(it, clock::now())).transpose()?;
    let (certificates, client_tls) = watched.unzip();
    let mut ledger = ledger(config);
    let kept = ledger.gateway(clock::since_epoch());
    // Whoever looks after the process sees that it lives, however long Discord's REST takes. Beside a running proxy the address is that one's.
    if !args.takeover {
        open_admin(config, Duration::ZERO, &to_control)?;
    }
    let Some(first) = first_answer::wait(&endpoint, &mail, kept.as_ref())? else {
        info!("stopped before the first core started");
        return Ok(());
    };
    if first.is_reload_asked {
        // We hear it ourselves, when the cores can be told.
        let _ = to_control.send(ToControl::Reload);
    }
    let mut settings = fit(config, &first.bot, kept.as_ref().map(|it| it.shard_count), &machine, backend, &memory)?;
    settings.clients_max = machine.clients_max(settings.clients_max, settings.shards.len() as u32);
    settings.client_tls = client_tls;
    let held = settings.shards.len() as u32;
    let mut reloader = Reloader::new(args, environment, loaded, file, machine, held, log.level());
    settings.loads = ledger.loads(settings.shard_count);
    let resolver = Resolver::start().map_err(refuse("the resolver's thread"))?;
    // All that can be made ready beside a running proxy is: from here on it drains, and its clients wait for this one. What it keeps in files, and the
    // operator's address, are its own until it has left.
    let activated = Inherited { are_managed: !activated.is_empty(), listeners: activated };
    let Inherited { listeners, are_managed } = takeover::inherit(args, config, &settings, activated)?;
    let budget = ledger.budget(clock::since_epoch());
    let opening = Opening {
        limit: match (&first.asking, budget) {
            // Our own count is newer than the answer that it began with.
            (Some(_), Some(budget)) => budget.limit,
            _ => first.bot.session_start_limit,
        },
        identified: budget.map(|it| it.identified).unwrap_or_default(),
        reserve: settings::reserve(config, held),
        gateway_url: settings.gateway_url.clone(),
        shard_count: settings.shard_count,
        asking: first.asking,
    };
    if opening.asking.is_none() {
        ledger.keep_gateway(&first.bot, settings.shard_count, clock::since_epoch());
    }
    let site = Site {
        externally_accessible_url: settings.externally_accessible_url.clone(),
        shards: settings.shards.clone(),
        shard_count: settings.shard_count,
        access: Access { has_admin_bind: config.admin_bind.is_some(), admin_key: config.admin_key.clone() },
    };
    if args.takeover {
        open_admin(config, ADMIN_BIND_PATIENCE, &to_control)?;
    }
    let cores = start(settings.clone(), listeners, to_control.clone())
        .map_err(|error| first_contact::start_refused(settings.listen, &error))?;
    if let Some(data_dir) = &config.data_dir {
        let ours = Inherited { listeners: cores.listeners, are_managed };
        takeover::open_door(data_dir, &settings, cores.listen, ours, to_control);
    }
    let (senders, askers, counted) = (cores.senders.clone(), cores.senders.clone(), cores.senders.clone());
    if config.data_dir.is_some() {
        let measured = cores.senders.clone();
        let collect = move || coordinator::collect(&measured, Detail::Brief);
        loads::keep(self::ledger(config), settings.shard_count, settings.loads.clone(), collect)
            .map_err(refuse("the thread that keeps the loads"))?;
    }
    let runtime_directory = std::env::var("RUNTIME_DIRECTORY").ok();
    let place = Place::new(config.data_dir.as_deref(), runtime_directory.as_deref());
    let held = settings.shards.clone();
    let now = clock::now();
    let helpers = Helpers {
        resolver,
        pages: Pages::start(
            site,
            move |detail| coordinator::collect(&senders, detail),
            move |wanted| coordinator::find(&askers, wanted),
        )
        .map_err(refuse("the pages' threads"))?,
        ask: Box::new(move || endpoint.ask_until_answered(rng())),
        certificates,
        memory: Watch::new(memory.limit, now, heap::resident_bytes, heap::purge),
        service: Service::new(notifier, manager.watchdog, held.len(), cores.senders.len(), now),
        totals: Writer::new(place, held, settings.shard_count, move || coordinator::collect(&counted, Detail::Whole)),
        reload: Box::new(move |asked| reloader.reload(asked)),
    };
    let mut coordinator = Coordinator::new(cores.senders, cores.core_of, helpers, opening, ledger, now);
    let end = coordinator.serve(&mail);
    let goes_offline = args.close_upstream_offline && end != End::TakenOver;
    let code = if goes_offline { CloseCode::NORMAL } else { CloseCode::RECONNECTING };
    // Connections wait for a successor, or for the service manager to start this program again.
    let leave_listeners = are_managed || end == End::TakenOver;
    let drained = coordinator.drain(&mail, code, leave_listeners);
    if drained {
        join(cores.threads);
    }
    match (end, drained) {
        (End::Failed, _) => Err(Refusal::of("a core failed; the log says why")),
        // A successor sees the end of the process then.
        (End::Stopped | End::TakenOver, false) => Err(Refusal::of("not everything was sent within 10 s")),
        (End::TakenOver, true) => {
            if let Some(successor) = coordinator.take_successor() {
                info!(pid = successor.terms.pid, "taken over");
                successor.tell_left();
            }
            Ok(())
        }
        (End::Stopped, true) => {
            info!("stopped");
            Ok(())
        }
    }
}

/// Before the cores start: an address that cannot be had is the operator's mistake, and costs no IDENTIFY.
fn open_admin(config: &Config, patience: Duration, to_control: &mpsc::Sender<ToControl>) -> Result<(), Refusal> {
    let Some(address) = config.admin_bind else { return Ok(()) };
    admin::start(address, patience, to_control.clone())
        .map_err(|error| first_contact::not_bound("admin_bind", address, &error))
}

fn refuse(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::of(format!("{what}: {error}"))
}

/// What a command was asked for, on standard output. Who reads no further, as `head` does, has read enough.
pub fn show(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn tell(notices: &[Notice]) {
    for notice in notices {
        match notice {
            Notice::Note(line) => info!("{line}"),
            Notice::Warning(line) => warn!("{line}"),
        }
    }
}

/// Everything about the machine that can be judged before the number of shards is known.
fn choose_backend(config: &Config, machine: &Machine) -> Result<Backend, Refusal> {
    let (backend, why) = machine.backend(config.backend)?;
    if let Some(line) = why {
        warn!("{line}");
    }
    machine.cores(&config.cores, config.shards.unwrap_or(SHARDS_MAX as u32))?;
    Ok(backend)
}

fn ledger(config: &Config) -> Ledger {
    let salt = getrandom::u64().unwrap_or_default();
    Ledger::new(config.data_dir.as_deref(), &config.api_url, config.token.secret(), salt)
}

/// The runtime's settings, after the machine was measured against them.
fn fit(
    config: &Config,
    bot: &GatewayBot,
    shards_before: Option<u32>,
    machine: &Machine,
    backend: Backend,
    memory: &Budget,
) -> Result<RuntimeSettings, Refusal> {
    let wanted = settings::shards_wanted(bot.shards, shards_before);
    if config.shards.is_none() && wanted != bot.shards {
        info!(
            recommended = bot.shards,
            shards = wanted,
            "staying with the number of shards from before: set `shards` to change it"
        );
    }
    let (shards, shard_count) = settings::shard_range(config, wanted)?;
    let mut settings = settings::settings(config, bot, shards, shard_count, backend, memory.log_bytes);
    let held = settings.shards.len() as u32;
    settings.cores = machine.cores(&config.cores, held)?;
    let shortfalls = [machine.memlock_shortfall(backend, settings.cores.len()), machine.open_files_shortfall(held)?];
    for line in shortfalls.into_iter().flatten().chain(memory.warning.clone()) {
        warn!("{line}");
    }
    let limit = bot.session_start_limit;
    info!(
        shards = ?settings.shards,
        of = settings.shard_count,
        gateway = settings.gateway_url,
        identify_remaining = limit.remaining,
        max_concurrency = limit.max_concurrency,
        backend = ?backend,
        cores = ?settings.cores,
        listen = %settings.listen,
        memory_limit = memory.limit,
        log_bytes = memory.log_bytes,
        "connecting"
    );
    if limit.remaining < held {
        warn!(
            identify_remaining = limit.remaining,
            shards = held,
            resets_in = ?limit.reset_after,
            "fewer IDENTIFYs are left than shards: those without a session to resume may have to wait until the limit resets"
        );
    }
    Ok(settings)
}

fn rng() -> fastrand::Rng {
    // Without the kernel's randomness the back-off is merely the same each time.
    fastrand::Rng::with_seed(getrandom::u64().unwrap_or_default())
}

/// Waits for threads that have nothing more to do, but no longer than `THREADS_END_MAX`: one that hangs in a disk ends with the process.
fn join(threads: Vec<JoinHandle<()>>) {
    let until = clock::now() + THREADS_END_MAX;
    for thread in threads {
        while !thread.is_finished() && clock::now() < until {
            thread::sleep(THREADS_END_POLL);
        }
        let name = thread.thread().name().unwrap_or("?").to_owned();
        if !thread.is_finished() {
            error!(thread = name, "has not ended: the disk may hang");
        } else if thread.join().is_err() {
            error!(thread = name, "panicked while it ended");
        }
    }
}
