//! From the parser's events to the tree.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use saphyr_parser::{Event, Parser, ScanError};
use zeroize::Zeroizing;

use super::super::text::{one_line, shortened};
use super::YamlError;
use super::input::TextInput;
use super::node::{Id, MAX_DEPTH, MAX_NODES, NodeContent, NodeView, Tree, YamlNode};
use super::node::{too_deep, too_large};
use super::scalar::form;
use super::tabs::Indents;

/// The longest `%TAG` directive, in bytes. The parser copies it for each tag that uses it.
const MAX_DIRECTIVE: usize = 512;

/// The one document of a text.
///
/// # Errors
/// Text that is not well-formed, has duplicate keys or several documents, or exceeds a bound.
pub(in super::super) fn parse(text: &str) -> Result<Tree, YamlError> {
    let (tree, duplicates) = parse_all(text)?;
    match duplicates.into_iter().next() {
        None => Ok(tree),
        Some(first) => Err(first),
    }
}

/// The one document of a text, and its duplicate keys in the order of their lines. A document with
/// duplicate keys holds all of their values, so its user has to read each of them.
///
/// # Errors
/// Text that is not well-formed, has several documents, or exceeds a bound.
pub(in super::super) fn parse_all(text: &str) -> Result<(Tree, Vec<YamlError>), YamlError> {
    bounded_directives(text)?;
    let mut builder = Builder {
        tree: Tree::with_text_of(text.len()),
        ..Builder::default()
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut indents = Indents::new(text);
    for event in Parser::new(TextInput::new(text)) {
        let taken = event
            .map_err(|error| malformed(&error, text))
            .and_then(|(event, span)| {
                indents.check(&event, span.end)?;
                builder.take(event, span.start.line())
            });
        if let Err(error) = taken {
            // A duplicate key was found earlier in the text, so it is the mistake to report first.
            return Err(builder.duplicates.into_iter().next().unwrap_or(error));
        }
    }
    match builder.tree.root {
        Some(_) => Ok((builder.tree, builder.duplicates)),
        None => Err(YamlError::new(1, "table expected, got an empty document")),
    }
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

fn malformed(error: &ScanError, text: &str) -> YamlError {
    let (line, info) = (error.marker().line(), error.info());
    // The parser names the line at which the value before the tab begins.
    if info.contains("tab")
        && let Some(indented) = line_with_tab_in_indent(text, line)
    {
        return YamlError::new(
            indented,
            "not YAML: spaces expected before the key, got a tab",
        );
    }
    YamlError::new(line, format!("not YAML: {}", one_line(info)))
}

/// The first line, from number `from` on, that has more than white space and a tab before it.
fn line_with_tab_in_indent(text: &str, from: usize) -> Option<usize> {
    text.lines()
        .enumerate()
        .skip(from.saturating_sub(1))
        .find(|(_, line)| {
            let content = line.trim_start_matches([' ', '\t']);
            let indent = line.len() - content.len();
            !content.trim().is_empty() && line.as_bytes().iter().take(indent).any(|&b| b == b'\t')
        })
        .map(|(index, _)| index + 1)
}

/// The most duplicate keys that are reported.
const MAX_DUPLICATES: usize = 1_000;

/// A table with at least this many keys finds duplicates by hash; smaller ones by comparing all keys.
const FEW: usize = 16;

/// Puts a document together from the parser's events.
#[derive(Default)]
struct Builder {
    tree: Tree,
    /// The lists and tables whose end has not been parsed yet, the outermost first.
    open: Vec<Open>,
    /// The nodes read so far in the open lists and tables, those of the innermost last.
    inside: Vec<Id>,
    anchors: HashMap<usize, Id>,
    hasher: RandomState,
    documents: usize,
    duplicates: Vec<YamlError>,
    /// How many entries merge keys have copied or skipped, in the whole document.
    merged: usize,
}

/// A list or table whose end has not been parsed yet.
struct Open {
    line: usize,
    anchor: usize,
    /// Where in `inside` it begins.
    start: usize,
    kind: Kind,
}

enum Kind {
    List,
    /// With the first key of each hash, where the keys are many.
    Map(HashMap<u64, Id>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(YamlError::new(
                        line,
                        "a second YAML document begins here; the file must have one",
                    ));
                }
            }
            Event::Alias(anchor) => {
                // The parser refuses unknown anchors, so this one belongs to a node that is still open.
                let node = self.anchors.get(&anchor).copied().ok_or_else(|| {
                    YamlError::new(
                        line,
                        "this alias names a value that contains the alias itself",
                    )
                })?;
                self.add(node, line)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text = Zeroizing::new(text.into_owned());
                let mut keep = |text: &str| self.tree.keep(text);
                let form = form(style, tag.as_deref()).map(|tag| keep(&tag));
                let text = keep(&text);
                self.finish(line, anchor, NodeContent::Scalar(text, form))?;
            }
            Event::SequenceStart(anchor, _) => self.start(line, anchor, Kind::List)?,
            Event::MappingStart(anchor, _) => {
                self.start(line, anchor, Kind::Map(HashMap::new()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let content = self.close(&open)?;
                    self.inside.truncate(open.start);
                    self.finish(open.line, open.anchor, content)?;
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn start(&mut self, line: usize, anchor: usize, kind: Kind) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.open.push(Open {
            line,
            anchor,
            start: self.inside.len(),
            kind,
        });
        Ok(())
    }

    fn finish(
        &mut self,
        line: usize,
        anchor: usize,
        content: NodeContent,
    ) -> Result<(), YamlError> {
        let node = self.tree.add(line, content)?;
        if anchor > 0 {
            self.anchors.insert(anchor, node);
        }
        self.add(node, line)
    }

    fn add(&mut self, node: Id, line: usize) -> Result<(), YamlError> {
        let Some(open) = self.open.last_mut() else {
            self.tree.root = Some(node);
            return Ok(());
        };
        if let Kind::Map(firsts) = &mut open.kind {
            let before = self.inside.get(open.start..).unwrap_or_default();
            // Keys and values alternate, so an even count means that this node is a key.
            if before.len().is_multiple_of(2) {
                let keys = before.iter().step_by(2);
                let checked = check_new(&self.tree, node, keys, firsts, &self.hasher);
                if let Err(name) = checked
                    && self.duplicates.len() < MAX_DUPLICATES
                {
                    let twice = YamlError::new(line, format!("{name}: given twice"));
                    self.duplicates.push(twice);
                }
            }
        }
        self.inside.push(node);
        Ok(())
    }

    /// Called at the end of a list or table: makes its content of the nodes that were parsed since its beginning.
    fn close(&mut self, open: &Open) -> Result<NodeContent, YamlError> {
        let inside = self.inside.get(open.start..).unwrap_or_default();
        if let Kind::List = open.kind {
            return Ok(NodeContent::List(self.tree.link(inside)));
        }
        let is_merge = |key: &Id| self.tree.node(*key).is_merge();
        let linked = if inside.iter().step_by(2).any(is_merge) {
            let merged = merge(&self.tree, inside, &mut self.merged)?;
            self.tree.link(&merged)
        } else {
            self.tree.link(inside)
        };
        Ok(NodeContent::Map(linked))
    }
}

/// Checks that a key is not among those before it. In a large table it is compared with one of them at most,
/// also where one key occurs many times.
///
/// # Errors
/// Its name, for an error.
fn check_new<'i>(
    tree: &Tree,
    key: Id,
    before: impl ExactSizeIterator<Item = &'i Id> + Clone,
    firsts: &mut HashMap<u64, Id>,
    hasher: &RandomState,
) -> Result<(), String> {
    // `1` and `"1"` are two keys.
    let identity = |id: Id| {
        let key = tree.node(id);
        Some((key.name()?, key.is_string()))
    };
    let Some(own) = identity(key) else {
        return Ok(());
    };
    let is_same = |other: Id| identity(other) == Some(own);
    let twice = || Err(shortened(own.0));
    if before.len() >= FEW {
        if firsts.is_empty() {
            for id in before.clone() {
                if let Some(earlier) = identity(*id) {
                    firsts.entry(hasher.hash_one(earlier)).or_insert(*id);
                }
            }
        }
        match firsts.entry(hasher.hash_one(own)) {
            Entry::Vacant(place) => {
                place.insert(key);
                return Ok(());
            }
            Entry::Occupied(first) if is_same(*first.get()) => return twice(),
            // Two keys with one hash: the comparison below decides.
            Entry::Occupied(_) => {}
        }
    }
    if before.copied().any(is_same) {
        return twice();
    }
    Ok(())
}

/// Resolves merge keys: a table's own keys win over merged ones, earlier merges over later ones. Unlike
/// an alias, a merge copies the entries. So each entry counts towards the bound in `examined` at once.
fn merge(tree: &Tree, entries: &[Id], examined: &mut usize) -> Result<Vec<Id>, YamlError> {
    let (pairs, _) = entries.as_chunks::<2>();
    let (merges, own): (Vec<[Id; 2]>, Vec<_>) = pairs
        .iter()
        .partition(|[key, _]| tree.node(*key).is_merge());
    let mut all: Vec<Id> = own.into_iter().flatten().collect();
    let Some([_, source]) = merges.first() else {
        return Ok(all);
    };
    let mut names: HashSet<&str> = all
        .iter()
        .step_by(2)
        .filter_map(|key| tree.node(*key).name())
        .collect();
    let source = tree.node(*source);
    let mut take = |node: YamlNode<'_>| {
        let NodeView::Map(entries) = tree.node(node.id).view() else {
            return Err(YamlError::new(source.line(), "<<: table expected to merge"));
        };
        *examined = examined.saturating_add(entries.len() / 2);
        if *examined > MAX_NODES {
            return Err(too_large(source.line()));
        }
        for (key, value) in entries.entries() {
            if key.name().is_none_or(|name| names.insert(name)) {
                all.extend([key.id, value.id]);
            }
        }
        Ok(())
    };
    match source.view() {
        NodeView::List(items) => items.iter().try_for_each(take)?,
        _ => take(source)?,
    }
    Ok(all)
}
