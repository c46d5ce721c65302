//! Whatever a client sends: what goes up to Discord is a payload that Discord takes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::session::properties;

fuzz_target!(|bytes: &[u8]| properties::client_payload(bytes));
