//! The settings of `loadtest client` and their names on the command line.

use std::path::Path;

use super::Settings;
use crate::args::{Args, Spec};
use crate::compress::Compression;
use crate::judge::Terms;
use crate::tls;

/// Every intent that is documented for bots.
pub const INTENTS: u64 = 53_608_447;

pub const SPECS: &[Spec] = &[
    ("url", Some("URL"), "the gateway, default ws://127.0.0.1:7878"),
    ("shard", Some("N"), "default 0"),
    ("shards", Some("N"), "default 1"),
    ("compress", Some("NAME"), "none, zlib-stream or zstd-stream, default none"),
    ("token", Some("TEXT"), "default fake"),
    ("intents", Some("N"), "default all that are documented"),
    ("parse-every", Some("N"), "parse every N-th event whole, default 1"),
    ("seconds", Some("N"), "leave after this long, default when interrupted"),
    ("roots", Some("PEM"), "certificates to trust, for wss"),
    ("allow-op9", None, "losing the session is no finding"),
];

/// Errs with one line that names the option.
pub fn settings(args: &Args) -> Result<Settings, String> {
    let compression = args.get("compress", Compression::None)?;
    let roots = args.text("roots").map(|it| tls::roots_from(Path::new(it))).transpose().map_err(|it| it.to_string())?;
    Ok(Settings {
        url: args.get("url", "ws://127.0.0.1:7878".to_owned())?,
        roots: roots.flatten(),
        shards: args.get("shards", 1)?,
        compression,
        token: args.get("token", "fake".to_owned())?,
        intents: args.get("intents", INTENTS)?,
        terms: Terms {
            shard: args.get("shard", 0)?,
            is_binary: compression != Compression::None,
            parse_every: args.get("parse-every", 1u64)?.max(1),
            first_counter: None,
            may_lose_session: args.has("allow-op9"),
            guilds_stay: false,
            may_lose_snapshot: false,
        },
        beats_at_once: true,
        heartbeat_ms_max: u64::MAX,
        receive_buffer_bytes: None,
    })
}
