//! Closes by code: a table of bounded size, since clients choose their codes themselves.

#![forbid(unsafe_code)]

use crate::wire::CloseCode;

/// Of the codes that are neither RFC 6455's nor Discord's, how many a core counts by number; what comes after them is counted together.
const INVENTED_MAX: usize = 16;

/// In the order in which the codes were first seen.
#[derive(Clone, Debug, Default)]
pub struct Closes {
    counts: Vec<(u16, u64)>,
    others: u64,
}

/// RFC 6455's, Discord's and our own; 0 is none.
fn is_known(number: u16) -> bool {
    matches!(number, 0 | 1000..=1015 | 4000..=4014) || number == CloseCode::RECONNECTING.0
}

impl Closes {
    /// `None`: no code was given, counted as 0.
    pub fn add(&mut self, code: Option<CloseCode>) {
        let number = code.map_or(0, |it| it.0);
        let has_place = is_known(number)
            || self.counts.iter().any(|it| it.0 == number)
            || self.counts.iter().filter(|it| !is_known(it.0)).count() < INVENTED_MAX;
        match has_place {
            true => self.add_count(number, 1),
            false => self.others += 1,
        }
    }

    fn add_count(&mut self, number: u16, count: u64) {
        match self.counts.iter_mut().find(|it| it.0 == number) {
            Some(it) => it.1 += count,
            None => self.counts.push((number, count)),
        }
    }

    /// Adds what another core has counted. A number that any core has counted keeps its place: no sum may go down.
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
        assert_eq!(list.len(), INVENTED_MAX + 2);
        assert_eq!(list[..2], [("0".into(), 1), ("3000".into(), 2)]);
        assert_eq!(list[INVENTED_MAX + 1], ("other".into(), 1000 - INVENTED_MAX as u64));
    }

    #[test]
    fn codes_that_mean_something_have_their_place_whatever_clients_invent() {
        let mut closes = Closes::default();
        for number in (3000..4000).chain([4000, 4008, 4900, 1006]) {
            closes.add(Some(CloseCode(number)));
        }
        for number in ["1006", "4000", "4008", "4900"] {
            assert!(closes.list().contains(&(number.into(), 1)), "{number}");
        }
    }

    #[test]
    fn no_sum_over_cores_goes_down_when_another_core_counts_more_codes() {
        let (mut first, mut second) = (Closes::default(), Closes::default());
        second.add(Some(CloseCode(3999)));
        for number in 3000..3000 + 2 * INVENTED_MAX as u16 {
            first.add(Some(CloseCode(number)));
            let mut sum = first.clone();
            sum.merge(&second);
            assert!(sum.list().contains(&("3999".into(), 1)), "{number}");
        }
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
