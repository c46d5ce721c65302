//! The token is in nothing that the proxy shows: not in its log at the finest level, not on a page, not in what it tells clients, not
//! in its files.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::proxy::{Proxy, binary};
use common::raw::{Got, Raw, identify, text, upgrade};
use common::{order, with_discord};
use loadtest::discord::Address;
use serde_json::{Value, json};

const TOKEN: &str = "MTIzNDU2Nzg5.s3cret.token-that-nobody-may-see";

/// Everything the proxy says on this connection until it ends, or until the dispatch `last`.
async fn everything(raw: &mut Raw, last: &str) -> String {
    let mut heard = String::new();
    loop {
        match raw.hear().await {
            Got::Payload(payload) => {
                heard += &payload;
                if payload.contains(last) {
                    return heard;
                }
            }
            Got::Pong(data) => heard += &String::from_utf8_lossy(&data),
            Got::Close(_) | Got::End => return heard,
        }
    }
}

#[test]
fn the_token_is_in_no_log_line_page_answer_or_file() {
    look_everywhere(json!({"token": format!("Bot {TOKEN}")}));
}

#[test]
fn nor_is_one_from_a_file_or_in_a_log_of_json() {
    let name = format!("secrets-token-{}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    look_everywhere(json!({"token": "", "token_file": path, "log_format": "json"}));
    std::fs::remove_file(&path).unwrap();
}

/// `more` are keys that give the token.
fn look_everywhere(more: Value) {
    with_discord(&["--shards", "2", "--guilds", "1", "--token", TOKEN], async |discord: Address| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "secrets-{}-{}",
            more.as_object().unwrap().len(),
            std::process::id()
        ));
        std::fs::create_dir_all(&dir).unwrap();
        let mut keys = json!({"log_level": "trace", "data_dir": dir});
        more.as_object().unwrap().iter().for_each(|(key, value)| keys[key] = value.clone());
        let mut shown = Vec::new();
        // REST and the gateway complain first.
        order(&discord, "rest?status=500&count=1", "").await;
        order(&discord, "refuse?count=1&status=429&retry_after=1", "").await;
        let mut proxy = Proxy::start(&discord, &[], keys.clone()).await;
        let right = identify(TOKEN, ",\"shard\":[1,2]", 1);
        let said = [
            right.clone(),
            right[..right.len() - 1].to_owned(),
            right.replace("\"op\":2", "\"op\":99"),
            right.replace("[1,2]", "[7,9]"),
            format!("{{\"op\":6,\"d\":{{\"token\":\"{TOKEN}\",\"session_id\":\"{TOKEN}\",\"seq\":1}}}}"),
            format!("{{\"op\":6,\"d\":{{\"token\":\"Bot Bot {TOKEN}\",\"session_id\":\"x\",\"seq\":-1}}}}"),
            format!("{{\"op\":2,\"d\":{{\"token\":[\"{TOKEN}\"]}}}}"),
            format!("{{\"op\":\"{TOKEN}\"}}"),
            TOKEN.to_owned(),
        ];
        for payload in &said {
            let mut raw = Raw::open(&proxy.url, "/?v=10&encoding=json").await;
            raw.link.send(&text(payload));
            raw.link.send(&text("[]"));
            // Without the session id, which is what a client of ours sent itself.
            shown.push(everything(&mut raw, "\"t\":\"GUILD_CREATE\"").await);
        }
        for request in [
            upgrade(&format!("/?v=10&token={TOKEN}"), &format!("Authorization: Bot {TOKEN}\r\n")),
            format!("GET /gateway/bot?token={TOKEN} HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n"),
            format!("GET /{TOKEN} HTTP/1.1\r\n\r\n"),
            format!("{TOKEN}\r\n\r\n"),
        ] {
            let mut raw = Raw::connect(&proxy.url, request.as_bytes()).await;
            let answer = raw.answer().await;
            shown.push(format!("{:?} {}", answer.start, String::from_utf8_lossy(&answer.body)));
        }
        for path in ["/metrics", "/readyz", "/livez", "/health", "/shard-count", "/gateway", "/gateway/bot", "/"] {
            shown.push(proxy.page(path).await.1);
        }
        order(&discord, "garbage?shard=0", "").await;
        order(&discord, "close?shard=1&code=4004", "").await;
        while proxy.metric("gateway_shard_status{shard=\"1\"}").await != Some(0.0) {
            tokio::task::yield_now().await;
        }
        proxy.process.signal(libc::SIGHUP);
        proxy.logged("configuration read again").await;
        shown.push(proxy.log());
        assert!(proxy.log().contains("IDENTIFY sent"), "the log was not read");
        proxy.stop().await;
        // The socket for --takeover holds nothing.
        for file in std::fs::read_dir(&dir).unwrap().map(Result::unwrap).filter(|it| it.file_type().unwrap().is_file())
        {
            shown.push(String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned());
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{} is for this user alone", file.path().display());
        }
        std::fs::remove_dir_all(&dir).unwrap();
        // Starts that are refused.
        for (name, value) in [
            ("token", json!([TOKEN])),
            ("token", json!(format!("{TOKEN} \u{1}"))),
            ("port", json!(-1)),
            ("token_file", json!(TOKEN)),
        ] {
            let mut config = json!({"token": TOKEN, "intents": 1, "shards": 1});
            config[name] = value;
            for argument in ["--check", "check", "--close-upstream-offline"] {
                let mut command = std::process::Command::new(binary());
                let run = command.arg(argument).env("CONFIG", config.to_string()).env("TOKEN", TOKEN).output().unwrap();
                assert!(!run.status.success(), "{config}");
                shown.push(String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned());
            }
        }
        for text in shown {
            assert!(!text.contains("s3cret"), "{text}");
        }
    });
}
