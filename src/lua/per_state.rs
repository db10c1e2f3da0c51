//! What belongs to one Lua state, until it is closed.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::given_lists::GivenList;
use crate::engine::active::ActiveConfig;
use crate::engine::process::current;
use crate::sys::fork_mark::pid;

#[derive(Default)]
pub(super) struct PerState {
    /// The list of servers that the state got last.
    pub list: RefCell<GivenList>,
    /// The configurations that the state has given to a process from which others are forked.
    configured: RefCell<Vec<Given>>,
}

/// A configuration, and the id of the process that it was given to.
struct Given {
    to: u64,
    active: Weak<ActiveConfig>,
}

impl PerState {
    pub(super) fn note_configured(&self, active: &Arc<ActiveConfig>) {
        let given = Given {
            to: pid(),
            active: Arc::downgrade(active),
        };
        self.configured.borrow_mut().push(given);
    }
}

impl Drop for PerState {
    /// nginx's master closes the state of a reload that it refuses, and after a reload the state of before.
    fn drop(&mut self) {
        for Given { to, active } in self.configured.take().iter().rev() {
            // The state was copied when nginx forked a worker, and that worker closes its copy when it ends: this
            // says nothing about the master's configuration.
            if *to != pid() {
                continue;
            }
            if let Some(active) = active.upgrade() {
                current().give_up(&active);
            }
        }
    }
}
