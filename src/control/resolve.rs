//! Names to addresses, on a thread of its own, since the system's resolver blocks.
//!
//! All shards connect to the same few names: the first question asks the resolver, the others take its answer. Not here:
//! choosing among the addresses.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::runtime::clock;

/// How long an answer holds.
const ANSWER_KEPT: Duration = Duration::from_secs(30);
/// How long a failure holds, so that 225 shards do not wait for 225 time-outs one after the other.
const FAILURE_KEPT: Duration = Duration::from_secs(2);
/// Names remembered. When full, all are forgotten: there are a handful in practice.
const NAMES_MAX: usize = 256;
/// Questions waiting. When full, the question fails at once and the shard asks again after its back-off.
const QUESTIONS_MAX: usize = 4096;

/// Addresses, or a sentence on why there are none.
pub type Answer = Result<Vec<SocketAddr>, String>;

struct Question {
    host: String,
    port: u16,
    answer: Box<dyn FnOnce(Answer) + Send>,
}

/// The way to the resolver's thread; the thread ends when this is dropped.
pub struct Resolver {
    questions: SyncSender<Question>,
}

impl Resolver {
    /// Starts the thread on the system's resolver.
    pub fn start() -> io::Result<Self> {
        Self::start_with(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }

    fn start_with(lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = mpsc::sync_channel::<Question>(QUESTIONS_MAX);
        let serve = move || {
            let mut names = Names::default();
            for question in asked {
                names.serve(question, &lookup, clock::now);
            }
        };
        thread::Builder::new().name("resolve".into()).spawn(serve)?;
        Ok(Self { questions })
    }

    /// Asks for the addresses of `host`; `answer` is called on the resolver's thread, or at once when too many wait.
    pub fn resolve(&self, host: String, port: u16, answer: impl FnOnce(Answer) + Send + 'static) {
        let question = Question { host, port, answer: Box::new(answer) };
        if let Err(TrySendError::Full(it) | TrySendError::Disconnected(it)) = self.questions.try_send(question) {
            (it.answer)(Err("too many names are being resolved".into()));
        }
    }
}

/// What is known of each name.
#[derive(Default)]
struct Names {
    known: HashMap<(String, u16), Known>,
}

struct Known {
    answer: Answer,
    until: Instant,
    /// The last lookup failed, and the addresses are from before.
    is_outage: bool,
}

/// What may be answered without asking.
#[derive(Debug, PartialEq)]
enum Kept {
    Fresh(Answer),
    /// Addresses from before: the resolver failed the last time and is to be asked again, but not waited for.
    Outage(Answer),
    Nothing,
}

impl Names {
    fn serve(
        &mut self,
        Question { host, port, answer }: Question,
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
        now: impl Fn() -> Instant,
    ) {
        match self.kept(&host, port, now()) {
            Kept::Fresh(kept) => answer(kept),
            Kept::Outage(kept) => {
                // A resolver that is down may take its time to say so, with every other name waiting behind this one.
                answer(kept);
                let _ = self.on_lookup(&host, port, lookup(&host, port), now());
            }
            Kept::Nothing => {
                let found = lookup(&host, port);
                answer(self.on_lookup(&host, port, found, now()));
            }
        }
    }

    fn kept(&self, host: &str, port: u16, now: Instant) -> Kept {
        match self.known.get(&(host.to_owned(), port)) {
            Some(known) if now < known.until => Kept::Fresh(known.answer.clone()),
            Some(known) if known.is_outage => Kept::Outage(known.answer.clone()),
            _ => Kept::Nothing,
        }
    }

    /// Remembers what the resolver said. A failure does not displace addresses that worked: an outage of DNS alone must not keep
    /// the shards from Discord.
    fn on_lookup(&mut self, host: &str, port: u16, found: io::Result<Vec<SocketAddr>>, now: Instant) -> Answer {
        let key = (host.to_owned(), port);
        let answer = match found {
            Ok(addresses) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(format!("{host} has no address")),
            Err(error) => Err(format!("{host} cannot be resolved: {error}")),
        };
        let kept_for = if answer.is_ok() { ANSWER_KEPT } else { FAILURE_KEPT };
        let (answer, is_outage) = match (answer, self.known.get(&key)) {
            (Err(why), Some(Known { answer: Ok(old), .. })) => {
                warn!(%why, "using the addresses from before");
                (Ok(old.clone()), true)
            }
            (answer, _) => (answer, false),
        };
        if self.known.len() >= NAMES_MAX && !self.known.contains_key(&key) {
            self.known.clear();
        }
        self.known.insert(key, Known { answer: answer.clone(), until: now + kept_for, is_outage });
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 443))
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_no_longer() {
        let (mut names, now) = (Names::default(), clock::now());
        names.on_lookup("gateway", 443, Ok(vec![address(1)]), now).unwrap();
        let last = now + ANSWER_KEPT - Duration::from_nanos(1);
        assert_eq!(names.kept("gateway", 443, last), Kept::Fresh(Ok(vec![address(1)])));
        assert_eq!(names.kept("gateway", 443, now + ANSWER_KEPT), Kept::Nothing);
        assert_eq!(names.kept("gateway", 80, now), Kept::Nothing);
    }

    #[test]
    fn a_failure_is_kept_for_a_shorter_time() {
        let (mut names, now) = (Names::default(), clock::now());
        let answer = names.on_lookup("gateway", 443, Err(io::Error::other("no network")), now);
        assert_eq!(answer, Err("gateway cannot be resolved: no network".into()));
        assert_eq!(names.kept("gateway", 443, now), Kept::Fresh(answer));
        assert_eq!(names.kept("gateway", 443, now + FAILURE_KEPT), Kept::Nothing);
    }

    #[test]
    fn addresses_that_worked_outlive_a_failure_of_dns() {
        let (mut names, now) = (Names::default(), clock::now());
        names.on_lookup("gateway", 443, Ok(vec![address(1)]), now).unwrap();
        let later = now + 2 * ANSWER_KEPT;
        assert_eq!(names.on_lookup("gateway", 443, Err(io::Error::other("down")), later), Ok(vec![address(1)]));
        assert_eq!(names.kept("gateway", 443, later + FAILURE_KEPT), Kept::Outage(Ok(vec![address(1)])));
    }

    #[test]
    fn a_name_without_addresses_is_a_failure() {
        let answer = Names::default().on_lookup("gateway", 443, Ok(Vec::new()), clock::now());
        assert_eq!(answer, Err("gateway has no address".into()));
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let (mut names, now) = (Names::default(), clock::now());
        for name in 0..3 * NAMES_MAX {
            names.on_lookup(&name.to_string(), 443, Ok(vec![address(1)]), now).unwrap();
            assert!(names.known.len() <= NAMES_MAX);
        }
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
        drop((sender, resolver));
        assert_eq!(answers.iter().collect::<Vec<_>>(), vec![Ok(vec![address(7)]); 100]);
        assert_eq!(asks.iter().collect::<Vec<_>>(), ["gateway"]);
    }

    #[test]
    fn in_an_outage_of_dns_known_addresses_are_answered_before_the_resolver_is_asked() {
        let (mut names, begin) = (Names::default(), clock::now());
        let (said, heard) = mpsc::channel();
        let mut ask = |at: u64, found: fn() -> io::Result<Vec<SocketAddr>>| {
            let answered = said.clone();
            let answer = Box::new(move |answer: Answer| {
                assert_eq!(answer, Ok(vec![address(1)]));
                answered.send("answered").unwrap();
            });
            let question = Question { host: "gateway".into(), port: 443, answer };
            let lookup = |_: &str, _| {
                said.send("asked").unwrap();
                found()
            };
            names.serve(question, lookup, || begin + Duration::from_secs(at));
            heard.try_iter().collect::<Vec<_>>()
        };
        let (works, fails) = (|| Ok(vec![address(1)]), || Err(io::Error::other("timed out")));
        assert_eq!(ask(0, works), ["asked", "answered"]);
        assert_eq!(ask(60, fails), ["asked", "answered"], "nobody can know yet");
        assert_eq!(ask(61, fails), ["answered"]);
        assert_eq!(ask(70, fails), ["answered", "asked"]);
        assert_eq!(ask(80, works), ["answered", "asked"]);
        assert_eq!(ask(81, fails), ["answered"]);
        assert_eq!(ask(120, works), ["asked", "answered"]);
    }

    #[test]
    fn a_full_queue_fails_the_question_at_once() {
        let (go, gate) = mpsc::channel::<()>();
        let resolver = Resolver::start_with(move |_, _| {
            let _ = gate.recv();
            Ok(vec![address(1)])
        })
        .unwrap();
        let (sender, answers) = mpsc::channel();
        // One may be in the resolver's hands, the rest wait.
        for _ in 0..QUESTIONS_MAX + 2 {
            let sender = sender.clone();
            resolver.resolve("gateway".into(), 443, move |answer| sender.send(answer).unwrap());
        }
        assert_eq!(answers.recv().unwrap(), Err("too many names are being resolved".into()));
        drop(go);
    }

    #[test]
    fn an_address_resolves_to_itself() {
        let (sender, answers) = mpsc::channel();
        Resolver::start().unwrap().resolve("127.0.0.1".into(), 9, move |answer| sender.send(answer).unwrap());
        assert_eq!(answers.recv().unwrap(), Ok(vec!["127.0.0.1:9".parse().unwrap()]));
    }
}
