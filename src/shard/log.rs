//! The bounded log of one shard's recent dispatches: live delivery, slow clients and RESUME all read it.
//!
//! A dispatch is stored once, as canonical payload `{"t":..,"s":..,"op":0,"d":..}`, with the span of its sequence
//! digits, so that each client's own number can be written in their place on the way out. Its index is given from outside and rises;
//! numbers that Discord left out are stepped over. The log does not know clients; whoever reads it asks by index. Where there is a
//! store, a segment leaves memory only after it was handed over. Cost of an append: one copy of the payload, no allocation but a new
//! segment every `SEGMENT_BYTES`.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::segment::Segment;
pub use super::segment::{Audience, Dispatch};
use crate::store::Sealed;

/// Dispatches are stored in segments of about this size; the log is trimmed by whole segments. A larger dispatch gets a
/// segment of its own.
pub const SEGMENT_BYTES: usize = 64 * 1024;

/// What a segment begins with when the one before was small, or there was none.
const SEGMENT_BYTES_MIN: usize = 1024;

/// Room for so many dispatches at most is made before they come: with Discord's mean of 0.8 kB a segment holds about 80.
const SEGMENT_ENTRIES: usize = 256;

/// A segment also ends after this time, so that a quiet shard's old dispatches can be given back.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(30);

/// A gap up to this long is filled with empty entries; a longer one costs a segment.
const GAP_FILLED_MAX: u64 = 16;

#[derive(Debug)]
struct Held {
    /// What it answers for begins here: at the end of the one before.
    from: u64,
    segment: Segment,
    /// Nothing is appended any more.
    closed: bool,
    /// When the first and the newest dispatch came.
    oldest: Instant,
    newest: Instant,
    /// Bytes appended to the log before this segment.
    bytes_before: u64,
}

/// `tail() ≤ index < head()`: these indices can be read; not each of them holds a dispatch. No segment is empty, and each begins where
/// the one before ends.
#[derive(Debug, Default)]
pub struct Log {
    segments: VecDeque<Held>,
    /// The end of the newest segment, whether or not it is still here.
    covered: u64,
    /// The next dispatch gets this index or a higher one.
    head: u64,
    /// Bytes appended since the beginning.
    appended: u64,
    /// Sum of the segments' footprints.
    held: usize,
    /// With a store: it has what lies before.
    sealed_to: Option<u64>,
}

impl Log {
    /// A log whose dispatches before `first` were elsewhere.
    pub fn starting_at(first: u64) -> Self {
        Self { covered: first, head: first, ..Self::default() }
    }

    /// The index of the next dispatch, unless Discord leaves numbers out.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The oldest index from which nothing is missing.
    pub fn tail(&self) -> u64 {
        self.segments.front().map_or(self.covered, |it| it.from)
    }

    /// The end of the newest dispatch: from here to the head there is nothing.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Memory held, in bytes, index included.
    pub fn bytes(&self) -> usize {
        self.held
    }

    /// Bytes of dispatches appended since the beginning.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// When the oldest segment got its newest dispatch, if it may go: what a trim looks at.
    pub fn oldest_segment(&self) -> Option<Instant> {
        self.segments.front().filter(|it| self.may_drop(it)).map(|it| it.newest)
    }

    /// The same for a log whose oldest segment has to be closed before it can go.
    pub fn oldest_open(&self) -> Option<Instant> {
        self.segments.front().filter(|it| !it.closed && !self.may_drop(it)).map(|it| it.newest)
    }

    /// How long ago the oldest dispatch came.
    pub fn age(&self, now: Instant) -> Duration {
        self.segments.front().map_or(Duration::ZERO, |it| now.saturating_duration_since(it.oldest))
    }

    /// Bytes of dispatches from `index` to the head: how far a cursor there lags behind.
    pub fn bytes_from(&self, index: u64) -> u64 {
        let Some(held) = self.segments.get(self.segment_after(index)) else { return 0 };
        let before = held.segment.bytes_before(index.max(held.segment.first()));
        self.appended - (held.bytes_before + before as u64)
    }

    /// Appends one dispatch at `index`, given as the parts around the digits of `s`; `tail` may come in pieces.
    ///
    /// `index` is `head()` or more.
    pub fn append(&mut self, now: Instant, index: u64, head: &[u8], tail: &[&[u8]], audience: Audience) {
        assert!(index >= self.head, "dispatch {index} behind the head {}", self.head);
        let len = head.len() + tail.iter().map(|it| it.len()).sum::<usize>();
        let sealed_to = self.sealed_to.unwrap_or(0);
        let fits = self.segments.back().is_some_and(|it| {
            !it.closed
                && it.segment.len() + len <= SEGMENT_BYTES
                && now.saturating_duration_since(it.oldest) < SEGMENT_AGE_MAX
                && index - self.covered <= GAP_FILLED_MAX
                && !(it.from < sealed_to && index >= sealed_to)
        });
        if !fits {
            self.open_segment(now, index, len);
        }
        let held = self.segments.back_mut().expect("a segment was just made sure of");
        let before = held.segment.footprint();
        while held.segment.end() < index {
            held.segment.push(b"", &[], Audience::Nobody);
        }
        held.segment.push(head, tail, audience);
        held.newest = now;
        self.held += held.segment.footprint() - before;
        self.appended += len as u64;
        self.head = index + 1;
        self.covered = self.head;
    }

    /// Nothing comes at indices below `index` any more.
    pub fn skip_to(&mut self, index: u64) {
        self.head = self.head.max(index);
    }

    /// The dispatch at `index`; `None` when it is gone, not there yet, or in a gap.
    pub fn get(&self, index: u64) -> Option<Dispatch<'_>> {
        self.segments.get(self.segment_after(index))?.segment.get(index)
    }

    /// Visits the dispatches with `index` ≤ their index < `stop`, in order, until `visit` returns false. True if it never did: then
    /// everything below `stop` or the head was seen. The segment is looked up once per segment, not per dispatch.
    pub fn read<'a>(&'a self, index: u64, stop: u64, mut visit: impl FnMut(u64, Dispatch<'a>) -> bool) -> bool {
        let from = self.segment_after(index);
        self.segments
            .range(from..)
            .take_while(|it| it.segment.first() < stop)
            .all(|it| it.segment.read(index, stop, &mut visit))
    }

    /// Gives the oldest segment back. Returns false when there is none, or none that may go.
    pub fn drop_oldest(&mut self) -> bool {
        if !self.segments.front().is_some_and(|it| self.may_drop(it)) {
            return false;
        }
        let Some(held) = self.segments.pop_front() else { return false };
        self.held -= held.segment.footprint();
        self.check();
        true
    }

    // ---- with a store

    /// From now on segments are handed to a store, which has what lies before `sealed_to`. `None`: no more.
    pub fn seal_from(&mut self, sealed_to: Option<u64>) {
        self.sealed_to = sealed_to;
    }

    /// The newest segment ends here.
    pub fn close(&mut self) {
        if let Some(held) = self.segments.back_mut()
            && !held.closed
        {
            held.closed = true;
            let before = held.segment.footprint();
            held.segment.shrink();
            self.held -= before - held.segment.footprint();
        }
    }

    /// The index up to which the store has everything.
    pub fn sealed_to(&self) -> Option<u64> {
        self.sealed_to
    }

    /// The next segment for the store: it will not grow any more, and begins where the one before ended, gaps included.
    pub fn take_sealed(&mut self) -> Option<Sealed> {
        let sealed_to = self.sealed_to?;
        let held = self.segments.get(self.segment_after(sealed_to)).filter(|it| it.closed)?;
        let sealed = Sealed { first: held.from, end: held.segment.end(), bytes: held.segment.encode() };
        self.sealed_to = Some(sealed.end);
        Some(sealed)
    }

    fn may_drop(&self, held: &Held) -> bool {
        self.sealed_to.is_none_or(|it| held.segment.end() <= it)
    }

    fn open_segment(&mut self, now: Instant, first: u64, len: usize) {
        self.close();
        // As large as the one before came to: a busy shard's segment neither grows nor is copied, a quiet one's stays small.
        let (bytes, entries) = self.segments.back().map_or((0, 0), |it| (it.segment.len(), it.segment.entries()));
        let bytes = bytes.next_power_of_two().clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES).max(len);
        let held = Held {
            from: self.covered,
            segment: Segment::new(first, bytes, entries.min(SEGMENT_ENTRIES)),
            closed: false,
            oldest: now,
            newest: now,
            bytes_before: self.appended,
        };
        self.held += held.segment.footprint();
        self.segments.push_back(held);
    }

    /// The first segment with something behind `index`, by position.
    fn segment_after(&self, index: u64) -> usize {
        // Clients that keep up read the newest segment alone: no search among the others, whose memory is cold.
        match self.segments.back() {
            Some(newest) if index >= newest.segment.first() && index < newest.segment.end() => self.segments.len() - 1,
            _ => self.segments.partition_point(|it| it.segment.end() <= index),
        }
    }

    fn check(&self) {
        debug_assert!(self.tail() <= self.head && self.covered <= self.head);
        debug_assert_eq!(self.held, self.segments.iter().map(|it| it.segment.footprint()).sum::<usize>());
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn append(log: &mut Log, now: Instant, body: &[u8]) -> u64 {
        let index = log.head();
        log.append(now, index, b"head", &[body], Audience::Everyone);
        index
    }

    #[test]
    fn an_empty_log_has_nothing_to_read() {
        let log = Log::default();
        assert_eq!((log.tail(), log.head()), (0, 0));
        assert!(log.get(0).is_none());
        assert!(log.read(0, u64::MAX, |_, _| panic!("nothing is there")));
    }

    #[test]
    fn a_dispatch_larger_than_a_segment_is_kept_whole() {
        let now = Instant::now();
        let mut log = Log::default();
        append(&mut log, now, b"small");
        let large = vec![7; 5 * SEGMENT_BYTES];
        let at = append(&mut log, now, &large);
        append(&mut log, now, b"small again");
        assert_eq!(log.get(at).unwrap().tail, large);
        assert_eq!(log.get(at + 1).unwrap().tail, b"small again");
    }

    #[test]
    fn a_dropped_segment_takes_its_indices_and_its_memory_with_it() {
        let now = Instant::now();
        let mut log = Log::default();
        for _ in 0..3 {
            append(&mut log, now, &vec![1; SEGMENT_BYTES]);
        }
        let held = log.bytes();
        assert!(log.drop_oldest());
        assert!(log.bytes() < held);
        assert!(log.get(0).is_none());
        assert_eq!(log.tail(), 1);
        assert_eq!(log.head(), 3);
        assert!(log.bytes_from(0) >= log.bytes_from(1));
    }

    #[test]
    fn a_segment_ends_by_age_so_that_it_can_be_given_back() {
        let now = Instant::now();
        let mut log = Log::default();
        append(&mut log, now, b"old");
        append(&mut log, now + SEGMENT_AGE_MAX, b"new");
        assert!(log.drop_oldest());
        assert_eq!(log.tail(), 1);
    }

    #[test]
    fn what_the_store_has_not_got_stays_in_memory() {
        let now = Instant::now();
        let mut log = Log::default();
        log.seal_from(Some(0));
        append(&mut log, now, b"one");
        assert_eq!((log.drop_oldest(), log.oldest_segment(), log.oldest_open()), (false, None, Some(now)));
        assert_eq!(log.take_sealed(), None);
        log.close();
        let sealed = log.take_sealed().unwrap();
        assert_eq!((sealed.first, sealed.end, log.take_sealed()), (0, 1, None));
        append(&mut log, now, b"two");
        assert_eq!(Segment::decode(&sealed.bytes).unwrap().get(0).unwrap().tail, b"one");
        assert!(log.drop_oldest() && !log.drop_oldest());
        assert_eq!(log.tail(), 1);
    }

    proptest! {
        /// `gap` numbers are left out before each dispatch; `close` ends its segment.
        #[test]
        fn reads_back_what_was_appended(
            steps in vec((vec(any::<u8>(), 0..40_000), prop_oneof![4 => Just(0u64), 1 => 0..40u64], any::<bool>()), 1..40),
            drops in 0usize..4, from in 0u64..400, len in 0u64..400, store in any::<bool>(),
        ) {
            let now = Instant::now();
            let mut log = Log::default();
            log.seal_from(store.then_some(0));
            let (mut table, mut sealed) = (Vec::new(), Vec::new());
            for (body, gap, close) in &steps {
                let index = log.head() + gap;
                log.append(now, index, b"head", &[body], Audience::Everyone);
                table.push((index, body.clone()));
                if *close {
                    log.close();
                }
                sealed.extend(std::iter::from_fn(|| log.take_sealed()));
            }
            for _ in 0..drops {
                log.drop_oldest();
            }
            let (from, stop) = (log.tail().max(from), log.tail().max(from) + len);
            let mut seen = Vec::new();
            log.read(from, stop, |index, it| {
                if it.audience == Audience::Everyone {
                    assert_eq!((it.head, log.get(index)), (&b"head"[..], Some(it)));
                    seen.push((index, it.tail.to_vec()));
                }
                true
            });
            let wanted: Vec<_> = table.iter().filter(|it| it.0 >= from && it.0 < stop).cloned().collect();
            prop_assert_eq!(seen, wanted);
            let lag: usize = table.iter().filter(|it| it.0 >= from).map(|it| it.1.len() + 4).sum();
            prop_assert_eq!(log.bytes_from(from), lag as u64);
            // What the store was given is gapless, and whole.
            let mut end = 0;
            for it in &sealed {
                prop_assert_eq!(it.first, end);
                end = it.end;
                let segment = Segment::decode(&it.bytes).unwrap();
                for (index, body) in table.iter().filter(|at| at.0 >= it.first && at.0 < it.end) {
                    prop_assert_eq!(segment.get(*index).unwrap().tail, &body[..]);
                }
            }
            prop_assert!(!store || log.tail() <= end);
        }
    }
}
