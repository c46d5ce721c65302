//! Discord's transport compression, receiving side: WebSocket messages in, payloads out.
//!
//! One [`Inflater`] lives as long as its connection, since each message builds on those before it. It does not look at
//! what it inflates.
//!
//! And when it is full? A payload that inflates to more than [`UPSTREAM_MESSAGE_BYTES_MAX`] is an error. The output
//! grows with what was inflated, at most doubling, so that a bomb fills memory no faster than it arrives and no
//! further than the limit.

#![forbid(unsafe_code)]

use std::fmt;

use zlib_rs::{Inflate, InflateFlush, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::compression::Compression;
use super::deframe::UPSTREAM_MESSAGE_BYTES_MAX;

/// What a Z_SYNC_FLUSH ends with, and so each payload of `zlib-stream`.
///
/// Source: Discord, Gateway › Transport compression.
pub const ZLIB_SUFFIX: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// 8 MiB, the most that decoders take by default; Discord sends 256 KiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What [`Inflater`] has seen of a suffix when it has seen none.
const NO_TAIL: [u8; 4] = [0xff; 4];
/// The first step by which the output grows, and the least.
const STEP_BYTES_MIN: usize = 4 << 10;
/// The longest step: the time to zero it stays below the time to fill it.
const STEP_BYTES_MAX: usize = 256 << 10;

/// Whether a payload is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inflated {
    /// What the caller has gathered since the last `Whole` is one payload.
    Whole,
    /// The payload goes on in the next WebSocket message.
    Partial,
}

/// The stream cannot be read on: the connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// Not the compression that was asked for, or damaged.
    Corrupt(&'static str),
    /// The stream was ended, which a transport compression never is.
    Ended,
    /// A payload of more than `limit` bytes.
    TooBig { limit: usize },
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(why) => write!(f, "compressed stream is damaged: {why}"),
            Self::Ended => f.write_str("compressed stream was ended"),
            Self::TooBig { limit } => write!(f, "payload inflates to more than {limit} bytes"),
        }
    }
}

impl std::error::Error for InflateError {}

/// The decompression context of one connection.
pub struct Inflater {
    context: Context,
    /// What the payload under way has been inflated to. payload_bytes ≤ payload_bytes_max
    payload_bytes: usize,
    payload_bytes_max: usize,
    /// The last four compressed bytes: a message's border may cut the suffix.
    tail: [u8; 4],
    failed: Option<InflateError>,
}

enum Context {
    None,
    Zlib(Inflate),
    Zstd(DCtx<'static>),
}

impl Inflater {
    /// For a fresh connection, before HELLO.
    pub fn new(compression: Compression) -> Self {
        Self::with_limit(compression, UPSTREAM_MESSAGE_BYTES_MAX)
    }

    /// As [`Inflater::new`], with another limit for one payload.
    pub fn with_limit(compression: Compression, payload_bytes_max: usize) -> Self {
        let context = match compression {
            Compression::None => Context::None,
            // 15 window bits read every smaller window too.
            Compression::Zlib => Context::Zlib(Inflate::new(true, 15)),
            Compression::Zstd => {
                let mut context = DCtx::create();
                context
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .expect("23 is within zstd's bounds");
                Context::Zstd(context)
            }
        };
        Self { context, payload_bytes: 0, payload_bytes_max, tail: NO_TAIL, failed: None }
    }

    /// Appends to `out` what `message`, one whole WebSocket message, inflates to.
    ///
    /// After [`Inflated::Whole`] the caller takes the payload out of `out`; after [`Inflated::Partial`] it leaves it
    /// there for the next message to go on. Only `zlib-stream` marks a payload's end; otherwise a message is a payload.
    ///
    /// Errors are final: the same one comes back from every further call.
    pub fn inflate(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<Inflated, InflateError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let start = out.len();
        // One byte over the limit may be written, and is how exceeding it shows.
        let room = self.payload_bytes_max - self.payload_bytes + 1;
        let inflated = match &mut self.context {
            Context::None => {
                out.extend_from_slice(&message[..message.len().min(room)]);
                Ok(())
            }
            Context::Zlib(context) => inflate_zlib(context, message, out, start + room),
            Context::Zstd(context) => inflate_zstd(context, message, out, start + room),
        };
        let inflated = match inflated {
            Ok(()) if out.len() - start >= room => Err(InflateError::TooBig { limit: self.payload_bytes_max }),
            other => other,
        };
        if let Err(error) = inflated {
            self.failed = Some(error);
            return Err(error);
        }
        self.payload_bytes += out.len() - start;
        if matches!(self.context, Context::Zlib(_)) && !self.ends_payload(message) {
            return Ok(Inflated::Partial);
        }
        self.payload_bytes = 0;
        Ok(Inflated::Whole)
    }

    /// Whether the compressed bytes so far end with [`ZLIB_SUFFIX`], wherever a message's border cut it.
    fn ends_payload(&mut self, message: &[u8]) -> bool {
        for &byte in &message[message.len().saturating_sub(self.tail.len())..] {
            self.tail.rotate_left(1);
            self.tail[3] = byte;
        }
        let ends = self.tail == ZLIB_SUFFIX;
        if ends {
            self.tail = NO_TAIL;
        }
        ends
    }
}

/// Stops when `message` is used up, or `out` has reached `len_max`.
fn inflate_zlib(context: &mut Inflate, message: &[u8], out: &mut Vec<u8>, len_max: usize) -> Result<(), InflateError> {
    let mut input = message;
    while out.len() < len_max {
        let start = out.len();
        let step = (input.len() * 8).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX).min(len_max - start);
        out.resize(start + step, 0);
        let (read, written) = (context.total_in(), context.total_out());
        let status = context
            .decompress(input, &mut out[start..], InflateFlush::SyncFlush)
            .map_err(|error| InflateError::Corrupt(error.as_str()))?;
        let written = (context.total_out() - written) as usize;
        input = &input[(context.total_in() - read) as usize..];
        out.truncate(start + written);
        match status {
            Status::StreamEnd => return Err(InflateError::Ended),
            // Room was left, so there was nothing more to write.
            Status::Ok | Status::BufError if written < step => {
                return if input.is_empty() { Ok(()) } else { Err(InflateError::Corrupt("no progress")) };
            }
            Status::Ok | Status::BufError => {}
        }
    }
    Ok(())
}

/// As [`inflate_zlib`]. `out` may pass `len_max` by as much as its capacity allows.
fn inflate_zstd(context: &mut DCtx, message: &[u8], out: &mut Vec<u8>, len_max: usize) -> Result<(), InflateError> {
    let mut input = InBuffer::around(message);
    while out.len() < len_max {
        if out.capacity() - out.len() < STEP_BYTES_MIN {
            out.reserve((message.len() * 8).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX));
        }
        let (start, read) = (out.len(), input.pos());
        let mut output = OutBuffer::around_pos(out, start);
        context
            .decompress_stream(&mut output, &mut input)
            .map_err(|code| InflateError::Corrupt(zstd_safe::get_error_name(code)))?;
        if out.len() < out.capacity() {
            if input.pos() == message.len() {
                return Ok(());
            }
            // A frame may have ended, and the next begins with what is left.
            if (out.len(), input.pos()) == (start, read) {
                return Err(InflateError::Corrupt("no progress"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Encoder, properties};
    use super::*;

    /// The compressed messages of `payloads`, without their frame headers of 2 to 10 bytes.
    fn compressed(compression: Compression, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(compression);
        let message = |payload: &&[u8]| {
            let mut frame = Vec::new();
            encoder.write(&[payload], &mut frame);
            let (_, header_len) = super::super::frame::parse_header(&frame).unwrap().unwrap();
            frame.split_off(header_len)
        };
        payloads.iter().map(message).collect()
    }

    #[test]
    fn a_payload_may_span_messages_and_ends_with_the_suffix() {
        let [first, second] = &compressed(Compression::Zlib, &[b"first", b"second"])[..] else { panic!() };
        for cut in 1..first.len() {
            let mut inflater = Inflater::new(Compression::Zlib);
            let mut payload = Vec::new();
            assert_eq!(inflater.inflate(&first[..cut], &mut payload), Ok(Inflated::Partial), "cut at {cut}");
            assert_eq!(inflater.inflate(&first[cut..], &mut payload), Ok(Inflated::Whole), "cut at {cut}");
            assert_eq!(payload, b"first");
            payload.clear();
            assert_eq!(inflater.inflate(second, &mut payload), Ok(Inflated::Whole));
            assert_eq!(payload, b"second");
        }
    }

    #[test]
    fn an_empty_message_ends_no_payload() {
        let mut inflater = Inflater::new(Compression::Zlib);
        let mut payload = Vec::new();
        inflater.inflate(&compressed(Compression::Zlib, &[b"{}"])[0], &mut payload).unwrap();
        assert_eq!(inflater.inflate(b"", &mut payload), Ok(Inflated::Partial));
    }

    #[test]
    fn a_bomb_is_an_error_before_it_fills_memory() {
        let bomb = vec![b' '; 8 << 20];
        for compression in [Compression::Zlib, Compression::Zstd] {
            let message = &compressed(compression, &[&bomb])[0];
            let mut inflater = Inflater::with_limit(compression, 1 << 20);
            let mut payload = Vec::new();
            let too_big = Err(InflateError::TooBig { limit: 1 << 20 });
            assert_eq!(inflater.inflate(message, &mut payload), too_big, "{compression:?}");
            assert!(payload.capacity() <= 4 << 20, "{compression:?} took {} bytes", payload.capacity());
        }
    }

    #[test]
    fn the_limit_holds_across_the_messages_of_one_payload_and_not_across_payloads() {
        let noise: Vec<u8> = (0..3000_u32).map(|it| ((it * it) >> 5) as u8).collect();
        let message = compressed(Compression::Zlib, &[&noise]).remove(0);
        let mut inflater = Inflater::with_limit(Compression::Zlib, 2999);
        let mut payload = Vec::new();
        let ended = message.chunks(100).map(|piece| inflater.inflate(piece, &mut payload)).find(Result::is_err);
        assert_eq!(ended, Some(Err(InflateError::TooBig { limit: 2999 })));

        let mut inflater = Inflater::with_limit(Compression::Zlib, 3000);
        for message in compressed(Compression::Zlib, &[&noise, &noise, &noise]) {
            payload.clear();
            assert_eq!(inflater.inflate(&message, &mut payload), Ok(Inflated::Whole));
            assert_eq!(payload, noise);
        }
    }

    #[test]
    fn damage_is_an_error_that_stays() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            let mut inflater = Inflater::new(compression);
            let mut payload = Vec::new();
            let first = inflater.inflate(b"{\"op\":10}", &mut payload).unwrap_err();
            assert!(matches!(first, InflateError::Corrupt(_)));
            let good = &compressed(compression, &[b"{}"])[0];
            assert_eq!(inflater.inflate(good, &mut payload), Err(first));
        }
    }

    #[test]
    fn a_zlib_stream_that_is_ended_is_an_error() {
        // An empty stream with its checksum: header, one final empty block, Adler-32 of nothing.
        let ended = [0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01];
        assert_eq!(Inflater::new(Compression::Zlib).inflate(&ended, &mut Vec::new()), Err(InflateError::Ended));
    }

    #[test]
    fn a_zstd_window_over_8_mib_is_refused() {
        // Magic, descriptor without single segment, window descriptor for 16 MiB.
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3];
        let inflated = Inflater::new(Compression::Zstd).inflate(&header, &mut Vec::new());
        assert!(matches!(inflated, Err(InflateError::Corrupt(_))), "{inflated:?}");
    }

    #[test]
    fn a_recorded_connection_inflates_to_its_payloads() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/payloads/zlib-stream-capture");
        let mut inflater = Inflater::new(Compression::Zlib);
        for name in ["00", "01", "02"] {
            let Ok(hex) = std::fs::read_to_string(format!("{folder}/{name}.zlibframe.hex")) else { return };
            let digits: Vec<u8> = hex.chars().filter_map(|it| it.to_digit(16)).map(|it| it as u8).collect();
            let message: Vec<u8> = digits.chunks_exact(2).map(|it| it[0] << 4 | it[1]).collect();
            let mut payload = Vec::new();
            assert_eq!(inflater.inflate(&message, &mut payload), Ok(Inflated::Whole));
            let wanted = std::fs::read(format!("{folder}/{name}.decoded.json")).unwrap();
            assert_eq!(payload.trim_ascii(), wanted.trim_ascii(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_inflate_within_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            properties::inflate(&bytes);
        }
    }
}
