//! What the proxy's cached state costs, and whether it stays what it should be: `loadtest memory`, `churn` and `identify`.
//!
//! Each starts a fake Discord and the proxy as processes, waits until the proxy has applied what it was sent, and measures from
//! outside. Nothing here depends on how fast the machine is: every wait is for a state, and bounded by standing still.

pub mod churn;
pub mod digest;
pub mod identify;
pub mod memory;
pub mod options;
pub mod pages;
mod skim;
pub(crate) mod stage;
