//! Sockets, threads, TLS and the clock: everything that touches the kernel.
//!
//! `start` pins one thread per core, each with its own `Net` backend, its shards and its clients. Cores and the control thread
//! speak through `mesh` alone. With a `data_dir` there is one more thread, `storage`.

pub mod activation;
pub mod chunk;
pub mod client;
pub mod client_tls;
pub mod clock;
pub mod closes;
mod conns;
pub mod core;
mod cpu;
pub mod delays;
pub mod epoll;
pub mod heap;
mod link;
mod listeners;
pub mod mesh;
pub mod net;
mod outbox;
pub mod placement;
pub mod settings;
pub mod storage;
pub mod sys;
mod table;
pub mod takeover;
mod tls;
pub mod uring;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::cache::Shapes;
use crate::session::client::Rules;
use crate::session::payload::Token;
use crate::session::upstream::UpstreamSettings;
use crate::shard::group::Group;
use crate::shard::{Shard, ShardSettings};
use crate::store::identity::Binding;
use crate::store::{self, Recovered};
use crate::wire::ShardId;
use core::{Core, Keeping, Parts, Shared};
use mesh::{CoreSender, ToControl, ToCore};
use net::Net;
use placement::Placement;
use settings::{Backend, RuntimeSettings};
use storage::mail::ToStore;
use storage::{LOCK_PATIENCE, Lock, Storage, StoreSender};

/// The running cores.
pub struct Runtime {
    pub cores: Vec<CoreSender>,
    pub threads: Vec<JoinHandle<()>>,
    pub placement: Placement,
    /// Where clients connect: the configured address with the port that it has got.
    pub listen: SocketAddr,
    /// Duplicates of all listeners, to be handed to a process that takes over.
    pub listeners: Vec<OwnedFd>,
}

/// Starts one pinned thread per core. Clients can connect when it returns, to `inherited` listeners if there are any.
pub fn start(
    settings: &RuntimeSettings,
    inherited: Vec<OwnedFd>,
    control: mpsc::Sender<ToControl>,
) -> io::Result<Runtime> {
    let placement =
        Placement::new(settings.shards.clone(), settings.cores.len(), |it| settings.loads.get(&it.0).copied());
    let live = settings.live();
    let shared = Arc::new(Shared {
        rules: Rules {
            token: Token(settings.token.clone()),
            validate_token: settings.validate_token,
            shards: settings.shards.clone(),
            shard_count: settings.shard_count,
            limits: settings.client_limits,
        },
        placement: placement.clone(),
        upstream_compression: settings.upstream_compression,
        allow_compression: settings.allow_compression,
        clients_max: live.clients_per_core(settings.cores.len()),
        tls: tls::client_config()?,
        egress: settings.egress.clone().map(Arc::new),
        backend: match settings.backend {
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
        },
    });
    let dealt = listeners::deal(settings.listen, inherited, settings.cores.len(), listeners::PORT_PATIENCE)?;
    let listeners = dealt.iter().flatten().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
    let listen = sys::bound_address(&listeners[0])?;
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for _ in &settings.cores {
        let (sender, receiver) = mpsc::channel();
        let wake = Arc::new(sys::eventfd()?);
        senders.push(CoreSender::new(sender, wake.clone()));
        receivers.push((receiver, wake));
    }
    let (mut threads, mut store, mut begun, mut recovered) = (Vec::new(), None, false, HashMap::new());
    if let Some(found) = start_storage(settings, &senders, &placement, control.clone())? {
        store = Some(found.sender);
        begun = found.opening.begun;
        recovered = found.opening.shards.into_iter().collect();
        threads.push(found.thread);
    }
    for (index, (listeners, (mail, wake))) in dealt.into_iter().zip(receivers).enumerate() {
        let seat = CoreStart {
            index,
            cpu: settings.cores[index],
            listeners,
            wake: wake.try_clone()?,
            mail,
            control: control.clone(),
            peers: senders.clone(),
            shared: shared.clone(),
            settings: settings.clone(),
            store: store.clone(),
            generation: begun.then_some(storage::FIRST_GENERATION),
            recovered: placement.shards_of(index).filter_map(|it| recovered.remove_entry(&it)).collect(),
        };
        let backend = settings.backend;
        let thread = std::thread::Builder::new().name(format!("core-{index}")).spawn(move || seat.run(backend))?;
        threads.push(thread);
    }
    Ok(Runtime { cores: senders, threads, placement, listen, listeners })
}

/// All that a core's thread takes with it.
struct CoreStart {
    index: usize,
    cpu: usize,
    listeners: Vec<OwnedFd>,
    wake: OwnedFd,
    mail: mpsc::Receiver<ToCore>,
    control: mpsc::Sender<ToControl>,
    peers: Vec<CoreSender>,
    shared: Arc<Shared>,
    settings: RuntimeSettings,
    store: Option<StoreSender>,
    /// Of the store, when it could be opened.
    generation: Option<u64>,
    recovered: HashMap<ShardId, Recovered>,
}

/// Starts the storage thread if anything is to be stored.
fn start_storage(
    settings: &RuntimeSettings,
    cores: &[CoreSender],
    placement: &Placement,
    control: mpsc::Sender<ToControl>,
) -> io::Result<Option<Storage>> {
    let Some(wanted) = &settings.storage else { return Ok(None) };
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
    let store = store::Settings {
        binding: Binding {
            token: settings.token.clone(),
            shard_count: settings.shard_count,
            intents: settings.intents,
            api_url: wanted.api_url.clone(),
            cache: settings.cache.bits(),
        },
        shards: settings.shards.clone(),
        cores: cores.len(),
        disk_bytes: wanted.disk_bytes,
        salt,
    };
    let try_direct = settings.backend == Backend::IoUring;
    let lock = Lock::take(&wanted.data_dir, LOCK_PATIENCE)?;
    storage::start(lock, &wanted.data_dir, try_direct, store, cores.to_vec(), placement.clone(), control).map(Some)
}

/// Does a thread's work. `failed` hears what ended it before its time, a panic too: the control thread ends the process then, since half a proxy is
/// worse than a restart.
fn guarded(work: impl FnOnce() -> io::Result<()>, failed: impl FnOnce(String)) {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed("a panic; what it says is on standard error".to_owned()),
    }
}

impl CoreStart {
    fn run(self, backend: Backend) {
        let (index, control, store) = (self.index, self.control.clone(), self.store.clone());
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu }) {
            tracing::warn!(core = index, cpu = self.cpu, "cannot pin this core's thread; it goes on unpinned");
        }
        let work = || match backend {
            Backend::IoUring => uring::Ring::new(uring::BUFFERS, uring::BUFFER_BYTES).and_then(|net| self.run_on(net)),
            Backend::Epoll => epoll::Epoll::new().and_then(|net| self.run_on(net)),
        };
        guarded(work, |error| {
            let _ = control.send(ToControl::CoreFailed { core: index, error });
            // The others' end waits for all to have said so.
            if let Some(store) = store {
                store.send(storage::FIRST_GENERATION, ToStore::CoreEnded { core: index });
            }
        });
    }

    fn run_on<N: Net>(mut self, mut net: N) -> io::Result<()> {
        for listener in self.listeners {
            net.listen(listener)?;
        }
        net.watch_mailbox(self.wake)?;
        let now = clock::now();
        let settings = &self.settings;
        let live = settings.live();
        let shapes = Shapes::default();
        let shards = self.shared.placement.shards_of(self.index).map(|shard| {
            let upstream = UpstreamSettings {
                shard,
                shard_count: settings.shard_count,
                token: settings.token.clone(),
                intents: settings.intents,
                presence: live.presence_of(shard),
                gateway_url: settings.gateway_url.clone(),
                compression: settings.upstream_compression,
            };
            let shard_settings = ShardSettings {
                upstream,
                cache: settings.cache,
                externally_accessible_url: settings.externally_accessible_url.clone(),
            };
            match self.recovered.remove(&shard) {
                Some(recovered) => Shard::restore(shard_settings, shapes.clone(), &recovered, random_seed(), now),
                None => {
                    let mut shard = Shard::new(shard_settings, shapes.clone(), random_seed(), now);
                    if self.generation.is_some() {
                        shard.begin_journal();
                    }
                    shard
                }
            }
        });
        let shards: Vec<_> = shards.collect();
        let budget = live.log_budget(shards.len(), settings.shards.len());
        let group = Group::new(shards, budget);
        let core = Core::new(Parts {
            index: self.index,
            net,
            shared: self.shared,
            group,
            mail: self.mail,
            control: self.control,
            peers: self.peers,
            keeping: Keeping::new(self.store, self.generation),
            client_tls: self.settings.client_tls,
            seed: random_seed(),
            now,
        });
        core.run()
    }
}

/// For jitter and frame masks; session ids take their randomness from the kernel each time.
fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => u64::from(std::process::id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_ends_before_its_time_is_told_a_panic_too() {
        let told = |work: fn() -> io::Result<()>| {
            let mut told = None;
            guarded(work, |error| told = Some(error));
            told
        };
        assert_eq!(told(|| Ok(())), None);
        assert_eq!(told(|| Err(io::Error::other("no ring"))), Some("no ring".to_owned()));
        assert!(told(|| panic!("an assertion")).is_some_and(|it| it.contains("panic")));
    }
}
