//! What answers mean, and one real exchange over loopback.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;
use crate::control::config::{self, Environment};

const ANSWER: &str = r#"{"url":"wss://gateway.discord.gg/","shards":9,"session_start_limit":
    {"total":1000,"remaining":999,"reset_after":14400000,"max_concurrency":1}}"#;

#[test]
fn an_answer_is_read_whole() {
    let Verdict::Answered(bot) = judge(200, None, ANSWER) else { panic!() };
    assert_eq!((bot.url.as_str(), bot.shards), ("wss://gateway.discord.gg", 9));
    let limit = bot.session_start_limit;
    assert_eq!((limit.total, limit.remaining, limit.max_concurrency), (1000, 999, 1));
    assert_eq!(limit.reset_after, Duration::from_secs(14400));
}

#[test]
fn an_answer_that_is_none_is_asked_for_again() {
    for body in ["", "<html>", "{}", r#"{"url":"https://x","shards":1}"#, &ANSWER.replace("wss:", "https:")] {
        assert!(matches!(judge(200, None, body), Verdict::Retry(_)), "{body}");
    }
}

#[test]
fn a_refused_token_and_a_wrong_base_are_final() {
    for status in [401, 400, 404, 405, 410] {
        assert!(matches!(judge(status, None, ""), Verdict::Fatal(_)), "{status}");
    }
}

#[test]
fn trouble_on_the_way_is_tried_again() {
    for status in [301, 403, 500, 502, 503, 520] {
        assert!(matches!(judge(status, None, ""), Verdict::Retry(_)), "{status}");
    }
}

#[test]
fn retry_after_is_the_longer_of_header_and_body() {
    let wait = |header, body| match judge(429, header, body) {
        Verdict::RetryAfter { wait, .. } => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(Some("2"), r#"{"message":"x","retry_after":1.5,"global":false}"#), Duration::from_secs(2));
    assert_eq!(wait(Some("1"), r#"{"retry_after":1.25}"#), Duration::from_millis(1250));
    assert_eq!(wait(None, r#"{"retry_after":0.25}"#), Duration::from_millis(250));
    assert_eq!(wait(None, "no JSON"), RETRY_AFTER_DEFAULT);
    assert_eq!(wait(Some("-1"), r#"{"retry_after":1e300}"#), RETRY_AFTER_MAX);
    assert_eq!(wait(Some("NaN"), ""), RETRY_AFTER_DEFAULT);
}

#[test]
fn retry_after_holds_for_a_busy_server_too() {
    for status in [500, 502, 503] {
        let Verdict::RetryAfter { wait, why } = judge(status, Some("30"), "<html>") else { panic!("{status}") };
        assert_eq!(wait, Duration::from_secs(30));
        assert!(why.contains(&status.to_string()));
        assert!(matches!(judge(status, None, "<html>"), Verdict::Retry(_)));
    }
}

#[test]
fn the_back_off_grows_to_its_limit() {
    let mut rng = fastrand::Rng::with_seed(7);
    for attempt in 0..100 {
        let whole = RETRY_FIRST.saturating_mul(1 << attempt.min(16)).min(RETRY_MAX);
        let wait = back_off(attempt, &mut rng);
        assert!(wait >= whole / 2 && wait <= whole, "attempt {attempt}: {wait:?}");
    }
}

fn config(more: &str) -> Config {
    let json = format!(r#"{{"token":"Bot invented.token","intents":1,{more}}}"#);
    config::load(None, &Environment { config: Some(json), ..Environment::default() }).unwrap().config
}

#[test]
fn the_request_goes_to_the_base_or_to_twilights_proxy() {
    let url = |more| request_url(&config(more));
    assert_eq!(url(r#""api_url":"http://127.0.0.1:1/api/v10/""#), "http://127.0.0.1:1/api/v10/gateway/bot");
    assert_eq!(url(r#""twilight_http_proxy":"proxy:80""#), "http://proxy:80/api/v10/gateway/bot");
}

#[test]
fn nothing_printable_holds_the_token() {
    assert!(!format!("{:?}", Endpoint::new(&config(r#""port":0"#)).unwrap()).contains("invented"));
}

/// Answers each connection with the next of `answers`; yields the requests' heads.
fn server(answers: Vec<String>) -> (u16, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let answer = |answer: String| {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            socket.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(head).unwrap()
        };
        answers.into_iter().map(answer).collect()
    };
    (port, thread::spawn(serve))
}

fn response(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
}

#[test]
fn a_rate_limit_is_waited_out_and_the_request_carries_what_discord_wants() {
    let limited = response("429 Too Many Requests", "Retry-After: 0\r\n", r#"{"retry_after":0.01}"#);
    let (port, served) = server(vec![limited, response("200 OK", "", ANSWER)]);
    let endpoint = Endpoint::new(&config(&format!(r#""api_url":"http://127.0.0.1:{port}/api/v10""#))).unwrap();
    let mut asking = endpoint.ask_until_answered(fastrand::Rng::with_seed(1));
    let requests = served.join().unwrap();
    let answer = loop {
        match asking.poll() {
            Some(answer) => break answer,
            None => thread::yield_now(),
        }
    };
    assert_eq!(asking.failed(), Some("asked too often (429)"));
    assert_eq!(answer.unwrap().shards, 9);
    for request in requests.iter().map(|it| it.to_lowercase()) {
        assert!(request.starts_with("get /api/v10/gateway/bot http/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nauthorization: bot invented.token\r\n"), "{request}");
        assert!(request.contains("\r\nuser-agent: discordbot (shardgate, "), "{request}");
    }
}

#[test]
fn a_refused_token_ends_the_asking() {
    let (port, served) = server(vec![response("401 Unauthorized", "", r#"{"message":"401: Unauthorized","code":0}"#)]);
    let endpoint = Endpoint::new(&config(&format!(r#""api_url":"http://127.0.0.1:{port}""#))).unwrap();
    let verdict = endpoint.ask();
    served.join().unwrap();
    let Verdict::Fatal(line) = verdict else { panic!("{verdict:?}") };
    assert!(line.contains("401") && !line.contains("invented"), "{line}");
}

#[test]
fn a_refused_connection_is_tried_again() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = Endpoint::new(&config(&format!(r#""api_url":"http://127.0.0.1:{port}""#))).unwrap();
    assert!(matches!(endpoint.ask(), Verdict::Retry(_)));
}
