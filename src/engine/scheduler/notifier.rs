//! The thread that sleeps until any process sharing the table wakes the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::thread_start::ThreadStart;
use crate::engine::log::Log;
use crate::engine::verdicts::VerdictTable;
use crate::sys::thread::spawn_quiet;

const THREAD: &str = "nb-wake";
const STACK: usize = 64 * 1024;

/// A thread that sleeps on the table's wake word, a futex, and notifies the engine thread.
pub(super) struct Notifier {
    pub notify: Arc<Notify>,
    stop: Arc<AtomicBool>,
    table: Arc<VerdictTable>,
    is_running: bool,
    start: ThreadStart,
}

impl Notifier {
    pub(super) fn begin(table: Arc<VerdictTable>, log: &Log) -> Self {
        let mut notifier = Self {
            notify: Arc::new(Notify::new()),
            stop: Arc::new(AtomicBool::new(false)),
            table,
            is_running: false,
            start: ThreadStart::new(THREAD),
        };
        notifier.start(log);
        notifier
    }

    /// Starts the thread, unless it runs or the system has just refused it. Without it nothing notifies the
    /// scheduler: reports are then handled at its next event or role check.
    pub(super) fn start(&mut self, log: &Log) {
        if self.is_running {
            return;
        }
        let (notify, stop, table) = (self.notify.clone(), self.stop.clone(), self.table.clone());
        let run = move || {
            loop {
                let seen = table.wakes();
                if stop.load(Ordering::Acquire) {
                    break;
                }
                notify.notify_one();
                table.wait_for_wake(seen, Duration::from_secs(60));
            }
        };
        let started = self.start.attempt(log, || spawn_quiet(THREAD, STACK, run));
        self.is_running = started.is_some();
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.table.wake_prober();
    }
}
