//! The control thread against cores that only write down what they are told.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};

use super::*;
use crate::control::access::Access;
use crate::control::notify::Notifier;
use crate::control::pages::Site;
use crate::control::totals::Place;
use crate::runtime::client_tls::Requester;
use crate::runtime::mesh::{CoreReport, Detail, Door};
use crate::shard::pressure::Pressure;
use crate::wire::http::PlainRequest;

/// Before the limits are asked for again.
const RESET_AFTER: Duration = Duration::from_secs(1800);

#[derive(Clone)]
struct Told(Sender<ToCore>);

impl Core for Told {
    fn send(&self, message: ToCore) -> bool {
        self.0.send(message).is_ok()
    }
}

/// Even shards on core 0, odd ones on core 1.
fn two_cores(remaining: u32) -> (Coordinator<Told>, [Receiver<ToCore>; 2]) {
    two_cores_with(remaining, None)
}

fn two_cores_with(remaining: u32, dir: Option<&Path>) -> (Coordinator<Told>, [Receiver<ToCore>; 2]) {
    let ((to_first, first), (to_second, second)) = (mpsc::channel(), mpsc::channel());
    let cores = vec![Told(to_first), Told(to_second)];
    let site = Site {
        externally_accessible_url: "ws://proxy:7878".into(),
        shards: 0..4,
        shard_count: 4,
        access: Access::default(),
    };
    let helpers = Helpers {
        resolver: Resolver::start().unwrap(),
        pages: Pages::start(site, |_| Reports::default(), |_| Ok(None)).unwrap(),
        ask: Box::new(|| panic!("nobody asks Discord here")),
        memory: Watch::new(Some(1000), clock::now(), || Some(0), || {}),
        reload: Box::new(|_| Reread::Nothing),
        certificates: None,
        service: Service::new(Notifier::default(), None, 4, 2, clock::now()),
        totals: Writer::new(Place::new(None, None), 0..4, 4, Reports::default),
    };
    let core_of = Box::new(|shard: ShardId| shard.0 as usize % 2);
    let ledger = Ledger::new(dir, "http://127.0.0.1:9", "invented", 1);
    (Coordinator::new(cores, core_of, helpers, opening(remaining), ledger, clock::now()), [first, second])
}

fn opening(remaining: u32) -> Opening {
    Opening {
        limit: SessionStartLimit { total: 1000, remaining, reset_after: RESET_AFTER, max_concurrency: 4 },
        identified: Duration::ZERO,
        reserve: Reserve::Of(2),
        gateway_url: "ws://127.0.0.1:9".into(),
        shard_count: 4,
        asking: None,
    }
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
    let (mut coordinator, [first, _second]) = two_cores(2);
    let now = clock::now();
    coordinator.on_mail(ToControl::IdentifyWanted { shard: ShardId(0) }, now);
    coordinator.poll(now);
    assert!(first.try_recv().is_err());
    assert!(coordinator.told_again_at.is_some());
    let report = coordinator.process_report(now).identify;
    assert_eq!((report.remaining, report.limit, report.reserve), (2, 1000, 2));
    assert_eq!((report.held_back, &report.waiting[..]), (true, &[0][..]));
    coordinator.poll(now + RESET_AFTER);
    assert!(matches!(first.try_recv(), Ok(ToCore::IdentifyTurn { shard: ShardId(0), .. })));
    assert_eq!(coordinator.told_again_at, None);
}

#[test]
fn a_turn_is_paid_for_on_disk_before_the_core_hears_of_it() {
    let dir = std::env::temp_dir().join(format!("shardgate-coordinator-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (mut coordinator, [first, _second]) = two_cores_with(10, Some(&dir));
    let kept = || Ledger::new(Some(&dir), "http://127.0.0.1:9", "invented", 2).budget(clock::since_epoch()).unwrap();
    let begin = clock::since_epoch();
    let now = clock::now();
    coordinator.poll(now);
    assert_eq!((kept().limit.remaining, kept().identified), (10, Duration::ZERO));
    for shard in [0, 2] {
        coordinator.on_mail(ToControl::IdentifyWanted { shard: ShardId(shard) }, now);
    }
    coordinator.poll(now);
    assert!(first.try_recv().is_ok());
    assert_eq!(kept().limit.remaining, 8);
    assert!(kept().identified + Duration::from_millis(1) >= begin);
    coordinator.on_mail(ToControl::IdentifyReturned { shard: ShardId(2) }, now);
    coordinator.poll(now);
    assert_eq!(kept().limit.remaining, 9);
    // The next process begins where this one was killed, and lets the bucket cool first.
    let opening = Opening { limit: kept().limit, identified: kept().identified, ..opening(0) };
    let next = Coordinator::new(
        coordinator.cores.clone(),
        Box::new(|_| 0),
        two_cores(0).0.helpers,
        opening,
        Ledger::new(None, "", "", 3),
        now,
    );
    let mut identify = next.identify;
    identify.on_wanted(ShardId(1), now);
    let (_, not_before) = identify.poll(now).unwrap();
    assert!(not_before > now + COOLING / 2 && not_before <= now + 2 * COOLING);
    assert_eq!(identify.remaining(), 8);
    std::fs::remove_dir_all(&dir).unwrap();
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
    let failed = ToControl::StorageFailed { error: "a panic".into() };
    assert_eq!(coordinator.on_mail(failed, clock::now()), Some(End::Failed));
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
    let request =
        PlainRequest { method: "GET".into(), path: "/shard-count".into(), host: None, head_only: false, bearer: None };
    coordinator
        .on_mail(ToControl::Page { requester: Requester::plain(socket), request, door: Door::Gateway }, clock::now());
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
        Ok(ToCore::Report(report, Detail::Brief)) => report.send(CoreReport { core: 1, ..Default::default() }).unwrap(),
        _ => panic!("something else"),
    });
    let reports = collect(&cores, Detail::Brief);
    answering.join().unwrap();
    assert_eq!(reports.cores.iter().map(|it| it.core).collect::<Vec<_>>(), [1]);
    assert_eq!(reports.silent, [0]);
}

/// Cores that answer one question each.
fn asked<T: Send + 'static>(answers: Vec<Option<Vec<u8>>>, ask: impl FnOnce(&[Told]) -> T) -> T {
    let (cores, threads): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .map(|answer| {
            let (to_core, mail) = mpsc::channel();
            let answering = std::thread::spawn(move || match mail.recv() {
                // Nobody listens any more once another core had the answer.
                Ok(ToCore::Find { wanted: Wanted::Guild(7), reply }) => drop(reply.send(answer)),
                _ => panic!("something else"),
            });
            (Told(to_core), answering)
        })
        .unzip();
    let result = ask(&cores);
    threads.into_iter().for_each(|it| it.join().unwrap());
    result
}

#[test]
fn an_object_is_found_on_whichever_core_has_it() {
    let find = |cores: &[Told]| find(cores, Wanted::Guild(7));
    assert_eq!(asked(vec![None, Some(b"{}".to_vec())], find), Ok(Some(b"{}".to_vec())));
    assert_eq!(asked(vec![None, None], find), Ok(None));
}

#[test]
fn a_silent_core_might_have_had_the_object() {
    let (to_gone, gone) = mpsc::channel();
    drop(gone);
    assert_eq!(find(&[Told(to_gone)], Wanted::User(1)), Err(1));
}
