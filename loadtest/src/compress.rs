//! The transport compressions of the gateway: one context per connection, one whole payload per message.
//!
//! Levels and windows are small: the load test pays for every byte that it compresses. Payload compression
//! (`"compress":true` in IDENTIFY) is not done; a server may lawfully never use it.

use std::str::FromStr;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush};
use zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_flush;
use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer};

/// The `compress` key of the gateway URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Zlib,
    Zstd,
}

impl Compression {
    /// The value of the key, and `none`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zlib => "zlib-stream",
            Self::Zstd => "zstd-stream",
        }
    }
}

impl FromStr for Compression {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Self::None),
            "zlib-stream" => Ok(Self::Zlib),
            "zstd-stream" => Ok(Self::Zstd),
            _ => Err(()),
        }
    }
}

/// The stream cannot be what it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

const STEP_BYTES: usize = 16 * 1024;
const LEVEL: i32 = 1;
const ZLIB_WINDOW_BITS: i32 = 12;
const ZLIB_MEM_LEVEL: i32 = 6;
const ZSTD_WINDOW_LOG: u32 = 15;

/// The sending side.
pub enum Encoder {
    None,
    Zlib(Box<Deflate>),
    Zstd(CCtx<'static>),
}

impl Encoder {
    pub fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Zlib => Self::Zlib(Box::new(Deflate::new_with_config(DeflateConfig {
                level: LEVEL,
                window_bits: ZLIB_WINDOW_BITS,
                mem_level: ZLIB_MEM_LEVEL,
                ..DeflateConfig::default()
            }))),
            Compression::Zstd => {
                let mut context = CCtx::create();
                for parameter in [CParameter::CompressionLevel(LEVEL), CParameter::WindowLog(ZSTD_WINDOW_LOG)] {
                    context.set_parameter(parameter).expect("level and window are in zstd's range");
                }
                Self::Zstd(context)
            }
        }
    }

    /// Appends `payload` to `out` as one flushed message of the stream.
    pub fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::None => out.extend_from_slice(payload),
            Self::Zlib(stream) => deflate(stream, payload, out),
            Self::Zstd(context) => {
                let mut input = InBuffer::around(payload);
                loop {
                    out.reserve(STEP_BYTES);
                    let len = out.len();
                    let mut output = OutBuffer::around_pos(out, len);
                    let left = context.compress_stream2(&mut output, &mut input, ZSTD_e_flush);
                    if left.expect("a fresh context and valid buffers") == 0 {
                        return;
                    }
                }
            }
        }
    }
}

fn deflate(stream: &mut Deflate, mut input: &[u8], out: &mut Vec<u8>) {
    loop {
        let filled = out.len();
        out.resize(filled + STEP_BYTES.max(input.len() / 4), 0);
        let (consumed, produced) = (stream.total_in(), stream.total_out());
        stream.compress(input, &mut out[filled..], DeflateFlush::SyncFlush).expect("a valid stream and buffers");
        input = &input[(stream.total_in() - consumed) as usize..];
        let is_full = filled + (stream.total_out() - produced) as usize == out.len();
        out.truncate(filled + (stream.total_out() - produced) as usize);
        // A flush is done when zlib had room to spare.
        if input.is_empty() && !is_full {
            return;
        }
    }
}

/// The receiving side.
pub enum Decoder {
    None,
    Zlib(Box<Inflate>),
    Zstd(DCtx<'static>),
}

impl Decoder {
    pub fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Zlib => Self::Zlib(Box::new(Inflate::new(true, 15))),
            Compression::Zstd => Self::Zstd(DCtx::create()),
        }
    }

    /// Replaces `out` by the payload that `message` holds.
    pub fn decode(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Corrupt> {
        out.clear();
        match self {
            Self::None => out.extend_from_slice(message),
            Self::Zlib(stream) => inflate(stream, message, out)?,
            Self::Zstd(context) => {
                let mut input = InBuffer::around(message);
                loop {
                    out.reserve(STEP_BYTES);
                    let len = out.len();
                    let mut output = OutBuffer::around_pos(out, len);
                    context.decompress_stream(&mut output, &mut input).map_err(|_| Corrupt)?;
                    if input.pos() == message.len() && output.pos() < output.capacity() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

fn inflate(stream: &mut Inflate, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Corrupt> {
    loop {
        let filled = out.len();
        out.resize(filled + STEP_BYTES.max(input.len() * 4), 0);
        let (consumed, produced) = (stream.total_in(), stream.total_out());
        stream.decompress(input, &mut out[filled..], InflateFlush::SyncFlush).map_err(|_| Corrupt)?;
        input = &input[(stream.total_in() - consumed) as usize..];
        let is_full = filled + (stream.total_out() - produced) as usize == out.len();
        out.truncate(filled + (stream.total_out() - produced) as usize);
        if input.is_empty() && !is_full {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_by_itself() {
        let payloads = [
            b"{}".to_vec(),
            b"{\"a\":1}".repeat(40_000),
            Vec::new(),
            (0..60_000u32).map(|it| ((it * 7919) >> 3) as u8).collect(),
        ];
        for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
            let (mut encoder, mut decoder) = (Encoder::new(compression), Decoder::new(compression));
            for payload in &payloads {
                let (mut message, mut decoded) = (Vec::new(), Vec::new());
                encoder.encode(payload, &mut message);
                decoder.decode(&message, &mut decoded).unwrap();
                assert!(decoded == *payload, "{} of {} bytes", compression.name(), payload.len());
            }
        }
    }

    #[test]
    fn a_zlib_message_ends_in_the_flush_marker() {
        let mut message = Vec::new();
        Encoder::new(Compression::Zlib).encode(b"{\"op\":11}", &mut message);
        assert!(message.ends_with(&[0, 0, 0xFF, 0xFF]));
    }

    #[test]
    fn garbage_is_an_error() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            assert_eq!(Decoder::new(compression).decode(&[0xAA; 64], &mut Vec::new()), Err(Corrupt));
        }
    }
}
