//! A login: which node the user is bound to, binding the user first where necessary.

use std::fmt::Write as _;
use std::time::Duration;

use redis::Value;

use super::answer::{Answered, user_answer};
use super::{Arguments, BadAnswer, Binding, Remembered, ScriptCall, UserDigest, keys, source};
use crate::engine::routing::LoginKind;

/// A node as this machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNode {
    pub name: String,
    /// Whether the node is in a pool of the filter.
    pub in_pools: bool,
    /// Whether the node has a target that matches the filter, in a pool of the filter.
    pub matches: bool,
    /// Whether users who are bound to it stay there.
    pub usable: bool,
    /// Whether its targets may be given to users without a binding.
    pub usable_for_new: bool,
    /// Whether it may be given new users while it is usable: it has a weight and is not draining.
    pub takes_new: bool,
    /// When its drain began; 0: it is not draining.
    pub drain_since: u64,
    /// For `verdicts: quorum`, where it is not usable: the kinds of its targets that match the filter.
    pub asked_kinds: Vec<LoginKind>,
}

/// A login: which node the user is bound to, binding the user first where necessary.
#[derive(Clone, Debug)]
pub struct LoginRequest {
    pub user: UserDigest,
    /// Every node that this machine knows; first those that the filter matches, from the highest
    /// score of the user down.
    pub nodes: Vec<SeenNode>,
    /// The user's record as this machine remembers it: written where the store has lost its own.
    pub remembered: Option<Remembered>,
    pub deadline: u64,
    pub retention: Duration,
    pub move_delay: Duration,
    pub min_stay: Duration,
    pub drain_time: Duration,
    /// Whether a user of an unusable node is moved (`node_failover: move`) or refused.
    pub moves_on_failure: bool,
    /// `verdicts: quorum`.
    pub needs_quorum: bool,
    /// The name under which this machine is registered.
    pub machine: String,
    /// The call only explains: it returns the answer that a login would get now, and writes nothing.
    pub explains: bool,
}

/// How a login got its node.
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
    /// No server.
    None {
        /// One of the promised reasons.
        reason: String,
        /// The user's record; generation 0: there is none.
        binding: Binding,
        /// The user was moved by this login, and has to wait for `move_delay`.
        has_moved: bool,
    },
    /// The deadline was over; nothing was written.
    Late {
        /// The time of Redis's clock.
        now: u64,
    },
}

impl LoginRequest {
    /// The node for a new binding, and why there is none.
    fn choice(&self) -> (&str, &'static str) {
        let mut candidates = self
            .nodes
            .iter()
            .filter(|node| node.matches && node.takes_new)
            .peekable();
        let reason = if candidates.peek().is_some() {
            "unusable"
        } else {
            "no node"
        };
        let choice = candidates.find(|node| node.usable_for_new);
        (choice.map_or("", |node| &node.name), reason)
    }

    /// The node that rendezvous hashing would choose if all nodes were usable.
    fn home(&self) -> &str {
        let mut nodes = self.nodes.iter();
        let first = nodes.find(|node| node.matches && node.takes_new);
        first.map_or("", |node| &node.name)
    }

    fn node_states(&self) -> String {
        let mut text = String::with_capacity(self.nodes.len().saturating_mul(32));
        for node in &self.nodes {
            let usable = if node.usable { 'u' } else { 'd' };
            let scope = match (node.in_pools, node.matches) {
                (_, true) => 'm',
                (true, false) => 'n',
                (false, false) => 'x',
            };
            push_node(&mut text, &node.name, &[usable, scope]);
            let end = drain_end_ms(node.drain_since, self.drain_time);
            text.push_str(itoa::Buffer::new().format(end));
            for kind in &node.asked_kinds {
                let _ = write!(text, " {kind}");
            }
        }
        text
    }
}

/// Adds a node to a list of nodes: names have no control characters.
pub(super) fn push_node(text: &mut String, name: &str, flags: &[char]) {
    text.push('\n');
    text.push_str(name);
    text.push('\t');
    text.extend(flags);
}

/// When a drain ends the bindings of its node, in milliseconds; 0: there is no drain.
pub(super) fn drain_end_ms(drain_since: u64, drain_time: Duration) -> u64 {
    if drain_since == 0 {
        return 0;
    }
    let lasts = u64::try_from(drain_time.as_millis()).unwrap_or(u64::MAX);
    (drain_since / super::US_PER_MS)
        .saturating_add(lasts)
        .max(1)
}

impl ScriptCall for LoginRequest {
    type Answer = LoginAnswer;
    const SOURCE: &'static str = source!("login.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, [&self.user])
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        let (choice, no_choice) = self.choice();
        Arguments::new(self.deadline)
            .text(if self.explains { "explain" } else { "login" })
            .text(&self.machine)
            .duration(self.retention)
            .duration(self.move_delay)
            .duration(self.min_stay)
            .text(if self.moves_on_failure {
                "move"
            } else {
                "refuse"
            })
            .text(if self.needs_quorum { "quorum" } else { "own" })
            .text(choice)
            .text(no_choice)
            .text(self.home())
            .text(&self.node_states())
            .remembered(self.remembered.as_ref())
            .0
    }

    fn parse(&self, answer: Value) -> Result<LoginAnswer, BadAnswer> {
        let answer = match user_answer(answer)? {
            Answered::Late(now) => return Ok(LoginAnswer::Late { now }),
            Answered::User(answer) => answer,
        };
        let how = match answer.outcome.as_str() {
            "new" => LoginHow::New,
            "bound" => LoginHow::Bound,
            "moved" => LoginHow::Moved,
            "pinned" => LoginHow::Pinned,
            reason => {
                let node = &answer.binding.node;
                let reason = match reason {
                    "unknown node" => format!("unknown node {node}"),
                    "pinned to" => format!("pinned to {node}, which is unusable"),
                    "no such protocol" => "no such protocol on the bound node".to_owned(),
                    "held" | "moving" | "unstable" | "unusable" | "no node" => reason.to_owned(),
                    _ => return Err(BadAnswer("outcome of a login expected")),
                };
                return Ok(LoginAnswer::None {
                    reason,
                    binding: answer.binding,
                    has_moved: answer.has_moved,
                });
            }
        };
        Ok(LoginAnswer::Bound(how, answer.binding))
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &LoginAnswer) -> Option<u64> {
        match answer {
            LoginAnswer::Late { now } => Some(*now),
            _ => None,
        }
    }
}
