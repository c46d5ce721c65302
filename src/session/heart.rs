//! The heart of an upstream connection: when to send op 1, and when the connection must be taken for dead.
//!
//! It sends nothing itself and does not know the sequence; whoever owns the connection writes the heartbeat.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// A shorter interval in HELLO is taken for this one, so that no HELLO makes a core spin.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A longer one for this one: to beat more often than asked is harmless.
pub const INTERVAL_MAX: Duration = Duration::from_secs(600);
/// Beats are this far apart or a multiple of it, for all hearts of one origin: a core wakes once for the beats of many shards.
/// Each is that much early at most; of a short interval it is a `GRID_SHARE`th.
const GRID_MAX: Duration = Duration::from_secs(5);
const GRID_SHARE: u32 = 8;

/// What to do when the heart is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Send op 1 with the last sequence.
    Send,
    /// The last beat was never answered: close with a code that keeps the session, and RESUME.
    Zombie,
}

/// One per upstream connection, made at HELLO.
#[derive(Debug)]
pub struct Heart {
    interval: Duration,
    origin: Instant,
    due: Instant,
    /// A timed beat that no ACK has followed yet.
    ack_pending: bool,
    /// Beats without their ACK, requested ones included. ACKs come in order, so the first one answers the oldest.
    in_flight: u32,
    /// When the beat was sent that found nothing in flight: the one whose ACK gives an exact latency.
    measured: Option<Instant>,
    /// Discord asked for a beat since the last timed one.
    requested: bool,
}

impl Heart {
    /// `interval` is HELLO's `heartbeat_interval`; the first beat is due after a random part of it. `origin`, not after `now`, is where the grid
    /// of beats begins.
    ///
    /// Source: Discord, Gateway › Sending heartbeats.
    pub fn new(interval: Duration, origin: Instant, now: Instant, rng: &mut fastrand::Rng) -> Self {
        let interval = interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
        let mut heart =
            Self { interval, origin, due: now, ack_pending: false, in_flight: 0, measured: None, requested: false };
        heart.due = heart.on_grid(now + interval.mul_f64(rng.f64()));
        heart
    }

    /// Called when `now` has reached `due`.
    pub fn on_timeout(&mut self, now: Instant) -> Beat {
        if self.ack_pending {
            return Beat::Zombie;
        }
        // Whatever was sent an interval ago and is still counted will not be answered any more.
        if !std::mem::take(&mut self.requested) {
            self.in_flight = 0;
        }
        self.ack_pending = true;
        self.due = self.on_grid(now + self.interval);
        self.count_beat(now);
        Beat::Send
    }

    /// Discord sent op 1: the caller sends a heartbeat at once. The timer goes on as before, and since that beat is not
    /// the timer's, a timeout right after it finds no zombie.
    pub fn on_request(&mut self, now: Instant) {
        self.requested = true;
        self.count_beat(now);
    }

    /// Discord sent op 11. Returns the beat's round trip where it is known exactly.
    pub fn on_ack(&mut self, now: Instant) -> Option<Duration> {
        self.ack_pending = false;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(now.saturating_duration_since(self.measured.take()?))
    }

    /// The connection has shown that it lives, while the ACK may have to wait behind a long replay: the last beat counts as answered.
    pub fn on_life(&mut self) {
        self.ack_pending = false;
    }

    /// When to call `on_timeout`.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The last point of the grid that is not after `due`.
    fn on_grid(&self, due: Instant) -> Instant {
        let grid = GRID_MAX.min(self.interval / GRID_SHARE).as_nanos();
        let beyond = due.saturating_duration_since(self.origin).as_nanos() % grid;
        due - Duration::from_nanos(beyond as u64)
    }

    fn count_beat(&mut self, now: Instant) {
        if self.in_flight == 0 {
            self.measured = Some(now);
        }
        self.in_flight = self.in_flight.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{ms, secs, start};

    fn heart(now: Instant) -> Heart {
        Heart::new(secs(40), now, now, &mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn the_first_beat_is_somewhere_within_the_first_interval() {
        let now = start();
        let mut rng = fastrand::Rng::with_seed(7);
        let dues: Vec<_> = (0..100).map(|_| Heart::new(secs(40), now, now, &mut rng).due() - now).collect();
        assert!(dues.iter().all(|&due| due < secs(40)));
        assert!(dues.iter().any(|&due| due < secs(10)) && dues.iter().any(|&due| due > secs(30)));
    }

    #[test]
    fn beats_of_many_hearts_fall_together_and_are_never_late() {
        let origin = start();
        let mut rng = fastrand::Rng::with_seed(7);
        for interval in [ms(41_250), secs(45), secs(600)] {
            for greeted in 0..100 {
                let now = origin + ms(greeted * 173);
                let mut heart = Heart::new(interval, origin, now, &mut rng);
                for _ in 0..3 {
                    assert_eq!((heart.due() - origin).as_nanos() % GRID_MAX.as_nanos(), 0);
                    let now = now.max(heart.due()) + ms(2);
                    heart.on_timeout(now);
                    heart.on_ack(now);
                    let early = now + interval - heart.due();
                    assert!(early < GRID_MAX, "{early:?}");
                }
            }
        }
    }

    #[test]
    fn a_short_interval_is_hardly_shortened() {
        let now = start();
        let mut heart = Heart::new(ms(3200), now, now, &mut fastrand::Rng::with_seed(1));
        heart.on_timeout(now + ms(50));
        assert_eq!(heart.due(), now + ms(3200));
    }

    #[test]
    fn an_answered_beat_is_followed_by_one_an_interval_later() {
        let mut heart = heart(start());
        let now = heart.due();
        assert_eq!(heart.on_timeout(now), Beat::Send);
        assert_eq!(heart.on_ack(now + ms(30)), Some(ms(30)));
        assert_eq!(heart.due(), now + secs(40));
        assert_eq!(heart.on_timeout(now + secs(40)), Beat::Send);
    }

    #[test]
    fn an_unanswered_beat_makes_a_zombie() {
        let mut heart = heart(start());
        assert_eq!(heart.on_timeout(heart.due()), Beat::Send);
        assert_eq!(heart.on_timeout(heart.due()), Beat::Zombie);
    }

    #[test]
    fn a_sign_of_life_stands_for_the_ack_of_one_beat() {
        let mut heart = heart(start());
        heart.on_timeout(heart.due());
        heart.on_life();
        assert_eq!(heart.on_timeout(heart.due()), Beat::Send);
        assert_eq!(heart.on_timeout(heart.due()), Beat::Zombie);
    }

    #[test]
    fn a_requested_beat_just_before_the_timer_makes_no_zombie() {
        let mut heart = heart(start());
        heart.on_request(heart.due() - ms(1));
        assert_eq!(heart.on_timeout(heart.due()), Beat::Send);
    }

    #[test]
    fn latency_belongs_to_the_oldest_beat_in_flight() {
        let mut heart = heart(start());
        let now = heart.due();
        heart.on_request(now - ms(10));
        heart.on_timeout(now);
        assert_eq!(heart.on_ack(now + ms(20)), Some(ms(30)));
        assert_eq!(heart.on_ack(now + ms(40)), None);
    }

    #[test]
    fn latency_is_measured_again_after_an_ack_that_never_came() {
        let mut heart = heart(start());
        heart.on_request(heart.due() - secs(1));
        heart.on_timeout(heart.due());
        heart.on_ack(heart.due() - secs(39));
        heart.on_timeout(heart.due());
        heart.on_ack(heart.due() - secs(39));
        let now = heart.due();
        heart.on_timeout(now);
        assert_eq!(heart.on_ack(now + ms(5)), Some(ms(5)));
    }

    #[test]
    fn an_ack_that_nobody_asked_for_measures_nothing() {
        let now = start();
        assert_eq!(heart(now).on_ack(now), None);
    }

    #[test]
    fn absurd_intervals_are_bounded() {
        let now = start();
        let mut rng = fastrand::Rng::with_seed(1);
        for (asked, taken) in [(Duration::ZERO, INTERVAL_MIN), (Duration::MAX, INTERVAL_MAX)] {
            let mut heart = Heart::new(asked, now, now, &mut rng);
            heart.on_timeout(now);
            assert_eq!(heart.due(), now + taken);
        }
    }
}
