//! A value of a configuration. Lua tables and YAML are both converted to it before they are read.

use std::fmt;

use zeroize::Zeroize;

use super::text::{is_withheld, quoted};

/// A value of a configuration. Its texts may be secrets: they are wiped when dropped and
/// `Debug` shows their length only.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Absent: a key that is `nil` or YAML's null counts as not given.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    /// A YAML scalar whose text comes from the environment. A variable has no type, so the key decides how
    /// its text is read: `993` may be a port, a password or a duration.
    Env {
        text: String,
        /// The scalar as written, with `${NAME}`. Errors show this instead of the text.
        template: String,
    },
    List(Vec<Self>),
    /// The list of servers, not converted yet. It has this many items, which the creator of this value
    /// gives one at a time ([`ServerItems`](super::ServerItems)).
    Deferred(usize),
    /// In written order. An empty Lua table arrives as an empty map and counts as a list too.
    Map(Vec<(String, Self)>),
}

impl Value {
    /// The type's name for an error.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "nothing",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::Float(_) => "number",
            Self::Str(_) | Self::Env { .. } => "string",
            Self::List(_) | Self::Deferred(_) => "list",
            Self::Map(_) => "table",
        }
    }

    /// Type and, for a scalar, the value: for the error "X expected, got …" if the type is wrong.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Str(text) if text.is_empty() || is_withheld(text) => self.shown(),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Str(_) => {
                format!("{} {}", self.type_name(), self.shown())
            }
            Self::Env { .. } => self.shown(),
            Self::Map(entries) if entries.is_empty() => "empty table".to_owned(),
            _ => self.type_name().to_owned(),
        }
    }

    /// The value alone: for the error "X expected, got …" if the type is right and the value is not. Text
    /// from the environment is not repeated: it may be a secret in the wrong place.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => format!("{value:?}"),
            Self::Str(text) => quoted(text),
            Self::Env { template, .. } => format!("the value of {}", quoted(template)),
            _ => self.type_name().to_owned(),
        }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Self::Str(text) | Self::Env { text, .. } = self {
            text.zeroize();
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Str(text) => write!(f, "[text of {} bytes]", text.len()),
            Self::Env { template, .. } => write!(f, "[{template}]"),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Deferred(count) => write!(f, "[list of {count} items]"),
            Self::Map(entries) => f
                .debug_map()
                .entries(entries.iter().map(|(key, value)| (key, value)))
                .finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_text() {
        let value = Value::Map(vec![
            ("a".into(), Value::Str("hunter2".into())),
            (
                "b".into(),
                Value::List(vec![Value::Env {
                    text: "hunter2".into(),
                    template: "${PW}".into(),
                }]),
            ),
        ]);
        let shown = format!("{value:?}");
        assert_eq!(shown, "{\"a\": [text of 7 bytes], \"b\": [[${PW}]]}");
    }
}
