//! What a shard has written down and the store has not yet got, and what must not go out before it has.
//!
//! The core takes `bytes` away and says later, by `mark`, that they are in the kernel. What records mean is in `record`; which facts
//! need a gate the shard knows: those that cannot be had again from Discord's stream.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::record::{self, Record};
use super::segment::Audience;
use crate::wire::ShardId;

/// A shard's records on their way to the store. The core drains `bytes` and remembers `mark` with them: everything up to that mark is
/// written once they are.
#[derive(Debug)]
pub struct Journal {
    pub bytes: Vec<u8>,
    /// Records appended since the beginning.
    pub mark: u64,
    /// A client waits for what is in `bytes`: to be sent at once. Whoever drains resets it.
    pub urgent: bool,
    shard: ShardId,
}

impl Journal {
    pub(super) fn new(shard: ShardId, mark: u64) -> Self {
        Self { bytes: Vec::new(), mark, urgent: false, shard }
    }

    pub(super) fn push(&mut self, record: &Record<'_>) {
        record.append(&mut self.bytes, self.shard);
        self.mark += 1;
    }

    /// At the second index, after one that ended at the first.
    pub(super) fn push_dispatch(
        &mut self,
        indices: [u64; 2],
        own: bool,
        audience: Audience,
        head: &[u8],
        tail: &[&[u8]],
    ) {
        record::append_dispatch(&mut self.bytes, self.shard, indices, own, audience, head, tail);
        self.mark += 1;
    }

    /// The mark at which everything so far is written; somebody waits for it.
    pub(super) fn ask(&mut self) -> u64 {
        self.urgent = true;
        self.mark
    }
}

/// What waits for the store. Bounded by what it waits about: a few entries per guild of a READY.
#[derive(Debug, Default)]
pub(super) struct Gates {
    written: u64,
    /// Dispatches from an index on wait for a mark; both rise.
    log: VecDeque<(u64, u64)>,
    /// Marks that have not been written, each with Discord's sequence number there: some early one, and the newest.
    early: Option<(u64, u64)>,
    newest: Option<(u64, u64)>,
    /// The highest sequence number known to be written.
    sequence: Option<u64>,
}

impl Gates {
    /// Whether what needs `mark` may go out.
    pub fn is_open(&self, mark: u64) -> bool {
        mark <= self.written
    }

    /// Clients may read below this index.
    pub fn visible(&self) -> u64 {
        self.log.front().map_or(u64::MAX, |it| it.0)
    }

    /// Dispatches from `index` on wait until `mark` is written.
    pub fn close_log(&mut self, index: u64, mark: u64) {
        self.log.push_back((index, mark));
    }

    /// The dispatch with this sequence number was journaled as `mark`.
    pub fn on_sequence(&mut self, sequence: u64, mark: u64) {
        self.newest = Some((mark, sequence));
        if self.early.is_none() {
            self.early = self.newest;
        }
    }

    pub fn on_written(&mut self, mark: u64) {
        self.written = self.written.max(mark);
        while self.log.front().is_some_and(|it| it.1 <= self.written) {
            self.log.pop_front();
        }
        if let Some((_, sequence)) = self.early.take_if(|it| it.0 <= self.written) {
            self.sequence = Some(sequence);
            self.early = self.newest;
        }
        if let Some((_, sequence)) = self.newest.take_if(|it| it.0 <= self.written) {
            self.sequence = Some(sequence);
            self.early = None;
        }
    }

    /// A sequence number that is written: the last one, or one a little before it.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// A new session: its numbers begin at `sequence`.
    pub fn restart_sequence(&mut self, sequence: Option<u64>) {
        (self.early, self.newest) = (None, None);
        self.sequence = sequence;
    }

    /// There is no store any more: nothing waits.
    pub fn open_all(&mut self) {
        *self = Self { written: u64::MAX, ..Self::default() };
    }

    /// There is a store again: what is journaled after `mark` can be waited for.
    pub fn begin(&mut self, mark: u64) {
        *self = Self { written: mark, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatches_wait_for_their_own_mark_and_for_those_before() {
        let mut gates = Gates::default();
        gates.close_log(10, 3);
        gates.close_log(12, 5);
        assert_eq!(gates.visible(), 10);
        gates.on_written(4);
        assert_eq!((gates.visible(), gates.is_open(4), gates.is_open(5)), (12, true, false));
        gates.on_written(5);
        assert_eq!(gates.visible(), u64::MAX);
    }

    #[test]
    fn the_written_sequence_never_runs_ahead_of_the_store() {
        let mut gates = Gates::default();
        gates.on_sequence(7, 1);
        gates.on_sequence(8, 2);
        assert_eq!(gates.sequence(), None);
        gates.on_written(1);
        assert_eq!(gates.sequence(), Some(7));
        gates.on_sequence(9, 3);
        gates.on_written(3);
        assert_eq!(gates.sequence(), Some(9));
        gates.on_sequence(10, 4);
        assert_eq!(gates.sequence(), Some(9));
        gates.on_written(4);
        assert_eq!(gates.sequence(), Some(10));
    }

    #[test]
    fn without_a_store_nothing_waits() {
        let mut gates = Gates::default();
        gates.close_log(10, 3);
        gates.open_all();
        assert!(gates.is_open(u64::MAX));
        assert_eq!(gates.visible(), u64::MAX);
    }
}
