//! The envelope of any bytes; where they are valid JSON, simd-json is the judge.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::wire::properties;

fuzz_target!(|bytes: &[u8]| properties::scan(bytes));
