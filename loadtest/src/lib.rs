//! A fake Discord, clients that check every promise of a gateway proxy, and the report.
//!
//! It judges from outside, through sockets: nothing here depends on the proxy.

pub mod args;
pub mod chaos;
pub mod client;
pub mod clock;
pub mod compress;
pub mod counters;
pub mod discord;
pub mod http;
pub mod judge;
pub mod link;
pub mod payload;
pub mod relay;
pub mod report;
pub mod run;
pub mod silence;
pub mod state;
pub mod tally;
pub mod tls;
pub mod told;
pub mod url;
pub mod ws;
