//! `GET /gateway/bot`: where the gateway is, how many shards Discord recommends, how many IDENTIFYs are left.
//!
//! One blocking request at a time on a thread of its own, repeated until it is answered or refused for good. What an answer means
//! is decided in `judge`, without I/O. Not here: anything else of Discord's REST API.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use tracing::{info, warn};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::config::{Config, Token};
use super::keys::Refusal;
use super::{address, first_contact};
use crate::runtime::clock;
use crate::wire::egress::{Credentials, EgressKind, EgressProxy};

/// Discord wants `DiscordBot (<url>, <version>)` and takes any name for the URL.
///
/// Source: Discord, Reference › User agent.
const USER_AGENT: &str = concat!("DiscordBot (shardgate, ", env!("CARGO_PKG_VERSION"), ")");
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Everything from the name's resolution to the last byte.
const REQUEST_MAX: Duration = Duration::from_secs(15);
/// The start is refused with it.
const TOKEN_REFUSED: &str = "Discord refuses the token (401): it is mistyped, of another bot, or was reset; take a new one from the developer portal \
    (Bot › Reset Token) and put it into `token`, `token_file` or TOKEN";
/// The answer is some 200 bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// With 10,000 answers of 401, 403 and 429 in 10 minutes Discord bans the address; this stays far below.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// For a 429 that does not say how long.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(5);
/// A longer Retry-After is asked again after this, so that a mistaken header does not stop the proxy for a year.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Discord's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayBot {
    /// Without query and trailing slash.
    pub url: String,
    /// Recommended number of shards.
    pub shards: u32,
    pub session_start_limit: SessionStartLimit,
}

/// The IDENTIFYs of the bot, over all its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SessionStartLimit {
    pub total: u32,
    pub remaining: u32,
    #[serde(rename = "reset_after", deserialize_with = "milliseconds")]
    pub reset_after: Duration,
    /// IDENTIFYs per 5 s.
    pub max_concurrency: u32,
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Answered(GatewayBot),
    /// Asking again cannot help; the reason is a line for the operator.
    Fatal(String),
    /// Ask again after a back-off.
    Retry(String),
    /// Ask again no earlier than told.
    RetryAfter {
        why: String,
        wait: Duration,
    },
}

/// Judges an HTTP answer. `retry_after` is the header's text, `body` the whole body.
///
/// Source: Discord, Gateway › Get gateway bot; Rate limits.
pub fn judge(status: u16, retry_after: Option<&str>, body: &str) -> Verdict {
    match status {
        200 => match read_answer(body) {
            Ok(answer) => Verdict::Answered(answer),
            Err(why) => Verdict::Retry(format!("the answer is not what Discord sends: {why}")),
        },
        401 => Verdict::Fatal(TOKEN_REFUSED.into()),
        429 => {
            let wait = retry_after_of(retry_after, body).unwrap_or(RETRY_AFTER_DEFAULT);
            Verdict::RetryAfter { why: "asked too often (429)".into(), wait }
        }
        // The request never changes, so these stay: most likely the base URL is a wrong one.
        400 | 404 | 405 | 410 => {
            Verdict::Fatal(format!("the answer is {status}: check `api_url` and `twilight_http_proxy`"))
        }
        _ => match retry_after_of(retry_after, body) {
            Some(wait) => Verdict::RetryAfter { why: format!("the answer is {status}"), wait },
            None => Verdict::Retry(format!("the answer is {status}")),
        },
    }
}

#[derive(Deserialize)]
struct Answer {
    url: String,
    shards: u32,
    session_start_limit: SessionStartLimit,
}

fn read_answer(body: &str) -> Result<GatewayBot, String> {
    let answer: Answer = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let url = address::gateway_url(&answer.url).ok_or("`url` is not a WebSocket URL")?;
    Ok(GatewayBot { url, shards: answer.shards, session_start_limit: answer.session_start_limit })
}

/// Seconds in the header, or in the body with a fraction; the longer one counts.
fn retry_after_of(header: Option<&str>, body: &str) -> Option<Duration> {
    #[derive(Deserialize)]
    struct RateLimited {
        retry_after: f64,
    }
    let in_body = serde_json::from_str::<RateLimited>(body).ok().map(|it| it.retry_after);
    let in_header = header.and_then(|text| text.trim().parse::<f64>().ok());
    let seconds = in_header.into_iter().chain(in_body).filter(|it| it.is_finite() && *it >= 0.0).reduce(f64::max);
    Some(Duration::from_secs_f64(seconds?.min(RETRY_AFTER_MAX.as_secs_f64())))
}

/// Exponential, with the upper half of the wait left to chance so that several proxies spread.
fn back_off(attempt: u32, rng: &mut fastrand::Rng) -> Duration {
    let whole = RETRY_FIRST.saturating_mul(1 << attempt.min(16)).min(RETRY_MAX);
    whole.mul_f64(0.5 + rng.f64() / 2.0)
}

/// Where and as whom to ask.
#[derive(Clone)]
pub struct Endpoint {
    url: String,
    token: Token,
    agent: ureq::Agent,
    egress: Option<EgressProxy>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.url)
    }
}

impl Endpoint {
    /// Refuses an `egress_proxy` that the HTTP library cannot speak to.
    pub fn new(config: &Config) -> Result<Self, Refusal> {
        // twilight's HTTP proxy is the operator's own, on the way out already: the other one carries the gateway alone then.
        let egress = config.egress_proxy.clone().filter(|_| config.twilight_http_proxy.is_none());
        let agent = agent(egress.as_ref())?;
        Ok(Self { url: request_url(config), token: config.token.clone(), agent, egress })
    }

    /// Asks once and blocks up to `REQUEST_MAX`.
    pub fn ask(&self) -> Verdict {
        let request = self.agent.get(&self.url).header("Authorization", format!("Bot {}", self.token.secret()));
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => return Verdict::Retry(self.explain(&error)),
        };
        let date = response.headers().get("date").and_then(|it| it.to_str().ok());
        if let Some(line) = date.and_then(|date| first_contact::clock_off(date, clock::since_epoch())) {
            warn!("{line}");
        }
        let retry_after = response.headers().get("retry-after").and_then(|it| it.to_str().ok()).map(str::to_owned);
        match response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string() {
            Ok(body) => judge(response.status().as_u16(), retry_after.as_deref(), &body),
            Err(error) => Verdict::Retry(format!("the answer broke off: {error}")),
        }
    }

    /// A failure in words; through a proxy it says so, since then most of them are the proxy's.
    fn explain(&self, error: &ureq::Error) -> String {
        match &self.egress {
            Some(proxy) => format!("through egress_proxy {proxy}: {error}"),
            None => error.to_string(),
        }
    }

    /// Asks on a thread of its own, until there is an answer or a final refusal. Drop the `Asking` to give up.
    pub fn ask_until_answered(&self, mut rng: fastrand::Rng) -> Asking {
        let (answer, answered) = mpsc::channel();
        let (give_up, given_up) = mpsc::channel();
        let endpoint = self.clone();
        let ask = move || {
            // The other side is gone when nobody waits any more.
            let failed = |why| drop(answer.send(Heard::Failed(why)));
            if let Some(result) = endpoint.repeat(&mut rng, &given_up, failed) {
                let _ = answer.send(Heard::Done(result));
            }
        };
        if let Err(error) = thread::Builder::new().name("rest".into()).spawn(ask) {
            // `answer` went down with the closure, so `poll` reports the failure.
            warn!(%error, "no thread for the REST request");
        }
        Asking { answered, failed: None, _give_up: give_up }
    }

    fn repeat(
        &self,
        rng: &mut fastrand::Rng,
        given_up: &mpsc::Receiver<()>,
        failed: impl Fn(String),
    ) -> Option<Result<GatewayBot, String>> {
        for attempt in 0.. {
            let wait = match self.ask() {
                Verdict::Answered(answer) => return Some(Ok(answer)),
                Verdict::Fatal(why) => return Some(Err(format!("{}: {why}", self.url))),
                Verdict::Retry(why) => {
                    let wait = back_off(attempt, rng);
                    warn!(url = self.url, %why, retry_in = ?wait, "no answer about the gateway yet");
                    failed(why);
                    wait
                }
                Verdict::RetryAfter { why, wait } => {
                    // Never sooner than without the header: a Retry-After of 0 again and again must not become a flood.
                    let wait = wait.max(back_off(attempt, rng));
                    info!(url = self.url, %why, retry_in = ?wait, "no answer about the gateway yet, waiting as told");
                    failed(why);
                    wait
                }
            };
            match given_up.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }
}

/// A question under way. When it is dropped, the thread ends as soon as its request does.
pub struct Asking {
    answered: mpsc::Receiver<Heard>,
    /// Why the newest attempt failed.
    failed: Option<String>,
    _give_up: mpsc::Sender<()>,
}

enum Heard {
    /// One attempt failed, and there will be another.
    Failed(String),
    Done(Result<GatewayBot, String>),
}

impl Asking {
    /// The answer, once; the error is a line for the operator. `None` while it is under way.
    pub fn poll(&mut self) -> Option<Result<GatewayBot, String>> {
        loop {
            match self.answered.try_recv() {
                Ok(Heard::Failed(why)) => self.failed = Some(why),
                Ok(Heard::Done(result)) => return Some(result),
                Err(mpsc::TryRecvError::Empty) => return None,
                Err(mpsc::TryRecvError::Disconnected) => {
                    return Some(Err("the thread for REST requests has ended".into()));
                }
            }
        }
    }

    /// Why the newest attempt failed, as of the last `poll`; `None` while there is none that did.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }
}

/// twilight's HTTP proxy takes Discord's paths over plain HTTP.
fn request_url(config: &Config) -> String {
    match &config.twilight_http_proxy {
        Some(authority) => format!("http://{authority}/api/v10/gateway/bot"),
        None => format!("{}/gateway/bot", config.api_url),
    }
}

fn agent(egress: Option<&EgressProxy>) -> Result<ureq::Agent, Refusal> {
    let proxy = egress.map(|it| proxy_of(it).map_err(|error| Refusal::of(format!("egress_proxy {it}: {error}"))));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(root_certs()).build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .user_agent(USER_AGENT)
        .http_status_as_error(false)
        // No redirect: the token goes where the operator sent it, and nowhere else.
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Not those of the environment: they would carry REST but not the gateway.
        .proxy(proxy.transpose()?)
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_global(Some(REQUEST_MAX))
        .build()
        .new_agent();
    Ok(agent)
}

/// The same proxy in the HTTP library's words. It resolves Discord's name, as it does for the gateway.
fn proxy_of(egress: &EgressProxy) -> Result<ureq::Proxy, ureq::Error> {
    let protocol = match egress.kind {
        EgressKind::Http => ureq::ProxyProtocol::Http,
        EgressKind::Socks5 => ureq::ProxyProtocol::Socks5h,
    };
    let host = if egress.host.contains(':') { format!("[{}]", egress.host) } else { egress.host.clone() };
    let mut proxy = ureq::Proxy::builder(protocol).host(&host).port(egress.port).resolve_target(false);
    if let Some(Credentials { user, password }) = &egress.credentials {
        proxy = proxy.username(user).password(password);
    }
    proxy.build()
}

/// The machine's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` honoured), or Mozilla's built-in ones where there are none, as in an
/// empty container.
fn root_certs() -> RootCerts {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        warn!(%error, "a root certificate cannot be read");
    }
    if native.certs.is_empty() {
        return RootCerts::WebPki;
    }
    native.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).into()
}

#[cfg(test)]
mod tests;
