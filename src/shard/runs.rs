//! Which log index a client's sequence number stands for.
//!
//! A session's numbers follow the log one to one, except where a dispatch was not for this client or where
//! something that is not in the log took a number (READY, the guilds of the snapshot, RESUMED). So the map is a short list of runs
//! inside which it is linear: 24 bytes per interruption, nothing per dispatch.

use std::collections::VecDeque;

use super::fields::{Fields, counted, put_u32, put_u64};

/// Interruptions remembered, 96 KiB. When there is one more, the oldest is forgotten: a RESUME from before it gets op 9.
pub const RUNS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first_sequence: u64,
    first_index: u64,
    count: u64,
}

/// Sequences rise from run to run and so do indices; runs never overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: VecDeque<Run>,
}

impl Runs {
    /// The next dispatch delivered will carry `sequence`, and the first candidate for it is the one at `index`.
    pub fn begin(&mut self, sequence: u64, index: u64) {
        self.push(Run { first_sequence: sequence, first_index: index, count: 0 });
    }

    /// The dispatch at `index` was sent as `sequence`.
    pub fn on_sent(&mut self, sequence: u64, index: u64) {
        if let Some(last) = self.runs.back_mut()
            && last.first_sequence + last.count == sequence
            && last.first_index + last.count == index
        {
            last.count += 1;
            return;
        }
        self.push(Run { first_sequence: sequence, first_index: index, count: 1 });
    }

    /// Where to go on after `sequence`: the first index that may hold what followed it. `None` when that is no longer
    /// known, or lies before the first run (inside the snapshot).
    pub fn index_after(&self, sequence: u64) -> Option<u64> {
        let next = sequence + 1;
        let at = self.runs.partition_point(|it| it.first_sequence <= next).checked_sub(1)?;
        let run = self.runs[at];
        Some(run.first_index + (next - run.first_sequence).min(run.count))
    }

    /// The client has confirmed `sequence` and nothing after it: later numbers are given out anew.
    pub fn rewind(&mut self, sequence: u64) {
        while let Some(last) = self.runs.back()
            && last.first_sequence > sequence + 1
        {
            self.runs.pop_back();
        }
        if let Some(last) = self.runs.back_mut() {
            last.count = last.count.min(sequence + 1 - last.first_sequence);
        }
    }

    /// Indices below `tail` have left the log: forget runs that lie wholly before it.
    pub fn forget_before(&mut self, tail: u64) {
        while self.runs.len() > 1
            && self.runs[0].first_index + self.runs[0].count <= tail
            && self.runs[1].first_index <= tail
        {
            self.runs.pop_front();
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_u32(out, self.runs.len() as u32);
        for run in &self.runs {
            for value in [run.first_sequence, run.first_index, run.count] {
                put_u64(out, value);
            }
        }
    }

    /// `None` unless sequences and indices rise as they must.
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let count = fields.u32()? as usize;
        if count > RUNS_MAX {
            return None;
        }
        let mut runs: VecDeque<Run> = VecDeque::with_capacity(count);
        for _ in 0..count {
            let run = Run { first_sequence: counted(fields)?, first_index: counted(fields)?, count: counted(fields)? };
            if let Some(last) = runs.back()
                && (run.first_sequence < last.first_sequence + last.count
                    || run.first_index < last.first_index + last.count)
            {
                return None;
            }
            runs.push_back(run);
        }
        Some(Self { runs })
    }

    fn push(&mut self, run: Run) {
        if self.runs.len() >= RUNS_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(run);
    }

    /// Interruptions remembered.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn inside_the_snapshot_there_is_no_index() {
        let mut runs = Runs::default();
        runs.begin(8, 100); // READY and six guilds took 1 to 7
        assert_eq!(runs.index_after(3), None);
        assert_eq!(runs.index_after(7), Some(100));
    }

    #[test]
    fn a_number_outside_the_log_is_stepped_over() {
        let mut runs = Runs::default();
        runs.begin(2, 0);
        runs.on_sent(2, 0);
        runs.on_sent(3, 1);
        // 4 was RESUMED
        runs.on_sent(5, 2);
        assert_eq!(runs.index_after(3), Some(2));
        assert_eq!(runs.index_after(4), Some(2));
        assert_eq!(runs.index_after(5), Some(3));
    }

    #[test]
    fn one_interruption_too_many_pushes_out_the_oldest() {
        let mut runs = Runs::default();
        for n in 0..=RUNS_MAX as u64 {
            runs.on_sent(n + 1, 2 * n);
        }
        assert_eq!((runs.len(), runs.index_after(0), runs.index_after(1)), (RUNS_MAX, None, Some(2)));
    }

    proptest! {
        /// `steps`: true delivers the dispatch at the next index, false skips it; `private` numbers come in between.
        #[test]
        fn agrees_with_a_table(steps in proptest::collection::vec((any::<bool>(), 0u8..8), 1..200), confirmed in 0usize..200) {
            let mut runs = Runs::default();
            let mut table: Vec<Option<u64>> = Vec::new(); // table[sequence - 10]: index sent, None for a private number
            runs.begin(10, 0);
            let mut sequence = 10;
            for (index, (deliver, private)) in steps.iter().enumerate() {
                if *private == 0 {
                    table.push(None);
                    sequence += 1;
                }
                if *deliver {
                    runs.on_sent(sequence, index as u64);
                    table.push(Some(index as u64));
                    sequence += 1;
                }
            }
            for after in 9..sequence {
                let got = runs.index_after(after).unwrap();
                // Nothing sent at or before `after` comes again, and nothing sent later is missed.
                for (n, index) in table.iter().enumerate() {
                    if let Some(index) = index {
                        prop_assert_eq!(*index >= got, n as u64 + 10 > after, "after {} got {}", after, got);
                    }
                }
            }
            let confirmed = 9 + confirmed as u64 % (sequence - 9);
            let resume_at = runs.index_after(confirmed);
            runs.rewind(confirmed);
            prop_assert_eq!(runs.index_after(confirmed), resume_at);
            let mut stored = Vec::new();
            runs.put(&mut stored);
            prop_assert_eq!(Runs::read(&mut Fields(&stored)), Some(runs));
        }
    }
}
