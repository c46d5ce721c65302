//! What a start waits for: Discord's first answer about the gateway, or the kept one. Meanwhile the operator's pages say so.
//!
//! Not here: asking (`rest`), and what the answers mean for shards and limits (`settings`, `coordinator`).

#![forbid(unsafe_code)]

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tracing::{info, warn};

use super::keys::Refusal;
use super::ledger::KeptGateway;
use super::rest::{Asking, Endpoint, GatewayBot};
use super::{pages, rng};
use crate::runtime::clock;
use crate::runtime::mesh::ToControl;

/// With an answer of Discord's from before the restart at hand, the new one is waited for no longer than this: clients' sessions
/// wait as well.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// While Discord has not answered, how often that is looked for; a signal is heard at once.
const FIRST_ANSWER_POLL: Duration = Duration::from_millis(5);

/// What the process starts with.
pub struct FirstAnswer {
    pub bot: GatewayBot,
    /// The question goes on: `bot` is from before the restart.
    pub asking: Option<Asking>,
    /// A SIGHUP came meanwhile.
    pub is_reload_asked: bool,
}

/// Waits for Discord's first answer, or takes the one from before the restart when REST fails or is slow: an outage of REST must not
/// keep sessions down that could be resumed. `None` when a signal came first.
pub fn wait(
    endpoint: &Endpoint,
    mail: &mpsc::Receiver<ToControl>,
    kept: Option<&KeptGateway>,
) -> Result<Option<FirstAnswer>, Refusal> {
    let mut asking = endpoint.ask_until_answered(rng());
    let patience = clock::now() + ANSWER_PATIENCE;
    let mut is_reload_asked = false;
    loop {
        if let Some(answer) = asking.poll() {
            return answer.map(|bot| Some(FirstAnswer { bot, asking: None, is_reload_asked })).map_err(Refusal::of);
        }
        if let Some(kept) = kept.filter(|_| asking.failed().is_some() || clock::now() >= patience) {
            let why = asking.failed().unwrap_or("slow").to_owned();
            warn!(why, age = ?kept.age, "REST does not answer: starting with its answer from before, and asking on");
            return Ok(Some(FirstAnswer { bot: kept.bot.clone(), asking: Some(asking), is_reload_asked }));
        }
        match mail.recv_timeout(FIRST_ANSWER_POLL) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(ToControl::Reload) => {
                info!("SIGHUP: once shards connect the configuration is read again");
                is_reload_asked = true;
            }
            Ok(ToControl::Page { requester, request, .. }) => pages::answer_early(requester, &request),
            // There is nothing to count yet.
            Ok(ToControl::WriteTotals) => warn!("SIGUSR2: no shard is connected yet"),
            // No core runs yet, so the only other mail there can be is the signal to stop.
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}
