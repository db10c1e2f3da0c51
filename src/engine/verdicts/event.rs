//! One event: what it is about, and its texts.

use crate::sys::clock;

/// What an event is about. Numbers are part of the layout and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A target's verdict has changed.
    Verdict,
    /// A node has become usable or unusable.
    Node,
    /// Panic has begun for a protocol (so few targets are alive that all are listed), or has ended.
    Panic,
    /// An operator has set a state or a weight.
    Operator,
    /// Another process has become the prober.
    Prober,
    /// Another configuration is in force.
    Reload,
    /// The shared store has become reachable or unreachable.
    Cluster,
    /// A certificate expires soon.
    Certificate,
    /// A user has moved to another node.
    Move,
    /// A number that this version does not know.
    Other(u64),
}

impl EventKind {
    /// The name that `events()` shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Node => "node",
            Self::Panic => "panic",
            Self::Operator => "operator",
            Self::Prober => "prober",
            Self::Reload => "reload",
            Self::Cluster => "cluster",
            Self::Certificate => "certificate",
            Self::Move => "move",
            Self::Other(_) => "other",
        }
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Verdict => 1,
            Self::Node => 2,
            Self::Panic => 3,
            Self::Operator => 4,
            Self::Prober => 5,
            Self::Reload => 6,
            Self::Cluster => 7,
            Self::Certificate => 8,
            Self::Move => 9,
            Self::Other(number) => number,
        }
    }

    pub(super) fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Verdict,
            2 => Self::Node,
            3 => Self::Panic,
            4 => Self::Operator,
            5 => Self::Prober,
            6 => Self::Reload,
            7 => Self::Cluster,
            8 => Self::Certificate,
            9 => Self::Move,
            number => Self::Other(number),
        }
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counted from 1; 0 in an event that was not added to a table yet.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    pub kind: EventKind,
    /// A target's key, `node:` and a node's name, a protocol (panic), or empty.
    pub subject: String,
    pub from: String,
    pub to: String,
    pub reason: String,
    pub by: String,
    /// Of an event about a verdict, how often it had changed.
    pub changes: u64,
}

impl Event {
    /// An event with the current time.
    pub fn new(kind: EventKind, subject: impl Into<String>) -> Self {
        Self {
            number: 0,
            time_ms: clock::unix_ms(),
            kind,
            subject: subject.into(),
            from: String::new(),
            to: String::new(),
            reason: String::new(),
            by: String::new(),
            changes: 0,
        }
    }

    #[must_use]
    pub fn changes(mut self, changes: u64) -> Self {
        self.changes = changes;
        self
    }

    #[must_use]
    pub fn change(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.from = from.into();
        self.to = to.into();
        self
    }

    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    #[must_use]
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = by.into();
        self
    }
}
