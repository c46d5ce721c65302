//! The settings of `loadtest report`, `floor` and `compare`, and their names on the command line.

use std::path::PathBuf;

use crate::args::{Args, Spec};

pub const REPORT_SPECS: &[Spec] = &[
    ("html", Some("FILE"), "write the page there"),
    ("json", Some("FILE"), "write the figures there, for `compare`"),
    ("from", Some("FILE"), "measure nothing: make the page of a JSON that was written before"),
    ("quick", None, "some four minutes instead of twenty-five: short runs, once each, encodings at one rate alone"),
    ("repeats", Some("N"), "runs of everything, in turn; default 3, quick: 1"),
    ("seconds", Some("N"), "of traffic at each rate, default 5, quick: 2"),
    ("rate", Some("N"), "events per second over all shards, several with commas; default 2000,10000,60000,100000"),
    ("shards", Some("N"), "default 225"),
    ("only", Some("NAMES"), "of the setups, those whose names begin so, with commas between"),
    ("proxy", Some("PATH"), "the proxy's binary; default: build it in release mode"),
    ("cores", Some("N"), "the proxy's and the relays'; default all"),
];

pub const FLOOR_SPECS: &[Spec] = &[
    ("rate", Some("N"), "events per second over all shards, several with commas; default 2000,10000,60000,100000"),
    ("repeats", Some("N"), "runs of everything, in turn; default 3"),
    ("seconds", Some("N"), "of traffic at each rate, default 5"),
    ("shards", Some("N"), "default 225"),
    ("json", Some("FILE"), "write the figures there, for `compare`"),
    ("proxy", Some("PATH"), "the proxy's binary; default: build it in release mode"),
    ("cores", Some("N"), "the proxy's and the relays'; default all"),
];

/// Events per second over all shards, where nothing else is asked for.
pub(super) const RATES: [u32; 4] = [2_000, 10_000, 60_000, 100_000];

#[derive(Clone, Debug)]
pub struct Options {
    pub html: Option<PathBuf>,
    pub json: Option<PathBuf>,
    pub from: Option<PathBuf>,
    pub is_quick: bool,
    pub repeats: u32,
    pub seconds: u64,
    pub rates: Vec<u32>,
    pub shards: u32,
    /// Beginnings of names; empty: everything.
    pub only: Vec<String>,
    pub proxy: Option<PathBuf>,
    pub cores: Option<u32>,
}

impl Options {
    /// For `report` and `floor`. Errs with one line that names the option.
    pub fn from_args(args: &Args) -> Result<Self, String> {
        let is_quick = args.has("quick");
        let words = |name: &str| args.text(name).map(|it| it.split(',').map(str::to_owned).collect::<Vec<_>>());
        let rates = words("rate").map_or(Ok(RATES.to_vec()), |words| {
            let rate = |word: &String| word.parse::<u32>().ok().filter(|it| *it > 0);
            words.iter().map(|it| rate(it).ok_or_else(|| format!("--rate: cannot read {it:?}"))).collect()
        })?;
        let options = Self {
            html: args.text("html").map(PathBuf::from),
            json: args.text("json").map(PathBuf::from),
            from: args.text("from").map(PathBuf::from),
            is_quick,
            repeats: args.get("repeats", if is_quick { 1 } else { 3 })?,
            seconds: args.get("seconds", if is_quick { 2 } else { 5 })?,
            rates,
            shards: args.get("shards", 225)?,
            only: words("only").unwrap_or_default(),
            proxy: args.text("proxy").map(PathBuf::from),
            cores: args.text("cores").map(|_| args.get("cores", 1)).transpose()?,
        };
        if options.repeats == 0 || options.seconds == 0 || options.shards == 0 {
            return Err("--repeats, --seconds and --shards must be at least 1".to_owned());
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_one_by_one() {
        let options = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|it| it.to_string()).collect();
            Options::from_args(&Args::parse(&words, FLOOR_SPECS).unwrap())
        };
        assert_eq!(options(&["--rate", "500,7"]).unwrap().rates, [500, 7]);
        assert_eq!(options(&[]).unwrap().rates, RATES);
        assert!(options(&["--rate", "5,x"]).unwrap_err().contains("--rate"));
        assert!(options(&["--rate", "0"]).is_err() && options(&["--repeats", "0"]).is_err());
    }
}
