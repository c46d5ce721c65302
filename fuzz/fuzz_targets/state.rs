//! Discord's events, any of them: the state they leave can be written, and put back from what was written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::cache::properties;

fuzz_target!(|bytes: &[u8]| properties::events(bytes));
