//! A stretch of consecutive dispatches: what the log is made of, in memory and on disk.
//!
//! It knows neither time nor clients. Its stored form is checked whole when it is read, so that a decoded segment cannot
//! make a reader panic; whether the bytes are those that were written is the store's checksum's affair.
#![forbid(unsafe_code)]

use super::fields::{Fields, counted, put_u32, put_u64};

/// The stored form begins with this.
const VERSION: u32 = 1;

/// One part in so many of a finished segment may stay unused.
const SLACK_PART: usize = 8;

/// Who takes a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Everyone,
    /// The key of one client session.
    One(u64),
    /// It only changes state, or fills a number that Discord left out.
    Nobody,
}

impl Audience {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Everyone => out.push(0),
            Self::One(key) => {
                out.push(1);
                put_u64(out, key);
            }
            Self::Nobody => out.push(2),
        }
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(match fields.u8()? {
            0 => Self::Everyone,
            1 => Self::One(counted(fields)?),
            2 => Self::Nobody,
            _ => return None,
        })
    }

    /// Whether the session `key` takes it.
    pub fn holds(self, key: u64) -> bool {
        match self {
            Self::Everyone => true,
            Self::One(one) => one == key,
            Self::Nobody => false,
        }
    }
}

/// One stored dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch<'a> {
    /// Everything before the digits of `s`: `{"t":"NAME","s":`. Empty, as `tail`, for a number that Discord left out.
    pub head: &'a [u8],
    /// Everything after them: `,"op":0,"d":…}`.
    pub tail: &'a [u8],
    pub audience: Audience,
}

impl<'a> Dispatch<'a> {
    /// The event type, and the raw JSON of `d`. `None` where nothing is stored.
    pub fn event(&self) -> Option<(&'a [u8], &'a [u8])> {
        let name = self.head.strip_prefix(br#"{"t":""#)?.strip_suffix(br#"","s":"#)?;
        let data = self.tail.strip_prefix(br#","op":0,"d":"#)?.strip_suffix(b"}")?;
        Some((name, data))
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where the dispatch begins; its digits are taken out, `head_len` bytes stand before them.
    start: u32,
    head_len: u32,
    audience: Audience,
}

/// Entry `n` is the dispatch at index `first + n`.
#[derive(Debug)]
pub struct Segment {
    first: u64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Segment {
    /// Empty, with room for so many bytes and dispatches.
    pub(super) fn new(first: u64, bytes: usize, entries: usize) -> Self {
        Self { first, bytes: Vec::with_capacity(bytes), entries: Vec::with_capacity(entries) }
    }

    /// The lowest index.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The index behind the last dispatch.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Dispatches in it, those for nobody included.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of dispatches.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Memory held, in bytes.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    pub(super) fn push(&mut self, head: &[u8], tail: &[&[u8]], audience: Audience) {
        self.entries.push(Entry {
            start: u32::try_from(self.bytes.len()).expect("segments end before 4 GiB"),
            head_len: u32::try_from(head.len()).expect("a payload is below 4 GiB"),
            audience,
        });
        self.bytes.extend_from_slice(head);
        for part in tail {
            self.bytes.extend_from_slice(part);
        }
    }

    /// A finished segment keeps little slack: it will be read, not written, for minutes. What is nearly full is not copied for the rest.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() - self.bytes.len() > self.bytes.capacity() / SLACK_PART {
            self.bytes.shrink_to_fit();
        }
        if self.entries.capacity() - self.entries.len() > self.entries.capacity() / SLACK_PART {
            self.entries.shrink_to_fit();
        }
    }

    /// Bytes before the dispatch at `index`; all of them for one behind the last.
    pub(super) fn bytes_before(&self, index: u64) -> usize {
        self.entries.get((index - self.first) as usize).map_or(self.bytes.len(), |it| it.start as usize)
    }

    /// The dispatch at `index`.
    pub fn get(&self, index: u64) -> Option<Dispatch<'_>> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (at < self.entries.len()).then(|| self.dispatch(at))
    }

    /// Visits the dispatches from `index` up to `stop` (exclusive), until `visit` returns false. True if it never did.
    pub fn read<'a>(&'a self, index: u64, stop: u64, visit: &mut impl FnMut(u64, Dispatch<'a>) -> bool) -> bool {
        let stop = stop.min(self.end());
        (index.max(self.first)..stop).all(|index| visit(index, self.dispatch((index - self.first) as usize)))
    }

    fn dispatch(&self, at: usize) -> Dispatch<'_> {
        let entry = self.entries[at];
        let end = self.entries.get(at + 1).map_or(self.bytes.len(), |it| it.start as usize);
        let (head, tail) = self.bytes[entry.start as usize..end].split_at(entry.head_len as usize);
        Dispatch { head, tail, audience: entry.audience }
    }

    /// The stored form: `version u32 | first u64 | count u32 | entries | bytes`, an entry being `start u32 | head_len u32 | audience`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 17 + self.bytes.len());
        put_u32(&mut out, VERSION);
        put_u64(&mut out, self.first);
        put_u32(&mut out, u32::try_from(self.entries.len()).expect("segments end before 4 GiB"));
        for entry in &self.entries {
            put_u32(&mut out, entry.start);
            put_u32(&mut out, entry.head_len);
            entry.audience.put(&mut out);
        }
        out.extend_from_slice(&self.bytes);
        out
    }

    /// Reads the stored form; `None` if anything about it is wrong.
    pub fn decode(stored: &[u8]) -> Option<Self> {
        let mut fields = Fields(stored);
        if fields.u32()? != VERSION {
            return None;
        }
        let first = counted(&mut fields)?;
        let count = fields.u32()? as usize;
        // An entry takes 9 bytes at least: a count that lies allocates nothing.
        let mut entries = Vec::with_capacity(count.min(stored.len() / 9));
        for _ in 0..count {
            let (start, head_len) = (fields.u32()?, fields.u32()?);
            entries.push(Entry { start, head_len, audience: Audience::read(&mut fields)? });
        }
        let bytes = fields.0.to_vec();
        for (at, entry) in entries.iter().enumerate() {
            let end = entries.get(at + 1).map_or(bytes.len(), |it| it.start as usize);
            let head_end = (entry.start as usize).checked_add(entry.head_len as usize)?;
            if head_end > end || end > bytes.len() {
                return None;
            }
        }
        Some(Self { first, bytes, entries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::fields::COUNTED_MAX;
    use super::*;

    fn audience() -> impl Strategy<Value = Audience> {
        prop_oneof![Just(Audience::Everyone), (0..=COUNTED_MAX).prop_map(Audience::One), Just(Audience::Nobody)]
    }

    fn all(segment: &Segment) -> Vec<(u64, Vec<u8>, Vec<u8>, Audience)> {
        let mut read = Vec::new();
        segment.read(0, u64::MAX, &mut |index, it| {
            read.push((index, it.head.to_vec(), it.tail.to_vec(), it.audience));
            true
        });
        read
    }

    #[test]
    fn an_event_is_found_in_its_parts() {
        let mut segment = Segment::new(7, 0, 0);
        segment.push(br#"{"t":"A_B","s":"#, &[br#","op":0,"d":{"#, br#""x":1}}"#], Audience::Everyone);
        segment.push(b"", &[], Audience::Nobody);
        assert_eq!(segment.get(7).unwrap().event(), Some((&b"A_B"[..], &br#"{"x":1}"#[..])));
        assert_eq!(segment.get(8).unwrap().event(), None);
        assert!(segment.get(6).is_none() && segment.get(9).is_none());
    }

    proptest! {
        #[test]
        fn what_was_stored_is_read_back(
            first in 0..=COUNTED_MAX, parts in vec((vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9), audience()), 0..20),
        ) {
            let mut segment = Segment::new(first, 0, 0);
            for (head, tail, audience) in &parts {
                segment.push(head, &[tail], *audience);
            }
            let decoded = Segment::decode(&segment.encode()).unwrap();
            prop_assert_eq!(all(&decoded), all(&segment));
            prop_assert_eq!(decoded.end(), first + parts.len() as u64);
        }

        #[test]
        fn a_damaged_segment_is_refused_or_read_without_harm(
            parts in vec((vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9), audience()), 0..6),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>(),
        ) {
            let mut segment = Segment::new(5, 0, 0);
            for (head, tail, audience) in &parts {
                segment.push(head, &[tail], *audience);
            }
            let mut stored = segment.encode();
            for (at, byte) in damage {
                let at = at.index(stored.len());
                stored[at] = byte;
            }
            stored.truncate(cut.index(stored.len() + 1));
            if let Some(decoded) = Segment::decode(&stored) {
                let _ = all(&decoded);
                let _ = Segment::decode(&decoded.encode()).expect("what was read can be written");
            }
        }
    }
}
