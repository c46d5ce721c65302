//! Conversations as plain state machines: what Discord and what a client may say next, and when.
//!
//! Bytes or events and an `Instant` go in, actions come out. Nothing here knows a socket, a clock, a cache or another shard's
//! core; random numbers come from a generator that was handed in.

pub mod backoff;
pub mod client;
pub mod commands;
pub mod heart;
pub mod identify;
pub mod payload;
#[doc(hidden)]
pub mod properties;
mod raw;
pub mod requests;
pub mod upstream;

#[cfg(test)]
mod testing {
    use std::time::{Duration, Instant};

    /// Some instant to count from. Tests never look at the clock again.
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other constructor")]
    pub fn start() -> Instant {
        Instant::now()
    }

    pub fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    pub fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
