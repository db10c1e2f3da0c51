//! Our section as a value, its variables replaced from the environment.

use std::cell::{Cell, RefCell};

use super::super::env;
use super::super::issue::{Issue, Path, Step};
use super::super::value::Value;
use super::node::{MAX_KEY, NodeView, YamlNode};
use super::scalar::{Form, core_schema};

/// The most text that our section may hold after replacement, in bytes.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// The most values that are named as unreadable.
const MAX_ISSUES: usize = 1_000;

/// A node of our section as a value, its variables replaced.
///
/// # Errors
/// A key that is not a scalar, a scalar that does not fit its tag, a variable that is not set,
/// more text than the bound.
pub(in super::super) fn to_value(
    node: YamlNode<'_>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Value, Issue> {
    let (value, issues) = convert_all(node, path, env, 1);
    match issues.into_iter().next() {
        None => Ok(value),
        Some(first) => Err(first),
    }
}

/// The same, with nothing in the place of each value that cannot be read, and all the reasons.
pub(in super::super) fn to_value_all(
    node: YamlNode<'_>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Value, Vec<Issue>) {
    convert_all(node, path, env, MAX_ISSUES)
}

fn convert_all(
    node: YamlNode<'_>,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    max_issues: usize,
) -> (Value, Vec<Issue>) {
    let reading = Reading {
        env,
        room: Cell::new(MAX_TEXT),
        issues: RefCell::default(),
        max_issues,
    };
    let value = reading.convert(node).unwrap_or_else(|issue| {
        reading.issues.borrow_mut().push(issue);
        Value::Nil
    });
    let issues = reading.issues.into_inner();
    let placed = issues.into_iter().map(|issue| issue.within(path));
    (value, placed.collect())
}

/// What the conversion of all values of a section shares.
struct Reading<'t> {
    env: &'t dyn Fn(&str) -> Option<String>,
    /// How many more bytes of text may be read.
    room: Cell<usize>,
    /// Why values could not be read; paths begin at the value that is being converted.
    issues: RefCell<Vec<Issue>>,
    /// After so many, values are not converted any more.
    max_issues: usize,
}

impl Reading<'_> {
    fn take(&self, bytes: usize) -> Result<(), Issue> {
        let left = self.room.get().checked_sub(bytes);
        self.room
            .set(left.ok_or_else(|| Issue::new(too_much_text()))?);
        Ok(())
    }

    /// Converts a value inside another one. One that cannot be read is absent from it.
    fn convert_below(&self, node: YamlNode<'_>, step: impl Fn() -> Step) -> Value {
        let known = self.issues.borrow().len();
        if known >= self.max_issues {
            return Value::Nil;
        }
        let value = self.convert(node);
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
                let convert = |(at, item)| self.convert_below(item, || Step::item(at));
                Ok(Value::List(items.map(convert).collect()))
            }
            NodeView::Map(entries) => entries
                .entries()
                .map(|(key, value)| {
                    let Some(name) = key.name() else {
                        return Err(Issue::new(key_problem(key)));
                    };
                    self.take(name.len())?;
                    let value = self.convert_below(value, || Step::Key(name.to_owned()));
                    Ok((name.to_owned(), value))
                })
                .collect::<Result<_, _>>()
                .map(Value::Map),
        }
    }
}

fn too_much_text() -> String {
    format!("section of at most {MAX_TEXT} bytes expected, got more")
}

fn scalar_value(
    text: &str,
    form: Form<&str>,
    env: &dyn Fn(&str) -> Option<String>,
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
