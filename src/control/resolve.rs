//! Names to addresses, on threads of their own, since the system's resolver blocks: one asks it, the other answers, and waits for nothing.
//!
//! All shards connect to the same few names: the first question asks the resolver, the others take its answer. An outage of DNS alone must not keep
//! shards from Discord, so addresses that worked are given on when the resolver fails or is slow. Not here: choosing among the addresses.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::runtime::clock;

/// How long an answer holds.
const ANSWER_KEPT: Duration = Duration::from_secs(30);
/// How long a failure holds, so that 225 shards do not wait for 225 time-outs one after the other.
const FAILURE_KEPT: Duration = Duration::from_secs(2);
/// Where addresses from before are at hand, how long newer ones are waited for; not at all after a failure.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names remembered. When full, those that nobody waits for are forgotten: there are a handful in practice.
const NAMES_MAX: usize = 256;
/// Questions waiting. When full, the question fails at once and the shard asks again after its back-off.
const QUESTIONS_MAX: usize = 4096;

/// Addresses, or a sentence on why there are none.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// A host and its port.
type Key = (String, u16);
type Reply = Box<dyn FnOnce(Answer) + Send>;

/// Mail for the thread that answers.
enum Mail {
    Question(Key, Reply),
    Found(Key, io::Result<Vec<SocketAddr>>),
}

/// The way to the thread that answers. Both threads end with the process.
pub struct Resolver {
    mail: SyncSender<Mail>,
}

impl Resolver {
    /// Starts the threads on the system's resolver.
    pub fn start() -> io::Result<Self> {
        Self::start_with(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }

    fn start_with(lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + 'static) -> io::Result<Self> {
        let (to_answer, mail) = mpsc::sync_channel(QUESTIONS_MAX);
        // Each name is in it once at most.
        let (to_look_up, lookups) = mpsc::channel::<Key>();
        let found = to_answer.clone();
        let look_up = move || {
            for key in lookups {
                let addresses = lookup(&key.0, key.1);
                // Nobody hears it when the process ends.
                let _ = found.send(Mail::Found(key, addresses));
            }
        };
        thread::Builder::new().name("resolve".into()).spawn(look_up)?;
        thread::Builder::new().name("names".into()).spawn(move || serve(&mail, &to_look_up))?;
        Ok(Self { mail: to_answer })
    }

    /// Asks for the addresses of `host`; `answer` is called on a thread of ours, or at once when too many wait.
    pub fn resolve(&self, host: String, port: u16, answer: impl FnOnce(Answer) + Send + 'static) {
        let question = Mail::Question((host, port), Box::new(answer));
        if let Err(TrySendError::Full(it) | TrySendError::Disconnected(it)) = self.mail.try_send(question)
            && let Mail::Question(_, answer) = it
        {
            answer(too_many());
        }
    }
}

fn too_many() -> Answer {
    Err("too many names are being resolved".into())
}

/// The thread looks at its clock at least this often.
const IDLE_MAX: Duration = Duration::from_secs(60);

fn serve(mail: &mpsc::Receiver<Mail>, to_look_up: &mpsc::Sender<Key>) {
    let mut names = Names::default();
    loop {
        let wait = names.due().map_or(IDLE_MAX, |due| due.saturating_duration_since(clock::now()));
        match mail.recv_timeout(wait) {
            Ok(Mail::Question(key, reply)) => {
                if let Some(key) = names.on_question(key, reply, clock::now()) {
                    // The other thread ends with the process.
                    let _ = to_look_up.send(key);
                }
            }
            Ok(Mail::Found(key, found)) => names.on_found(key, found, clock::now()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        names.on_timeout(clock::now());
    }
}

/// What is known of each name, and who waits for it.
#[derive(Default)]
struct Names {
    names: HashMap<Key, Name>,
}

#[derive(Default)]
struct Name {
    known: Option<Known>,
    /// The resolver has been asked, and has not answered.
    asked_at: Option<Instant>,
    waiting: Vec<Reply>,
}

struct Known {
    answer: Answer,
    until: Instant,
    /// The last lookup failed, and the addresses are from before.
    is_outage: bool,
}

impl Name {
    /// What may be said now. Addresses that are not fresh any more are waited for, unless the resolver fails or is slow.
    fn answer(&self, now: Instant) -> Option<&Answer> {
        let known = self.known.as_ref()?;
        let is_late = self.asked_at.is_some_and(|at| now >= at + PATIENCE);
        let is_enough = now < known.until || (known.answer.is_ok() && (known.is_outage || is_late));
        is_enough.then_some(&known.answer)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.known.as_ref().is_some_and(|it| now < it.until)
    }
}

impl Names {
    /// Answers, or has the question wait. What comes back is to be looked up.
    fn on_question(&mut self, key: Key, reply: Reply, now: Instant) -> Option<Key> {
        if !self.has_place(&key) {
            reply(too_many());
            return None;
        }
        let name = self.names.entry(key.clone()).or_default();
        match name.answer(now) {
            Some(answer) => reply(answer.clone()),
            None => name.waiting.push(reply),
        }
        let is_wanted = !name.is_fresh(now) && name.asked_at.is_none();
        is_wanted.then(|| {
            name.asked_at = Some(now);
            key
        })
    }

    fn has_place(&mut self, key: &Key) -> bool {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(key) {
            self.names.retain(|_, name| name.asked_at.is_some());
        }
        let waiting: usize = self.names.values().map(|name| name.waiting.len()).sum();
        waiting < QUESTIONS_MAX && (self.names.len() < NAMES_MAX || self.names.contains_key(key))
    }

    /// Remembers what the resolver said, and tells those who wait. A failure does not displace addresses that worked.
    fn on_found(&mut self, key: Key, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        let host = &key.0;
        let answer = match found {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(format!("{host} has no address")),
            Err(error) => Err(format!("{host} cannot be resolved: {error}")),
        };
        let kept_for = if answer.is_ok() { ANSWER_KEPT } else { FAILURE_KEPT };
        let name = self.names.entry(key).or_default();
        let (answer, is_outage) = match (answer, name.known.take()) {
            (Err(why), Some(Known { answer: Ok(old), .. })) => {
                warn!(%why, "using the addresses from before");
                (Ok(old), true)
            }
            (answer, _) => (answer, false),
        };
        name.waiting.drain(..).for_each(|reply| reply(answer.clone()));
        name.known = Some(Known { answer, until: now + kept_for, is_outage });
        name.asked_at = None;
    }

    /// Tells those who have waited for long enough what was known before.
    fn on_timeout(&mut self, now: Instant) {
        for name in self.names.values_mut().filter(|it| !it.waiting.is_empty()) {
            if let Some(answer) = name.answer(now).cloned() {
                name.waiting.drain(..).for_each(|reply| reply(answer.clone()));
            }
        }
    }

    /// When `on_timeout` wants to be called next.
    fn due(&self) -> Option<Instant> {
        let can_end =
            |name: &&Name| !name.waiting.is_empty() && name.known.as_ref().is_some_and(|it| it.answer.is_ok());
        self.names.values().filter(can_end).filter_map(|name| Some(name.asked_at? + PATIENCE)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 443))
    }

    fn key(host: &str) -> Key {
        (host.into(), 443)
    }

    /// Names on a clock of their own, and what they were asked and have answered.
    struct Bench {
        names: Names,
        begin: Instant,
        said: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    }

    impl Bench {
        fn new() -> Self {
            Self { names: Names::default(), begin: clock::now(), said: mpsc::channel() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.begin + Duration::from_millis(ms)
        }

        /// Whether the resolver is to be asked, and what was answered at once.
        fn ask(&mut self, ms: u64, host: &str) -> (bool, Vec<Answer>) {
            let said = self.said.0.clone();
            let reply = Box::new(move |answer| said.send(answer).unwrap());
            let asked = self.names.on_question(key(host), reply, self.at(ms));
            assert!(asked.iter().all(|it| *it == key(host)));
            (asked.is_some(), self.said.1.try_iter().collect())
        }

        fn found(&mut self, ms: u64, host: &str, found: io::Result<Vec<SocketAddr>>) -> Vec<Answer> {
            self.names.on_found(key(host), found, self.at(ms));
            self.said.1.try_iter().collect()
        }

        /// The clock jumps to what is due.
        fn wait(&mut self) -> (Option<u64>, Vec<Answer>) {
            let due = self.names.due();
            due.into_iter().for_each(|due| self.names.on_timeout(due));
            (due.map(|it| (it - self.begin).as_millis() as u64), self.said.1.try_iter().collect())
        }
    }

    fn one() -> Answer {
        Ok(vec![address(1)])
    }

    fn down() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("no network"))
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_no_longer() {
        let mut bench = Bench::new();
        assert_eq!(bench.ask(0, "gateway"), (true, vec![]));
        assert_eq!(bench.found(5, "gateway", Ok(vec![address(1)])), [one()]);
        assert_eq!(bench.ask(30_004, "gateway"), (false, vec![one()]));
        assert_eq!(bench.ask(30_005, "gateway"), (true, vec![]));
        assert_eq!(bench.found(30_010, "gateway", Ok(vec![address(2)])), [Ok(vec![address(2)])]);
        assert_eq!(bench.ask(30_011, "other"), (true, vec![]));
    }

    #[test]
    fn a_failure_is_kept_for_a_shorter_time() {
        let mut bench = Bench::new();
        bench.ask(0, "gateway");
        let why = vec![Err("gateway cannot be resolved: no network".into())];
        assert_eq!(bench.found(0, "gateway", down()), why);
        assert_eq!(bench.ask(1999, "gateway"), (false, why));
        assert_eq!(bench.ask(2000, "gateway"), (true, vec![]));
        assert_eq!(bench.wait(), (None, vec![]), "there is nothing else to say");
    }

    #[test]
    fn addresses_that_worked_outlive_a_failure_of_dns_and_are_answered_at_once_in_it() {
        let mut bench = Bench::new();
        bench.ask(0, "gateway");
        bench.found(0, "gateway", Ok(vec![address(1)]));
        assert_eq!(bench.ask(60_000, "gateway"), (true, vec![]), "nobody can know yet");
        assert_eq!(bench.found(60_100, "gateway", down()), [one()]);
        assert_eq!(bench.ask(61_000, "gateway"), (false, vec![one()]));
        assert_eq!(bench.ask(70_000, "gateway"), (true, vec![one()]));
        assert_eq!(bench.ask(70_000, "gateway"), (false, vec![one()]), "it is being asked");
        bench.found(71_000, "gateway", Ok(vec![address(1)]));
        assert_eq!(bench.ask(72_000, "gateway"), (false, vec![one()]));
        assert_eq!(bench.ask(110_000, "gateway"), (true, vec![]));
    }

    #[test]
    fn a_resolver_that_says_nothing_holds_known_addresses_back_for_a_moment_and_only_once() {
        let mut bench = Bench::new();
        bench.ask(0, "gateway");
        bench.found(0, "gateway", Ok(vec![address(1)]));
        assert_eq!(bench.ask(60_000, "gateway"), (true, vec![]));
        assert_eq!(bench.ask(60_500, "gateway"), (false, vec![]));
        assert_eq!(bench.wait(), (Some(61_000), vec![one(), one()]));
        assert_eq!(bench.ask(61_001, "gateway"), (false, vec![one()]));
        assert_eq!(bench.ask(89_000, "gateway"), (false, vec![one()]));
        assert_eq!(bench.found(90_000, "gateway", down()), []);
        assert_eq!(bench.ask(90_001, "gateway"), (false, vec![one()]));
    }

    #[test]
    fn a_name_without_addresses_is_a_failure() {
        let mut bench = Bench::new();
        bench.ask(0, "gateway");
        assert_eq!(bench.found(0, "gateway", Ok(Vec::new())), [Err("gateway has no address".into())]);
    }

    #[test]
    fn the_number_of_names_and_of_those_who_wait_is_bounded() {
        let mut bench = Bench::new();
        for number in 0..3 * NAMES_MAX {
            let host = number.to_string();
            assert_eq!(bench.ask(0, &host), (true, vec![]));
            bench.found(0, &host, Ok(vec![address(1)]));
            assert!(bench.names.names.len() <= NAMES_MAX);
        }
        let mut bench = Bench::new();
        for number in 0..NAMES_MAX {
            assert_eq!(bench.ask(0, &number.to_string()), (true, vec![]));
        }
        assert_eq!(bench.ask(0, "one more"), (false, vec![too_many()]));
        for _ in NAMES_MAX..QUESTIONS_MAX {
            assert_eq!(bench.ask(0, "0"), (false, vec![]));
        }
        assert_eq!(bench.ask(0, "0"), (false, vec![too_many()]));
    }

    #[test]
    fn many_questions_for_one_name_ask_the_resolver_once() {
        let (asked, asks) = mpsc::channel();
        let resolver = Resolver::start_with(move |host, _| {
            asked.send(host.to_owned()).unwrap();
            Ok(vec![address(7)])
        })
        .unwrap();
        let (sender, answers) = mpsc::channel();
        for _ in 0..100 {
            let sender = sender.clone();
            resolver.resolve("gateway".into(), 443, move |answer| sender.send(answer).unwrap());
        }
        assert_eq!(answers.iter().take(100).collect::<Vec<_>>(), vec![Ok(vec![address(7)]); 100]);
        assert_eq!(asks.try_iter().collect::<Vec<_>>(), ["gateway"]);
    }

    #[test]
    fn a_name_that_is_known_does_not_wait_behind_one_that_hangs() {
        let (go, gate) = mpsc::channel::<()>();
        let resolver = Resolver::start_with(move |host, _| {
            if host == "hangs" {
                let _ = gate.recv();
            }
            Ok(vec![address(1)])
        })
        .unwrap();
        let (sender, answers) = mpsc::channel();
        let ask = |host: &'static str| {
            let sender = sender.clone();
            resolver.resolve(host.into(), 443, move |answer| sender.send((host, answer)).unwrap());
        };
        ask("known");
        assert_eq!(answers.recv().unwrap(), ("known", one()));
        ask("hangs");
        for _ in 0..2 {
            ask("known");
            assert_eq!(answers.recv().unwrap(), ("known", one()));
        }
        drop(go);
        assert_eq!(answers.recv().unwrap(), ("hangs", one()));
    }

    #[test]
    fn an_address_resolves_to_itself() {
        let (sender, answers) = mpsc::channel();
        Resolver::start().unwrap().resolve("127.0.0.1".into(), 9, move |answer| sender.send(answer).unwrap());
        assert_eq!(answers.recv().unwrap(), Ok(vec!["127.0.0.1:9".parse().unwrap()]));
    }
}
