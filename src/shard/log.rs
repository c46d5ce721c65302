//! The bounded log of one shard's recent dispatches: live delivery, slow clients and RESUME all read it.
//!
//! A dispatch is stored once, as canonical payload `{"t":..,"s":..,"op":0,"d":..}`, with the span of its sequence
//! digits, so that each client's own number can be written in their place on the way out. The log does not know
//! clients; whoever reads it asks by index. Cost of an append: one copy of the payload, no allocation but a new
//! segment every `SEGMENT_BYTES`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Dispatches are stored in segments of about this size; the log is trimmed by whole segments. A larger dispatch gets a
/// segment of its own.
pub const SEGMENT_BYTES: usize = 64 * 1024;

/// A segment also ends after this time, so that a quiet shard's old dispatches can be given back.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(30);

/// Who takes a dispatch: every client of the shard, or the one that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Everyone,
    /// The key of one client session.
    One(u64),
}

/// One stored dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch<'a> {
    /// Everything before the digits of `s`: `{"t":"NAME","s":`.
    pub head: &'a [u8],
    /// Everything after them: `,"op":0,"d":…}`.
    pub tail: &'a [u8],
    pub audience: Audience,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where the dispatch begins in its segment; its digits are taken out, `head_len` bytes stand before them.
    start: u32,
    head_len: u32,
    audience: Audience,
}

#[derive(Debug)]
struct Segment {
    /// The log index of `entries[0]`.
    first: u64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// When the first and the newest dispatch came.
    oldest: Instant,
    newest: Instant,
    /// Bytes appended to the log before this segment.
    bytes_before: u64,
}

impl Segment {
    fn footprint(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// `tail() ≤ index < head()`: these indices can be read. Segments are contiguous and none is empty.
#[derive(Debug, Default)]
pub struct Log {
    segments: VecDeque<Segment>,
    /// The index that the next dispatch gets.
    head: u64,
    /// Bytes appended since the beginning.
    appended: u64,
    /// Sum of the segments' footprints.
    held: usize,
}

impl Log {
    /// The index of the next dispatch.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The oldest index that is still here; equals `head` for an empty log.
    pub fn tail(&self) -> u64 {
        self.segments.front().map_or(self.head, |it| it.first)
    }

    /// Memory held, in bytes, index included.
    pub fn bytes(&self) -> usize {
        self.held
    }

    /// When the oldest segment got its newest dispatch: what a trim by age looks at.
    pub fn oldest_segment(&self) -> Option<Instant> {
        self.segments.front().map(|it| it.newest)
    }

    /// How long ago the oldest dispatch came.
    pub fn age(&self, now: Instant) -> Duration {
        self.segments.front().map_or(Duration::ZERO, |it| now.saturating_duration_since(it.oldest))
    }

    /// Bytes of dispatches from `index` to the head: how far a cursor there lags behind.
    pub fn bytes_from(&self, index: u64) -> u64 {
        let Some((segment, at)) = self.find(index) else {
            return if index >= self.head {
                0
            } else {
                self.appended - self.segments.front().map_or(self.appended, |it| it.bytes_before)
            };
        };
        self.appended - (segment.bytes_before + u64::from(segment.entries[at].start))
    }

    /// Appends one dispatch, given as the parts around the digits of `s`; `tail` may come in pieces.
    pub fn append(&mut self, now: Instant, head: &[u8], tail: &[&[u8]], audience: Audience) -> u64 {
        let len = head.len() + tail.iter().map(|it| it.len()).sum::<usize>();
        let fits = self.segments.back().is_some_and(|it| {
            it.bytes.len() + len <= SEGMENT_BYTES && now.saturating_duration_since(it.oldest) < SEGMENT_AGE_MAX
        });
        if !fits {
            self.open_segment(now, len);
        }
        let segment = self.segments.back_mut().expect("a segment was just made sure of");
        let before = segment.footprint();
        segment.entries.push(Entry {
            start: u32::try_from(segment.bytes.len()).expect("segments end before 4 GiB"),
            head_len: u32::try_from(head.len()).expect("a payload is below 4 GiB"),
            audience,
        });
        segment.bytes.extend_from_slice(head);
        for part in tail {
            segment.bytes.extend_from_slice(part);
        }
        segment.newest = now;
        self.held += segment.footprint() - before;
        self.appended += len as u64;
        self.head += 1;
        self.head - 1
    }

    /// The dispatch at `index`; `None` when it is gone or not there yet.
    pub fn get(&self, index: u64) -> Option<Dispatch<'_>> {
        let (segment, at) = self.find(index)?;
        Some(segment.dispatch(at))
    }

    /// Visits the dispatches from `index` on, in order, until `visit` returns false or the head is reached.
    /// The segment is looked up once per segment, not per dispatch.
    pub fn read_from<'a>(&'a self, index: u64, mut visit: impl FnMut(u64, Dispatch<'a>) -> bool) {
        if index >= self.head {
            return;
        }
        let Some(from) = self.segment_of(index) else { return };
        let mut index = index;
        for segment in self.segments.range(from..) {
            for at in (index - segment.first) as usize..segment.entries.len() {
                if !visit(index, segment.dispatch(at)) {
                    return;
                }
                index += 1;
            }
        }
    }

    /// Gives the oldest segment back. Returns false when there is none.
    pub fn drop_oldest(&mut self) -> bool {
        let Some(segment) = self.segments.pop_front() else { return false };
        self.held -= segment.footprint();
        self.check();
        true
    }

    fn open_segment(&mut self, now: Instant, len: usize) {
        if let Some(last) = self.segments.back_mut() {
            // A finished segment keeps no slack: it will be read, not written, for minutes.
            let before = last.footprint();
            last.bytes.shrink_to_fit();
            last.entries.shrink_to_fit();
            let after = last.footprint();
            self.held -= before - after;
        }
        let segment = Segment {
            first: self.head,
            bytes: Vec::with_capacity(len.max(1024)),
            entries: Vec::new(),
            oldest: now,
            newest: now,
            bytes_before: self.appended,
        };
        self.held += segment.footprint();
        self.segments.push_back(segment);
        self.check();
    }

    fn segment_of(&self, index: u64) -> Option<usize> {
        if index < self.tail() || index >= self.head {
            return None;
        }
        Some(self.segments.partition_point(|it| it.first <= index) - 1)
    }

    fn find(&self, index: u64) -> Option<(&Segment, usize)> {
        let segment = &self.segments[self.segment_of(index)?];
        Some((segment, (index - segment.first) as usize))
    }

    fn check(&self) {
        debug_assert!(self.tail() <= self.head);
        debug_assert_eq!(self.held, self.segments.iter().map(Segment::footprint).sum::<usize>());
    }
}

impl Segment {
    fn dispatch(&self, at: usize) -> Dispatch<'_> {
        let entry = self.entries[at];
        let end = self.entries.get(at + 1).map_or(self.bytes.len(), |it| it.start as usize);
        let (head, tail) = self.bytes[entry.start as usize..end].split_at(entry.head_len as usize);
        Dispatch { head, tail, audience: entry.audience }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn append(log: &mut Log, now: Instant, body: &[u8]) -> u64 {
        log.append(now, b"head", &[body], Audience::Everyone)
    }

    #[test]
    fn an_empty_log_has_nothing_to_read() {
        let log = Log::default();
        assert_eq!((log.tail(), log.head()), (0, 0));
        assert!(log.get(0).is_none());
        log.read_from(0, |_, _| panic!("nothing is there"));
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

    proptest! {
        #[test]
        fn reads_back_what_was_appended(
            bodies in vec(vec(any::<u8>(), 0..40_000), 1..40), drops in 0usize..4, from in 0u64..40,
        ) {
            let now = Instant::now();
            let mut log = Log::default();
            for (n, body) in bodies.iter().enumerate() {
                prop_assert_eq!(append(&mut log, now, body), n as u64);
            }
            for _ in 0..drops {
                log.drop_oldest();
            }
            let mut seen = log.tail().max(from);
            log.read_from(seen, |index, it| {
                assert_eq!(index, seen);
                assert_eq!(it.tail, &bodies[index as usize][..]);
                assert_eq!(it.head, b"head");
                seen += 1;
                true
            });
            prop_assert_eq!(seen, log.head().max(from));
            let lag: usize = (log.tail().max(from)..log.head()).map(|it| bodies[it as usize].len() + 4).sum();
            prop_assert_eq!(log.bytes_from(log.tail().max(from)), lag as u64);
        }
    }
}
