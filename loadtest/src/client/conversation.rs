//! One connection of a client, from the upgrade to its end.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpSocket, lookup_host};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Client, Order};
use crate::clock::now_ns;
use crate::compress::{Compression, Decoder};
use crate::http;
use crate::judge::Seen;
use crate::link::Link;
use crate::tls;
use crate::url::Url;
use crate::ws::{self, Deframer};

/// Longest message that a client takes; GUILD_CREATEs of millions of bytes are real.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Wait after op 9, so that a bug does not become a flood of IDENTIFYs.
const AFTER_INVALID: Duration = Duration::from_secs(1);
/// Close code that keeps the session, when op 7 or a missing ACK makes the client go.
const RECONNECTING: u16 = 4900;

/// How a connection ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// It never became a gateway connection.
    Refused,
    /// Broken without a close frame.
    Lost,
    /// Closed by the gateway.
    Closed(u16),
    /// The client left by itself, to come back at once.
    Reconnect,
    Ordered(Order),
}

/// An upgraded connection and what has been read behind the answer's head.
pub struct Opened {
    link: Link,
    deframer: Deframer,
}

impl Client {
    /// Connects to the gateway, or to the session's own URL, and upgrades.
    pub(super) async fn open(&self, use_resume_url: bool) -> io::Result<Opened> {
        let base = match &self.judge.borrow().session {
            Some(session) if use_resume_url => session.resume_url.clone(),
            _ => self.settings.url.clone(),
        };
        let url = Url::parse(&base).ok_or_else(|| io::Error::other(format!("no ws or wss URL: {base:?}")))?;
        let link = self.connect(&url).await?;
        let key = ws::key(self.rng.borrow_mut().u128(..).to_ne_bytes());
        let compress = match self.settings.compression {
            Compression::None => String::new(),
            some => format!("&compress={}", some.name()),
        };
        link.send(
            format!(
                "GET /?v=10&encoding=json{compress} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
                url.authority()
            )
            .as_bytes(),
        );
        let mut deframer = Deframer::new(false, MESSAGE_BYTES_MAX);
        let answer = http::receive(&link, &mut deframer.bytes).await?;
        let is_accepted = answer.header("sec-websocket-accept") == Some(ws::accept_key(&key).as_str());
        if answer.status() != 101 || !is_accepted {
            return Err(io::Error::other(format!("the upgrade was answered {}", answer.status())));
        }
        self.history.borrow_mut().connects += 1;
        Ok(Opened { link, deframer })
    }

    async fn connect(&self, url: &Url) -> io::Result<Link> {
        let Some(bytes) = self.settings.receive_buffer_bytes.filter(|_| !url.is_tls) else {
            return tls::connect(url, self.settings.roots.clone()).await;
        };
        let address = lookup_host(url.authority()).await?.find(|it| it.is_ipv4());
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(bytes)?;
        Link::new(socket.connect(address.ok_or(io::ErrorKind::NotFound)?).await?, None)
    }

    fn send(&self, link: &Link, payload: &str) {
        let mut frame = Vec::new();
        ws::push_frame(&mut frame, ws::TEXT, payload.as_bytes(), self.mask());
        link.send(&frame);
    }

    fn send_close(&self, link: &Link, code: u16) {
        let mut frame = Vec::new();
        ws::push_close(&mut frame, code, "", self.mask());
        link.send(&frame);
    }

    fn beat(&self, link: &Link) {
        self.history.borrow_mut().heartbeats += 1;
        let seq = match self.judge.borrow().last_s {
            0 => "null".to_owned(),
            seq => seq.to_string(),
        };
        self.send(link, &format!("{{\"op\":1,\"d\":{seq}}}"));
    }

    /// RESUME when there is a session, IDENTIFY when not.
    fn introduce(&self, link: &Link) {
        let settings = &self.settings;
        // Half of the libraries send the prefix.
        let prefix = if settings.terms.shard % 2 == 1 { "Bot " } else { "" };
        let token = format!("{prefix}{}", settings.token);
        let (session, seq) = {
            let judge = self.judge.borrow();
            (judge.session.clone(), judge.last_s)
        };
        let payload = match session {
            Some(session) => {
                self.judge.borrow_mut().on_resume();
                format!("{{\"op\":6,\"d\":{{\"token\":\"{token}\",\"session_id\":\"{}\",\"seq\":{seq}}}}}", session.id)
            }
            None => {
                self.history.borrow_mut().identifies += 1;
                self.judge.borrow_mut().on_identify();
                format!(
                    "{{\"op\":2,\"d\":{{\"token\":\"{token}\",\"properties\":{{\"os\":\"linux\",\"browser\":\"loadtest\",\
                     \"device\":\"loadtest\"}},\"compress\":false,\"large_threshold\":250,\"shard\":[{},{}],\"intents\":{}}}}}",
                    settings.terms.shard, settings.shards, settings.intents
                )
            }
        };
        self.send(link, &payload);
    }
}

/// The heartbeat of one connection.
struct Heart {
    interval: Duration,
    due: Instant,
    awaits_ack: bool,
}

impl Heart {
    /// Due far enough away to mean never: before HELLO there is nothing to beat.
    fn new() -> Self {
        let interval = Duration::from_secs(3600);
        Self { interval, due: Instant::now() + interval, awaits_ack: false }
    }
}

/// Talks until the connection ends.
pub async fn converse(client: &Rc<Client>, opened: Opened) -> End {
    let Opened { link, mut deframer } = opened;
    let mut decoder = Decoder::new(client.settings.compression);
    let mut inflated = Vec::new();
    let mut heart = Heart::new();
    let beat = sleep_until(heart.due);
    tokio::pin!(beat);
    loop {
        let received_ns = now_ns();
        loop {
            let (opcode, message) = match deframer.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    client.judge.borrow_mut().findings.add("frame", &format!("{error:?}"));
                    return End::Lost;
                }
            };
            match opcode {
                ws::CLOSE => {
                    let code = ws::close_code(message);
                    client.send_close(&link, code.max(1000));
                    return End::Closed(code);
                }
                ws::PING => {
                    let mut frame = Vec::new();
                    ws::push_frame(&mut frame, ws::PONG, message, client.mask());
                    link.send(&frame);
                    continue;
                }
                ws::PONG => continue,
                _ => {}
            }
            let payload = match client.settings.compression {
                Compression::None => message,
                _ if opcode == ws::TEXT => message,
                _ => match decoder.decode(message, &mut inflated) {
                    Ok(()) => &inflated,
                    Err(_) => {
                        client.judge.borrow_mut().findings.add("compression", "the stream cannot be inflated");
                        return End::Lost;
                    }
                },
            };
            let seen = client.judge.borrow_mut().on_payload(opcode == ws::TEXT, payload, received_ns);
            if let Some(end) = on_seen(client, &link, seen, &mut heart).await {
                return end;
            }
        }
        if beat.deadline() != heart.due {
            beat.as_mut().reset(heart.due);
        }
        while let Some(order) = { client.orders.borrow_mut().pop_front() } {
            match order {
                Order::StopReading(time) => {
                    client.pause(time).await;
                    client.outage.on_reading(now_ns());
                }
                Order::RequestMembers { guild, nonce } => {
                    client.judge.borrow_mut().on_request_members(&nonce);
                    let payload = format!(
                        "{{\"op\":8,\"d\":{{\"guild_id\":\"{guild}\",\"query\":\"\",\"limit\":0,\"nonce\":\"{nonce}\"}}}}"
                    );
                    client.send(&link, &payload);
                }
                Order::Send(payload) => client.send(&link, &payload),
                Order::Away(_) | Order::Renew(_) => return End::Ordered(order),
                Order::Leave => {
                    client.send_close(&link, 1000);
                    return End::Ordered(order);
                }
            }
        }
        deframer.compact();
        tokio::select! {
            read = link.read(&mut deframer.bytes) => match read {
                Ok(len) if len > 0 => {}
                _ => return End::Lost,
            },
            () = client.stirred.notified() => {}
            () = &mut beat => {
                if heart.awaits_ack {
                    client.judge.borrow_mut().findings.add("heartbeat", "not acknowledged within an interval");
                    client.send_close(&link, RECONNECTING);
                    return End::Reconnect;
                }
                heart.awaits_ack = true;
                heart.due = Instant::now() + heart.interval;
                client.beat(&link);
            }
        }
    }
}

/// Does what a payload asks for; `Some` when the connection is over.
async fn on_seen(client: &Client, link: &Link, seen: Seen, heart: &mut Heart) -> Option<End> {
    match seen {
        Seen::Hello { heartbeat_interval_ms } => {
            heart.interval = Duration::from_millis(heartbeat_interval_ms.clamp(1, client.settings.heartbeat_ms_max));
            let jitter = client.rng.borrow_mut().f64();
            heart.due = Instant::now() + heart.interval.mul_f64(jitter);
            if client.settings.beats_at_once {
                client.beat(link);
            }
            client.introduce(link);
        }
        Seen::Traffic { sent_ns, latency_ns, is_live } => {
            client.outage.on_event(sent_ns + latency_ns);
            client.tally.borrow().borrow_mut().on_traffic(sent_ns, latency_ns, is_live);
        }
        Seen::Ready => client.is_live.set(true),
        Seen::Resumed => {
            client.is_live.set(true);
            client.history.borrow_mut().resumes += 1;
        }
        Seen::HeartbeatWanted => client.beat(link),
        Seen::HeartbeatAck => {
            heart.awaits_ack = false;
            client.history.borrow_mut().heartbeat_acks += 1;
        }
        Seen::Reconnect => {
            client.history.borrow_mut().reconnects_asked += 1;
            client.send_close(link, RECONNECTING);
            return Some(End::Reconnect);
        }
        Seen::InvalidSession { .. } => {
            client.is_live.set(false);
            client.history.borrow_mut().invalid_sessions += 1;
            sleep(AFTER_INVALID).await;
            client.introduce(link);
        }
        Seen::Dispatch | Seen::Nothing => {}
    }
    None
}
