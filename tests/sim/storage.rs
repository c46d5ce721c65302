//! The storage thread, as a queue that is worked off when the stage says so, over a disk that outlives the process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use shardgate::store::identity::Binding;
use shardgate::store::memory::{Faults, MemoryDisk};
use shardgate::store::{Recovery, Sealed, Settings, StateStep, Store};
use shardgate::wire::ShardId;

pub type Disk = Rc<RefCell<MemoryDisk>>;

/// What the core sends. In order.
#[derive(Debug)]
pub enum ToStore {
    Records { marks: Vec<(usize, u64)>, bytes: Vec<u8> },
    Segment { shard: usize, first: u64, end: u64, bytes: Vec<u8> },
    State { shard: usize, guild: u64, as_of: u64, bytes: Vec<u8> },
    Read { shard: usize, index: u64 },
    Rotated { wal: u64, floors: Vec<(ShardId, u64)> },
}

/// What the core gets back.
#[derive(Debug)]
pub enum FromStore {
    Written(Vec<(usize, u64)>),
    Segment {
        shard: usize,
        index: u64,
        segment: Option<Sealed>,
    },
    /// What is older has gone.
    Tail {
        shard: usize,
        from: u64,
    },
    Rotate(u64),
    Lost,
}

pub struct Storage {
    /// `None`: failed, and not begun anew yet.
    store: Option<Store<Disk>>,
    disk: Disk,
    settings: Settings,
    pub queue: VecDeque<ToStore>,
}

impl Storage {
    /// Opens what an earlier process left.
    pub fn open(disk: Disk, shards: u32, disk_bytes: u64) -> (Self, Recovery) {
        let binding = Binding {
            token: "secret".to_owned(),
            shard_count: shards,
            intents: 1,
            api_url: "http://discord.invalid".to_owned(),
            cache: 1,
        };
        let settings = Settings { binding, shards: 0..shards, cores: 1, disk_bytes, salt: [7; 16] };
        let (store, recovery) = Store::open(disk.clone(), settings.clone()).expect("the disk works at the start");
        (Self { store: Some(store), disk, settings, queue: VecDeque::new() }, recovery)
    }

    pub fn next_state(&mut self) -> Option<StateStep> {
        self.store.as_mut()?.next_state().expect("the disk works at the start")
    }

    /// Does all that was asked for, and one write.
    pub fn work(&mut self) -> Vec<FromStore> {
        let mut answers = Vec::new();
        let Some(store) = &mut self.store else {
            self.queue.clear();
            return answers;
        };
        if let Err(error) = work(store, &mut self.queue, &mut answers) {
            assert!(self.disk.borrow().faults.writes_left.is_some(), "the store fails on a good disk: {error}");
            self.store = None;
            self.queue.clear();
            shardgate::store::disk::wipe(&mut self.disk).expect("files can be removed");
            return vec![FromStore::Lost];
        }
        answers
    }

    /// The process dies in the middle of the next write, which leaves `torn_bytes` behind.
    pub fn die(mut self, writes: u64, torn_bytes: usize) {
        self.disk.borrow_mut().faults = Faults { writes_left: Some(writes), torn_bytes, ..Faults::default() };
        if let Some(store) = &mut self.store {
            // Whether it fails or comes to its end nobody hears.
            let _ = work(store, &mut self.queue, &mut Vec::new());
        }
        self.disk.borrow_mut().faults = Faults::default();
    }

    pub fn sync(&mut self) {
        if let Some(store) = &mut self.store {
            store.sync().expect("syncs do not fail here");
        }
    }

    /// A fresh store, after the old one failed.
    pub fn begin_anew(&mut self) {
        self.disk.borrow_mut().faults = Faults::default();
        self.store = Some(Store::create(self.disk.clone(), self.settings.clone()).expect("the disk works again"));
    }

    pub fn has_failed(&self) -> bool {
        self.store.is_none()
    }
}

fn work(store: &mut Store<Disk>, queue: &mut VecDeque<ToStore>, answers: &mut Vec<FromStore>) -> io::Result<()> {
    let mut marks = Vec::new();
    for message in queue.drain(..) {
        match message {
            ToStore::Records { marks: more, bytes } => {
                store.on_records(&bytes);
                marks.extend(more);
            }
            ToStore::Segment { shard, first, end, bytes } => {
                store.on_segment(ShardId(shard as u32), first, end, &bytes)?;
            }
            ToStore::State { shard, guild, as_of, bytes } => {
                store.on_state(ShardId(shard as u32), guild, as_of, &bytes)?;
            }
            ToStore::Read { shard, index } => {
                let segment = store.read(ShardId(shard as u32), index)?;
                answers.push(FromStore::Segment { shard, index, segment });
            }
            ToStore::Rotated { wal, floors } => store.on_rotated(0, wal, &floors)?,
        }
    }
    let written = store.write()?;
    answers.push(FromStore::Written(marks));
    answers.extend(written.tails.iter().map(|(shard, from)| FromStore::Tail { shard: shard.0 as usize, from: *from }));
    answers.extend(written.rotate.map(FromStore::Rotate));
    Ok(())
}
