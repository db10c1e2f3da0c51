//! The state file: the verdicts that outlive the processes which found them.

pub mod file;
pub mod format;
