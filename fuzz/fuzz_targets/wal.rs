//! The write-ahead log, damaged: what is read is a prefix of what was written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::store::properties;

fuzz_target!(|bytes: &[u8]| properties::wal(bytes));
