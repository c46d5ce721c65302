//! What goes wrong in the middle of a run.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::fake::Fake;
use super::proxy::Death;
use crate::client::{Client, Order};

/// Events that happen on each shard while Discord's connections are down.
const DROPPED_EVENTS: u32 = 1000;
/// What happens on the shard of a client that does not read, in this many parts. About 8 MB, more than sockets hold.
const STALLED_BURSTS: u32 = 10;
const STALLED_EVENTS: u32 = 1000;
/// How long clients are gone in a deploy: at most this, each its own time.
const DEPLOY: Duration = Duration::from_millis(1500);
const AWAY: Duration = Duration::from_secs(2);
pub const STALLED_CLIENTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing goes wrong.
    Steady,
    /// All clients cut their connections and come back with RESUME.
    Deploy,
    /// One client is gone for two seconds.
    Away,
    /// Discord cuts every shard, and a thousand events happen on each before it can RESUME.
    Drop,
    /// Two clients stop reading while much happens on their shards.
    Stalled,
    /// The proxy gets SIGTERM and is started again.
    Restart,
    /// The proxy gets SIGKILL and is started again.
    Kill,
}

impl Scenario {
    /// The scenarios that a name stands for; `None` for a name that is none.
    pub fn named(name: &str) -> Option<Vec<Self>> {
        if name == "all" {
            return Some(vec![
                Self::Steady,
                Self::Deploy,
                Self::Away,
                Self::Drop,
                Self::Stalled,
                Self::Restart,
                Self::Kill,
            ]);
        }
        let all = Self::named("all")?;
        all.into_iter().find(|it| it.name() == name).map(|it| vec![it])
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Deploy => "deploy",
            Self::Away => "away",
            Self::Drop => "drop",
            Self::Stalled => "stalled",
            Self::Restart => "restart",
            Self::Kill => "kill",
        }
    }

    /// The clients that are measured apart, since they are the ones to suffer.
    pub fn is_apart(self, client: usize) -> bool {
        match self {
            Self::Away => client == 0,
            Self::Stalled => client < STALLED_CLIENTS,
            _ => false,
        }
    }

    /// RESUMEs that clients must make.
    pub fn client_resumes(self, clients: u64) -> u64 {
        match self {
            Self::Deploy | Self::Restart | Self::Kill => clients,
            Self::Away => 1,
            _ => 0,
        }
    }

    /// RESUMEs that must reach Discord.
    pub fn upstream_resumes(self, shards: u32) -> u64 {
        if matches!(self, Self::Drop | Self::Restart | Self::Kill) { shards.into() } else { 0 }
    }

    /// How the proxy ends, to be started again.
    pub fn death(self) -> Option<Death> {
        match self {
            Self::Restart => Some(Death::Terminated),
            Self::Kill => Some(Death::Killed),
            _ => None,
        }
    }

    /// Makes it happen, all but `death`. `quiet` is how long a stalled client reads nothing.
    pub async fn perform(self, clients: &[Rc<Client>], fake: &Fake, quiet: Duration, seed: u64) -> std::io::Result<()> {
        match self {
            Self::Steady | Self::Restart | Self::Kill => {}
            Self::Deploy => {
                let mut rng = Rng::with_seed(seed);
                clients.iter().for_each(|it| it.order(Order::Away(DEPLOY.mul_f64(rng.f64()))));
            }
            Self::Away => clients[0].order(Order::Away(AWAY)),
            Self::Drop => {
                fake.post(&format!("drop?shard=all&events={DROPPED_EVENTS}")).await?;
            }
            Self::Stalled => {
                let stalled = &clients[..STALLED_CLIENTS.min(clients.len())];
                stalled.iter().for_each(|it| it.order(Order::StopReading(quiet)));
                for _ in 0..STALLED_BURSTS {
                    for client in stalled {
                        let shard = client.settings.terms.shard;
                        fake.post(&format!("burst?shard={shard}&events={STALLED_EVENTS}")).await?;
                    }
                    sleep(quiet / (STALLED_BURSTS + 2)).await;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::named("all").unwrap() {
            assert_eq!(Scenario::named(scenario.name()), Some(vec![scenario]));
        }
        assert_eq!(Scenario::named("nothing"), None);
    }
}
