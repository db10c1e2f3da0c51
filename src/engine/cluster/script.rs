//! The scripts that run inside Redis: their arguments and their answers. No I/O.
//!
//! All times are microseconds of Redis's clock since 1970. A script that finds its deadline in the
//! past writes nothing.

use std::time::Duration;

use redis::Value;

/// A call of one script.
pub trait ScriptCall {
    type Answer;
    /// The script's source in Lua.
    const SOURCE: &'static str;

    /// The keys that the script uses, all with one hash tag. `prefix` is the configured one.
    fn keys(&self, prefix: &str) -> Vec<Vec<u8>>;

    fn arguments(&self) -> Vec<Vec<u8>>;

    /// # Errors
    /// What is wrong with the answer: it is not one of this script.
    fn parse(&self, answer: Value) -> Result<Self::Answer, BadAnswer>;
}

/// An answer that the script cannot have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnswer(pub &'static str);

/// SHA-256 or HMAC-SHA-256 of a user's key, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserDigest(pub String);

/// A node as this machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNode {
    pub name: String,
    /// Whether the node has a target that matches the filter, in a pool of the filter.
    pub matches: bool,
    pub usable: bool,
    /// Whether it may be given new users: it has a weight and is not draining.
    pub takes_new: bool,
    /// When its drain began; 0: it is not draining.
    pub drain_since: u64,
}

/// A login: which node the user is bound to, binding the user first where necessary.
#[derive(Clone, Debug)]
pub struct LoginRequest {
    pub user: UserDigest,
    /// Every node that this machine knows; first those that the filter matches, from the highest
    /// score of the user down.
    pub nodes: Vec<SeenNode>,
    /// The binding that this machine remembers, for a store that has lost it.
    pub remembered: Option<Remembered>,
    pub deadline: u64,
    pub retention: Duration,
    pub move_delay: Duration,
    pub min_stay: Duration,
    pub drain_time: Duration,
    /// `node_failover: move`; else a user of an unusable node is refused.
    pub moves_on_failure: bool,
    /// `verdicts: quorum`.
    pub needs_quorum: bool,
    /// The name under which this machine is registered.
    pub machine: String,
}

/// A binding that a machine has read or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub node: String,
    pub since: u64,
    /// When it ends unless it is renewed; 0: never.
    pub until: u64,
    pub generation: u64,
}

/// A binding in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub node: String,
    /// The node that the user was moved from; empty: none.
    pub from: String,
    pub since: u64,
    /// When it ends unless it is renewed; 0: never.
    pub until: u64,
    pub generation: u64,
    /// Why the user was moved there.
    pub reason: String,
    pub by: String,
}

/// What a login did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginHow {
    New,
    Bound,
    Moved,
    Pinned,
}

/// The answer to a [`LoginRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginAnswer {
    Bound(LoginHow, Binding),
    /// No server, and why: one of the promised reasons.
    None(String),
    /// The deadline was over; nothing was written.
    Late,
}
