//! The changes of bindings by operators and hosts: move, forget, hold, touch.

use std::time::Duration;

use redis::Value;

use super::answer::{AnswerItems, Answered, LATE, user_answer};
use super::{Arguments, BadAnswer, Binding, Remembered, ScriptCall, UserDigest, keys, source};

/// The answer to an operator's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operated {
    Done {
        /// The user's record now.
        binding: Binding,
        /// Whether the user has left a node: for another one, or (forgotten) for none yet.
        has_left: bool,
    },
    /// Redis has lost the record, and no registered machine has the node that this machine remembers by its digest;
    /// nothing was written.
    UnknownNode,
    /// The deadline was over; nothing was written.
    Late {
        /// The time of Redis's clock.
        now: u64,
    },
}

/// Binds a user to a node.
#[derive(Clone, Debug)]
pub struct MoveUser {
    pub user: UserDigest,
    pub node: String,
    /// The binding has no end, and no login moves the user.
    pub keep: bool,
    pub reason: String,
    pub by: String,
    pub retention: Duration,
    pub remembered: Option<Remembered>,
    pub deadline: u64,
}

/// Unbinds a user.
#[derive(Clone, Debug)]
pub struct Forget {
    pub user: UserDigest,
    pub reason: String,
    pub by: String,
    pub retention: Duration,
    pub remembered: Option<Remembered>,
    pub deadline: u64,
}

/// Keeps a user from every node for some time.
#[derive(Clone, Debug)]
pub struct Hold {
    pub user: UserDigest,
    /// Zero ends a hold.
    pub duration: Duration,
    pub reason: String,
    pub by: String,
    pub remembered: Option<Remembered>,
    pub deadline: u64,
}

impl Operated {
    fn late(&self) -> Option<u64> {
        match self {
            Self::Late { now } => Some(*now),
            Self::Done { .. } | Self::UnknownNode => None,
        }
    }
}

impl ScriptCall for MoveUser {
    type Answer = Operated;
    const SOURCE: &'static str = source!("move.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, [&self.user])
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        Arguments::new(self.deadline)
            .text(&self.node)
            .flag(self.keep)
            .text(&self.reason)
            .text(&self.by)
            .duration(self.retention)
            .remembered(self.remembered.as_ref())
            .0
    }

    fn parse(&self, answer: Value) -> Result<Operated, BadAnswer> {
        operated(answer, &["moved", "bound"])
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &Operated) -> Option<u64> {
        answer.late()
    }
}

impl ScriptCall for Forget {
    type Answer = Operated;
    const SOURCE: &'static str = source!("forget.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, [&self.user])
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        Arguments::new(self.deadline)
            .text(&self.reason)
            .text(&self.by)
            .duration(self.retention)
            .remembered(self.remembered.as_ref())
            .0
    }

    fn parse(&self, answer: Value) -> Result<Operated, BadAnswer> {
        operated(answer, &["forgotten", "not bound"])
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &Operated) -> Option<u64> {
        answer.late()
    }
}

impl ScriptCall for Hold {
    type Answer = Operated;
    const SOURCE: &'static str = source!("hold.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, [&self.user])
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        Arguments::new(self.deadline)
            .duration(self.duration)
            .text(&self.reason)
            .text(&self.by)
            .remembered(self.remembered.as_ref())
            .0
    }

    fn parse(&self, answer: Value) -> Result<Operated, BadAnswer> {
        operated(answer, &["held", "released", UNKNOWN_NODE])
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &Operated) -> Option<u64> {
        answer.late()
    }
}

/// The outcome of a hold that would lose the user's node.
const UNKNOWN_NODE: &str = "unknown node";

fn operated(answer: Value, outcomes: &[&str]) -> Result<Operated, BadAnswer> {
    match user_answer(answer)? {
        Answered::Late(now) => Ok(Operated::Late { now }),
        Answered::User(answer) if !outcomes.contains(&answer.outcome.as_str()) => {
            Err(BadAnswer("outcome of an operator's call expected"))
        }
        Answered::User(answer) if answer.outcome == UNKNOWN_NODE => Ok(Operated::UnknownNode),
        Answered::User(answer) => Ok(Operated::Done {
            has_left: answer.has_moved,
            binding: answer.binding,
        }),
    }
}

/// Renews the bindings of users with live sessions on a node; makes and moves none.
#[derive(Clone, Debug)]
pub struct Touch {
    /// At most [`Touch::MAX`].
    pub users: Vec<UserDigest>,
    pub node: String,
    pub retention: Duration,
    /// The node is draining: the bindings to it are counted but not renewed.
    pub is_draining: bool,
    pub deadline: u64,
}

impl Touch {
    /// The most users for one call: Redis does nothing else meanwhile.
    pub const MAX: usize = 500;
}

/// The answer to a [`Touch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// So many users are bound to the node.
    Users(u64),
    /// The deadline was over; nothing was written.
    Late {
        /// The time of Redis's clock.
        now: u64,
    },
}

impl ScriptCall for Touch {
    type Answer = Touched;
    const SOURCE: &'static str = source!("touch.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, &self.users)
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        Arguments::new(self.deadline)
            .text(&self.node)
            .duration(self.retention)
            .flag(self.is_draining)
            .0
    }

    fn parse(&self, answer: Value) -> Result<Touched, BadAnswer> {
        let mut items = AnswerItems::of(answer)?;
        match items.text()?.as_str() {
            "touched" => Ok(Touched::Users(items.number()?)),
            LATE => Ok(Touched::Late {
                now: items.number()?,
            }),
            _ => Err(BadAnswer("outcome of a touch expected")),
        }
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &Touched) -> Option<u64> {
        match answer {
            Touched::Late { now } => Some(*now),
            _ => None,
        }
    }
}
