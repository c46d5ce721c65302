//! What a shard writes down of what happened to it, and reads back: the payloads of the store's records.
//!
//! Each kind stands for one fact, complete in itself; of two about the same thing the later one counts. When records are written and
//! what is made of them is not decided here (`journal`, `recover`).
#![forbid(unsafe_code)]

use super::fields::{
    Fields, bytes, counted, flag, maybe_counted, put_bytes, put_maybe_counted, put_u32, put_u64, text,
};
use super::runs::Runs;
use super::segment::Audience;
use crate::store::frame;
use crate::wire::{GuildId, ShardId};

/// Guilds that an epoch still waits for; beyond Discord's limit for a shard by far.
const PENDING_MAX: usize = 1 << 16;

/// The kinds, as stored.
#[derive(Clone, Copy)]
enum Kind {
    Begin = 1,
    Epoch = 2,
    Dispatch = 3,
    Seat = 4,
    SeatEnded = 5,
    Request = 6,
    RequestDone = 7,
    Floor = 8,
    Presence = 9,
}

/// One fact.
#[derive(Debug, PartialEq)]
pub(super) enum Record<'a> {
    /// What was written of this shard before is void but for segments and checkpoints from `stored_from` on; the log goes on at `head`.
    Begin {
        head: u64,
        stored_from: u64,
    },
    Epoch(Epoch<'a>),
    Dispatch(StoredDispatch<'a>),
    Seat(SeatRecord<'a>),
    /// The session with this key is over.
    SeatEnded(u64),
    Request(RequestRecord<'a>),
    /// Nothing comes any more for the request with this tag.
    RequestDone(u64),
    /// The state of all guilds follows from what was checkpointed and the log from this index on.
    Floor(u64),
    /// What Discord was told last of the operator's presence: `d` of op 3.
    Presence(&'a str),
}

/// The session with Discord, and how its sequence numbers become indices.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Epoch<'a> {
    /// Empty when Discord has forgotten it.
    pub session_id: &'a str,
    pub resume_url: &'a str,
    /// The last sequence number received.
    pub sequence: u64,
    /// A dispatch's index is this and its sequence number.
    pub base: u64,
    /// The log's head at this moment, and the end of its last dispatch: between them is nothing.
    pub head: u64,
    pub covered: u64,
    /// `ready` is as of here.
    pub as_of: u64,
    /// Checkpoints older than this belong to a state that was given up.
    pub state_from: u64,
    /// Guilds of READY that Discord has not sent yet.
    pub pending: Vec<(GuildId, Known)>,
    /// READY's `d`, as the cache writes it.
    pub ready: &'a [u8],
}

/// What clients know, from before READY, of a guild in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing = 0,
    /// That it is there, but not available.
    Outage = 1,
    Whole = 2,
}

/// A dispatch as the log has it.
#[derive(Debug, PartialEq)]
pub(super) struct StoredDispatch<'a> {
    pub index: u64,
    /// The end of the dispatch before: between them is nothing.
    pub from: u64,
    /// Ours, not Discord's: it moves the base.
    pub own: bool,
    pub audience: Audience,
    pub head: &'a [u8],
    pub tail: &'a [u8],
}

/// A client's session.
#[derive(Debug, PartialEq)]
pub(super) struct SeatRecord<'a> {
    pub key: u64,
    pub session_id: &'a str,
    pub shard: [u32; 2],
    pub wants_guilds: bool,
    /// The client had a connection: it may have got more than is written here.
    pub connected: bool,
    pub next_sequence: u64,
    pub cursor: u64,
    /// RESUMED is due when the cursor gets there.
    pub resumed_at: Option<u64>,
    /// What the client may have got beyond its record ends here: behind it Discord had forgotten its session.
    pub known_to: Option<u64>,
    pub runs: Runs,
}

/// An op 8 that went up with a nonce of ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RequestRecord<'a> {
    pub tag: u64,
    /// `None` when the client's session is over.
    pub client: Option<u64>,
    /// The JSON text of the client's nonce.
    pub nonce: Option<&'a str>,
    pub chunks_received: u64,
}

impl<'a> Record<'a> {
    /// `None`: nothing of ours, or damaged.
    pub fn read(kind: u8, payload: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let f = &mut fields;
        let record = match kind {
            1 => {
                let head = counted(f)?;
                // Before there was a second index they were the same.
                Self::Begin { head, stored_from: if f.0.is_empty() { head } else { counted(f)? } }
            }
            2 => Self::Epoch(Epoch {
                session_id: text(f)?,
                resume_url: text(f)?,
                sequence: counted(f)?,
                base: counted(f)?,
                head: counted(f)?,
                covered: counted(f)?,
                as_of: counted(f)?,
                state_from: counted(f)?,
                pending: read_guilds(f)?,
                ready: bytes(f)?,
            }),
            3 => Self::Dispatch(StoredDispatch {
                index: counted(f)?,
                from: counted(f)?,
                own: flag(f)?,
                audience: Audience::read(f)?,
                head: bytes(f)?,
                tail: f.take(f.0.len())?,
            }),
            4 => Self::Seat(SeatRecord {
                key: counted(f)?,
                session_id: text(f)?,
                shard: [f.u32()?, f.u32()?],
                wants_guilds: flag(f)?,
                connected: flag(f)?,
                next_sequence: counted(f)?,
                cursor: counted(f)?,
                resumed_at: maybe_counted(f)?,
                known_to: maybe_counted(f)?,
                runs: Runs::read(f)?,
            }),
            5 => Self::SeatEnded(counted(f)?),
            6 => Self::Request(RequestRecord {
                tag: counted(f)?,
                client: maybe_counted(f)?,
                nonce: if flag(f)? { Some(text(f)?) } else { None },
                chunks_received: counted(f)?,
            }),
            7 => Self::RequestDone(counted(f)?),
            8 => Self::Floor(counted(f)?),
            9 => Self::Presence(text(f)?),
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }

    /// Appends the record to `out`. Dispatches are written by [`append_dispatch`], from the parts they have.
    pub fn append(&self, out: &mut Vec<u8>, shard: ShardId) {
        match self {
            Self::Begin { head, stored_from } => frame::append(out, shard, Kind::Begin as u8, |out| {
                put_u64(out, *head);
                put_u64(out, *stored_from);
            }),
            Self::Epoch(it) => frame::append(out, shard, Kind::Epoch as u8, |out| {
                put_bytes(out, it.session_id.as_bytes());
                put_bytes(out, it.resume_url.as_bytes());
                for value in [it.sequence, it.base, it.head, it.covered, it.as_of, it.state_from] {
                    put_u64(out, value);
                }
                put_u32(out, it.pending.len() as u32);
                for (guild, known) in &it.pending {
                    put_u64(out, guild.0);
                    out.push(*known as u8);
                }
                put_bytes(out, it.ready);
            }),
            Self::Dispatch(it) => {
                append_dispatch(out, shard, [it.from, it.index], it.own, it.audience, it.head, &[it.tail])
            }
            Self::Seat(it) => frame::append(out, shard, Kind::Seat as u8, |out| {
                put_u64(out, it.key);
                put_bytes(out, it.session_id.as_bytes());
                it.shard.iter().for_each(|value| put_u32(out, *value));
                out.push(u8::from(it.wants_guilds));
                out.push(u8::from(it.connected));
                put_u64(out, it.next_sequence);
                put_u64(out, it.cursor);
                put_maybe_counted(out, it.resumed_at);
                put_maybe_counted(out, it.known_to);
                it.runs.put(out);
            }),
            Self::SeatEnded(key) => frame::append(out, shard, Kind::SeatEnded as u8, |out| put_u64(out, *key)),
            Self::Request(it) => frame::append(out, shard, Kind::Request as u8, |out| {
                put_u64(out, it.tag);
                put_maybe_counted(out, it.client);
                out.push(u8::from(it.nonce.is_some()));
                if let Some(nonce) = it.nonce {
                    put_bytes(out, nonce.as_bytes());
                }
                put_u64(out, it.chunks_received);
            }),
            Self::RequestDone(tag) => frame::append(out, shard, Kind::RequestDone as u8, |out| put_u64(out, *tag)),
            Self::Floor(index) => frame::append(out, shard, Kind::Floor as u8, |out| put_u64(out, *index)),
            Self::Presence(d) => {
                frame::append(out, shard, Kind::Presence as u8, |out| put_bytes(out, d.as_bytes()));
            }
        }
    }
}

/// Appends a dispatch's record: the one copy that durability costs on the event path.
pub(super) fn append_dispatch(
    out: &mut Vec<u8>,
    shard: ShardId,
    [from, index]: [u64; 2],
    own: bool,
    audience: Audience,
    head: &[u8],
    tail: &[&[u8]],
) {
    frame::append(out, shard, Kind::Dispatch as u8, |out| {
        put_u64(out, index);
        put_u64(out, from);
        out.push(u8::from(own));
        audience.put(out);
        put_bytes(out, head);
        tail.iter().for_each(|part| out.extend_from_slice(part));
    });
}

fn read_guilds(fields: &mut Fields<'_>) -> Option<Vec<(GuildId, Known)>> {
    let count = fields.u32()? as usize;
    if count > PENDING_MAX {
        return None;
    }
    (0..count).map(|_| Some((GuildId(fields.u64()?), read_known(fields)?))).collect()
}

fn read_known(fields: &mut Fields<'_>) -> Option<Known> {
    [Known::Nothing, Known::Outage, Known::Whole].get(usize::from(fields.u8()?)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_of_each() -> Vec<Record<'static>> {
        let mut runs = Runs::default();
        runs.begin(3, 9);
        runs.on_sent(3, 9);
        runs.on_sent(5, 12);
        let dispatch = |audience| StoredDispatch {
            index: 12,
            from: 11,
            own: true,
            audience,
            head: b"{\"t\":\"X\",\"s\":",
            tail: b",\"op\":0}",
        };
        let seat = |resumed_at, runs| SeatRecord {
            key: 4,
            session_id: "0123",
            shard: [1, 2],
            wants_guilds: true,
            connected: false,
            next_sequence: 6,
            cursor: 13,
            resumed_at,
            known_to: resumed_at,
            runs,
        };
        let request = |client, nonce| RequestRecord { tag: 77, client, nonce, chunks_received: 2 };
        vec![
            Record::Begin { head: 17, stored_from: 11 },
            Record::Epoch(Epoch {
                session_id: "abc",
                resume_url: "wss://x",
                sequence: 12,
                base: 5,
                head: 18,
                covered: 17,
                as_of: 16,
                state_from: 3,
                pending: vec![
                    (GuildId(1), Known::Nothing),
                    (GuildId(2), Known::Outage),
                    (GuildId(u64::MAX), Known::Whole),
                ],
                ready: br#"{"v":10}"#,
            }),
            Record::Dispatch(dispatch(Audience::Everyone)),
            Record::Dispatch(dispatch(Audience::One(9))),
            Record::Dispatch(dispatch(Audience::Nobody)),
            Record::Seat(seat(Some(8), runs)),
            Record::Seat(seat(None, Runs::default())),
            Record::SeatEnded(4),
            Record::Request(request(Some(4), Some("\"n\""))),
            Record::Request(request(None, None)),
            Record::RequestDone(77),
            Record::Floor(10),
            Record::Presence(r#"{"status":"idle"}"#),
        ]
    }

    #[test]
    fn each_kind_is_read_back_as_it_was_written() {
        for record in one_of_each() {
            let mut bytes = Vec::new();
            record.append(&mut bytes, ShardId(3));
            let mut read = frame::records(&bytes);
            let framed = read.next().unwrap();
            assert_eq!((framed.shard, read.next()), (ShardId(3), None));
            assert_eq!(Record::read(framed.kind, framed.payload), Some(record));
        }
    }

    #[test]
    fn a_beginning_with_one_index_is_stored_from_there() {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, ShardId(3), Kind::Begin as u8, |out| put_u64(out, 17));
        let framed = frame::records(&bytes).next().unwrap();
        let record = Record::read(framed.kind, framed.payload);
        assert_eq!(record, Some(Record::Begin { head: 17, stored_from: 17 }));
    }

    proptest! {
        #[test]
        fn a_damaged_record_never_panics(
            n in 0..13usize, damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            one_of_each()[n].append(&mut bytes, ShardId(3));
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let cut = 9 + cut.index(bytes.len() - 8);
            let _ = Record::read(bytes[8], &bytes[9..cut]);
        }
    }
}
