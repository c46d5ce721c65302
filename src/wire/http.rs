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
/// Interim answers that are read over; one more is an error.
pub(super) const INTERIM_MAX: u8 = 8;
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
    /// `Authorization: Bearer …`
    pub bearer: Option<Bearer>,
}

/// What somebody showed to be let in (RFC 6750 §2.1). It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(Vec<u8>);

impl Bearer {
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.to_vec())
    }

    /// For a comparison, and for nothing that is shown.
    pub fn secret(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
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
    /// Nothing is wrong with it, but nobody new is served now.
    Unavailable { retry_after_s: u32 },
    /// The answer to our own upgrade was this status; `retry_after_s` where its `Retry-After` gives seconds.
    Status { status: u16, retry_after_s: Option<u32> },
    /// The answer to our own upgrade was no answer to our key.
    WrongAccept,
}

impl HttpError {
    /// The whole answer, after which the connection is closed.
    pub fn response(&self) -> Vec<u8> {
        let retry_after;
        let (status, header) = match self {
            Self::Unavailable { retry_after_s } => {
                retry_after = format!("Retry-After: {retry_after_s}\r\n");
                ("503 Service Unavailable", retry_after.as_str())
            }
            Self::Malformed(_) => ("400 Bad Request", ""),
            Self::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::UpgradeRequired => {
                ("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n")
            }
            Self::HeadTooLarge { .. } => ("431 Request Header Fields Too Large", ""),
            // They speak of Discord's answer, and no client hears of it.
            Self::Status { .. } | Self::WrongAccept => ("502 Bad Gateway", ""),
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
            Self::Unavailable { .. } => f.write_str("no new connections now; try again"),
            Self::Status { status, retry_after_s: None } => write!(f, "upgrade answered with HTTP status {status}"),
            Self::Status { status, retry_after_s: Some(seconds) } => {
                write!(f, "upgrade answered with HTTP status {status}, Retry-After {seconds} s")
            }
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
            bearer: headers.one("authorization").and_then(bearer),
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
/// Returns the length of its head, with interim answers before it; what follows are frames already. `None`: the head is not whole yet.
/// Errs unless it is the 101 that belongs to `nonce`, without an extension that was not asked for (RFC 6455 §4.1).
pub fn parse_upgrade_response(bytes: &[u8], nonce: [u8; 16]) -> Result<Option<usize>, HttpError> {
    let mut used = 0;
    for _ in 0..=INTERIM_MAX {
        match parse_response(&bytes[used..], nonce)? {
            None => return Ok(None),
            Some((head_len, true)) => used += head_len,
            Some((head_len, false)) => return Ok(Some(used + head_len)),
        }
    }
    Err(HttpError::Malformed("one interim answer after another"))
}

/// Whether a status is interim: the answer follows (RFC 9110 §15.2). 101 is none, it is another protocol.
pub(super) fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}

/// The length of one answer's head, and whether it is interim.
fn parse_response(bytes: &[u8], nonce: [u8; 16]) -> Result<Option<(usize, bool)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Some(head_len) = head_len(head.parse(bytes), bytes.len(), RESPONSE_BYTES_MAX)? else { return Ok(None) };
    let headers = Headers(head.headers);

    match head.code {
        Some(101) => {}
        Some(status) if is_interim(status) => return Ok(Some((head_len, true))),
        status => {
            let status = status.unwrap_or_default();
            let retry_after_s = headers.one("retry-after").and_then(|it| str::from_utf8(it).ok()?.parse().ok());
            return Err(HttpError::Status { status, retry_after_s });
        }
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
    Ok(Some((head_len, false)))
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

/// The scheme in any case (RFC 9110 §11.1).
fn bearer(authorization: &[u8]) -> Option<Bearer> {
    let (scheme, secret) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| Bearer::new(secret.trim_ascii()))
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
mod tests;
