//! `ordinal` and `shards_per_process`: the range of shards by the number of this process among equals, for whatever starts the same program with the
//! same file several times, as Kubernetes' StatefulSet does.
//!
//! They say no more than `shard_start` and `shard_end`, which is what becomes of them.

use super::Config;
use super::sources::Values;
use crate::control::keys::{Found, Refusal};

const WANTED: &str = "a number from 0, or a name that ends in one such as \"shardgate-2\"";

/// A number, or the name of a pod: what follows its last `-`.
pub fn ordinal(found: &Found<'_>) -> Result<u32, Refusal> {
    let digits = match found.value() {
        serde_json::Value::Number(number) => number.to_string(),
        _ => found.text(WANTED)?.rsplit('-').next().unwrap_or_default().to_owned(),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).ok_or_else(|| found.refuse(WANTED))
}

/// Sets the range. All processes must agree on the number of shards, so it cannot be Discord's recommendation, which changes.
pub fn join(values: &Values, config: &mut Config) -> Result<(), Refusal> {
    let refuse = |key: &str, found: &str, wanted: &str| {
        // A variable or a flag is named as it was given.
        let name = values.get(key).map_or(key.to_owned(), |found| found.key().to_owned());
        Err(values.told(key, Refusal::new(&name, found, wanted)))
    };
    let (ordinal, each) = match (config.ordinal, config.shards_per_process) {
        (None, None) => return Ok(()),
        (Some(ordinal), Some(each)) => (ordinal, each),
        (Some(_), None) => return refuse("shards_per_process", "nothing", "a number of shards, beside `ordinal`"),
        (None, Some(_)) => {
            return refuse("ordinal", "nothing", "the number of this process, beside `shards_per_process`");
        }
    };
    for (key, value) in [("shard_start", config.shard_start), ("shard_end", config.shard_end)] {
        if value.is_some() {
            return refuse(key, "a number", "nothing beside `ordinal`, which gives the range");
        }
    }
    let Some(shards) = config.shards else {
        return refuse("shards", "nothing", "the number of shards of the whole bot, beside `ordinal`");
    };
    let start = u64::from(ordinal) * u64::from(each);
    let end = (start + u64::from(each)).min(shards.into());
    if start >= u64::from(shards) {
        let found = ordinal.to_string();
        let last = (shards - 1) / each;
        return refuse("ordinal", &found, &format!("at most {last}: that process holds the last of {shards} shards"));
    }
    (config.shard_start, config.shard_end) = (Some(start as u32), Some(end as u32));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::control::config::{Environment, load};

    /// What `shard_start` and `shard_end` become with more keys in the file and these variables.
    fn range(more: &str, variables: &[(&str, &str)]) -> Result<(Option<u32>, Option<u32>), String> {
        let environment = Environment {
            config: Some(format!(r#"{{"token":"invented","intents":513{more}}}"#)),
            variables: variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            ..Environment::default()
        };
        let loaded = load(None, &environment).map_err(|refusal| refusal.to_string())?;
        Ok((loaded.config.shard_start, loaded.config.shard_end))
    }

    #[test]
    fn each_process_holds_its_part_and_the_last_one_what_is_left() {
        let part = |ordinal: &str| range(r#","shards":7,"shards_per_process":3"#, &[("SHARDGATE_ORDINAL", ordinal)]);
        assert_eq!(part("0"), Ok((Some(0), Some(3))));
        assert_eq!(part("bot-1-shardgate-1"), Ok((Some(3), Some(6))));
        assert_eq!(part("shardgate-2"), Ok((Some(6), Some(7))));
        assert_eq!(range(r#","shards":7,"shards_per_process":3,"ordinal":1"#, &[]), Ok((Some(3), Some(6))));
        assert_eq!(range("", &[]), Ok((None, None)));
    }

    #[test]
    fn a_process_too_many_is_told_so() {
        let line = range(r#","shards":7,"shards_per_process":3,"ordinal":"p-3""#, &[]).unwrap_err();
        assert_eq!(line, "CONFIG: ordinal: found 3, wanted at most 2: that process holds the last of 7 shards");
    }

    #[test]
    fn a_variable_is_named_as_it_was_given() {
        let variables = [("SHARDGATE_ORDINAL", "p-3")];
        let line = range(r#","shards":3,"shards_per_process":1"#, &variables).unwrap_err();
        assert!(line.starts_with("SHARDGATE_ORDINAL: found 3, wanted at most 2"), "{line}");
    }

    #[test]
    fn what_is_missing_or_contradicts_is_refused() {
        let refusal = |more: &str| range(more, &[]).unwrap_err();
        assert!(refusal(r#","shards":7,"ordinal":1"#).contains("shards_per_process: found nothing"));
        assert!(refusal(r#","shards":7,"shards_per_process":1"#).contains("ordinal: found nothing"));
        assert!(refusal(r#","ordinal":1,"shards_per_process":1"#).contains("shards: found nothing"));
        let both = r#","shards":7,"ordinal":1,"shards_per_process":1,"shard_end":3"#;
        assert!(refusal(both).contains("shard_end: found a number, wanted nothing beside `ordinal`"));
        for ordinal in ["\"shardgate\"", "\"shardgate-\"", "-1", "1.5", "\"+1\"", "\"\"", "99999999999"] {
            let line = refusal(&format!(r#","shards":7,"shards_per_process":1,"ordinal":{ordinal}"#));
            assert!(line.contains("ordinal: found ") && line.contains("shardgate-2"), "{line}");
        }
    }
}
