//! What a process remembers of the events that it has added.

use std::sync::atomic::{AtomicU8, AtomicU64};

/// What the last event about a node said. [`UNTOLD`]: this process has added none, so the ring of events has
/// to be read.
pub(super) const UNTOLD: u8 = 0;
pub(super) const USABLE: u8 = 1;
pub(super) const UNUSABLE: u8 = 2;

#[derive(Debug)]
pub(super) struct EventNotes {
    /// Whether a verdict may have changed without an event yet. Set at first, because the prober before this
    /// one may have ended between the two.
    pub(super) is_waiting: AtomicU8,
    /// [`UNTOLD`], [`USABLE`] or [`UNUSABLE`] for each node.
    pub(super) nodes: Vec<AtomicU8>,
    /// When late events were last looked for, in milliseconds of `CLOCK_MONOTONIC`.
    pub(super) late_ms: AtomicU64,
}

impl EventNotes {
    /// `nodes`: how many nodes the configuration has.
    pub(super) fn of(nodes: usize) -> Self {
        Self {
            is_waiting: AtomicU8::new(1),
            nodes: (0..nodes).map(|_| AtomicU8::new(UNTOLD)).collect(),
            late_ms: AtomicU64::new(0),
        }
    }
}
