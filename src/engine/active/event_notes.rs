//! The events that a process has added last, so that it adds none twice.

use std::sync::atomic::{AtomicU8, AtomicU64};

/// What the last event about a node said. [`UNTOLD`]: this process has added no event about it, so the
/// table's events have to be read.
pub(super) const UNTOLD: u8 = 0;
pub(super) const USABLE: u8 = 1;
pub(super) const UNUSABLE: u8 = 2;

#[derive(Debug)]
pub(super) struct EventNotes {
    /// Whether a verdict may have changed without an event so far. Set at first: the previous prober may have
    /// ended after it changed a verdict and before it added the event.
    pub(super) is_waiting: AtomicU8,
    /// [`UNTOLD`], [`USABLE`] or [`UNUSABLE`] for each node.
    pub(super) nodes: Vec<AtomicU8>,
    /// When the prober last checked for late events, in milliseconds of `CLOCK_MONOTONIC`.
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
