//! What a shard gives to the store and gets from it, seen from the core: records, sealed segments, checkpoints, segments read back.
//!
//! The order that the core keeps makes the store's contents true: records first, then segments and checkpoints that were taken after
//! them, in the order in which they were taken. So what lies in the store never runs ahead of its records.
#![forbid(unsafe_code)]

use std::time::Instant;

use super::journal::Journal;
use super::record::{Record, RequestRecord};
use super::{Action, Shard};
use crate::session::requests::Asked;
use crate::store::{Sealed, StateBlob};

/// A client's request, ready to be sent once the store knows whose it is.
#[derive(Debug)]
pub(super) struct Held {
    mark: u64,
    payload: Vec<u8>,
}

impl Shard {
    /// There is a store now, with nothing of this shard in it. Everything is written: what is known at once, guilds one by one through
    /// `checkpoint`. Until all of it is there a crash loses the shard's sessions, and nothing waits for the store.
    pub fn begin_journal(&mut self) {
        let mark = self.journal.as_ref().map_or(self.last_mark, |it| it.mark);
        self.journal = Some(Journal::new(self.settings.upstream.shard, mark));
        self.gates.begin(mark);
        let sequence = self.upstream.session().map(|it| it.sequence);
        self.gates.restart_sequence(sequence);
        self.upstream.acknowledge(sequence);
        self.dirty.clear();
        // Older dispatches stay in memory alone.
        self.log.close();
        self.log.seal_from(Some(self.log.head()));
        self.stored_from = self.log.head();
        (self.state_from, self.floor, self.floor_moved) = (self.log.head(), self.log.head(), false);
        self.write(&Record::Begin { head: self.state_from, stored_from: self.state_from });
        self.beginning = Some(self.cache.guilds().collect());
        self.end_beginning();
    }

    /// What is to be written. The core takes the bytes, remembers the mark, and resets `urgent`.
    pub fn journal(&mut self) -> Option<&mut Journal> {
        self.journal.as_mut()
    }

    /// The store has everything up to this mark. Pump the clients afterwards.
    pub fn on_written(&mut self, mark: u64) {
        if self.journal.is_some() {
            self.gates.on_written(mark);
            self.upstream.acknowledge(self.gates.sequence());
        }
    }

    /// There is no store any more: memory alone, and nothing waits. `begin_journal` starts anew.
    pub fn on_store_lost(&mut self, now: Instant) {
        let Some(journal) = self.journal.take() else { return };
        self.last_mark = journal.mark;
        self.gates.open_all();
        self.upstream.acknowledge(None);
        self.dirty.clear();
        self.beginning = None;
        self.log.seal_from(None);
        self.stored_from = u64::MAX;
        self.loaded.give_up();
        self.end_unreadable();
        if self.restoring.is_some() {
            self.lose_state(now);
        }
    }

    /// The store begins a new file of records, and wants all that the old ones say and that still holds. Take the sealed segments
    /// before these records; then `floor`.
    pub fn seal(&mut self) {
        if self.journal.is_none() {
            return;
        }
        self.log.close();
        if self.beginning.is_some() {
            // Nothing stands for this shard yet, and all of it follows when the guilds are there. Then the log is wanted from where it began.
            self.write(&Record::Begin { head: self.log.head(), stored_from: self.state_from });
            return;
        }
        self.floor_moved = self.restoring.is_none();
        self.tell_floor();
        self.write_all();
    }

    /// A segment that will not change any more, each once and in order.
    pub fn take_sealed(&mut self) -> Option<Sealed> {
        self.log.take_sealed()
    }

    /// The guild whose state is to be stored now, if it is one's turn. Hand it on before the journal's bytes of later calls.
    pub fn checkpoint(&mut self, now: Instant) -> Option<StateBlob> {
        if self.journal.is_none() || self.restoring.is_some() {
            return None;
        }
        self.tell_floor();
        let guild = match &mut self.beginning {
            Some(guilds) => guilds.pop_front(),
            None => self.dirty.take_due(self.log.appended(), self.cache.counts().bytes, now),
        };
        let Some(guild) = guild else {
            self.end_beginning();
            return None;
        };
        self.floor_moved = self.beginning.is_none();
        let mut bytes = Vec::new();
        self.cache.write_guild(guild, &mut bytes);
        Some(StateBlob { guild: guild.0, as_of: self.log.head(), bytes })
    }

    /// The lowest index that a restart would read to make up for what checkpoints do not have.
    pub fn floor(&self) -> u64 {
        self.floor.min(self.ready_as_of)
    }

    /// The store has let older segments go: it begins with this index now.
    pub fn on_store_tail(&mut self, from: u64) {
        self.stored_from = self.stored_from.max(from);
        self.end_unreadable();
    }

    /// The answer to `Action::ReadLog(index)`; `None`: it is gone. Pump the clients afterwards.
    pub fn on_segment(&mut self, now: Instant, index: u64, segment: Option<Sealed>) {
        if self.journal.is_none() {
            return;
        }
        if !self.loaded.on_answer(index, segment.as_ref()) {
            self.stored_from = self.stored_from.max(index + 1);
            self.end_unreadable();
        }
        if let Some(restoring) = &mut self.restoring {
            // In the shard's turn, not in the answer's: the next one comes while this one is applied, and nothing else would.
            restoring.go_on_at(now);
        }
    }

    /// Gives the oldest segment of the log back. Sessions that cannot go on without it, whose clients have left, are over.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        if !self.log.drop_oldest() {
            return false;
        }
        let from = self.readable_from();
        let mut at = 0;
        while at < self.seats.len() {
            let seat = &mut self.seats[at];
            if !seat.connected && seat.cursor < from {
                self.remove(at);
                continue;
            }
            seat.forget_before(from);
            at += 1;
        }
        true
    }

    /// Ends the log's newest segment, so that it can be given to the store and then back.
    pub(crate) fn close_segment(&mut self) {
        self.log.close();
    }

    /// Whether what leaves memory can be read from the store.
    pub(crate) fn has_store(&self) -> bool {
        self.journal.is_some()
    }

    /// The oldest index that a cursor may have.
    pub(super) fn readable_from(&self) -> u64 {
        self.log.tail().min(self.stored_from)
    }

    pub(super) fn write(&mut self, record: &Record<'_>) {
        if let Some(journal) = &mut self.journal {
            journal.push(record);
        }
    }

    /// Asks the core for the segment with this index, unless it is under way.
    pub(super) fn read_log(&mut self, index: u64) {
        if self.loaded.want(index) {
            self.log_reads += 1;
            self.actions.push_back(Action::ReadLog(index));
        }
    }

    /// Segments that were read back go when no connected client is behind memory.
    pub(super) fn let_go_of_loaded(&mut self) {
        let tail = self.log.tail();
        if !self.loaded.is_empty() && !self.seats.iter().any(|it| it.connected && it.cursor < tail) {
            self.loaded.clear();
        }
    }

    /// The next of the clients' commands. A request with a nonce of ours waits until the store knows whose it is: what Discord answers
    /// would find nobody after a crash.
    pub(super) fn next_command(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(held) = self.held.take_if(|it| self.gates.is_open(it.mark) && self.upstream.is_live()) {
            return Some(held.payload);
        }
        if self.held.is_some() {
            return None;
        }
        let had_presence = self.commands.has_presence();
        let payload = self.commands.poll(now)?;
        if had_presence && !self.commands.has_presence() {
            self.on_presence_told();
        }
        if self.beginning.is_none()
            && let Some(journal) = &mut self.journal
            && let Some((tag, asked)) = self.commands.noted()
        {
            journal.push(&Record::Request(request_record(tag, asked)));
            self.held = Some(Held { mark: journal.ask(), payload });
            return None;
        }
        Some(payload)
    }

    pub(super) fn tell_requests_done(&mut self) {
        while let Some(tag) = self.commands.requests_mut().take_done() {
            self.write(&Record::RequestDone(tag));
        }
    }

    /// Sessions behind what can be read are over.
    fn end_unreadable(&mut self) {
        let from = self.readable_from();
        for key in self.seats.iter().filter(|it| it.cursor < from).map(|it| it.key).collect::<Vec<_>>() {
            let at = self.seat_at(key).expect("it was just there");
            if matches!(self.seats[at].phase, super::Phase::Following { .. } | super::Phase::Seeking { .. }) {
                self.invalidate(key);
            }
        }
    }

    fn tell_floor(&mut self) {
        if std::mem::take(&mut self.floor_moved) {
            self.floor = self.dirty.floor().unwrap_or(self.log.head());
            self.write(&Record::Floor(self.floor));
        }
    }

    /// All guilds are there: from now on what is in the store stands for this shard.
    fn end_beginning(&mut self) {
        if self.beginning.take_if(|it| it.is_empty()).is_some() {
            self.floor = self.dirty.floor().unwrap_or(self.log.head());
            self.write_all();
        }
    }

    /// All that records say, but dispatches.
    fn write_all(&mut self) {
        if !self.cache.has_ready() {
            // No session yet, so nothing that could be gone on with.
            let head = self.log.head();
            return self.write(&Record::Begin { head, stored_from: head });
        }
        self.write_epoch();
        for at in 0..self.seats.len() {
            self.write_seat(at);
        }
        if let Some(journal) = &mut self.journal {
            for (tag, asked) in self.commands.requests().iter() {
                journal.push(&Record::Request(request_record(tag, asked)));
            }
            journal.push(&Record::Floor(self.floor));
            journal.push(&Record::Presence(&self.presence_told));
        }
    }
}

fn request_record(tag: u64, asked: &Asked) -> RequestRecord<'_> {
    let Asked { client, nonce, chunks_received } = asked;
    RequestRecord { tag, client: *client, nonce: nonce.as_deref(), chunks_received: *chunks_received }
}
