//! The two handshakes against scripted proxies, and URLs that are none.

use proptest::prelude::*;

use super::*;
use crate::wire::properties;

const HOST: &str = "gateway.discord.gg";

fn proxy(url: &str) -> EgressProxy {
    EgressProxy::parse(url).unwrap()
}

/// What is said to a proxy that answers so, and where the tunnel begins in the last answer.
fn talk(url: &str, host: &str, answers: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), EgressError> {
    let mut said = Vec::new();
    let mut tunnel = Tunnel::open(&proxy(url), host, 443, &mut said)?;
    let mut opened = None;
    for answer in answers {
        assert_eq!(opened, None, "it was open already");
        opened = tunnel.on_bytes(answer, &mut said)?;
    }
    Ok((said, opened))
}

fn refused(url: &str, answers: &[&[u8]]) -> String {
    talk(url, HOST, answers).unwrap_err().to_string()
}

#[test]
fn a_url_is_read_with_its_parts_decoded_and_shown_without_its_secrets() {
    let it = proxy("http://us%65r:p%40ss%3Aw%2Ford@Proxy.example:3128/");
    let credentials = it.credentials.clone().unwrap();
    assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("user", "p@ss:w/ord"));
    assert_eq!((it.kind, it.host.as_str(), it.port), (EgressKind::Http, "proxy.example", 3128));
    assert_eq!(format!("{it} {it:?} {credentials:?}"), "http://proxy.example:3128 http://proxy.example:3128 (hidden)");
    let it = proxy("SOCKS5://[2001:db8::1]:1080");
    assert_eq!((it.kind, it.to_string().as_str()), (EgressKind::Socks5, "socks5://[2001:db8::1]:1080"));
    assert_eq!((it.host.as_str(), it.credentials), ("2001:db8::1", None));
    assert_eq!(proxy("socks5h://a:1"), proxy("socks5://a:1"));
    assert_eq!(proxy("http://only-user@a:1").credentials.unwrap().password, "");
}

#[test]
fn a_url_that_names_no_proxy_is_refused_without_repeating_it() {
    let long = format!("socks5://{}:s3cret@a:1", "u".repeat(256));
    for url in [
        "",
        "proxy:3128",
        "https://s3cret:s3cret@a:1",
        "socks4://a:1",
        "http://a",
        "http://a:",
        "http://a:0",
        "http://a:70000",
        "http://a:+1",
        "http://:1",
        "http://a b:1",
        "http://a:1/path",
        "http://s3cret/x@a:1",
        "http://us%3Aer:s3cret@a:1",
        "http://s3cret%0d%0aX-Y:b@a:1",
        "http://s3cret%:b@a:1",
        "http://s3cret%4:b@a:1",
        "http://s3cret%ff:b@a:1",
        "socks5://s3cret@a:1",
        "socks5://:s3cret@a:1",
        "http://[::1:1",
        &long,
    ] {
        let why = EgressProxy::parse(url).unwrap_err();
        assert!(!why.contains("s3cret"), "{url}: {why}");
    }
}

#[test]
fn connect_names_the_host_says_who_we_are_and_ends_where_the_head_ends() {
    let (said, opened) =
        talk("http://me:pass@p:1", HOST, &[b"HTTP/1.1 200 Connection established\r\n\r\nmore"]).unwrap();
    let wanted = "CONNECT gateway.discord.gg:443 HTTP/1.1\r\nHost: gateway.discord.gg:443\r\n\
                  Proxy-Authorization: Basic bWU6cGFzcw==\r\n\r\n";
    assert_eq!((str::from_utf8(&said).unwrap(), opened), (wanted, Some(39)));
    let (said, _) = talk("http://p:1", "::1", &[]).unwrap();
    assert_eq!(str::from_utf8(&said).unwrap(), "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n");
}

#[test]
fn connect_takes_any_2xx_and_reads_over_a_few_interim_answers() {
    assert_eq!(talk("http://p:1", HOST, &[b"HTTP/1.0 299 ok\r\nContent-Length: 9\r\n\r\n"]).unwrap().1, Some(38));
    let answers: &[&[u8]] = &[b"HTTP/1.1 10", b"2 wait\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 ok\r\n\r\nx"];
    assert_eq!(talk("http://p:1", HOST, answers).unwrap().1, Some(answers[1].len() - 1));
    let flood = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(4000);
    assert_eq!(refused("http://p:1", &[&flood]), "the proxy answered CONNECT with 100 Continue");
}

#[test]
fn a_refusal_of_connect_is_told_in_the_proxys_words_on_one_line() {
    let line =
        refused("http://p:1", &[b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 5\r\n\r\nsorry"]);
    assert!(line.starts_with("the proxy answered CONNECT with 407 Proxy Authentication Required: it wants"), "{line}");
    let line = refused("http://p:1", &[b"HTTP/1.1 403 Filtered\r\n\r\n"]);
    assert_eq!(line, "the proxy answered CONNECT with 403 Filtered: it does not allow this host or port");
    let long = format!("HTTP/1.1 500 {}\r\n\r\n", "\u{e9}".repeat(500));
    assert!(refused("http://p:1", &[long.as_bytes()]).len() < 500);
    assert_eq!(refused("http://p:1", &[b"SSH-2.0-OpenSSH\r\n"]), "what answers is no HTTP proxy");
    let endless = [b"HTTP/1.1 200 ok\r\nX: ".as_slice(), &[b'x'; 20_000]].concat();
    assert_eq!(refused("http://p:1", &[&endless]), "the proxy's answer is longer than 16384 bytes");
    let many = ["HTTP/1.1 200 ok\r\n", &"A: b\r\n".repeat(100), "\r\n"].concat();
    assert_eq!(refused("http://p:1", &[many.as_bytes()]), "the proxy's answer is longer than 16384 bytes");
}

#[test]
fn socks_says_who_we_are_when_asked_and_has_the_proxy_resolve_names() {
    let answers: &[&[u8]] = &[&[5, 2], &[1, 0], &[5, 0, 0, 1, 9, 9, 9, 9, 0, 80, b'x']];
    let (said, opened) = talk("socks5://me:pass@p:1", HOST, answers).unwrap();
    let mut wanted = vec![5, 2, 0, 2];
    wanted.extend_from_slice(b"\x01\x02me\x04pass");
    wanted.extend_from_slice(b"\x05\x01\x00\x03\x12gateway.discord.gg\x01\xbb");
    assert_eq!((said, opened), (wanted, Some(10)));
}

#[test]
fn socks_without_credentials_offers_none_and_names_addresses_as_such() {
    let (said, opened) = talk("socks5://p:1", "127.0.0.1", &[&[5, 0, 5, 0, 0, 3, 1, b'h', 0, 80]]).unwrap();
    assert_eq!((said, opened), (vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 1, 187], Some(10)));
    let (said, opened) = talk("socks5://p:1", "::1", &[&[5, 0], &[5, 0, 0, 4], &[0; 17], &[0]]).unwrap();
    assert_eq!((said[3..7].to_vec(), said.len(), opened), (vec![5, 1, 0, 4], 25, Some(1)));
}

#[test]
fn a_proxy_that_asks_for_no_credentials_is_told_none() {
    let (said, _) = talk("socks5://me:s3cret@p:1", HOST, &[&[5, 0]]).unwrap();
    assert!(!said.windows(6).any(|it| it == b"s3cret"));
}

#[test]
fn every_refusal_of_socks_is_told_with_its_meaning() {
    let with = "socks5://me:pass@p:1";
    assert_eq!(refused("socks5://p:1", &[&[5, 255]]), "the SOCKS5 proxy wants a user and a password (method 0xff)");
    assert!(refused(with, &[&[5, 255]]).contains("accepts neither"));
    assert!(refused("socks5://p:1", &[&[5, 2]]).contains("method 0x02, which was not offered"));
    assert_eq!(refused(with, &[&[5, 2], &[1, 1]]), "the SOCKS5 proxy refuses user and password");
    assert_eq!(refused(with, &[&[4, 90]]), "what answers is no SOCKS5 proxy: a reply begins with 0x04");
    assert!(refused(with, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).contains("no SOCKS5 proxy"));
    assert!(refused(with, &[&[5, 2], &[5, 0]]).contains("begins with 0x05"));
    let meanings =
        ["general", "ruleset", "network", "host unr", "refused", "TTL", "command", "address type", "RFC 1928"];
    for (reply, meaning) in (1..).zip(meanings) {
        let line = refused("socks5://p:1", &[&[5, 0], &[5, reply]]);
        assert!(line.starts_with(&format!("the SOCKS5 proxy replied {reply}: ")) && line.contains(meaning), "{line}");
    }
    assert!(refused("socks5://p:1", &[&[5, 0], &[5, 0, 0, 2, 0]]).contains("kind 0x02"));
    let long = "h".repeat(256);
    assert_eq!(talk("socks5://p:1", &long, &[]).unwrap_err(), EgressError::HostTooLong);
}

proptest! {
    #[test]
    fn any_bytes_mean_the_same_however_they_are_cut(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        properties::egress(&bytes);
    }

    #[test]
    fn likely_answers_mean_the_same_however_they_are_cut(
        choice in any::<u8>(),
        parts in proptest::collection::vec(prop_oneof![
            Just(b"\x05\x00".to_vec()),
            Just(b"\x05\x02".to_vec()),
            Just(b"\x01\x00".to_vec()),
            Just(b"\x05\x00\x00\x01abcd\x00\x50".to_vec()),
            Just(b"\x05\x00\x00\x03\x05abcde\x00\x50".to_vec()),
            Just(b"\x05\x00\x00\x04abcdefghabcdefgh\x00\x50".to_vec()),
            Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
            Just(b"HTTP/1.1 200 ok\r\nVia: x\r\n".to_vec()),
            Just(b"HTTP/1.1 407 no\r\n\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ], 0..8),
    ) {
        properties::egress(&[vec![choice], parts.concat()].concat());
    }
}
