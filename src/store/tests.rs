//! The store by example and by property, over a disk in memory that tears, loses and fails on purpose.

use super::disk::Name;
use super::memory::{Faults, MemoryDisk};
use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn settings() -> Settings {
    Settings {
        binding: Binding {
            token: "token".into(),
            shard_count: 4,
            intents: 1,
            api_url: "http://discord.invalid".into(),
            cache: 3,
        },
        shards: 0..4,
        cores: 1,
        disk_bytes: DISK_BYTES_MIN,
        salt: [1; 16],
    }
}

fn record(shard: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::append(&mut out, ShardId(shard), 1, |it| it.extend_from_slice(payload));
    out
}

fn restored(store: &mut Store<MemoryDisk>) -> (Vec<(u32, StateBlob)>, Vec<u32>) {
    let (mut blobs, mut complete) = (Vec::new(), Vec::new());
    while let Some(step) = store.next_state().unwrap() {
        match step {
            StateStep::Blob(shard, blob) => {
                assert!(!complete.contains(&shard.0), "nothing comes after the last");
                blobs.push((shard.0, blob));
            }
            StateStep::Damaged(shard) => panic!("a checkpoint of shard {shard} is damaged"),
            StateStep::Complete(shard) => complete.push(shard.0),
        }
    }
    complete.sort_unstable();
    (blobs, complete)
}

fn small_store() -> Store<MemoryDisk> {
    let mut store = Store::create(MemoryDisk::default(), settings()).unwrap();
    store.on_records(&record(1, b"one"));
    store.on_records(&record(2, b"two"));
    store.on_records(&record(1, b"three"));
    store.on_segment(ShardId(1), 10, 20, b"segment").unwrap();
    store.on_state(ShardId(2), 77, 15, b"guild").unwrap();
    store.on_state(ShardId(2), 78, 15, b"gone soon").unwrap();
    store.on_state(ShardId(2), 78, 16, b"").unwrap();
    store.write().unwrap();
    store
}

#[test]
fn each_shard_gets_back_what_is_its_own() {
    let (mut store, recovery) = Store::open(small_store().into_disk(), settings()).unwrap();
    let one = Recovered { records: [record(1, b"one"), record(1, b"three")].concat(), sealed: vec![(10, 20)] };
    let two = Recovered { records: record(2, b"two"), sealed: vec![] };
    assert_eq!(recovery.shards, [(ShardId(1), one), (ShardId(2), two)]);
    assert_eq!(recovery.dropped, None);
    let (blobs, complete) = restored(&mut store);
    assert_eq!(blobs, [(2, StateBlob { guild: 77, as_of: 15, bytes: b"guild".to_vec() })]);
    assert_eq!(complete, [1, 2]);
    let sealed = Sealed { first: 10, end: 20, bytes: b"segment".to_vec() };
    assert_eq!(store.read(ShardId(1), 19).unwrap(), Some(sealed));
    assert_eq!(store.read(ShardId(1), 20).unwrap(), None);
}

#[test]
fn a_read_that_fails_while_the_store_is_opened_takes_nothing_with_it() {
    let disk = small_store().into_disk();
    let (_, wanted) = Store::open(disk.clone(), settings()).unwrap();
    let mut failed = 0;
    for reads in 0.. {
        let disk = std::rc::Rc::new(std::cell::RefCell::new(disk.clone()));
        disk.borrow_mut().faults.reads_left = Some(reads);
        let opened = Store::open(disk.clone(), settings()).map(drop);
        disk.borrow_mut().faults = Faults::default();
        let (mut store, found) = Store::open(disk.take(), settings()).unwrap();
        assert_eq!(found.shards, wanted.shards, "{reads} reads");
        assert_eq!(restored(&mut store).0, [(2, StateBlob { guild: 77, as_of: 15, bytes: b"guild".to_vec() })]);
        if opened.is_ok() {
            break;
        }
        failed += 1;
    }
    assert!(failed > 3, "the identity, the log, both families: {failed}");
}

#[test]
fn what_was_not_written_is_read_all_the_same() {
    let mut store = small_store();
    store.on_segment(ShardId(1), 20, 30, b"still in memory").unwrap();
    assert_eq!(store.read(ShardId(1), 25).unwrap().unwrap().bytes, b"still in memory");
}

#[test]
fn an_empty_folder_begins_anew_without_a_word() {
    let (mut store, recovery) = Store::open(MemoryDisk::default(), settings()).unwrap();
    assert!(recovery.shards.is_empty() && recovery.dropped.is_none() && recovery.rotate.is_none());
    assert_eq!(store.next_state().unwrap(), None);
}

#[test]
fn what_belongs_to_another_layout_is_dropped_with_a_line() {
    let mut other = settings();
    other.binding.shard_count = 8;
    let (store, recovery) = Store::open(small_store().into_disk(), other).unwrap();
    assert_eq!(recovery.dropped.as_deref(), Some("shards: found 4, wanted 8"));
    assert!(recovery.shards.is_empty());
    assert_eq!(store.into_disk().names(), [Name::Identity]);
}

#[test]
fn shards_outside_the_range_are_dropped_and_do_not_come_back() {
    let (store, recovery) = Store::open(small_store().into_disk(), Settings { shards: 0..2, ..settings() }).unwrap();
    assert_eq!(recovery.shards.len(), 1);
    assert_eq!(recovery.dropped.as_deref(), Some("shard_start, shard_end: found other shards, too, wanted 0..2"));
    let mut store = store;
    store.on_records(&record(1, b"all that shard 1 needs"));
    store.on_rotated(0, recovery.rotate.unwrap(), &[(ShardId(1), 10)]).unwrap();
    let (mut store, recovery) = Store::open(store.into_disk(), settings()).unwrap();
    assert_eq!(recovery.shards.iter().map(|it| it.0).collect::<Vec<_>>(), [ShardId(1)]);
    assert_eq!(restored(&mut store).0, []);
}

#[test]
fn after_a_rotation_of_every_core_the_old_files_go() {
    let settings = Settings { cores: 2, ..settings() };
    let (mut store, recovery) = Store::open(small_store().into_disk(), settings.clone()).unwrap();
    let wal = recovery.rotate.unwrap();
    store.on_records(&record(1, b"anew"));
    store.on_rotated(0, wal, &[]).unwrap();
    assert_eq!(store.stats().wal_files, 2);
    store.on_records(&record(2, b"anew, too"));
    store.on_rotated(1, wal, &[]).unwrap();
    assert_eq!(store.stats().wal_files, 1);
    let (_, recovery) = Store::open(store.into_disk(), settings).unwrap();
    let records: Vec<_> = recovery.shards.into_iter().map(|it| it.1.records).collect();
    assert_eq!(records, [record(1, b"anew"), record(2, b"anew, too")]);
}

#[test]
fn a_full_file_asks_for_a_rotation() {
    let mut store = small_store();
    let mib = record(0, &vec![0; MIB as usize]);
    let mut asked = Vec::new();
    for _ in 0..40 {
        store.on_records(&mib);
        asked.extend(store.write().unwrap().rotate);
    }
    assert_eq!(asked, [2, 3]);
}

#[test]
fn segments_and_checkpoints_whose_batch_is_lost_do_not_count() {
    let mut store = small_store();
    store.on_records(&record(1, b"four"));
    store.on_segment(ShardId(1), 20, 30, b"follows batch two").unwrap();
    store.on_state(ShardId(2), 77, 25, b"guild, later").unwrap();
    store.write().unwrap();
    let mut disk = store.into_disk();
    let len = disk.file(Name::Wal(1)).len();
    disk.file_mut(Name::Wal(1)).truncate(len - format::BLOCK + 20);
    let (mut store, recovery) = Store::open(disk, settings()).unwrap();
    assert_eq!(recovery.shards[0].1.sealed, [(10, 20)]);
    assert_eq!(restored(&mut store).0[0].1.bytes, b"guild");
    // Neither later, when there are as many batches again.
    store.on_records(&record(1, b"another four"));
    store.write().unwrap();
    store.on_records(&record(1, b"five"));
    store.write().unwrap();
    let (mut store, recovery) = Store::open(store.into_disk(), settings()).unwrap();
    assert_eq!(recovery.shards[0].1.sealed, [(10, 20)]);
    assert_eq!(restored(&mut store).0[0].1.bytes, b"guild");
}

#[test]
fn a_file_that_has_gone_is_not_taken_for_a_new_one() {
    let mut store = small_store();
    store.on_records(&record(1, b"names log-1"));
    store.write().unwrap();
    let mut disk = store.into_disk();
    for name in [Name::Log(1), Name::State(1)] {
        disk.remove(name).unwrap();
    }
    let mut store = Store::open(disk, settings()).unwrap().0;
    store.on_segment(ShardId(1), 20, 30, b"new").unwrap();
    store.write().unwrap();
    assert!(store.disk_mut().names().contains(&Name::Log(2)), "log-1 is named by an older batch");
    let (_, recovery) = Store::open(store.into_disk(), settings()).unwrap();
    assert_eq!(recovery.shards[0].1.sealed, [(20, 30)]);
    assert_eq!(
        recovery.shards[0].1.records,
        [record(1, b"one"), record(1, b"three"), record(1, b"names log-1")].concat()
    );
}

#[test]
fn a_damaged_segment_is_gone_and_counted() {
    let mut disk = small_store().into_disk();
    disk.file_mut(Name::Log(1))[50] ^= 1;
    let (mut store, _) = Store::open(disk, settings()).unwrap();
    assert_eq!(store.read(ShardId(1), 10).unwrap(), None);
    // The file was not finished, so that it was looked through at once.
    assert_eq!(store.stats().damaged, 0);

    let (store, _) = Store::open(small_store().into_disk(), settings()).unwrap();
    let mut disk = store.into_disk();
    disk.file_mut(Name::Log(1))[50] ^= 1;
    let (mut store, recovery) = Store::open(disk, settings()).unwrap();
    assert_eq!(recovery.shards[0].1.sealed, [(10, 20)]);
    assert_eq!(store.read(ShardId(1), 10).unwrap(), None);
    assert_eq!(store.stats().damaged, 1);
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_rest_comes_all_the_same() {
    let (store, _) = Store::open(small_store().into_disk(), settings()).unwrap();
    let mut disk = store.into_disk();
    disk.file_mut(Name::State(1))[50] ^= 1;
    let (mut store, _) = Store::open(disk, settings()).unwrap();
    let mut steps = Vec::new();
    while let Some(step) = store.next_state().unwrap() {
        steps.push(step);
    }
    let (one, two) = (ShardId(1), ShardId(2));
    assert_eq!(steps, [StateStep::Complete(one), StateStep::Damaged(two), StateStep::Complete(two)]);
    assert_eq!(store.stats().damaged, 1);
}

#[test]
fn an_error_fails_the_store_for_good_and_a_new_one_can_begin() {
    for faults in [
        Faults { writes_left: Some(0), torn_bytes: 700, ..Faults::default() },
        Faults { bytes_left: Some(4096), ..Faults::default() },
    ] {
        let mut store = small_store();
        store.disk_mut().faults = faults;
        store.on_records(&record(1, &[0; 5000]));
        assert!(store.write().is_err());
        store.disk_mut().faults = Faults::default();
        assert!(store.write().is_err() && store.sync().is_err() && store.read(ShardId(1), 10).is_err());
        let store = Store::create(store.into_disk(), settings()).unwrap();
        let (_, recovery) = Store::open(store.into_disk(), settings()).unwrap();
        assert!(recovery.shards.is_empty());
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error_and_no_panic() {
    let mut disk = small_store().into_disk();
    disk.faults.reads_left = Some(0);
    assert!(Store::open(disk, settings()).is_err());
    let mut disk = small_store().into_disk();
    disk.faults.syncs_fail = true;
    assert!(Store::open(disk, settings()).is_err());
}

/// Fills a store with `mib` MiB of segments of shard 0, each followed by its rotation and floor as a core would.
fn filled(store: &mut Store<MemoryDisk>, mib: u64, floor_lag: u64) -> Vec<(ShardId, u64)> {
    let bytes = vec![7; 64 << 10];
    let mut tails = Vec::new();
    let mut due = None;
    for n in 0..mib * 16 {
        store.on_records(&record(0, &bytes));
        store.on_segment(ShardId(0), n, n + 1, &bytes).unwrap();
        if let Some(wal) = due.take() {
            let floor = (ShardId(0), n.saturating_sub(floor_lag));
            store.on_rotated(0, wal, &[floor, (ShardId(1), 5)]).unwrap();
        }
        let written = store.write().unwrap();
        assert!(store.disk_mut().bytes() <= DISK_BYTES_MIN + 4096, "the identity is not counted");
        due = written.rotate;
        tails.extend(written.tails);
    }
    tails
}

#[test]
fn the_oldest_segments_make_room_and_their_shard_is_told() {
    let mut store = small_store();
    let tails = filled(&mut store, 600, 16);
    let (_, tail) = *tails.iter().rfind(|it| it.0 == ShardId(0)).unwrap();
    assert_eq!(store.read(ShardId(0), tail).unwrap().map(|it| it.first), Some(tail));
    assert_eq!(store.read(ShardId(0), tail - 1).unwrap(), None);
    let kept = 600 * 16 - tail;
    assert!(kept > 100 * 16, "most of the room is used: {kept}");
    // Shard 1 has written one segment, long ago, and needs it still: it was carried along.
    assert_eq!(store.read(ShardId(1), 10).unwrap().unwrap().bytes, b"segment");
}

#[test]
fn a_store_at_its_bound_survives_a_restart() {
    let mut store = small_store();
    filled(&mut store, 400, 16);
    let (mut store, recovery) = Store::open(store.into_disk(), settings()).unwrap();
    // Before the first rotation nobody knows what can go; there is a reserve for that.
    let bytes = vec![1; MIB as usize];
    for n in 0..8 {
        store.on_records(&record(0, &bytes));
        store.on_segment(ShardId(0), 400 * 16 + n, 400 * 16 + n + 1, &bytes).unwrap();
        store.write().unwrap();
    }
    store.on_rotated(0, recovery.rotate.unwrap(), &[(ShardId(0), 400 * 16), (ShardId(1), 20)]).unwrap();
    store.on_records(&record(0, &bytes));
    store.write().unwrap();
    assert!(store.disk_mut().bytes() <= DISK_BYTES_MIN / 8 * 7 + 4096);
}

#[test]
fn when_nothing_can_go_the_store_fails_with_a_line_that_names_the_key() {
    let mut store = small_store();
    let bytes = vec![7; MIB as usize];
    let mut result = Ok(());
    for n in 0..400 {
        result = store.on_state(ShardId(0), n, 1, &bytes).and_then(|()| store.write().map(drop));
        if result.is_err() {
            break;
        }
    }
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("disk_bytes: 268435456 are not enough"), "{error}");
    assert!(store.disk_mut().bytes() <= DISK_BYTES_MIN + 4096);
}

#[test]
fn compaction_keeps_what_is_live_and_gives_the_rest_back() {
    let mut store = Store::create(MemoryDisk::default(), settings()).unwrap();
    store.on_records(&record(0, b"a session"));
    store.on_state(ShardId(0), 9000, 1, b"is gone later").unwrap();
    for round in 0..60u64 {
        for guild in 0..100 {
            store.on_state(ShardId(0), guild, round, &vec![round as u8; 10_000]).unwrap();
        }
        if round == 0 {
            store.on_state(ShardId(0), 9000, 2, b"").unwrap();
            store.on_state(ShardId(0), 9001, 2, b"written once").unwrap();
        }
        store.write().unwrap();
        while store.tend().unwrap() {
            store.write().unwrap();
        }
    }
    let stats = store.stats();
    assert!(stats.state_bytes < 40 * MIB, "{stats:?}");
    let (mut store, _) = Store::open(store.into_disk(), settings()).unwrap();
    let (mut blobs, _) = restored(&mut store);
    blobs.sort_unstable_by_key(|it| it.1.guild);
    let last = blobs.pop().unwrap().1;
    assert_eq!((last.guild, last.bytes), (9001, b"written once".to_vec()));
    assert_eq!(blobs.len(), 100);
    assert!(blobs.iter().all(|(_, it)| it.as_of == 59 && it.bytes == vec![59; 10_000]));
}

/// What the store should give back, held in the obvious way.
#[derive(Clone, Debug, Default)]
struct Model {
    records: Vec<(u32, Vec<u8>)>,
    segments: Vec<(u32, u64, Vec<u8>)>,
    states: Vec<(u32, u64, u64, Vec<u8>)>,
}

impl Model {
    fn records_of(&self, shard: u32) -> Vec<u8> {
        self.records.iter().filter(|it| it.0 == shard).flat_map(|it| it.1.clone()).collect()
    }

    fn state_of(&self, shard: u32) -> HashMap<u64, StateBlob> {
        let mut newest: HashMap<u64, StateBlob> = HashMap::new();
        for (of, guild, as_of, bytes) in &self.states {
            if *of == shard && newest.get(guild).is_none_or(|it| it.as_of <= *as_of) {
                newest.insert(*guild, StateBlob { guild: *guild, as_of: *as_of, bytes: bytes.clone() });
            }
        }
        newest.retain(|_, it| !it.bytes.is_empty());
        newest
    }

    /// Whether the store gives back exactly this; the shards without records are as good as nothing.
    fn check(&self, store: &mut Store<MemoryDisk>, recovery: &Recovery) -> bool {
        let held: Vec<u32> = (0..4).filter(|it| !self.records_of(*it).is_empty()).collect();
        let found: Vec<u32> = recovery.shards.iter().map(|it| it.0.0).collect();
        if held != found || recovery.shards.iter().any(|(shard, it)| it.records != self.records_of(shard.0)) {
            return false;
        }
        for shard in held {
            for (of, first, bytes) in self.segments.iter().filter(|it| it.0 == shard) {
                if store.read(ShardId(*of), *first).unwrap().map(|it| it.bytes).as_ref() != Some(bytes) {
                    return false;
                }
            }
        }
        let (blobs, _) = restored(store);
        let mut wanted: Vec<(u32, StateBlob)> = Vec::new();
        for shard in found {
            wanted.extend(self.state_of(shard).into_values().map(|it| (shard, it)));
        }
        let key = |it: &(u32, StateBlob)| (it.0, it.1.guild);
        let mut blobs = blobs;
        blobs.sort_unstable_by_key(key);
        wanted.sort_unstable_by_key(key);
        blobs == wanted
    }
}

/// Runs a store with random input until the disk fails in the middle of a write; recovers it, with or without a loss of power; compares with
/// what the model was at one of the writes. Several lives in a row.
fn survive(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = MemoryDisk::default();
    let mut model = Model::default();
    let mut next = [1u64; 4];
    // Rising, so that what a lost checkpoint said cannot matter later.
    let mut as_of = 0;
    for life in 0..4 {
        let (mut store, recovery) = Store::open(disk, settings()).unwrap();
        if life > 0 {
            assert!(model.check(&mut store, &recovery), "seed {seed}, life {life}");
        }
        store.disk_mut().faults =
            Faults { writes_left: Some(rng.u64(..30)), torn_bytes: rng.usize(..20_000), ..Faults::default() };
        // The states that a recovery may yield, oldest first; all before `sure` are out of the question.
        let mut possible = vec![model.clone()];
        let mut sure = 0;
        'life: loop {
            for _ in 0..rng.usize(1..6) {
                let shard = rng.u32(..4);
                let bytes = vec![rng.u8(..); rng.usize(..9000)];
                match rng.u8(..4) {
                    0 | 1 => {
                        let framed = record(shard, &bytes);
                        store.on_records(&framed);
                        model.records.push((shard, framed));
                    }
                    2 if !model.records_of(shard).is_empty() => {
                        let first = next[shard as usize];
                        next[shard as usize] += 3;
                        store.on_segment(ShardId(shard), first, first + 2, &bytes).unwrap();
                        model.segments.push((shard, first, bytes));
                    }
                    3 if !model.records_of(shard).is_empty() => {
                        let guild = rng.u64(1..4);
                        as_of += 1;
                        let bytes = if rng.bool() { bytes } else { Vec::new() };
                        store.on_state(ShardId(shard), guild, as_of, &bytes).unwrap();
                        model.states.push((shard, guild, as_of, bytes));
                    }
                    _ => {}
                }
            }
            let written = store.write();
            possible.push(model.clone());
            if written.is_err() {
                break 'life;
            }
            sure = possible.len() - 1;
            if rng.u8(..8) == 0 && store.tend().is_err() {
                break 'life;
            }
        }
        disk = store.into_disk();
        disk.faults = Faults::default();
        // Records and what was handed over after them are there together or not at all; of what was handed over before them, what has
        // reached the disk.
        let torn = possible.last().unwrap();
        let is = |model: &Model| {
            let (mut store, recovery) = Store::open(disk.clone(), settings()).unwrap();
            model.check(&mut store, &recovery)
        };
        model = if is(&possible[sure]) {
            possible[sure].clone()
        } else if is(torn) {
            torn.clone()
        } else {
            partly(&possible[sure], torn, &disk)
        };
    }
}

/// Of the segments and checkpoints of the last write, those that have reached the disk.
fn partly(sure: &Model, torn: &Model, disk: &MemoryDisk) -> Model {
    let (mut store, recovery) = Store::open(disk.clone(), settings()).unwrap();
    let mut found = sure.clone();
    for (shard, recovered) in &recovery.shards {
        assert!(recovered.records == sure.records_of(shard.0), "half a batch");
    }
    for segment in &torn.segments[sure.segments.len()..] {
        if store.read(ShardId(segment.0), segment.1).unwrap().is_some_and(|it| it.first == segment.1) {
            found.segments.push(segment.clone());
        }
    }
    // Checkpoints of one write reach the disk in order.
    let (blobs, _) = restored(&mut store);
    for count in 0..=torn.states.len() - sure.states.len() {
        found.states = torn.states[..sure.states.len() + count].to_vec();
        let held = recovery.shards.iter().map(|it| it.0.0);
        let states: Vec<(u32, StateBlob)> =
            held.flat_map(|shard| found.state_of(shard).into_values().map(move |it| (shard, it))).collect();
        if states.len() == blobs.len() && states.iter().all(|it| blobs.contains(it)) {
            return found;
        }
    }
    panic!("no prefix of the checkpoints fits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_write_torn_anywhere_loses_nothing_that_was_written_before(seed in any::<u64>()) {
        survive(seed);
    }
}

/// After a loss of power a prefix is left, at least what was synced.
#[test]
fn a_loss_of_power_leaves_a_prefix_with_all_that_was_synced() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut store = Store::create(MemoryDisk::default(), settings()).unwrap();
        let (mut written, mut synced) = (Vec::new(), 0);
        for n in 0..rng.u64(1..30) {
            let payload = vec![n as u8; rng.usize(..6000)];
            store.on_records(&record(0, &payload));
            store.on_segment(ShardId(0), n, n + 1, &payload).unwrap();
            store.write().unwrap();
            written.push(payload);
            if rng.u8(..6) == 0 {
                store.sync().unwrap();
                synced = written.len();
            }
        }
        let mut disk = store.into_disk();
        disk.lose_power(&mut rng);
        let (mut store, recovery) = Store::open(disk, settings()).unwrap();
        let records = recovery.shards.first().map_or(&[][..], |it| &it.1.records);
        let found: Vec<&[u8]> = frame::records(records).map(|it| it.payload).collect();
        assert!(found.len() >= synced && found == written[..found.len()], "seed {seed}");
        for n in 0..written.len() as u64 {
            match store.read(ShardId(0), n).unwrap() {
                Some(it) if it.first == n => {
                    assert!((n as usize) < found.len(), "seed {seed}: no segment is ahead of the records");
                    assert_eq!(it.bytes, written[n as usize]);
                }
                _ => assert!(n as usize >= synced, "seed {seed}: segment {n} was synced"),
            }
        }
    }
}
