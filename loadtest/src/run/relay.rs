//! The bare relay in the proxy's place: started, and asked where it listens.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::fake::Fake;
use super::options::Options;
use super::proc::Process;
use crate::relay::Kind;
use crate::url::Url;

/// Until it listens.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub struct Relay {
    /// `ws://127.0.0.1:PORT`
    pub url: String,
    pub process: Process,
    pub log: PathBuf,
}

impl Relay {
    /// Starts this very program as `relay` in front of `fake`, with its files in `dir`.
    ///
    /// Errs when it does not listen in time.
    pub async fn start(kind: Kind, options: &Options, fake: &Fake, dir: &Path) -> io::Result<Self> {
        let (ready, log) = (dir.join("relay.ready"), dir.join("relay.log"));
        std::fs::remove_file(&ready).ok();
        let to = Url::parse(&fake.address.gateway).ok_or_else(|| io::Error::other("no URL of a fake Discord"))?;
        let pairs = options.shards * options.clients_per_shard;
        let mut words = vec!["relay".to_owned()];
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("kind", kind.name().to_owned());
        option("to", to.authority());
        option("pairs", pairs.to_string());
        option("ready-file", ready.display().to_string());
        if let Some(cores) = options.cores {
            option("cores", cores.to_string());
        }
        let mut process = Process::start(&super::program()?, &words, &[], &log)?;
        for _ in 0..START.as_millis() / POLL.as_millis() {
            if let Ok(address) = std::fs::read_to_string(&ready) {
                return Ok(Self { url: format!("ws://{address}"), process, log });
            }
            if process.exited().is_some() {
                break;
            }
            sleep(POLL).await;
        }
        Err(io::Error::other(format!("the relay did not start: {}", super::tail(&log))))
    }
}
