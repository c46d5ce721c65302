//! Clients that mean harm, or are written so. Beside each attack stands an innocent client with a judge, another that comes in the
//! middle of it, and Discord, which hears nothing of it.

mod common;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, backends, cores};
use common::raw::{Raw, frame, identified, identify, resume, text, upgrade};
use common::{order, stats, with_discord};
use loadtest::client::Client;
use loadtest::compress::Compression;
use loadtest::discord::Address;
use loadtest::http;
use loadtest::run::proc::Usage;
use loadtest::ws;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};

const SHARDS: u32 = 2;
/// Idle connections, where the limit of open files allows so many.
const IDLE: usize = 10_000;
/// What an idle connection may cost at most, and the proxy once and for all.
const IDLE_BYTES_MAX: u64 = 8 << 10;
const RSS_BYTES_MAX: u64 = 32 << 20;

struct Bench {
    discord: Address,
    proxy: Proxy,
    /// The operator's address, where `admin_bind` gives one.
    admin: Option<String>,
    innocent: Rc<Client>,
    events: Cell<u64>,
}

fn on_each_backend(keys: Value, test: impl AsyncFn(&Bench)) {
    for backend in backends() {
        with_discord(&["--shards", "2", "--guilds", "2", "--members", "3"], async |discord: Address| {
            let mut keys = keys.clone();
            keys["backend"] = backend.into();
            let has_admin = keys["admin_bind"].is_string();
            let mut proxy = Proxy::start(&discord, &[], keys).await;
            let innocent = judged::join(&proxy.url, [0, SHARDS], Compression::None).await;
            let admin = if has_admin { Some(proxy.admin().await) } else { None };
            let bench = Bench { discord, proxy, admin, innocent, events: Cell::new(0) };
            test(&bench).await;
            bench.unharmed().await;
            let stats = stats(&bench.discord).await;
            assert_eq!((&stats["identifies"], &stats["upgrades"]), (&SHARDS.into(), &SHARDS.into()), "{stats}");
            bench.proxy.stop().await;
        });
    }
}

impl Bench {
    /// The innocent client gets its events on the connection that it has, somebody new gets in, and Discord has nothing to complain of.
    async fn unharmed(&self) {
        order(&self.discord, "burst?shard=0&events=10", "").await;
        self.events.set(self.events.get() + 10);
        has(&self.innocent, self.events.get()).await;
        assert_faultless(&self.innocent);
        assert_eq!(self.innocent.history.borrow().connects, 1);
        let (newcomer, ..) = identified(&self.proxy.url, [1, SHARDS]).await;
        newcomer.close(1000);
        assert_eq!(stats(&self.discord).await["violations"], json!({}));
    }

    async fn turned_away(&self, reason: &str) -> f64 {
        let mut sum = 0.0;
        for core in 0..cores() {
            let line = format!("shardgate_clients_turned_away_total{{core=\"{core}\",reason=\"{reason}\"}}");
            sum += self.proxy.metric(&line).await.unwrap();
        }
        sum
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.proxy.url.strip_prefix("ws://").unwrap()).await.unwrap()
    }
}

/// Waits until the proxy has closed `stream`, whatever it says before that.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    while !matches!(stream.read(&mut bytes).await, Ok(0) | Err(_)) {}
}

#[test]
fn handshakes_that_take_for_ever_are_ended() {
    const SLOW: usize = 200;
    on_each_backend(json!({"client_handshake_seconds": 1}), async |bench| {
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            slow.push(bench.tcp().await);
        }
        let request = upgrade("/?v=10&encoding=json", "X-Padding: never ends\r\n");
        for byte in request.as_bytes()[..40].chunks(1) {
            for stream in &mut slow {
                // Those that were ended already cannot be written to.
                let _ = stream.write_all(byte).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
        bench.unharmed().await;
        for stream in &mut slow {
            closed(stream).await;
        }
        assert_eq!(bench.turned_away("handshake").await, SLOW as f64);
    });
}

#[test]
fn ten_thousand_idle_connections_shut_nobody_out() {
    let idle = idle_connections();
    on_each_backend(json!({}), async |bench| {
        let before = Usage::of(bench.proxy.process.pid).rss_peak_bytes;
        let request = upgrade("/?v=10&encoding=json", "");
        let mut streams = Vec::new();
        for number in 0..idle {
            let mut stream = bench.tcp().await;
            if number % 2 == 0 {
                // Every other one goes on to HELLO and says nothing more.
                let _ = stream.write_all(request.as_bytes()).await;
            }
            streams.push(stream);
            if number % 2000 == 1999 {
                bench.unharmed().await;
            }
        }
        bench.unharmed().await;
        // So many at once may be bots that come back: they have 2 s to say something.
        let mut greeting = f64::MAX;
        while greeting > (1024 * cores()) as f64 {
            greeting = 0.0;
            for core in 0..cores() {
                greeting +=
                    bench.proxy.metric(&format!("shardgate_greeting_clients{{core=\"{core}\"}}")).await.unwrap();
            }
        }
        assert!(greeting > 0.0, "{greeting} connections");
        // Of those that never asked for an upgrade some may have had their 10 s.
        let gone = bench.turned_away("silent").await + bench.turned_away("handshake").await;
        assert!(gone >= idle as f64 - greeting - 100.0, "{gone} of {idle}, {greeting} left");
        let grown = Usage::of(bench.proxy.process.pid).rss_peak_bytes - before;
        assert!(grown < RSS_BYTES_MAX + idle as u64 * IDLE_BYTES_MAX, "{grown} bytes for {idle} connections");
    });
}

/// As many as wanted, and no more than two processes can hold.
fn idle_connections() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a valid pointer to a `rlimit` that lives until they return.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let allowed = usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX).saturating_sub(500);
    if allowed < IDLE {
        println!("{allowed} idle connections instead of {IDLE}: open files are limited");
    }
    IDLE.min(allowed)
}

#[test]
fn floods_end_with_the_connection_that_sends_them() {
    let beats = text("{\"op\":1,\"d\":null}").repeat(1000);
    let presence = "{\"op\":3,\"d\":{\"since\":null,\"activities\":[],\"status\":\"idle\",\"afk\":false}}";
    let wish = "{\"op\":8,\"d\":{\"guild_id\":\"GUILD\",\"query\":\"\",\"limit\":0}}";
    let wishes = |guild: &str| text(&wish.replace("GUILD", guild)).repeat(1000);
    let floods: Vec<(&str, Vec<u8>)> = vec![
        ("requests for members", Vec::new()),
        ("heartbeats", beats.clone()),
        ("pings", frame(ws::PING, &[b'x'; 125]).repeat(1000)),
        ("pongs", frame(ws::PONG, b"").repeat(1000)),
        ("presences", text(presence).repeat(1000)),
        ("unknown sessions", text(&resume("0123456789abcdef0123456789abcdef", 1)).repeat(1000)),
    ];
    on_each_backend(json!({}), async |bench| {
        for (name, bytes) in &floods {
            let is_guess = *name == "unknown sessions";
            for _ in 0..5 {
                let mut attacker = if is_guess {
                    Raw::open(&bench.proxy.url, "/?v=10&encoding=json").await
                } else {
                    let (attacker, ready, _) = identified(&bench.proxy.url, [1, SHARDS]).await;
                    if bytes.is_empty() {
                        attacker.link.send(&wishes(ready["guilds"][0]["id"].as_str().unwrap()));
                    }
                    attacker
                };
                attacker.link.send(bytes);
                assert_eq!(attacker.close_code().await, 4008, "{name}");
            }
            bench.unharmed().await;
        }
        let mut stranger = Raw::open(&bench.proxy.url, "/?v=10&encoding=json").await;
        stranger.link.send(&beats);
        assert_eq!(stranger.close_code().await, 4008, "heartbeats before IDENTIFY");
        assert_eq!(bench.turned_away("guesses").await, 5.0);
        assert!(bench.turned_away("flood").await >= 16.0);
    });
}

#[test]
fn guesses_at_tokens_and_sessions_win_nothing() {
    on_each_backend(json!({"client_failed_resumes": 3}), async |bench| {
        let (owner, ready, seq) = identified(&bench.proxy.url, [1, SHARDS]).await;
        let id = ready["session_id"].as_str().unwrap().to_owned();
        for number in 0..300 {
            let wrong = identify(&format!("guess{number}"), ",\"shard\":[1,2]", 1);
            let mut guesser = Raw::saying(&bench.proxy.url, &wrong).await;
            assert_eq!(guesser.close_code().await, 4004);
        }
        // Neighbours of a session that exists.
        for number in 0..30 {
            let mut guesser = Raw::open(&bench.proxy.url, "/").await;
            for digit in 0..3 {
                let mut guess = id.clone().into_bytes();
                let at = 31 - (number + digit) % 24;
                guess[at] = if guess[at] == b'0' { b'1' } else { b'0' };
                guesser.say(&resume(std::str::from_utf8(&guess).unwrap(), seq));
                guesser.until("\"op\":9,\"d\":false").await;
            }
            guesser.say(&resume(&id, seq));
            assert_eq!(guesser.close_code().await, 4008, "the right one comes too late");
        }
        bench.unharmed().await;
        assert_eq!(bench.turned_away("guesses").await, 330.0);
        drop(owner);
        Raw::saying(&bench.proxy.url, &resume(&id, seq)).await.until("{\"t\":\"RESUMED\",").await;
    });
}

#[test]
fn a_flood_of_pages_keeps_the_operator_from_none() {
    const PAGES: usize = 2000;
    const AT_ONCE: usize = 200;
    on_each_backend(json!({"admin_bind": "127.0.0.1:0"}), async |bench| {
        let livez = format!("{}/livez", bench.admin.as_ref().unwrap());
        let paths = ["/", "/gateway", "/readyz", "/metrics", "/cache/guild/1"];
        let mut readers = VecDeque::new();
        let mut answered = 0;
        for number in 0..PAGES {
            let mut stream = bench.tcp().await;
            let request = format!("GET {} HTTP/1.1\r\nHost: proxy\r\n\r\n", paths[number % paths.len()]);
            let _ = stream.write_all(request.as_bytes()).await;
            readers.push_back(stream);
            if readers.len() == AT_ONCE {
                closed(&mut readers.pop_front().unwrap()).await;
            }
            if number % 50 == 49 {
                assert_eq!(http::call("GET", &livez, "", None).await.unwrap(), (200, "ok\n".into()));
                answered += 1;
            }
        }
        assert_eq!(answered, PAGES / 50);
    });
}

#[test]
fn a_client_that_identifies_again_and_again_takes_nobodys_place() {
    on_each_backend(json!({}), async |bench| {
        // More than a shard has seats; each leaves its session behind.
        for _ in 0..300 {
            let raw = Raw::saying(&bench.proxy.url, &identify("fake", ",\"shard\":[0,2]", 1)).await;
            raw.link.cut();
        }
        bench.unharmed().await;
        let sessions = bench.proxy.metric("shardgate_sessions{shard=\"0\"}").await.unwrap();
        assert!(sessions <= 256.0, "{sessions}");
    });
}
