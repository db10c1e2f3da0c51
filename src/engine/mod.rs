//! The engine: everything the product does that has nothing to do with Lua or C.
//!
//! A configuration (`config`) becomes targets; the scheduler (`scheduler`) runs one probe
//! (`probe`) of a target when its timer is due; what the outcome changes goes into the shared
//! table (`verdicts`) and the state file (`state_file`) of the active configuration (`active`).
//! `process` is the engine of this process; `request` is what scripts decide in one request.
//! `routing` chooses a user's node, `cluster` binds users to nodes in Redis, and `log`, `metrics`
//! and `page` are what operators read.

pub mod active;
pub mod cluster;
pub mod config;
mod fields;
pub mod log;
pub mod metrics;
pub mod page;
pub mod probe;
pub mod process;
pub mod request;
pub mod routing;
mod scheduler;
pub mod state_file;
pub mod target;
pub mod tls_details;
pub mod verdicts;
