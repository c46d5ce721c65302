//! `shardgate` holds every shard's session with Discord; bots connect to it as if it were Discord.
//!
//! Layers, each a folder, looking one way only (`tests/layers.rs` checks it):
//! `wire ← {session, cache, store} ← shard ← runtime ← control ← main`.

pub mod cache;
pub mod control;
pub mod runtime;
pub mod session;
pub mod shard;
pub mod store;
pub mod wire;
