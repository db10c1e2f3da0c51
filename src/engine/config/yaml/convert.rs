//! Our section as a value, its variables replaced from the environment.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;

use super::super::env;
use super::super::issue::{Issue, Path, Step};
use super::super::server_items::{ServerItems, is_server_list};
use super::super::value::Value;
use super::node::{List, MAX_KEY, NodeView, YamlNode};
use super::scalar::{Form, core_schema};

/// The most text that our section may hold after replacement, in bytes.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// The most values that are reported as unreadable.
const MAX_ISSUES: usize = 1_000;

/// Our section. [`Section::value`] converts all of it except the items of the list of servers, which
/// [`ServerItems::each`] converts one at a time.
pub(in super::super) struct Section<'t> {
    reading: Reading<'t>,
    node: YamlNode<'t>,
    path: &'t Path,
}

impl<'t> Section<'t> {
    /// `path`: where in the file `node` is.
    pub(in super::super) fn new(
        node: YamlNode<'t>,
        path: &'t Path,
        env: &'t dyn Fn(&str) -> Option<OsString>,
    ) -> Self {
        Self {
            reading: Reading::new(env, 1),
            node,
            path,
        }
    }

    /// # Errors
    /// As [`to_value_all`] has them; the first of them.
    pub(in super::super) fn value(&self) -> Result<Value, Issue> {
        let value = self.reading.convert_section(self.node);
        self.reading
            .first_issue(value)
            .map_err(|issue| issue.within(self.path))
    }
}

impl ServerItems for Section<'_> {
    fn each(&self, path: &[Step], take: &mut dyn FnMut(Result<Value, Issue>) -> bool) {
        let Some([Step::Key(name)]) = path.strip_prefix(self.path.0.as_slice()) else {
            return;
        };
        let Some(NodeView::List(items)) = self.node.entry(name).map(YamlNode::view) else {
            return;
        };
        for item in items.iter() {
            let value = self.reading.convert(item);
            if !take(self.reading.first_issue(value)) {
                return;
            }
        }
    }
}

/// A node of our section as a value, its variables replaced.
///
/// # Errors
/// A key that is not a scalar, a scalar that does not fit its tag, a variable that is not set,
/// more text than the bound.
#[cfg(test)]
pub(in super::super) fn to_value(
    node: YamlNode<'_>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Value, Issue> {
    let (value, issues) = convert_all(node, path, env, 1);
    match issues.into_iter().next() {
        None => Ok(value),
        Some(first) => Err(first),
    }
}

/// Like [`to_value`], but does not stop at the first error: returns the value without what cannot be read,
/// and all errors.
pub(in super::super) fn to_value_all(
    node: YamlNode<'_>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> (Value, Vec<Issue>) {
    convert_all(node, path, env, MAX_ISSUES)
}

fn convert_all(
    node: YamlNode<'_>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
    max_issues: usize,
) -> (Value, Vec<Issue>) {
    let reading = Reading::new(env, max_issues);
    let value = reading.convert(node).unwrap_or_else(|issue| {
        reading.issues.borrow_mut().push(issue);
        Value::Nil
    });
    let issues = reading.issues.into_inner();
    let placed = issues.into_iter().map(|issue| issue.within(path));
    (value, placed.collect())
}

/// The state that the conversions of all values of a section share.
struct Reading<'t> {
    env: &'t dyn Fn(&str) -> Option<OsString>,
    /// How many more bytes of text may be read.
    room: Cell<usize>,
    /// Why values could not be read; paths begin at the value that is being converted.
    issues: RefCell<Vec<Issue>>,
    /// After this many issues no further value is converted.
    max_issues: usize,
}

impl<'t> Reading<'t> {
    fn new(env: &'t dyn Fn(&str) -> Option<OsString>, max_issues: usize) -> Self {
        Self {
            env,
            room: Cell::new(MAX_TEXT),
            issues: RefCell::default(),
            max_issues,
        }
    }

    /// The value, unless something in it could not be read.
    fn first_issue(&self, value: Result<Value, Issue>) -> Result<Value, Issue> {
        match self.issues.take().into_iter().next() {
            None => value,
            Some(first) => Err(first),
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Issue> {
        let left = self.room.get().checked_sub(bytes);
        self.room
            .set(left.ok_or_else(|| Issue::new(too_much_text()))?);
        Ok(())
    }

    /// Converts a value inside another one. One that cannot be read is absent from it.
    fn below(
        &self,
        convert: impl FnOnce() -> Result<Value, Issue>,
        step: impl Fn() -> Step,
    ) -> Value {
        let known = self.issues.borrow().len();
        if known >= self.max_issues {
            return Value::Nil;
        }
        let value = convert();
        let mut issues = self.issues.borrow_mut();
        let value = value.unwrap_or_else(|issue| {
            issues.push(issue);
            Value::Nil
        });
        for issue in issues.iter_mut().skip(known) {
            *issue = issue.clone().under(step());
        }
        value
    }

    /// The paths of its errors begin at `node`.
    fn convert(&self, node: YamlNode<'_>) -> Result<Value, Issue> {
        match node.view() {
            NodeView::Scalar(text, form) => {
                self.take(text.len())?;
                let value =
                    scalar_value(text, form, self.env, self.room.get()).map_err(Issue::new)?;
                if let Value::Env { text, .. } = &value {
                    self.take(text.len())?;
                }
                Ok(value)
            }
            NodeView::List(items) => {
                let items = items.iter().enumerate();
                let convert = |(at, item)| self.below(|| self.convert(item), || Step::item(at));
                Ok(Value::List(items.map(convert).collect()))
            }
            NodeView::Map(entries) => self.convert_map(entries, |_, value| self.convert(value)),
        }
    }

    /// Like [`Self::convert`], for the section: the list of servers becomes [`Value::Deferred`].
    fn convert_section(&self, node: YamlNode<'_>) -> Result<Value, Issue> {
        match node.view() {
            NodeView::Map(entries) => self.convert_map(entries, |name, value| match value.view() {
                NodeView::List(items) if is_server_list(name) => Ok(Value::Deferred(items.len())),
                _ => self.convert(value),
            }),
            _ => self.convert(node),
        }
    }

    /// A table; `convert` makes the value of each entry, given its name and its node.
    fn convert_map(
        &self,
        entries: List<'_>,
        convert: impl Fn(&str, YamlNode<'_>) -> Result<Value, Issue>,
    ) -> Result<Value, Issue> {
        let entry = |(key, value): (YamlNode<'_>, YamlNode<'_>)| {
            let Some(name) = key.name() else {
                return Err(Issue::new(key_problem(key)));
            };
            self.take(name.len())?;
            let value = self.below(|| convert(name, value), || Step::Key(name.to_owned()));
            Ok((name.to_owned(), value))
        };
        let entries: Result<_, Issue> = entries.entries().map(entry).collect();
        entries.map(Value::Map)
    }
}

fn too_much_text() -> String {
    format!("section of at most {MAX_TEXT} bytes expected, got more")
}

fn scalar_value(
    text: &str,
    form: Form<&str>,
    env: &dyn Fn(&str) -> Option<OsString>,
    room: usize,
) -> Result<Value, String> {
    let expanded = env::expand(text, env, room)?;
    match (form, expanded) {
        (Form::Foreign(tag), _) => Err(format!("unknown tag {tag}")),
        (Form::Tagged(tag), expanded) => {
            let value = core_schema(expanded.as_ref().map_or(text, |e| &e.text));
            let fits = match tag {
                "int" => matches!(value, Value::Int(_)),
                "float" => matches!(value, Value::Int(_) | Value::Float(_)),
                "bool" => matches!(value, Value::Bool(_)),
                _ => value == Value::Nil,
            };
            fits.then_some(value)
                .ok_or_else(|| format!("{tag} expected, as the tag !!{tag} says"))
        }
        (_, Some(expanded)) if expanded.replaced => Ok(Value::Env {
            text: expanded.text,
            template: text.to_owned(),
        }),
        (_, Some(expanded)) => Ok(Value::Str(expanded.text)),
        (Form::Text, None) => Ok(Value::Str(text.to_owned())),
        (Form::Plain, None) => Ok(core_schema(text)),
    }
}

fn key_problem(key: YamlNode<'_>) -> String {
    match key.view() {
        NodeView::Scalar(..) => format!("key of at most {MAX_KEY} bytes expected, got more"),
        NodeView::List(_) => "key that is a name expected, got list".to_owned(),
        NodeView::Map(_) => "key that is a name expected, got table".to_owned(),
    }
}
