//! Files of segments and checkpoints, damaged: what is read is what was written, or nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::store::properties;

fuzz_target!(|bytes: &[u8]| properties::blob(bytes));
