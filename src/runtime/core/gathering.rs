//! When a core takes many events at a time instead of waking for each.
//!
//! Waking costs about half as much as relaying an event does. At low rates that is well spent: no event waits. From some thousand events a second
//! on the core would wake for every second one, and take the CPU from those who send and receive; then it sleeps for a moment first, as network
//! cards hold back their interrupts by the rate of packets. Measured: `tuning/tried.md`.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// How long a core sleeps at least while it gathers: what an event may come later.
pub const GATHER: Duration = Duration::from_millis(1);
/// A core gathers from so many payloads of Discord's per second on.
const BEGIN_PER_S: u32 = 8000;
/// And no longer below so many, so that a rate between the two changes nothing.
const END_PER_S: u32 = 6000;
/// The rate is looked at so often, 80 payloads' time.
const WINDOW: Duration = Duration::from_millis(10);

/// Counts one core's payloads.
#[derive(Debug, Default)]
pub struct Gathering {
    /// The window that is being counted in began here.
    since: Option<Instant>,
    payloads: u32,
    is_on: bool,
}

impl Gathering {
    /// A turn brought so many payloads. Answers when gathering begins, or ends: for how long turns sleep at least from now on.
    pub fn on_turn(&mut self, now: Instant, payloads: u32) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        self.payloads = self.payloads.saturating_add(payloads);
        let passed = now.saturating_duration_since(since);
        if passed < WINDOW {
            return None;
        }
        let limit = if self.is_on { END_PER_S } else { BEGIN_PER_S };
        let was_on =
            std::mem::replace(&mut self.is_on, f64::from(self.payloads) >= f64::from(limit) * passed.as_secs_f64());
        self.since = Some(now);
        self.payloads = 0;
        (self.is_on != was_on).then_some(if self.is_on { GATHER } else { Duration::ZERO })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use super::*;

    /// What `on_turn` answers in a second of turns with these many payloads each, every millisecond.
    fn second(gathering: &mut Gathering, began: Instant, at_s: u64, payloads: u32) -> Vec<Duration> {
        let turns = (0..1000).map(|it| began + Duration::from_secs(at_s) + Duration::from_millis(it));
        turns.filter_map(|now| gathering.on_turn(now, payloads)).collect()
    }

    #[test]
    fn a_core_gathers_from_a_rate_on_and_stops_at_a_lower_one() {
        let (mut gathering, began) = (Gathering::default(), Instant::now());
        assert!(second(&mut gathering, began, 0, 7).is_empty(), "7,000 a second");
        assert_eq!(second(&mut gathering, began, 1, 9), [GATHER]);
        assert!(second(&mut gathering, began, 2, 7).is_empty(), "between the two");
        assert_eq!(second(&mut gathering, began, 3, 5), [Duration::ZERO]);
        assert!(second(&mut gathering, began, 4, 7).is_empty());
    }

    #[test]
    fn after_a_long_sleep_one_full_turn_is_no_rate() {
        let (mut gathering, began) = (Gathering::default(), Instant::now());
        assert_eq!(gathering.on_turn(began, 1), None);
        assert_eq!(gathering.on_turn(began + Duration::from_secs(1), 200), None);
    }
}
