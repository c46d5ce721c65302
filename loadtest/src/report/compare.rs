//! Two reports side by side. A difference counts when the ranges of the runs do not overlap; all others are noise.

use super::figures::{Case, Figure, Report, Spread};
use super::table::{Table, number, spread};

/// Whether the second report is better at something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Worse,
    /// The ranges overlap.
    Noise,
    /// One of them has a single run: it shows no range, so nothing can be said.
    OneRun,
}

impl Verdict {
    /// Of two spreads, over so many runs each.
    pub fn of(figure: Figure, [before, after]: [Spread; 2], runs: usize) -> Self {
        if before.overlaps(&after) {
            Self::Noise
        } else if runs < 2 {
            Self::OneRun
        } else if (after.median > before.median) == figure.is_more_better() {
            Self::Better
        } else {
            Self::Worse
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Noise => "noise",
            Self::OneRun => "one run",
        }
    }
}

/// Both reports' figures, case by case, those that they have in common.
pub fn text(before: &Report, after: &Report) -> String {
    let mut table = Table::new(&["case", "figure", "A: median (range)", "B: median (range)", "B/A", ""]);
    let (mut counts, mut only) = ([0; 4], Vec::new());
    for case in &before.cases {
        let Some(other) = after.case(&case.setup, &case.step) else {
            only.push(format!("{} {} is only in A", case.setup, case.step));
            continue;
        };
        let runs = case.samples.len().min(other.samples.len());
        for (figure, spreads) in common(case, other) {
            let [a, b] = spreads;
            let verdict = Verdict::of(figure, spreads, runs);
            counts[verdict as usize] += 1;
            let ratio = if a.median == 0.0 { "–".to_owned() } else { number(b.median / a.median) };
            let name = format!("{} {}", case.setup, case.step);
            let figure = figure.name().to_owned();
            table.row(vec![name, figure, spread(Some(a)), spread(Some(b)), ratio, verdict.text().to_owned()]);
        }
    }
    let is_new = |it: &&Case| before.case(&it.setup, &it.step).is_none();
    only.extend(after.cases.iter().filter(is_new).map(|it| format!("{} {} is only in B", it.setup, it.step)));
    let mut text =
        format!("A: {}\n   {}\nB: {}\n   {}\n\n", before.machine, before.command, after.machine, after.command);
    text += &table.text();
    only.iter().for_each(|it| text += &format!("{it}\n"));
    let [better, worse, noise, one_run] = counts;
    text += &format!("\n{better} better, {worse} worse, {noise} within the noise (ranges overlap)");
    if one_run > 0 {
        text += &format!(", {one_run} differ in one run each, which says little");
    }
    text + "\n"
}

/// The figures that both cases have.
fn common(before: &Case, after: &Case) -> Vec<(Figure, [Spread; 2])> {
    let both = |it: &Figure| Some((*it, [before.spread(*it)?, after.spread(*it)?]));
    Figure::COMPARED.iter().filter_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::report;
    use super::*;

    fn verdict(figure: Figure, before: &[f64], after: &[f64]) -> Verdict {
        let spread = |it: &[f64]| Spread::of(it.iter().copied()).unwrap();
        Verdict::of(figure, [spread(before), spread(after)], before.len().min(after.len()))
    }

    #[test]
    fn ranges_that_overlap_are_noise_however_far_the_medians_are() {
        assert_eq!(verdict(Figure::P50, &[10.0, 11.0, 30.0], &[29.0, 40.0, 41.0]), Verdict::Noise);
        assert_eq!(verdict(Figure::P50, &[10.0, 11.0], &[11.0, 12.0]), Verdict::Noise);
    }

    #[test]
    fn less_is_better_but_for_events() {
        assert_eq!(verdict(Figure::CpuPerMillion, &[10.0, 11.0], &[8.0, 9.0]), Verdict::Better);
        assert_eq!(verdict(Figure::CpuPerMillion, &[8.0, 9.0], &[10.0, 11.0]), Verdict::Worse);
        assert_eq!(verdict(Figure::EventsPerS, &[10.0, 11.0], &[8.0, 9.0]), Verdict::Worse);
        assert_eq!(verdict(Figure::EventsPerS, &[8.0, 9.0], &[10.0, 11.0]), Verdict::Better);
    }

    #[test]
    fn one_run_says_nothing_but_that_it_differs() {
        assert_eq!(verdict(Figure::P50, &[10.0], &[20.0, 21.0]), Verdict::OneRun);
        assert_eq!(verdict(Figure::P50, &[10.0], &[10.0]), Verdict::Noise);
    }

    #[test]
    fn cases_are_matched_by_name_and_the_others_are_named() {
        let before = report(&[("direct", "2000", &[1.0, 1.1]), ("idle", "idle", &[1.0])]);
        let after = report(&[("direct", "2000", &[2.0, 2.1]), ("flood", "flood", &[1.0])]);
        let text = text(&before, &after);
        assert!(text.contains("idle idle is only in A\nflood flood is only in B"), "{text}");
        let line = text.lines().find(|it| it.contains("CPU s per million")).unwrap();
        assert!(line.contains("1.95") && line.ends_with("WORSE"), "{line}");
    }
}
