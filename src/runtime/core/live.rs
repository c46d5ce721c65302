//! New settings while the core runs: rules for clients, the bounds of the log, the presence.
//!
//! Connections stay as they are: who was let in stays, and a client's compression is what it asked for when it came. What may change is named in
//! `LiveSettings`; who decides that it changes is the control thread's.

use std::sync::Arc;
use std::time::Instant;

use super::Core;
use crate::runtime::net::Net;
use crate::runtime::settings::LiveSettings;

impl<N: Net> Core<N> {
    pub(super) fn on_settings(&mut self, now: Instant, live: &LiveSettings) {
        let mut shared = (*self.shared).clone();
        shared.rules.validate_token = live.validate_token;
        shared.rules.limits = live.client_limits;
        shared.allow_compression = live.allow_compression;
        shared.clients_max = live.clients_per_core(self.peers.len());
        let budget = live.log_budget(self.places.len(), shared.rules.shards.len());
        self.shared = Arc::new(shared);
        self.group.set_budget(now, budget);
        for at in 0..self.places.len() {
            let presence = live.presence_of(self.shard_id(at));
            self.group.shards[at].set_presence(now, presence);
            self.run_actions(now, at);
        }
    }
}
