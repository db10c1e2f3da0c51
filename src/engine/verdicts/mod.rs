//! Verdicts: how probe outcomes become a verdict, and the shared table in which every process reads
//! them.
//!
//! | file | what it is |
//! |---|---|
//! | `health.rs` | decides when a target is alive and when it is dead |
//! | `table.rs`, `memory.rs`, `layout.rs` | the shared table, its words and what they mean |
//! | `sequence.rs` | how a record is read and written without a lock |
//! | `record.rs`, `latencies.rs`, `tls.rs` | what is known of one target |
//! | `lease.rs` | which process writes the table |
//! | `reports.rs` | requests for a probe, from any process |
//! | `operators.rs`, `event.rs`, `events.rs` | what operators have set; what has happened |
//! | `routable.rs`, `bindings.rs` | what routing goes by |
//! | `counters.rs` | counters for the metrics |

mod bindings;
mod counters;
pub(in crate::engine) mod digest;
mod event;
mod events;
pub mod health;
mod latencies;
mod layout;
mod lease;
mod memory;
mod nodes;
mod operators;
mod record;
mod reports;
mod routable;
/// The atomics and thread calls that [`sequence`] uses. `sequence_model` compiles the same file
/// with loom's versions of them.
mod machine {
    pub(super) use std::sync::atomic::{AtomicU64, fence};
    pub(super) use std::{hint, thread};
}
mod sequence;
#[cfg(test)]
mod sequence_model;
mod table;
#[cfg(test)]
mod tests;
mod texts;
mod tls;

pub use bindings::{KnownBinding, StoreState};
pub use counters::{
    BUCKETS_US, CHOSEN_BY_HASH, CHOSEN_BY_SCRIPT, Counter, HOWS, Histogram, ProbeResult, REFUSALS,
};
pub use event::{Event, EventKind};
pub use events::{Events, PANIC, Told, subject_hash};
pub use health::Verdict;
pub use latencies::Sample;
pub use lease::{Claim, Patience, Standby, takeover_time};
pub use memory::{Slot, VerdictTable};
pub use nodes::{MoveReason, NodePlace, UserCounts};
pub use operators::{BY_MAX, Operator, OperatorState, REASON_MAX, Set, Setting, WHAT_MAX};
pub use record::{ERROR_MAX, Record};
pub use routable::{Delays, Routable};
pub use table::{IdentityHash, RETIRED, hash_identity};
