//! What the control thread does once the cores run: it answers their mail, and drains them in the end.
//!
//! It hands out the turns to IDENTIFY, has names resolved and pages answered, and asks Discord again for its limits when ours may be
//! out of date. No event of Discord passes here.

#![forbid(unsafe_code)]

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::certificates::Certificates;
use super::ledger::{Budget, Ledger};
use super::memory::Watch;
use super::metrics::{IdentifyReport, ProcessReport};
use super::pages::{Job, Pages, Reports};
use super::reload::Reread;
use super::resolve::Resolver;
use super::rest::{Asking, GatewayBot, SessionStartLimit};
use super::service::Service;
use super::totals::Writer;
use crate::runtime::clock;
use crate::runtime::mesh::{CoreSender, Detail, ToControl, ToCore};
use crate::runtime::takeover::Successor;
use crate::session::identify::{COOLING, IdentifyQueue, Reserve};
use crate::shard::report::Wanted;
use crate::wire::{CloseCode, ShardId};

/// Other processes may spend from the same budget, so it is asked for again before an IDENTIFY when it is older than this.
const LIMITS_KEPT: Duration = Duration::from_secs(600);
/// No two questions about the limits follow each other faster.
const LIMITS_ASKED_EVERY: Duration = Duration::from_secs(60);
/// The limits are asked for at least this often, so that what is kept of the answer over a restart is never old.
const LIMITS_ASKED_AT_LEAST: Duration = Duration::from_secs(3600);
/// While shards wait for the limit to reset, the log says so this often.
const HELD_BACK_TOLD_EVERY: Duration = Duration::from_secs(600);
/// While a question to Discord is under way, how often its answer is looked for.
const ASKING_POLL: Duration = Duration::from_millis(100);
/// The control thread looks at its clock at least this often, whatever it waits for.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often the configuration's file is looked at; a change counts at the second look.
const CONFIGURATION_LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// A core that has not reported by then counts as silent.
const REPORT_MAX: Duration = Duration::from_secs(2);
/// What the cores get to send what is buffered and to close; the rest up to `DRAIN_MAX` is for their threads to end.
const DRAIN_WITHIN: Duration = Duration::from_secs(8);
/// The process ends within this after the first signal.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Where mail for a core goes: the runtime's `CoreSender`, or a test's list.
pub trait Core: Clone + Send + Sync + 'static {
    /// False when the core has ended.
    fn send(&self, message: ToCore) -> bool;
}

impl Core for CoreSender {
    fn send(&self, message: ToCore) -> bool {
        CoreSender::send(self, message)
    }
}

/// The core, by number, that holds a shard.
pub type CoreOf = Box<dyn Fn(ShardId) -> usize>;

/// Threads and connections that serve all cores.
pub struct Helpers {
    pub resolver: Resolver,
    pub pages: Pages,
    /// Asks Discord for `/gateway/bot`.
    pub ask: Box<dyn FnMut() -> Asking>,
    /// Of the whole process.
    pub memory: Watch,
    /// Reads the configuration again: if true is said, else if its file has changed.
    pub reload: Box<dyn FnMut(bool) -> Reread>,
    /// What clients are shown, where they speak TLS.
    pub certificates: Option<Certificates>,
    pub service: Service,
    pub totals: Writer,
}

/// Why the cores are to be drained.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// A signal.
    Stopped,
    /// A core failed: the process cannot go on.
    Failed,
    /// Another process goes on with our listeners.
    TakenOver,
}

/// What the process starts with.
pub struct Opening {
    pub limit: SessionStartLimit,
    /// When an earlier process sent its newest IDENTIFY, since 1970.
    pub identified: Duration,
    pub reserve: Reserve,
    /// What the shards were told.
    pub gateway_url: String,
    pub shard_count: u32,
    /// A question to Discord that is still under way.
    pub asking: Option<Asking>,
}

pub struct Coordinator<C> {
    cores: Vec<C>,
    core_of: CoreOf,
    helpers: Helpers,
    identify: IdentifyQueue,
    ledger: Ledger,
    /// What the ledger holds: the limits' remainder, total, concurrency and reset, and the newest IDENTIFY.
    kept: Option<(u32, u32, u32, Instant, Duration)>,
    /// When the newest IDENTIFY was or will be sent, since 1970.
    identified: Duration,
    gateway_url: String,
    shard_count: u32,
    asking: Option<Asking>,
    /// When the limits were asked for last, answered or not.
    asked_at: Instant,
    /// Shards wait for the limit to reset: when the log is to say so again.
    told_again_at: Option<Instant>,
    /// When the configuration's file is to be looked at.
    look_at: Instant,
    /// What stands there now was not taken.
    configuration_refused: bool,
    stopping: bool,
    successor: Option<Box<Successor>>,
    started: Instant,
    /// By core: its thread has ended or is about to.
    ended: Vec<bool>,
}

impl<C: Core> Coordinator<C> {
    pub fn new(
        cores: Vec<C>,
        core_of: CoreOf,
        helpers: Helpers,
        opening: Opening,
        ledger: Ledger,
        now: Instant,
    ) -> Self {
        let SessionStartLimit { total, remaining, reset_after, max_concurrency } = opening.limit;
        let mut identify = IdentifyQueue::new(max_concurrency, total, remaining, reset_after, now);
        identify.set_reserve(opening.reserve);
        // A turn that was given is at most one cooling ahead; a wall clock that was set back must not hold the shards for longer.
        let cooling = (opening.identified + COOLING).saturating_sub(clock::since_epoch());
        identify.cool_until(now + cooling.min(2 * COOLING));
        Self {
            ended: vec![false; cores.len()],
            cores,
            core_of,
            helpers,
            identify,
            ledger,
            kept: None,
            identified: opening.identified,
            gateway_url: opening.gateway_url,
            shard_count: opening.shard_count,
            asking: opening.asking,
            asked_at: now,
            told_again_at: None,
            look_at: now + CONFIGURATION_LOOKED_AT_EVERY,
            configuration_refused: false,
            stopping: false,
            successor: None,
            started: now,
        }
    }

    /// Serves the cores until a signal or a failure.
    pub fn serve(&mut self, mail: &mpsc::Receiver<ToControl>) -> End {
        self.helpers.service.on_listening(clock::now());
        loop {
            let now = clock::now();
            self.poll(now);
            let wait = self.due(now).saturating_duration_since(now);
            match mail.recv_timeout(wait) {
                Ok(message) => {
                    if let Some(end) = self.on_mail(message, clock::now()) {
                        return end;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // All cores are gone without a word.
                Err(RecvTimeoutError::Disconnected) => return End::Failed,
            }
        }
    }

    fn on_mail(&mut self, message: ToControl, now: Instant) -> Option<End> {
        match message {
            ToControl::IdentifyWanted { shard } => {
                self.identify.on_wanted(shard, now);
                if now.saturating_duration_since(self.asked_at) >= LIMITS_KEPT {
                    self.ask_limits(now);
                }
            }
            ToControl::IdentifySent { shard, at } => {
                self.identify.on_sent(shard, at);
                self.note_identify(at, now);
            }
            ToControl::IdentifyReturned { shard } => self.identify.on_returned(shard, now),
            ToControl::Resolve { shard, host, port } => self.resolve(shard, host, port),
            ToControl::Page { requester, request, door } => {
                self.helpers.pages.serve(Job { requester, request, door, process: self.process_report(now) });
            }
            ToControl::Turned { core } => self.helpers.service.on_turned(core),
            ToControl::ShardLive { shard, is_live } => self.helpers.service.on_shard(shard, is_live, now),
            ToControl::WriteTotals => self.helpers.totals.begin(),
            ToControl::Drained { core } => self.on_ended(core),
            ToControl::CoreFailed { core, error } => {
                error!(core, error, "a core failed");
                self.on_ended(core);
                return Some(End::Failed);
            }
            ToControl::StorageFailed { error } => {
                error!(error, "the storage thread failed");
                return Some(End::Failed);
            }
            ToControl::TakenOver(successor) => {
                self.successor = Some(successor);
                return Some(End::TakenOver);
            }
            ToControl::Reload => {
                self.helpers.service.on_reloading(clock::monotonic_us());
                self.reload(true, now);
                self.helpers.service.on_listening(now);
            }
            ToControl::Stop => {
                info!("stopping on a signal; a second one ends at once");
                return Some(End::Stopped);
            }
        }
        None
    }

    /// Hands out turns, takes Discord's answer, and asks again when the budget should be full again. What a turn costs is kept before
    /// anybody can use it.
    fn poll(&mut self, now: Instant) {
        if let Some(answer) = self.asking.as_mut().and_then(Asking::poll) {
            self.asking = None;
            self.on_limits(answer, now);
        }
        let turns: Vec<_> = std::iter::from_fn(|| self.identify.poll(now)).collect();
        if let Some(newest) = turns.iter().map(|turn| turn.1).max() {
            self.note_identify(newest, now);
        }
        self.keep_budget(now);
        for (shard, not_before) in turns {
            debug!(%shard, "its turn to identify");
            if !self.send(shard, ToCore::IdentifyTurn { shard, not_before }) {
                self.identify.on_returned(shard, now);
            }
        }
        self.watch_budget(now);
        if now.saturating_duration_since(self.asked_at) >= LIMITS_ASKED_AT_LEAST {
            self.ask_limits(now);
        }
        if now >= self.look_at {
            self.look_at = now + CONFIGURATION_LOOKED_AT_EVERY;
            self.reload(false, now);
        }
        if self.helpers.service.on_timeout(now) {
            for core in &self.cores {
                // A core that has ended does not answer, and is not fed for.
                let _ = core.send(ToCore::Turn);
            }
        }
        if let Some(pressure) = self.helpers.memory.on_timeout(now) {
            for core in &self.cores {
                // A core that has ended uses no memory.
                let _ = core.send(ToCore::Pressure(pressure));
            }
        }
        if let Some(config) = self.helpers.certificates.as_mut().and_then(|it| it.on_timeout(now)) {
            for core in &self.cores {
                // A core that has ended takes no clients.
                let _ = core.send(ToCore::ClientTls(config.clone()));
            }
        }
    }

    fn reload(&mut self, asked: bool, now: Instant) {
        let changes = match (self.helpers.reload)(asked) {
            Reread::Nothing => return,
            Reread::Taken(changes) => changes,
            Reread::Refused => return self.configuration_refused = true,
        };
        self.configuration_refused = false;
        self.identify.set_reserve(changes.reserve);
        self.helpers.memory.set_limit(changes.memory_limit);
        for core in &self.cores {
            // A core that has ended needs no settings.
            let _ = core.send(ToCore::Settings(Box::new(changes.live.clone())));
        }
        // With another reserve shards may have their turn at once.
        self.watch_budget(now);
    }

    /// An IDENTIFY is sent at `at`, as the wall clock will say.
    fn note_identify(&mut self, at: Instant, now: Instant) {
        let since_epoch = clock::since_epoch();
        let ahead = at.saturating_duration_since(now);
        let at = (since_epoch + ahead).saturating_sub(now.saturating_duration_since(at));
        self.identified = self.identified.max(at);
    }

    /// Writes the count down if it has changed.
    fn keep_budget(&mut self, now: Instant) {
        let identify = &self.identify;
        let (total, remaining, max_concurrency) = (identify.total(), identify.remaining(), identify.max_concurrency());
        let kept = (remaining, total, max_concurrency, identify.resets_at(), self.identified);
        if self.kept != Some(kept) {
            self.kept = Some(kept);
            let reset_after = identify.resets_at().saturating_duration_since(now);
            let limit = SessionStartLimit { total, remaining, reset_after, max_concurrency };
            self.ledger.keep_budget(&Budget { limit, identified: self.identified }, clock::since_epoch());
        }
    }

    /// When `poll` wants to be called next.
    fn due(&self, now: Instant) -> Instant {
        let asking = self.asking.as_ref().map(|_| now + ASKING_POLL);
        // A turn that is due now was tried a moment ago: only time or mail brings it on.
        let identify = self.identify.due().map(|due| due.max(now + Duration::from_millis(1)));
        let memory = Some(self.helpers.memory.due());
        let service = self.helpers.service.due();
        let certificates = self.helpers.certificates.as_ref().map(Certificates::due);
        [asking, identify, self.told_again_at, memory, service, certificates, Some(self.look_at)]
            .into_iter()
            .flatten()
            .fold(now + IDLE_MAX, Instant::min)
    }

    /// Says while shards wait for the limit, and looks whether Discord has reset it meanwhile.
    fn watch_budget(&mut self, now: Instant) {
        let waiting = self.identify.waiting();
        let Some(wait) = self.identify.held_back(now).filter(|_| waiting > 0) else {
            if self.told_again_at.take().is_some() {
                info!(remaining = self.identify.remaining(), "IDENTIFYs are given out again");
            }
            return;
        };
        if self.told_again_at.is_some_and(|at| now < at) {
            return;
        }
        if self.told_again_at.replace(now + HELD_BACK_TOLD_EVERY.min(wait.max(LIMITS_ASKED_EVERY))).is_some() {
            self.ask_limits(now);
        }
        warn!(
            waiting,
            remaining = self.identify.remaining(),
            reserve = self.identify.reserve(),
            limit = self.identify.total(),
            resets_in = ?Duration::from_secs(wait.as_secs()),
            "only the reserve of IDENTIFYs is left (`identify_reserve`): shards without a session wait until the limit resets, so \
             that the token is not reset"
        );
    }

    fn ask_limits(&mut self, now: Instant) {
        if self.asking.is_none() && now.saturating_duration_since(self.asked_at) >= LIMITS_ASKED_EVERY {
            self.asked_at = now;
            self.asking = Some((self.helpers.ask)());
        }
    }

    fn on_limits(&mut self, answer: Result<GatewayBot, String>, now: Instant) {
        match answer {
            Ok(bot) => {
                let limit = bot.session_start_limit;
                debug!(remaining = limit.remaining, total = limit.total, "limit of IDENTIFYs");
                let SessionStartLimit { total, remaining, reset_after, max_concurrency } = limit;
                self.identify.on_limits(max_concurrency, total, remaining, reset_after, now);
                if bot.url != self.gateway_url {
                    warn!(
                        now = bot.url,
                        held = self.gateway_url,
                        "Discord names another gateway: it is used after a restart"
                    );
                }
                self.ledger.keep_gateway(&bot, self.shard_count, clock::since_epoch());
            }
            Err(why) => warn!(why, "the limit of IDENTIFYs is not known anew"),
        }
    }

    fn resolve(&self, shard: ShardId, host: String, port: u16) {
        let Some(core) = self.cores.get((self.core_of)(shard)).cloned() else { return };
        self.helpers.resolver.resolve(host.clone(), port, move |addresses| {
            // A core that has ended needs no address.
            let _ = core.send(ToCore::Resolved { shard, host, addresses });
        });
    }

    fn send(&self, shard: ShardId, message: ToCore) -> bool {
        self.cores.get((self.core_of)(shard)).is_some_and(|core| core.send(message))
    }

    fn process_report(&self, now: Instant) -> ProcessReport {
        ProcessReport {
            identify: IdentifyReport {
                remaining: self.identify.remaining(),
                limit: self.identify.total(),
                reserve: self.identify.reserve(),
                resets_in: self.identify.resets_at().saturating_duration_since(now),
                held_back: self.identify.held_back(now).is_some(),
                waiting: self.identify.waiting_shards().map(|it| it.0).collect(),
            },
            uptime: now.saturating_duration_since(self.started),
            stopping: self.stopping,
            configuration_refused: self.configuration_refused,
            memory: self.helpers.memory.report(),
        }
    }

    fn on_ended(&mut self, core: usize) {
        if let Some(ended) = self.ended.get_mut(core) {
            *ended = true;
        }
    }

    /// The process that takes over, after `End::TakenOver`.
    pub fn take_successor(&mut self) -> Option<Box<Successor>> {
        self.successor.take()
    }

    /// Has all cores drained. True when they all did within `DRAIN_MAX`.
    ///
    /// `upstream_close` is told to Discord: 1000 ends the sessions and shows the bot offline, any other code keeps them for a RESUME.
    /// `leave_listeners`: they stay open for others who hold them.
    pub fn drain(
        &mut self,
        mail: &mpsc::Receiver<ToControl>,
        upstream_close: CloseCode,
        leave_listeners: bool,
    ) -> bool {
        self.stopping = true;
        self.helpers.service.on_stopping();
        let end = clock::now() + DRAIN_MAX;
        for (core, ended) in self.cores.iter().zip(&mut self.ended) {
            let drain = ToCore::Drain { upstream_close, within: DRAIN_WITHIN, leave_listeners };
            *ended = *ended || !core.send(drain);
        }
        while self.ended.contains(&false) {
            let now = clock::now();
            match mail.recv_timeout(end.saturating_duration_since(now)) {
                // Nobody begins anew: no turns and no addresses any more, but pages are still answered.
                Ok(message @ (ToControl::Page { .. } | ToControl::Drained { .. } | ToControl::CoreFailed { .. })) => {
                    self.on_mail(message, now);
                }
                // It waits for our end, whatever we end for.
                Ok(ToControl::TakenOver(successor)) => self.successor = Some(successor),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let late: Vec<usize> = (0..self.ended.len()).filter(|core| !self.ended[*core]).collect();
        if !late.is_empty() {
            warn!(cores = ?late, within = ?DRAIN_MAX, "not drained in time");
        }
        late.is_empty()
    }
}

/// Asks all cores for their reports and waits for them.
pub fn collect<C: Core>(cores: &[C], detail: Detail) -> Reports {
    let (report, reports) = mpsc::channel();
    for core in cores {
        // A core that has ended counts as silent below.
        let _ = core.send(ToCore::Report(report.clone(), detail));
    }
    drop(report);
    let end = clock::now() + REPORT_MAX;
    let mut cores_said = Vec::with_capacity(cores.len());
    while cores_said.len() < cores.len() {
        match reports.recv_timeout(end.saturating_duration_since(clock::now())) {
            Ok(report) => cores_said.push(report),
            Err(_) => break,
        }
    }
    cores_said.sort_by_key(|report| report.core);
    let said = |core: &usize| cores_said.iter().any(|report| report.core == *core);
    let silent = (0..cores.len()).filter(|core| !said(core)).collect();
    Reports { cores: cores_said, silent }
}

/// Asks all cores for an object of the cached state; the first that has it counts.
///
/// Errs with the number of cores that said nothing in time, when none of the others has it.
pub fn find<C: Core>(cores: &[C], wanted: Wanted) -> Result<Option<Vec<u8>>, usize> {
    let (reply, replies) = mpsc::channel();
    for core in cores {
        // A core that has ended counts as silent below.
        let _ = core.send(ToCore::Find { wanted, reply: reply.clone() });
    }
    drop(reply);
    let end = clock::now() + REPORT_MAX;
    for said in 0..cores.len() {
        match replies.recv_timeout(end.saturating_duration_since(clock::now())) {
            Ok(Some(json)) => return Ok(Some(json)),
            Ok(None) => {}
            Err(_) => return Err(cores.len() - said),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
