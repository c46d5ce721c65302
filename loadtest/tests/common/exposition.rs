//! A strict reader of Prometheus' text format: what it does not like is a panic with the line.
//!
//! Source: Prometheus, Exposition formats › Text-based format.

use std::collections::{BTreeMap, BTreeSet};

/// One `# TYPE`, and what stands under it.
#[derive(Debug)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    /// With `_bucket`, `_sum` or `_count` for a histogram.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All families by name.
pub fn read(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n'), "the last line does not end");
    let (mut families, mut seen) = (BTreeMap::<String, Family>::new(), BTreeSet::new());
    let (mut help, mut current) = (None, String::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(help.replace((name.to_owned(), text.to_owned())).is_none(), "HELP without TYPE before {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(is_name(name), "{line}");
            let (named, help) = help.take().unwrap_or_else(|| panic!("no HELP before {line}"));
            assert_eq!(named, name);
            current = name.to_owned();
            let family = Family { kind: kind.to_owned(), help, samples: Vec::new() };
            assert!(families.insert(current.clone(), family).is_none(), "{name} stands twice");
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("{line} before any TYPE"));
            let base = match family.kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|it| sample.name.strip_suffix(it)),
                _ => Some(sample.name.as_str()),
            };
            assert_eq!(base, Some(current.as_str()), "{line} stands under {current}");
            assert!(family.kind == "gauge" || sample.value >= 0.0, "{line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "{line} stands twice");
            family.samples.push(sample);
        }
    }
    families.iter().filter(|it| it.1.kind == "histogram").for_each(|(name, family)| check_histogram(name, family));
    families
}

/// Buckets rise, the last is +Inf and holds as many as `_count`; each has a `_sum`.
fn check_histogram(name: &str, family: &Family) {
    let mut series = BTreeMap::<_, (Vec<(f64, f64)>, Option<f64>, Option<f64>)>::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let (buckets, sum, count) = series.entry(labels).or_default();
        match (sample.name.strip_prefix(name), bound) {
            (Some("_bucket"), Some(le)) => buckets.push((number(&le).expect("a bound"), sample.value)),
            (Some("_sum"), None) => *sum = Some(sample.value),
            (Some("_count"), None) => *count = Some(sample.value),
            _ => panic!("{sample:?}"),
        }
    }
    for (labels, (buckets, sum, count)) in series {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels:?} {buckets:?}");
        assert_eq!(buckets.last().map(|it| (it.0, Some(it.1))), Some((f64::INFINITY, count)), "{name} {labels:?}");
        assert!(sum.is_some(), "{name} {labels:?}");
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let value = number(value).unwrap_or_else(|| panic!("{line}"));
    Sample { name: name.to_owned(), labels: labels_of(labels, line), value }
}

fn labels_of(mut text: &str, line: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(name) && !name.contains(':'), "{line}");
        let (mut value, mut letters) = (String::new(), rest.char_indices());
        let end = loop {
            match letters.next().unwrap_or_else(|| panic!("{line}")) {
                (at, '"') => break at,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, letter @ ('\\' | '"'))) => value.push(letter),
                    _ => panic!("{line}"),
                },
                (_, letter) => value.push(letter),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "a label stands twice: {line}");
        text = &rest[end + 1..];
        assert!(text.is_empty() || text.starts_with(','), "{line}");
        text = text.strip_prefix(',').unwrap_or(text);
    }
    labels
}

fn is_name(name: &str) -> bool {
    let is_letter = |it: char| it.is_ascii_alphabetic() || it == '_' || it == ':';
    name.starts_with(is_letter) && name.chars().all(|it| is_letter(it) || it.is_ascii_digit())
}

/// As Prometheus writes numbers.
fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "NaN" => Some(f64::NAN),
        _ => text.parse().ok().filter(|_| text.starts_with(|it: char| it.is_ascii_digit() || it == '-')),
    }
}
