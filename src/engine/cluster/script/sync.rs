//! The registration of a machine in the store: it says that the machine lives and which nodes it has, and
//! exchanges operators' settings with the other machines.

use std::fmt::Write as _;
use std::time::Duration;

use redis::Value;

use super::answer::{AnswerItems, LATE};
use super::login::{drain_end_ms, push_node};
use super::{Arguments, BadAnswer, ScriptCall, UserDigest, keys, source};
use crate::engine::routing::LoginKind;

/// Registers this machine. Sent every few seconds, and before anything else on a new connection: a login
/// leaves alone a binding to a node that no registered machine knows.
#[derive(Clone, Debug)]
pub struct Sync {
    /// The name to register this machine by. Empty for the command, which reads and changes settings but
    /// probes nothing: it is not registered, and so does not count for `quorum`.
    pub machine: String,
    /// The hash of the settings that all machines have to agree on.
    pub config_hash: String,
    pub nodes: Vec<OwnNode>,
    pub drain_time: Duration,
    /// Whether to return the nodes' numbers of users, which takes three commands of Redis per node.
    pub wants_counts: bool,
    /// The highest generation that this machine knows.
    pub generation: u64,
    /// The settings of operators that this machine knows.
    pub settings: Vec<ClusterSetting>,
    pub deadline: u64,
}

/// A node of this machine's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNode {
    pub name: String,
    pub usable: bool,
    /// When its drain began; 0: it is not draining.
    pub drain_since: u64,
    /// With `verdicts: quorum`: for each kind of its targets, whether such a login finds the node usable.
    pub logins: Vec<(LoginKind, bool)>,
}

/// Something that an operator has set for all machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSetting {
    /// The name of what was set. Of two settings with the same name the later one is in force.
    pub name: String,
    /// When it was set, in milliseconds since 1970 of the clock of the machine where it was set.
    pub since_ms: u64,
    pub text: String,
}

/// How long a registration counts. The same on all machines: the script concludes from it when the last of
/// them has registered.
const REGISTRATION: Duration = Duration::from_secs(10);

/// The answer to a [`Sync`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Synced {
    Done {
        /// The time of Redis's clock.
        now: u64,
        /// The highest generation of the store.
        generation: u64,
        /// When the store was last empty, or out of reach of all machines.
        born: u64,
        machines: Vec<OtherMachine>,
        /// Settings that are later than those of this machine.
        settings: Vec<ClusterSetting>,
        counts: Vec<NodeCount>,
    },
    /// The deadline was over; nothing was written.
    Late {
        /// The time of Redis's clock.
        now: u64,
    },
}

/// A registered machine; this one is among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherMachine {
    pub machine: String,
    pub config_hash: String,
}

/// How many users are bound to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCount {
    pub node: String,
    /// Exact up to some thousand users, an estimate above.
    pub users: u64,
    /// How many users were ever moved there from another node, and away to another.
    pub moved_in: u64,
    pub moved_out: u64,
}

impl ScriptCall for Sync {
    type Answer = Synced;
    const SOURCE: &'static str = source!("sync.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, std::iter::empty::<&UserDigest>())
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        let (mut nodes, mut logins) = (String::new(), String::new());
        for node in &self.nodes {
            push_node(
                &mut nodes,
                &node.name,
                &[if node.usable { 'u' } else { 'd' }],
            );
            let end = drain_end_ms(node.drain_since, self.drain_time);
            nodes.push_str(itoa::Buffer::new().format(end));
            if !node.logins.is_empty() {
                push_node(&mut logins, &node.name, &[]);
            }
            for (kind, usable) in &node.logins {
                let _ = write!(logins, " {kind}={}", if *usable { 'u' } else { 'd' });
            }
        }
        let arguments = Arguments::new(self.deadline)
            .text(&self.machine)
            .text(&self.config_hash)
            .duration(REGISTRATION)
            .text(&nodes)
            .flag(self.wants_counts)
            .number(self.generation)
            .text(&logins);
        let settings = self.settings.iter();
        settings
            .fold(arguments, |arguments, setting| {
                arguments
                    .text(&setting.name)
                    .number(setting.since_ms)
                    .text(&setting.text)
            })
            .0
    }

    fn parse(&self, answer: Value) -> Result<Synced, BadAnswer> {
        let mut items = AnswerItems::of(answer)?;
        match items.text()?.as_str() {
            "synced" => {}
            LATE => {
                return Ok(Synced::Late {
                    now: items.number()?,
                });
            }
            _ => return Err(BadAnswer("outcome of a registration expected")),
        }
        Ok(Synced::Done {
            now: items.number()?,
            generation: items.number()?,
            born: items.time()?,
            machines: each(items.array()?, |items| {
                Ok(OtherMachine {
                    machine: items.text()?,
                    config_hash: items.text()?,
                })
            })?,
            settings: each(items.array()?, |items| {
                Ok(ClusterSetting {
                    name: items.text()?,
                    since_ms: items.number()?,
                    text: items.text()?,
                })
            })?,
            counts: each(items.array()?, |items| {
                Ok(NodeCount {
                    node: items.text()?,
                    users: items.number()?,
                    moved_in: items.number()?,
                    moved_out: items.number()?,
                })
            })?,
        })
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &Synced) -> Option<u64> {
        match answer {
            Synced::Late { now } => Some(*now),
            _ => None,
        }
    }
}

/// Reads values with `read` until no item is left.
fn each<T>(
    mut items: AnswerItems,
    mut read: impl FnMut(&mut AnswerItems) -> Result<T, BadAnswer>,
) -> Result<Vec<T>, BadAnswer> {
    let mut all = Vec::new();
    while !items.is_empty() {
        all.push(read(&mut items)?);
    }
    Ok(all)
}
