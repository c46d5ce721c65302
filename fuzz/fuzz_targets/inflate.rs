//! Any bytes through each decompressor, and back through each compressor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::wire::properties;

fuzz_target!(|bytes: &[u8]| properties::inflate(bytes));
