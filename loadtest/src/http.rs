//! HTTP/1.1 as far as a REST stand-in and its callers need it: one request per connection, `Content-Length` bodies.
//!
//! No chunked bodies, no keep-alive: every answer closes.

use std::io;

use crate::link::Link;
use crate::url::Url;

/// Longest request or answer that is read, room for an event of 64 MiB; a longer one is an error and ends the connection.
const MESSAGE_BYTES_MAX: usize = 65 << 20;

/// A request or an answer, whole.
#[derive(Debug, Default)]
pub struct Message {
    /// The three words of the first line.
    pub start: [String; 3],
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The value of header `name`, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    /// Path and query of a request.
    pub fn target(&self) -> (&str, &str) {
        self.start[1].split_once('?').unwrap_or((&self.start[1], ""))
    }

    /// The status of an answer; 0 when the line is not one.
    pub fn status(&self) -> u16 {
        self.start[1].parse().unwrap_or(0)
    }
}

/// The value of `key` in a query such as `a=1&b=2`. Percent-encoding is left alone.
pub fn query_value<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').filter_map(|it| it.split_once('=')).find(|it| it.0 == key).map(|it| it.1)
}

/// Reads one message from `link` and leaves in `bytes` what came after it.
///
/// Errs when the peer closes early, sends no HTTP, or more than `MESSAGE_BYTES_MAX`.
pub async fn receive(link: &Link, bytes: &mut Vec<u8>) -> io::Result<Message> {
    loop {
        if let Some((message, len)) = parse(bytes)? {
            bytes.drain(..len);
            return Ok(message);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(invalid("an HTTP message is too long"));
        }
        if link.read(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Message, usize)>> {
    let Some(head_len) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..head_len]).map_err(|_| invalid("a header is not UTF-8"))?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or("").splitn(3, ' ').map(str::to_owned);
    let start = [(); 3].map(|()| words.next().unwrap_or_default());
    if start[1].is_empty() {
        return Err(invalid("no HTTP start line"));
    }
    let headers: Vec<_> = lines
        .filter_map(|it| it.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut message = Message { start, headers, body: Vec::new() };
    let body_len = message.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let body_at = head_len + 4;
    if bytes.len() - body_at < body_len {
        return Ok(None);
    }
    message.body = bytes[body_at..body_at + body_len].to_vec();
    Ok(Some((message, body_at + body_len)))
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// An answer with a JSON body. `extra` are whole header lines, each ending in `\r\n`.
pub fn json_answer(status: u16, extra: &str, body: &str) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One request on its own connection. Answers status and body.
pub async fn call(method: &str, url: &str, body: &str, tls: crate::tls::Roots) -> io::Result<(u16, String)> {
    let url = Url::parse(url).ok_or_else(|| invalid("no http or https URL"))?;
    let link = crate::tls::connect(&url, tls).await?;
    let request = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        url.target,
        url.authority(),
        body.len()
    );
    link.send(request.as_bytes());
    let answer = receive(&link, &mut Vec::new()).await?;
    Ok((answer.status(), String::from_utf8_lossy(&answer.body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_once_it_is_whole() {
        let wire = b"POST /fake/drop?shard=3&ms=5 HTTP/1.1\r\nContent-Length: 2\r\nX-Y:  z \r\n\r\nabGET";
        for len in 0..wire.len() - 3 {
            assert!(parse(&wire[..len]).unwrap().is_none(), "{len} bytes");
        }
        let (message, len) = parse(wire).unwrap().unwrap();
        assert_eq!(
            (message.target(), &message.body[..], len),
            (("/fake/drop", "shard=3&ms=5"), &b"ab"[..], wire.len() - 3)
        );
        assert_eq!(message.header("x-y"), Some("z"));
        assert_eq!(query_value(message.target().1, "ms"), Some("5"));
    }

    #[test]
    fn an_answer_has_a_status() {
        let (message, _) = parse(&json_answer(429, "Retry-After: 1\r\n", "{}")).unwrap().unwrap();
        assert_eq!((message.status(), message.header("retry-after")), (429, Some("1")));
    }
}
