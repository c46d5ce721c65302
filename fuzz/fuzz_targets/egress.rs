//! The answers of an egress proxy: CONNECT and SOCKS5.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::wire::properties;

fuzz_target!(|bytes: &[u8]| properties::egress(bytes));
