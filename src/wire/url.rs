//! `ws://` and `wss://` URLs, as Discord's `/gateway/bot` and READY give them.
//!
//! Only where to connect is kept. Path and query are ours to write, so the URL's own are ignored; user names are refused.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv6Addr;

/// Where a gateway listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayUrl {
    /// `wss://`
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
}

/// A URL that names no gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError {
    pub url: String,
    pub why: &'static str,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.url, self.why)
    }
}

impl std::error::Error for UrlError {}

impl GatewayUrl {
    /// Reads `ws://host`, `wss://host:port/path?query`, `ws://[::1]:7878`. Scheme and host in any case.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let err = |why| UrlError { url: url.to_owned(), why };
        let (scheme, rest) = url.split_once("://").ok_or(err("no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return Err(err("scheme is neither ws nor wss")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = split_authority(authority).map_err(err)?;
        let port = match port {
            None | Some("") if tls => 443,
            None | Some("") => 80,
            // `parse` alone would take a sign.
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|&port| port != 0).ok_or(err("port out of range"))?
            }
            Some(_) => return Err(err("port is no number")),
        };
        Ok(Self { tls, host: host.to_ascii_lowercase(), port })
    }

    /// The value of the `Host` header: the port only where it is not the scheme's own.
    pub fn host_header(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        if self.port == default {
            format!("{open}{}{close}", self.host)
        } else {
            format!("{open}{}{close}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.host_header())
    }
}

pub(super) fn split_authority(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("IPv6 address without closing bracket")?;
        host.parse::<Ipv6Addr>().map_err(|_| "no IPv6 address between the brackets")?;
        return match rest {
            "" => Ok((host, None)),
            _ => rest.strip_prefix(':').map(|port| (host, Some(port))).ok_or("no port behind the IPv6 address"),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() {
        Err("no host")
    } else if !host.bytes().all(in_name) {
        Err("host with a character that no host name holds")
    } else {
        Ok((host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (bool, String, u16) {
        let GatewayUrl { tls, host, port } = GatewayUrl::parse(url).unwrap();
        (tls, host, port)
    }

    #[test]
    fn the_urls_that_discord_gives_are_read_with_or_without_slash() {
        let wanted = (true, "gateway.discord.gg".to_owned(), 443);
        assert_eq!(parts("wss://gateway.discord.gg"), wanted);
        assert_eq!(parts("wss://gateway.discord.gg/"), wanted);
        assert_eq!(parts("WSS://Gateway.discord.gg?v=10&encoding=json"), wanted);
    }

    #[test]
    fn ports_and_address_literals_are_read() {
        assert_eq!(parts("ws://localhost:7878/a/b?v=10#c"), (false, "localhost".into(), 7878));
        assert_eq!(parts("ws://127.0.0.1"), (false, "127.0.0.1".into(), 80));
        assert_eq!(parts("ws://[::1]:9000/"), (false, "::1".into(), 9000));
        assert_eq!(parts("wss://[2001:db8::1]"), (true, "2001:db8::1".into(), 443));
    }

    #[test]
    fn the_host_header_names_the_port_only_where_it_is_unusual() {
        let header = |url| GatewayUrl::parse(url).unwrap().host_header();
        assert_eq!(header("wss://gateway.discord.gg"), "gateway.discord.gg");
        assert_eq!(header("ws://gateway.discord.gg:443"), "gateway.discord.gg:443");
        assert_eq!(header("ws://[::1]:7878"), "[::1]:7878");
        assert_eq!(header("ws://[::1]"), "[::1]");
    }

    #[test]
    fn a_url_that_names_no_gateway_is_refused() {
        for url in [
            "",
            "gateway.discord.gg",
            "https://discord.com",
            "ws://",
            "ws:///x",
            "ws://:80",
            "ws://a:70000",
            "ws://a:0",
            "ws://a:+80",
            "ws://a:b",
            "ws://user@host",
            "ws://a b",
            "ws://[::1",
            "ws://[x]",
            "ws://[::1]80",
            "ws://a\r\nX: y",
        ] {
            assert!(GatewayUrl::parse(url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn what_is_displayed_is_read_back() {
        for url in ["wss://gateway.discord.gg", "ws://localhost:7878", "ws://[::1]:9000"] {
            assert_eq!(GatewayUrl::parse(url).unwrap().to_string(), url);
        }
    }
}
