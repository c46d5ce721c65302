//! Frames are read alike however they are cut into reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::wire::properties;

fuzz_target!(|bytes: &[u8]| properties::frame(bytes));
