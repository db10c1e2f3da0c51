//! The thread that sleeps until any process sharing the table wakes the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::engine::verdicts::VerdictTable;
use crate::sys::thread::spawn_quiet;

const STACK: usize = 64 * 1024;

/// A thread that sleeps on the table's wake word, a futex, and notifies the engine thread.
pub(super) struct Notifier {
    pub notify: Arc<Notify>,
    stop: Arc<AtomicBool>,
    table: Arc<VerdictTable>,
}

impl Notifier {
    /// If no thread can be started, nothing notifies the scheduler. Reports are then handled at its
    /// next event or role check.
    pub(super) fn start(table: Arc<VerdictTable>) -> Self {
        let notifier = Self {
            notify: Arc::new(Notify::new()),
            stop: Arc::new(AtomicBool::new(false)),
            table,
        };
        let (notify, stop, table) = (
            notifier.notify.clone(),
            notifier.stop.clone(),
            notifier.table.clone(),
        );
        let spawned = spawn_quiet("nb-wake", STACK, move || {
            loop {
                let seen = table.wakes();
                if stop.load(Ordering::Acquire) {
                    break;
                }
                notify.notify_one();
                table.wait_for_wake(seen, Duration::from_secs(60));
            }
        });
        drop(spawned);
        notifier
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.table.wake_prober();
    }
}
