//! A sealed segment of a log, any bytes: refused, or read whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::shard::properties;

fuzz_target!(|bytes: &[u8]| properties::segment(bytes));
