//! What the engine's thread tells its process.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc::WeakUnboundedSender;

use super::check::Ticket;
use super::thread::Command;
use super::{CLOSED_BY_HOST, Process};
use crate::engine::active::ActiveConfig;

impl Process {
    /// The thread was stopped; it may have been started again since.
    pub(super) fn stopped(&self, active: &ActiveConfig) {
        let _control = self.control();
        if !self.is_running() {
            active.leave_role(self.pid);
        }
    }

    /// Checks of the thread that was lost have their result now: nobody else would ever end them.
    pub(super) fn lost(&self, engine: &WeakUnboundedSender<Command>) {
        let mut control = self.control();
        let is_current = match (&control.commands, engine.upgrade()) {
            (Some(commands), Some(lost)) => commands.same_channel(&lost),
            _ => false,
        };
        if !is_current {
            return;
        }
        control.commands = None;
        control.start_error = Some(CLOSED_BY_HOST.to_owned());
        let checks = std::mem::take(&mut control.checks);
        self.running.store(false, Ordering::Release);
        drop(control);
        self.advance();
        for ticket in checks.iter().filter_map(Weak::upgrade) {
            Ticket::finish(&ticket, Err(format!("internal: {CLOSED_BY_HOST}")));
        }
    }

    /// Where the system allows no thread now, the next call that needs it tries again.
    pub(super) fn restart(&self) {
        if self.should_run() && self.ensure_running().is_ok() {
            self.log_restart();
        }
    }

    /// Commands are sent under the same lock: none is lost between the look and the end.
    pub(super) fn may_end(&self, is_idle: &dyn Fn() -> bool) -> bool {
        let mut control = self.control();
        let may = is_idle();
        if may {
            control.commands = None;
        }
        may
    }

    /// The host closed what the processes of a family share: this one goes on by itself.
    pub(super) fn detach(&self, active: &Arc<ActiveConfig>) {
        let mut control = self.control();
        let is_current = self
            .active
            .load()
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, active));
        if !is_current {
            return;
        }
        let Some(log) = self.log.load_full() else {
            return;
        };
        match ActiveConfig::detached(active, self.pid) {
            Ok(own) => {
                let own = Arc::new(own);
                self.active.store(Some(own.clone()));
                control.start_error = None;
                control.serve(own, log);
                drop(control);
                self.advance();
            }
            // The engine comes here again when it next makes sure of its role.
            Err(error) => {
                control.start_error = Some(format!("cannot get memory for verdicts: {error}"));
            }
        }
    }
}
