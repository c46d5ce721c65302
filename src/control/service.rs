//! The proxy as a service: when the service manager is told what, and the watchdog.
//!
//! The watchdog is fed only after every core has answered a message that was sent since the last time, and by the control thread, which asks: so
//! either of them being stuck ends the feeding, and the manager starts the service anew. It knows no core; whoever drives it sends the
//! questions and brings the answers. How it is said is `notify`'s.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tracing::warn;

use super::notify::Notifier;
use crate::wire::ShardId;

/// Questions within one time of the watchdog's: one that is answered late must not cost a restart.
const ROUNDS: u32 = 4;
/// The status line changes no more often than this, however many shards come and go.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// When a round began, and which cores have not answered in it.
#[derive(Debug)]
struct Round {
    due: Instant,
    every: Duration,
    silent: BTreeSet<usize>,
    is_told: bool,
}

/// `live` ⊆ the shards of this process.
pub struct Service {
    notifier: Notifier,
    shards: usize,
    live: BTreeSet<ShardId>,
    status: String,
    /// READY was lost on its way.
    owes_ready: bool,
    status_due: Option<Instant>,
    round: Option<Round>,
    cores: usize,
}

impl Service {
    /// `watchdog`: the time within which the manager wants to be told something, if it wants that at all.
    pub fn new(notifier: Notifier, watchdog: Option<Duration>, shards: usize, cores: usize, now: Instant) -> Self {
        let round = watchdog.filter(|_| notifier.is_there()).map(|time| {
            let every = time / ROUNDS;
            Round { due: now, every, silent: BTreeSet::new(), is_told: false }
        });
        Self {
            notifier,
            shards,
            live: BTreeSet::new(),
            status: String::new(),
            owes_ready: false,
            status_due: None,
            round,
            cores,
        }
    }

    /// Clients can connect.
    pub fn on_listening(&mut self, now: Instant) {
        self.owes_ready = true;
        self.tell(now);
    }

    /// The end begins.
    pub fn on_stopping(&mut self) {
        self.notifier.say("STOPPING=1\nSTATUS=Stopping: what is buffered is sent, sessions are kept.");
    }

    /// The configuration is read again; `on_listening` says when that is over. `monotonic_us`: the time by CLOCK_MONOTONIC.
    pub fn on_reloading(&mut self, monotonic_us: u64) {
        self.notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"));
    }

    pub fn on_shard(&mut self, shard: ShardId, is_live: bool, now: Instant) {
        let changed = if is_live { self.live.insert(shard) } else { self.live.remove(&shard) };
        if changed && self.notifier.is_there() {
            self.status_due.get_or_insert(now + STATUS_EVERY);
        }
    }

    /// This core goes round.
    pub fn on_turned(&mut self, core: usize) {
        let Some(round) = &mut self.round else { return };
        if round.silent.remove(&core) && round.silent.is_empty() {
            round.is_told = false;
            self.notifier.say("WATCHDOG=1");
        }
    }

    /// When `on_timeout` wants to be called.
    pub fn due(&self) -> Option<Instant> {
        [self.status_due, self.round.as_ref().map(|it| it.due)].into_iter().flatten().min()
    }

    /// True: ask every core now (`ToCore::Turn`).
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        if self.status_due.is_some_and(|due| now >= due) {
            self.tell(now);
        }
        let Some(round) = self.round.as_mut().filter(|it| now >= it.due) else { return false };
        round.due = now + round.every;
        if round.silent.is_empty() {
            round.silent = (0..self.cores).collect();
            return true;
        }
        // Asked already: the question lies in the core's mail.
        if !std::mem::replace(&mut round.is_told, true) {
            warn!(cores = ?round.silent, within = ?round.every, "cores do not answer: the watchdog is not fed");
        }
        false
    }

    /// What was lost on its way is said again with the next status.
    fn tell(&mut self, now: Instant) {
        if self.owes_ready {
            self.owes_ready = !self.notifier.say("READY=1");
        }
        let status = format!("STATUS={} of {} shards live", self.live.len(), self.shards);
        if status != self.status && self.notifier.say(&status) {
            self.status.clone_from(&status);
        }
        let is_told = !self.owes_ready && status == self.status;
        self.status_due = (!is_told).then_some(now + STATUS_EVERY);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(20);

    /// The service of two cores and three shards, and the manager's end.
    fn service(now: Instant) -> (Service, UnixDatagram) {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("shardgate-service-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(Some(&format!("@{name}"))).unwrap();
        (Service::new(notifier, Some(WATCHDOG), 3, 2, now), manager)
    }

    /// Its name as in NOTIFY_SOCKET.
    fn address(manager: &UnixDatagram) -> String {
        let address = manager.local_addr().unwrap();
        format!("@{}", String::from_utf8_lossy(address.as_abstract_name().unwrap()))
    }

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 256];
        let next = || manager.recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn the_watchdog_is_fed_when_every_core_has_answered_and_not_before() {
        let now = Instant::now();
        let (mut service, manager) = service(now);
        assert!(service.on_timeout(now));
        service.on_turned(0);
        assert!(heard(&manager).is_empty());
        service.on_turned(1);
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
        // Nobody was asked since.
        service.on_turned(1);
        service.on_turned(0);
        assert!(heard(&manager).is_empty());
        assert!(service.due().unwrap() <= now + WATCHDOG / 2);
    }

    #[test]
    fn a_core_that_is_stuck_ends_the_feeding_until_it_answers() {
        let mut now = Instant::now();
        let (mut service, manager) = service(now);
        assert!(service.on_timeout(now));
        service.on_turned(0);
        for _ in 0..2 * ROUNDS {
            now = service.due().unwrap();
            assert!(!service.on_timeout(now));
            service.on_turned(0);
        }
        assert!(heard(&manager).is_empty());
        service.on_turned(1);
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
        assert!(service.on_timeout(service.due().unwrap()));
    }

    #[test]
    fn the_status_counts_live_shards_and_changes_once_a_second() {
        let now = Instant::now();
        let (mut service, manager) = service(now);
        service.on_listening(now);
        assert_eq!(heard(&manager), ["READY=1", "STATUS=0 of 3 shards live"]);
        for shard in 0..3 {
            service.on_shard(ShardId(shard), true, now);
        }
        service.on_shard(ShardId(1), false, now);
        assert!(heard(&manager).is_empty());
        service.on_timeout(now + STATUS_EVERY);
        assert_eq!(heard(&manager), ["STATUS=2 of 3 shards live"]);
    }

    #[test]
    fn what_a_busy_manager_has_missed_is_said_again() {
        let mut now = Instant::now();
        let (mut service, manager) = service(now);
        let filling = Notifier::new(Some(&address(&manager))).unwrap();
        while filling.say("X=1") {}
        service.on_listening(now);
        assert!(heard(&manager).iter().all(|it| it == "X=1"));
        now = service.due().unwrap();
        service.on_timeout(now);
        now += STATUS_EVERY;
        service.on_timeout(now);
        assert_eq!(heard(&manager), ["READY=1", "STATUS=0 of 3 shards live"]);
    }

    #[test]
    fn the_end_and_a_reload_are_told() {
        let (mut service, manager) = service(Instant::now());
        service.on_reloading(42);
        service.on_stopping();
        let heard = heard(&manager);
        assert_eq!(heard[0], "RELOADING=1\nMONOTONIC_USEC=42");
        assert!(heard[1].starts_with("STOPPING=1\nSTATUS="));
    }

    #[test]
    fn without_a_manager_no_core_is_asked() {
        let now = Instant::now();
        let mut service = Service::new(Notifier::default(), Some(WATCHDOG), 1, 1, now);
        service.on_shard(ShardId(0), true, now);
        assert_eq!((service.due(), service.on_timeout(now)), (None, false));
    }
}
