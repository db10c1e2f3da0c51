//! Routes for one filter, prepared for many users: what is the same for all of them is read once, and
//! again when something of it has changed.

use std::sync::Arc;

use super::{Process, Start};
use crate::engine::active::{ActiveConfig, BackendServer, TimedPlan};
use crate::engine::routing::{Choice, Filter, NoRoute};
use crate::engine::verdicts::{CHOSEN_BY_HASH, CHOSEN_BY_SCRIPT};
use crate::sys::fork_mark::{ForkMark, pid};

/// The routes for one filter at one moment.
pub struct Routes {
    /// The engine's epoch; 0, which is never current, if the engine thread should run but does not.
    epoch: u64,
    active: Arc<ActiveConfig>,
    plan: TimedPlan,
}

impl Process {
    /// Counts a server that a script or host has selected for a request.
    pub fn count_selection(&self) {
        if let Some(active) = self.active.load().as_ref() {
            active.table.count_selection(self.pid, CHOSEN_BY_SCRIPT);
        }
    }

    /// Prepares routes. `None` without a configuration.
    pub fn routes(&self, filter: &Filter, start: Start) -> Option<Routes> {
        self.start_if(start);
        loop {
            let epoch = self.epoch();
            let active = self.active(Start::Forbidden)?;
            let plan = active.plan(filter);
            let is_lasting = self.is_running() || !self.should_run();
            if !is_lasting || self.epoch() == epoch {
                return Some(Routes {
                    epoch: if is_lasting { epoch } else { 0 },
                    active,
                    plan,
                });
            }
        }
    }
}

impl Routes {
    /// Identifies configuration and process; 0 if the routes are never current.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether routes that are prepared now would be the same. Makes no system call.
    pub fn is_current(&self) -> bool {
        let is_ours = self.epoch != 0 && ForkMark::of_process().get() == self.epoch;
        is_ours && self.active.is_current(&self.plan)
    }

    /// Whether users are bound to nodes in a store, so that these routes do not say where they are.
    pub fn has_store(&self) -> bool {
        self.active.config.cluster.is_some()
    }

    /// Whether no node has all of its vital targets alive.
    pub fn is_degraded(&self) -> bool {
        self.plan.plan.is_degraded()
    }

    /// The server of a user. Counts the route, or why there is none.
    ///
    /// # Errors
    /// Why there is none.
    pub fn route(&self, user: &[u8]) -> Result<Choice, NoRoute> {
        let choice = self.active.choose(&self.plan, user);
        match &choice {
            Ok(_) => self.active.table.count_selection(pid(), CHOSEN_BY_HASH),
            Err(why) => self.active.table.count_refusal(why.text()),
        }
        choice
    }

    /// The server object of a target, by its index in the configuration.
    pub fn server(&self, target: usize) -> Option<BackendServer> {
        self.active.server(target)
    }
}
