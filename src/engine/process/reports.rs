//! What the engine's thread tells its process.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc::WeakUnboundedSender;

use super::check::Ticket;
use super::thread::{Command, Reports};
use super::{CLOSED_BY_HOST, current};
use crate::engine::active::ActiveConfig;

pub(super) const REPORTS: Reports = Reports {
    detach,
    stopped,
    lost,
    restart,
    may_end,
};

/// The thread was stopped; it may have been started again since.
fn stopped(active: &ActiveConfig) {
    let process = current();
    let _control = process.control();
    if !process.is_running() {
        active.leave_role(process.pid);
    }
}

/// Checks of the thread that was lost have their result now: nobody else would ever end them.
fn lost(engine: &WeakUnboundedSender<Command>) {
    let process = current();
    let mut control = process.control();
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
    process.running.store(false, Ordering::Release);
    drop(control);
    process.advance();
    for ticket in checks.iter().filter_map(Weak::upgrade) {
        Ticket::finish(&ticket, Err(format!("internal: {CLOSED_BY_HOST}")));
    }
}

/// Where the system allows no thread now, the next call that needs it tries again.
fn restart() {
    let process = current();
    if process.should_run() && process.ensure_running().is_ok() {
        process.log_restart();
    }
}

/// Commands are sent under the same lock: none is lost between the look and the end.
fn may_end(is_idle: &dyn Fn() -> bool) -> bool {
    let process = current();
    let mut control = process.control();
    let may = is_idle();
    if may {
        control.commands = None;
    }
    may
}

/// The host closed what the processes of a family share: this one goes on by itself.
fn detach(active: &Arc<ActiveConfig>) {
    let process = current();
    let mut control = process.control();
    let is_current = process
        .active
        .load()
        .as_ref()
        .is_some_and(|now| Arc::ptr_eq(now, active));
    if !is_current {
        return;
    }
    let Some(log) = process.log.load_full() else {
        return;
    };
    match ActiveConfig::detached(active, process.pid) {
        Ok(own) => {
            let own = Arc::new(own);
            process.active.store(Some(own.clone()));
            control.start_error = None;
            control.serve(own, log);
            drop(control);
            process.advance();
        }
        // The engine comes here again when it next makes sure of its role.
        Err(error) => {
            control.start_error = Some(format!("cannot get memory for verdicts: {error}"));
        }
    }
}
