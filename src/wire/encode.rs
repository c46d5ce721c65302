//! What a client is sent: payloads, through its transport compression, in one WebSocket message each.
//!
//! One [`Encoder`] lives as long as its connection, since each message builds on those before it. It knows neither
//! sessions nor sequence numbers: it takes a payload in parts, and the parts are chosen by the caller.
//!
//! Cost per payload: one copy into `out` without compression, none if the caller composes it there; otherwise what the compressor
//! takes, and a move of the compressed bytes if their length needed another header than was guessed. `out` alone grows; once it
//! is as large as its largest batch, nothing is allocated.
//!
//! And when it is full? `out` is the caller's, and so is its limit: a payload is written whole or not asked for.

#![forbid(unsafe_code)]

use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ParamSwitch};

use super::compression::Compression;
use super::deflate::Deflater;
use super::frame::{self, HEADER_BYTES_MAX, Opcode};

const ZSTD_LEVEL: i32 = 1;
/// 32 KiB of window: a context of 257 KiB.
const ZSTD_WINDOW_LOG: u32 = 15;
/// A table of 16 KiB instead of 64 stays in the processor's cache when many streams take turns: over 225 of them 5.5 µs an event, before 6.8, for 1 % more bytes.
const ZSTD_HASH_LOG: u32 = 12;
/// Literals go as they are: 4.7 µs instead of 5.5, for 4 % more bytes (0.143 of the payloads).
const ZSTD_LITERALS: ParamSwitch = ParamSwitch::Disable;
/// The least room given to the compressor.
const STEP_BYTES_MIN: usize = 512;
/// A compressed message, and the guess at its header: right from 126 bytes to 64 KiB.
const COMPRESSED_GUESS: (Opcode, usize) = (Opcode::Binary, 4);
/// A payload that is composed where it goes: right from 64 KiB on. What is shorter is moved, which a copy would have cost anyway.
const COMPOSED_GUESS: (Opcode, usize) = (Opcode::Text, 10);

/// The compression context of one client's connection.
pub struct Encoder {
    context: Context,
}

enum Context {
    None,
    Zlib(Deflater),
    Zstd(CCtx<'static>),
}

impl Encoder {
    /// For a fresh connection, before HELLO.
    pub fn new(compression: Compression) -> Self {
        let context = match compression {
            Compression::None => Context::None,
            Compression::Zlib => Context::Zlib(Deflater::default()),
            Compression::Zstd => Context::Zstd(zstd_context()),
        };
        Self { context }
    }

    /// Appends one whole frame to `out` that holds the payload made of `parts`, which is never empty.
    ///
    /// Text without compression, otherwise binary; never masked. One payload is one message, ends with its flush and
    /// can be inflated at once: some libraries do not look for the end marker.
    ///
    /// Source: Discord, Gateway › Transport compression.
    pub fn write(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) {
        let payload_len = parts.iter().map(|part| part.len()).sum::<usize>();
        debug_assert!(payload_len > 0, "a second flush of nothing would write nothing");
        match &mut self.context {
            Context::None => {
                out.reserve(HEADER_BYTES_MAX + payload_len);
                frame::write_header(out, Opcode::Text, payload_len, None);
                for part in parts {
                    out.extend_from_slice(part);
                }
            }
            Context::Zlib(context) => write_guessed(out, COMPRESSED_GUESS, |out| context.write(parts, out)),
            Context::Zstd(context) => {
                write_guessed(out, COMPRESSED_GUESS, |out| compress_zstd(context, parts, payload_len, out))
            }
        }
    }

    /// The same for a long payload that `compose` appends to what it is given: to `out` itself without compression, else to `scratch`.
    pub fn compose(&mut self, scratch: &mut Vec<u8>, out: &mut Vec<u8>, compose: impl FnOnce(&mut Vec<u8>)) {
        if let Context::None = self.context {
            return write_guessed(out, COMPOSED_GUESS, compose);
        }
        scratch.clear();
        compose(scratch);
        self.write(&[scratch], out);
    }
}

/// Appends a frame whose payload's length is known only when `write` has appended it.
fn write_guessed(out: &mut Vec<u8>, (opcode, guessed): (Opcode, usize), write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + guessed, 0);
    let payload_start = out.len();
    write(out);
    let payload_end = out.len();
    let (header, header_len) = frame::header(opcode, payload_end - payload_start, false);
    if header_len > guessed {
        out.resize(payload_end + header_len - guessed, 0);
    }
    if header_len != guessed {
        out.copy_within(payload_start..payload_end, start + header_len);
        out.truncate(start + header_len + payload_end - payload_start);
    }
    out[start..start + header_len].copy_from_slice(&header[..header_len]);
}

fn zstd_context() -> CCtx<'static> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(ZSTD_LEVEL),
        CParameter::WindowLog(ZSTD_WINDOW_LOG),
        CParameter::HashLog(ZSTD_HASH_LOG),
        CParameter::LiteralCompressionMode(ZSTD_LITERALS),
        CParameter::ChecksumFlag(false),
        CParameter::ContentSizeFlag(false),
    ] {
        context.set_parameter(parameter).expect("within zstd's bounds");
    }
    context
}

fn compress_zstd(context: &mut CCtx, parts: &[&[u8]], payload_len: usize, out: &mut Vec<u8>) {
    const WHY: &str = "zstd compresses anything, given memory";
    out.reserve((payload_len / 2).max(STEP_BYTES_MIN));
    for part in parts {
        let mut input = InBuffer::around(part);
        while input.pos() < part.len() {
            let mut output = grown(out);
            context.compress_stream(&mut output, &mut input).expect(WHY);
        }
    }
    loop {
        let mut output = grown(out);
        if context.flush_stream(&mut output).expect(WHY) == 0 {
            return;
        }
    }
}

/// The room behind what `out` holds, at least [`STEP_BYTES_MIN`].
fn grown(out: &mut Vec<u8>) -> OutBuffer<'_, Vec<u8>> {
    out.reserve(STEP_BYTES_MIN);
    let start = out.len();
    OutBuffer::around_pos(out, start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::inflate::ZLIB_SUFFIX;
    use super::super::{frame, properties};
    use super::*;

    /// The payloads of the frames in `stream`.
    fn messages(stream: &[u8]) -> Vec<&[u8]> {
        let mut rest = stream;
        let mut messages = Vec::new();
        while let Some((header, header_len)) = frame::parse_header(rest).unwrap() {
            assert!(header.fin && header.mask.is_none());
            let (message, behind) = rest[header_len..].split_at(header.payload_len as usize);
            messages.push(message);
            rest = behind;
        }
        assert!(rest.is_empty());
        messages
    }

    fn encoded(compression: Compression, payloads: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression);
        let mut stream = Vec::new();
        for payload in payloads {
            encoder.write(&[payload], &mut stream);
        }
        stream
    }

    #[test]
    fn without_compression_the_parts_follow_a_text_header() {
        let mut out = b"before".to_vec();
        Encoder::new(Compression::None).write(&[b"{\"s\":", b"12", b"}"], &mut out);
        assert_eq!(out, b"before\x81\x08{\"s\":12}");
    }

    #[test]
    fn a_composed_payload_is_what_would_have_been_written() {
        for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
            let (mut composing, mut writing) = (Encoder::new(compression), Encoder::new(compression));
            let (mut composed, mut written, mut scratch) = (b"before".to_vec(), b"before".to_vec(), Vec::new());
            for len in [1, 125, 126, 65_535, 65_536, 200_000] {
                let payload = vec![b'x'; len];
                composing.compose(&mut scratch, &mut composed, |out| out.extend_from_slice(&payload));
                writing.write(&[&payload], &mut written);
                assert!(composed == written, "{len} bytes, {compression:?}");
            }
        }
    }

    #[test]
    fn the_zlib_header_comes_once_and_every_message_ends_with_the_suffix() {
        let stream = encoded(Compression::Zlib, &[b"{\"op\":10}", b"{\"op\":11}", b"{\"op\":11}"]);
        assert_eq!(stream[0], 0x82);
        let messages = messages(&stream);
        assert_eq!(messages.len(), 3);
        // CM 8, CINFO 6: a window of 16 KiB (RFC 1950 §2.2).
        assert_eq!(messages[0][0], 0x68);
        assert!(messages.iter().all(|message| message.ends_with(&ZLIB_SUFFIX)));
        assert!(messages[1..].iter().all(|message| message[0] != 0x68));
    }

    #[test]
    fn zlib_messages_inflate_one_by_one_in_one_context() {
        let payloads: [&[u8]; 3] = [b"{\"op\":10}", &[b'x'; 5000], b"{\"op\":11}"];
        let stream = encoded(Compression::Zlib, &payloads);
        let mut judge = zlib_rs::Inflate::new(true, 14);
        for (message, payload) in messages(&stream).into_iter().zip(payloads) {
            let (read, written) = (judge.total_in(), judge.total_out());
            let mut out = [0; 6000];
            judge.decompress(message, &mut out, zlib_rs::InflateFlush::NoFlush).unwrap();
            assert_eq!(judge.total_in() - read, message.len() as u64);
            assert_eq!(&out[..(judge.total_out() - written) as usize], payload);
        }
    }

    #[test]
    fn zstd_is_one_frame_of_a_small_window_and_unknown_size() {
        let stream = encoded(Compression::Zstd, &[b"{\"op\":10}", b"{\"op\":11}"]);
        let messages = messages(&stream);
        // Magic; neither size nor checksum nor dictionary; 32 KiB of window: 2^(10 + 5).
        assert_eq!(messages[0][..6], [0x28, 0xb5, 0x2f, 0xfd, 0x00, 5 << 3]);
        assert!(!messages[1].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    }

    #[test]
    fn frames_of_every_header_length_hold_their_payload() {
        let noise: Vec<u8> = (0..200_000_u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in [1, 60, 125, 126, 1000, 65_535, 65_536, 200_000] {
            properties::round_trip(&[&noise[..len], b"{}", &noise[..len]], len / 3 + 1);
        }
    }

    #[test]
    fn a_warm_encoder_writes_within_the_room_it_has() {
        for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
            let mut encoder = Encoder::new(compression);
            let mut out = Vec::new();
            let payload = [b'x'; 1000];
            for _ in 0..3 {
                out.clear();
                encoder.write(&[&payload], &mut out);
            }
            let capacity = out.capacity();
            for _ in 0..100 {
                out.clear();
                encoder.write(&[&payload], &mut out);
            }
            assert_eq!(out.capacity(), capacity, "{compression:?}");
        }
    }

    #[test]
    fn an_encoder_moves_between_threads() {
        fn assert_send<T: Send>() {}
        assert_send::<Encoder>();
        assert_send::<super::super::Inflater>();
    }

    proptest! {
        #[test]
        fn what_is_longer_than_any_window_comes_out_too(bytes in prop::collection::vec(any::<u8>(), 12..300)) {
            properties::compress(&bytes);
        }

        #[test]
        fn payloads_come_out_as_they_went_in(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..6),
            repeats in 1_usize..40,
            part_len in 1_usize..300,
        ) {
            let payloads: Vec<Vec<u8>> = payloads.iter().map(|payload| payload.repeat(repeats)).collect();
            properties::round_trip(&payloads.iter().map(Vec::as_slice).collect::<Vec<_>>(), part_len);
        }
    }
}
