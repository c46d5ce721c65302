//! How a client comes to its session and loses it: seated at a shard of this core, or moved to the core that has the shard.
//!
//! It does not decide whether a RESUME is good: the shard does.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{debug, info, warn};

use super::{Core, Fate};
use crate::runtime::client::{Client, HandOver, Phase, Request, Seated};
use crate::runtime::client_tls::Requester;
use crate::runtime::conns::Conn;
use crate::runtime::mesh::{Door, ToControl, ToCore};
use crate::runtime::net::{Net, Token};
use crate::runtime::sys;
use crate::shard::seat::SeatKey;
use crate::shard::{ResumeRefused, shard_of_session};
use crate::wire::CloseCode;

/// A page's reader that takes no byte for this long is given up.
const PAGE_SEND_MAX: Duration = Duration::from_secs(5);

/// Of a session id what is shown: with all of it somebody could RESUME.
pub(super) fn beginning(session: &str) -> &str {
    session.get(..8).unwrap_or("")
}

impl<N: Net> Core<N> {
    pub(super) fn seat_or_move(
        &mut self,
        now: Instant,
        token: Token,
        client: &mut Client,
        shard: u32,
        request: Request,
        bytes: &mut &[u8],
    ) -> Fate {
        match self.shared.placement.place(shard) {
            None => self.dismiss(now, token, client, CloseCode::INVALID_SHARD, "Invalid shard."),
            Some((core, at)) if core == self.index => self.seat(now, token, client, at, request),
            Some((core, _)) => {
                if !self.seal(token, client) {
                    self.net.close(token, Duration::ZERO);
                    return Fate::Gone;
                }
                let unread = std::mem::take(bytes).to_vec();
                client.phase = Phase::Moving { request, to_core: core, unread };
                self.net.release(token);
                Fate::Stays
            }
        }
    }

    pub(super) fn seat(
        &mut self,
        now: Instant,
        token: Token,
        client: &mut Client,
        at: usize,
        request: Request,
    ) -> Fate {
        let shard = &mut self.group.shards[at];
        let id = self.shared.placement.shard(self.index, at).0;
        let peer = client.peer.map(display);
        let key = match request {
            Request::Identify(identify) => {
                let mut entropy = [0; 12];
                if getrandom::fill(&mut entropy).is_err() {
                    return self.dismiss(
                        now,
                        token,
                        client,
                        CloseCode::UNKNOWN_ERROR,
                        "No randomness for a session id.",
                    );
                }
                let key = match shard.identify(&identify, entropy) {
                    Ok(key) => key,
                    Err(refused) => return self.dismiss(now, token, client, refused.close_code(), refused.reason()),
                };
                let session = beginning(shard.session_id(key).unwrap_or(""));
                info!(shard = id, session, client = peer, "client identified");
                key
            }
            Request::Resume(resume) => match shard.resume(now, &resume) {
                Ok(key) => {
                    let session = beginning(&resume.session_id);
                    info!(shard = id, session, client = peer, seq = resume.seq, "client resumed");
                    key
                }
                Err(ResumeRefused::InvalidSeq) => {
                    return self.dismiss(now, token, client, CloseCode::INVALID_SEQ, "Invalid seq.");
                }
                Err(ResumeRefused::Stopped(code)) => {
                    return self.dismiss(now, token, client, code, "Discord refused this shard.");
                }
                Err(ResumeRefused::InvalidSession) => {
                    info!(
                        shard = id,
                        session = beginning(&resume.session_id),
                        client = peer,
                        seq = resume.seq,
                        "client's session is unknown or its events are gone: op 9"
                    );
                    self.resumes_refused.gone += 1;
                    client.tell_invalid_session(&mut self.net, token);
                    client.conversation.on_invalid_session(now);
                    self.run_actions(now, at);
                    return Fate::Stays;
                }
            },
        };
        client.seated = Some(Seated { shard: at, key });
        client.conversation.on_identified(now);
        // A connection that still held the session loses it to this one.
        if let Some(place) = self.places[at].clients.iter_mut().find(|it| it.0 == key) {
            let old = std::mem::replace(&mut place.1, token);
            self.close_unseated(old, CloseCode::UNKNOWN_ERROR, "Resumed elsewhere.");
        } else {
            self.places[at].clients.push((key, token));
        }
        self.mark_dirty(at);
        // A RESUME that looks for its number has its own time.
        self.arm_shard(at);
        Fate::Stays
    }

    pub(super) fn on_released(&mut self, token: Token, socket: OwnedFd, unsent: Vec<u8>) {
        let Some(Conn::Client(mut client)) = self.conns.remove(token) else { return };
        match std::mem::replace(&mut client.phase, Phase::Open) {
            Phase::Page(request) => match sys::into_blocking(socket, PAGE_SEND_MAX) {
                Ok(socket) => {
                    let requester = Requester::new(socket, client.tls, unsent);
                    self.tell_control(ToControl::Page { requester, request, door: Door::Gateway });
                }
                Err(error) => debug!("cannot answer a page: {error}"),
            },
            Phase::Moving { request, to_core, unread } => {
                client.armed = None;
                let hand_over = HandOver { socket, client: *client, request, unread, unsent };
                self.peers[to_core].send(ToCore::HandOver(Box::new(hand_over)));
            }
            Phase::Http(_) | Phase::Open => {}
        }
    }

    pub(super) fn on_hand_over(&mut self, now: Instant, hand_over: HandOver) {
        let HandOver { socket, client, request, unread, unsent } = hand_over;
        if self.draining.is_some() {
            return;
        }
        let token = match self.net.add(socket) {
            Ok(token) => token,
            Err(error) => return warn!("cannot take a client from another core: {error}"),
        };
        self.net.queue(token).extend_from_slice(&unsent);
        self.conns.insert(token, Conn::Client(Box::new(client)));
        let shard = match &request {
            Request::Identify(identify) => identify.shard_or_default()[0],
            Request::Resume(resume) => shard_of_session(&resume.session_id).unwrap_or(u32::MAX),
        };
        self.with_client(token, |core, client| {
            let fate = core.seat_or_move(now, token, client, shard, request, &mut &b""[..]);
            if fate == Fate::Gone {
                return fate;
            }
            let fate = core.on_frames(now, token, client, &unread);
            if fate == Fate::Stays {
                core.arm_client(token, client);
            }
            fate
        });
    }

    pub(super) fn unseat(&mut self, now: Instant, seated: Seated, peer: Option<SocketAddr>, ended: bool) {
        self.places[seated.shard].clients.retain(|it| it.0 != seated.key);
        let shard = &mut self.group.shards[seated.shard];
        let session = beginning(shard.session_id(seated.key).unwrap_or(""));
        let client = peer.map(display);
        info!(shard = self.shared.placement.shard(self.index, seated.shard).0, session, client, ended, "client left");
        shard.leave(now, seated.key, ended);
        self.touch(seated.shard);
    }

    pub(super) fn disconnect(&mut self, at: usize, key: SeatKey, code: CloseCode) {
        let Some(n) = self.places[at].clients.iter().position(|it| it.0 == key) else { return };
        let (_, token) = self.places[at].clients.swap_remove(n);
        self.close_unseated(token, code, "");
    }

    pub(super) fn tell_invalid_session(&mut self, now: Instant, at: usize, key: SeatKey) {
        let Some(n) = self.places[at].clients.iter().position(|it| it.0 == key) else { return };
        let (_, token) = self.places[at].clients.swap_remove(n);
        self.with_client(token, |core, client| {
            client.seated = None;
            client.blocked = None;
            core.resumes_refused.not_found += 1;
            client.tell_invalid_session(&mut core.net, token);
            client.conversation.on_invalid_session(now);
            core.arm_client(token, client);
            Fate::Stays
        });
        self.conns.note_greeting(token, now);
    }
}
