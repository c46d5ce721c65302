//! Segments of the log read back from the store, for cursors older than memory.
//!
//! Whoever needs one asks for the index; the answer is kept until others push it out. What comes is checked: a segment that cannot be
//! read or does not hold what was asked for counts as gone.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::segment::Segment;
use crate::store::Sealed;

/// Segments kept, and reads under way, for one shard. One more cursor that lags waits until a place is free; each segment is
/// `SEGMENT_BYTES` or one larger dispatch.
pub const LOADED_MAX: usize = 4;

#[derive(Debug)]
struct Piece {
    first: u64,
    end: u64,
    segment: Segment,
}

#[derive(Debug, Default)]
pub(super) struct Loaded {
    pieces: VecDeque<Piece>,
    /// Indices asked for.
    wanted: Vec<u64>,
}

impl Loaded {
    /// The segment that answers for `index`, and where that ends.
    pub fn find(&self, index: u64) -> Option<(&Segment, u64)> {
        self.pieces.iter().find(|it| it.first <= index && index < it.end).map(|it| (&it.segment, it.end))
    }

    /// True: the segment with `index` is to be read. False: it is under way, or too many others are.
    pub fn want(&mut self, index: u64) -> bool {
        if self.wanted.len() >= LOADED_MAX || self.wanted.contains(&index) {
            return false;
        }
        self.wanted.push(index);
        true
    }

    /// The answer for `index`. False: what was there is gone.
    pub fn on_answer(&mut self, index: u64, answer: Option<&Sealed>) -> bool {
        self.wanted.retain(|it| *it != index);
        let piece = answer.filter(|it| it.first <= index && index < it.end).and_then(|it| {
            let segment = Segment::decode(&it.bytes)?;
            let fits = segment.first() >= it.first && segment.end() <= it.end;
            fits.then_some(Piece { first: it.first, end: it.end, segment })
        });
        let Some(piece) = piece else { return false };
        self.pieces.retain(|it| it.first != piece.first);
        if self.pieces.len() >= LOADED_MAX {
            self.pieces.pop_front();
        }
        self.pieces.push_back(piece);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Nobody lags any more. What is under way may still come.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// No answer comes any more.
    pub fn give_up(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::segment::Audience;

    /// Answers for `range`, and holds as many dispatches from `first` on.
    fn sealed(range: std::ops::Range<u64>, first: u64, count: u64) -> Sealed {
        let mut segment = Segment::new(first, 0, 0);
        (0..count).for_each(|_| segment.push(b"h", &[b"t"], Audience::Everyone));
        Sealed { first: range.start, end: range.end, bytes: segment.encode() }
    }

    #[test]
    fn an_answer_is_found_by_every_index_it_stands_for() {
        let mut loaded = Loaded::default();
        assert!(loaded.want(5));
        assert!(!loaded.want(5));
        assert!(loaded.on_answer(5, Some(&sealed(3..9, 6, 2))));
        assert!(loaded.want(5));
        for index in 3..9 {
            assert_eq!(loaded.find(index).map(|it| it.1), Some(9));
        }
        assert!(loaded.find(2).is_none() && loaded.find(9).is_none());
    }

    #[test]
    fn what_does_not_hold_what_was_asked_for_is_gone() {
        let mut loaded = Loaded::default();
        let mut cut = sealed(3..9, 6, 2);
        cut.bytes.pop();
        cut.bytes.remove(0);
        for answer in [None, Some(sealed(6..8, 6, 2)), Some(sealed(3..7, 6, 2)), Some(cut), Some(sealed(5..9, 4, 2))] {
            assert!(!loaded.on_answer(5, answer.as_ref()), "{answer:?}");
        }
        assert!(loaded.is_empty());
    }

    #[test]
    fn only_so_many_are_kept_and_under_way() {
        let mut loaded = Loaded::default();
        for index in 0..LOADED_MAX as u64 {
            assert!(loaded.want(index));
        }
        assert!(!loaded.want(99));
        for index in 0..=LOADED_MAX as u64 {
            assert!(loaded.on_answer(index, Some(&sealed(index..index + 1, index, 1))));
        }
        assert!(loaded.find(0).is_none() && loaded.find(1).is_some());
    }
}
