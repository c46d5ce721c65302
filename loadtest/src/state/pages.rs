//! The proxy's pages as this program reads them: metrics by line, objects of the cached state of any size.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::http;
use crate::url::Url;

/// Longest silence of the proxy within a page.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The lines of `/metrics`.
pub struct Metrics(String);

/// The metrics of the proxy whose gateway is at `url`.
pub async fn metrics(url: &str) -> io::Result<Metrics> {
    let page = format!("{}/metrics", url.replacen("ws", "http", 1));
    match http::call("GET", &page, "", None).await? {
        (200, body) => Ok(Metrics(body)),
        (status, body) => Err(io::Error::other(format!("/metrics: {status} {body}"))),
    }
}

impl Metrics {
    /// The sum of all lines that begin with `name`, which ends in `{` or in a label's comma, or is the whole name of a family.
    pub fn sum(&self, name: &str) -> f64 {
        let values = self
            .0
            .lines()
            .filter_map(|it| it.strip_prefix(name))
            .filter(|rest| name.ends_with(['{', ',', '"', '}']) || rest.starts_with(['{', ' ']));
        values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).filter(|it| it.is_finite()).sum()
    }
}

/// Status and body of a page, however long it is. Blocks.
pub fn fetch(url: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let url = Url::parse(url).ok_or_else(|| io::Error::other("no URL of a proxy"))?;
    let mut socket = TcpStream::connect(url.authority())?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.authority())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let head_len = answer.windows(4).position(|it| it == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..head_len]).into_owned();
    let number = |it: Option<&str>| it.and_then(|it| it.trim().parse::<usize>().ok());
    let status = number(head.split(' ').nth(1)).unwrap_or(0) as u16;
    let len = number(head.lines().find_map(|it| it.strip_prefix("Content-Length:")));
    let body = answer.split_off(head_len + 4);
    if len != Some(body.len()) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_summed_by_name_and_label() {
        let text = "# TYPE a gauge\na{shard=\"0\",k=\"x\"} 2\na{shard=\"0\",k=\"y\"} 3\na{shard=\"10\",k=\"y\"} 4\nab 7\nb NaN\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a"), 9.0);
        assert_eq!(metrics.sum("a{shard=\"0\","), 5.0);
        assert_eq!(metrics.sum("ab"), 7.0);
        assert_eq!(metrics.sum("b"), 0.0);
    }
}
