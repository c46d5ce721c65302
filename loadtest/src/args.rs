//! Command-line options in the form `--name value` or `--name`, checked against a list.
//!
//! No short options, no sub-commands: those are three lines in `main`.

use std::collections::HashMap;
use std::str::FromStr;

/// One option: its name without dashes, the name of its value (`None` for a switch), its help line.
pub type Spec = (&'static str, Option<&'static str>, &'static str);

/// The options given on a command line, all of them known.
#[derive(Debug, Default)]
pub struct Args(HashMap<&'static str, String>);

impl Args {
    /// Reads `words` by `specs`. Errs with one line that names the option.
    pub fn parse(words: &[String], specs: &[Spec]) -> Result<Self, String> {
        let mut found = HashMap::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let name = name.strip_prefix("--").ok_or_else(|| format!("unexpected argument {word:?}"))?;
            let (name, value, _) =
                specs.iter().find(|it| it.0 == name).ok_or_else(|| format!("unknown option --{name}"))?;
            let value = match (value, inline) {
                (None, None) => String::new(),
                (None, Some(_)) => return Err(format!("--{name} takes no value")),
                (Some(_), Some(value)) => value,
                (Some(kind), None) => words.next().cloned().ok_or_else(|| format!("--{name} needs {kind}"))?,
            };
            found.insert(*name, value);
        }
        Ok(Self(found))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of `name` read as `T`, or `default`. Errs naming option and value.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{name}: cannot read {text:?}")),
        }
    }
}

/// The help text of a command.
pub fn usage(command: &str, about: &str, specs: &[Spec]) -> String {
    let mut text = format!("loadtest {command}: {about}\n\n");
    for (name, value, help) in specs {
        let option = format!("--{name} {}", value.unwrap_or(""));
        text.push_str(&format!("  {option:<34} {help}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[Spec] = &[("shards", Some("N"), ""), ("tls", None, "")];

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::parse(&words.iter().map(|it| it.to_string()).collect::<Vec<_>>(), SPECS)
    }

    #[test]
    fn values_come_after_a_space_or_an_equals_sign() {
        assert_eq!(parse(&["--shards", "3"]).unwrap().get("shards", 1), Ok(3));
        assert_eq!(parse(&["--shards=4", "--tls"]).unwrap().get("shards", 1), Ok(4));
        assert_eq!(parse(&[]).unwrap().get("shards", 1), Ok(1));
    }

    #[test]
    fn what_is_unknown_or_unreadable_is_an_error() {
        assert!(parse(&["--shard", "3"]).is_err());
        assert!(parse(&["--shards"]).is_err());
        assert!(parse(&["--tls=yes"]).is_err());
        assert!(parse(&["--shards", "x"]).unwrap().get("shards", 1).is_err());
    }
}
