//! The memory budget: where the one number comes from, what it leaves for the log, and when it counts as used up.
//!
//! `memory_limit`, or 75 % of what the process may have: the memory limit of its control group, else the machine's memory. Not all of it, because
//! in a group the kernel also counts sockets' buffers and file pages, which resident memory does not show, and on a machine other programs live
//! too; what passes the group's limit is killed without a word. What is done at each level: `shard::pressure`.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::config::{Config, LOG_BYTES_MIN};
use super::keys::Refusal;
use super::probe::Machine;
use crate::shard::pressure::Pressure;

/// Of the memory that there is, in percent, where `memory_limit` is not configured.
const SHARE_PERCENT: u64 = 75;
/// `log_bytes` where it is not configured: this, or a quarter of the memory limit if that is less.
const LOG_BYTES_DEFAULT: u64 = 256 << 20;
const LOG_PART: u64 = 4;
/// A level ends so many percent of the limit below where it begins.
const HYSTERESIS_PERCENT: u64 = 5;
const MEASURED_EVERY: Duration = Duration::from_secs(1);
/// While memory is short, how often what is unused goes back to the kernel.
const PURGED_EVERY: Duration = Duration::from_secs(5);

/// What the process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of resident memory; `None` when nothing is configured and the machine does not say.
    pub limit: Option<u64>,
    /// Whose number it is, for the operator.
    pub whence: &'static str,
    /// The log of all shards together.
    pub log_bytes: usize,
    /// What the operator should hear.
    pub warning: Option<String>,
}

/// Refuses a log that would fill half of a configured limit.
pub fn budget(config: &Config, machine: &Machine) -> Result<Budget, Refusal> {
    let (limit, whence) = match (config.memory_limit, machine.memory) {
        (Some(limit), _) => (Some(limit), "memory_limit"),
        (None, Some(memory)) if memory.is_groups => {
            (Some(memory.bytes / 100 * SHARE_PERCENT), "75 % of the control group's")
        }
        (None, Some(memory)) => (Some(memory.bytes / 100 * SHARE_PERCENT), "75 % of the machine's"),
        (None, None) => (None, "none: the machine does not say what it has"),
    };
    let fitting = limit.map_or(LOG_BYTES_DEFAULT, |it| (it / LOG_PART).clamp(LOG_BYTES_MIN, LOG_BYTES_DEFAULT));
    let log_bytes = config.log_bytes.unwrap_or(fitting);
    let mut warning = None;
    if let Some(half) = limit.map(|it| it / 2).filter(|half| log_bytes > *half) {
        if config.memory_limit.is_some() {
            return Err(Refusal::new("log_bytes", log_bytes, format_args!("at most {half}, half of memory_limit")));
        }
        warning = Some(format!("log_bytes ({log_bytes}) is more than half of the memory limit ({whence} memory)"));
    }
    Ok(Budget { limit, whence, log_bytes: log_bytes as usize, warning })
}

/// What is used, of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    pub bytes: u64,
    pub limit: Option<u64>,
    pub level: Pressure,
}

/// The level, by measurements alone.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    limit: u64,
    level: Pressure,
}

impl Gauge {
    pub fn new(limit: u64) -> Self {
        Self { limit, level: Pressure::None }
    }

    /// The level that `bytes` would lead to: the highest that begins there, or that is on and does not end there.
    fn level_at(&self, bytes: u64) -> Pressure {
        let holds = |level: &Pressure| {
            let slack = if *level <= self.level { HYSTERESIS_PERCENT } else { 0 };
            bytes >= self.limit / 100 * (u64::from(level.percent()) - slack)
        };
        [Pressure::Full, Pressure::Shed, Pressure::Shrink].into_iter().find(holds).unwrap_or_default()
    }
}

/// Measures, and says when the level changes.
pub struct Watch {
    gauge: Option<Gauge>,
    bytes: u64,
    next: Instant,
    purged: Instant,
    measure: Box<dyn FnMut() -> Option<u64>>,
    purge: Box<dyn FnMut()>,
}

impl Watch {
    /// `measure` yields the bytes used, if it can; `purge` gives what is unused back to the kernel. Without a limit it only measures.
    pub fn new(
        limit: Option<u64>,
        now: Instant,
        measure: impl FnMut() -> Option<u64> + 'static,
        purge: impl FnMut() + 'static,
    ) -> Self {
        let gauge = limit.map(Gauge::new);
        Self { gauge, bytes: 0, next: now, purged: now, measure: Box::new(measure), purge: Box::new(purge) }
    }

    /// The operator has another limit; `None` as in `new`. A level that is on ends or begins with the next measurement.
    pub fn set_limit(&mut self, limit: Option<u64>) {
        self.gauge = match (self.gauge, limit) {
            (None, limit) => limit.map(Gauge::new),
            // Without a limit nothing is short: a level that is on must still be seen to end.
            (Some(gauge), limit) => Some(Gauge { limit: limit.unwrap_or(u64::MAX), level: gauge.level }),
        };
    }

    pub fn report(&self) -> MemoryReport {
        let (limit, level) = self.gauge.map_or((None, Pressure::None), |it| (Some(it.limit), it.level));
        MemoryReport { bytes: self.bytes, limit, level }
    }

    /// When `on_timeout` wants to be called.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// The new level, if it changed.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Pressure> {
        if now < self.next {
            return None;
        }
        self.next = now + MEASURED_EVERY;
        self.bytes = (self.measure)()?;
        let gauge = self.gauge.as_mut()?;
        let rises = gauge.level_at(self.bytes) > gauge.level;
        if rises || (gauge.level > Pressure::None && now >= self.purged + PURGED_EVERY) {
            // What nobody uses is no reason to do anything to anybody.
            (self.purge)();
            self.purged = now;
            self.bytes = (self.measure)()?;
        }
        let level = gauge.level_at(self.bytes);
        let before = std::mem::replace(&mut gauge.level, level);
        if level == before {
            return None;
        }
        tell(self.bytes, gauge.limit, before, level);
        Some(level)
    }
}

fn tell(bytes: u64, limit: u64, before: Pressure, level: Pressure) {
    let done = match level {
        Pressure::None => "enough is free: everything is as configured again",
        Pressure::Shrink => "over 80 % are used: the logs shrink to half",
        Pressure::Shed => {
            "over 90 % are used: the logs shrink to a quarter, the slowest clients are closed resumably, new IDENTIFYs wait"
        }
        Pressure::Full => "all is used: the logs shrink to their floor, new connections are refused",
    };
    if level > before {
        warn!(bytes, limit, "memory: {done}");
    } else {
        info!(bytes, limit, "memory: {done}");
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::control::config::{Environment, load};
    use crate::control::probe::{Memory, Ring};

    fn budget_of(more: &str, memory: Option<Memory>) -> Result<Budget, String> {
        let json = format!(r#"{{"token":"invented","intents":513{more}}}"#);
        let config = load(None, &Environment { config: Some(json), ..Environment::default() }).unwrap().config;
        let kernel = "6.1.0".into();
        let machine = Machine { ring: Ring::Works, kernel, cpus: vec![0], memlock: None, open_files: None, memory };
        budget(&config, &machine).map_err(|refusal| refusal.to_string())
    }

    fn memory(bytes: u64, is_groups: bool) -> Option<Memory> {
        Some(Memory { bytes, is_groups })
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_limit_is_the_configured_one_or_three_quarters_of_what_there_is() {
        let limit = |more, memory| budget_of(more, memory).unwrap().limit;
        assert_eq!(limit(r#","memory_limit":1073741824"#, memory(64 * GIB, false)), Some(GIB));
        assert_eq!(limit("", memory(100 * GIB, true)), Some(75 * GIB));
        assert_eq!(limit("", None), None);
        assert!(budget_of("", memory(GIB, true)).unwrap().whence.contains("control group"));
        assert!(budget_of("", memory(GIB, false)).unwrap().whence.contains("machine"));
    }

    #[test]
    fn the_log_takes_its_default_or_a_quarter_of_a_small_limit() {
        let log = |more, memory| budget_of(more, memory).unwrap().log_bytes;
        assert_eq!(log("", None), 256 << 20);
        assert_eq!(log(r#","memory_limit":4294967296"#, None), 256 << 20);
        assert_eq!(log(r#","memory_limit":268435456"#, None), 64 << 20);
        assert_eq!(log(r#","memory_limit":268435456,"log_bytes":2097152"#, None), 2 << 20);
    }

    #[test]
    fn a_log_that_fills_the_limit_is_refused_or_warned_about() {
        let line = budget_of(r#","memory_limit":268435456,"log_bytes":134217729"#, None).unwrap_err();
        assert_eq!(line, "log_bytes: found 134217729, wanted at most 134217728, half of memory_limit");
        let budget = budget_of(r#","log_bytes":1073741824"#, memory(GIB, true)).unwrap();
        assert!(budget.warning.unwrap().starts_with("log_bytes (1073741824) is more than half"));
    }

    /// The levels that a series of measurements, in percent of the limit, leads through.
    fn levels(percents: &[u64]) -> Vec<u8> {
        let mut gauge = Gauge::new(1000);
        let step = |percent: &u64| {
            gauge.level = gauge.level_at(percent * 10);
            gauge.level.percent()
        };
        percents.iter().map(step).collect()
    }

    #[test]
    fn levels_begin_at_80_90_and_100_percent() {
        assert_eq!(levels(&[0, 79, 80, 89, 90, 99, 100, 150]), [0, 0, 80, 80, 90, 90, 100, 100]);
        assert_eq!(levels(&[100]), [100]);
    }

    #[test]
    fn a_level_ends_five_percent_below_its_beginning() {
        assert_eq!(levels(&[100, 96, 95, 94, 86, 85, 84, 76, 75, 74]), [100, 100, 100, 90, 90, 90, 80, 80, 80, 0]);
        assert_eq!(levels(&[100, 10]), [100, 0]);
        assert_eq!(levels(&[80, 76, 80, 74, 76]), [80, 80, 80, 0, 0]);
    }

    /// Memory as a test has it: in use, and free but not given back yet. All in thousands of bytes.
    #[derive(Default)]
    struct Heap {
        used: Cell<u64>,
        unused: Cell<u64>,
        purges: Cell<u32>,
    }

    fn watch(heap: &Rc<Heap>, now: Instant) -> Watch {
        let (measured, purged) = (heap.clone(), heap.clone());
        let measure = move || Some((measured.used.get() + measured.unused.get()) * 1000);
        let purge = move || {
            purged.unused.set(0);
            purged.purges.set(purged.purges.get() + 1);
        };
        Watch::new(Some(100_000), now, measure, purge)
    }

    #[test]
    fn a_change_is_told_once_and_measured_every_second() {
        let (now, heap) = (Instant::now(), Rc::new(Heap::default()));
        let mut watch = watch(&heap, now);
        heap.used.set(70);
        assert_eq!(watch.on_timeout(now), None);
        heap.used.set(95);
        assert_eq!(watch.on_timeout(now), None);
        assert_eq!(watch.report().bytes, 70_000);
        let later = watch.due();
        assert_eq!(watch.on_timeout(later), Some(Pressure::Shed));
        assert_eq!(watch.report(), MemoryReport { bytes: 95_000, limit: Some(100_000), level: Pressure::Shed });
        assert_eq!(watch.on_timeout(later + MEASURED_EVERY), None);
        heap.used.set(10);
        assert_eq!(watch.on_timeout(later + 2 * MEASURED_EVERY), Some(Pressure::None));
    }

    #[test]
    fn memory_that_nobody_uses_raises_no_level() {
        let (now, heap) = (Instant::now(), Rc::new(Heap::default()));
        let mut watch = watch(&heap, now);
        heap.used.set(70);
        heap.unused.set(30);
        assert_eq!(watch.on_timeout(now), None);
        assert_eq!((watch.report().bytes, heap.purges.get()), (70_000, 1));
    }

    #[test]
    fn while_memory_is_short_unused_memory_is_given_back_now_and_then() {
        let (now, heap) = (Instant::now(), Rc::new(Heap::default()));
        let mut watch = watch(&heap, now);
        heap.used.set(85);
        assert_eq!(watch.on_timeout(now), Some(Pressure::Shrink));
        let first = heap.purges.get();
        heap.used.set(60);
        heap.unused.set(25);
        assert_eq!(watch.on_timeout(now + MEASURED_EVERY), None);
        assert_eq!(heap.purges.get(), first);
        assert_eq!(watch.on_timeout(now + PURGED_EVERY), Some(Pressure::None));
        assert_eq!(heap.purges.get(), first + 1);
    }

    #[test]
    fn a_new_limit_counts_from_the_next_measurement() {
        let (now, heap) = (Instant::now(), Rc::new(Heap::default()));
        let mut watch = watch(&heap, now);
        heap.used.set(95);
        assert_eq!(watch.on_timeout(now), Some(Pressure::Shed));
        watch.set_limit(Some(1_000_000));
        assert_eq!(watch.on_timeout(now + MEASURED_EVERY), Some(Pressure::None));
        watch.set_limit(Some(96_000));
        assert_eq!(watch.on_timeout(now + 2 * MEASURED_EVERY), Some(Pressure::Shed));
        watch.set_limit(None);
        assert_eq!(watch.on_timeout(now + 3 * MEASURED_EVERY), Some(Pressure::None));
    }

    #[test]
    fn without_a_limit_it_is_only_measured() {
        let now = Instant::now();
        let mut watch = Watch::new(None, now, || Some(1 << 50), || panic!("nothing is short"));
        assert_eq!(watch.on_timeout(now), None);
        assert_eq!(watch.report(), MemoryReport { bytes: 1 << 50, limit: None, level: Pressure::None });
    }
}
