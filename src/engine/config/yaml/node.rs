//! The tree: nodes with their lines, bounded in number and depth.
//!
//! It is three flat arrays rather than a heap of small pieces: a node takes little memory, and all of it is
//! freed at once.

use zeroize::Zeroizing;

use super::super::issue::{Path, Step};
use super::super::section::{MAX_NAMES, Members};
use super::super::value::Value;
use super::YamlError;
use super::scalar::{Form, core_schema, is_string};

/// The deepest nesting of lists and tables.
pub(super) const MAX_DEPTH: usize = 64;
/// The most nodes (keys, scalars, lists and tables), aliases expanded.
pub(super) const MAX_NODES: usize = 500_000;
/// The longest key, in bytes: YAML's own limit for a key on one line. Longer keys are accepted in sections
/// that are not read.
pub(super) const MAX_KEY: usize = 1_024;

/// A whole document.
#[derive(Default)]
pub(in super::super) struct Tree {
    nodes: Vec<Record>,
    /// The nodes in each list, in the order of the text; of a table keys and values in turn.
    links: Vec<Id>,
    /// The texts of scalars, passwords among them.
    text: Zeroizing<String>,
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

/// A node as the tree stores it.
#[derive(Clone, Copy, Debug)]
struct Record {
    line: u32,
    /// The number of nodes in this subtree, with aliases expanded.
    size: u32,
    /// The number of levels of this subtree.
    depth: u8,
    content: NodeContent,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum NodeContent {
    Scalar(Span, Form<Span>),
    List(Span),
    Map(Span),
}

pub(super) fn too_deep(line: usize) -> YamlError {
    YamlError::new(line, format!("nested deeper than {MAX_DEPTH} levels"))
}

pub(super) fn too_large(line: usize) -> YamlError {
    let problem =
        format!("more than {MAX_NODES} values; what an alias stands for counts at each place");
    YamlError::new(line, problem)
}

impl Span {
    /// The part of an array from `start` to `end`. Both fit into `u32`: a text has at most
    /// [`MAX_BYTES`](super::super::MAX_BYTES) bytes, a tree at most [`MAX_NODES`] nodes.
    fn from(start: usize, end: usize) -> Self {
        let fit = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: fit(start),
            length: fit(end.saturating_sub(start)),
        }
    }

    fn range(self) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(self.start).ok()?;
        Some(start..start.checked_add(self.length())?)
    }

    fn of<T>(self, array: &[T]) -> &[T] {
        self.range()
            .and_then(|range| array.get(range))
            .unwrap_or(&[])
    }

    fn length(self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    fn text(self, tree: &Tree) -> &str {
        self.range()
            .and_then(|range| tree.text.get(range))
            .unwrap_or_default()
    }
}

impl Tree {
    /// A tree of a text of this length, in bytes.
    pub(super) fn with_text_of(length: usize) -> Self {
        Self {
            // Room for all scalars: a buffer that grows leaves copies of passwords in freed memory that
            // are not wiped.
            text: Zeroizing::new(String::with_capacity(length)),
            ..Self::default()
        }
    }

    /// Keeps a copy of a text.
    pub(super) fn keep(&mut self, text: &str) -> Span {
        let start = self.text.len();
        self.text.push_str(text);
        Span::from(start, self.text.len())
    }

    /// Keeps what a list or table holds.
    pub(super) fn link(&mut self, nodes: &[Id]) -> Span {
        let start = self.links.len();
        self.links.extend_from_slice(nodes);
        Span::from(start, self.links.len())
    }

    /// # Errors
    /// The tree would exceed a bound.
    pub(super) fn add(&mut self, line: usize, content: NodeContent) -> Result<Id, YamlError> {
        let (mut size, mut depth) = (1_u32, 0_u8);
        if let NodeContent::List(span) | NodeContent::Map(span) = content {
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
        self.nodes.push(record);
        Ok(Id(id))
    }

    pub(super) fn node(&self, id: Id) -> YamlNode<'_> {
        YamlNode { tree: self, id }
    }

    pub(in super::super) fn root(&self) -> YamlNode<'_> {
        self.node(self.root.unwrap_or(Id(u32::MAX)))
    }
}

/// A node of a tree: gives access to the whole subtree.
#[derive(Clone, Copy)]
pub(in super::super) struct YamlNode<'t> {
    tree: &'t Tree,
    pub(super) id: Id,
}

/// The content of a node.
pub(super) enum NodeView<'t> {
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

    pub(super) fn get(self, index: usize) -> Option<YamlNode<'t>> {
        self.ids.get(index).map(|id| self.tree.node(*id))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = YamlNode<'t>> {
        self.ids.iter().map(move |id| self.tree.node(*id))
    }

    /// Of a table.
    pub(super) fn entries(self) -> impl Iterator<Item = (YamlNode<'t>, YamlNode<'t>)> {
        let (pairs, _) = self.ids.as_chunks::<2>();
        pairs
            .iter()
            .map(move |[key, value]| (self.tree.node(*key), self.tree.node(*value)))
    }
}

impl<'t> YamlNode<'t> {
    fn record(self) -> Record {
        let Id(at) = self.id;
        let record = usize::try_from(at)
            .ok()
            .and_then(|at| self.tree.nodes.get(at));
        // The fallback is never used: every id comes from the tree itself.
        record.copied().unwrap_or(Record {
            line: 0,
            size: 1,
            depth: 1,
            content: NodeContent::List(Span {
                start: 0,
                length: 0,
            }),
        })
    }

    /// Counted from 1.
    pub(super) fn line(self) -> usize {
        usize::try_from(self.record().line).unwrap_or(usize::MAX)
    }

    pub(super) fn view(self) -> NodeView<'t> {
        let tree = self.tree;
        let text = |span: Span| span.text(tree);
        let list = |span: Span| List {
            tree,
            ids: span.of(&tree.links),
        };
        match self.record().content {
            NodeContent::Scalar(span, form) => NodeView::Scalar(text(span), form.map(text)),
            NodeContent::List(span) => NodeView::List(list(span)),
            NodeContent::Map(span) => NodeView::Map(list(span)),
        }
    }

    /// A key's text, if it is a scalar of at most [`MAX_KEY`] bytes. The text of a longer key is not read:
    /// with aliases a short file can use a long key many times.
    pub(super) fn name(self) -> Option<&'t str> {
        self.key().map(|(name, _)| name)
    }

    fn key(self) -> Option<(&'t str, Form<Span>)> {
        match self.record().content {
            NodeContent::Scalar(span, form) if span.length() <= MAX_KEY => {
                Some((span.text(self.tree), form))
            }
            _ => None,
        }
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
                (NodeView::List(items), Step::Index(index)) => {
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

    pub(super) fn entry(self, name: &str) -> Option<Self> {
        let NodeView::Map(list) = self.view() else {
            return None;
        };
        list.entries()
            .find(|(key, _)| key.name() == Some(name))
            .map(|(_, value)| value)
    }
}

impl Members for YamlNode<'_> {
    fn member(self, name: &str) -> Option<Self> {
        let member = self.entry(name)?;
        let null = matches!(
            member.view(),
            NodeView::Scalar(text, Form::Plain) if core_schema(text) == Value::Nil
        );
        (!null).then_some(member)
    }

    fn names(self) -> Vec<String> {
        let NodeView::Map(list) = self.view() else {
            return Vec::new();
        };
        list.entries()
            .take(MAX_NAMES)
            .filter_map(|(key, _)| key.name().map(str::to_owned))
            .collect()
    }
}
