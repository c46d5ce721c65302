//! Who may IDENTIFY next: the concurrency buckets and the daily budget, for all shards of the process.
//!
//! It only grants turns, and none below the reserve. Connecting, sending and asking again after a failure are the shard's; persisting the budget and
//! asking Discord for it are the control thread's.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use crate::wire::ShardId;

/// One IDENTIFY per bucket in this time.
///
/// Source: Discord, Gateway › Rate limiting (`max_concurrency`).
pub const IDENTIFY_INTERVAL: Duration = Duration::from_secs(5);
/// What the network may shift two IDENTIFYs against each other; libraries add 0.3 to 1.5 s.
pub const IDENTIFY_SLACK: Duration = Duration::from_millis(500);
/// A turn is void this long after its `not_before`: a shard that holds it longer has lost it.
pub const TURN_HELD_MAX: Duration = Duration::from_secs(60);
/// How often the budget returns to its total.
pub const BUDGET_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of the total that the default reserve never exceeds, so that a bot with few IDENTIFYs can still start.
const RESERVE_PART: u32 = 10;
/// The least default reserve, where that part allows it.
const RESERVE_MIN: u32 = 10;

/// How many IDENTIFYs of the limit are never spent here, since spending the last one has Discord reset the token: another process
/// or a person with the same token must find some left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// One per shard that is held, so that all can once be identified by other means; at least 10, at most a tenth of the total.
    ByShards(u32),
    /// The operator's number; half of the total at most, or nothing would ever be granted.
    Of(u32),
}

/// How long a bucket rests after an IDENTIFY.
pub const COOLING: Duration = IDENTIFY_INTERVAL.saturating_add(IDENTIFY_SLACK);
/// A `reset_after` beyond this is taken for this: an `Instant` has an end.
const RESET_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A shard stands in at most one of `waiting`, `turns` and `voided`, so none of them outgrows the number of shards.
#[derive(Debug)]
pub struct IdentifyQueue {
    max_concurrency: u32,
    total: u32,
    /// What Discord would still accept, less the turns that are out.
    remaining: u32,
    resets_at: Instant,
    reserve: Reserve,
    /// Before this no bucket has cooled: IDENTIFYs of an earlier process.
    cold_until: Instant,
    waiting: BTreeSet<ShardId>,
    turns: BTreeMap<ShardId, Turn>,
    /// Turns that ran out: their IDENTIFY counts as sent until the shard says otherwise.
    voided: BTreeSet<ShardId>,
    /// The newest IDENTIFY of each shard that may still cool its bucket.
    sent: BTreeMap<ShardId, Instant>,
}

#[derive(Debug)]
struct Turn {
    void_at: Instant,
}

impl IdentifyQueue {
    /// The arguments are `session_start_limit` of `GET /gateway/bot`, or what was persisted of it.
    ///
    /// A `max_concurrency` of 0 counts as 1. A `reset_after` of 0, which Discord gives to small bots, says nothing about the
    /// next reset and counts as a whole day.
    pub fn new(max_concurrency: u32, total: u32, remaining: u32, reset_after: Duration, now: Instant) -> Self {
        let mut queue = Self {
            max_concurrency: 1,
            total: 0,
            remaining: 0,
            resets_at: now,
            reserve: Reserve::Of(0),
            cold_until: now,
            waiting: BTreeSet::new(),
            turns: BTreeMap::new(),
            voided: BTreeSet::new(),
            sent: BTreeMap::new(),
        };
        queue.on_limits(max_concurrency, total, remaining, reset_after, now);
        queue
    }

    /// Keeps this many back from now on. Without this call nothing is.
    pub fn set_reserve(&mut self, reserve: Reserve) {
        self.reserve = reserve;
    }

    /// No IDENTIFY is to be sent before `at`: an earlier process may have sent one to any bucket.
    pub fn cool_until(&mut self, at: Instant) {
        self.cold_until = at;
    }

    /// `GET /gateway/bot` was answered. Turns that are out, or ran out without a word, are taken off
    /// `remaining`: their IDENTIFYs may come after the answer.
    pub fn on_limits(&mut self, max_concurrency: u32, total: u32, remaining: u32, reset_after: Duration, now: Instant) {
        self.max_concurrency = max_concurrency.max(1);
        self.total = total.max(remaining);
        self.refill(remaining);
        let reset_after = if reset_after.is_zero() { BUDGET_INTERVAL } else { reset_after.min(RESET_AFTER_MAX) };
        self.resets_at = now + reset_after;
    }

    /// The shard wants to IDENTIFY. Nothing changes if it waits already or has a turn.
    pub fn on_wanted(&mut self, shard: ShardId, now: Instant) {
        self.settle(now);
        self.voided.remove(&shard);
        if !self.turns.contains_key(&shard) {
            self.waiting.insert(shard);
        }
    }

    /// The shard sent its IDENTIFY. One sent without a turn, or after the turn ran out, is counted all the same.
    pub fn on_sent(&mut self, shard: ShardId, at: Instant) {
        let paid = self.turns.remove(&shard).is_some() || self.voided.remove(&shard);
        if !paid {
            self.remaining = self.remaining.saturating_sub(1);
        }
        self.note_sent(shard, at);
        self.check();
    }

    /// The shard does not use its turn, or does not want one any more.
    pub fn on_returned(&mut self, shard: ShardId, now: Instant) {
        self.settle(now);
        self.waiting.remove(&shard);
        if self.turns.remove(&shard).is_some() || self.voided.remove(&shard) {
            self.remaining = (self.remaining + 1).min(self.total);
        }
        self.check();
    }

    /// The next turn: the shard may connect now and IDENTIFY at the given instant or later, but not `TURN_HELD_MAX` after it.
    ///
    /// Call until it yields nothing. The lowest shard of a bucket comes first, as Discord asks shards to be started in order.
    pub fn poll(&mut self, now: Instant) -> Option<(ShardId, Instant)> {
        self.settle(now);
        if self.remaining <= self.reserve() {
            return None;
        }
        let held: HashSet<u32> = self.turns.keys().map(|&it| self.bucket(it)).collect();
        let shard = self.waiting.iter().copied().find(|&it| !held.contains(&self.bucket(it)))?;
        let not_before = self.cool_at(self.bucket(shard)).map_or(now, |cool_at| cool_at.max(now)).max(self.cold_until);
        self.waiting.remove(&shard);
        self.turns.insert(shard, Turn { void_at: not_before + TURN_HELD_MAX });
        self.remaining -= 1;
        self.check();
        Some((shard, not_before))
    }

    /// When `poll` may yield again although nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let turn_ends = self.turns.values().map(|it| it.void_at).min();
        match self.remaining <= self.reserve() {
            true => Some(self.resets_at),
            false => turn_ends,
        }
    }

    /// IDENTIFYs left in the daily budget, less the turns that are out.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Shards that wait for a turn.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Shards that wait for a turn, in their order.
    pub fn waiting_shards(&self) -> impl Iterator<Item = ShardId> {
        self.waiting.iter().copied()
    }

    /// IDENTIFYs that are kept back, with the total of now.
    pub fn reserve(&self) -> u32 {
        match self.reserve {
            Reserve::ByShards(shards) => shards.max(RESERVE_MIN).min(self.total / RESERVE_PART),
            Reserve::Of(reserve) => reserve.min(self.total / 2),
        }
    }

    pub fn total(&self) -> u32 {
        self.total
    }

    pub fn max_concurrency(&self) -> u32 {
        self.max_concurrency
    }

    /// When the budget returns to its total.
    pub fn resets_at(&self) -> Instant {
        self.resets_at
    }

    /// Only the reserve is left: how long until the budget returns. Nothing is granted until then.
    pub fn held_back(&self, now: Instant) -> Option<Duration> {
        let is_held = self.remaining <= self.reserve();
        is_held.then(|| self.resets_at.saturating_duration_since(now)).filter(|it| !it.is_zero())
    }

    fn bucket(&self, shard: ShardId) -> u32 {
        shard.0 % self.max_concurrency
    }

    /// When the bucket's newest IDENTIFY has cooled; `None` if there was none lately.
    fn cool_at(&self, bucket: u32) -> Option<Instant> {
        let newest = self.sent.iter().filter(|&(&shard, _)| self.bucket(shard) == bucket).map(|(_, &at)| at).max()?;
        Some(newest + COOLING)
    }

    fn note_sent(&mut self, shard: ShardId, at: Instant) {
        let newest = self.sent.entry(shard).or_insert(at);
        *newest = at.max(*newest);
    }

    /// Brings the tables up to `now`.
    fn settle(&mut self, now: Instant) {
        let late: Vec<(ShardId, Instant)> =
            self.turns.iter().filter(|(_, it)| it.void_at <= now).map(|(&shard, it)| (shard, it.void_at)).collect();
        for (shard, void_at) in late {
            // The IDENTIFY may have gone out in the last moment, with the news of it still under way.
            self.turns.remove(&shard);
            self.voided.insert(shard);
            self.note_sent(shard, void_at);
        }
        self.sent.retain(|_, at| *at + COOLING > now);
        if self.resets_at <= now {
            self.refill(self.total);
            while self.resets_at <= now {
                self.resets_at += BUDGET_INTERVAL;
            }
        }
    }

    /// A fresh budget, less the IDENTIFYs that may still be on their way to Discord. A void turn is counted once more and
    /// then forgotten: counted for ever, a few lost shards would starve all others.
    fn refill(&mut self, remaining: u32) {
        let reserved = self.turns.len() + self.voided.len();
        self.remaining = remaining.saturating_sub(u32::try_from(reserved).unwrap_or(u32::MAX));
        self.voided.clear();
    }

    /// A shard stands in one table; a bucket has one turn; turns and what remains make no more than the total.
    fn check(&self) {
        debug_assert!(self.turns.keys().all(|it| !self.waiting.contains(it) && !self.voided.contains(it)));
        debug_assert!(self.voided.is_disjoint(&self.waiting));
        debug_assert!(self.remaining <= self.total);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::testing::{ms, secs, start};

    const DAY: Duration = BUDGET_INTERVAL;

    fn queue(max_concurrency: u32, now: Instant) -> IdentifyQueue {
        IdentifyQueue::new(max_concurrency, 1000, 1000, DAY, now)
    }

    fn grants(queue: &mut IdentifyQueue, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.poll(now)).map(|(shard, _)| shard.0).collect()
    }

    #[test]
    fn each_bucket_grants_its_lowest_shard_first_and_one_at_a_time() {
        let now = start();
        let mut queue = queue(2, now);
        for shard in [5, 4, 3, 2, 1, 0] {
            queue.on_wanted(ShardId(shard), now);
        }
        assert_eq!(grants(&mut queue, now), [0, 1]);
        queue.on_sent(ShardId(1), now);
        assert_eq!(grants(&mut queue, now), [3]);
        assert_eq!(queue.waiting(), 3);
    }

    #[test]
    fn the_next_in_line_may_connect_while_its_bucket_cools() {
        let now = start();
        let mut queue = queue(1, now);
        queue.on_wanted(ShardId(0), now);
        queue.on_wanted(ShardId(1), now);
        assert_eq!(queue.poll(now), Some((ShardId(0), now)));
        assert_eq!(queue.poll(now), None);
        queue.on_sent(ShardId(0), now + ms(700));
        assert_eq!(queue.poll(now + ms(800)), Some((ShardId(1), now + ms(700) + COOLING)));
    }

    #[test]
    fn wanting_twice_is_wanting_once() {
        let now = start();
        let mut queue = queue(1, now);
        queue.on_wanted(ShardId(0), now);
        queue.on_wanted(ShardId(0), now);
        assert_eq!(grants(&mut queue, now), [0]);
        queue.on_wanted(ShardId(0), now);
        assert_eq!((queue.waiting(), queue.poll(now + secs(1))), (0, None));
    }

    #[test]
    fn a_returned_turn_frees_bucket_and_budget() {
        let now = start();
        let mut queue = IdentifyQueue::new(1, 1000, 1, DAY, now);
        queue.on_wanted(ShardId(0), now);
        queue.on_wanted(ShardId(1), now);
        assert_eq!(grants(&mut queue, now), [0]);
        assert_eq!(queue.remaining(), 0);
        queue.on_returned(ShardId(0), now);
        assert_eq!(queue.poll(now), Some((ShardId(1), now)));
    }

    #[test]
    fn who_returns_while_waiting_waits_no_more() {
        let now = start();
        let mut queue = queue(1, now);
        queue.on_wanted(ShardId(0), now);
        queue.on_returned(ShardId(0), now);
        assert_eq!((queue.poll(now), queue.remaining()), (None, 1000));
    }

    #[test]
    fn a_turn_held_too_long_is_void_and_stays_paid() {
        let now = start();
        let mut queue = queue(1, now);
        queue.on_wanted(ShardId(0), now);
        queue.on_wanted(ShardId(1), now);
        grants(&mut queue, now);
        let void_at = queue.due().unwrap();
        assert_eq!(void_at, now + TURN_HELD_MAX);
        assert_eq!(queue.poll(void_at - ms(1)), None);
        assert_eq!(queue.poll(void_at), Some((ShardId(1), void_at + COOLING)));
        queue.on_sent(ShardId(0), void_at - ms(5));
        assert_eq!(queue.remaining(), 998);
    }

    #[test]
    fn a_late_return_of_a_void_turn_gives_its_budget_back() {
        let now = start();
        let mut queue = queue(1, now);
        queue.on_wanted(ShardId(0), now);
        grants(&mut queue, now);
        queue.on_returned(ShardId(0), now + TURN_HELD_MAX);
        assert_eq!(queue.remaining(), 1000);
    }

    #[test]
    fn an_exhausted_budget_grants_nothing_until_it_resets() {
        let now = start();
        let mut queue = IdentifyQueue::new(1, 1000, 0, secs(3600), now);
        queue.on_wanted(ShardId(0), now);
        assert_eq!(queue.poll(now), None);
        assert_eq!(queue.held_back(now + secs(600)), Some(secs(3000)));
        assert_eq!(queue.due(), Some(now + secs(3600)));
        assert_eq!(grants(&mut queue, now + secs(3600)), [0]);
        assert_eq!((queue.remaining(), queue.held_back(now + secs(3600))), (999, None));
    }

    #[test]
    fn the_reserve_is_not_spent_until_the_budget_returns() {
        let now = start();
        let mut queue = IdentifyQueue::new(16, 1000, 12, secs(3600), now);
        queue.set_reserve(Reserve::Of(10));
        for shard in 0..5 {
            queue.on_wanted(ShardId(shard), now);
        }
        assert_eq!(grants(&mut queue, now), [0, 1]);
        assert_eq!(
            (queue.remaining(), queue.held_back(now), queue.due()),
            (10, Some(secs(3600)), Some(now + secs(3600)))
        );
        assert_eq!(queue.waiting_shards().map(|it| it.0).collect::<Vec<_>>(), [2, 3, 4]);
        queue.on_returned(ShardId(1), now);
        assert_eq!(grants(&mut queue, now), [2], "what is given back may be used");
        assert_eq!(grants(&mut queue, now + secs(3600)), [3, 4]);
    }

    #[test]
    fn the_default_reserve_is_one_per_shard_between_ten_and_a_tenth() {
        let now = start();
        for (total, shards, reserve) in [(1000, 1, 10), (1000, 50, 50), (1000, 225, 100), (2000, 225, 200), (2, 1, 0)] {
            let mut queue = IdentifyQueue::new(1, total, total, DAY, now);
            queue.set_reserve(Reserve::ByShards(shards));
            assert_eq!(queue.reserve(), reserve, "{shards} shards of {total}");
        }
    }

    #[test]
    fn a_reserve_beyond_all_reason_leaves_half() {
        let now = start();
        let mut queue = IdentifyQueue::new(1, 1000, 1000, DAY, now);
        queue.set_reserve(Reserve::Of(u32::MAX));
        queue.on_wanted(ShardId(0), now);
        assert_eq!((queue.reserve(), grants(&mut queue, now).len()), (500, 1));
    }

    #[test]
    fn what_an_earlier_process_sent_cools_every_bucket() {
        let now = start();
        let mut queue = queue(2, now);
        queue.cool_until(now + secs(3));
        queue.on_wanted(ShardId(0), now);
        queue.on_wanted(ShardId(1), now);
        assert_eq!(queue.poll(now), Some((ShardId(0), now + secs(3))));
        assert_eq!(queue.poll(now), Some((ShardId(1), now + secs(3))));
    }

    #[test]
    fn turns_that_are_out_are_taken_off_fresh_limits() {
        let now = start();
        let mut queue = queue(4, now);
        for shard in 0..3 {
            queue.on_wanted(ShardId(shard), now);
        }
        grants(&mut queue, now);
        queue.on_limits(4, 1000, 10, secs(60), now);
        assert_eq!(queue.remaining(), 7);
    }

    #[test]
    fn turns_that_are_out_are_taken_off_the_next_days_budget() {
        let now = start();
        let mut queue = IdentifyQueue::new(4, 1000, 10, TURN_HELD_MAX, now);
        queue.on_wanted(ShardId(0), now);
        grants(&mut queue, now);
        // Void in the very moment of the reset: it may have been sent on either side of it.
        grants(&mut queue, now + TURN_HELD_MAX);
        assert_eq!(queue.remaining(), 999);
    }

    #[test]
    fn a_shard_that_vanished_with_its_turn_does_not_hold_the_budget_for_ever() {
        let now = start();
        let mut queue = IdentifyQueue::new(1, 1, 1, DAY, now);
        queue.on_wanted(ShardId(0), now);
        queue.on_wanted(ShardId(1), now);
        assert_eq!(grants(&mut queue, now), [0]);
        assert!(grants(&mut queue, now + DAY).is_empty());
        assert_eq!(grants(&mut queue, now + 2 * DAY), [1]);
    }

    #[test]
    fn a_reset_of_zero_does_not_refill_the_budget() {
        let now = start();
        let mut queue = IdentifyQueue::new(1, 1000, 0, Duration::ZERO, now);
        queue.on_wanted(ShardId(0), now);
        assert_eq!(queue.poll(now + secs(3600)), None);
        assert_eq!(queue.held_back(now), Some(DAY));
    }

    #[test]
    fn an_identify_without_a_turn_still_cools_and_costs() {
        let now = start();
        let mut queue = queue(1, now);
        queue.on_sent(ShardId(3), now);
        queue.on_wanted(ShardId(0), now);
        assert_eq!(queue.poll(now), Some((ShardId(0), now + COOLING)));
        assert_eq!(queue.remaining(), 998);
    }

    #[test]
    fn a_changed_concurrency_forgets_no_cooling() {
        let now = start();
        let mut queue = queue(2, now);
        queue.on_sent(ShardId(1), now);
        queue.on_limits(1, 1000, 900, DAY, now);
        queue.on_wanted(ShardId(0), now);
        assert_eq!(queue.poll(now), Some((ShardId(0), now + COOLING)));
    }

    /// What a shard does with a turn: IDENTIFY so long after `not_before`, return it so long after the grant, or nothing.
    #[derive(Clone, Debug)]
    enum Plan {
        Send(u64),
        Return(u64),
        Vanish,
    }

    fn plan() -> impl Strategy<Value = Plan> {
        prop_oneof![
            6 => (0..20_000u64).prop_map(Plan::Send),
            2 => (0..20_000u64).prop_map(Plan::Return),
            1 => Just(Plan::Vanish),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn limits_hold_order_holds_and_everybody_gets_a_turn(
            max_concurrency in 1..5u32,
            budget in 1..40u32,
            wishes in prop::collection::vec((0..20u32, 0..30_000u64), 1..30),
            plans in prop::collection::vec(plan(), 1..30),
        ) {
            let begin = start();
            let mut queue = IdentifyQueue::new(max_concurrency, budget, budget, DAY, begin);
            // What is to happen: (when, shard, what), in order of time.
            let mut agenda: BTreeSet<(Instant, u32, u8)> =
                wishes.iter().map(|&(shard, at)| (begin + ms(at), shard, b'w')).collect();
            let mut wanted = BTreeSet::new();
            let mut sent: Vec<(Instant, u32)> = Vec::new();
            let mut plans = plans.iter().cycle();
            let mut now = begin;
            loop {
                prop_assert!(now - begin < 100 * DAY, "{:?} starve", wanted);
                while let Some((shard, not_before)) = queue.poll(now) {
                    prop_assert!(not_before >= now);
                    let bucket = shard.0 % max_concurrency;
                    let first = wanted.iter().find(|&&it| it % max_concurrency == bucket);
                    prop_assert_eq!(first, Some(&shard.0), "not the first of its bucket");
                    wanted.remove(&shard.0);
                    match plans.next().unwrap() {
                        Plan::Send(after) => agenda.insert((not_before + ms(*after), shard.0, b's')),
                        Plan::Return(after) => agenda.insert((now + ms(*after), shard.0, b'r')),
                        Plan::Vanish => true,
                    };
                }
                let next = agenda.first().map(|it| it.0);
                let Some(at) = next.into_iter().chain(queue.due()).min() else { break };
                prop_assert!(at >= now, "due in the past");
                now = at;
                if next != Some(now) {
                    continue;
                }
                match agenda.pop_first().unwrap() {
                    (_, shard, b'w') => {
                        if !agenda.iter().any(|it| it.1 == shard && it.2 != b'w') {
                            queue.on_wanted(ShardId(shard), now);
                            if queue.waiting.contains(&ShardId(shard)) {
                                wanted.insert(shard);
                            }
                        }
                    }
                    (_, shard, b's') => {
                        sent.push((now, shard));
                        queue.on_sent(ShardId(shard), now);
                    }
                    (_, shard, _) => queue.on_returned(ShardId(shard), now),
                }
            }
            prop_assert!(wanted.is_empty(), "{:?} never had a turn", wanted);
            for (index, &(at, shard)) in sent.iter().enumerate() {
                let bucket = |shard: u32| shard % max_concurrency;
                let clash = sent[..index].iter().any(|&(other, it)| bucket(it) == bucket(shard) && at - other < IDENTIFY_INTERVAL);
                prop_assert!(!clash, "two IDENTIFYs of one bucket within 5 s");
                let that_day = |at: Instant| (at - begin).as_secs() / DAY.as_secs();
                let spent = sent[..=index].iter().filter(|it| that_day(it.0) == that_day(at)).count();
                prop_assert!(spent <= budget as usize, "over the daily budget");
            }
        }
    }
}
