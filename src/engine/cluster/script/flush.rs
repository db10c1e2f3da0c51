//! The release of a node's bindings, in steps. Each step reads a bounded number of keys, because Redis
//! answers no login meanwhile.

use std::time::Duration;

use redis::Value;

use super::answer::{AnswerItems, LATE};
use super::{Arguments, BadAnswer, ScriptCall, UserDigest, keys, source, user_records};

/// One step of a release.
#[derive(Clone, Debug)]
pub struct FlushStep {
    /// "0" in the first step, then what the step before returned.
    pub cursor: String,
    /// The configured prefix.
    pub prefix: String,
    /// `None`: the bindings that differ from rendezvous hashing.
    pub node: Option<String>,
    /// The most bindings to release.
    pub limit: u64,
    pub reason: String,
    pub by: String,
    pub retention: Duration,
    pub deadline: u64,
}

/// About how many keys one step reads.
const KEYS_PER_STEP: u64 = 500;

/// The answer to a [`FlushStep`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlushAnswer {
    Released {
        count: u64,
        /// The cursor of the next step; `None`: this was the last one.
        next: Option<String>,
    },
    /// The deadline was over; nothing was written.
    Late {
        /// The time of Redis's clock.
        now: u64,
    },
}

impl ScriptCall for FlushStep {
    type Answer = FlushAnswer;
    const SOURCE: &'static str = source!("flush.lua");

    fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        keys(prefix, std::iter::empty::<&UserDigest>())
    }

    fn arguments(&self) -> Vec<Vec<u8>> {
        Arguments::new(self.deadline)
            .text(&self.cursor)
            .text(&user_records(&self.prefix))
            .number(KEYS_PER_STEP)
            .text(self.node.as_deref().unwrap_or_default())
            .number(self.limit)
            .text(&self.reason)
            .text(&self.by)
            .duration(self.retention)
            .0
    }

    fn parse(&self, answer: Value) -> Result<FlushAnswer, BadAnswer> {
        let mut items = AnswerItems::of(answer)?;
        match items.text()?.as_str() {
            "flushed" => {
                let cursor = items.text()?;
                let count = items.number()?;
                let goes_on = items.flag()?;
                Ok(FlushAnswer::Released {
                    count,
                    next: goes_on.then_some(cursor),
                })
            }
            LATE => Ok(FlushAnswer::Late {
                now: items.number()?,
            }),
            _ => Err(BadAnswer("outcome of a flush expected")),
        }
    }

    fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    fn late(answer: &FlushAnswer) -> Option<u64> {
        match answer {
            FlushAnswer::Late { now } => Some(*now),
            _ => None,
        }
    }
}
