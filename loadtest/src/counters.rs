//! The traffic's counters 1, 2, 3, … of one shard: which are missing, double, or out of order.

use std::ops::Range;

/// Gaps that are remembered. Beyond, a late event of a forgotten gap counts as a double and its loss stays.
const GAPS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub struct Counters {
    /// The counter that should come next; `None` to accept any.
    next: Option<u64>,
    /// What was skipped and has not come since.
    gaps: Vec<Range<u64>>,
    forgotten: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
}

impl Counters {
    pub fn new(first: Option<u64>) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// The counter of an event that came.
    pub fn on_counter(&mut self, counter: u64) {
        let next = self.next.unwrap_or(counter);
        if counter < next {
            return self.on_late(counter);
        }
        if counter > next {
            self.skip(next..counter);
        }
        self.next = Some(counter + 1);
    }

    fn on_late(&mut self, counter: u64) {
        match self.gaps.iter().position(|it| it.contains(&counter)) {
            None => self.duplicated += 1,
            Some(at) => {
                self.out_of_order += 1;
                let gap = self.gaps.swap_remove(at);
                self.gaps.extend([gap.start..counter, counter + 1..gap.end].into_iter().filter(|it| !it.is_empty()));
            }
        }
    }

    fn skip(&mut self, gap: Range<u64>) {
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
        } else {
            self.forgotten += gap.end - gap.start;
        }
    }

    /// How many have been skipped so far.
    pub fn lost(&self) -> u64 {
        self.forgotten + self.gaps.iter().map(|it| it.end - it.start).sum::<u64>()
    }

    /// Whether `last` and everything before it was accounted for.
    pub fn has_reached(&self, last: u64) -> bool {
        self.next.is_none_or(|next| next > last)
    }

    /// No more will come: what is missing up to `last` is lost.
    pub fn settle(&mut self, last: u64) {
        if let Some(next) = self.next
            && next <= last
        {
            self.skip(next..last + 1);
            self.next = Some(last + 1);
        }
    }

    /// A new session begins with whatever counter comes.
    pub fn forget(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(first: Option<u64>, counters: &[u64]) -> Counters {
        let mut seen = Counters::new(first);
        counters.iter().for_each(|it| seen.on_counter(*it));
        seen
    }

    fn verdict(it: &Counters) -> (u64, u64, u64) {
        (it.lost(), it.duplicated, it.out_of_order)
    }

    #[test]
    fn in_order_is_faultless() {
        assert_eq!(verdict(&after(Some(1), &[1, 2, 3])), (0, 0, 0));
        assert_eq!(verdict(&after(None, &[8, 9])), (0, 0, 0));
    }

    #[test]
    fn a_gap_at_the_start_in_the_middle_and_at_the_end_is_lost() {
        assert_eq!(verdict(&after(Some(1), &[3])), (2, 0, 0));
        assert_eq!(verdict(&after(Some(1), &[1, 5])), (3, 0, 0));
        let mut seen = after(Some(1), &[1, 2]);
        assert!(seen.has_reached(2) && !seen.has_reached(3));
        seen.settle(4);
        assert_eq!(verdict(&seen), (2, 0, 0));
    }

    #[test]
    fn nothing_at_all_is_all_lost() {
        let mut seen = Counters::new(Some(1));
        seen.settle(10);
        assert_eq!(seen.lost(), 10);
    }

    #[test]
    fn a_late_event_is_out_of_order_and_no_longer_lost() {
        assert_eq!(verdict(&after(Some(1), &[1, 4, 3, 2, 5])), (0, 0, 2));
    }

    #[test]
    fn a_repeat_is_a_double_also_of_a_late_one() {
        assert_eq!(verdict(&after(Some(1), &[1, 1])), (0, 1, 0));
        assert_eq!(verdict(&after(Some(1), &[1, 3, 2, 2])), (0, 1, 1));
    }

    #[test]
    fn gaps_beyond_the_limit_stay_lost() {
        let odd: Vec<u64> = (0..2000).map(|it| 2 * it + 1).collect();
        assert_eq!(after(Some(1), &odd).lost(), 1999);
    }
}
