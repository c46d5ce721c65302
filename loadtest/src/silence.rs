//! When nothing more comes: a double of the last events comes behind them, so who counts at once does not see it. No clock, it is told the time.

use std::time::{Duration, Instant};

/// Without a dispatch for this long there is silence.
const SILENCE: Duration = Duration::from_millis(200);
/// Waited for no longer than this: somebody else's traffic may go on.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The number of dispatches at the last look that found another one, and when that was.
pub struct Silence {
    began: Instant,
    count: u64,
    since: Instant,
}

impl Silence {
    pub fn new(count: u64, now: Instant) -> Self {
        Self { began: now, count, since: now }
    }

    /// Whether nothing has come for long enough, `count` dispatches having come in all.
    pub fn on_look(&mut self, count: u64, now: Instant) -> bool {
        if count != self.count {
            (self.count, self.since) = (count, now);
        }
        now >= self.since + SILENCE || now >= self.began + WAIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_still_comes_is_waited_for_and_not_for_ever() {
        let began = tokio::time::Instant::now().into_std();
        let at = |ms| began + Duration::from_millis(ms);
        let mut silence = Silence::new(7, began);
        assert!(!silence.on_look(7, at(199)));
        assert!(!silence.on_look(8, at(210)), "a double");
        assert!(!silence.on_look(8, at(409)));
        assert!(silence.on_look(8, at(410)));
        let mut endless = Silence::new(0, began);
        assert!((1..50).all(|it| !endless.on_look(it, at(it * 100))));
        assert!(endless.on_look(50, at(5000)));
    }
}
