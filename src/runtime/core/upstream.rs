//! Discord's side of a core: connections are opened, read, written and given up as the shards ask.
//!
//! It decides nothing about sessions and does not know clients; `run_actions` is the one place where a shard's wishes are carried out.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::{Core, LINGER, Place};
use crate::runtime::conns::Conn;
use crate::runtime::link::{Link, LinkError, LinkEvent, Scratch};
use crate::runtime::mesh::ToControl;
use crate::runtime::net::{Net, Token};
use crate::session::upstream::Status;
use crate::shard::Action;
use crate::wire::{CloseCode, ShardId};

/// An address that has not answered by then makes way for the next: one that swallows everything must not cost the others their
/// chance within the shard's `CONNECT_MAX`, which is enough for six of them. The last one gets all the time that is left.
const ADDRESS_MAX: Duration = Duration::from_secs(3);

impl<N: Net> Core<N> {
    pub(super) fn place_of(&self, shard: ShardId) -> Option<usize> {
        self.shared.placement.place(shard.0).filter(|(core, _)| *core == self.index).map(|(_, at)| at)
    }

    pub(super) fn shard_id(&self, at: usize) -> ShardId {
        self.shared.placement.shard(self.index, at)
    }

    pub(super) fn on_shard_timeout(&mut self, now: Instant, at: usize) {
        if self.places[at].link.as_ref().and_then(|it| it.next_address_at).is_some_and(|it| now >= it) {
            self.give_up_address(now, at);
        }
        self.group.shards[at].on_timers(now);
        self.run_actions(now, at);
    }

    /// The address that is being tried does not answer.
    fn give_up_address(&mut self, now: Instant, at: usize) {
        let Some(link) = &mut self.places[at].link else { return };
        link.next_address_at = None;
        if let Some(token) = link.token.take() {
            warn!(
                shard = self.shared.placement.shard(self.index, at).0,
                "no answer within {ADDRESS_MAX:?}: the next address"
            );
            self.conns.remove(token);
            self.net.close(token, Duration::ZERO);
        }
        self.connect_next(now, at);
    }

    /// Does what the shard asks, then sets its timer and notes that its clients want to be pumped.
    pub(super) fn run_actions(&mut self, now: Instant, at: usize) {
        self.carry_out(now, at);
        self.tell_status(at);
        self.mark_dirty(at);
        self.arm_shard(at);
    }

    fn carry_out(&mut self, now: Instant, at: usize) {
        while let Some(action) = self.group.shards[at].poll(now) {
            let shard = self.shard_id(at);
            match action {
                Action::Connect(url) => self.connect(now, at, &url),
                Action::Send(payload) => {
                    self.with_link(now, at, |link, scratch, out| link.send(&payload, scratch, out))
                }
                Action::Close(code) => {
                    self.closes.to_discord.add(Some(code));
                    self.with_link(now, at, |link, scratch, out| link.close(code, scratch, out));
                    self.drop_link(at, LINGER);
                }
                Action::IdentifyWanted => self.tell_control(ToControl::IdentifyWanted { shard }),
                Action::IdentifySent => {
                    info!(shard = shard.0, "IDENTIFY sent");
                    self.tell_control(ToControl::IdentifySent { shard, at: now });
                }
                Action::IdentifyReturned => self.tell_control(ToControl::IdentifyReturned { shard }),
                // Only a store makes a shard ask, and there is none.
                Action::ReadLog(index) => self.read_log(now, at, index),
                Action::InvalidSession(key) => self.tell_invalid_session(now, at, key),
                Action::Disconnect(key, code) => self.disconnect(at, key, code),
                Action::Stopped(code) => {
                    error!(
                        shard = shard.0,
                        code = code.0,
                        "Discord refused this shard for good: {}. It stays closed until shardgate is restarted",
                        self.group.shards[at].remedy(code)
                    );
                }
            }
        }
    }

    /// After clients were pumped: a shard may want a part of its log, or find that a session is over. What comes of it is by mail, or
    /// needs no pumping.
    pub(super) fn run_actions_of_pumping(&mut self, now: Instant) {
        while let Some(at) = self.pumped.pop() {
            self.carry_out(now, at);
            self.arm_shard(at);
        }
    }

    /// One line whenever a shard gains or loses its session's stream.
    fn tell_status(&mut self, at: usize) {
        let status = self.group.shards[at].status();
        let told = self.places[at].told.replace(status);
        if told == Some(status) {
            return;
        }
        let shard = self.shard_id(at).0;
        let (is_live, was_live) = (status == Status::Active, told == Some(Status::Active));
        if is_live != was_live {
            self.tell_control(ToControl::ShardLive { shard: ShardId(shard), is_live });
        }
        match status {
            Status::Active => info!(shard, "shard is live"),
            Status::Resuming if told == Some(Status::Active) => info!(shard, "shard resumes"),
            Status::Disconnected if told == Some(Status::Active) => info!(shard, "shard is disconnected"),
            _ => debug!(shard, ?status, "shard goes on"),
        }
    }

    pub(super) fn mark_dirty(&mut self, at: usize) {
        self.touch(at);
        if !self.places[at].dirty {
            self.places[at].dirty = true;
            self.dirty.push(at);
        }
    }

    pub(super) fn tell_control(&self, message: ToControl) {
        // The control thread only ends after the cores.
        let _ = self.control.send(message);
    }

    pub(super) fn connect(&mut self, now: Instant, at: usize, url: &str) {
        let shard = self.shard_id(at);
        self.drop_link(at, Duration::ZERO);
        let egress = self.shared.egress.clone();
        match Link::new(url, self.shared.upstream_compression, &self.shared.tls, egress, self.rng.u64(..)) {
            Err(error) => {
                warn!(shard = shard.0, url, cause = %error, "cannot connect");
                self.group.shards[at].on_closed(now, None);
            }
            Ok(mut link) => {
                let (host, port) = link.peer();
                let host = host.to_owned();
                debug!(shard = shard.0, host, to = link.url.host, "connecting");
                match host.parse::<IpAddr>() {
                    Ok(address) => {
                        link.on_resolved(vec![SocketAddr::new(address, port)]);
                        self.places[at].link = Some(link);
                        self.connect_next(now, at);
                    }
                    Err(_) => {
                        self.places[at].link = Some(link);
                        self.tell_control(ToControl::Resolve { shard, host, port });
                    }
                }
            }
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        now: Instant,
        at: usize,
        host: &str,
        addresses: Result<Vec<SocketAddr>, String>,
    ) {
        let Some(link) = self.places[at].link.as_mut().filter(|it| it.token.is_none() && it.is_connecting()) else {
            return;
        };
        // A late answer to a connection that was given up: the next one may go to the other host.
        if link.peer().0 != host {
            return;
        }
        match addresses {
            Ok(addresses) => {
                link.on_resolved(addresses);
                self.connect_next(now, at);
            }
            Err(error) => {
                warn!(shard = self.shard_id(at).0, "{error}");
                self.lose_link(now, at, None);
            }
        }
        self.run_actions(now, at);
    }

    /// Tries the next address of the link's host.
    pub(super) fn connect_next(&mut self, now: Instant, at: usize) {
        let Some(link) = &mut self.places[at].link else { return };
        while let Some(address) = link.next_address() {
            match self.net.connect(address) {
                Ok(token) => {
                    link.token = Some(token);
                    link.next_address_at = link.has_more_addresses().then_some(now + ADDRESS_MAX);
                    self.conns.insert(token, Conn::Shard(at));
                    return self.arm_shard(at);
                }
                Err(error) => {
                    warn!(shard = self.shared.placement.shard(self.index, at).0, %address, "connect: {error}")
                }
            }
        }
        self.lose_link(now, at, None);
    }

    pub(super) fn on_connected(&mut self, now: Instant, token: Token) {
        let Some(Conn::Shard(at)) = self.conns.get(token) else { return };
        let at = *at;
        self.with_link(now, at, |link, _, out| link.on_connected(out));
        self.run_actions(now, at);
    }

    pub(super) fn on_link_bytes(&mut self, now: Instant, at: usize, bytes: &[u8]) {
        let Place { link: Some(link), .. } = &mut self.places[at] else { return };
        let Some(token) = link.token else { return };
        let shard = &mut self.group.shards[at];
        let id = self.shared.placement.shard(self.index, at).0;
        let (mut closed, mut payloads) = (None, 0);
        let result = link.on_bytes(bytes, &mut self.scratch, self.net.queue(token), &mut |event| match event {
            LinkEvent::Open => shard.on_open(now),
            LinkEvent::Payload(payload) => {
                payloads += 1;
                if let Err(error) = shard.on_payload(now, payload) {
                    warn!(shard = id, len = payload.len(), "Discord sent a payload that is not JSON: {error}");
                }
            }
            LinkEvent::Close(code) => closed = Some(code),
        });
        self.payloads += payloads;
        if let Some(code) = closed {
            info!(shard = id, cause = code.map_or(0, |it| it.0), "Discord closed the connection");
            // First of all: a failing answer would be taken for a lost connection, and that is resumed whatever the code said.
            self.group.shards[at].on_closed(now, code);
            // RFC 6455 §5.5.1 wants an answer, and not that it be the same; 1000 and 1001 from us would end the session.
            let answer = code.filter(|it| !it.ends_session()).unwrap_or(CloseCode::RECONNECTING);
            self.with_link(now, at, |link, scratch, out| link.close(answer, scratch, out));
            self.drop_link(at, LINGER);
        } else if let Err(error) = result {
            warn!(shard = id, cause = %error, "the connection to Discord broke");
            self.lose_link(now, at, None);
            if let Some(wait) = error.retry_after() {
                self.group.shards[at].on_retry_after(now, wait);
            }
        }
        self.run_actions(now, at);
    }

    /// Lets `f` write to Discord. A failure costs the connection, not the session.
    pub(super) fn with_link(
        &mut self,
        now: Instant,
        at: usize,
        f: impl FnOnce(&mut Link, &mut Scratch, &mut Vec<u8>) -> Result<(), LinkError>,
    ) {
        let Some(link) = &mut self.places[at].link else { return };
        let Some(token) = link.token else { return };
        if let Err(error) = f(link, &mut self.scratch, self.net.queue(token)) {
            warn!(shard = self.shard_id(at).0, cause = %error, "the connection to Discord broke");
            self.lose_link(now, at, None);
        }
    }

    pub(super) fn drop_link(&mut self, at: usize, linger: Duration) {
        if let Some(link) = self.places[at].link.take()
            && let Some(token) = link.token
        {
            self.conns.remove(token);
            self.net.close(token, linger);
        }
    }

    /// The connection is gone: the shard decides what comes next.
    pub(super) fn lose_link(&mut self, now: Instant, at: usize, code: Option<CloseCode>) {
        self.drop_link(at, Duration::ZERO);
        self.group.shards[at].on_closed(now, code);
        self.arm_shard(at);
    }
}
