//! Closes by code: a table of bounded size, since clients choose their codes themselves.

#![forbid(unsafe_code)]

use crate::wire::CloseCode;

/// Codes counted by number; what comes after them is counted together.
const CODES_MAX: usize = 32;

/// In the order in which the codes were first seen.
#[derive(Clone, Debug, Default)]
pub struct Closes {
    counts: Vec<(u16, u64)>,
    others: u64,
}

impl Closes {
    /// `None`: no code was given, counted as 0.
    pub fn add(&mut self, code: Option<CloseCode>) {
        self.add_count(code.map_or(0, |it| it.0), 1);
    }

    fn add_count(&mut self, number: u16, count: u64) {
        if let Some(it) = self.counts.iter_mut().find(|it| it.0 == number) {
            it.1 += count;
        } else if self.counts.len() < CODES_MAX {
            self.counts.push((number, count));
        } else {
            self.others += count;
        }
    }

    /// Adds what another core has counted. More codes than one table holds become others.
    pub fn merge(&mut self, other: &Closes) {
        for &(number, count) in &other.counts {
            self.add_count(number, count);
        }
        self.others += other.others;
    }

    /// As labels, by number; "other" comes last, if there are any.
    pub fn list(&self) -> Vec<(String, u64)> {
        let mut counts = self.counts.clone();
        counts.sort_unstable();
        let others = (self.others > 0).then(|| ("other".to_owned(), self.others));
        counts.into_iter().map(|(number, count)| (number.to_string(), count)).chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_invents_codes_fills_no_memory() {
        let mut closes = Closes::default();
        for number in 3000..4000 {
            closes.add(Some(CloseCode(number)));
        }
        closes.add(Some(CloseCode(3000)));
        closes.add(None);
        let list = closes.list();
        assert_eq!(list.len(), CODES_MAX + 1);
        assert_eq!(list[0], ("3000".into(), 2));
        assert_eq!(list[CODES_MAX], ("other".into(), 1000 - CODES_MAX as u64 + 1));
    }

    #[test]
    fn what_two_cores_counted_is_added_by_code() {
        let mut first = Closes::default();
        first.add(Some(CloseCode(4000)));
        let mut second = Closes::default();
        second.add(Some(CloseCode(4000)));
        second.add(None);
        first.merge(&second);
        assert_eq!(first.list(), [("0".into(), 1), ("4000".into(), 2)]);
    }
}
