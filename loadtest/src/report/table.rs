//! Tables, as text for a terminal and as HTML: the first column is words, all others are numbers.

use std::fmt::Write as _;

use super::figures::Spread;

/// What is not known.
const NOTHING: &str = "–";

pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|it| it.to_string()).collect(), rows: Vec::new() }
    }

    /// As many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    /// In columns, with two spaces between.
    pub fn text(&self) -> String {
        let rows = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| rows().map(|it| it[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for row in rows() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if column == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
                write!(text, "{}{before}{cell}{after}", if column == 0 { "" } else { "  " })
                    .expect("a String takes all");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// A `<table>` that scrolls by itself where it is wider than the page.
    pub fn html(&self) -> String {
        let mut html = "<div class=\"wide\"><table><thead><tr>".to_owned();
        self.head.iter().for_each(|it| html += &format!("<th>{}</th>", escape(it)));
        html += "</tr></thead><tbody>\n";
        for row in &self.rows {
            html += "<tr>";
            for (column, cell) in row.iter().enumerate() {
                let tag = if column == 0 { "th" } else { "td" };
                html += &format!("<{tag}>{}</{tag}>", escape(cell));
            }
            html += "</tr>\n";
        }
        html + "</tbody></table></div>\n"
    }
}

/// `text` as it must stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with as many digits as say something: three, or all before the point, with a space between thousands.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.0995 => 2,
        _ if size > 0.0 => 3,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().unwrap_or_default().trim_start_matches('-').len();
    if whole <= 4 {
        return text;
    }
    // Only numbers without a fraction are this long.
    let mut grouped = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) && grouped.chars().last().is_some_and(|it| it.is_ascii_digit())
        {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

pub fn maybe(value: Option<f64>) -> String {
    value.map_or(NOTHING.to_owned(), number)
}

/// The median, and the range behind it where there is one.
pub fn spread(spread: Option<Spread>) -> String {
    match spread {
        None => NOTHING.to_owned(),
        Some(it) if it.min == it.max => number(it.median),
        Some(it) => format!("{} ({}–{})", number(it.median), number(it.min), number(it.max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_all_before_the_point() {
        let texts = [0.0, 0.08123, 0.5, 7.456, 31.26, 99.96, 312.4, 9999.0, 10_000.0, 1_234_567.8, -12_000.0];
        let written = texts.map(|it| number(it).replace('\u{202f}', "_"));
        assert_eq!(
            written,
            ["0", "0.081", "0.50", "7.46", "31.3", "100", "312", "9999", "10_000", "1_234_568", "-12_000"]
        );
    }

    #[test]
    fn a_range_is_shown_where_there_is_one() {
        assert_eq!(spread(Some(Spread { median: 2.0, min: 1.0, max: 3.0 })), "2.00 (1.00–3.00)");
        assert_eq!(spread(Some(Spread { median: 2.0, min: 2.0, max: 2.0 })), "2.00");
        assert_eq!((spread(None).as_str(), maybe(None).as_str()), (NOTHING, NOTHING));
    }

    #[test]
    fn columns_are_aligned_and_cells_escaped() {
        let mut table = Table::new(&["who", "n"]);
        table.row(vec!["a<b".to_owned(), "1".to_owned()]);
        table.row(vec!["µ".to_owned(), "100".to_owned()]);
        assert_eq!(table.text(), "who    n\na<b    1\nµ    100\n");
        assert!(table.html().contains("<th>a&lt;b</th><td>1</td>"));
    }
}
