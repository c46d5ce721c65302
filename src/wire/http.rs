//! The HTTP/1.1 around a WebSocket: requests on our port, and the upgrade on both sides (RFC 6455 §4).
//!
//! It tells an upgrade from any other request and answers neither: pages and conversations do. No body is read, and
//! neither extensions nor sub-protocols are ever agreed to.

#![forbid(unsafe_code)]

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

use super::compression::Compression;

/// The longest request head that is read. Over: 431.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;
/// The longest answer to our own upgrade request. Cloudflare's heads are about 1 KiB.
pub const RESPONSE_BYTES_MAX: usize = 16 << 10;
/// Headers in one head. Over: 431.
pub const HEADERS_MAX: usize = 64;

/// What RFC 6455 §1.3 has servers append to the key.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request on our port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A client wants a gateway connection.
    Upgrade(Upgrade),
    /// Anything else: metrics, pages.
    Plain(PlainRequest),
}

/// What a client asked for in its upgrade. The path does not matter: libraries disagree on it.
///
/// Source: Discord, Gateway › Connecting › Gateway URL query string params.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: [u8; 28],
    /// `v`; `None` when absent, 0 when it is no number up to 255, which no API version is.
    pub version: Option<u8>,
    pub encoding: Encoding,
    /// An unknown value counts as none: every library understands text frames.
    pub compress: Compression,
}

/// The `encoding` key of the gateway URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Also when the key is absent.
    Json,
    Etf,
    Unknown,
}

/// A request that is not an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainRequest {
    pub method: String,
    /// With its query.
    pub path: String,
    pub host: Option<String>,
    /// HEAD: the answer goes without its body.
    pub head_only: bool,
}

/// Why a head cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP/1.1, or not an upgrade as RFC 6455 wants it.
    Malformed(&'static str),
    /// An upgrade that is no GET.
    MethodNotAllowed,
    /// An upgrade to another version of the protocol than 13.
    UpgradeRequired,
    /// More than `limit` bytes or [`HEADERS_MAX`] headers.
    HeadTooLarge { limit: usize },
    /// The answer to our own upgrade was this status.
    Status(u16),
    /// The answer to our own upgrade was no answer to our key.
    WrongAccept,
}

impl HttpError {
    /// The whole answer, after which the connection is closed.
    pub fn response(&self) -> Vec<u8> {
        let (status, header) = match self {
            Self::Malformed(_) => ("400 Bad Request", ""),
            Self::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::UpgradeRequired => {
                ("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n")
            }
            Self::HeadTooLarge { .. } => ("431 Request Header Fields Too Large", ""),
            // They speak of Discord's answer, and no client hears of it.
            Self::Status(_) | Self::WrongAccept => ("502 Bad Gateway", ""),
        };
        let connection = if header.contains("Connection") { "" } else { "Connection: close\r\n" };
        let body = format!("{self}\n");
        format!(
            "HTTP/1.1 {status}\r\n{header}{connection}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => f.write_str(why),
            Self::MethodNotAllowed => f.write_str("a WebSocket upgrade is a GET"),
            Self::UpgradeRequired => f.write_str("this port speaks WebSocket version 13"),
            Self::HeadTooLarge { limit } => write!(f, "head of more than {limit} bytes or {HEADERS_MAX} headers"),
            Self::Status(status) => write!(f, "upgrade answered with HTTP status {status}"),
            Self::WrongAccept => f.write_str("upgrade answered with a wrong Sec-WebSocket-Accept"),
        }
    }
}

impl std::error::Error for HttpError {}

/// Reads the request at the front of `bytes`, all that came on the connection so far.
///
/// Returns it with the length of its head; what follows are frames already. `None`: the head is not whole yet.
pub fn parse_request(bytes: &[u8]) -> Result<Option<(Request, usize)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let Some(head_len) = head_len(head.parse(bytes), bytes.len(), REQUEST_BYTES_MAX)? else { return Ok(None) };
    // A whole head has these three.
    let (method, path) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    let headers = Headers(head.headers);

    if !(headers.has_token("upgrade", "websocket") && headers.has_token("connection", "upgrade")) {
        let plain = PlainRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            host: headers.one("host").and_then(|host| str::from_utf8(host).ok()).map(str::to_owned),
            head_only: method == "HEAD",
        };
        return Ok(Some((Request::Plain(plain), head_len)));
    }
    if method != "GET" {
        return Err(HttpError::MethodNotAllowed);
    }
    if head.version != Some(1) {
        return Err(HttpError::Malformed("a WebSocket upgrade needs HTTP/1.1"));
    }
    if headers.one("sec-websocket-version") != Some(b"13") {
        return Err(HttpError::UpgradeRequired);
    }
    let key = headers
        .one("sec-websocket-key")
        .filter(|key| is_key(key))
        .ok_or(HttpError::Malformed("Sec-WebSocket-Key is not 16 bytes in base64"))?;
    Ok(Some((Request::Upgrade(Upgrade::new(accept(key), path)), head_len)))
}

/// The answer that makes a gateway connection out of `upgrade`.
pub fn upgrade_response(upgrade: &Upgrade) -> Vec<u8> {
    let mut response = Vec::with_capacity(160);
    response.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    response.extend_from_slice(b"Sec-WebSocket-Accept: ");
    response.extend_from_slice(&upgrade.accept);
    response.extend_from_slice(b"\r\n\r\n");
    response
}

/// Our own upgrade request to Discord.
///
/// `host_header` is [`super::url::GatewayUrl::host_header`]; `path_and_query` begins with `/`; `nonce` is 16 random
/// bytes, of this connection alone.
pub fn upgrade_request(host_header: &str, path_and_query: &str, nonce: [u8; 16]) -> Vec<u8> {
    debug_assert!(path_and_query.starts_with('/'));
    format!(
        "GET {path_and_query} HTTP/1.1\r\n\
         Host: {host_header}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {}\r\n\
         User-Agent: DiscordBot (shardgate, {})\r\n\r\n",
        BASE64.encode(nonce),
        env!("CARGO_PKG_VERSION"),
    )
    .into_bytes()
}

/// Reads Discord's answer to [`upgrade_request`] at the front of `bytes`, all that came on the connection so far.
///
/// Returns the length of its head; what follows are frames already. `None`: the head is not whole yet.
/// Errs unless it is the 101 that belongs to `nonce`, without an extension that was not asked for (RFC 6455 §4.1).
pub fn parse_upgrade_response(bytes: &[u8], nonce: [u8; 16]) -> Result<Option<usize>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Some(head_len) = head_len(head.parse(bytes), bytes.len(), RESPONSE_BYTES_MAX)? else { return Ok(None) };
    let headers = Headers(head.headers);

    match head.code {
        Some(101) => {}
        status => return Err(HttpError::Status(status.unwrap_or_default())),
    }
    if !(headers.has_token("upgrade", "websocket") && headers.has_token("connection", "upgrade")) {
        return Err(HttpError::Malformed("101 without an upgrade to websocket"));
    }
    if headers.one("sec-websocket-accept") != Some(&accept(BASE64.encode(nonce).as_bytes())) {
        return Err(HttpError::WrongAccept);
    }
    if headers.one("sec-websocket-extensions").is_some_and(|it| !it.is_empty()) {
        return Err(HttpError::Malformed("101 with an extension that was not asked for"));
    }
    Ok(Some(head_len))
}

impl Upgrade {
    fn new(accept: [u8; 28], path: &str) -> Self {
        let mut upgrade = Self { accept, version: None, encoding: Encoding::Json, compress: Compression::None };
        let query = path.split_once('?').map_or("", |(_, query)| query);
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "v" => upgrade.version = Some(value.parse().unwrap_or(0)),
                "encoding" => {
                    upgrade.encoding = match value {
                        "json" => Encoding::Json,
                        "etf" => Encoding::Etf,
                        _ => Encoding::Unknown,
                    }
                }
                "compress" => upgrade.compress = Compression::from_name(value).unwrap_or(Compression::None),
                _ => {}
            }
        }
        upgrade
    }
}

/// The length of the head, judged the same way however it was cut into reads.
fn head_len(parsed: httparse::Result<usize>, bytes_len: usize, limit: usize) -> Result<Option<usize>, HttpError> {
    match parsed {
        Ok(httparse::Status::Complete(head_len)) if head_len <= limit => Ok(Some(head_len)),
        Ok(httparse::Status::Partial) if bytes_len < limit => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(HttpError::HeadTooLarge { limit }),
        Err(httparse::Error::Version) => Err(HttpError::Malformed("not HTTP/1.1")),
        Err(_) => Err(HttpError::Malformed("not a well-formed HTTP head")),
    }
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |it| it.name.eq_ignore_ascii_case(name)).map(|it| it.value)
    }

    fn one(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next().map(<[u8]>::trim_ascii)
    }

    /// Whether `token` stands in the comma-separated header, in any case and any of its lines.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|it| it.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// 16 bytes in base64 are 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(is_base64)
}

fn accept(key: &[u8]) -> [u8; 28] {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    let mut accept = [0; 28];
    let len = BASE64.encode_slice(digest, &mut accept).expect("20 bytes are 28 characters of base64");
    debug_assert_eq!(len, accept.len());
    accept
}

#[cfg(test)]
mod tests {
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
        for path in ["?v=10", "/?v=10", "//?v=10", "/gateway/?v=10&encoding=json", "/?encoding=json&v=10", "/?&&v=10&x"]
        {
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
        };
        assert!(matches!(parsed, Ok(Some((Request::Plain(it), _))) if it == plain));
        // An upgrade to something else may be ignored (RFC 9110 §7.8).
        let h2c = request("GET /", &["Upgrade: h2c", "Connection: Upgrade"]);
        assert!(matches!(parse_request(&h2c), Ok(Some((Request::Plain(_), _)))));
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
        assert_eq!(answer("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5"), Err(HttpError::Status(503)));
        let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
        assert_eq!(answer(switching), Err(HttpError::WrongAccept));
        assert_eq!(answer(&format!("{switching}\r\nSec-WebSocket-Accept: {KEY}")), Err(HttpError::WrongAccept));
        let accept = format!("Sec-WebSocket-Accept: {}", str::from_utf8(ACCEPT).unwrap());
        assert!(answer(&format!("{switching}\r\n{accept}")).is_ok_and(|it| it.is_some()));
        let extended = format!("{switching}\r\n{accept}\r\nSec-WebSocket-Extensions: permessage-deflate");
        assert!(matches!(answer(&extended), Err(HttpError::Malformed(_))));
    }

    #[test]
    fn noise_is_400() {
        for noise in
            [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), b"GET / HTTP/2.0\r\n\r\n", b"\0\0\0\0"]
        {
            assert!(matches!(parse_request(noise), Err(HttpError::Malformed(_))), "{noise:?}");
        }
    }
}
