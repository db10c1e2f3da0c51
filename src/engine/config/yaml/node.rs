//! The tree: nodes with their lines, bounded in number and depth.
//!
//! It is three flat arrays rather than a heap of small pieces: it goes as it came, at once, and
//! the host's heap has neither grown for it nor holes where it was.

use std::io;

use super::super::issue::{Path, Step};
use super::super::section::Members;
use super::super::value::Value;
use super::YamlError;
use super::scalar::{Form, core_schema, is_string};
use crate::sys::pages::Pages;

/// The deepest nesting of lists and tables.
pub(super) const MAX_DEPTH: usize = 64;
/// The most nodes (keys, scalars, lists and tables), aliases expanded.
pub(super) const MAX_NODES: usize = 500_000;
/// The longest key, in bytes: what YAML allows a key on one line. Longer ones can stand in other
/// sections only.
pub(super) const MAX_KEY: usize = 1_024;

/// A whole document.
#[derive(Default)]
pub(in super::super) struct Tree {
    nodes: Pages<Record>,
    /// The nodes in each list, in the order of the text; of a table keys and values in turn.
    links: Pages<Id>,
    /// The texts of scalars.
    text: Pages<u8>,
    pub(super) root: Option<Id>,
}

/// Where in the tree a node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id(u32);

/// A part of one of the arrays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    length: u32,
}

/// What the tree keeps of a node.
#[derive(Clone, Copy, Debug)]
struct Record {
    line: u32,
    /// Nodes from here down, this one included, aliases expanded.
    size: u32,
    /// Levels from here down.
    depth: u8,
    content: Content,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Scalar(Span, Form<Span>),
    List(Span),
    Map(Span),
}

pub(super) fn too_deep(line: usize) -> YamlError {
    YamlError::new(line, format!("nested deeper than {MAX_DEPTH} levels"))
}

pub(super) fn too_large(line: usize) -> YamlError {
    let problem = format!("more than {MAX_NODES} values, those behind aliases counted each time");
    YamlError::new(line, problem)
}

pub(super) fn no_memory(line: usize) -> impl Fn(io::Error) -> YamlError {
    move |error| YamlError::new(line, format!("no memory to read it: {error}"))
}

impl Span {
    fn new(start: usize, end: usize) -> io::Result<Self> {
        let fits = |at: usize| u32::try_from(at).map_err(|_| io::ErrorKind::OutOfMemory);
        let (start, end) = (fits(start)?, fits(end)?);
        Ok(Self {
            start,
            length: end.saturating_sub(start),
        })
    }

    fn of<T>(self, array: &[T]) -> &[T] {
        let range = || {
            let start = usize::try_from(self.start).ok()?;
            Some(start..start.checked_add(usize::try_from(self.length).ok()?)?)
        };
        range().and_then(|range| array.get(range)).unwrap_or(&[])
    }

    fn length(self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    /// Looks at every byte of it.
    fn text(self, tree: &Tree) -> &str {
        std::str::from_utf8(self.of(&tree.text)).unwrap_or_default()
    }
}

impl Tree {
    /// Keeps a copy of a text.
    ///
    /// # Errors
    /// Where the system gives no memory.
    pub(super) fn keep(&mut self, text: &str) -> io::Result<Span> {
        let start = self.text.len();
        self.text.extend(text.as_bytes())?;
        Span::new(start, self.text.len())
    }

    /// Keeps what a list or table holds.
    ///
    /// # Errors
    /// Where the system gives no memory.
    pub(super) fn link(&mut self, nodes: &[Id]) -> io::Result<Span> {
        let start = self.links.len();
        self.links.extend(nodes)?;
        Span::new(start, self.links.len())
    }

    /// # Errors
    /// What exceeds a bound.
    pub(super) fn add(&mut self, line: usize, content: Content) -> Result<Id, YamlError> {
        let (mut size, mut depth) = (1_u32, 0_u8);
        if let Content::List(span) | Content::Map(span) = content {
            for id in span.of(&self.links) {
                let record = self.node(*id).record();
                size = size.saturating_add(record.size);
                depth = depth.max(record.depth);
            }
        }
        if usize::try_from(size).is_ok_and(|size| size > MAX_NODES) {
            return Err(too_large(line));
        }
        // Aliases can nest deeper than the text does.
        if usize::from(depth) >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        let id = u32::try_from(self.nodes.len()).map_err(|_| too_large(line))?;
        let record = Record {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            size,
            depth: depth.saturating_add(1),
            content,
        };
        self.nodes.push(record).map_err(no_memory(line))?;
        Ok(Id(id))
    }

    pub(super) fn node(&self, id: Id) -> Node<'_> {
        Node { tree: self, id }
    }

    pub(in super::super) fn root(&self) -> Node<'_> {
        self.node(self.root.unwrap_or(Id(u32::MAX)))
    }
}

/// One node and all below it.
#[derive(Clone, Copy)]
pub(in super::super) struct Node<'t> {
    tree: &'t Tree,
    pub(super) id: Id,
}

/// A node as it is to be read.
pub(super) enum View<'t> {
    Scalar(&'t str, Form<&'t str>),
    List(List<'t>),
    Map(List<'t>),
}

/// The nodes of a list, or the keys and values of a table.
#[derive(Clone, Copy)]
pub(super) struct List<'t> {
    tree: &'t Tree,
    ids: &'t [Id],
}

impl<'t> List<'t> {
    pub(super) fn len(self) -> usize {
        self.ids.len()
    }

    pub(super) fn get(self, index: usize) -> Option<Node<'t>> {
        self.ids.get(index).map(|id| self.tree.node(*id))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Node<'t>> {
        self.ids.iter().map(move |id| self.tree.node(*id))
    }

    /// Of a table.
    pub(super) fn entries(self) -> impl Iterator<Item = (Node<'t>, Node<'t>)> {
        let (pairs, _) = self.ids.as_chunks::<2>();
        pairs
            .iter()
            .map(move |[key, value]| (self.tree.node(*key), self.tree.node(*value)))
    }
}

impl<'t> Node<'t> {
    fn record(self) -> Record {
        let Id(at) = self.id;
        let record = usize::try_from(at)
            .ok()
            .and_then(|at| self.tree.nodes.get(at));
        // The tree gives out the places of its nodes alone.
        record.copied().unwrap_or(Record {
            line: 0,
            size: 1,
            depth: 1,
            content: Content::List(Span {
                start: 0,
                length: 0,
            }),
        })
    }

    /// Counted from 1.
    pub(super) fn line(self) -> usize {
        usize::try_from(self.record().line).unwrap_or(usize::MAX)
    }

    pub(super) fn view(self) -> View<'t> {
        let tree = self.tree;
        let text = |span: Span| span.text(tree);
        let list = |span: Span| List {
            tree,
            ids: span.of(&tree.links),
        };
        match self.record().content {
            Content::Scalar(span, form) => View::Scalar(text(span), form.map(text)),
            Content::List(span) => View::List(list(span)),
            Content::Map(span) => View::Map(list(span)),
        }
    }

    /// A key's text, if it is a scalar and short enough to be compared. Costs the same for any
    /// longer one: an alias makes a long key of a few bytes.
    pub(super) fn name(self) -> Option<&'t str> {
        self.key().map(|(name, _)| name)
    }

    fn key(self) -> Option<(&'t str, Form<Span>)> {
        match self.record().content {
            Content::Scalar(span, form) if span.length() <= MAX_KEY => {
                Some((span.text(self.tree), form))
            }
            _ => None,
        }
    }

    pub(super) fn is_scalar(self) -> bool {
        matches!(self.record().content, Content::Scalar(..))
    }

    /// Whether a key that has a name is text.
    pub(super) fn is_string(self) -> bool {
        self.key().is_some_and(|(name, form)| is_string(name, form))
    }

    pub(super) fn is_merge(self) -> bool {
        matches!(self.key(), Some(("<<", Form::Plain)))
    }

    /// The line of the value at `path`, or of the nearest one above it.
    pub(in super::super) fn line_at(self, path: &Path) -> usize {
        let mut at = self;
        for step in &path.0 {
            let next = match (at.view(), step) {
                (View::List(items), Step::Index(index)) => {
                    index.checked_sub(1).and_then(|index| items.get(index))
                }
                (_, Step::Key(name)) => at.entry(name),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at.line()
    }

    fn entry(self, name: &str) -> Option<Self> {
        let View::Map(list) = self.view() else {
            return None;
        };
        list.entries()
            .find(|(key, _)| key.name() == Some(name))
            .map(|(_, value)| value)
    }
}

impl Members for Node<'_> {
    fn member(self, name: &str) -> Option<Self> {
        let member = self.entry(name)?;
        let null = matches!(
            member.view(),
            View::Scalar(text, Form::Plain) if core_schema(text) == Value::Nil
        );
        (!null).then_some(member)
    }
}
