//! HTTP's CONNECT: one request, one answer, then the tunnel.
//!
//! Nothing of an answer is used but its status: a refusal's body is not read, the connection is given up.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Credentials, EgressError, authority, shown};
use crate::wire::http::{HEADERS_MAX, INTERIM_MAX, RESPONSE_BYTES_MAX, is_interim};

/// Waits for the answer.
pub struct Connect {
    /// The answer's head, as far as it has come: at most [`RESPONSE_BYTES_MAX`].
    head: Vec<u8>,
    /// Interim answers so far.
    interim: u8,
}

impl Connect {
    pub(super) fn open(credentials: Option<&Credentials>, host: &str, port: u16, out: &mut Vec<u8>) -> Self {
        let target = authority(host, port);
        let authorization = credentials.map_or(String::new(), |it| {
            format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(format!("{}:{}", it.user, it.password)))
        });
        out.extend_from_slice(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n").as_bytes());
        Self { head: Vec::new(), interim: 0 }
    }

    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Result<Option<usize>, EgressError> {
        let limit = RESPONSE_BYTES_MAX;
        let mut used = 0;
        loop {
            let before = self.head.len();
            let rest = &bytes[used..];
            self.head.extend_from_slice(&rest[..rest.len().min(limit - before)]);
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            let head_len = match head.parse(&self.head) {
                Ok(httparse::Status::Complete(head_len)) => head_len,
                Ok(httparse::Status::Partial) if self.head.len() < limit => return Ok(None),
                Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                    return Err(EgressError::HeadTooLarge { limit });
                }
                Err(_) => return Err(EgressError::NotHttp),
            };
            let status = head.code.unwrap_or_default();
            // It was not whole before these bytes came, so it ends in them.
            used += head_len - before;
            match status {
                200..=299 => return Ok(Some(used)),
                _ if is_interim(status) && self.interim < INTERIM_MAX => {
                    self.interim += 1;
                    self.head.clear();
                }
                _ => return Err(EgressError::Status { status, reason: shown(head.reason.unwrap_or_default()) }),
            }
        }
    }
}
