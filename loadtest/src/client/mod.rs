//! One bot's connection to a gateway: it identifies, resumes, beats, and shows every payload to its judge.
//!
//! It does what a careful library does, and on order what a careless one does: go away, stop reading.

mod conversation;
pub mod options;
mod outage;
pub mod watch;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use self::conversation::{End, converse};
use self::outage::Outage;
use crate::compress::Compression;
use crate::judge::{Judge, Terms};
use crate::silence::Silence;
use crate::tally::Tally;
use crate::tls::Roots;

/// Pause after a connection that could not be opened or was closed early.
const RETRY: Duration = Duration::from_millis(200);
/// Between two looks whether something came.
const SILENCE_POLL: Duration = Duration::from_millis(10);
/// Time for connecting, the upgrade included.
const CONNECT: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Settings {
    /// `ws://HOST:PORT`, without a query.
    pub url: String,
    pub roots: Roots,
    pub shards: u32,
    pub compression: Compression,
    pub token: String,
    pub intents: u64,
    pub terms: Terms,
    /// Beat on HELLO, before IDENTIFY, as discord.py and JDA do.
    pub beats_at_once: bool,
    /// Beat at least this often, however long HELLO's interval is.
    pub heartbeat_ms_max: u64,
    /// `SO_RCVBUF`; `None` for the kernel's own.
    pub receive_buffer_bytes: Option<u32>,
}

/// What a client is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// End the TCP connection without a close frame, be gone for this long, come back with RESUME.
    Away(Duration),
    /// The same, but come back with IDENTIFY, as a library that keeps nothing over its restart.
    Renew(Duration),
    /// Read nothing for this long, with the connection open.
    StopReading(Duration),
    /// Op 8 for all members of a guild.
    RequestMembers { guild: u64, nonce: String },
    /// Any payload, as it is.
    Send(String),
    /// Close with 1000 and end.
    Leave,
}

/// What happened to a client's connections.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub connects: u64,
    pub identifies: u64,
    /// RESUMED dispatches.
    pub resumes: u64,
    pub invalid_sessions: u64,
    pub reconnects_asked: u64,
    pub heartbeats: u64,
    pub heartbeat_acks: u64,
    /// Close frames from the gateway, by code.
    pub closes: BTreeMap<u16, u64>,
    /// Connections that ended without a close frame, not by order.
    pub drops: u64,
}

pub struct Client {
    pub settings: Settings,
    pub judge: RefCell<Judge>,
    pub history: RefCell<History>,
    tally: RefCell<Rc<RefCell<Tally>>>,
    /// READY or RESUMED came on the connection that is open now.
    pub is_live: Cell<bool>,
    outage: Outage,
    /// It is away, or does not read, by order.
    pub is_absent: Cell<bool>,
    orders: RefCell<VecDeque<Order>>,
    stirred: Notify,
    rng: RefCell<Rng>,
}

/// Waits until nothing comes to any of them: what was sent twice comes after what is waited for.
pub async fn silence(clients: &[Rc<Client>]) {
    let count = || clients.iter().map(|it| it.judge.borrow().dispatches).sum();
    let mut silence = Silence::new(count(), Instant::now().into_std());
    while !silence.on_look(count(), Instant::now().into_std()) {
        sleep(SILENCE_POLL).await;
    }
}

impl Client {
    pub fn new(settings: Settings, tally: Rc<RefCell<Tally>>, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            judge: RefCell::new(Judge::new(settings.terms.clone())),
            settings,
            history: RefCell::default(),
            tally: RefCell::new(tally),
            is_live: Cell::new(false),
            outage: Outage::default(),
            is_absent: Cell::new(false),
            orders: RefCell::default(),
            stirred: Notify::new(),
            rng: RefCell::new(Rng::with_seed(seed)),
        })
    }

    /// Measures into `tally` from now on.
    pub fn set_tally(&self, tally: Rc<RefCell<Tally>>) {
        self.tally.replace(tally);
    }

    /// Gives an order; it is carried out when the client comes to it.
    pub fn order(&self, order: Order) {
        self.orders.borrow_mut().push_back(order);
        self.stirred.notify_one();
    }

    /// Connects, and connects again, until told to leave or refused for good.
    pub async fn run(self: Rc<Self>) {
        let mut use_resume_url = true;
        loop {
            self.judge.borrow_mut().on_connect();
            let opening = timeout(CONNECT, self.open(use_resume_url)).await;
            let end = match opening {
                Ok(Ok(opened)) => converse(&self, opened).await,
                _ => End::Refused,
            };
            self.is_live.set(false);
            use_resume_url = !(use_resume_url && end == End::Refused);
            match end {
                End::Ordered(_) => self.outage.on_left(),
                _ => self.outage.on_lost(),
            }
            match end {
                End::Ordered(Order::Away(time)) => self.pause(time).await,
                End::Ordered(Order::Renew(time)) => {
                    self.judge.borrow_mut().on_renew();
                    self.pause(time).await;
                }
                End::Ordered(_) => return,
                End::Reconnect => {}
                End::Refused => sleep(RETRY).await,
                End::Lost => {
                    self.history.borrow_mut().drops += 1;
                    sleep(RETRY / 10).await;
                }
                End::Closed(code) => {
                    *self.history.borrow_mut().closes.entry(code).or_default() += 1;
                    if matches!(code, 4004 | 4010..=4014) {
                        self.judge.borrow_mut().findings.add("refused for good", &format!("close {code}"));
                        return;
                    }
                    if matches!(code, 4003 | 4007) {
                        self.judge.borrow_mut().session = None;
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn pause(&self, time: Duration) {
        self.is_absent.set(true);
        sleep(time).await;
        self.is_absent.set(false);
    }

    /// Whether the connection was lost, not by order, and no event has come since.
    pub fn is_in_outage(&self) -> bool {
        self.outage.is_open()
    }

    /// The outages that ended since the last call, in nanoseconds: from the last event before the connection was lost
    /// to the first one after.
    pub fn take_outages(&self) -> Vec<u64> {
        self.outage.take()
    }

    fn mask(&self) -> Option<[u8; 4]> {
        Some(self.rng.borrow_mut().u32(..).to_ne_bytes())
    }
}
