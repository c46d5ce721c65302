//! Discord behind a proxy: everything goes through it, REST and gateway, and what it says when it refuses is told.

mod common;

use common::judged::{self, assert_faultless, has};
use common::proxy::{Proxy, backends, binary};
use common::relay::{self, Kind, Relay};
use common::{order, stats, with_discord};
use loadtest::compress::Compression;
use loadtest::discord::Address;
use serde_json::{Value, json};

const CREDENTIALS: &str = "bot user:p@ss:w/0rd-s3cret";
/// The same in a URL.
const ENCODED: &str = "bot%20user:p%40ss:w%2F0rd-s3cret";

fn url(kind: Kind, userinfo: &str, relay: &Relay) -> String {
    let scheme = if kind == Kind::Connect { "http" } else { "socks5" };
    format!("{scheme}://{userinfo}127.0.0.1:{}", relay.port)
}

/// Names that only the proxy can resolve, for both of Discord's hosts.
async fn behind_names(discord: &Address) -> (Value, String) {
    let (_, port) = discord.rest.trim_end_matches("/api/v10").rsplit_once(':').unwrap();
    order(discord, "gateway_url", &format!("ws://gateway.discord.invalid:{port}")).await;
    (json!({"api_url": format!("http://discord.invalid:{port}/api/v10"), "log_level": "trace"}), port.to_owned())
}

/// A session lives through the proxy, is resumed through it, and nothing is lost.
fn works(kind: Kind, credentials: Option<&'static str>, userinfo: &str) {
    for backend in backends() {
        let words = ["--shards", "2", "--guilds", "1", "--resume-url", "none"];
        with_discord(&words, async |discord: Address| {
            let relay = relay::start(kind, credentials).await;
            let (mut keys, port) = behind_names(&discord).await;
            keys["egress_proxy"] = url(kind, userinfo, &relay).into();
            keys["backend"] = backend.into();
            let proxy = Proxy::start(&discord, &[], keys).await;
            let client = judged::join(&proxy.url, [0, 2], Compression::None).await;
            order(&discord, "burst?shard=0&events=20", "").await;
            has(&client, 20).await;
            order(&discord, "drop?shard=0&events=20", "").await;
            has(&client, 40).await;
            assert_faultless(&client);
            let asked = relay.asked.borrow().clone();
            let count = |host: &str| asked.iter().filter(|it| **it == format!("{host}:{port}")).count();
            // One connection for each shard, one for the RESUME, and one for REST.
            assert_eq!(count("gateway.discord.invalid"), 3, "{asked:?}");
            assert!(count("discord.invalid") >= 1 && asked.len() == count("discord.invalid") + 3, "{asked:?}");
            let stats = stats(&discord).await;
            assert_eq!((&stats["identifies"], &stats["violations"]), (&2.into(), &json!({})), "{stats}");
            assert!(
                !String::from_utf8_lossy(&relay.said.borrow()).contains("Bot fake"),
                "the token was shown to the proxy"
            );
            let log = proxy.log();
            for secret in ["s3cret", "Proxy-Authorization", "cEBzczp3", "YDB0IHVzZXI"] {
                assert!(!log.contains(secret), "{secret}");
            }
            proxy.stop().await;
        });
    }
}

#[test]
fn a_connect_proxy_carries_rest_and_gateway_and_resolves_their_names() {
    works(Kind::Connect, None, "");
}

#[test]
fn a_connect_proxy_is_told_user_and_password() {
    works(Kind::Connect, Some(CREDENTIALS), &format!("{ENCODED}@"));
}

#[test]
fn a_socks5_proxy_carries_rest_and_gateway_and_resolves_their_names() {
    works(Kind::Socks5, None, "");
}

#[test]
fn a_socks5_proxy_is_told_user_and_password() {
    works(Kind::Socks5, Some(CREDENTIALS), &format!("{ENCODED}@"));
}

#[test]
fn tls_goes_through_the_tunnel_and_is_verified_for_discords_name() {
    for kind in [Kind::Connect, Kind::Socks5] {
        let cert = std::env::temp_dir().join(format!("egress-{}-{kind:?}.pem", std::process::id()));
        let words = ["--shards", "1", "--guilds", "1", "--tls", "--cert-file", cert.to_str().unwrap()];
        with_discord(&words, async |discord: Address| {
            let relay = relay::start(kind, Some(CREDENTIALS)).await;
            let keys = json!({"egress_proxy": url(kind, &format!("{ENCODED}@"), &relay)});
            let proxy = Proxy::start(&discord, &[], keys).await;
            let client = judged::join(&proxy.url, [0, 1], Compression::Zstd).await;
            order(&discord, "burst?shard=0&events=50", "").await;
            has(&client, 50).await;
            assert_faultless(&client);
            assert!(relay.asked.borrow().iter().all(|it| it.starts_with("localhost:")));
            proxy.stop().await;
        });
        std::fs::remove_file(cert).unwrap();
    }
}

#[test]
fn what_the_proxy_says_when_it_refuses_is_told_and_tried_again() {
    let cases: [(Kind, &[u8], &str); 4] = [
        (Kind::Connect, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required"),
        (Kind::Connect, b"HTTP/1.1 403 Filtered\r\n\r\n", "403 Filtered: it does not allow this host or port"),
        (Kind::Socks5, &[5, 0xff], "the SOCKS5 proxy wants a user and a password (method 0xff)"),
        (Kind::Socks5, b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers is no SOCKS5 proxy"),
    ];
    for (kind, refusal, told) in cases {
        with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
            let relay = relay::start(kind, None).await;
            let mut proxy = Proxy::start(&discord, &[], json!({"egress_proxy": url(kind, "", &relay)})).await;
            relay.refusals.borrow_mut().extend([refusal.to_vec(), refusal.to_vec()]);
            order(&discord, "drop?shard=0", "").await;
            proxy.logged(told).await;
            let client = judged::join(&proxy.url, [0, 1], Compression::None).await;
            order(&discord, "burst?shard=0&events=5", "").await;
            has(&client, 5).await;
            assert_eq!(stats(&discord).await["identifies"], 1);
            proxy.stop().await;
        });
    }
}

#[test]
fn a_wrong_password_stops_rest_with_a_line_that_shows_none() {
    for (kind, told) in [(Kind::Connect, "407"), (Kind::Socks5, "authentication failed")] {
        with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
            let relay = relay::start(kind, Some(CREDENTIALS)).await;
            let keys = json!({"egress_proxy": url(kind, "someone:wr0ng-s3cret@", &relay), "log_level": "trace"});
            let mut proxy = Proxy::spawn(&discord, &[], keys);
            proxy.logged(told).await;
            let log = proxy.log();
            assert!(log.contains("through egress_proxy") && !log.contains("s3cret"), "{log}");
            assert!(relay.asked.borrow().is_empty() && stats(&discord).await["rest"] == json!({}));
            proxy.stop().await;
        });
    }
}

#[test]
fn twilights_http_proxy_is_asked_directly_and_the_gateway_through_the_tunnel() {
    with_discord(&["--shards", "1", "--guilds", "1"], async |discord: Address| {
        let relay = relay::start(Kind::Socks5, None).await;
        let (_, port) = discord.rest.trim_end_matches("/api/v10").rsplit_once(':').unwrap();
        let keys = json!({
            "egress_proxy": url(Kind::Socks5, "", &relay),
            "twilight_http_proxy": format!("127.0.0.1:{port}"),
            "api_url": "http://nowhere.invalid/api/v10",
        });
        let proxy = Proxy::start(&discord, &[], keys).await;
        assert_eq!(*relay.asked.borrow(), [format!("127.0.0.1:{port}")]);
        proxy.stop().await;
    });
}

#[test]
fn neither_check_nor_a_refusal_shows_the_password() {
    for (proxy, is_good) in [
        ("http://bot:s3cret@proxy:3128", true),
        ("socks5://bot:s3cret@proxy:1080", true),
        ("http://bot:s3cret@proxy", false),
        ("https://bot:s3cret@proxy:1", false),
        ("socks5://s3cret@proxy:1", false),
        ("bot:s3cret@proxy:1", false),
    ] {
        let config = json!({"token": "fake", "intents": 1, "shards": 1, "egress_proxy": proxy});
        let mut command = std::process::Command::new(binary());
        let run = command.arg("--check").env("CONFIG", config.to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
        assert_eq!(run.status.success(), is_good, "{text}");
        assert!(text.contains("egress_proxy") && !text.contains("s3cret"), "{text}");
    }
}
