//! The callbacks of the engine thread: [`super::command::Reports`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc::WeakUnboundedSender;

use super::Process;
use super::check::Ticket;
use super::command::Command;
use crate::engine::active::ActiveConfig;
use crate::engine::log::{Level, Line};

/// Why the engine thread has ended.
const CLOSED_BY_HOST: &str = "the host closed the descriptors of the engine, which starts again";

impl Process {
    /// The engine thread has stopped probing after [`Command::Stop`]. Gives the role back, unless the engine
    /// was started again since: giving it back then would end the new start's probing.
    pub(super) fn stopped(&self, active: &ActiveConfig) {
        let _control = self.control();
        if !self.is_running() {
            active.leave_role(self.pid);
        }
    }

    /// The engine thread sleeps for ever, because the host has closed its descriptors. Its checks fail now:
    /// no other thread would ever finish them, and their callers would wait for ever.
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

    /// Starts another thread. Where the system refuses one, the next call that needs it tries
    /// again.
    pub(super) fn restart(&self) {
        if self.should_run() && self.ensure_running().is_ok() {
            self.log_restart();
        }
    }

    /// Whether the thread may end. Commands are sent under the same lock, so that none can arrive
    /// between the check and the end and be lost.
    pub(super) fn may_end(&self, is_idle: &dyn Fn() -> bool) -> bool {
        let mut control = self.control();
        let may = is_idle();
        if may {
            control.commands = None;
        }
        may
    }

    /// The host has closed the descriptor of the table's lock. This process goes on in a table of its own.
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
            // The engine thread tries again with its next role check.
            Err(error) => {
                control.start_error = Some(format!("cannot get memory for verdicts: {error}"));
            }
        }
    }

    fn log_restart(&self) {
        if let Some(log) = self.log.load_full() {
            log.write(
                Line::new(Level::Warning, "engine_restarted").quoted("reason", CLOSED_BY_HOST),
            );
        }
    }
}
