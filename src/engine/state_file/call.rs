//! Lines of a request about users: what an operator asks of the store of bindings by the command.
//! `docs/formats.md` has their fields.

use std::time::Duration;

use crate::engine::fields::{Fields, put, put_quoted};
use crate::sys::clock;

/// What is asked of the store, with users by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallKind {
    Move {
        user: String,
        node: String,
        keep: bool,
    },
    Forget {
        user: String,
    },
    Hold {
        user: String,
        /// Zero ends a hold.
        duration: Duration,
    },
    /// `None`: the bindings that differ from rendezvous hashing.
    Flush {
        node: Option<String>,
        /// Bindings a second, at least 1.
        rate: u64,
    },
    Touch {
        users: Vec<String>,
        node: String,
    },
}

/// A call of the store that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedCall {
    pub kind: CallKind,
    pub by: String,
    pub reason: String,
}

/// The words that begin such lines.
const KINDS: [&str; 5] = ["move", "forget", "hold", "flush", "touch"];

impl WantedCall {
    /// Its line in a request.
    pub fn line(&self) -> String {
        let mut line = String::new();
        match &self.kind {
            CallKind::Move { user, node, keep } => {
                line.push_str("move");
                put_quoted(&mut line, "user", user);
                put_quoted(&mut line, "node", node);
                put(&mut line, "keep", u8::from(*keep));
            }
            CallKind::Forget { user } => {
                line.push_str("forget");
                put_quoted(&mut line, "user", user);
            }
            CallKind::Hold { user, duration } => {
                line.push_str("hold");
                put_quoted(&mut line, "user", user);
                put(&mut line, "for", clock::ms(*duration));
            }
            CallKind::Flush { node, rate } => {
                line.push_str("flush");
                if let Some(node) = node {
                    put_quoted(&mut line, "node", node);
                }
                put(&mut line, "rate", rate);
            }
            CallKind::Touch { users, node } => {
                line.push_str("touch");
                put_quoted(&mut line, "node", node);
                for user in users {
                    put_quoted(&mut line, "user", user);
                }
            }
        }
        put_quoted(&mut line, "by", &self.by);
        put_quoted(&mut line, "reason", &self.reason);
        line.push('\n');
        line
    }

    /// Whether a line of a request begins with this word.
    pub fn is_kind(word: &str) -> bool {
        KINDS.contains(&word)
    }

    /// Reads such a line: its first word and the rest. `None` where it does not read.
    pub fn read(word: &str, rest: &str) -> Option<Self> {
        let (mut users, mut node) = (Vec::new(), None);
        let (mut by, mut reason) = (String::new(), String::new());
        let (mut keep, mut for_ms, mut rate) = (false, None, None);
        for field in Fields::of(rest) {
            let (name, value) = field.ok()?;
            match name {
                "user" => users.push(value.into_owned()),
                "node" => node = Some(value.into_owned()),
                "keep" => keep = value == "1",
                "for" => for_ms = Some(value.parse().ok()?),
                "rate" => rate = value.parse().ok().filter(|rate| *rate > 0),
                "by" => by = value.into_owned(),
                "reason" => reason = value.into_owned(),
                _ => {}
            }
        }
        let kind = match word {
            "move" => CallKind::Move {
                user: users.pop()?,
                node: node?,
                keep,
            },
            "forget" => CallKind::Forget { user: users.pop()? },
            "hold" => CallKind::Hold {
                user: users.pop()?,
                duration: Duration::from_millis(for_ms?),
            },
            "flush" => CallKind::Flush { node, rate: rate? },
            "touch" => CallKind::Touch { users, node: node? },
            _ => return None,
        };
        Some(Self { kind, by, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let user = "o\"brien\\@example.org".to_owned();
        let node = "mail 1".to_owned();
        let kinds = [
            CallKind::Move {
                user: user.clone(),
                node: node.clone(),
                keep: true,
            },
            CallKind::Forget { user: user.clone() },
            CallKind::Hold {
                user: user.clone(),
                duration: Duration::from_millis(1500),
            },
            CallKind::Flush {
                node: Some(node.clone()),
                rate: 7,
            },
            CallKind::Flush {
                node: None,
                rate: 1,
            },
            CallKind::Touch {
                users: vec![user, "bob".to_owned()],
                node,
            },
        ];
        for kind in kinds {
            let call = WantedCall {
                kind,
                by: "ann".to_owned(),
                reason: "a \"test\"".to_owned(),
            };
            let line = call.line();
            let (word, rest) = line.trim_end().split_once(' ').unwrap();
            assert!(WantedCall::is_kind(word));
            assert_eq!(WantedCall::read(word, rest), Some(call));
        }
    }

    #[test]
    fn a_line_that_lacks_something_does_not_read() {
        for (word, rest) in [
            ("move", "node=a"),
            ("move", "user=u"),
            ("hold", "user=u"),
            ("flush", "node=a rate=0"),
            ("touch", "user=u"),
            ("set", "user=u node=a"),
        ] {
            assert_eq!(WantedCall::read(word, rest), None, "{word} {rest}");
        }
    }
}
