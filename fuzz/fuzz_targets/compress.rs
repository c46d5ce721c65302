//! Payloads made of any bytes: what is compressed inflates to what it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::wire::properties;

fuzz_target!(|bytes: &[u8]| properties::compress(bytes));
