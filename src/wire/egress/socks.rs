//! SOCKS version 5: who we are (RFC 1928 §3, RFC 1929), then the request to connect (RFC 1928 §4 to §6).
//!
//! The address that the proxy bound is read over: nobody needs it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Credentials, EgressError};

const VERSION: u8 = 5;
/// The version of RFC 1929's own exchange.
const AUTH_VERSION: u8 = 1;
const NO_AUTH: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the method that the proxy chooses.
    Method,
    /// Waits for the verdict on user and password.
    Credentials,
    /// Waits for the reply to the request.
    Reply,
}

/// Waits for the proxy's next reply.
pub struct Socks {
    phase: Phase,
    credentials: Option<Credentials>,
    /// The request to connect, ready to be sent.
    request: Vec<u8>,
    /// The reply, as far as it has come: 262 bytes at most, which is the longest that there is.
    reply: Vec<u8>,
}

impl Socks {
    pub(super) fn open(
        credentials: Option<Credentials>,
        host: &str,
        port: u16,
        out: &mut Vec<u8>,
    ) -> Result<Self, EgressError> {
        let mut request = vec![VERSION, CONNECT, 0];
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            request.push(IPV4);
            request.extend_from_slice(&address.octets());
        } else if let Ok(address) = host.parse::<Ipv6Addr>() {
            request.push(IPV6);
            request.extend_from_slice(&address.octets());
        } else {
            let len = u8::try_from(host.len()).map_err(|_| EgressError::HostTooLong)?;
            request.extend_from_slice(&[NAME, len]);
            request.extend_from_slice(host.as_bytes());
        }
        request.extend_from_slice(&port.to_be_bytes());
        match credentials {
            Some(_) => out.extend_from_slice(&[VERSION, 2, NO_AUTH, USER_AND_PASSWORD]),
            None => out.extend_from_slice(&[VERSION, 1, NO_AUTH]),
        }
        Ok(Self { phase: Phase::Method, credentials, request, reply: Vec::new() })
    }

    pub(super) fn on_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, EgressError> {
        let mut used = 0;
        loop {
            let wanted = self.wanted()?;
            let taken = (wanted - self.reply.len()).min(bytes.len() - used);
            self.reply.extend_from_slice(&bytes[used..used + taken]);
            used += taken;
            if self.reply.len() < wanted {
                return Ok(None);
            }
            // As long as `wanted` grows with what has come, there is more of this reply.
            if self.wanted()? == wanted {
                if self.phase == Phase::Reply {
                    return Ok(Some(used));
                }
                self.go_on(out)?;
            }
        }
    }

    /// How long the reply is, as far as that can be told; errs as soon as it is none that can be gone on with.
    fn wanted(&self) -> Result<usize, EgressError> {
        let version = if self.phase == Phase::Credentials { AUTH_VERSION } else { VERSION };
        if let Some(&byte) = self.reply.first().filter(|byte| **byte != version) {
            return Err(EgressError::NotSocks5 { byte });
        }
        if self.phase != Phase::Reply {
            return Ok(2);
        }
        match *self.reply.as_slice() {
            [] | [_] => Ok(2),
            [_, reply, ..] if reply != 0 => Err(EgressError::Refused { reply }),
            [_, _, _, IPV4, _, ..] => Ok(4 + 4 + 2),
            [_, _, _, IPV6, _, ..] => Ok(4 + 16 + 2),
            [_, _, _, NAME, len, ..] => Ok(4 + 1 + usize::from(len) + 2),
            [_, _, _, kind, ..] if !matches!(kind, IPV4 | IPV6 | NAME) => Err(EgressError::UnknownAddress { kind }),
            _ => Ok(5),
        }
    }

    /// The reply is whole and good so far: says what comes next.
    fn go_on(&mut self, out: &mut Vec<u8>) -> Result<(), EgressError> {
        let answer = self.reply[1];
        self.reply.clear();
        match (self.phase, answer, &self.credentials) {
            (Phase::Method, NO_AUTH, _) | (Phase::Credentials, 0, _) => {
                self.phase = Phase::Reply;
                out.append(&mut self.request);
            }
            (Phase::Method, USER_AND_PASSWORD, Some(Credentials { user, password })) => {
                self.phase = Phase::Credentials;
                out.push(AUTH_VERSION);
                for word in [user, password] {
                    // `EgressProxy::parse` lets none through that is longer.
                    out.push(word.len() as u8);
                    out.extend_from_slice(word.as_bytes());
                }
            }
            (Phase::Method, NO_METHOD, credentials) => {
                return Err(EgressError::NoMethod { has_credentials: credentials.is_some() });
            }
            (Phase::Method, method, _) => return Err(EgressError::UnknownMethod { method }),
            (Phase::Credentials | Phase::Reply, ..) => return Err(EgressError::CredentialsRefused),
        }
        Ok(())
    }
}
