//! The tree: nodes with their lines, bounded in number and depth.

use std::rc::Rc;

use super::super::issue::{Path, Step};
use super::super::section::Tree;
use super::super::value::Value;
use super::YamlError;
use super::scalar::{Form, Scalar, core_schema};

/// The deepest nesting of lists and tables.
pub(super) const MAX_DEPTH: usize = 64;
/// The most nodes (keys, scalars, lists and tables), aliases expanded.
pub(super) const MAX_NODES: usize = 500_000;
/// The longest key, in bytes: what YAML allows a key on one line. Longer ones can stand in other
/// sections only.
pub(super) const MAX_KEY: usize = 1_024;

/// One node and all below it.
#[derive(Debug)]
pub(in super::super) struct Node {
    pub(super) line: usize,
    /// Nodes from here down, this one included, aliases expanded.
    size: usize,
    /// Levels from here down.
    depth: usize,
    pub(super) content: Content,
}

/// A key and its value.
pub(super) type Entry = (Rc<Node>, Rc<Node>);

#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

pub(super) fn too_deep(line: usize) -> YamlError {
    YamlError::new(line, format!("nested deeper than {MAX_DEPTH} levels"))
}

pub(super) fn too_large(line: usize) -> YamlError {
    let problem = format!("more than {MAX_NODES} values, those behind aliases counted each time");
    YamlError::new(line, problem)
}

impl Node {
    pub(super) fn new(line: usize, content: Content) -> Result<Self, YamlError> {
        let (mut size, mut depth) = (1_usize, 0);
        let mut count = |node: &Self| {
            size = size.saturating_add(node.size);
            depth = depth.max(node.depth);
        };
        match &content {
            Content::Scalar(_) => {}
            Content::List(items) => items.iter().for_each(|item| count(item)),
            Content::Map(entries) => entries.iter().for_each(|(key, value)| {
                count(key);
                count(value);
            }),
        }
        if size > MAX_NODES {
            return Err(too_large(line));
        }
        // Aliases can nest deeper than the text does.
        if depth >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        Ok(Self {
            line,
            size,
            depth: depth + 1,
            content,
        })
    }

    /// A key's text, if it is a scalar and short enough to be compared.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) if scalar.text.len() <= MAX_KEY => Some(&scalar.text),
            _ => None,
        }
    }

    /// What makes two keys the same: `1` and `"1"` are two.
    pub(super) fn identity(&self) -> Option<(bool, &str)> {
        let Content::Scalar(scalar) = &self.content else {
            return None;
        };
        self.name().map(|name| (scalar.is_string(), name))
    }

    pub(super) fn is_merge(&self) -> bool {
        matches!(&self.content, Content::Scalar(s) if s.form == Form::Plain && *s.text == "<<")
    }

    /// The line of the value at `path`, or of the nearest one above it.
    pub(in super::super) fn line_at(&self, path: &Path) -> usize {
        let mut at = self;
        for step in &path.0 {
            let next = match (&at.content, step) {
                (Content::List(items), Step::Index(index)) => index
                    .checked_sub(1)
                    .and_then(|index| items.get(index))
                    .map(Rc::as_ref),
                (_, Step::Key(name)) => at.entry(name),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at.line
    }

    fn entry(&self, name: &str) -> Option<&Self> {
        let Content::Map(entries) = &self.content else {
            return None;
        };
        entries
            .iter()
            .find(|(key, _)| key.name() == Some(name))
            .map(|(_, value)| value.as_ref())
    }
}

impl Tree for Node {
    fn member(&self, name: &str) -> Option<&Self> {
        let member = self.entry(name)?;
        let null = matches!(
            &member.content,
            Content::Scalar(s) if s.form == Form::Plain && core_schema(&s.text) == Value::Nil
        );
        (!null).then_some(member)
    }
}
