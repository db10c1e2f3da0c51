//! When the prober's findings go to the state file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::active::ActiveConfig;
use crate::engine::log::Log;
use crate::engine::state_file::file::{Store, Writer};
use crate::engine::state_file::format::encode;

/// How often the state file is written where no verdict changes; well within what its
/// readers take for silence.
const EVERY: Duration = Duration::from_secs(5);

/// Saver takes at most this share of the engine's time, however often verdicts change.
const SHARE: u32 = 10;

/// A state file that this process keeps: when it was last written, and by what.
pub(super) struct Saver {
    store: Arc<Store>,
    writer: Option<Writer>,
    /// [`Store::moves`] of the last time.
    moves: u64,
    at: Option<Instant>,
    /// How long it took to put the last content together.
    took: Duration,
    /// Whether a verdict has changed since.
    turned: bool,
}

impl Saver {
    pub(super) fn begin(store: &Arc<Store>, log: &Arc<Log>) -> Self {
        Self {
            writer: store.writer(log.clone()),
            moves: store.moves(),
            store: store.clone(),
            at: None,
            took: Duration::ZERO,
            turned: true,
        }
    }

    pub(super) fn is_to(&self, store: &Arc<Store>) -> bool {
        Arc::ptr_eq(&self.store, store)
    }

    /// A verdict has changed.
    pub(super) fn note_turn(&mut self) {
        self.turned = true;
    }

    /// Whether something waits to be written.
    pub(super) fn is_pending(&self) -> bool {
        self.turned && self.writer.is_some()
    }

    /// Hands the state to the file's writer, at once after a change of a verdict.
    pub(super) fn save(&mut self, active: &ActiveConfig) {
        let Some(writer) = &self.writer else {
            return;
        };
        let moves = self.store.moves();
        self.turned |= moves != self.moves;
        let since = self.at.map(|at| at.elapsed());
        let rest = self.took * SHARE;
        let every = EVERY.min(active.config.state_max_age / 4);
        let wanted = if self.turned { rest } else { every.max(rest) };
        if since.is_some_and(|since| since < wanted) {
            return;
        }
        let started = Instant::now();
        let content = encode(active);
        self.took = started.elapsed();
        if writer.write(content) {
            self.at = Some(Instant::now());
            self.moves = moves;
            self.turned = false;
        } else {
            self.turned = true;
        }
    }
}
