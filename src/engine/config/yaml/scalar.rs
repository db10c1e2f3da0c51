//! The types of scalars: text, number, boolean or null.

use saphyr_parser::{ScalarStyle, Tag};

use super::super::text::shortened;
use super::super::value::Value;

/// How a scalar's text gets its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form<T> {
    /// Unquoted: by the core schema.
    Plain,
    /// Quoted, a block, or `!!str`.
    Text,
    /// `!!int` and the like: by the core schema, and it has to be this type.
    Tagged(&'static str),
    /// An unknown tag, in the form in which an error shows it.
    Foreign(T),
}

impl<T> Form<T> {
    pub(super) fn map<U>(self, tag: impl FnOnce(T) -> U) -> Form<U> {
        match self {
            Self::Plain => Form::Plain,
            Self::Text => Form::Text,
            Self::Tagged(name) => Form::Tagged(name),
            Self::Foreign(text) => Form::Foreign(tag(text)),
        }
    }
}

/// A scalar's form from its style and its tag.
pub(super) fn form(style: ScalarStyle, tag: Option<&Tag>) -> Form<String> {
    let Some(tag) = tag else {
        return match style {
            ScalarStyle::Plain => Form::Plain,
            _ => Form::Text,
        };
    };
    let core = tag.is_yaml_core_schema();
    match tag.suffix.as_str() {
        "str" if core => Form::Text,
        "int" if core => Form::Tagged("int"),
        "float" if core => Form::Tagged("float"),
        "bool" if core => Form::Tagged("bool"),
        "null" if core => Form::Tagged("null"),
        // `!`, the non-specific tag: the scalar is text, whatever the core schema would make of it.
        "!" if tag.handle.is_empty() => Form::Text,
        "" if tag.handle == "!" => Form::Text,
        _ => Form::Foreign(shortened(&tag.to_string())),
    }
}

/// Whether a scalar is text.
pub(super) fn is_string<T>(text: &str, form: Form<T>) -> bool {
    match form {
        Form::Text => true,
        Form::Plain => matches!(core_schema(text), Value::Str(_)),
        Form::Tagged(_) | Form::Foreign(_) => false,
    }
}

/// The value of an unquoted scalar (YAML 1.2.2 §10.3.2).
pub(super) fn core_schema(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Nil,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let (sign, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, text.get(1..).unwrap_or_default()),
        Some(b'+') => (1.0, text.get(1..).unwrap_or_default()),
        _ => (1.0, text),
    };
    if let ".inf" | ".Inf" | ".INF" = unsigned {
        return Value::Float(sign * f64::INFINITY);
    }
    number(text, unsigned).unwrap_or_else(|| Value::Str(text.to_owned()))
}

/// An integer or a float in the core schema's notations; an integer beyond 64 bits is a float.
fn number(text: &str, unsigned: &str) -> Option<Value> {
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            let plain = digits.chars().all(|c| c.is_digit(radix));
            return i64::from_str_radix(digits, radix)
                .ok()
                .filter(|_| plain)
                .map(Value::Int);
        }
    }
    let mantissa_end = unsigned.find(['e', 'E']).unwrap_or(unsigned.len());
    let (mantissa, exponent) = unsigned.split_at(mantissa_end);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let dots = mantissa.bytes().filter(|b| *b == b'.').count();
    let exponent_digits = exponent
        .get(1..)
        .map(|e| e.strip_prefix(['-', '+']).unwrap_or(e));
    let exponent_is_number =
        exponent_digits.is_none_or(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_digit()));
    if digits == 0 || dots > 1 || digits + dots != mantissa.len() || !exponent_is_number {
        return None;
    }
    match text.parse() {
        Ok(int) => Some(Value::Int(int)),
        Err(_) => text.parse().ok().map(Value::Float),
    }
}
