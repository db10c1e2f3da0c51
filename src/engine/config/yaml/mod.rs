//! YAML text to a tree: YAML 1.2 with the core schema, plus merge keys (`<<: *anchor`), as the
//! loaders of other programs that read the same file have them.
//!
//! Depth, number of nodes (an alias counts each time it is used) and length of texts are bounded. Aliased
//! nodes are shared, not copied, so that memory stays proportional to the length of the input. The work
//! is bounded, too: each use of an alias reads a bounded number of bytes, however long the aliased text
//! is.
//!
//! | file | what it is |
//! |---|---|
//! | `build` | from the parser's events to the tree; duplicate keys, merge keys |
//! | `input` | the text as the parser reads it: a tab after a colon |
//! | `node` | the tree and its bounds |
//! | `scalar` | what a scalar means |
//! | `tabs` | refuses tabs in the indentation |
//! | `convert` | our section as a [`Value`](super::value::Value), variables replaced |

mod build;
mod convert;
mod input;
mod node;
mod scalar;
mod tabs;

pub(super) use self::build::{parse, parse_all};
#[cfg(test)]
pub(super) use self::convert::to_value;
pub(super) use self::convert::{Section, to_value_all};

/// Why a text is not well-formed YAML, or exceeds a bound of this reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) problem: String,
}

impl YamlError {
    pub(super) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self {
            line,
            problem: problem.into(),
        }
    }
}
