//! The control thread against cores that only write down what they are told.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender};

use super::*;
use crate::control::pages::Site;
use crate::runtime::mesh::CoreReport;
use crate::shard::pressure::Pressure;
use crate::wire::http::PlainRequest;

#[derive(Clone)]
struct Told(Sender<ToCore>);

impl Core for Told {
    fn send(&self, message: ToCore) -> bool {
        self.0.send(message).is_ok()
    }
}

/// Even shards on core 0, odd ones on core 1.
fn two_cores(remaining: u32) -> (Coordinator<Told>, [Receiver<ToCore>; 2]) {
    let ((to_first, first), (to_second, second)) = (mpsc::channel(), mpsc::channel());
    let cores = vec![Told(to_first), Told(to_second)];
    let site = Site { externally_accessible_url: "ws://proxy:7878".into(), shards: 0..4, shard_count: 4 };
    let helpers = Helpers {
        resolver: Resolver::start().unwrap(),
        pages: Pages::start(site, Reports::default).unwrap(),
        ask: Box::new(|| panic!("nobody asks Discord here")),
        memory: Watch::new(Some(1000), clock::now(), || Some(0), || {}),
    };
    let session_start_limit =
        SessionStartLimit { total: 1000, remaining, reset_after: Duration::from_secs(3600), max_concurrency: 4 };
    let bot = GatewayBot { url: "ws://127.0.0.1:9".into(), shards: 4, session_start_limit };
    let core_of = Box::new(|shard: ShardId| shard.0 as usize % 2);
    (Coordinator::new(cores, core_of, helpers, &bot, clock::now()), [first, second])
}

#[test]
fn a_turn_goes_to_the_core_that_holds_the_shard() {
    let (mut coordinator, [first, second]) = two_cores(10);
    let now = clock::now();
    assert_eq!(coordinator.on_mail(ToControl::IdentifyWanted { shard: ShardId(3) }, now), None);
    coordinator.poll(now);
    assert!(matches!(second.try_recv(), Ok(ToCore::IdentifyTurn { shard: ShardId(3), .. })));
    assert!(first.try_recv().is_err());
}

#[test]
fn without_budget_no_turn_is_given_and_the_shard_is_shown_as_waiting() {
    let (mut coordinator, [first, _second]) = two_cores(0);
    let now = clock::now();
    coordinator.on_mail(ToControl::IdentifyWanted { shard: ShardId(0) }, now);
    coordinator.poll(now);
    assert!(first.try_recv().is_err());
    assert!(coordinator.exhausted_until.is_some());
    let report = coordinator.process_report(now);
    assert_eq!((report.identify_remaining, report.identify_waiting), (0, 1));
}

#[test]
fn every_core_hears_when_memory_gets_short() {
    let (mut coordinator, cores) = two_cores(10);
    let now = clock::now();
    coordinator.helpers.memory = Watch::new(Some(1000), now, || Some(1000), || {});
    coordinator.poll(now);
    for core in &cores {
        assert!(matches!(core.try_recv(), Ok(ToCore::Pressure(Pressure::Full))));
    }
    assert_eq!(coordinator.process_report(now).memory.level, Pressure::Full);
    assert!(coordinator.due(now) <= coordinator.helpers.memory.due());
    coordinator.poll(now);
    assert!(cores[0].try_recv().is_err(), "once");
}

#[test]
fn the_control_thread_always_sleeps_and_never_for_ever() {
    let (mut coordinator, _cores) = two_cores(10);
    let now = clock::now();
    coordinator.poll(now);
    assert!(coordinator.due(now) > now && coordinator.due(now) <= now + IDLE_MAX);
}

#[test]
fn addresses_go_to_the_core_that_holds_the_shard() {
    let (mut coordinator, [_first, second]) = two_cores(10);
    let message = ToControl::Resolve { shard: ShardId(1), host: "127.0.0.1".into(), port: 9 };
    coordinator.on_mail(message, clock::now());
    let Ok(ToCore::Resolved { shard, host, addresses }) = second.recv() else { panic!("something else") };
    assert_eq!((shard, host.as_str(), addresses), (ShardId(1), "127.0.0.1", Ok(vec!["127.0.0.1:9".parse().unwrap()])));
}

#[test]
fn a_signal_and_a_failed_core_end_the_service() {
    let (mut coordinator, _cores) = two_cores(10);
    assert_eq!(coordinator.on_mail(ToControl::Stop, clock::now()), Some(End::Stopped));
    let failed = ToControl::CoreFailed { core: 1, error: "no ring".into() };
    assert_eq!(coordinator.on_mail(failed, clock::now()), Some(End::Failed));
    assert_eq!(coordinator.ended, [false, true]);
}

#[test]
fn draining_tells_every_core_the_code_and_waits_for_all() {
    let (mut coordinator, cores) = two_cores(10);
    let (to_control, mail) = mpsc::channel();
    to_control.send(ToControl::IdentifyWanted { shard: ShardId(0) }).unwrap();
    to_control.send(ToControl::Drained { core: 1 }).unwrap();
    to_control.send(ToControl::Drained { core: 0 }).unwrap();
    assert!(coordinator.drain(&mail, CloseCode::RECONNECTING, false));
    for core in cores {
        let Ok(ToCore::Drain { upstream_close, within, leave_listeners }) = core.try_recv() else {
            panic!("something else")
        };
        assert_eq!((upstream_close, leave_listeners), (CloseCode::RECONNECTING, false));
        assert!(within < DRAIN_MAX);
    }
}

#[test]
fn draining_does_not_wait_for_cores_that_are_gone() {
    let (mut coordinator, cores) = two_cores(10);
    drop(cores);
    let (_to_control, mail) = mpsc::channel();
    assert!(coordinator.drain(&mail, CloseCode::NORMAL, false));
}

#[test]
fn a_core_that_never_drained_is_told() {
    let (mut coordinator, _cores) = two_cores(10);
    let (to_control, mail) = mpsc::channel();
    to_control.send(ToControl::Drained { core: 0 }).unwrap();
    // Nobody is left who could say so.
    drop(to_control);
    assert!(!coordinator.drain(&mail, CloseCode::NORMAL, false));
}

#[test]
fn a_page_is_answered_while_the_cores_run() {
    use std::io::Read;
    let (mut coordinator, _cores) = two_cores(10);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    let request = PlainRequest { method: "GET".into(), path: "/shard-count".into(), host: None, head_only: false };
    coordinator.on_mail(ToControl::Page { socket, request }, clock::now());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("\r\n\r\n4"), "{text}");
}

#[test]
fn reports_come_in_the_cores_order_and_the_silent_ones_are_named() {
    let (to_core, mail) = mpsc::channel();
    let (to_gone, gone) = mpsc::channel();
    drop(gone);
    let cores = [Told(to_gone), Told(to_core)];
    let answering = std::thread::spawn(move || match mail.recv() {
        Ok(ToCore::Report(report)) => report.send(CoreReport { core: 1, ..Default::default() }).unwrap(),
        _ => panic!("something else"),
    });
    let reports = collect(&cores);
    answering.join().unwrap();
    assert_eq!(reports.cores.iter().map(|it| it.core).collect::<Vec<_>>(), [1]);
    assert_eq!(reports.silent, [0]);
}
