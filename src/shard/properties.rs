//! What must hold for any records and segments that the store gives back: called by property tests and by the fuzz targets `recover` and `segment`. And
//! the settings that tests of shards begin with.
//!
//! Not for use outside of tests.

use super::record::Record;
use super::segment::Segment;
use super::{Shard, ShardSettings};
use crate::cache::{CacheFlags, Shapes};
use crate::session::properties::origin;
use crate::session::upstream::UpstreamSettings;
use crate::store::{Recovered, frame};
use crate::wire::ShardId;
use crate::wire::compression::Compression;

/// Actions and timeouts that are looked at once the state is back.
const STEPS_MAX: usize = 64;

/// The bytes are records of one shard, each behind its kind and the length of its payload (two bytes, big-endian); a payload of kind 0 says what
/// is sealed (first index and end, eight bytes each, little-endian). A record that is understood is written again as it was; and whatever the records say, a shard comes of them: with a past, or as
/// a new one.
pub fn recover(bytes: &[u8]) {
    let mut stored = Recovered::default();
    let mut rest = bytes;
    let (now, settings) = (origin(), ShardSettings { cache: CacheFlags::ALL, ..settings() });
    let shard = settings.upstream.shard;
    while let [kind, high, low, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (payload, after) = after.split_at(len);
        rest = after;
        if *kind == 0
            && let Some((first, end)) = payload.split_first_chunk().zip(payload.last_chunk())
        {
            stored.sealed.push((u64::from_le_bytes(*first.0), u64::from_le_bytes(*end)));
            continue;
        }
        if let Some(record) = Record::read(*kind, payload) {
            let mut again = Vec::new();
            record.append(&mut again, shard);
            let read = frame::records(&again).next().and_then(|it| Record::read(it.kind, it.payload));
            assert_eq!(read, Some(record), "a record that was read is written as another");
        }
        frame::append(&mut stored.records, shard, *kind, |out| out.extend_from_slice(payload));
    }
    stored.sealed.retain(|it| it.0 < it.1);
    stored.sealed.sort_unstable();
    stored.sealed.dedup_by_key(|it| it.0);
    let mut shard = Shard::restore(settings, Shapes::default(), &stored, 1, now);
    shard.on_state_complete(now);
    let mut at = now;
    for _ in 0..STEPS_MAX {
        while shard.poll(at).is_some() {}
        let Some(due) = shard.due() else { break };
        at = at.max(due);
        shard.on_timeout(at);
    }
}

/// A sealed segment of the log is refused, or written again as it was.
pub fn segment(bytes: &[u8]) {
    if let Some(segment) = Segment::decode(bytes) {
        assert!(segment.encode() == bytes, "a segment that was read is written as another");
        let range = segment.first()..segment.end();
        let mut seen = 0;
        segment.read(range.start, range.end, &mut |_, _| {
            seen += 1;
            true
        });
        assert_eq!(seen, range.end - range.start, "a dispatch of a segment is not read");
    }
}

/// The settings of shard 0, alone, of a bot that nobody has: for tests and benches, which change what they are about.
pub fn settings() -> ShardSettings {
    ShardSettings {
        upstream: UpstreamSettings {
            shard: ShardId(0),
            shard_count: 1,
            token: "secret".to_owned(),
            intents: 1,
            presence: None,
            gateway_url: "ws://gateway.invalid".to_owned(),
            compression: Compression::None,
        },
        cache: CacheFlags::default(),
        externally_accessible_url: "ws://localhost:7878".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fields::{put_bytes, put_u32, put_u64};
    use super::{recover, segment};

    fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind][..], &len, payload].concat()
    }

    /// An epoch with the numbers given, of a READY with one guild.
    fn epoch(numbers: [u64; 6]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, b"session");
        put_bytes(&mut out, b"ws://resume.invalid");
        numbers.iter().for_each(|it| put_u64(&mut out, *it));
        put_u32(&mut out, 1);
        put_u64(&mut out, 5);
        out.push(1);
        put_bytes(&mut out, br#"{"v":10,"user":{"id":"1"},"guilds":[{"id":"5","unavailable":true}]}"#);
        framed(2, &out)
    }

    /// A dispatch for the session with this key alone.
    fn dispatch_to(key: u64) -> Vec<u8> {
        framed(3, &[&[0; 17][..], &[1], &key.to_le_bytes(), &[0; 4]].concat())
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..20u64, any::<u64>(), Just(u64::MAX), Just(1 << 62)]
    }

    fn record() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::array::uniform6(number()).prop_map(epoch),
            (prop::sample::select(vec![1u8, 5, 7, 8]), number()).prop_map(|(kind, n)| framed(kind, &n.to_le_bytes())),
            (number(), number(), prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(index, from, rest)| {
                framed(3, &[&index.to_le_bytes()[..], &from.to_le_bytes(), &[0, 0], &rest].concat())
            }),
            number().prop_map(dispatch_to),
            (number(), number()).prop_map(|(from, end)| framed(0, &[from.to_le_bytes(), end.to_le_bytes()].concat())),
            (1..10u8, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, payload)| framed(kind, &payload)),
        ]
    }

    /// Found by fuzzing: the key after it was one too many.
    #[test]
    fn a_dispatch_to_a_session_that_was_never_counted_is_no_record() {
        recover(&[epoch([0; 6]), dispatch_to(u64::MAX)].concat());
    }

    proptest! {
        #[test]
        fn a_shard_comes_of_any_records(records in prop::collection::vec(record(), 0..6)) {
            recover(&records.concat());
        }

        #[test]
        fn any_bytes_are_a_segment_or_none(first in number(), entries in prop::collection::vec((0..9u32, 0..5u32, 0..4u8), 0..5), rest in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = Vec::new();
            put_u32(&mut bytes, 1);
            put_u64(&mut bytes, first);
            put_u32(&mut bytes, entries.len() as u32);
            for (start, head_len, audience) in entries {
                put_u32(&mut bytes, start);
                put_u32(&mut bytes, head_len);
                bytes.push(audience);
            }
            segment(&[bytes, rest].concat());
        }
    }
}
