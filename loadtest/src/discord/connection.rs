//! One client connection of the fake Discord, as its sessions see it: payloads in, frames out.
//!
//! It knows compression, frames and what a connection may send; it does not know what a session is.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::clock::SECOND_NS;
use crate::compress::{Compression, Encoder};
use crate::link::Link;
use crate::ws;

/// Payloads that a client may send in one minute.
///
/// Source: Discord, Gateway › Rate limiting.
pub const COMMANDS_PER_MINUTE: usize = 120;

pub struct Connection {
    pub id: u64,
    pub link: Link,
    compression: Compression,
    encoder: RefCell<Encoder>,
    /// Frames that the next `flush` sends.
    queued: RefCell<Vec<u8>>,
    scratch: RefCell<Vec<u8>>,
    received_ns: RefCell<VecDeque<u64>>,
    /// Shard and id of the session that it carries.
    pub session: RefCell<Option<(u32, String)>>,
    /// Time of the last heartbeat, at first of HELLO.
    pub heartbeat_ns: Cell<u64>,
    /// A server op 1 was sent and no heartbeat has come since: when.
    pub asked_ns: Cell<Option<u64>>,
    /// Every message goes out in fragments, with a ping between them.
    pub is_fragmenting: Cell<bool>,
    is_closing: Cell<bool>,
}

impl Connection {
    pub fn new(id: u64, link: Link, compression: Compression, now_ns: u64) -> Self {
        Self {
            id,
            link,
            compression,
            encoder: RefCell::new(Encoder::new(compression)),
            queued: RefCell::default(),
            scratch: RefCell::default(),
            received_ns: RefCell::default(),
            session: RefCell::default(),
            heartbeat_ns: Cell::new(now_ns),
            asked_ns: Cell::new(None),
            is_fragmenting: Cell::new(false),
            is_closing: Cell::new(false),
        }
    }

    /// Queues one payload; nothing is sent before `flush`. After a close nothing is queued any more.
    pub fn push(&self, payload: &[u8]) {
        if self.is_closing.get() {
            return;
        }
        if self.compression == Compression::None {
            return self.push_message(ws::TEXT, payload);
        }
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        self.encoder.borrow_mut().encode(payload, &mut scratch);
        self.push_message(ws::BINARY, &scratch);
    }

    fn push_message(&self, opcode: u8, message: &[u8]) {
        let mut queued = self.queued.borrow_mut();
        match self.is_fragmenting.get() {
            true => ws::push_fragments(&mut queued, opcode, message),
            false => ws::push_frame(&mut queued, opcode, message, None),
        }
    }

    /// A message that cannot be inflated where the connection is compressed, and is no JSON where it is not. What was queued before
    /// goes out first.
    pub fn send_garbage(&self) {
        let opcode = if self.compression == Compression::None { ws::TEXT } else { ws::BINARY };
        self.push_message(opcode, &[0xA5; 300]);
        self.flush();
    }

    /// Sends what is queued, in one go.
    pub fn flush(&self) {
        let mut queued = self.queued.borrow_mut();
        if !queued.is_empty() {
            self.link.send(&queued);
            queued.clear();
        }
        if queued.capacity() > 1 << 20 {
            *queued = Vec::new();
        }
    }

    /// Bytes that the client has not taken yet.
    pub fn backlog(&self) -> usize {
        self.queued.borrow().len() + self.link.pending_len()
    }

    /// One payload, now.
    pub fn send(&self, payload: &[u8]) {
        self.push(payload);
        self.flush();
    }

    /// A control frame that answers the client's.
    pub fn pong(&self, payload: &[u8]) {
        ws::push_frame(&mut self.queued.borrow_mut(), ws::PONG, payload, None);
        self.flush();
    }

    /// Sends a close frame; the reading task ends when the client answers it or a moment later.
    pub fn close(&self, code: u16, reason: &str) {
        if !self.is_closing.replace(true) {
            ws::push_close(&mut self.queued.borrow_mut(), code, reason, None);
            self.flush();
        }
    }

    pub fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// Counts one payload from the client; `false` when it is one too many for this minute.
    pub fn admit(&self, now_ns: u64) -> bool {
        let mut received = self.received_ns.borrow_mut();
        while received.front().is_some_and(|it| now_ns - it >= 60 * SECOND_NS) {
            received.pop_front();
        }
        received.push_back(now_ns);
        received.len() <= COMMANDS_PER_MINUTE
    }
}
