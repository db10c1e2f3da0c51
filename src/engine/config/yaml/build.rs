//! From the parser's events to the tree.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScanError};
use zeroize::Zeroizing;

use super::super::value::shortened;
use super::YamlError;
use super::node::{Content, Entry, MAX_DEPTH, MAX_NODES, Node, too_deep, too_large};
use super::scalar::{Scalar, form};

/// The longest `%TAG` directive, in bytes. The parser copies it for each tag that uses it.
const MAX_DIRECTIVE: usize = 512;

/// The one document of a text.
///
/// # Errors
/// Text that is not well-formed, has duplicate keys or several documents, or exceeds a bound.
pub(in super::super) fn parse(text: &str) -> Result<Rc<Node>, YamlError> {
    bounded_directives(text)?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|error| malformed(&error))?;
        builder.take(event, span.start.line())?;
    }
    builder
        .root
        .ok_or_else(|| YamlError::new(1, "table expected, got an empty document"))
}

fn bounded_directives(text: &str) -> Result<(), YamlError> {
    for (at, _) in text.match_indices("%TAG") {
        let (before, from) = text.split_at(at);
        if from.find(['\n', '\r']).unwrap_or(from.len()) > MAX_DIRECTIVE {
            let problem = format!("%TAG of at most {MAX_DIRECTIVE} bytes expected, got more");
            return Err(YamlError::new(before.matches('\n').count() + 1, problem));
        }
    }
    Ok(())
}

fn malformed(error: &ScanError) -> YamlError {
    let problem = format!("not YAML: {}", shortened(error.info()));
    YamlError::new(error.marker().line(), problem)
}

/// Puts a document together from the parser's events.
#[derive(Default)]
struct Builder {
    /// What is open, the outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    documents: usize,
    /// Entries that merge keys have looked at, in the whole document.
    merged: usize,
}

/// A list or table whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Rc<Node>>),
    Map {
        entries: Vec<Entry>,
        /// The key whose value comes next.
        key: Option<Rc<Node>>,
        /// Keys so far: whether they are strings, and their text.
        seen: HashSet<(bool, String)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(YamlError::new(line, "one document expected, got another"));
                }
            }
            Event::Alias(anchor) => {
                // The parser refuses unknown names, so that one is open still.
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| {
                    YamlError::new(line, "an alias cannot stand inside what it names")
                })?;
                self.add(node, line)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar {
                    form: form(style, tag.as_deref()),
                    text: Zeroizing::new(text.into_owned()),
                };
                self.finish(line, anchor, Content::Scalar(scalar))?;
            }
            Event::SequenceStart(anchor, _) => {
                self.start(line, anchor, Items::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, _) => {
                let items = Items::Map {
                    entries: Vec::new(),
                    key: None,
                    seen: HashSet::new(),
                };
                self.start(line, anchor, items)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let content = match open.items {
                        Items::List(items) => Content::List(items),
                        Items::Map { entries, .. } => Content::Map(self.merge(entries)?),
                    };
                    self.finish(open.line, open.anchor, content)?;
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn start(&mut self, line: usize, anchor: usize, items: Items) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.open.push(Open {
            line,
            anchor,
            items,
        });
        Ok(())
    }

    fn finish(&mut self, line: usize, anchor: usize, content: Content) -> Result<(), YamlError> {
        let node = Rc::new(Node::new(line, content)?);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.add(node, line)
    }

    fn add(&mut self, node: Rc<Node>, line: usize) -> Result<(), YamlError> {
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.root = Some(node),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map { entries, key, seen }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    if let Some((string, name)) = node.identity()
                        && !seen.insert((string, name.to_owned()))
                    {
                        let problem = format!("{}: given twice", shortened(name));
                        return Err(YamlError::new(line, problem));
                    }
                    *key = Some(node);
                }
            },
        }
        Ok(())
    }

    /// Resolves merge keys: an entry's own keys win over merged ones, earlier merges over later.
    /// Unlike an alias this copies, so what it looks at is counted at once.
    fn merge(&mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, YamlError> {
        let (merges, mut own): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(key, _)| key.is_merge());
        let Some((_, source)) = merges.first() else {
            return Ok(own);
        };
        let sources: &[Rc<Node>] = match &source.content {
            Content::List(items) => items,
            _ => std::slice::from_ref(source),
        };
        let mut names: HashSet<String> = own
            .iter()
            .filter_map(|(key, _)| Some(key.name()?.to_owned()))
            .collect();
        for node in sources {
            let Content::Map(entries) = &node.content else {
                return Err(YamlError::new(source.line, "<<: table expected to merge"));
            };
            self.merged = self.merged.saturating_add(entries.len());
            if self.merged > MAX_NODES {
                return Err(too_large(source.line));
            }
            for (key, value) in entries {
                if key.name().is_none_or(|name| names.insert(name.to_owned())) {
                    own.push((Rc::clone(key), Rc::clone(value)));
                }
            }
        }
        Ok(own)
    }
}
