//! The bytes of one dispatch, step by step: deframed, inflated, scanned, spliced, framed, compressed.
//!
//! Sizes: a typing event, a message, a large presence burst or small guild, a large guild.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shardgate::wire::frame::{self, Opcode};
use shardgate::wire::{Compression, Deframer, Encoder, Inflater, Message, Role, deframe, mask, scan};

const SIZES: [(&str, usize); 4] = [("200B", 200), ("1KiB", 1 << 10), ("100KiB", 100 << 10), ("1MiB", 1 << 20)];
const MEMBER: &str = r#"{"user":{"username":"grüße","public_flags":0,"id":"80351110224678912","global_name":null,"discriminator":"0","avatar":"8342729096ea3675442027381ff50dfe"},"roles":["41771983423143936"],"premium_since":null,"nick":"a \"quoted\" name","joined_at":"2015-04-26T06:26:56.936000+00:00"},"#;

/// A dispatch of about `len` bytes in Discord's own form, with ids that differ so that it does not compress to nothing.
fn payload(len: usize) -> Vec<u8> {
    payload_from(80_351_110_224_678_912, len)
}

/// The same, with ids that follow from `id`.
fn payload_from(mut id: u64, len: usize) -> Vec<u8> {
    let mut members = String::new();
    while members.len() < len {
        id = id.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        members += &MEMBER.replace("80351110224678912", &(id >> 6).to_string());
    }
    let mut payload =
        br#"{"t":"GUILD_MEMBERS_CHUNK","s":48213,"op":0,"d":{"guild_id":"41771983423143937","nick":""#.to_vec();
    if len < 1 << 10 {
        payload.resize(len - 3, b'x');
        payload.extend_from_slice(b"\"}}");
    } else {
        payload.extend_from_slice(b"\",\"members\":[");
        payload.extend_from_slice(&members.as_bytes()[..members.len() - 1]);
        payload.extend_from_slice(b"]}}");
    }
    payload
}

/// `payload` with its keys in another order, so that the whole of it is walked.
fn reordered(payload: &[u8]) -> Vec<u8> {
    let envelope = scan::scan(payload).unwrap();
    let data = &payload[envelope.data.unwrap()];
    [br#"{"op":0,"d":"#, data, br#","s":48213,"t":"GUILD_MEMBERS_CHUNK"}"#].concat()
}

fn wire(c: &mut Criterion) {
    for (name, len) in SIZES {
        let payload = payload(len);
        let mut group = c.benchmark_group("wire");
        group.throughput(Throughput::Bytes(payload.len() as u64));
        let id = |step: &str| BenchmarkId::new(step, name);

        group.bench_function(id("scan"), |b| b.iter(|| scan::scan(black_box(&payload))));
        let other_order = reordered(&payload);
        group.bench_function(id("scan other order"), |b| b.iter(|| scan::scan(black_box(&other_order))));

        for (step, role, mask) in
            [("deframe", Role::Client, None), ("deframe masked", Role::Server, Some([1, 2, 3, 4]))]
        {
            let mut stream = Vec::new();
            frame::write_frame(&mut stream, Opcode::Text, &payload, mask);
            let mut deframer = Deframer::new(role, deframe::UPSTREAM_MESSAGE_BYTES_MAX);
            group.bench_function(id(step), |b| {
                b.iter(|| match deframer.next(&mut black_box(stream.as_slice())) {
                    Ok(Some(Message::Text(payload))) => payload.len(),
                    other => unreachable!("{other:?}"),
                });
            });
        }

        for (step, mask) in [("frame", None), ("frame masked", Some([1, 2, 3, 4]))] {
            let mut out = Vec::new();
            group.bench_function(id(step), |b| {
                b.iter(|| {
                    out.clear();
                    frame::write_frame(&mut out, Opcode::Text, black_box(&payload), mask);
                });
            });
        }

        let mut masked = payload.clone();
        group.bench_function(id("mask"), |b| b.iter(|| mask::apply(black_box(&mut masked), [1, 2, 3, 4], 1)));

        let span = scan::scan(&payload).unwrap().sequence_span.unwrap();
        for (step, compression) in [
            ("splice and frame", Compression::None),
            ("splice and deflate", Compression::Zlib),
            ("splice and zstd", Compression::Zstd),
        ] {
            let mut encoder = Encoder::new(compression);
            let mut out = Vec::new();
            let mut sequence = 0u64;
            group.bench_function(id(step), |b| {
                b.iter(|| {
                    sequence += 1;
                    out.clear();
                    let mut digits = itoa::Buffer::new();
                    let payload = black_box(&payload);
                    let digits = digits.format(sequence).as_bytes();
                    encoder.write(&[&payload[..span.start], digits, &payload[span.end..]], &mut out);
                });
            });
        }

        for (step, compression) in [("inflate zlib", Compression::Zlib), ("inflate zstd", Compression::Zstd)] {
            let first = message(&mut Encoder::new(compression), &payload);
            let mut out = Vec::new();
            group.bench_function(id(step), |b| {
                b.iter_batched_ref(
                    || Inflater::new(compression),
                    |inflater| {
                        out.clear();
                        inflater.inflate(black_box(&first), &mut out)
                    },
                    BatchSize::LargeInput,
                );
            });
        }
        group.finish();
    }
}

/// What a core with many clients does: each event finds the context of its client cold.
fn streams(c: &mut Criterion) {
    const CLIENTS: usize = 225;
    let payloads: Vec<_> = (0..1000).map(|n| payload_from(n, 1 << 10)).collect();
    let mut group = c.benchmark_group("wire/225 streams in turn");
    group.throughput(Throughput::Bytes(payloads[0].len() as u64));
    for (step, compression) in
        [("none", Compression::None), ("deflate", Compression::Zlib), ("zstd", Compression::Zstd)]
    {
        let mut encoders: Vec<_> = (0..CLIENTS).map(|_| Encoder::new(compression)).collect();
        let mut out = Vec::new();
        let mut n = 0;
        group.bench_function(BenchmarkId::new(step, "1KiB"), |b| {
            b.iter(|| {
                out.clear();
                encoders[n % CLIENTS].write(&[black_box(&payloads[n % payloads.len()])], &mut out);
                n += 1;
            });
        });
    }
    group.finish();
}

/// One compressed message, without its frame header.
fn message(encoder: &mut Encoder, payload: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    encoder.write(&[payload], &mut stream);
    let (_, header_len) = frame::parse_header(&stream).unwrap().unwrap();
    stream.split_off(header_len)
}

criterion_group!(benches, wire, streams);
criterion_main!(benches);
