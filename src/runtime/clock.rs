//! The one place that reads the machine's clock. Everything else is handed an `Instant`.

use std::time::Instant;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the exception that the lint names")]
pub fn now() -> Instant {
    Instant::now()
}
