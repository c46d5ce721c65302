//! Heads as libraries, Cloudflare and port scanners send them.

use proptest::prelude::*;

use super::super::properties;
use super::*;

/// Key and accept of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const NONCE: [u8; 16] = *b"the sample nonce";
const ACCEPT: &[u8; 28] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn request(line: &str, headers: &[&str]) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes()
}

fn upgrade_head(path: &str) -> Vec<u8> {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let headers = ["Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", &key];
    request(&format!("GET {path}"), &headers)
}

fn upgrade(path: &str) -> Upgrade {
    match parse_request(&upgrade_head(path)) {
        Ok(Some((Request::Upgrade(upgrade), _))) => upgrade,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn every_path_that_a_library_sends_is_an_upgrade() {
    for path in ["?v=10", "/?v=10", "//?v=10", "/gateway/?v=10&encoding=json", "/?encoding=json&v=10", "/?&&v=10&x"] {
        assert_eq!(upgrade(path).version, Some(10), "{path}");
    }
    assert_eq!(upgrade("/").version, None);
    assert_eq!(upgrade("/?v=ten").version, Some(0));
    assert_eq!(upgrade("/?v=1000").version, Some(0));
}

#[test]
fn encoding_and_compression_are_read_from_the_query() {
    assert_eq!(upgrade("/").encoding, Encoding::Json);
    assert_eq!(upgrade("/?encoding=json").encoding, Encoding::Json);
    assert_eq!(upgrade("/?encoding=etf").encoding, Encoding::Etf);
    assert_eq!(upgrade("/?encoding=xml").encoding, Encoding::Unknown);
    assert_eq!(upgrade("/?v=10").compress, Compression::None);
    assert_eq!(upgrade("/?compress=zlib-stream").compress, Compression::Zlib);
    assert_eq!(upgrade("/?compress=zstd-stream&v=9").compress, Compression::Zstd);
    assert_eq!(upgrade("/?compress=brotli").compress, Compression::None);
}

#[test]
fn the_accept_of_rfc_6455_is_answered() {
    let upgrade = upgrade("/");
    assert_eq!(&upgrade.accept, ACCEPT);
    let response = upgrade_response(&upgrade);
    assert_eq!(parse_upgrade_response(&response, NONCE), Ok(Some(response.len())));
}

#[test]
fn header_names_and_tokens_are_read_in_any_case() {
    let key = format!("SEC-WEBSOCKET-KEY:{KEY}");
    let headers =
        ["uPGRADE: WebSocket", "connection: keep-alive, UPGRADE", "sec-websocket-version:  13 ", key.as_str()];
    assert!(matches!(parse_request(&request("GET /", &headers)), Ok(Some((Request::Upgrade(_), _)))));
}

#[test]
fn frames_behind_the_head_are_left_alone() {
    let mut bytes = upgrade_head("/");
    let head_len = bytes.len();
    bytes.extend_from_slice(&[0x81, 0x80, 1, 2, 3, 4]);
    assert!(matches!(parse_request(&bytes), Ok(Some((_, len))) if len == head_len));
}

#[test]
fn extensions_and_sub_protocols_are_declined() {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let headers = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Protocol: chat",
        &key,
    ];
    let Ok(Some((Request::Upgrade(upgrade), _))) = parse_request(&request("GET /", &headers)) else { panic!() };
    let response = String::from_utf8(upgrade_response(&upgrade)).unwrap();
    assert!(!response.contains("Extensions") && !response.contains("Protocol:"));
}

#[test]
fn anything_else_is_a_plain_request() {
    let parsed = parse_request(&request("HEAD /metrics?x=1", &["Host: localhost:7878"]));
    let plain = PlainRequest {
        method: "HEAD".into(),
        path: "/metrics?x=1".into(),
        host: Some("localhost:7878".into()),
        head_only: true,
        bearer: None,
    };
    assert!(matches!(parsed, Ok(Some((Request::Plain(it), _))) if it == plain));
    // An upgrade to something else may be ignored (RFC 9110 §7.8).
    let h2c = request("GET /", &["Upgrade: h2c", "Connection: Upgrade"]);
    assert!(matches!(parse_request(&h2c), Ok(Some((Request::Plain(_), _)))));
}

#[test]
fn a_bearers_secret_is_read_and_other_schemes_are_not() {
    let shown = |header: &str| match parse_request(&request("GET /metrics", &[header])) {
        Ok(Some((Request::Plain(it), _))) => it.bearer,
        other => panic!("{other:?}"),
    };
    for header in ["Authorization: Bearer a.key", "authorization: bearer   a.key "] {
        assert_eq!(shown(header), Some(Bearer::new(b"a.key")), "{header}");
    }
    for header in
        ["Authorization: Basic YTpi", "Authorization: Bearer", "X-Authorization: Bearer a.key", "Authorization:"]
    {
        assert_eq!(shown(header), None, "{header}");
    }
}

#[test]
fn a_bad_upgrade_is_refused_by_its_own_status() {
    let headers = |version: &str, key: &str| {
        [
            "Upgrade: websocket".to_owned(),
            "Connection: Upgrade".to_owned(),
            format!("Sec-WebSocket-Version: {version}"),
            format!("Sec-WebSocket-Key: {key}"),
        ]
    };
    let status = |line: &str, version: &str, key: &str| {
        let headers = headers(version, key);
        let error = parse_request(&request(line, &headers.each_ref().map(String::as_str))).unwrap_err();
        String::from_utf8(error.response()).unwrap()
    };
    assert!(status("POST /", "13", KEY).starts_with("HTTP/1.1 405 "));
    let wrong_version = status("GET /", "8", KEY);
    assert!(wrong_version.starts_with("HTTP/1.1 426 ") && wrong_version.contains("Sec-WebSocket-Version: 13\r\n"));
    assert!(status("GET /", "13", "c2hvcnQ=").starts_with("HTTP/1.1 400 "));
    assert!(status("GET /", "13", "").starts_with("HTTP/1.1 400 "));
}

#[test]
fn who_is_turned_away_is_told_when_to_try_again() {
    let answer = String::from_utf8(HttpError::Unavailable { retry_after_s: 5 }.response()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"),
        "{answer}"
    );
}

#[test]
fn a_head_over_its_limits_is_431() {
    let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; REQUEST_BYTES_MAX]].concat();
    let too_large = Err(HttpError::HeadTooLarge { limit: REQUEST_BYTES_MAX });
    assert_eq!(parse_request(&endless), too_large);
    let whole = [&endless, b"\r\n\r\n".as_slice()].concat();
    assert_eq!(parse_request(&whole), too_large);
    assert_eq!(parse_request(&request("GET /", &["X: y"; HEADERS_MAX + 1])), too_large);
    assert!(HttpError::HeadTooLarge { limit: 1 }.response().starts_with(b"HTTP/1.1 431 "));
}

#[test]
fn a_head_is_awaited_until_its_last_byte() {
    let head = upgrade_head("/?v=10");
    for cut in 0..head.len() {
        assert_eq!(parse_request(&head[..cut]), Ok(None), "cut at {cut}");
    }
    let response = upgrade_response(&upgrade("/"));
    for cut in 0..response.len() {
        assert_eq!(parse_upgrade_response(&response[..cut], NONCE), Ok(None), "cut at {cut}");
    }
}

#[test]
fn our_own_upgrade_request_is_one_that_we_accept() {
    let request = upgrade_request("gateway.discord.gg", "/?v=10&encoding=json&compress=zstd-stream", NONCE);
    let Ok(Some((Request::Upgrade(upgrade), len))) = parse_request(&request) else { panic!() };
    assert_eq!(len, request.len());
    assert_eq!((upgrade.version, upgrade.compress), (Some(10), Compression::Zstd));
    assert_eq!(&upgrade.accept, ACCEPT);
    let text = String::from_utf8(request).unwrap();
    assert!(text.contains("\r\nHost: gateway.discord.gg\r\n"));
    assert!(text.contains("\r\nUser-Agent: DiscordBot (shardgate, "));
}

#[test]
fn an_answer_that_is_not_our_101_is_an_error() {
    let response = |head: &str| format!("{head}\r\n\r\n").into_bytes();
    let answer = |head: &str| parse_upgrade_response(&response(head), NONCE);
    let refused = |status, retry_after_s| Err(HttpError::Status { status, retry_after_s });
    assert_eq!(answer("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5"), refused(503, Some(5)));
    assert_eq!(answer("HTTP/1.1 429 Too Many Requests\r\nretry-after: -1"), refused(429, None));
    assert_eq!(answer("HTTP/1.1 502 Bad Gateway\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT"), refused(502, None));
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
    assert_eq!(answer(switching), Err(HttpError::WrongAccept));
    assert_eq!(answer(&format!("{switching}\r\nSec-WebSocket-Accept: {KEY}")), Err(HttpError::WrongAccept));
    let accept = format!("Sec-WebSocket-Accept: {}", str::from_utf8(ACCEPT).unwrap());
    assert!(answer(&format!("{switching}\r\n{accept}")).is_ok_and(|it| it.is_some()));
    let extended = format!("{switching}\r\n{accept}\r\nSec-WebSocket-Extensions: permessage-deflate");
    assert!(matches!(answer(&extended), Err(HttpError::Malformed(_))));
}

#[test]
fn interim_answers_are_read_over() {
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let answer = upgrade_response(&upgrade("/"));
    let all = [&interim.repeat(2)[..], &answer, b"\x81\x00"].concat();
    for end in 0..all.len() {
        let whole = (end + 2 >= all.len()).then_some(all.len() - 2);
        assert_eq!(parse_upgrade_response(&all[..end], NONCE), Ok(whole), "{end}");
    }
    let endless = parse_upgrade_response(&[&interim.repeat(9)[..], &answer].concat(), NONCE);
    assert!(matches!(endless, Err(HttpError::Malformed(_))), "{endless:?}");
}

#[test]
fn noise_is_400() {
    for noise in [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), b"GET / HTTP/2.0\r\n\r\n", b"\0\0\0\0"] {
        assert!(matches!(parse_request(noise), Err(HttpError::Malformed(_))), "{noise:?}");
    }
}

proptest! {
    #[test]
    fn damaged_heads_do_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: prop::sample::Index,
        answer: bool,
    ) {
        let mut head = if answer { upgrade_response(&upgrade("/")) } else { upgrade_head("/?v=10&compress=zlib-stream") };
        for (at, byte) in damage {
            let at = at.index(head.len());
            head[at] = byte;
        }
        properties::http_upgrade(&head);
        properties::http_upgrade(&head[..cut.index(head.len())]);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        properties::http_upgrade(&bytes);
    }
}
