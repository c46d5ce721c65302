//! HTTP heads from both sides, and gateway URLs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::wire::properties;

fuzz_target!(|bytes: &[u8]| properties::http_upgrade(bytes));
