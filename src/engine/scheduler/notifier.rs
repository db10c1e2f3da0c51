//! The thread that sleeps until somebody, in whatever process, wakes the prober.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::engine::verdicts::VerdictTable;
use crate::sys::thread::spawn_quiet;

const STACK: usize = 64 * 1024;

/// A thread that sleeps on the table's wake word and rings a bell in the runtime.
pub(super) struct Waker {
    pub bell: Arc<Notify>,
    stop: Arc<AtomicBool>,
    table: Arc<VerdictTable>,
}

impl Waker {
    /// Without a thread to spare the bell stays silent: reports are then seen when the
    /// prober next looks.
    pub(super) fn start(table: Arc<VerdictTable>) -> Self {
        let waker = Self {
            bell: Arc::new(Notify::new()),
            stop: Arc::new(AtomicBool::new(false)),
            table,
        };
        let (bell, stop, table) = (waker.bell.clone(), waker.stop.clone(), waker.table.clone());
        let spawned = spawn_quiet("nb-wake", STACK, move || {
            loop {
                let seen = table.wakes();
                if stop.load(Ordering::Acquire) {
                    break;
                }
                bell.notify_one();
                table.wait_for_wake(seen, Duration::from_secs(60));
            }
        });
        drop(spawned);
        waker
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.table.wake_prober();
    }
}
