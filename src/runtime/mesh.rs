//! The messages between cores, and between cores and the control thread: one closed enum each way.
//!
//! No event of Discord ever crosses between cores: only hand-overs, identify turns, addresses, drain and reports. What is stored goes to the
//! storage thread in batches (`storage::mail`).

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::client_tls::Requester;
use super::closes::Closes;
use super::delays::Delays;
use super::net::Traffic;
use super::settings::LiveSettings;
use super::storage::mail::{Batch, StoreReport};
use crate::shard::pressure::Pressure;
use crate::shard::report::{ShardReport, Wanted};
use crate::store::{Sealed, StateBlob};
use crate::wire::http::PlainRequest;
use crate::wire::{CloseCode, ShardId};

/// Mail for a core.
pub enum ToCore {
    /// A client that named a shard of this core in its IDENTIFY or RESUME.
    HandOver(Box<super::client::HandOver>),
    /// The shard may connect now and IDENTIFY no earlier than `not_before`.
    IdentifyTurn {
        shard: ShardId,
        not_before: Instant,
    },
    /// Answer to `ToControl::Resolve`; the error is a sentence.
    Resolved {
        shard: ShardId,
        host: String,
        addresses: Result<Vec<SocketAddr>, String>,
    },
    /// Answer with a report of every shard of this core.
    Report(mpsc::Sender<CoreReport>, Detail),
    /// Answer `ToControl::Turned`: this core goes round.
    Turn,
    /// Answer with the stored JSON, or `None` when no shard of this core has such an object.
    Find {
        wanted: Wanted,
        reply: mpsc::Sender<Option<Vec<u8>>>,
    },
    /// Stop accepting, send what is buffered, close clients resumably and Discord's connections with this code, then answer
    /// `ToControl::Drained`. Ends by itself after `within`.
    /// `leave_listeners`: others hold the listeners too and go on with them; they stay open.
    Drain {
        upstream_close: CloseCode,
        within: Duration,
        leave_listeners: bool,
    },
    /// The operator has changed what may be changed.
    Settings(Box<LiveSettings>),
    /// How short memory is from now on.
    Pressure(Pressure),
    /// Clients that connect from now on are shown this certificate.
    ClientTls(Arc<ServerConfig>),
    /// The batch is in the kernel. Emptied but for its marks, to be used again.
    StoreWritten(Batch),
    /// Answer to `ToStore::Read`; `None`: the segment is gone.
    StoreSegment {
        shard: ShardId,
        index: u64,
        segment: Option<Sealed>,
    },
    /// Recovered state of a shard, one guild; then that it was all, and before that perhaps that some of it is damaged.
    StoreState {
        shard: ShardId,
        blob: StateBlob,
    },
    StoreStateLost {
        shard: ShardId,
    },
    StoreStateComplete {
        shard: ShardId,
    },
    /// Old segments were given back: this is the shard's oldest index that can be read.
    StoreTail {
        shard: ShardId,
        tail: u64,
    },
    /// Seal all logs, write all small state anew, answer `ToStore::Rotated`.
    StoreRotate {
        wal: u64,
    },
    /// The disk has failed: memory alone from here on.
    StoreLost,
    /// An empty store has begun: write everything.
    StoreBegin {
        generation: u64,
    },
    /// Answer to `ToStore::CoreEnded`: everything is on disk, or it never will be.
    StoreEnded,
    /// To the first core, for its report.
    StoreReport(Box<StoreReport>),
}

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The gateway's port.
    Gateway,
    /// The operator's own (`admin_bind`).
    Admin,
}

/// Mail for the control thread.
pub enum ToControl {
    /// The shard wants to IDENTIFY.
    IdentifyWanted { shard: ShardId },
    /// The shard sent its IDENTIFY.
    IdentifySent { shard: ShardId, at: Instant },
    /// The shard's turn ended without an IDENTIFY (the connection failed before, or it is not needed any more).
    IdentifyReturned { shard: ShardId },
    /// Resolve a host of Discord's.
    Resolve { shard: ShardId, host: String, port: u16 },
    /// Answer to `ToCore::Turn`.
    Turned { core: usize },
    /// The shard has its session's stream, or has lost it.
    ShardLive { shard: ShardId, is_live: bool },
    /// An HTTP request that is not a WebSocket upgrade; the requester's socket is blocking and has a send timeout.
    Page { requester: Requester, request: PlainRequest, door: Door },
    /// The core has drained and its thread ends.
    Drained { core: usize },
    /// Another process takes over.
    TakenOver(Box<super::takeover::Successor>),
    /// The core's loop failed and its thread ends: the process cannot go on.
    CoreFailed { core: usize, error: String },
    /// The storage thread ends although its work goes on: nor can the process.
    StorageFailed { error: String },
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGUSR2.
    WriteTotals,
}

/// Sends mail to one core and wakes it.
#[derive(Clone)]
pub struct CoreSender {
    mail: mpsc::Sender<ToCore>,
    wake: Arc<std::os::fd::OwnedFd>,
}

impl CoreSender {
    pub(super) fn new(mail: mpsc::Sender<ToCore>, wake: Arc<std::os::fd::OwnedFd>) -> Self {
        Self { mail, wake }
    }

    /// False when the core has ended; the message is dropped then.
    pub fn send(&self, message: ToCore) -> bool {
        let sent = self.mail.send(message).is_ok();
        super::sys::eventfd_wake(self.wake.as_raw_fd());
        sent
    }
}

/// Connections of clients that a limit has closed, counted by which.
#[derive(Clone, Copy, Debug, Default)]
pub struct TurnedAway {
    /// More than `clients_max`, all of them identified.
    pub full: u64,
    /// The quietest of too many that had not identified.
    pub silent: u64,
    /// The upgrade took longer than `client_handshake_seconds`.
    pub handshake: u64,
    /// A TLS handshake that failed.
    pub tls: u64,
    /// More than `client_payloads_per_minute`.
    pub flood: u64,
    /// Wrong tokens, and more than `client_failed_resumes`.
    pub guesses: u64,
}

impl TurnedAway {
    pub fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("full", self.full),
            ("silent", self.silent),
            ("handshake", self.handshake),
            ("tls", self.tls),
            ("flood", self.flood),
            ("guesses", self.guesses),
        ]
    }
}

/// RESUMEs of clients answered with op 9, counted by what was wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResumesRefused {
    /// The session id is of a shard that is not held here, or is none of ours.
    pub elsewhere: u64,
    /// Nobody has this session any more, or the log has run past it.
    pub gone: u64,
    /// What the client had got was never stored, and Discord did not send it again.
    pub not_found: u64,
}

impl ResumesRefused {
    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        [("elsewhere", self.elsewhere), ("gone", self.gone), ("not_found", self.not_found)]
    }
}

/// Connections closed, by code.
#[derive(Clone, Debug, Default)]
pub struct CloseReport {
    /// By us, towards Discord.
    pub to_discord: Closes,
    /// By us, towards clients.
    pub to_clients: Closes,
    /// By clients.
    pub by_clients: Closes,
}

/// How much a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing that a walk over the state would cost: for who asks whether all is well, and may ask often.
    Brief,
    Whole,
}

/// What one core says of itself.
#[derive(Debug, Default)]
pub struct CoreReport {
    pub core: usize,
    /// "io_uring" or "epoll".
    pub backend: &'static str,
    /// Connections that have not identified yet.
    pub greeting: usize,
    pub turned_away: TurnedAway,
    pub resumes_refused: ResumesRefused,
    /// Log segments given back before their time for want of room.
    pub log_dropped_early: u64,
    /// Upgrades answered 503 because memory was used up.
    pub upgrades_refused: u64,
    /// CPU time of the core's thread.
    pub busy: Duration,
    pub traffic: Traffic,
    pub delays: Delays,
    pub closes: CloseReport,
    /// On its way to the disk.
    pub store_inflight_bytes: usize,
    pub shards: Vec<ShardReport>,
    /// Of the storage thread; the first core has it if there is one.
    pub store: Option<StoreReport>,
}
