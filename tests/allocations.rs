//! The event path allocates nothing per event and nothing per event and client: counted by an allocator that counts.
//!
//! From Discord's bytes to the bytes of each client, without sockets: frames, inflation, scanner, log, outboxes. What the state cache stores of an event is its
//! own affair, and not counted here.

#[path = "fixtures/live_shard.rs"]
mod live_shard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use live_shard::{join, live_shard};
use shardgate::shard::group::{Group, LogBudget};
use shardgate::shard::log::SEGMENT_BYTES;
use shardgate::shard::seat::{Pumped, SeatKey};
use shardgate::wire::deframe::{Deframer, Message};
use shardgate::wire::inflate::{Inflated, Inflater};
use shardgate::wire::{Compression, Encoder, Role};

struct Counting;

thread_local! {
    /// Of this thread, so that tests beside each other do not count for each other.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; a `Cell` of a constant needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LOG_BYTES: usize = 1 << 20;
const WARM_UP: usize = 4_000;
const COUNTED: usize = 10_000;
/// A segment is a block of bytes and one of entries; each may be cut to size when it is finished.
const ALLOCATIONS_PER_SEGMENT: u64 = 4;

/// One shard, live, READY taken by each client; and what Discord sends it, as frames.
struct Stage {
    group: Group,
    clients: Vec<(SeatKey, Encoder, Vec<u8>)>,
    now: Instant,
    deframer: Deframer,
    inflater: Inflater,
    /// Of Discord.
    encoder: Encoder,
    inflated: Vec<u8>,
    sequence: u64,
    /// Bytes of payloads, for the number of segments.
    bytes: usize,
}

impl Stage {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    fn new(clients: usize, from_discord: Compression, to_clients: Compression) -> Self {
        let now = Instant::now();
        let mut shard = live_shard(now);
        let seat = |n| (join(&mut shard, n), Encoder::new(to_clients), Vec::new());
        let clients = (0..clients).map(seat).collect();
        let budget = LogBudget { bytes: LOG_BYTES, keep: Duration::from_secs(3600) };
        Self {
            group: Group::new(vec![shard], budget),
            clients,
            now,
            deframer: Deframer::new(Role::Client, 1 << 20),
            inflater: Inflater::new(from_discord),
            encoder: Encoder::new(from_discord),
            inflated: Vec::new(),
            sequence: 1,
            bytes: 0,
        }
    }

    /// Frames of `count` dispatches of several types and sizes, as Discord would send them.
    fn frames(&mut self, count: usize) -> Vec<u8> {
        let mut frames = Vec::new();
        for _ in 0..count {
            self.sequence += 1;
            let s = self.sequence;
            let (name, d) = match s % 4 {
                0 => ("TYPING_START", format!(r#"{{"user_id":"1{s}","timestamp":17{s},"channel_id":"2"}}"#)),
                1 => {
                    ("MESSAGE_CREATE", format!(r#"{{"id":"{s}","content":"{}"}}"#, "a word ".repeat(s as usize % 200)))
                }
                2 => ("MESSAGE_REACTION_ADD", format!(r#"{{"user_id":"{s}","emoji":{{"name":"x","id":null}}}}"#)),
                _ => ("INTERACTION_CREATE", format!(r#"{{"id":"{s}","token":"invented","data":{{"name":"ping"}}}}"#)),
            };
            let payload = format!(r#"{{"t":"{name}","s":{s},"op":0,"d":{d}}}"#);
            self.bytes += payload.len();
            self.encoder.write(&[payload.as_bytes()], &mut frames);
        }
        frames
    }

    /// What a core does with bytes of Discord: each payload to the shard, then to each client, then the log within its budget.
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(message) = self.deframer.next(&mut bytes).unwrap() {
            let payload = match message {
                Message::Text(payload) => payload,
                Message::Binary(message) => {
                    self.inflated.clear();
                    assert!(matches!(self.inflater.inflate(message, &mut self.inflated), Ok(Inflated::Whole)));
                    &self.inflated
                }
                other => panic!("{other:?}"),
            };
            let shard = &mut self.group.shards[0];
            shard.on_payload(self.now, payload).unwrap();
            assert!(shard.poll(self.now).is_none());
            for (key, encoder, out) in &mut self.clients {
                out.clear();
                assert_eq!(shard.pump(*key, encoder, out, usize::MAX / 2), Pumped::Current);
                assert!(!out.is_empty());
            }
            self.group.trim_changed(&[0]);
        }
    }

    /// Allocations of `COUNTED` events, and the segments that the log has begun meanwhile.
    fn count(mut self) -> (u64, u64) {
        let frames = self.frames(WARM_UP);
        self.take(&frames);
        let before = self.bytes;
        let frames = self.frames(COUNTED);
        let allocations = ALLOCATIONS.get();
        self.take(&frames);
        (ALLOCATIONS.get() - allocations, ((self.bytes - before) / SEGMENT_BYTES) as u64 + 2)
    }
}

#[test]
fn an_event_costs_no_allocation_but_a_segment_of_the_log_now_and_then() {
    for from_discord in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let (allocations, segments) = Stage::new(1, from_discord, Compression::None).count();
        assert!(
            allocations <= segments * ALLOCATIONS_PER_SEGMENT,
            "{from_discord:?}: {allocations}, {segments} segments"
        );
    }
}

#[test]
fn further_clients_cost_no_allocation() {
    for to_clients in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let one = Stage::new(1, Compression::None, to_clients).count().0;
        let sixteen = Stage::new(16, Compression::None, to_clients).count().0;
        assert_eq!(one, sixteen, "{to_clients:?}");
    }
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    std::hint::black_box(Vec::<u8>::with_capacity(1));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
