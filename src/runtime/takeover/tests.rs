//! Both sides of a takeover in one process, over a real socket.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::runtime::mesh::ToControl;

/// A directory of one test, removed with it. Below /tmp, because a socket's path must be short.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("shardgate-takeover-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn door(&self) -> PathBuf {
        path_in(&self.0)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

const STEP: Duration = Duration::from_millis(50);
const SHORT: Patience = Patience { answer: STEP, leave: STEP, end: STEP };

/// For a running proxy that answers, but whose process, this one, does not end.
fn patience() -> Patience {
    Patience { end: STEP, ..Patience::default() }
}

fn terms(listen: SocketAddr) -> Terms {
    Terms { version: "1.2.3".into(), pid: 7, shards: 0..3, shard_count: 3, listen }
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = sys::listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = sys::bound_address(&listener).unwrap();
    (listener, address)
}

fn managed(listeners: Vec<OwnedFd>) -> Inherited {
    Inherited { listeners, are_managed: true }
}

fn successor(mail: &mpsc::Receiver<ToControl>) -> Box<Successor> {
    match mail.recv().unwrap() {
        ToControl::TakenOver(successor) => successor,
        _ => panic!("other mail"),
    }
}

#[test]
fn the_listeners_come_over_with_the_connections_that_wait_at_them() {
    let dir = Dir::new("whole");
    let (own, address) = listener();
    let (control, mail) = mpsc::channel();
    open(&dir.door(), terms(address), managed(vec![own.try_clone().unwrap()]), control).unwrap();
    let running = thread::spawn(move || {
        let successor = successor(&mail);
        assert_eq!(successor.terms.version, "1.2.3");
        drop(own);
        successor.tell_left();
    });
    let mut waiting = TcpStream::connect(address).unwrap();
    let Answer::Listeners(Inherited { listeners, are_managed }) =
        knock(&dir.door(), &terms(address), patience()).unwrap()
    else {
        panic!("somebody is there")
    };
    running.join().unwrap();
    assert_eq!((listeners.len(), are_managed), (1, true));
    assert_eq!(sys::bound_address(&listeners[0]).unwrap(), address);
    let socket = sys::accept(listeners[0].as_fd()).unwrap();
    assert_eq!(sys::send(socket.as_fd(), b"here").unwrap(), 4);
    drop(socket);
    let mut text = String::new();
    waiting.read_to_string(&mut text).unwrap();
    assert_eq!(text, "here");
}

#[test]
fn the_door_is_for_its_owner_alone() {
    let dir = Dir::new("mode");
    std::fs::write(dir.door(), "a dead process's").unwrap();
    open(&dir.door(), terms("127.0.0.1:1".parse().unwrap()), Inherited::default(), mpsc::channel().0).unwrap();
    assert_eq!(std::fs::metadata(dir.door()).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(may_speak(1000, 1000) && may_speak(0, 1000) && !may_speak(1001, 1000) && !may_speak(1000, 0));
}

#[test]
fn a_refusal_is_told_and_the_door_stays_open() {
    let dir = Dir::new("refusal");
    let (own, address) = listener();
    let (control, mail) = mpsc::channel();
    open(&dir.door(), terms(address), managed(vec![own]), control).unwrap();
    let other = Terms { shards: 0..2, ..terms(address) };
    let line = knock(&dir.door(), &other, patience()).unwrap_err();
    assert_eq!(
        line,
        "the running proxy refuses: found shards 0..2 of 3, wanted 0..3 of 3 as they are held now; it runs on"
    );
    // The same process that was refused comes back with better terms.
    let running = thread::spawn(move || successor(&mail).tell_left());
    assert!(matches!(knock(&dir.door(), &terms(address), patience()), Ok(Answer::Listeners(_))));
    running.join().unwrap();
}

#[test]
fn a_new_process_that_dies_before_it_said_go_changes_nothing() {
    let dir = Dir::new("death");
    let (own, address) = listener();
    let (control, mail) = mpsc::channel();
    open(&dir.door(), terms(address), managed(vec![own]), control).unwrap();
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(dir.door()).unwrap()).unwrap();
    let line = Line::new(socket).unwrap();
    line.say(&Message::TakeOver { protocol: PROTOCOL, terms: terms(address) }, &[]).unwrap();
    let (_, descriptors) = line.hear(Patience::default().answer).unwrap().unwrap();
    assert_eq!(descriptors.len(), 1);
    drop((line, descriptors));
    let running = thread::spawn(move || successor(&mail).tell_left());
    assert!(matches!(knock(&dir.door(), &terms(address), patience()), Ok(Answer::Listeners(_))));
    running.join().unwrap();
}

#[test]
fn where_nobody_runs_nobody_is_found() {
    let dir = Dir::new("nobody");
    let terms = terms("127.0.0.1:1".parse().unwrap());
    assert!(matches!(knock(&dir.door(), &terms, Patience::default()), Ok(Answer::Nobody)));
    // A socket whose process has died.
    drop(std::os::unix::net::UnixListener::bind(dir.door()).unwrap());
    assert!(dir.door().exists());
    let found = knock(&dir.door(), &terms, Patience::default());
    // Another type of socket than ours lies there: that nobody answers is all that counts.
    assert!(matches!(found, Ok(Answer::Nobody) | Err(_)), "{found:?}");
}

#[test]
fn a_running_proxy_that_hangs_is_given_up_and_one_that_does_not_leave_is_named() {
    let dir = Dir::new("hang");
    let (own, address) = listener();
    let (control, mail) = mpsc::channel();
    open(&dir.door(), terms(address), managed(vec![own]), control).unwrap();
    let line =
        knock(&dir.door(), &terms(address), Patience { answer: Patience::default().answer, ..SHORT }).unwrap_err();
    assert!(line.starts_with("the running proxy (process 7) has stopped accepting and does not leave"), "{line}");
    // Its thread has done its part, so nobody answers at the door any more, which still exists.
    let _successor = successor(&mail);
    let found = knock(&dir.door(), &terms(address), SHORT);
    assert!(!matches!(found, Ok(Answer::Listeners(_))), "{found:?}");
}

#[test]
fn a_message_of_a_newer_version_is_understood_as_far_as_it_is_known() {
    let text = r#"{"listeners":{"terms":{"version":"9","pid":1,"shards":{"start":0,"end":2},"shard_count":2,
        "listen":"[::]:1","mood":"good"},"count":3,"are_managed":false,"colour":7}}"#;
    let Message::Listeners { terms, count, .. } = serde_json::from_str(text).unwrap() else { panic!("other message") };
    assert_eq!((terms.shards, terms.listen, count), (0..2, "[::]:1".parse().unwrap(), 3));
}
