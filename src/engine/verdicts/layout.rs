//! Where in the shared memory everything is: the words of the header, then those of each slot,
//! then the text of each slot's error.

// The header's words.
pub(super) const GENERATION: usize = 0;
pub(super) const SEQUENCE: usize = 1;
pub(super) const EPOCH: usize = 2;
pub(super) const WAKE: usize = 3;
pub(super) const PROBER: usize = 4;
pub(super) const USED: usize = 5;
pub(super) const HEADER: usize = 16;

// A slot's words.
pub(super) const HASH: usize = 0;
pub(super) const SLOT_SEQUENCE: usize = 2;
pub(super) const CONNECT_GATE: usize = 3;
pub(super) const DEEP_GATE: usize = 4;
pub(super) const HAS_DEEP_GATE: usize = 5;
pub(super) const SINCE: usize = 6;
pub(super) const PROBES: usize = 7;
pub(super) const FAILURES: usize = 8;
pub(super) const CONNECT_STARTED: usize = 9;
pub(super) const DEEP_STARTED: usize = 10;
pub(super) const LATENCY: usize = 11;
pub(super) const FAMILY: usize = 12;
pub(super) const ADDRESS: usize = 13;
pub(super) const NOT_AFTER: usize = 15;
pub(super) const REPORTS: usize = 16;
pub(super) const REPORTED_AT: usize = 17;
pub(super) const HEEDED: usize = 18;
pub(super) const CERTIFICATE_LOGGED: usize = 19;
pub(super) const ERROR_LENGTH: usize = 20;
/// Whole cache lines.
pub(super) const SLOT: usize = 24;

/// The words of an error's text, which come behind all slots: where no probe ever failed
/// nothing touches them, and memory that nothing touches takes no room.
pub(super) const ERROR_WORDS: usize = 43;
