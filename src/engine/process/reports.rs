//! What the engine's thread tells its process.

use std::sync::Arc;

use super::current;
use super::thread::Reports;
use crate::engine::active::ActiveConfig;

pub(super) const REPORTS: Reports = Reports {
    detach,
    stopped,
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
    let control = process.control();
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
    if let Ok(own) = ActiveConfig::detached(active, process.pid) {
        let own = Arc::new(own);
        process.active.store(Some(own.clone()));
        control.serve(own, log);
        drop(control);
        process.advance();
    }
}
