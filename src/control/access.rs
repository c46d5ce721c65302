//! Who may see which page: decided here and nowhere else, from the listener, the asker's address and the key.
//!
//! The metrics, the totals and the cached state are the operator's, everything else is everybody's. What a refusal looks like is `pages`'s.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;

use subtle::ConstantTimeEq;

use crate::runtime::mesh::Door;
use crate::wire::http::Bearer;

/// What the paths of the cached state begin with.
pub const CACHE: &str = "/cache/";
/// The totals.
pub const STATS: &str = "/stats";

/// `admin_key`: whoever shows it is the operator. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey(String);

impl AdminKey {
    /// Shorter ones are guessed too easily.
    pub const CHARS_MIN: usize = 16;

    /// `None` for what is too short, or cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_fit = text.len() >= Self::CHARS_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_fit.then(|| Self(text.to_owned()))
    }

    /// For the header of a question to another process, and for nothing that is shown.
    pub fn secret(&self) -> &str {
        &self.0
    }

    fn admits(&self, shown: Option<&Bearer>) -> bool {
        // In constant time for any two of one length; that length is no secret.
        shown.is_some_and(|it| it.secret().ct_eq(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What the operator has arranged.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The operator has a listener of their own: what concerns nobody else leaves the gateway's port.
    pub has_admin_bind: bool,
    pub admin_key: Option<AdminKey>,
}

/// Why a page is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is on the operator's listener alone, and nothing is said about it here.
    NotFound,
    /// The same, said aloud.
    OnAdminBindAlone,
    /// To addresses of this machine alone.
    ToLoopbackAlone,
    /// The key is missing or wrong.
    KeyWanted,
}

/// Without `admin_bind` and `admin_key` the operator is whoever asks from this machine, and the metrics are everybody's. With a key it opens
/// what would be shut for the address's sake, and is wanted wherever others could ask: on the gateway's port from everybody (behind a
/// reverse proxy all come from loopback), on `admin_bind` from other machines.
pub fn refuse(
    access: &Access,
    path: &str,
    door: Door,
    peer: Option<IpAddr>,
    shown: Option<&Bearer>,
) -> Option<Refused> {
    let is_state = path.starts_with(CACHE) || path == STATS;
    if path != "/metrics" && !is_state {
        return None;
    }
    let is_local = peer.is_some_and(|it| it.to_canonical().is_loopback());
    let is_admitted = |key: &AdminKey| key.admits(shown);
    match (door, &access.admin_key) {
        (Door::Gateway, _) if access.has_admin_bind && is_state => Some(Refused::OnAdminBindAlone),
        (Door::Gateway, _) if access.has_admin_bind => Some(Refused::NotFound),
        (Door::Gateway, Some(key)) => (!is_admitted(key)).then_some(Refused::KeyWanted),
        (Door::Gateway, None) => (is_state && !is_local).then_some(Refused::ToLoopbackAlone),
        (Door::Admin, Some(key)) => (!is_local && !is_admitted(key)).then_some(Refused::KeyWanted),
        (Door::Admin, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: [&str; 4] = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"];
    const REMOTE: [&str; 3] = ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"];
    const KEY: &str = "a-key-of-the-operator";

    fn ask(access: &Access, path: &str, door: Door, peer: &str, key: Option<&str>) -> Option<Refused> {
        let bearer = key.map(|it| Bearer::new(it.as_bytes()));
        refuse(access, path, door, Some(peer.parse().unwrap()), bearer.as_ref())
    }

    fn access(has_admin_bind: bool, key: Option<&str>) -> Access {
        Access { has_admin_bind, admin_key: key.map(|it| AdminKey::new(it).unwrap()) }
    }

    #[test]
    fn everybodys_pages_are_everybodys() {
        let paths = ["/gateway", "/api/v10/gateway/bot", "/shard-count", "/health", "/livez", "/readyz"];
        for (path, peer) in paths.iter().zip(LOCAL.into_iter().chain(REMOTE).cycle()) {
            for access in [access(true, Some(KEY)), access(false, None)] {
                assert_eq!(ask(&access, path, Door::Gateway, peer, None), None, "{path} {peer}");
            }
        }
    }

    #[test]
    fn the_operators_pages_leave_the_gateways_port_for_admin_bind() {
        for peer in LOCAL.into_iter().chain(REMOTE) {
            for key in [None, Some(KEY)] {
                let access = access(true, key);
                assert_eq!(ask(&access, "/metrics", Door::Gateway, peer, key), Some(Refused::NotFound));
                let refused = Some(Refused::OnAdminBindAlone);
                assert_eq!(ask(&access, "/cache/guild/1", Door::Gateway, peer, key), refused);
                assert_eq!(ask(&access, "/stats", Door::Gateway, peer, key), refused);
            }
            let open = access(true, None);
            assert_eq!(ask(&open, "/cache/guild/1", Door::Admin, peer, None), None);
            assert_eq!(ask(&open, "/metrics", Door::Admin, peer, None), None);
        }
    }

    #[test]
    fn without_both_the_state_is_shown_to_this_machine_and_the_metrics_to_everybody() {
        let open = access(false, None);
        for peer in LOCAL {
            assert_eq!(ask(&open, "/cache/user/1", Door::Gateway, peer, None), None);
        }
        for peer in REMOTE {
            assert_eq!(ask(&open, "/cache/user/1", Door::Gateway, peer, None), Some(Refused::ToLoopbackAlone));
            assert_eq!(ask(&open, "/stats", Door::Gateway, peer, None), Some(Refused::ToLoopbackAlone));
            assert_eq!(ask(&open, "/metrics", Door::Gateway, peer, None), None);
        }
        assert_eq!(refuse(&open, "/cache/user/1", Door::Gateway, None, None), Some(Refused::ToLoopbackAlone));
    }

    #[test]
    fn a_key_opens_the_gateways_port_to_whoever_shows_it_and_shuts_it_to_everybody_else() {
        let keyed = access(false, Some(KEY));
        for peer in LOCAL.into_iter().chain(REMOTE) {
            for path in ["/metrics", "/stats", "/cache/guild/1"] {
                assert_eq!(ask(&keyed, path, Door::Gateway, peer, Some(KEY)), None);
                let wrong = ["", "a-key-of-the-operatoR", "a-key-of-the-operator ", "a-key-of-the-operato"];
                for key in wrong.map(Some).into_iter().chain([None]) {
                    assert_eq!(ask(&keyed, path, Door::Gateway, peer, key), Some(Refused::KeyWanted), "{key:?}");
                }
            }
        }
    }

    #[test]
    fn admin_bind_wants_the_key_from_other_machines_alone() {
        let keyed = access(true, Some(KEY));
        for (peers, wanted) in [(&LOCAL[..], None), (&REMOTE[..], Some(Refused::KeyWanted))] {
            for peer in peers {
                assert_eq!(ask(&keyed, "/metrics", Door::Admin, peer, None), wanted);
                assert_eq!(ask(&keyed, "/cache/guild/1", Door::Admin, peer, Some(KEY)), None);
            }
        }
    }

    #[test]
    fn a_key_is_long_enough_fits_into_a_header_and_is_not_shown() {
        assert!(AdminKey::new("fifteen-letters").is_none());
        assert!(AdminKey::new("sixteen letters!").is_none());
        let key = AdminKey::new(" a-key-of-the-operator\n").unwrap();
        assert!(key.admits(Some(&Bearer::new(KEY.as_bytes()))));
        assert_eq!(format!("{key:?} {:?}", Bearer::new(KEY.as_bytes())), "(hidden) (hidden)");
    }
}
