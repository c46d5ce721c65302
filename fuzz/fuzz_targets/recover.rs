//! The records of a shard, any of them: a shard comes of them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::shard::properties;

fuzz_target!(|bytes: &[u8]| properties::recover(bytes));
