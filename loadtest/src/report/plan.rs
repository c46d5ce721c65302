//! What is measured: the setups, each started once per round, and the loads that each is put under.

use super::options::Options;
use crate::args::Args;
use crate::compress::Compression;
use crate::relay::Kind;
use crate::run::options::Options as RunOptions;
use crate::run::scenario::Scenario;

/// The rate at which something goes wrong, and at which encodings are compared.
pub const USUAL_RATE: u32 = 10_000;
/// One shard alone.
pub const SINGLE_RATE: u32 = 2_000;
/// Without events: every connection beats once in it, at Discord's 41.25 s.
const IDLE_SECONDS: u64 = 42;
/// The setup that the targets are for: events of a fake Discord with zlib-stream, all state cached, plain clients.
pub const HEADLINE: &str = "cached";
pub const TROUBLES: [Scenario; 5] =
    [Scenario::Deploy, Scenario::Drop, Scenario::Stalled, Scenario::Restart, Scenario::Kill];

/// Who is between the fake Discord and the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    Nobody,
    Relay(Kind),
    Proxy,
    /// The proxy without guilds and without clients, to be weighed.
    ProxyAlone,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    pub name: &'static str,
    /// In the words of a table.
    pub title: &'static str,
    pub between: Between,
    pub backend: &'static str,
    pub upstream: &'static str,
    pub clients: Compression,
    pub is_tls: bool,
    pub is_caching: bool,
    pub shards: u32,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Of a steady load its rate, else what happens.
    pub name: String,
    pub scenario: Scenario,
    /// 0 for none, infinite for as much as is taken.
    pub events_per_s: f64,
    pub seconds: u64,
}

impl Step {
    /// No events at all.
    pub fn is_at_rest(&self) -> bool {
        self.events_per_s == 0.0
    }

    fn steady(rate: u32, seconds: u64) -> Self {
        Self { name: rate.to_string(), scenario: Scenario::Steady, events_per_s: rate.into(), seconds }
    }

    /// What the load test was asked for, where that was a number of events.
    pub fn offered_per_s(&self) -> Option<f64> {
        (self.events_per_s > 0.0 && self.events_per_s.is_finite()).then_some(self.events_per_s)
    }
}

impl Setup {
    fn new(name: &'static str, title: &'static str, options: &Options) -> Self {
        Self {
            name,
            title,
            between: Between::Proxy,
            backend: "auto",
            upstream: "zlib-stream",
            clients: Compression::None,
            is_tls: false,
            is_caching: true,
            shards: options.shards,
            steps: options.rates.iter().map(|it| Step::steady(*it, options.seconds)).collect(),
        }
    }

    /// The options of `loadtest run` that stand for it.
    pub fn run_options(&self, options: &Options) -> Result<RunOptions, String> {
        let mut run = RunOptions::from_args(&Args::default())?;
        run.shards = self.shards;
        run.scenarios = self.steps.iter().map(|it| it.scenario).collect();
        run.compression = self.clients;
        run.proxy.clone_from(&options.proxy);
        run.backend = self.backend.to_owned();
        run.cores = options.cores;
        run.upstream_compression = Some(self.upstream.to_owned());
        run.is_tls = self.is_tls;
        run.is_direct = self.between == Between::Nobody;
        run.relay = match self.between {
            Between::Relay(kind) => Some(kind),
            _ => None,
        };
        run.is_caching = self.is_caching;
        run.is_quiet = true;
        if self.steps.iter().all(Step::is_at_rest) {
            // What heartbeats cost is all that there is to measure.
            run.heartbeat_ms_max = u64::MAX;
        }
        Ok(run)
    }
}

/// The floor, the proxy stripped down to what the floor does, and nothing at all.
pub fn floor(options: &Options) -> Vec<Setup> {
    let relay = |name, title, kind| Setup { between: Between::Relay(kind), ..Setup::new(name, title, options) };
    let bare = |name, title, backend| Setup {
        backend,
        upstream: "none",
        is_caching: false,
        ..Setup::new(name, title, options)
    };
    vec![
        Setup { between: Between::Nobody, ..Setup::new("direct", "no proxy at all", options) },
        relay("floor-epoll", "bare relay, epoll", Kind::Epoll),
        relay("floor-ring", "bare relay, io_uring", Kind::Ring),
        relay("floor-glommio", "bare relay, glommio", Kind::Glommio),
        bare("bare-epoll", "proxy, epoll, no cache", "epoll"),
        bare("bare-ring", "proxy, io_uring, no cache", "io_uring"),
    ]
}

/// Everything.
pub fn whole(options: &Options) -> Vec<Setup> {
    let new = |name, title| Setup::new(name, title, options);
    let usual = vec![Step::steady(USUAL_RATE, options.seconds)];
    // Encodings are compared at one rate when time is short.
    let encoded = |name, title| {
        let setup = new(name, title);
        if options.is_quick { Setup { steps: usual.clone(), ..setup } } else { setup }
    };
    let step =
        |name: &str, scenario, events_per_s, seconds| Step { name: name.to_owned(), scenario, events_per_s, seconds };
    let trouble = |it: &Scenario| step(it.name(), *it, USUAL_RATE.into(), (2 * options.seconds).max(4));
    let alone = |name, title, upstream| Setup {
        between: Between::ProxyAlone,
        upstream,
        steps: vec![step("alone", Scenario::Steady, 0.0, options.seconds)],
        ..new(name, title)
    };
    let mut setups = floor(options);
    setups.extend([
        Setup {
            between: Between::Nobody,
            clients: Compression::Zlib,
            ..new("direct-zlib", "no proxy at all, zlib-stream from Discord to the clients")
        },
        new(HEADLINE, "proxy, state cached"),
        Setup { upstream: "none", ..encoded("upstream-none", "Discord without compression") },
        Setup { upstream: "zstd-stream", ..encoded("upstream-zstd", "Discord with zstd-stream") },
        Setup { clients: Compression::Zlib, ..encoded("clients-zlib", "clients with zlib-stream") },
        Setup { clients: Compression::Zstd, ..encoded("clients-zstd", "clients with zstd-stream") },
        Setup { is_tls: true, ..encoded("tls", "Discord over TLS") },
        Setup { steps: TROUBLES.iter().map(trouble).collect(), ..new("trouble", "trouble") },
        Setup {
            shards: 1,
            steps: vec![Step::steady(SINGLE_RATE, options.seconds)],
            ..new("single", "one shard alone")
        },
        Setup { steps: vec![step("idle", Scenario::Steady, 0.0, IDLE_SECONDS)], ..new("idle", "no event") },
        Setup {
            steps: vec![step("flood", Scenario::Steady, f64::INFINITY, options.seconds)],
            ..new("flood", "as fast as it goes")
        },
        alone("alone-zlib", "no guilds, no clients, Discord with zlib-stream", "zlib-stream"),
    ]);
    if !options.is_quick {
        setups.extend([
            alone("alone-none", "no guilds, no clients, Discord without compression", "none"),
            alone("alone-zstd", "no guilds, no clients, Discord with zstd-stream", "zstd-stream"),
        ]);
    }
    setups.retain(|it| options.only.is_empty() || options.only.iter().any(|only| it.name.starts_with(only.as_str())));
    setups
}

/// The setup that is this one with nobody between: what the fake Discord takes to compress events is not the proxy's latency.
pub fn without_proxy(setup: &str) -> &'static str {
    let is_plain = ["floor-", "bare-", "upstream-none"].iter().any(|it| setup.starts_with(it));
    if is_plain { "direct" } else { "direct-zlib" }
}

/// The title of a setup of this name.
pub fn title(name: &str) -> &'static str {
    let options = Options::from_args(&Args::default());
    let setups = options.map(|it| whole(&it)).unwrap_or_default();
    setups.iter().find(|it| it.name == name).map_or("?", |it| it.title)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::options::REPORT_SPECS;

    fn options(words: &[&str]) -> Options {
        let words: Vec<String> = words.iter().map(|it| it.to_string()).collect();
        Options::from_args(&Args::parse(&words, REPORT_SPECS).unwrap()).unwrap()
    }

    #[test]
    fn names_are_unique_and_steps_within_a_setup_are_too() {
        let setups = whole(&options(&[]));
        let mut names: Vec<_> =
            setups.iter().flat_map(|it| it.steps.iter().map(|step| (it.name, &step.name))).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(setups.iter().all(|it| title(it.name) == it.title));
    }

    #[test]
    fn the_floor_and_the_bare_proxy_are_under_the_same_loads() {
        let setups = floor(&options(&["--quick"]));
        assert!(setups.iter().all(|it| it.steps == setups[0].steps && !it.steps.is_empty() && !it.is_tls));
        let bare = setups.iter().filter(|it| it.between == Between::Proxy);
        assert_eq!(bare.filter(|it| !it.is_caching && it.upstream == "none").count(), 2);
    }

    #[test]
    fn a_setup_measures_what_its_name_says_and_is_compared_with_a_discord_that_compresses_as_much() {
        let setups = whole(&options(&[]));
        let of = |name: &str| setups.iter().find(|it| it.name == name).unwrap();
        for (name, upstream) in [("upstream-none", "none"), ("upstream-zstd", "zstd-stream"), (HEADLINE, "zlib-stream")]
        {
            assert_eq!(of(name).upstream, upstream);
        }
        for setup in setups.iter().filter(|it| it.between == Between::Proxy) {
            let direct = of(without_proxy(setup.name));
            assert_eq!(direct.between, Between::Nobody);
            assert_eq!(direct.clients == Compression::None, setup.upstream == "none", "{}", setup.name);
        }
    }

    #[test]
    fn without_events_clients_beat_as_they_are_told_and_else_more_often() {
        let options = options(&[]);
        let intervals: Vec<(&str, u64)> = whole(&options)
            .iter()
            .filter(|it| ["idle", "single"].contains(&it.name))
            .map(|it| (it.name, it.run_options(&options).unwrap().heartbeat_ms_max))
            .collect();
        assert_eq!(intervals, [("single", 10_000), ("idle", u64::MAX)]);
    }

    #[test]
    fn some_can_be_chosen_and_quick_is_shorter() {
        let chosen = whole(&options(&["--only", "floor-,idle"]));
        let names: Vec<_> = chosen.iter().map(|it| it.name).collect();
        assert_eq!(names, ["floor-epoll", "floor-ring", "floor-glommio", "idle"]);
        let seconds = |words: &[&str]| -> u64 {
            let options = options(words);
            let steps = whole(&options).into_iter().flat_map(|it| it.steps);
            steps.map(|it| it.seconds).sum::<u64>() * u64::from(options.repeats)
        };
        assert!(seconds(&["--quick"]) * 6 < seconds(&[]));
    }
}
