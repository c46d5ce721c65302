//! The few URLs a gateway has: `ws`, `wss`, `http`, `https` with host, port and target.

/// A URL taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub target: String,
}

impl Url {
    /// `None` when `text` has another scheme or no host.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_tls = match scheme {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return None,
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, if is_tls { 443 } else { 80 }),
        };
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        (!host.is_empty()).then(|| Self { is_tls, host: host.to_owned(), port, target })
    }

    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_port_and_target_are_found() {
        let url = Url::parse("wss://localhost:99?v=10").unwrap();
        assert_eq!((url.is_tls, url.authority(), url.target), (true, "localhost:99".to_owned(), "/?v=10".to_owned()));
        let url = Url::parse("http://a/b/c").unwrap();
        assert_eq!((url.is_tls, url.port, url.target), (false, 80, "/b/c".to_owned()));
        assert_eq!(Url::parse("ftp://a"), None);
        assert_eq!(Url::parse("ws://"), None);
    }
}
