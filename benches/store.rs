//! What is written to disk, on a disk in memory: the core's copies, then the storage thread's checksum and write; and what a restart reads.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shardgate::store::identity::Binding;
use shardgate::store::memory::MemoryDisk;
use shardgate::store::{DISK_BYTES_MIN, Settings, Store, frame};
use shardgate::wire::ShardId;

const EVENT: usize = 1 << 10;
/// What a core sends every 10 ms at 10,000 events a second.
const EVENTS_OF_A_BATCH: usize = 100;

fn settings() -> Settings {
    Settings {
        binding: Binding { token: "t".into(), shard_count: 1, intents: 1, api_url: "u".into(), cache: 0 },
        shards: 0..1,
        cores: 1,
        disk_bytes: DISK_BYTES_MIN,
        salt: [0; 16],
    }
}

fn records(count: usize) -> Vec<u8> {
    let event = vec![b'x'; EVENT];
    let mut out = Vec::new();
    for _ in 0..count {
        frame::append(&mut out, ShardId(0), 1, |it| it.extend_from_slice(&event));
    }
    out
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/append");
    for (name, len) in [("200B", 200), ("1KiB", EVENT), ("100KiB", 100 << 10), ("1MiB", 1 << 20)] {
        group.throughput(Throughput::Bytes(len as u64));
        let event = vec![b'x'; len];
        let mut journal = Vec::with_capacity(2 << 20);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                if journal.len() > 128 << 10 {
                    journal.clear();
                }
                frame::append(&mut journal, ShardId(0), 1, |out| out.extend_from_slice(black_box(&event)));
            });
        });
    }
    group.finish();
}

fn write(criterion: &mut Criterion) {
    let batch = records(EVENTS_OF_A_BATCH);
    let mut group = criterion.benchmark_group("store/write");
    group.throughput(Throughput::Elements(EVENTS_OF_A_BATCH as u64));
    group.bench_function("100 events", |bencher| {
        bencher.iter_batched_ref(
            || Store::create(MemoryDisk::default(), settings()).expect("the disk is good"),
            |store| {
                store.on_records(black_box(&batch));
                store.write().expect("the disk is good")
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut store = Store::create(MemoryDisk::default(), settings()).expect("the disk is good");
    let batch = records(EVENTS_OF_A_BATCH);
    for n in 0..160 {
        store.on_records(&batch);
        store.on_segment(ShardId(0), n, n + 1, &batch[..64 << 10]).expect("the disk is good");
        store.write().expect("the disk is good");
    }
    let disk = store.into_disk();
    let mut group = criterion.benchmark_group("store/open");
    group.throughput(Throughput::Bytes(disk.bytes()));
    group.bench_function("16 MiB of records, 10 MiB of segments", |bencher| {
        bencher.iter_batched(
            || disk.clone(),
            |disk| Store::open(disk, settings()).expect("the disk is good"),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, append, write, open);
criterion_main!(benches);
