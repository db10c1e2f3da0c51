//! Starts a helper thread of the scheduler, such as the one that writes the state file. The system refuses a thread
//! while the user has as many as the limit allows, so a refused start is repeated later.

use std::io;
use std::time::{Duration, Instant};

use crate::engine::log::{Level, Line, Log};
use crate::sys::thread::explain_refusal;

/// The pause after a refusal.
const AGAIN: Duration = Duration::from_secs(1);

/// The tries to start one thread.
pub(super) struct ThreadStart {
    thread: &'static str,
    /// When the system refused the last try.
    refused: Option<Instant>,
}

impl ThreadStart {
    pub(super) fn new(thread: &'static str) -> Self {
        Self {
            thread,
            refused: None,
        }
    }

    /// Calls `start`, unless the system has refused the thread within the last second. The first of several
    /// refusals in a row is logged.
    pub(super) fn attempt<T>(
        &mut self,
        log: &Log,
        start: impl FnOnce() -> io::Result<T>,
    ) -> Option<T> {
        if self.refused.is_some_and(|at| at.elapsed() < AGAIN) {
            return None;
        }
        match start() {
            Ok(started) => {
                self.refused = None;
                Some(started)
            }
            Err(error) => {
                if self.refused.replace(Instant::now()).is_none() {
                    log.write(
                        Line::new(Level::Error, "thread_not_started")
                            .with("thread", self.thread)
                            .quoted("reason", &explain_refusal(&error)),
                    );
                }
                None
            }
        }
    }
}
