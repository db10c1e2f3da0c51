//! Verdicts: how outcomes make them, and the shared table that every process reads.

pub(in crate::engine) mod digest;
pub mod health;
mod layout;
mod record;
mod sequence;
mod table;
#[cfg(test)]
mod tests;

pub use record::{ERROR_MAX, Record};
pub use table::{IdentityHash, RETIRED, Slot, VerdictTable, hash_identity};
