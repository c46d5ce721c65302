//! Plots as inline SVG, made by hand: lines over an axis, and bars. Colours are classes, which the page's style gives for light and dark.
//!
//! It knows places on paper and nothing of what it draws.

use std::fmt::Write as _;

use super::figures::Spread;
use super::table::{escape, number};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Of a linear axis, at most about so many.
const TICKS_MAX: f64 = 6.0;
const BAR_ROW: f64 = 44.0;
const BAR: f64 = 14.0;
/// What the figure behind the longest bar needs.
const BAR_TEXT: f64 = 175.0;

/// Where a value is between the ends of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Linear { min: f64, max: f64 },
    Log { min: f64, max: f64 },
}

impl Scale {
    /// From 0 to a round number at or above every value.
    pub fn linear(values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(0.0, f64::max);
        let step = step(most);
        Self::Linear { min: 0.0, max: ((most / step).ceil() * step).max(step) }
    }

    /// From a power of ten to another, around every value above 0.
    pub fn decades(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.filter(|it| *it > 0.0).fold((f64::MAX, 0.0), |(a, b), it| (it.min(a), it.max(b)));
        if most == 0.0 {
            return Self::Log { min: 1.0, max: 10.0 };
        }
        let (low, high) = (least.log10().floor(), most.log10().ceil());
        Self::Log { min: 10f64.powf(low), max: 10f64.powf(if high > low { high } else { low + 1.0 }) }
    }

    /// 0 at the beginning, 1 at the end. What is outside is drawn at the edge.
    pub fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { min, max } => (value - min) / (max - min),
            Self::Log { min, max } => (value.max(f64::MIN_POSITIVE) / min).ln() / (max / min).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Round values from end to end.
    pub fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { min, max } => {
                let step = step(max - min);
                (0..=((max - min) / step).round() as u32).map(|it| min + f64::from(it) * step).collect()
            }
            Self::Log { min, max } => (0..=(max / min).log10().round() as i32).map(|it| min * 10f64.powi(it)).collect(),
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that `range` has at most `TICKS_MAX` of them.
fn step(range: f64) -> f64 {
    if range <= 0.0 {
        return 1.0;
    }
    let rough = range / TICKS_MAX;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|it| it * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

pub struct Axis {
    pub label: &'static str,
    pub scale: Scale,
    /// `None`: those of the scale.
    pub ticks: Option<Vec<f64>>,
    pub write: fn(f64) -> String,
}

/// One line. `class` is one of the page's colours.
pub struct Series {
    pub name: String,
    pub class: &'static str,
    pub is_dashed: bool,
    /// Each point marked, with its range and its words.
    pub has_dots: bool,
    pub points: Vec<Point>,
}

pub struct Point {
    pub x: f64,
    pub y: Spread,
    /// It is what it claims to be; if not, its mark is hollow.
    pub is_full: bool,
}

/// Lines over two axes. Without a point in them it is an empty text.
pub struct Lines {
    pub what: &'static str,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// Places on the x axis with a word.
    pub marks: Vec<(f64, String)>,
    /// A place on the y axis, and its word for the legend of several lines.
    pub limit: Option<(f64, String)>,
}

impl Lines {
    /// Legend and drawing.
    pub fn html(&self) -> String {
        if self.series.iter().all(|it| it.points.is_empty()) {
            return String::new();
        }
        let mut html = String::new();
        if self.series.len() > 1 {
            html += "<ul class=\"legend\">";
            for series in self.series.iter().filter(|it| !it.points.is_empty()) {
                let dash = if series.is_dashed { " dash" } else { "" };
                html += &format!("<li><i class=\"{}{dash}\"></i>{}</li>", series.class, escape(&series.name));
            }
            if let Some((_, word)) = &self.limit {
                html += &format!("<li><i class=\"limit dash\"></i>{}</li>", escape(word));
            }
            html += "</ul>";
        }
        html += &open(self.what, HEIGHT);
        self.frame(&mut html);
        self.series.iter().for_each(|it| self.line(it, &mut html));
        html + "</svg>"
    }

    fn frame(&self, svg: &mut String) {
        let mut put = |text: String| svg.push_str(&text);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in self.y.ticks() {
            let y = self.y_of(tick);
            put(format!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
            put(format!(
                "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                (self.y.write)(tick)
            ));
        }
        for tick in self.x.ticks() {
            let x = self.x_of(tick);
            put(format!("<path class=\"axis\" d=\"M{x:.1} {bottom}v5\"/>"));
            put(format!("<text class=\"mid\" x=\"{x:.1}\" y=\"{}\">{}</text>", bottom + 19.0, (self.x.write)(tick)));
        }
        put(format!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>"));
        let middle = (LEFT + right) / 2.0;
        put(format!("<text class=\"mid\" x=\"{middle}\" y=\"{}\">{}</text>", HEIGHT - 8.0, escape(self.x.label)));
        let (x, y) = (13.0, (TOP + bottom) / 2.0);
        let name = escape(self.y.label);
        put(format!("<text class=\"mid upright\" transform=\"translate({x} {y}) rotate(-90)\">{name}</text>"));
        for (at, word) in &self.marks {
            let x = self.x_of(*at);
            put(format!("<path class=\"mark\" d=\"M{x:.1} {TOP}V{bottom}\"/>"));
            put(format!("<text class=\"word\" x=\"{:.1}\" y=\"{}\">{}</text>", x + 4.0, TOP + 10.0, escape(word)));
        }
        if let Some((at, _)) = &self.limit {
            put(format!("<path class=\"limit\" d=\"M{LEFT} {:.1}H{right}\"/>", self.y_of(*at)));
        }
    }

    fn line(&self, series: &Series, svg: &mut String) {
        let place = |it: &Point| format!("{:.1} {:.1}", self.x_of(it.x), self.y_of(it.y.median));
        let path: Vec<String> = series.points.iter().map(place).collect();
        let (class, dash) = (series.class, if series.is_dashed { " dash" } else { "" });
        write!(svg, "<path class=\"line {class}{dash}\" d=\"M{}\"/>", path.join("L")).expect("a String takes all");
        for point in series.points.iter().filter(|_| series.has_dots) {
            let (x, y) = (self.x_of(point.x), self.y_of(point.y.median));
            let (low, high) = (self.y_of(point.y.min), self.y_of(point.y.max));
            let hollow = if point.is_full { "" } else { " hollow" };
            let words = format!(
                "{}, {}: {} ({}–{}){}",
                series.name,
                (self.x.write)(point.x),
                number(point.y.median),
                number(point.y.min),
                number(point.y.max),
                if point.is_full { "" } else { ", the load fell short" }
            );
            write!(
                svg,
                "<g class=\"dot {class}{hollow}\"><path d=\"M{x:.1} {low:.1}V{high:.1}\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>\
                 <title>{}</title></g>",
                escape(&words)
            )
            .expect("a String takes all");
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.scale.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.scale.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

/// A place on an axis: no more digits than it needs.
pub fn tick(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

impl Axis {
    fn ticks(&self) -> Vec<f64> {
        self.ticks.clone().unwrap_or_else(|| self.scale.ticks())
    }
}

/// A bar for each name, with its range and its figure behind it. Empty without any.
pub fn bars(what: &str, bars: &[(String, Spread, &'static str)]) -> String {
    if bars.is_empty() {
        return String::new();
    }
    let scale = Scale::Linear { min: 0.0, max: bars.iter().map(|it| it.1.max).fold(f64::MIN_POSITIVE, f64::max) };
    let width = |value: f64| scale.place(value) * (WIDTH - BAR_TEXT);
    let mut svg = open(what, bars.len() as f64 * BAR_ROW);
    for (at, (name, spread, class)) in bars.iter().enumerate() {
        let top = at as f64 * BAR_ROW;
        let (text, bar) = (top + 14.0, top + 21.0);
        let (middle, low, high) = (bar + BAR / 2.0, width(spread.min), width(spread.max));
        let (len, behind) = (width(spread.median), high.max(width(spread.median)) + 8.0);
        let figure = super::table::spread(Some(*spread));
        write!(
            svg,
            "<text x=\"0\" y=\"{text}\">{}</text><rect class=\"bar {class}\" x=\"0\" y=\"{bar}\" width=\"{len:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <path class=\"range\" d=\"M{low:.1} {middle}H{high:.1}\"/><text class=\"figure\" x=\"{behind:.1}\" y=\"{}\">{}</text>",
            escape(name),
            bar + 12.0,
            escape(&figure)
        )
        .expect("a String takes all");
    }
    svg + "</svg>"
}

fn open(what: &str, height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_ends_at_a_round_number_and_is_divided_by_round_ones() {
        let scale = Scale::linear([3.0, 47.0].into_iter());
        assert_eq!(scale, Scale::Linear { min: 0.0, max: 50.0 });
        assert_eq!(scale.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!((scale.place(25.0), scale.place(-1.0), scale.place(99.0)), (0.5, 0.0, 1.0));
        for most in [0.0, 0.013, 0.6, 1.0, 6.0, 59.9, 61.0, 12_345.0] {
            let scale = Scale::linear([most].into_iter());
            let ticks = scale.ticks();
            assert!((2..=8).contains(&ticks.len()), "{most}: {ticks:?}");
            assert!(ticks[ticks.len() - 1] >= most * (1.0 - 1e-9), "{most}: {ticks:?}");
        }
    }

    #[test]
    fn a_scale_of_decades_holds_every_value() {
        let scale = Scale::decades([0.0, 30.0, 4_000.0].into_iter());
        assert_eq!(scale, Scale::Log { min: 10.0, max: 10_000.0 });
        assert_eq!(scale.ticks(), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert!((scale.place(100.0) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!((scale.place(0.0), scale.place(1e9)), (0.0, 1.0));
        assert_eq!(Scale::decades([10.0].into_iter()), Scale::Log { min: 10.0, max: 100.0 });
        assert_eq!(Scale::decades([].into_iter()).ticks(), [1.0, 10.0]);
        assert_eq!([2.5, 80.0, 0.1 + 0.2].map(tick), ["2.5", "80", "0.3"]);
    }

    fn lines(points: &[(f64, f64)]) -> Lines {
        let point =
            |(x, y): &(f64, f64)| Point { x: *x, y: Spread { median: *y, min: *y, max: *y }, is_full: *x < 3.0 };
        let axis = |label| Axis { label, scale: Scale::Linear { min: 0.0, max: 4.0 }, ticks: None, write: number };
        let series = Series {
            name: "a & b".to_owned(),
            class: "s1",
            is_dashed: false,
            has_dots: true,
            points: points.iter().map(point).collect(),
        };
        Lines { what: "x", x: axis("x"), y: axis("y"), series: vec![series], marks: Vec::new(), limit: None }
    }

    #[test]
    fn points_are_drawn_where_they_belong_and_what_fell_short_is_hollow() {
        let svg = lines(&[(0.0, 0.0), (4.0, 4.0)]).html();
        assert!(svg.contains(&format!("M{LEFT:.1} {:.1}L{:.1} {TOP:.1}", HEIGHT - BOTTOM, WIDTH - RIGHT)), "{svg}");
        assert_eq!(svg.matches("hollow").count(), 1);
        assert!(svg.contains("a &amp; b") && svg.ends_with("</svg>"));
        assert_eq!(lines(&[]).html(), "");
    }

    #[test]
    fn the_longest_bar_leaves_room_for_its_figure() {
        let bar = |median: f64| ("n".to_owned(), Spread { median, min: median, max: median }, "s1");
        let svg = bars("x", &[bar(5.0), bar(10.0)]);
        let widths: Vec<&str> = svg.split("width=\"").skip(1).filter_map(|it| it.split('"').next()).collect();
        assert_eq!(widths, [format!("{:.1}", (WIDTH - BAR_TEXT) / 2.0), format!("{:.1}", WIDTH - BAR_TEXT)]);
        assert_eq!(bars("x", &[]), "");
    }
}
