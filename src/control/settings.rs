//! From configuration, Discord's answer and the probed machine to what the runtime is told.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;

use super::config::{Config, SHARDS_MAX};
use super::keys::Refusal;
use super::rest::GatewayBot;
use crate::runtime::settings::{Backend, LiveSettings, RuntimeSettings, StorageSettings};
use crate::session::identify::Reserve;

/// Everything the runtime needs, but the cores' CPUs.
pub fn settings(
    config: &Config,
    bot: &GatewayBot,
    shards: Range<u32>,
    shard_count: u32,
    backend: Backend,
    log_bytes: usize,
) -> RuntimeSettings {
    RuntimeSettings {
        backend,
        cores: Vec::new(),
        listen: SocketAddr::new(config.bind, config.port),
        shards,
        shard_count,
        token: config.token.secret().to_owned(),
        intents: config.intents,
        presence: config.presence.clone(),
        gateway_url: bot.url.clone(),
        upstream_compression: config.upstream_compression,
        egress: config.egress_proxy.clone(),
        // The files are read by who watches them.
        client_tls: None,
        externally_accessible_url: config.externally_accessible_url.clone(),
        validate_token: config.validate_token,
        allow_compression: config.allow_compression,
        cache: config.cache,
        log_bytes,
        log_keep: config.log_keep,
        client_limits: config.client_limits,
        clients_max: config.clients_max,
        loads: HashMap::new(),
        storage: config.data_dir.clone().map(|data_dir| StorageSettings {
            data_dir,
            disk_bytes: config.disk_bytes,
            api_url: config.api_url.clone(),
        }),
    }
}

/// How many IDENTIFYs are never spent, with so many shards held.
pub fn reserve(config: &Config, held: u32) -> Reserve {
    config.identify_reserve.map_or(Reserve::ByShards(held), Reserve::Of)
}

/// What running cores are told after a reload; `clients_max` after the machine was measured against it.
pub fn live(config: &Config, log_bytes: usize, clients_max: usize) -> LiveSettings {
    LiveSettings {
        presence: config.presence.clone(),
        validate_token: config.validate_token,
        allow_compression: config.allow_compression,
        client_limits: config.client_limits,
        clients_max,
        log_bytes,
        log_keep: config.log_keep,
    }
}

/// How many shards there are when none is configured: as many as Discord recommends, or as many as there were before the restart
/// while that is within a factor of two. Discord's number moves by one with every thousand guilds, its limit is 2.5 times as far, and a
/// change costs every session.
pub fn shards_wanted(recommended: u32, before: Option<u32>) -> u32 {
    let recommended = recommended.clamp(1, SHARDS_MAX as u32);
    let near = |before: &u32| recommended <= before.saturating_mul(2) && *before <= recommended.saturating_mul(2);
    before.filter(near).unwrap_or(recommended)
}

/// The shards to hold, of how many in all. `wanted` counts where no number is configured.
///
/// Refuses when the configured range does not lie within the shards that there are.
pub fn shard_range(config: &Config, wanted: u32) -> Result<(Range<u32>, u32), Refusal> {
    let count = config.shards.unwrap_or(wanted);
    let end = config.shard_end.unwrap_or(count);
    let start = config.shard_start.unwrap_or(0);
    if end > count {
        return Err(Refusal::new("shard_end", end, format_args!("at most {count}, the number of shards")));
    }
    if start >= end {
        return Err(Refusal::new("shard_start", start, format_args!("less than {end}, where the range ends")));
    }
    Ok((start..end, count))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::config::{Environment, load};
    use crate::control::rest::SessionStartLimit;

    fn config(more: &str) -> Config {
        let json = format!(r#"{{"token":"invented","intents":513{more}}}"#);
        load(None, &Environment { config: Some(json), ..Environment::default() }).unwrap().config
    }

    fn range(more: &str, recommended: u32) -> Result<(Range<u32>, u32), String> {
        shard_range(&config(more), recommended).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn without_keys_all_recommended_shards_are_held() {
        assert_eq!(range("", 9), Ok((0..9, 9)));
        assert_eq!(shards_wanted(0, None), 1);
    }

    #[test]
    fn a_moved_recommendation_costs_no_session_until_it_is_far_away() {
        assert_eq!(shards_wanted(9, None), 9);
        assert_eq!((shards_wanted(10, Some(9)), shards_wanted(18, Some(9)), shards_wanted(5, Some(9))), (9, 9, 9));
        assert_eq!((shards_wanted(19, Some(9)), shards_wanted(4, Some(9))), (19, 4));
    }

    #[test]
    fn the_configured_number_goes_before_the_recommended_one() {
        assert_eq!(range(r#","shards":4"#, 9), Ok((0..4, 4)));
        assert_eq!(range(r#","shards":4,"shard_start":1,"shard_end":3"#, 9), Ok((1..3, 4)));
        assert_eq!(range(r#","shard_start":3"#, 9), Ok((3..9, 9)));
    }

    #[test]
    fn a_range_outside_the_recommended_number_is_refused() {
        let line = range(r#","shard_end":10"#, 9).unwrap_err();
        assert_eq!(line, "shard_end: found 10, wanted at most 9, the number of shards");
        let line = range(r#","shard_start":9"#, 9).unwrap_err();
        assert_eq!(line, "shard_start: found 9, wanted less than 9, where the range ends");
    }

    #[test]
    fn the_runtime_is_told_what_was_configured() {
        let limit = SessionStartLimit { total: 1000, remaining: 999, reset_after: Duration::ZERO, max_concurrency: 1 };
        let bot = GatewayBot { url: "ws://127.0.0.1:9".into(), shards: 2, session_start_limit: limit };
        let config = config(r#","bind":"::1","port":7,"log_seconds":60"#);
        let settings = settings(&config, &bot, 0..2, 2, Backend::Epoll, 7);
        assert_eq!(settings.listen, "[::1]:7".parse().unwrap());
        assert_eq!((settings.token.as_str(), settings.intents), ("invented", 513));
        assert_eq!((settings.gateway_url.as_str(), settings.shards), ("ws://127.0.0.1:9", 0..2));
        assert_eq!(settings.backend, Backend::Epoll);
        assert_eq!((settings.log_bytes, settings.log_keep), (7, Duration::from_secs(60)));
    }
}
