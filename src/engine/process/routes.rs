//! Routes for one filter, prepared for many users. The plan, which is the same for all of them, is made once
//! and again after a change.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Process, Start, current};
use crate::engine::active::{ActiveConfig, BackendServer, TimedPlan};
use crate::engine::routing::{Choice, Filter, NoRoute};
use crate::engine::verdicts::{CHOSEN_BY_HASH, CHOSEN_BY_SCRIPT, VerdictTable};
use crate::sys::cancellation::uncancelled;
use crate::sys::fork_mark::{ForkMark, pid};

/// The routes for one filter at one moment.
pub struct Routes {
    /// The engine's epoch; 0, which is never current, if the engine thread should run but does not.
    epoch: u64,
    active: Arc<ActiveConfig>,
    plan: TimedPlan,
}

/// Where a thread counts selections.
struct Counting {
    /// The engine's epoch when the table was found: with another one, the process or its
    /// configuration may be another.
    epoch: u64,
    table: Arc<VerdictTable>,
    pid: u64,
}

thread_local! {
    /// Finding the table anew for each request would cost more than the rest of a selection.
    static COUNTING: RefCell<Option<Counting>> = const { RefCell::new(None) };
}

/// Counts a server that a script or host has selected for a request. Nothing is counted without a
/// configuration.
pub fn count_selection() {
    let epoch = ForkMark::of_process().get();
    let count = |counting: &RefCell<Option<Counting>>| {
        let counting = counting.try_borrow().ok()?;
        let counting = counting.as_ref().filter(|c| c.epoch == epoch)?;
        counting
            .table
            .count_selection(counting.pid, CHOSEN_BY_SCRIPT);
        Some(())
    };
    // `try_with`: a Lua finaliser may run while the thread ends, after its values were destroyed.
    let counted = COUNTING.try_with(count).ok().flatten();
    if counted.is_none() {
        // The callers work on memory alone; this may make the engine of a forked process.
        uncancelled(count_at_new_place);
    }
}

#[cold]
fn count_at_new_place() {
    let process = current();
    // The epoch is read before the configuration: if another one is set in between, the epoch differs and
    // the next call finds the new table.
    let epoch = process.epoch();
    let Some(table) = process.active.load().as_ref().map(|a| a.table.clone()) else {
        return;
    };
    table.count_selection(process.pid, CHOSEN_BY_SCRIPT);
    let found = Counting {
        epoch,
        table,
        pid: process.pid,
    };
    let _ = COUNTING.try_with(|counting| {
        counting
            .try_borrow_mut()
            .map(|mut counting| counting.replace(found))
    });
}

impl Process {
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
