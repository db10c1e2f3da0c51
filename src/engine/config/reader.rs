//! Typed access to one table of a configuration: every error names the key's path, what was
//! expected and what was found; unknown keys are found when the table is opened.

use std::path::PathBuf;
use std::time::Duration;

use super::super::target::Host;
use super::duration;
use super::host::parse_host;
use super::issue::{Issue, Path, Step};
use super::keys::{Default, Key, Kind, MAX_CREDENTIAL, MAX_REDIS_URL, MAX_REQUEST_URI};
use super::unknown::unknown;
use super::value::Value;

/// One table, after a check that all its keys are known.
pub(super) struct Reader<'a> {
    entries: &'a [(String, Value)],
    path: Path,
}

/// A value and the name it was given under.
pub(super) struct GivenValue<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
}

impl<'a> Reader<'a> {
    /// Opens a table whose keys are `keys`, plus names in `extra` that others read.
    ///
    /// # Errors
    /// Something other than a table; a key that is unknown, or given twice.
    pub(super) fn open(
        value: &'a Value,
        path: Path,
        keys: &[Key],
        extra: &[&str],
    ) -> Result<Self, Issue> {
        let entries: &[(String, Value)] = match value {
            Value::Map(entries) => entries,
            Value::List(items) if items.is_empty() => &[],
            Value::List(_) => {
                return Err(path.issue("table with named keys expected, got list"));
            }
            other => return Err(path.issue(format!("table expected, got {}", other.described()))),
        };
        for (at, (name, _)) in entries.iter().enumerate() {
            if !keys.iter().any(|key| key.is_named(name)) && !extra.contains(&name.as_str()) {
                return Err(path.key(name).issue(unknown(name, keys, extra)));
            }
            if entries.iter().take(at).any(|(earlier, _)| earlier == name) {
                return Err(path.key(name).issue("given twice"));
            }
        }
        Ok(Self { entries, path })
    }

    /// The value of a key under any of its names; nil counts as not given.
    pub(super) fn given(&self, key: &Key) -> Result<Option<GivenValue<'a>>, Issue> {
        let mut found = self
            .entries
            .iter()
            .filter(|(name, value)| key.is_named(name) && !matches!(value, Value::Nil))
            .map(|(name, value)| GivenValue { name, value });
        let first = found.next();
        if let (Some(first), Some(second)) = (&first, found.next()) {
            let problem = format!("means the same as {}, which is also given", first.name);
            return Err(self.path.key(second.name).issue(problem));
        }
        Ok(first)
    }

    /// Where the table is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The key's name as the table spells it, which may be an alias.
    pub(super) fn name_of(&self, key: &Key) -> &str {
        match self.given(key) {
            Ok(Some(given)) => given.name,
            _ => key.name,
        }
    }

    /// The issue of a required key that is missing.
    pub(super) fn missing(&self, key: &Key) -> Issue {
        self.path
            .key(key.name)
            .issue(format!("{} expected, got nothing", key.kind.expected()))
    }

    /// The issue of a key whose value is valid but contradicts another key.
    pub(super) fn conflict(&self, key: &Key, problem: &str) -> Issue {
        self.path.key(self.name_of(key)).issue(problem)
    }

    /// The issue of a key whose value is of the wrong type or out of range.
    pub(super) fn refused(&self, key: &Key, value: &Value) -> Issue {
        self.conflict(key, &refusal(key.kind, value))
    }

    /// Reads a key with `read`, which answers `None` for a value it cannot take.
    fn read<T>(
        &self,
        key: &Key,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Issue> {
        let Some(given) = self.given(key)? else {
            return Ok(None);
        };
        match read(given.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self
                .path
                .key(given.name)
                .issue(refusal(key.kind, given.value))),
        }
    }

    pub(super) fn boolean(&self, key: &Key) -> Result<Option<bool>, Issue> {
        self.read(key, as_boolean)
    }

    pub(super) fn boolean_or_default(&self, key: &Key) -> Result<bool, Issue> {
        self.or_default(key, Self::boolean, as_boolean)
    }

    pub(super) fn integer(&self, key: &Key) -> Result<Option<i64>, Issue> {
        self.read(key, |value| as_integer(value, key.kind))
    }

    pub(super) fn integer_or_default(&self, key: &Key) -> Result<i64, Issue> {
        self.or_default(key, Self::integer, |value| as_integer(value, key.kind))
    }

    pub(super) fn duration(&self, key: &Key) -> Result<Option<Duration>, Issue> {
        self.read(key, |value| as_duration(value, key.kind))
    }

    pub(super) fn duration_or_default(&self, key: &Key) -> Result<Duration, Issue> {
        self.or_default(key, Self::duration, |value| as_duration(value, key.kind))
    }

    /// One of the key's words, in the spelling of the key table.
    pub(super) fn choice(&self, key: &Key) -> Result<Option<&'static str>, Issue> {
        self.read(key, |value| as_choice(value, key.kind))
    }

    pub(super) fn choice_or_default(&self, key: &Key) -> Result<&'static str, Issue> {
        self.or_default(key, Self::choice, |value| as_choice(value, key.kind))
    }

    /// Text that `accepts`.
    pub(super) fn text(
        &self,
        key: &Key,
        accepts: impl FnOnce(&str) -> bool,
    ) -> Result<Option<&'a str>, Issue> {
        let Some(given) = self.given(key)? else {
            return Ok(None);
        };
        match as_text(given.value) {
            Some(text) if accepts(text) => Ok(Some(text)),
            _ => Err(self
                .path
                .key(given.name)
                .issue(refusal(key.kind, given.value))),
        }
    }

    /// A path, made absolute: the process may change its directory later.
    pub(super) fn file_path(&self, key: &Key) -> Result<Option<PathBuf>, Issue> {
        let text = self.text(key, is_file_path)?;
        text.map(|text| self.absolute(key, text)).transpose()
    }

    /// The absolute path of a text that is the path of a file.
    pub(super) fn absolute(&self, key: &Key, text: &str) -> Result<PathBuf, Issue> {
        std::path::absolute(text).map_err(|error| {
            let problem = format!("the current directory cannot be found: {error}");
            self.conflict(key, &problem)
        })
    }

    pub(super) fn host(&self, key: &Key) -> Result<Option<Host>, Issue> {
        let Some(given) = self.given(key)? else {
            return Ok(None);
        };
        let path = || self.path.key(given.name);
        let Some(text) = as_text(given.value) else {
            return Err(path().issue(refusal(key.kind, given.value)));
        };
        match (parse_host(text), given.value) {
            (Ok(host), _) => Ok(Some(host)),
            (Err(problem), Value::Str(_)) => Err(path().issue(problem)),
            (Err(_), _) => Err(path().issue(refusal(key.kind, given.value))),
        }
    }

    /// A share in percent: `30%`, or a whole number of them.
    pub(super) fn percent_or_default(&self, key: &Key) -> Result<u8, Issue> {
        self.or_default(key, |reader, key| reader.read(key, as_percent), as_percent)
    }

    /// Reads each item of a list with `read`, the paths of whose errors begin at the item. An empty table
    /// counts as an empty list.
    pub(super) fn list<T>(
        &self,
        key: &Key,
        read: impl Fn(&Value) -> Result<T, Issue>,
    ) -> Result<Option<Vec<T>>, Issue> {
        let Some(given) = self.given(key)? else {
            return Ok(None);
        };
        let path = self.path.key(given.name);
        let placed = |(at, done): (usize, Result<T, Issue>)| {
            done.map_err(|issue| issue.under(Step::item(at)).within(&path))
        };
        let done: Result<Vec<T>, Issue> = match given.value {
            Value::List(items) => items.iter().map(read).enumerate().map(placed).collect(),
            Value::Map(entries) if entries.is_empty() => Ok(Vec::new()),
            Value::Map(_) => {
                let expected = key.kind.expected();
                return Err(path.issue(format!("{expected} expected, got table with named keys")));
            }
            other => return Err(path.issue(refusal(key.kind, other))),
        };
        done.map(Some)
    }

    fn or_default<T>(
        &self,
        key: &Key,
        user: impl FnOnce(&Self, &Key) -> Result<Option<T>, Issue>,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Issue> {
        if let Some(value) = user(self, key)? {
            return Ok(value);
        }
        match key.default {
            Default::Value(text) => parse(&default_value(text)),
            Default::Words(_) => None,
        }
        .ok_or_else(|| self.missing(key))
    }
}

/// A default's text as a value without a type of its own: the key's kind says how it is parsed.
pub(super) fn default_value(text: &str) -> Value {
    Value::Env {
        text: text.to_owned(),
        template: text.to_owned(),
    }
}

fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::Str(text) | Value::Env { text, .. } => Some(text),
        _ => None,
    }
}

/// A text counts as a boolean only if it came from the environment, whose values have no type. It must
/// be spelt as in YAML's core schema.
fn as_boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Env { text, .. } => match text.as_str() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// An integer within bounds; `993.0` and `"993"` count, as Lua coerces them.
fn as_integer(value: &Value, kind: Kind) -> Option<i64> {
    let Kind::Integer { min, max } = kind else {
        return None;
    };
    let number = match value {
        Value::Int(number) => *number,
        Value::Float(number) => whole(*number)?,
        Value::Str(text) | Value::Env { text, .. } => {
            let text = text.trim_ascii();
            match text.parse() {
                Ok(number) => number,
                Err(_) => whole(text.parse().ok()?)?,
            }
        }
        _ => return None,
    };
    (min..=max).contains(&number).then_some(number)
}

fn as_percent(value: &Value) -> Option<u8> {
    let bounds = Kind::Integer { min: 0, max: 100 };
    let number = match as_text(value) {
        Some(text) => {
            let digits = text.strip_suffix('%')?;
            digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
            digits.parse().ok()?
        }
        None => as_integer(value, bounds)?,
    };
    u8::try_from(number).ok().filter(|percent| *percent <= 100)
}

fn whole(number: f64) -> Option<i64> {
    // Beyond 2^53 neighbouring integers have the same float.
    let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "in range by the line above"
    )]
    exact.then_some(number as i64)
}

fn as_duration(value: &Value, kind: Kind) -> Option<Duration> {
    let Kind::Duration { min, max } = kind else {
        return None;
    };
    duration::from_value(value).filter(|duration| (min..=max).contains(duration))
}

fn as_choice(value: &Value, kind: Kind) -> Option<&'static str> {
    let Kind::Choice(words) = kind else {
        return None;
    };
    let means = |word: &str| match value {
        // A version without quotes is a number: `1.2`.
        Value::Float(number) => word.parse() == Ok(*number),
        other => as_text(other).is_some_and(|text| word.eq_ignore_ascii_case(text)),
    };
    words.iter().copied().find(|word| means(word))
}

/// Whether a text can be the path of a file: not empty, no NUL, no slash at the end.
pub(super) fn is_file_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0') && !text.ends_with('/')
}

/// `X expected, got Y` for a value that is of the wrong type or out of range.
fn refusal(kind: Kind, value: &Value) -> String {
    let number = matches!(value, Value::Int(_) | Value::Float(_));
    let right_type = match kind {
        Kind::Integer { .. } => number,
        Kind::Duration { .. } | Kind::StatusCodes => number || as_text(value).is_some(),
        Kind::Percent => number || as_text(value).is_some(),
        Kind::Boolean | Kind::AttributeNames | Kind::Targets | Kind::Cluster => false,
        _ => as_text(value).is_some(),
    };
    let got = if kind.is_secret() {
        secret_described(kind, value)
    } else if right_type {
        value.shown()
    } else {
        value.described()
    };
    let hint = match (kind, value) {
        (Kind::Boolean, Value::Str(text)) => boolean_hint(text),
        (Kind::Duration { .. }, Value::Str(text)) if is_spaced_duration(text) => {
            " (write it without a space)"
        }
        (Kind::Choice(words), _) if words.iter().any(|word| word.parse::<f64>().is_ok()) => "",
        (
            Kind::Choice(_)
            | Kind::User
            | Kind::Password
            | Kind::Host
            | Kind::Mailbox
            | Kind::Name
            | Kind::Separator
            | Kind::KeyPrefix,
            _,
        ) if number => " (put it in quotes)",
        _ => "",
    };
    format!("{} expected, got {got}{hint}", kind.expected())
}

/// A hint for a text in the place of a boolean. `yes` and its like are booleans
/// in YAML 1.1, and text in YAML 1.2.
fn boolean_hint(text: &str) -> &'static str {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "y" | "on" => " (write true)",
        "no" | "n" | "off" => " (write false)",
        _ => " (write true or false without quotes)",
    }
}

/// Whether spaces are all that keeps a text from being a duration.
fn is_spaced_duration(text: &str) -> bool {
    let joined: String = text.split_ascii_whitespace().collect();
    duration::parse(text).is_none() && duration::parse(&joined).is_some()
}

/// What is wrong with a secret. The text repeats no part of the secret.
fn secret_described(kind: Kind, value: &Value) -> String {
    let Some(text) = as_text(value) else {
        return value.type_name().to_owned();
    };
    let uri = kind == Kind::RequestUri;
    let limit = match kind {
        Kind::RequestUri => MAX_REQUEST_URI,
        Kind::RedisUrl => MAX_REDIS_URL,
        _ => MAX_CREDENTIAL,
    };
    match text {
        "" => "an empty string".to_owned(),
        _ if text.contains(['\r', '\n']) => "a line break in it".to_owned(),
        _ if text.contains('\0') => "NUL in it".to_owned(),
        _ if text.len() > limit => format!("{} bytes", text.len()),
        _ if uri && text.contains(' ') => "a space in it".to_owned(),
        _ if uri && !text.starts_with('/') => "another start".to_owned(),
        _ if kind == Kind::RedisUrl => "another form".to_owned(),
        _ => "other characters".to_owned(),
    }
}

/// A list item of the wrong kind.
pub(super) fn item_refusal(expected: &str, value: &Value) -> String {
    match as_text(value) {
        Some(_) => format!("{expected} expected, got {}", value.shown()),
        None => format!("{expected} expected, got {}", value.described()),
    }
}

/// The text of a list item.
pub(super) fn item_text(value: &Value) -> Option<&str> {
    as_text(value)
}
