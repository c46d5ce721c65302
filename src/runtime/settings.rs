//! What the runtime must be told before the first core starts. `control::config` fills it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::cache::CacheFlags;
use crate::session::client::ClientLimits;
use crate::shard::group::LogBudget;
use crate::wire::egress::EgressProxy;
use crate::wire::{Compression, ShardId};

/// Which kernel interface carries the sockets. `auto` has been decided by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    IoUring,
    Epoll,
}

/// One immutable value for the whole process, cloned to each core.
#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    pub backend: Backend,
    /// CPU numbers to pin to; one core thread each.
    pub cores: Vec<usize>,
    /// Where clients connect. Each core binds it with SO_REUSEPORT; port 0 is resolved before cores start.
    pub listen: SocketAddr,
    /// Shards held by this process, of `shard_count` in all.
    pub shards: Range<u32>,
    pub shard_count: u32,
    /// Without the prefix `Bot `.
    pub token: String,
    pub intents: u64,
    /// `d` of op 3 as JSON text, `{{shard}}` not replaced yet; `None` when neither activity nor status is configured.
    pub presence: Option<String>,
    /// From `/gateway/bot`, without query and without trailing slash.
    pub gateway_url: String,
    pub upstream_compression: Compression,
    /// Through which every connection to Discord goes.
    pub egress: Option<EgressProxy>,
    /// READY's `resume_gateway_url` to clients: `ws(s)://host[:port]`, no path, query or trailing slash.
    pub externally_accessible_url: String,
    /// Clients speak TLS; replaced later by `ToCore::ClientTls`.
    pub client_tls: Option<Arc<ServerConfig>>,
    pub validate_token: bool,
    /// False: `compress=` is ignored and clients get plain text.
    pub allow_compression: bool,
    pub cache: CacheFlags,
    /// The log of all shards together, in bytes.
    pub log_bytes: usize,
    /// Dispatches older than this are given back.
    pub log_keep: Duration,
    pub client_limits: ClientLimits,
    /// Clients' connections of all cores together.
    pub clients_max: usize,
    /// What shards cost the process before this one, by number; a shard that is not in it counts as the mean.
    pub loads: HashMap<u32, u64>,
    /// `None`: memory alone.
    pub storage: Option<StorageSettings>,
}

impl RuntimeSettings {
    /// The part that a reload may change.
    pub fn live(&self) -> LiveSettings {
        LiveSettings {
            presence: self.presence.clone(),
            validate_token: self.validate_token,
            allow_compression: self.allow_compression,
            client_limits: self.client_limits,
            clients_max: self.clients_max,
            log_bytes: self.log_bytes,
            log_keep: self.log_keep,
        }
    }
}

/// What may change while the cores run; each means what it means in `RuntimeSettings`.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveSettings {
    pub presence: Option<String>,
    pub validate_token: bool,
    pub allow_compression: bool,
    pub client_limits: ClientLimits,
    pub clients_max: usize,
    pub log_bytes: usize,
    pub log_keep: Duration,
}

impl LiveSettings {
    /// `d` of op 3 for one shard.
    pub fn presence_of(&self, shard: ShardId) -> Option<String> {
        self.presence.as_ref().map(|it| it.replace("{{shard}}", &shard.to_string()))
    }

    /// Sockets of clients on one of so many cores.
    pub fn clients_per_core(&self, cores: usize) -> usize {
        self.clients_max.div_ceil(cores.max(1))
    }

    /// What a core that holds so many of all shards may keep.
    pub fn log_budget(&self, held: usize, of: usize) -> LogBudget {
        let share = held as f64 / of.max(1) as f64;
        LogBudget { bytes: (self.log_bytes as f64 * share) as usize, keep: self.log_keep }
    }
}

/// What survives the process.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// An existing folder that can be written.
    pub data_dir: PathBuf,
    /// All files together.
    pub disk_bytes: u64,
    /// What is stored belongs to the bot as this API knows it.
    pub api_url: String,
}
