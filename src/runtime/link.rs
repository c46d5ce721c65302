//! One shard's connection to Discord, from the TCP socket to whole payloads: a tunnel through `egress_proxy` if there is one, TLS, the
//! upgrade, frames, compression.
//!
//! It owns no socket: bytes come in, bytes to be sent go into the outbox that is handed in. It decides nothing about sessions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::net::Token;
use super::tls::Tls;
use crate::wire::deframe::{Deframer, Message, UPSTREAM_MESSAGE_BYTES_MAX};
use crate::wire::egress::{EgressError, EgressProxy, Tunnel};
use crate::wire::frame::{self, Opcode};
use crate::wire::http::{self, HttpError};
use crate::wire::inflate::{InflateError, Inflated, Inflater};
use crate::wire::url::GatewayUrl;
use crate::wire::{CloseCode, Compression, FrameError, Role};

/// Scratch buffers above this are given back after use: a giant READY must not be paid for by every core for ever.
const SCRATCH_KEPT_MAX: usize = 4 * 1024 * 1024;

/// What a link reports while it takes bytes in.
#[derive(Debug)]
pub enum LinkEvent<'a> {
    /// The WebSocket is open.
    Open,
    /// One whole payload, inflated.
    Payload(&'a [u8]),
    /// Discord sent a close frame.
    Close(Option<CloseCode>),
}

/// Why a link cannot go on.
#[derive(Debug)]
pub enum LinkError {
    Egress(EgressError),
    Tls(io::Error),
    Upgrade(HttpError),
    Frame(FrameError),
    Inflate(InflateError),
}

impl LinkError {
    /// How long the other side asks us to stay away: the upgrade's `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upgrade(HttpError::Status { retry_after_s, .. }) => {
                retry_after_s.map(|it| Duration::from_secs(it.into()))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Egress(error) => write!(f, "egress_proxy: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Upgrade(error) => write!(f, "upgrade: {error}"),
            Self::Frame(error) => write!(f, "frame: {error}"),
            Self::Inflate(error) => write!(f, "decompression: {error}"),
        }
    }
}

/// Buffers that all links of a core use in turn.
#[derive(Default)]
pub struct Scratch {
    plain: Vec<u8>,
    inflated: Vec<u8>,
    framed: Vec<u8>,
}

enum Phase {
    /// Waiting for addresses.
    Resolving,
    Connecting,
    /// The proxy has not opened the tunnel yet.
    Tunneling(Tunnel),
    Upgrading {
        unread: Vec<u8>,
    },
    Open,
    /// A close frame has come or gone.
    Closing,
}

pub struct Link {
    /// The socket, once there is one.
    pub token: Option<Token>,
    pub url: GatewayUrl,
    /// While connecting: when the address that is being tried makes way for the next.
    pub next_address_at: Option<Instant>,
    /// TCP goes there, and the host of `url` is the proxy's to resolve.
    egress: Option<Arc<EgressProxy>>,
    path_and_query: String,
    /// Addresses not tried yet.
    addresses: Vec<SocketAddr>,
    phase: Phase,
    tls: Option<Tls>,
    nonce: [u8; 16],
    deframer: Deframer,
    inflater: Inflater,
    /// The beginning of a payload whose end comes in a later message.
    partial: Vec<u8>,
    masks: fastrand::Rng,
}

impl Link {
    /// `url` is a whole gateway URL with its query. The error is a sentence.
    pub fn new(
        url: &str,
        compression: Compression,
        tls: &Arc<ClientConfig>,
        egress: Option<Arc<EgressProxy>>,
        seed: u64,
    ) -> Result<Self, String> {
        let parsed = GatewayUrl::parse(url).map_err(|error| error.to_string())?;
        let after_scheme = url.find("://").map_or(0, |it| it + 3);
        let path_and_query =
            url[after_scheme..].find(['/', '?']).map_or("/", |it| &url[after_scheme + it..]).to_owned();
        let tls = match parsed.tls {
            true => Some(Tls::client(tls.clone(), &parsed.host).map_err(|error| format!("{}: {error}", parsed.host))?),
            false => None,
        };
        let mut masks = fastrand::Rng::with_seed(seed);
        let nonce = masks.u128(..).to_le_bytes();
        Ok(Self {
            token: None,
            url: parsed,
            next_address_at: None,
            egress,
            path_and_query,
            addresses: Vec::new(),
            phase: Phase::Resolving,
            tls,
            nonce,
            deframer: Deframer::new(Role::Client, UPSTREAM_MESSAGE_BYTES_MAX),
            inflater: Inflater::new(compression),
            partial: Vec::new(),
            masks,
        })
    }

    /// Where TCP goes: to Discord's host, or to the proxy before it.
    pub fn peer(&self) -> (&str, u16) {
        match &self.egress {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (&self.url.host, self.url.port),
        }
    }

    /// The addresses of `peer` are known.
    pub fn on_resolved(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses = addresses;
        self.addresses.reverse();
    }

    /// The next address to try; `None` when all have failed.
    pub fn next_address(&mut self) -> Option<SocketAddr> {
        self.phase = Phase::Connecting;
        self.next_address_at = None;
        self.addresses.pop()
    }

    pub fn has_more_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether TCP is not open yet, so that another address may be tried.
    pub fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Resolving)
    }

    /// TCP is open: begin the tunnel, or TLS and the upgrade.
    pub fn on_connected(&mut self, out: &mut Vec<u8>) -> Result<(), LinkError> {
        self.addresses.clear();
        self.next_address_at = None;
        if let Some(proxy) = &self.egress {
            let tunnel = Tunnel::open(proxy, &self.url.host, self.url.port, out).map_err(LinkError::Egress)?;
            self.phase = Phase::Tunneling(tunnel);
            return Ok(());
        }
        self.begin_upgrade(out)
    }

    fn begin_upgrade(&mut self, out: &mut Vec<u8>) -> Result<(), LinkError> {
        self.phase = Phase::Upgrading { unread: Vec::new() };
        let request = http::upgrade_request(&self.url.host_header(), &self.path_and_query, self.nonce);
        self.write(&request, out)
    }

    /// Bytes from the socket. `on_event` gets what they hold, in order.
    pub fn on_bytes(
        &mut self,
        mut bytes: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        on_event: &mut dyn FnMut(LinkEvent<'_>),
    ) -> Result<(), LinkError> {
        if let Phase::Tunneling(tunnel) = &mut self.phase {
            let Some(used) = tunnel.on_bytes(bytes, out).map_err(LinkError::Egress)? else { return Ok(()) };
            bytes = &bytes[used..];
            self.begin_upgrade(out)?;
        }
        if self.tls.is_none() {
            return self.on_plain(bytes, &mut scratch.inflated, out, on_event);
        }
        let mut plain = std::mem::take(&mut scratch.plain);
        plain.clear();
        let decrypted = self.tls.as_mut().map_or(Ok(()), |tls| tls.on_bytes(bytes, &mut plain, out));
        let handled = self.on_plain(&plain, &mut scratch.inflated, out, on_event);
        plain.shrink_to(SCRATCH_KEPT_MAX);
        scratch.plain = plain;
        decrypted.map_err(LinkError::Tls)?;
        handled
    }

    /// Sends one payload as a text message.
    pub fn send(&mut self, payload: &[u8], scratch: &mut Scratch, out: &mut Vec<u8>) -> Result<(), LinkError> {
        if !matches!(self.phase, Phase::Open) {
            return Ok(());
        }
        self.write_frame(Opcode::Text, payload, scratch, out)
    }

    /// Says goodbye with `code`.
    pub fn close(&mut self, code: CloseCode, scratch: &mut Scratch, out: &mut Vec<u8>) -> Result<(), LinkError> {
        if matches!(self.phase, Phase::Open) {
            self.write_frame(Opcode::Close, &code.0.to_be_bytes(), scratch, out)?;
        }
        let is_tunneled = !matches!(self.phase, Phase::Tunneling(_));
        self.phase = Phase::Closing;
        // To a proxy that has not opened the tunnel nothing of TLS is said.
        match self.tls.as_mut().filter(|_| is_tunneled) {
            Some(tls) => tls.close(out).map_err(LinkError::Tls),
            None => Ok(()),
        }
    }

    fn on_plain(
        &mut self,
        bytes: &[u8],
        inflated: &mut Vec<u8>,
        out: &mut Vec<u8>,
        on_event: &mut dyn FnMut(LinkEvent<'_>),
    ) -> Result<(), LinkError> {
        match &mut self.phase {
            Phase::Open => self.on_frames(bytes, inflated, out, on_event),
            Phase::Upgrading { unread } => {
                unread.extend_from_slice(bytes);
                let Some(consumed) = http::parse_upgrade_response(unread, self.nonce).map_err(LinkError::Upgrade)?
                else {
                    return Ok(());
                };
                let unread = std::mem::take(unread);
                self.phase = Phase::Open;
                on_event(LinkEvent::Open);
                self.on_frames(&unread[consumed..], inflated, out, on_event)
            }
            Phase::Resolving | Phase::Connecting | Phase::Tunneling(_) | Phase::Closing => Ok(()),
        }
    }

    fn on_frames(
        &mut self,
        mut bytes: &[u8],
        inflated: &mut Vec<u8>,
        out: &mut Vec<u8>,
        on_event: &mut dyn FnMut(LinkEvent<'_>),
    ) -> Result<(), LinkError> {
        let Self { deframer, inflater, partial, masks, tls, .. } = self;
        while let Some(message) = deframer.next(&mut bytes).map_err(LinkError::Frame)? {
            match message {
                Message::Text(payload) => on_event(LinkEvent::Payload(payload)),
                Message::Binary(message) => {
                    // What has come so far is gone on with, not copied.
                    match partial.is_empty() {
                        true => inflated.clear(),
                        false => *inflated = std::mem::take(partial),
                    }
                    match inflater.inflate(message, inflated).map_err(LinkError::Inflate)? {
                        Inflated::Whole => on_event(LinkEvent::Payload(inflated)),
                        Inflated::Partial => std::mem::swap(partial, inflated),
                    }
                    inflated.shrink_to(SCRATCH_KEPT_MAX);
                }
                Message::Ping(data) => {
                    let mut pong = Vec::with_capacity(data.len() + 8);
                    frame::write_frame(&mut pong, Opcode::Pong, data, Some(masks.u32(..).to_ne_bytes()));
                    write_through(tls, &pong, out)?;
                }
                Message::Pong(_) => {}
                Message::Close { code, .. } => {
                    on_event(LinkEvent::Close(code));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write_frame(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        let mask = Some(self.masks.u32(..).to_ne_bytes());
        if self.tls.is_none() {
            frame::write_frame(out, opcode, payload, mask);
            return Ok(());
        }
        scratch.framed.clear();
        frame::write_frame(&mut scratch.framed, opcode, payload, mask);
        write_through(&mut self.tls, &scratch.framed, out)
    }

    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), LinkError> {
        write_through(&mut self.tls, bytes, out)
    }
}

fn write_through(tls: &mut Option<Tls>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), LinkError> {
    match tls {
        Some(tls) => tls.write(bytes, out).map_err(LinkError::Tls),
        None => {
            out.extend_from_slice(bytes);
            Ok(())
        }
    }
}
