//! Clients over TLS: everything as without, between cores too; the certificate renewed under way; those who speak no TLS, too slowly, or
//! without the certificate that is asked for.

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::rc::Rc;

use common::folder::Folder;
use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, backends, binary, cores};
use common::raw::{Raw, good, upgrade};
use common::{order, stats, until, with_discord};
use loadtest::client::{Client, Order};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::tls::{self, Roots};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};

const DISCORD: [&str; 6] = ["--shards", "2", "--guilds", "2", "--members", "3"];

/// A certificate with its key, and clients that trust it.
struct Files {
    folder: Folder,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: Folder::new() };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.folder.text()).join(name)
    }

    fn renew(&self) {
        tls::write_throw_away(&self.path("cert.pem"), &self.path("key.pem")).unwrap();
    }

    fn roots(&self) -> Roots {
        tls::roots_from(&self.path("cert.pem")).unwrap()
    }

    fn keys(&self) -> Value {
        json!({"tls_cert": self.path("cert.pem"), "tls_key": self.path("key.pem"), "log_level": "debug"})
    }
}

fn client(proxy: &Proxy, roots: Roots, shard: u32, compression: Compression) -> Rc<Client> {
    let mut settings = judged::settings(&proxy.url, [shard, 2], compression);
    settings.roots = roots;
    judged::start(settings)
}

fn port(proxy: &Proxy) -> &str {
    proxy.url.rsplit_once(':').unwrap().1
}

async fn tcp(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(format!("127.0.0.1:{}", port(proxy))).await.unwrap()
}

/// Whether somebody who trusts so gets a page.
async fn gets_in(proxy: &Proxy, roots: Roots) -> bool {
    let url = format!("{}/shard-count", proxy.url.replacen("ws", "http", 1));
    matches!(loadtest::http::call("GET", &url, "", roots).await, Ok((200, _)))
}

async fn turned_away(proxy: &Proxy, reason: &str) -> f64 {
    let mut sum = 0.0;
    for core in 0..cores() {
        let line = format!("shardgate_clients_turned_away_total{{core=\"{core}\",reason=\"{reason}\"}}");
        sum += proxy.metric(&line).await.unwrap();
    }
    sum
}

/// A command of the proxy's with the same configuration.
fn command(proxy: &Proxy, name: &str) -> Output {
    let mut command = Command::new(binary());
    command.arg(name).envs(proxy.environment().iter().map(|(name, value)| (name, value))).output().unwrap()
}

#[test]
fn clients_over_tls_get_everything_and_resume_on_every_core() {
    for backend in backends() {
        for compression in [Compression::None, Compression::Zstd] {
            with_discord(&DISCORD, async |discord: Address| {
                let files = Files::new();
                let mut keys = files.keys();
                keys["backend"] = backend.into();
                let proxy = Proxy::start(&discord, &[], keys).await;
                // Connections land on any core: several of each shard, so that some are handed over.
                let clients: Vec<_> =
                    (0..8).map(|number| client(&proxy, files.roots(), number % 2, compression)).collect();
                for client in &clients {
                    judged::ready(client).await;
                }
                order(&discord, "burst?shard=0&events=300", "").await;
                order(&discord, "burst?shard=1&events=300", "").await;
                clients.iter().for_each(|it| it.order(Order::Away(Duration::from_millis(50))));
                order(&discord, "burst?shard=0&events=300", "").await;
                order(&discord, "burst?shard=1&events=300", "").await;
                for client in &clients {
                    has(client, 600).await;
                    until(|| client.history.borrow().resumes == 1).await;
                    assert_faultless(client);
                    assert_eq!(client.history.borrow().identifies, 1);
                }
                assert_eq!(stats(&discord).await["violations"], json!({}));
                assert_eq!(turned_away(&proxy, "tls").await, 0.0);
                proxy.stop().await;
            });
        }
    }
}

#[test]
fn pages_are_over_tls_too_and_health_knows_it() {
    for backend in backends() {
        with_discord(&DISCORD, async |discord: Address| {
            let files = Files::new();
            let mut keys = files.keys();
            keys["backend"] = backend.into();
            keys["externally_accessible_url"] = Value::Null;
            let proxy = Proxy::start(&discord, &[], keys).await;
            let (status, body) = proxy.page("/gateway").await;
            assert_eq!((status, body), (200, format!("{{\"url\":\"wss://localhost:{}\"}}", port(&proxy))));
            let (status, body) = proxy.page("/metrics").await;
            assert!(status == 200 && body.ends_with('\n') && body.len() > 4096, "{body}");
            assert_eq!(proxy.page("/cache/guild/1").await.0, 404);
            let health = command(&proxy, "health");
            assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
            assert_eq!(health.stdout, b"OK\n");
            let totals = command(&proxy, "stats");
            assert!(totals.status.success(), "{}", String::from_utf8_lossy(&totals.stderr));
            proxy.stop().await;
        });
    }
}

#[test]
fn who_speaks_no_tls_is_told_and_counted_and_harms_nobody() {
    for backend in backends() {
        with_discord(&DISCORD, async |discord: Address| {
            let files = Files::new();
            let mut keys = files.keys();
            keys["backend"] = backend.into();
            let mut proxy = Proxy::start(&discord, &[], keys).await;
            let innocent = client(&proxy, files.roots(), 0, Compression::None);
            judged::ready(&innocent).await;
            let plain = proxy.url.replacen("wss", "ws", 1);
            let mut raw = Raw::connect(&plain, upgrade("/?v=10&encoding=json", "").as_bytes()).await;
            let answer = raw.answer().await;
            assert_eq!(answer.status(), 400);
            assert_eq!(answer.body, b"This port speaks TLS: use wss:// or https://\n");
            let hello = b"\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd";
            for said in [&b"\x00\xff\x00"[..], b"\x80\x2e\x01\x00\x02", hello] {
                let mut stream = tcp(&proxy).await;
                stream.write_all(said).await.unwrap();
                // Whatever is said, the connection ends.
                stream.read_to_end(&mut Vec::new()).await.ok();
            }
            until_turned_away(&proxy, "tls", 4.0).await;
            proxy.logged("a client's TLS handshake failed").await;
            // Somebody who trusts another certificate than ours goes by himself.
            assert!(!gets_in(&proxy, Files::new().roots()).await);
            order(&discord, "burst?shard=0&events=10", "").await;
            has(&innocent, 10).await;
            assert_faultless(&innocent);
            proxy.stop().await;
        });
    }
}

async fn until_turned_away(proxy: &Proxy, reason: &str, count: f64) {
    while turned_away(proxy, reason).await < count {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(turned_away(proxy, reason).await, count);
}

#[test]
fn handshakes_that_take_for_ever_are_ended() {
    const SLOW: usize = 100;
    for backend in backends() {
        with_discord(&DISCORD, async |discord: Address| {
            let files = Files::new();
            let mut keys = files.keys();
            keys["backend"] = backend.into();
            keys["client_handshake_seconds"] = 1.into();
            let proxy = Proxy::start(&discord, &[], keys).await;
            let mut slow = Vec::new();
            for number in 0..SLOW {
                let mut stream = tcp(&proxy).await;
                // Some say nothing, the others begin a record of 16 KiB.
                if number % 2 == 0 {
                    stream.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc").await.unwrap();
                }
                slow.push(stream);
            }
            for byte in [0u8; 20] {
                for stream in slow.iter_mut().step_by(2) {
                    // Those that were ended already cannot be written to.
                    let _ = stream.write_all(&[byte]).await;
                }
                sleep(Duration::from_millis(20)).await;
            }
            let newcomer = client(&proxy, files.roots(), 1, Compression::None);
            judged::ready(&newcomer).await;
            for stream in &mut slow {
                stream.read_to_end(&mut Vec::new()).await.ok();
            }
            assert!(turned_away(&proxy, "handshake").await >= SLOW as f64);
            assert_faultless(&newcomer);
            proxy.stop().await;
        });
    }
}

#[test]
fn only_clients_with_a_certificate_get_in_where_one_is_asked_for() {
    with_discord(&DISCORD, async |discord: Address| {
        let (files, bots, strangers) = (Files::new(), Files::new(), Files::new());
        let identity = |of: &Files| {
            let cert = files.path("cert.pem");
            tls::roots_and_identity(&cert, &of.path("cert.pem"), &of.path("key.pem")).unwrap()
        };
        let mut keys = files.keys();
        keys["tls_client_ca"] = json!(bots.path("cert.pem"));
        let mut proxy = Proxy::spawn(&discord, &[], keys);
        proxy.roots = identity(&bots);
        proxy.ready().await;
        let bot = client(&proxy, identity(&bots), 0, Compression::None);
        judged::ready(&bot).await;
        assert!(!gets_in(&proxy, files.roots()).await, "without a certificate");
        assert!(!gets_in(&proxy, identity(&strangers)).await, "with another's certificate");
        assert!(gets_in(&proxy, identity(&bots)).await);
        until_turned_away(&proxy, "tls", 2.0).await;
        let health = command(&proxy, "health");
        let line = String::from_utf8_lossy(&health.stderr).into_owned();
        assert!(!health.status.success() && line.contains("remedy: set admin_bind"), "{line}");
        assert_faultless(&bot);
        proxy.stop().await;
    });
}

#[test]
fn a_renewed_certificate_is_shown_to_those_who_come_and_a_broken_one_changes_nothing() {
    with_discord(&DISCORD, async |discord: Address| {
        let files = Files::new();
        let proxy = Proxy::start(&discord, &[], files.keys()).await;
        let old = files.roots();
        let early = client(&proxy, old.clone(), 0, Compression::None);
        judged::ready(&early).await;
        files.renew();
        let new = files.roots();
        while !gets_in(&proxy, new.clone()).await || gets_in(&proxy, old.clone()).await {
            sleep(Duration::from_millis(50)).await;
        }
        let broken = || proxy.log().matches("the certificate from before stays in use").count();
        let before = broken();
        std::fs::write(files.path("cert.pem"), "half a certif").unwrap();
        while broken() == before {
            sleep(Duration::from_millis(50)).await;
        }
        assert!(gets_in(&proxy, new).await);
        // Nobody was disconnected for any of it.
        order(&discord, "burst?shard=0&events=10", "").await;
        has(&early, 10).await;
        assert_faultless(&early);
        assert_eq!(early.history.borrow().connects, 1);
        proxy.stop().await;
    });
}

#[test]
fn a_certificate_that_cannot_be_used_refuses_the_start() {
    let (files, other) = (Files::new(), Files::new());
    let run = |keys: Value| {
        let mut config = json!({"token": "fake", "intents": 1, "shards": 1});
        keys.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        let run = Command::new(binary()).arg("--check").env("CONFIG", config.to_string()).output().unwrap();
        (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    assert!(run(files.keys()).0);
    let mut keys = files.keys();
    keys["tls_key"] = json!(other.path("key.pem"));
    let (is_good, line) = run(keys);
    assert!(!is_good && line.contains("tls_cert: found ") && line.contains("private key of tls_key"), "{line}");
    let (is_good, line) = run(json!({"tls_cert": files.path("cert.pem")}));
    assert!(!is_good && line.contains("tls_key: found nothing, wanted "), "{line}");
}

#[test]
fn the_operators_pages_want_the_key_and_stats_shows_it() {
    const KEY: &str = "a-s3cret-of-the-operator";
    with_discord(&DISCORD, async |discord: Address| {
        let files = Files::new();
        let mut keys = files.keys();
        keys["admin_key"] = KEY.into();
        keys["log_level"] = "trace".into();
        let proxy = Proxy::start(&discord, &[], keys).await;
        for path in ["/metrics", "/stats", "/cache/guild/1"] {
            assert_eq!(proxy.page(path).await.0, 401, "{path}");
            let asked = |key: &str| format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n");
            for (key, is_right) in [("a-s3cret-of-the-operatoR", false), ("", false), (KEY, true)] {
                let said = asked(key);
                let mut raw = Raw::connect_trusting(&proxy.url, files.roots(), said.as_bytes()).await;
                assert_eq!(raw.answer().await.status() != 401, is_right, "{path}");
            }
        }
        assert_eq!(proxy.page("/shard-count").await, (200, "2".into()));
        let totals = command(&proxy, "stats");
        assert!(totals.status.success(), "{}", String::from_utf8_lossy(&totals.stderr));
        assert!(!proxy.log().contains("s3cret"));
        proxy.stop().await;
    });
}

#[test]
fn an_upgrade_in_the_same_segment_as_the_end_of_the_handshake_is_served() {
    with_discord(&DISCORD, async |discord: Address| {
        let files = Files::new();
        let proxy = Proxy::start(&discord, &[], files.keys()).await;
        for shard in [0, 1, 0, 1] {
            // What is said before the handshake is over leaves with its last flight, upgrade and IDENTIFY together.
            let said = [upgrade("/?v=10&encoding=json", "").into_bytes(), common::raw::text(&good(shard, 2))].concat();
            let mut raw = Raw::connect_trusting(&proxy.url, files.roots(), &said).await;
            assert_eq!(raw.answer().await.status(), 101);
            raw.ready().await;
            raw.close(1000);
            assert_eq!(raw.close_code().await, 1000);
        }
        proxy.stop().await;
    });
}
