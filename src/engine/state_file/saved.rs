//! The content of a state file, whichever version it was read from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::verdicts::{IdentityHash, Operator, Record, Setting};
use crate::sys::clock;

/// The content of a state file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The content's number; 0 in a file of version 1.
    pub number: u64,
    /// When it was written, in milliseconds since 1970.
    pub saved_ms: u64,
    pub targets: HashMap<IdentityHash, SavedTarget>,
    pub operators: Vec<Operator>,
    /// The last request that the file's writer has handled, and its answer.
    pub answer: Option<RequestAnswer>,
    /// Lines of kinds that this version does not know, to be written again as they are.
    pub unknown: Vec<String>,
}

/// What the file says of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTarget {
    pub record: Record,
    /// The thresholds and intervals with which its writer probes it, see `text::settings`.
    pub settings: Arc<str>,
    /// What the last full TLS handshake showed, as the line of a
    /// [`TlsDetails`](crate::engine::tls_details::TlsDetails); empty where nothing is known.
    pub tls: Box<str>,
    /// The target's key, for readers without the configuration.
    pub key: String,
}

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestAnswer {
    /// The request's number.
    pub number: u64,
    /// `ok`, or `error` and why.
    pub text: String,
    /// What was asked for, a text per line.
    pub reply: Vec<String>,
}

impl RequestAnswer {
    /// The answer without its reply, for contents that are written once the asker has had time to read it.
    #[must_use]
    pub fn without_reply(self) -> Self {
        Self {
            reply: Vec::new(),
            ..self
        }
    }
}

/// A setting that an operator asks for by the command: the line `set` of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSetting {
    /// A target's key, or `node:` and a node's name.
    pub what: String,
    pub setting: Setting,
    /// Milliseconds; 0: until it is set again.
    pub for_ms: u64,
    pub by: String,
    pub reason: String,
}

impl Saved {
    /// Whether the content is no older than `max_age`.
    pub fn is_within(&self, max_age: Duration) -> bool {
        let age = clock::unix_ms().checked_sub(self.saved_ms);
        // A time in the future means that the clock was set back: the age is unknown, so the
        // content counts as too old.
        age.is_some_and(|age| age <= clock::ms(max_age))
    }
}
