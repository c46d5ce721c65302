//! One proxy replaces another, or itself, while clients connect all the time: no connection is refused, and each is answered.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, binary, on_backends};
use common::raw::{Got, identified, upgrade};
use common::{order, stats_until, with_discord};
use loadtest::client::Order;
use loadtest::client::options::INTENTS;
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::run::proc::Process;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of one test's own, removed when dropped. Its path is short, since a socket lies in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("shardgate-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The configuration of a proxy at `address`.
fn config(discord: &Address, address: SocketAddr, keys: Value) -> String {
    let mut config = json!({
        "token": "fake",
        "intents": INTENTS,
        "bind": "127.0.0.1",
        "port": address.port(),
        "externally_accessible_url": format!("ws://{address}"),
        "api_url": discord.rest,
        "cores": 1,
    });
    keys.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
    config.to_string()
}

fn address_of(proxy: &Proxy) -> SocketAddr {
    proxy.url.strip_prefix("ws://").unwrap().parse().unwrap()
}

/// A process that is to take over, and where its log goes.
fn successor(discord: &Address, folder: &Folder, address: SocketAddr, keys: Value) -> (Process, PathBuf) {
    let log = folder.0.join("successor.log");
    let config = config(discord, address, keys);
    (Process::start(&binary(), ["--takeover"], &[("CONFIG", config.as_str())], &log).unwrap(), log)
}

async fn ended(process: &mut Process, log: &Path) -> (Option<i32>, String) {
    loop {
        if let Some(status) = process.exited() {
            return (status.code(), std::fs::read_to_string(log).unwrap());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Connects, asks for an upgrade, hears the answer and hangs up, again and again.
struct Visitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
    visits: Arc<AtomicU32>,
}

impl Visitor {
    fn start(address: SocketAddr) -> Self {
        let (stop, visits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, counted) = (stop.clone(), visits.clone());
        let visit = move || {
            let mut wrong = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match answer(address) {
                    Ok(status) if status == "101" || status == "503" => {}
                    Ok(other) => wrong.push(format!("answered {other:?}")),
                    Err(error) => wrong.push(error),
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            wrong
        };
        Self { stop, thread: thread::spawn(visit), visits }
    }

    /// Waits for so many more visits.
    async fn goes_on(&self, visits: u32) {
        let wanted = self.visits.load(Ordering::Relaxed) + visits;
        common::until(|| self.visits.load(Ordering::Relaxed) >= wanted).await;
    }

    /// What went wrong, visit by visit.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The status that a client's upgrade is answered with.
fn answer(address: SocketAddr) -> Result<String, String> {
    let mut socket = TcpStream::connect(address).map_err(|error| format!("refused: {error}"))?;
    hear_status(&mut socket, true).map_err(|error| format!("not answered: {error}"))
}

fn hear_status(socket: &mut TcpStream, asks: bool) -> std::io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    if asks {
        socket.write_all(upgrade("/?v=10&encoding=json", "").as_bytes())?;
    }
    let mut head = [0; 12];
    socket.read_exact(&mut head)?;
    Ok(String::from_utf8_lossy(&head[9..]).into_owned())
}

#[test]
fn a_new_process_takes_over_and_no_connection_is_refused() {
    on_backends(|backend| {
        for (cores, cores_after) in [(1, 2), (2, 1)] {
            with_discord(&["--shards", "3", "--guilds", "2"], async |discord: Address| {
                let folder = Folder::new();
                // Both have it, one after the other.
                let admin_bind = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
                let keys = |cores: usize| json!({"backend": backend, "cores": cores, "data_dir": folder.text(), "admin_bind": admin_bind});
                let mut first = Proxy::start(&discord, &[], keys(cores)).await;
                let address = address_of(&first);
                let (mut client, ..) = identified(&first.url, [1, 3]).await;
                let witness = judged::join(&first.url, [2, 3], Compression::None).await;
                order(&discord, "burst?shard=2&events=100", "").await;
                has(&witness, 100).await;
                let visitor = Visitor::start(address);
                visitor.goes_on(20).await;

                let (mut second, log) = successor(&discord, &folder, address, keys(cores_after));
                // Into the old process, between the two, and into the new one.
                let mut sent = 100;
                while first.has_ended().is_none() {
                    order(&discord, "burst?shard=2&events=20", "").await;
                    sent += 20;
                    sleep(Duration::from_millis(20)).await;
                }
                let status = first.ended().await;
                assert!(status.success(), "{status}:\n{}", first.log());
                assert!(first.log().contains("taken over"), "{}", first.log());
                assert_eq!(client.close_code().await, 4000);
                while first.page("/readyz").await.0 != 200 {
                    assert!(second.exited().is_none(), "{}", std::fs::read_to_string(&log).unwrap());
                    sleep(Duration::from_millis(5)).await;
                }
                visitor.goes_on(20).await;
                assert_eq!(visitor.stop(), Vec::<String>::new());

                // The witness came back by RESUME, and misses nothing.
                order(&discord, "burst?shard=2&events=100", "").await;
                has(&witness, sent + 100).await;
                assert_faultless(&witness);
                assert_eq!(witness.history.borrow().identifies, 1);
                witness.order(Order::Leave);

                // Discord keeps the sessions: each was resumed, none was closed with 1000, no connection was cut.
                let stats = stats_until(&discord, |it| it["resumes"] == 3).await;
                assert_eq!((&stats["identifies"], &stats["violations"]), (&json!(3), &json!({})), "{stats}");
                let codes: Vec<_> = stats["closes_received"].as_object().unwrap().keys().map(String::as_str).collect();
                assert_eq!((codes, &stats["drops"]), (vec!["4900"], &json!(0)), "{stats}");
                let (mut client, _, seq) = identified(&first.url, [1, 3]).await;
                order(&discord, "burst?shard=1&events=5", "").await;
                for number in seq + 1..=seq + 5 {
                    let Got::Payload(payload) = client.hear().await else { panic!("an event is due") };
                    assert!(payload.contains(&format!("\"s\":{number},")), "{payload}");
                }
                second.terminate();
                let (code, log) = ended(&mut second, &log).await;
                assert_eq!(code, Some(0), "{log}");
                assert!(log.contains("it has left") && log.contains("listening on sockets of before"), "{log}");
            });
        }
    });
}

#[test]
fn a_takeover_that_makes_no_sense_is_refused_and_the_running_proxy_runs_on() {
    with_discord(&["--shards", "3"], async |discord: Address| {
        let folder = Folder::new();
        let first = Proxy::start(&discord, &[], json!({"data_dir": folder.text()})).await;
        let address = address_of(&first);
        for (keys, line) in [
            (
                json!({}),
                "shardgate: data_dir: found nothing, wanted the directory of the running proxy, for --takeover",
            ),
            (
                json!({"data_dir": folder.text(), "shard_end": 2}),
                "shardgate: --takeover: the running proxy refuses: found shards 0..2 of 3, wanted 0..3 of 3 as they are held now; it runs on",
            ),
            (
                json!({"data_dir": folder.text(), "bind": "127.0.0.2"}),
                "shardgate: --takeover: the running proxy refuses: found bind and port 127.0.0.2:",
            ),
        ] {
            let (mut second, log) = successor(&discord, &folder, address, keys);
            let (code, log) = ended(&mut second, &log).await;
            assert_eq!(code, Some(1), "{log}");
            assert!(log.lines().any(|it| it.starts_with(line)), "{log}");
        }
        assert_eq!(first.page("/readyz").await.0, 200);
        first.stop().await;
    });
}

#[test]
fn where_no_proxy_runs_a_takeover_is_a_start() {
    with_discord(&["--shards", "1"], async |discord: Address| {
        let folder = Folder::new();
        let mut first = Proxy::start(&discord, &["--takeover"], json!({"data_dir": folder.text()})).await;
        first.logged("no proxy runs there").await;
        first.stop().await;
    });
}

/// Starts a proxy with `listener` as its third descriptor, as a service manager does.
fn activated(discord: &Address, listener: &TcpListener, backend: &str, log: &Path) -> Child {
    let passed = OwnedFd::from(listener.try_clone().unwrap());
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\"";
    let keys = json!({"backend": backend, "cores": 2, "port": 0});
    let log = std::fs::File::create(log).unwrap();
    Command::new("sh")
        .args(["-c", script])
        .arg(binary())
        .env("CONFIG", config(discord, listener.local_addr().unwrap(), keys))
        .stdin(Stdio::from(passed))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Ends by SIGTERM, and says whether that was clean.
async fn terminate(child: &mut Child) -> bool {
    // SAFETY: `kill` takes two integers and touches no memory of ours. The child has not been waited for, so its id is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn connections_to_a_service_managers_socket_wait_for_the_next_start() {
    on_backends(|backend| {
        with_discord(&["--shards", "2"], async |discord: Address| {
            let folder = Folder::new();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let log = folder.0.join("activated.log");
            let text = || std::fs::read_to_string(&log).unwrap();
            let mut waiting = None;
            for _ in 0..2 {
                let mut proxy = activated(&discord, &listener, backend, &log);
                if let Some(mut socket) = waiting.take() {
                    let heard = tokio::task::spawn_blocking(move || hear_status(&mut socket, false)).await.unwrap();
                    assert_eq!(heard.unwrap(), "101", "{}", text());
                }
                // Both shards, so both cores: the one without a listener gets its client from the other.
                for shard in 0..2 {
                    identified(&format!("ws://{address}"), [shard, 2]).await;
                }
                assert!(terminate(&mut proxy).await, "{}", text());
                let mut socket = TcpStream::connect(address).unwrap();
                socket.write_all(upgrade("/", "").as_bytes()).unwrap();
                waiting = Some(socket);
            }
        });
    });
}
