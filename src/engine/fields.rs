//! `name=value` pairs of a line. A value that may contain blanks is in double quotes.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Appends ` name=value`.
pub(in crate::engine) fn put(line: &mut String, name: &str, value: impl fmt::Display) {
    // Writing to a String does not fail.
    let _ = write!(line, " {name}={value}");
}

/// Appends ` name="text"`. A control character becomes `?`: a line feed would end the line.
pub(in crate::engine) fn put_quoted(line: &mut String, name: &str, text: &str) {
    let _ = write!(line, " {name}=\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c.is_control() => line.push('?'),
            c => line.push(c),
        }
    }
    line.push('"');
}

/// An iterator over the pairs of a line. Where the rest of the line does not read, its last item is
/// an `Err`.
pub(in crate::engine) struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    pub(in crate::engine) fn of(rest: &'a str) -> Self {
        Self(rest)
    }

    fn read(&mut self) -> Option<(&'a str, Cow<'a, str>)> {
        let (name, rest) = self.0.split_once('=')?;
        if name.is_empty() || name.contains([' ', '"']) {
            return None;
        }
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                let (value, rest) = rest.split_at(end);
                if value.contains(|c: char| c == '"' || c.is_control()) {
                    return None;
                }
                (Cow::Borrowed(value), rest)
            }
        };
        self.0 = match rest.strip_prefix(' ') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return None,
        };
        Some((name, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a str, Cow<'a, str>), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let pair = self.read();
        if pair.is_none() {
            self.0 = "";
        }
        Some(pair.ok_or(()))
    }
}

/// Splits at the closing quote: the unescaped value, and the rest of the line behind the quote.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        let (value, rest) = text.split_at(end);
        let plain = !value.contains(char::is_control);
        return plain.then(|| {
            (
                Cow::Borrowed(value),
                rest.strip_prefix('"').unwrap_or_default(),
            )
        });
    }
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((Cow::Owned(value), text.get(at + 1..)?)),
            (_, '\\') => match characters.next()?.1 {
                c @ ('"' | '\\') => value.push(c),
                _ => return None,
            },
            (_, c) if c.is_control() => return None,
            (_, c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Vec<(String, String)>> {
        Fields::of(line)
            .map(|pair| {
                pair.ok()
                    .map(|(name, value)| (name.to_owned(), value.into_owned()))
            })
            .collect()
    }

    #[test]
    fn pairs_read_as_they_were_written() {
        let mut line = String::new();
        put(&mut line, "a", 1);
        put_quoted(&mut line, "b", "x \"y\" \\ é = z");
        put_quoted(&mut line, "c", "");
        put_quoted(&mut line, "d", "one\ntwo");
        put(&mut line, "e", "");
        let pairs = read(line.trim_start()).unwrap();
        let values: Vec<&str> = pairs.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["1", "x \"y\" \\ é = z", "", "one?two", ""]);
    }

    #[test]
    fn what_is_no_pair_is_noticed() {
        for bad in [
            "a",
            "=1",
            "a=\"x",
            "a=\"x\"y",
            "a=1  b=2",
            "a b=1",
            "a=\"\\n\"",
            "a=\"\u{7}\"",
            "a=b\"c",
            "a=\u{7}",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read(""), Some(Vec::new()));
    }
}
