//! Reaching Discord through a proxy of the operator's: its URL, and the handshake that ends in a tunnel, HTTP's CONNECT or SOCKS5.
//!
//! Bytes in, bytes out: no socket, no clock, no name is resolved. The host behind the proxy is named to it as it stands in the URL, so the
//! proxy resolves it. What goes through the tunnel afterwards (TLS, the upgrade) is not looked at here.

#![forbid(unsafe_code)]

mod connect;
mod socks;
#[cfg(test)]
mod tests;

use std::fmt;

use self::connect::Connect;
use self::socks::Socks;
use super::url::split_authority;

/// RFC 1929 §2 has one byte for the length of each; longer ones are refused for HTTP as well.
const CREDENTIAL_BYTES_MAX: usize = 255;
/// Characters of a proxy's own words that an error repeats.
const REASON_CHARS_MAX: usize = 60;

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressKind {
    /// HTTP/1.1 CONNECT (RFC 9110 §9.3.6).
    Http,
    /// SOCKS version 5 (RFC 1928) with user and password (RFC 1929).
    Socks5,
}

/// Where the proxy is and as whom to speak to it. User and password are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct EgressProxy {
    pub kind: EgressKind,
    /// A name in lower case, or an address without brackets.
    pub host: String,
    pub port: u16,
    pub credentials: Option<Credentials>,
}

/// Percent-decoded. They cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As in the configuration, but without user and password.
impl fmt::Display for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            EgressKind::Http => "http",
            EgressKind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// `host:port`, with brackets around an IPv6 address.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl EgressProxy {
    /// Reads `http://user:password@host:port` or `socks5://host:port`; `socks5h` means the same. User and password are percent-encoded.
    ///
    /// The error says what is wrong and repeats nothing of the URL.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => EgressKind::Http,
            "socks5" | "socks5h" => EgressKind::Socks5,
            _ => return Err("a scheme that is neither http nor socks5"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err("something behind the port, or a /, ? or # that is not percent-encoded");
        }
        let (userinfo, authority) = match rest.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, rest),
        };
        let credentials = userinfo.map(|it| Credentials::parse(it, kind)).transpose()?;
        let (host, port) = split_authority(authority)?;
        let port = port.filter(|it| it.bytes().all(|it| it.is_ascii_digit())).and_then(|it| it.parse().ok());
        let port = port.filter(|it| *it != 0).ok_or("no port from 1 to 65535")?;
        Ok(Self { kind, host: host.to_ascii_lowercase(), port, credentials })
    }
}

impl Credentials {
    fn parse(userinfo: &str, kind: EgressKind) -> Result<Self, &'static str> {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let (user, password) = (percent_decode(user)?, percent_decode(password)?);
        if user.len() > CREDENTIAL_BYTES_MAX || password.len() > CREDENTIAL_BYTES_MAX {
            return Err("a user or a password of more than 255 bytes");
        }
        match kind {
            // RFC 7617 §2: what follows the first colon is the password.
            EgressKind::Http if user.contains(':') => Err("a user with a colon, which HTTP cannot say"),
            EgressKind::Socks5 if user.is_empty() || password.is_empty() => {
                Err("a user or a password that is empty, which SOCKS5 cannot say")
            }
            _ => Ok(Self { user, password }),
        }
    }
}

fn percent_decode(text: &str) -> Result<String, &'static str> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|it| char::from(it).to_digit(16)).map(|it| it as u8);
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err("a % without two hexadecimal digits") };
        decoded.push(high << 4 | low);
    }
    let decoded = String::from_utf8(decoded).map_err(|_| "a user or a password that is not UTF-8")?;
    if decoded.chars().any(char::is_control) { Err("a control character in user or password") } else { Ok(decoded) }
}

/// Why there is no tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressError {
    /// The proxy answered CONNECT with this status.
    Status { status: u16, reason: String },
    /// What came is no HTTP answer.
    NotHttp,
    /// More than `limit` bytes or too many headers.
    HeadTooLarge { limit: usize },
    /// A reply began with this byte: not the version that it must be.
    NotSocks5 { byte: u8 },
    /// The proxy accepts none of the ways to say who we are that were offered.
    NoMethod { has_credentials: bool },
    /// The proxy chose a way that was not offered.
    UnknownMethod { method: u8 },
    /// User or password are wrong.
    CredentialsRefused,
    /// SOCKS5's reply code.
    Refused { reply: u8 },
    /// SOCKS5's reply has an address of an unknown kind.
    UnknownAddress { kind: u8 },
    /// SOCKS5 has one byte for the length of a name.
    HostTooLong,
}

impl fmt::Display for EgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, reason } => {
                write!(f, "the proxy answered CONNECT with {status}")?;
                if !reason.is_empty() {
                    write!(f, " {reason}")?;
                }
                match status {
                    // tinyproxy says 401.
                    401 | 407 => f.write_str(": it wants a user and a password, or others than `egress_proxy` has"),
                    403 | 405 => f.write_str(": it does not allow this host or port"),
                    502..=504 => f.write_str(": it cannot reach the host"),
                    _ => Ok(()),
                }
            }
            Self::NotHttp => f.write_str("what answers is no HTTP proxy"),
            Self::HeadTooLarge { limit } => write!(f, "the proxy's answer is longer than {limit} bytes"),
            Self::NotSocks5 { byte } => write!(f, "what answers is no SOCKS5 proxy: a reply begins with {byte:#04x}"),
            Self::NoMethod { has_credentials: true } => {
                f.write_str("the SOCKS5 proxy accepts neither a user with password nor nobody (method 0xff)")
            }
            Self::NoMethod { has_credentials: false } => {
                f.write_str("the SOCKS5 proxy wants a user and a password (method 0xff)")
            }
            Self::UnknownMethod { method } => {
                write!(f, "the SOCKS5 proxy chose method {method:#04x}, which was not offered")
            }
            Self::CredentialsRefused => f.write_str("the SOCKS5 proxy refuses user and password"),
            Self::Refused { reply } => write!(f, "the SOCKS5 proxy replied {reply}: {}", reply_meaning(*reply)),
            Self::UnknownAddress { kind } => write!(f, "the SOCKS5 proxy replied with an address of kind {kind:#04x}"),
            Self::HostTooLong => f.write_str("a host name of more than 255 bytes cannot be said in SOCKS5"),
        }
    }
}

impl std::error::Error for EgressError {}

/// RFC 1928 §6.
fn reply_meaning(reply: u8) -> &'static str {
    match reply {
        1 => "general SOCKS server failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "a code that RFC 1928 does not have",
    }
}

/// The handshake with a proxy, until the tunnel is open.
pub enum Tunnel {
    Connect(Connect),
    Socks(Socks),
}

impl Tunnel {
    /// Asks for a tunnel to `host`, a name or an address without brackets. The first words are appended to `out`.
    pub fn open(proxy: &EgressProxy, host: &str, port: u16, out: &mut Vec<u8>) -> Result<Self, EgressError> {
        match proxy.kind {
            EgressKind::Http => Ok(Self::Connect(Connect::open(proxy.credentials.as_ref(), host, port, out))),
            EgressKind::Socks5 => Socks::open(proxy.credentials.clone(), host, port, out).map(Self::Socks),
        }
    }

    /// Bytes from the proxy; what must be answered is appended to `out`.
    ///
    /// `Some(n)`: the tunnel is open, and what follows the first `n` of `bytes` came through it. `None`: more is needed. After an error, or
    /// when it is open, it must not be called again.
    pub fn on_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, EgressError> {
        match self {
            Self::Connect(connect) => connect.on_bytes(bytes),
            Self::Socks(socks) => socks.on_bytes(bytes, out),
        }
    }
}

/// Words of the proxy's, fit for one line of a log.
fn shown(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).flat_map(char::escape_debug).collect()
}
