//! A client's connection from the accepted socket to the payloads it sends: the upgrade, frames, time-outs, the close.
//!
//! Who gets which session is `seating`'s, what clients are sent is `delivery`'s.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{debug, info, warn};

use super::seating::beginning;
use super::{Core, Fate, LINGER};
use crate::runtime::client::{Client, Phase, Request, UNREAD_BYTES_MAX};
use crate::runtime::client_tls::{ClientTls, ClientTlsError};
use crate::runtime::clock;
use crate::runtime::conns::Conn;
use crate::runtime::net::{Net, Token};
use crate::runtime::sys;
use crate::session::client::{Conversation, Step};
use crate::shard::shard_of_session;
use crate::wire::deframe::Message;
use crate::wire::frame::{Opcode, write_frame};
use crate::wire::http::{self, Encoding, HttpError, parse_request, upgrade_response};
use crate::wire::{CloseCode, Compression};

/// Connections on one core that have not identified: each may hold a compressor (305 KB at most). When full, the one that has said
/// nothing for longest makes way: a bot that is about to identify says so within a round trip.
pub const GREETING_MAX: usize = 1024;
/// So many while none of them has been silent for `CROWD_WAIT`: all bots that come back at once after a restart say something within a round trip.
pub const CROWD_MAX: usize = 4096;
pub(super) const CROWD_WAIT: Duration = Duration::from_secs(2);
/// The kernel's send buffer of one client: with the outbox it bounds what a client that stops reading can hold.
const CLIENT_SEND_BUFFER_BYTES: i32 = 256 * 1024;
/// What a client that is answered 503 is asked to wait.
const RETRY_AFTER_S: u32 = 5;
/// It has this long to read that; it may not have sent its request yet, and never will.
const TURNED_AWAY_LINGER: Duration = Duration::from_millis(250);
/// Answers to pings and heartbeats that a connection without a session does not read. More, and it is closed. One with a session has its outbox's limit.
pub const UNSEATED_OUTBOX_BYTES_MAX: usize = 16 * 1024;

/// What a bot's author has to mend is shown; the rest is the everyday of a gateway.
fn tell_dismissed(client: &Client, code: CloseCode, reason: &str) {
    let (code, peer) = (code.0, client.peer.map(display));
    match CloseCode(code) {
        CloseCode::AUTHENTICATION_FAILED => info!(
            client = peer,
            code, "client dismissed: its token is not the proxy's; give it the same, or set `validate_token` to false"
        ),
        CloseCode::INVALID_SHARD | CloseCode::INVALID_API_VERSION | CloseCode::DECODE_ERROR => {
            info!(client = peer, code, cause = reason, "client dismissed")
        }
        _ => debug!(client = peer, code, cause = reason, "client dismissed"),
    }
}

impl<N: Net> Core<N> {
    pub(super) fn on_accepted(&mut self, now: Instant, socket: OwnedFd) {
        // A connection that was on its way when accepting ended is told so below.
        if self.draining.is_none() && !self.make_room(now) {
            return;
        }
        sys::set_send_buffer(socket.as_fd(), CLIENT_SEND_BUFFER_BYTES);
        let peer = sys::peer_address(socket.as_fd());
        let mut client = Box::new(Client::new(now, self.shared.rules.limits.handshake));
        if let Some(config) = &self.client_tls {
            match ClientTls::new(config.clone()) {
                Ok(tls) => client.tls = Some(Box::new(tls)),
                Err(error) => return warn!("cannot begin TLS with a new connection: {error}"),
            }
        }
        match self.net.add(socket) {
            // It was on its way when accepting ended.
            Ok(token) if self.draining.is_some() => {
                self.turn_away(token, &mut client);
            }
            Ok(token) => {
                client.peer = peer;
                self.arm_client(token, &mut client);
                self.conns.insert(token, Conn::Client(client));
            }
            Err(error) => warn!("cannot take a new connection: {error}"),
        }
    }

    /// Whether one more connection may come. `clients_max` bounds the sockets, those that linger after their close included, so that
    /// shards always find one.
    fn make_room(&mut self, now: Instant) -> bool {
        let clients_max = self.shared.clients_max;
        let is_full = self.net.len() >= clients_max + self.places.len();
        let greeting = self.conns.greeting();
        if !is_full && greeting < GREETING_MAX.min(clients_max) {
            return true;
        }
        let Some((token, heard)) = self.conns.quietest() else {
            self.turned_away.full += 1;
            return false;
        };
        if !is_full && greeting < CROWD_MAX && now.saturating_duration_since(heard) < CROWD_WAIT {
            self.conns.spare(token, heard);
            return true;
        }
        self.give_up_silent(token);
        true
    }

    /// A crowd that has not said anything in time is closed down to `GREETING_MAX`.
    pub(super) fn thin_the_crowd(&mut self, now: Instant) {
        while self.conns.greeting() > GREETING_MAX
            && let Some((token, heard)) = self.conns.quietest()
        {
            if now.saturating_duration_since(heard) < CROWD_WAIT {
                return self.conns.spare(token, heard);
            }
            self.give_up_silent(token);
        }
    }

    fn give_up_silent(&mut self, token: Token) {
        self.turned_away.silent += 1;
        self.conns.remove(token);
        self.net.close(token, Duration::ZERO);
    }

    /// Answers a connection that has not spoken, or just asked for its upgrade, with 503. In the middle of a TLS handshake there is nothing
    /// that could be said.
    pub(super) fn turn_away(&mut self, token: Token, client: &mut Client) -> Fate {
        if client.tls.as_ref().is_some_and(|it| it.is_handshaking()) {
            self.net.close(token, Duration::ZERO);
            return Fate::Gone;
        }
        let answer = HttpError::Unavailable { retry_after_s: RETRY_AFTER_S }.response();
        client.out(&mut self.net, token).extend_from_slice(&answer);
        self.close_client(token, client, TURNED_AWAY_LINGER);
        Fate::Gone
    }

    /// Closes a client's socket once it has taken what was written.
    pub(super) fn close_client(&mut self, token: Token, client: &mut Client, linger: Duration) {
        if let Some(tls) = &mut client.tls
            && let Err(error) = tls.close(self.net.queue(token))
        {
            debug!("a client's last words cannot be encrypted: {error}");
        }
        self.net.close(token, linger);
    }

    /// What was written for a client goes into its outbox. False when that cannot be: the connection is broken.
    pub(super) fn seal(&mut self, token: Token, client: &mut Client) -> bool {
        match (&mut client.tls, &client.phase) {
            // On its way out of this core: what is written now would be lost, and waits.
            (None, _) | (Some(_), Phase::Moving { .. } | Phase::Page(_)) => true,
            (Some(tls), _) => match tls.seal(self.net.queue(token)) {
                Ok(()) => true,
                Err(error) => {
                    debug!("a client's TLS broke: {error}");
                    false
                }
            },
        }
    }

    /// Takes the client out of the table while `f` works on it, so that both can be reached.
    pub(super) fn with_client(&mut self, token: Token, f: impl FnOnce(&mut Self, &mut Client) -> Fate) {
        let Some(mut client) = self.conns.take_client(token) else { return };
        let mut fate = f(self, &mut client);
        if fate == Fate::Stays && !self.seal(token, &mut client) {
            if let Some(seated) = client.seated.take() {
                self.unseat(clock::now(), seated, client.peer, false);
            }
            self.net.close(token, Duration::ZERO);
            fate = Fate::Gone;
        }
        match fate {
            Fate::Stays => self.conns.put_back(token, client),
            Fate::Gone => self.conns.give_up(token),
        }
    }

    pub(super) fn on_client_bytes(&mut self, now: Instant, token: Token, client: &mut Client, bytes: &[u8]) -> Fate {
        let Some(tls) = &mut client.tls else { return self.on_client_plain(now, token, client, bytes) };
        let mut plain = std::mem::take(&mut self.client_plain);
        plain.clear();
        let taken = tls.on_bytes(bytes, &mut plain);
        // What came before the failure counts.
        let mut fate = Fate::Stays;
        if !plain.is_empty() {
            fate = self.on_client_plain(now, token, client, &plain);
        }
        self.client_plain = plain;
        match (taken, fate) {
            (Err(error), Fate::Stays) => self.on_client_tls_failed(now, token, client, &error, bytes.first().copied()),
            (_, fate) => fate,
        }
    }

    fn on_client_tls_failed(
        &mut self,
        now: Instant,
        token: Token,
        client: &mut Client,
        error: &ClientTlsError,
        first: Option<u8>,
    ) -> Fate {
        let Some(tls) = &mut client.tls else { return Fate::Stays };
        if tls.is_handshaking() {
            self.turned_away.tls += 1;
            if let Some(count) = self.tls_failures.note(now) {
                info!(core = self.index, count, "a client's TLS handshake failed: {error}");
            }
        } else {
            debug!("a client's TLS broke: {error}");
        }
        tls.refuse(error, first, self.net.queue(token));
        if let Some(seated) = client.seated.take() {
            self.unseat(now, seated, client.peer, false);
        }
        self.net.close(token, LINGER);
        Fate::Gone
    }

    fn on_client_plain(&mut self, now: Instant, token: Token, client: &mut Client, bytes: &[u8]) -> Fate {
        match &mut client.phase {
            Phase::Http(head) => {
                head.extend_from_slice(bytes);
                let head = std::mem::take(head);
                self.on_http(now, token, client, head)
            }
            Phase::Open => {
                let fate = self.on_frames(now, token, client, bytes);
                if fate == Fate::Stays {
                    self.arm_client(token, client);
                }
                fate
            }
            Phase::Moving { unread, .. } => {
                if unread.len() + bytes.len() > UNREAD_BYTES_MAX {
                    return self.dismiss(now, token, client, CloseCode::DECODE_ERROR, "Too much before the session.");
                }
                unread.extend_from_slice(bytes);
                Fate::Stays
            }
            Phase::Page(_) => Fate::Stays,
        }
    }

    pub(super) fn on_http(&mut self, now: Instant, token: Token, client: &mut Client, head: Vec<u8>) -> Fate {
        match parse_request(&head) {
            Ok(None) => {
                client.phase = Phase::Http(head);
                Fate::Stays
            }
            Ok(Some((http::Request::Plain(request), _))) => {
                if !self.seal(token, client) {
                    self.net.close(token, Duration::ZERO);
                    return Fate::Gone;
                }
                client.phase = Phase::Page(request);
                self.net.release(token);
                Fate::Stays
            }
            Ok(Some((http::Request::Upgrade(_), _))) if self.group.pressure().refuses_clients() => {
                self.upgrades_refused += 1;
                self.turn_away(token, client)
            }
            Ok(Some((http::Request::Upgrade(upgrade), consumed))) => {
                client.out(&mut self.net, token).extend_from_slice(&upgrade_response(&upgrade));
                client.conversation = Conversation::new(now);
                if upgrade.encoding != Encoding::Json {
                    let reason = match upgrade.encoding {
                        Encoding::Etf => "encoding=etf is not supported by shardgate: use encoding=json.",
                        _ => "This encoding is not known: use encoding=json.",
                    };
                    return self.dismiss(now, token, client, CloseCode::DECODE_ERROR, reason);
                }
                if upgrade.version.is_some_and(|it| !matches!(it, 6..=10)) {
                    return self.dismiss(now, token, client, CloseCode::INVALID_API_VERSION, "Invalid API version.");
                }
                let compression = if self.shared.allow_compression { upgrade.compress } else { Compression::None };
                client.open(compression, &mut self.net, token);
                let fate = self.on_frames(now, token, client, &head[consumed..]);
                if fate == Fate::Stays {
                    self.arm_client(token, client);
                }
                fate
            }
            Err(error) => {
                client.out(&mut self.net, token).extend_from_slice(&error.response());
                self.close_client(token, client, LINGER);
                Fate::Gone
            }
        }
    }

    pub(super) fn on_frames(&mut self, now: Instant, token: Token, client: &mut Client, mut bytes: &[u8]) -> Fate {
        loop {
            if client.seated.is_none() && self.net.pending(token) > UNSEATED_OUTBOX_BYTES_MAX {
                self.turned_away.flood += 1;
                return self.dismiss(now, token, client, CloseCode::RATE_LIMITED, "Rate limited.");
            }
            let Client { deframer, conversation, tls, .. } = client;
            let message = match deframer.next(&mut bytes) {
                Ok(Some(message)) => message,
                Ok(None) => return Fate::Stays,
                Err(error) => {
                    let code = error.close_code();
                    return self.dismiss(now, token, client, code, &error.to_string());
                }
            };
            let step = match message {
                Message::Text(payload) | Message::Binary(payload) => {
                    conversation.on_payload(now, payload, &self.shared.rules)
                }
                Message::Ping(data) => {
                    let out = tls.as_mut().map_or_else(|| self.net.queue(token), |it| it.out());
                    write_frame(out, Opcode::Pong, data, None);
                    conversation.on_control_frame(now, &self.shared.rules)
                }
                Message::Pong(_) => conversation.on_control_frame(now, &self.shared.rules),
                Message::Close { code, .. } => {
                    self.closes.by_clients.add(code);
                    let ended = code.is_some_and(CloseCode::ends_session);
                    if let Some(seated) = client.seated.take() {
                        self.unseat(now, seated, client.peer, ended);
                    }
                    client.say_goodbye(code.unwrap_or(CloseCode::NORMAL), "", &mut self.net, token);
                    self.close_client(token, client, LINGER);
                    return Fate::Gone;
                }
            };
            match step {
                Step::Ignore => {}
                Step::Command(command) => {
                    let Some(seated) = client.seated else { continue };
                    if let Err(refused) = self.group.shards[seated.shard].on_command(now, seated.key, command) {
                        return self.dismiss(now, token, client, refused.close_code(), refused.reason());
                    }
                    self.run_actions(now, seated.shard);
                }
                Step::Ack => client.acknowledge(&mut self.net, token),
                Step::Close(code, reason) => {
                    match code {
                        CloseCode::RATE_LIMITED if client.conversation.guesses() => self.turned_away.guesses += 1,
                        CloseCode::RATE_LIMITED => self.turned_away.flood += 1,
                        CloseCode::AUTHENTICATION_FAILED => self.turned_away.guesses += 1,
                        _ => {}
                    }
                    return self.dismiss(now, token, client, code, reason);
                }
                Step::Identify(identify) => {
                    let shard = identify.shard_or_default()[0];
                    if self.seat_or_move(now, token, client, shard, Request::Identify(identify), &mut bytes)
                        == Fate::Gone
                    {
                        return Fate::Gone;
                    }
                }
                Step::Resume(resume) => {
                    let shard = shard_of_session(&resume.session_id);
                    let Some(shard) = shard.filter(|it| self.shared.placement.place(*it).is_some()) else {
                        let (session, client_at) = (beginning(&resume.session_id), client.peer.map(display));
                        info!(session, client = client_at, "client's session is of no shard that is held here: op 9");
                        self.resumes_refused.elsewhere += 1;
                        client.tell_invalid_session(&mut self.net, token);
                        client.conversation.on_invalid_session(now);
                        continue;
                    };
                    if self.seat_or_move(now, token, client, shard, Request::Resume(resume), &mut bytes) == Fate::Gone {
                        return Fate::Gone;
                    }
                }
            }
        }
    }

    pub(super) fn on_client_timeout(&mut self, now: Instant, token: Token, client: &mut Client) -> Fate {
        if let Phase::Http(_) | Phase::Page(_) = client.phase {
            if client.due().is_some_and(|due| now >= due) {
                self.turned_away.handshake += 1;
                self.net.close(token, Duration::ZERO);
                return Fate::Gone;
            }
        } else if let Some(Step::Close(code, reason)) = client.conversation.on_timeout(now) {
            return self.dismiss(now, token, client, code, reason);
        }
        self.arm_client(token, client);
        Fate::Stays
    }

    pub(super) fn dismiss(
        &mut self,
        now: Instant,
        token: Token,
        client: &mut Client,
        code: CloseCode,
        reason: &str,
    ) -> Fate {
        tell_dismissed(client, code, reason);
        self.closes.to_clients.add(Some(code));
        if let Some(seated) = client.seated.take() {
            self.unseat(now, seated, client.peer, false);
        }
        client.say_goodbye(code, reason, &mut self.net, token);
        self.close_client(token, client, LINGER);
        Fate::Gone
    }

    pub(super) fn close_unseated(&mut self, token: Token, code: CloseCode, reason: &str) {
        if let Some(Conn::Client(mut client)) = self.conns.remove(token) {
            self.closes.to_clients.add(Some(code));
            client.say_goodbye(code, reason, &mut self.net, token);
            self.close_client(token, &mut client, LINGER);
        }
    }
}
