//! What a state file says, whatever its version.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::verdicts::{IdentityHash, Operator, Record};
use crate::sys::clock;

/// The content of a state file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The content's number; 0 in a file of version 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub saved_ms: u64,
    pub targets: HashMap<IdentityHash, SavedTarget>,
    pub operators: Vec<Operator>,
    /// The last request that its writer has seen to, and what it said.
    pub answer: Option<RequestAnswer>,
    /// Lines of kinds that this version does not know.
    pub unknown: Vec<String>,
}

/// What is said of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTarget {
    pub record: Record,
    /// How its writer judges it and how often it probes it: see `text::settings`.
    pub settings: Arc<str>,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestAnswer {
    /// The request's number.
    pub number: u64,
    /// `ok`, or `error` and why.
    pub text: String,
}

impl Saved {
    /// Whether its verdicts are no older than this.
    pub fn is_within(&self, max_age: Duration) -> bool {
        let age = clock::unix_ms().checked_sub(self.saved_ms);
        // A time in the future is no age to go by.
        age.is_some_and(|age| age <= clock::ms(max_age))
    }
}
