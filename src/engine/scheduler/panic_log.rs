//! Logs when panic begins and ends for a protocol.

use super::Scheduler;
use crate::engine::active::Panic;
use crate::engine::log::{Level, Line};
use crate::engine::verdicts::{Event, EventKind};

impl Scheduler {
    /// Logs once when panic begins and once when it ends.
    pub(super) fn note_panic(&mut self) {
        let now = self.active.panicking();
        let is_of = |list: &[Panic], p: &Panic| list.iter().any(|q| q.protocol == p.protocol);
        let begun = now.iter().filter(|p| !is_of(&self.panicking, p));
        let ended = self.panicking.iter().filter(|p| !is_of(&now, p));
        for (panic, has_begun) in begun.map(|p| (p, true)).chain(ended.map(|p| (p, false))) {
            let (name, from, to) = if has_begun {
                ("panic_begins", "", "panic")
            } else {
                ("panic_ends", "panic", "")
            };
            let mut line = Line::new(Level::Warning, name).with("protocol", panic.protocol);
            if has_begun {
                line = line.with("alive", panic.alive).with("of", panic.of);
            }
            self.log.write(line);
            let what = panic.protocol.name();
            let event = Event::new(EventKind::Panic, what).change(from, to);
            self.active.table.add_event(&event);
        }
        self.panicking = now;
    }
}
