//! Checking the URLs and addresses of the configuration, and joining them.
//!
//! Only as much of a URL is read as the proxy needs; nothing is resolved here.

#![forbid(unsafe_code)]

use super::config::Notice;
use super::keys::{Found, Refusal};
use crate::wire::egress::EgressProxy;

/// The default of `api_url`.
pub const API_URL: &str = "https://discord.com/api/v10";

/// A URL cut into its parts; `rest` begins with `/`, `?` or `#`, or is empty.
struct Parts<'a> {
    scheme: &'a str,
    authority: &'a str,
    rest: &'a str,
}

fn split(url: &str) -> Option<Parts<'_>> {
    let (scheme, after) = url.split_once("://")?;
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let (authority, rest) = after.split_at(end);
    (is_authority(authority) && rest.bytes().all(|byte| byte.is_ascii_graphic())).then_some(Parts {
        scheme,
        authority,
        rest,
    })
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; no user, no white space.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rfind(':').filter(|at| !text[*at..].contains(']')) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(name),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// `twilight_http_proxy`
pub fn authority(found: &Found<'_>) -> Result<String, Refusal> {
    const WANTED: &str = "host:port of twilight's HTTP proxy";
    let text = found.text(WANTED)?;
    if is_authority(text) { Ok(text.to_owned()) } else { Err(found.refuse(WANTED)) }
}

/// `egress_proxy`. `found` is a secret: neither the URL nor a part of it is repeated.
pub fn egress_proxy(found: &Found<'_>) -> Result<EgressProxy, Refusal> {
    const WANTED: &str = "\"http://user:password@host:port\" or \"socks5://user:password@host:port\", user and password percent-encoded or left out";
    EgressProxy::parse(found.text(WANTED)?).map_err(|why| found.refuse(format_args!("{WANTED}; this one has {why}")))
}

/// `api_url`
pub fn http_url(found: &Found<'_>) -> Result<String, Refusal> {
    const WANTED: &str = "an http:// or https:// URL such as \"https://discord.com/api/v10\"";
    let url = found.text(WANTED)?.trim_end_matches('/');
    match split(url) {
        Some(parts) if matches!(parts.scheme, "http" | "https") && !parts.rest.contains(['?', '#']) => {
            Ok(url.to_owned())
        }
        _ => Err(found.refuse(WANTED)),
    }
}

/// `externally_accessible_url`. A path is kept, since a reverse proxy may need it, but it is warned about.
pub fn websocket_url(found: &Found<'_>, notices: &mut Vec<Notice>) -> Result<String, Refusal> {
    const WANTED: &str = "a URL without path such as \"ws://localhost:7878\" or \"wss://gateway.example.org\"";
    let url = found.text(WANTED)?.trim_end_matches('/');
    let parts = split(url).filter(|parts| matches!(parts.scheme, "ws" | "wss")).ok_or_else(|| found.refuse(WANTED))?;
    if parts.rest.contains(['?', '#']) {
        return Err(found.refuse(WANTED));
    }
    if !parts.rest.is_empty() {
        notices.push(Notice::Warning(format!(
            "`externally_accessible_url` has the path {}: several libraries put a query right behind the host and cannot resume there",
            parts.rest
        )));
    }
    Ok(url.to_owned())
}

/// The gateway's URL as `/gateway/bot` gives it, without query and without trailing slash. `None` if it is no WebSocket URL.
pub fn gateway_url(url: &str) -> Option<String> {
    let parts = split(url).filter(|parts| matches!(parts.scheme, "ws" | "wss"))?;
    let path = parts.rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    Some(format!("{}://{}{path}", parts.scheme, parts.authority))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::keys::Keys;

    fn with<T>(url: &str, read: impl Fn(&Found<'_>) -> T) -> T {
        let map = serde_json::json!({ "key": url });
        read(&Keys::new("", map.as_object().unwrap()).get("key").unwrap())
    }

    #[test]
    fn an_authority_is_a_host_with_or_without_port() {
        for good in ["proxy", "proxy:80", "10.0.0.1:8080", "[::1]:8080", "[::1]", "http-proxy.svc_1.local:80"] {
            assert_eq!(with(good, authority).as_deref(), Ok(good));
        }
        for bad in
            ["", ":80", "proxy:", "proxy:0", "proxy:99999", "http://proxy:80", "a b:80", "user@proxy:80", "::1", "[::1"]
        {
            assert!(with(bad, authority).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_rest_base_loses_its_trailing_slash() {
        assert_eq!(with("http://127.0.0.1:9000/api/v10/", http_url).as_deref(), Ok("http://127.0.0.1:9000/api/v10"));
        for bad in ["discord.com/api", "ftp://discord.com", "https://", "https://discord.com/api?v=10", "https://a b/"]
        {
            assert!(with(bad, http_url).is_err(), "{bad}");
        }
    }

    #[test]
    fn our_own_url_is_bare() {
        let read = |url| with(url, |found| websocket_url(found, &mut Vec::new()));
        assert_eq!(read("ws://localhost:7878/").as_deref(), Ok("ws://localhost:7878"));
        assert_eq!(read("wss://gateway.example.org").as_deref(), Ok("wss://gateway.example.org"));
        for bad in ["http://localhost:7878", "localhost:7878", "ws://host?v=10", "ws://"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_in_our_own_url_is_kept_with_a_warning() {
        let mut notices = Vec::new();
        let url = with("wss://example.org/gateway/", |found| websocket_url(found, &mut Vec::new()));
        assert_eq!(url.as_deref(), Ok("wss://example.org/gateway"));
        let map = serde_json::json!({"key": "wss://example.org/gateway/"});
        websocket_url(&Keys::new("", map.as_object().unwrap()).get("key").unwrap(), &mut notices).unwrap();
        assert!(matches!(&notices[..], [Notice::Warning(line)] if line.contains("/gateway")));
    }

    #[test]
    fn the_gateway_url_loses_slash_and_query() {
        for url in ["wss://gateway.discord.gg", "wss://gateway.discord.gg/", "wss://gateway.discord.gg/?v=10"] {
            assert_eq!(gateway_url(url).as_deref(), Some("wss://gateway.discord.gg"));
        }
        assert_eq!(gateway_url("ws://127.0.0.1:9000").as_deref(), Some("ws://127.0.0.1:9000"));
        assert_eq!(gateway_url("https://gateway.discord.gg"), None);
        assert_eq!(gateway_url(""), None);
    }
}
