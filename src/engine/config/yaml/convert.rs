//! Our section as a value, its variables replaced from the environment.

use super::super::env;
use super::super::issue::{Issue, Path, Step};
use super::super::value::{Value, shortened};
use super::node::{Content, MAX_KEY, Node};
use super::scalar::{Form, Scalar, core_schema};

/// The most text that our section may hold after replacement, in bytes.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// A node of our section as a value, its variables replaced.
///
/// # Errors
/// A key that is not a scalar, a scalar that does not fit its tag, a variable that is not set,
/// more text than the bound.
pub(in super::super) fn to_value(
    node: &Node,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Value, Issue> {
    let mut room = MAX_TEXT;
    convert(node, env, &mut room).map_err(|mut issue| {
        let within = std::mem::take(&mut issue.path.0);
        issue.path.0.extend(path.0.iter().cloned().chain(within));
        issue
    })
}

/// The issue's path begins at `node`: a path that is made only when needed costs nothing where
/// there are many nodes.
fn convert(
    node: &Node,
    env: &dyn Fn(&str) -> Option<String>,
    room: &mut usize,
) -> Result<Value, Issue> {
    let issue = |problem: String| Path::default().issue(problem);
    let under = |mut issue: Issue, step: Step| {
        issue.path.0.insert(0, step);
        issue
    };
    let take = |room: &mut usize, bytes: usize| {
        *room = room
            .checked_sub(bytes)
            .ok_or_else(|| issue(too_much_text()))?;
        Ok(())
    };
    match &node.content {
        Content::Scalar(scalar) => {
            take(room, scalar.text.len())?;
            let value = scalar_value(scalar, env, *room).map_err(issue)?;
            if let Value::Env { text, .. } = &value {
                take(room, text.len())?;
            }
            Ok(value)
        }
        Content::List(items) => items
            .iter()
            .enumerate()
            .map(|(at, item)| {
                convert(item, env, room).map_err(|found| under(found, Step::Index(at + 1)))
            })
            .collect::<Result<_, _>>()
            .map(Value::List),
        Content::Map(entries) => entries
            .iter()
            .map(|(key, value)| {
                let Some(name) = key.name() else {
                    let problem = key_problem(key);
                    return Err(issue(problem));
                };
                take(room, name.len())?;
                let value = convert(value, env, room)
                    .map_err(|found| under(found, Step::Key(name.to_owned())))?;
                Ok((name.to_owned(), value))
            })
            .collect::<Result<_, _>>()
            .map(Value::Map),
    }
}

fn too_much_text() -> String {
    format!("section of at most {MAX_TEXT} bytes expected, got more")
}

fn scalar_value(
    scalar: &Scalar,
    env: &dyn Fn(&str) -> Option<String>,
    room: usize,
) -> Result<Value, String> {
    let expanded = env::expand(&scalar.text, env, room)?;
    match (&scalar.form, expanded) {
        (Form::Foreign(tag), _) => Err(format!("unknown tag {}", shortened(tag))),
        (Form::Tagged(tag), expanded) => {
            let value = core_schema(expanded.as_ref().map_or(&scalar.text, |e| &e.text));
            let fits = match *tag {
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
            template: scalar.text.to_string(),
        }),
        (_, Some(expanded)) => Ok(Value::Str(expanded.text)),
        (Form::Text, None) => Ok(Value::Str(scalar.text.to_string())),
        (Form::Plain, None) => Ok(core_schema(&scalar.text)),
    }
}

fn key_problem(key: &Node) -> String {
    match key.content {
        Content::Scalar(_) => format!("key of at most {MAX_KEY} bytes expected, got more"),
        Content::List(_) => "key that is a name expected, got list".to_owned(),
        Content::Map(_) => "key that is a name expected, got table".to_owned(),
    }
}
