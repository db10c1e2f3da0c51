//! A user's text as an error repeats it.

use std::path::Path;

/// The longest piece of a user's text that an error repeats, in characters.
const SHOWN_CHARS: usize = 64;

/// Whether an error must not repeat a text: it may be a URL with a password.
pub(super) fn is_withheld(text: &str) -> bool {
    text.contains('@')
}

/// A user's text for an error: in quotes, on one line, shortened.
pub(super) fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "an empty string".to_owned();
    }
    if is_withheld(text) {
        return "a string with @ in it".to_owned();
    }
    format!("\"{}\"", shortened(text))
}

/// A user's text for an error: on one line, shortened.
pub fn shortened(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(SHOWN_CHARS) {
        match c {
            // Needs no escape: errors put the text in double quotes or in none.
            '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// An error text of a library on one line: it may quote a character of the user's text, such as a line
/// break.
pub(super) fn one_line(sentence: &str) -> String {
    let mut shown = String::new();
    for c in sentence.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The length of the longest path that Linux opens, in bytes (`PATH_MAX` without the zero at its end).
const LONGEST_PATH: usize = 4095;

/// A path for an error or a log line. Control characters, which file names may contain, are escaped, so that the
/// text stays on one line. A path longer than [`LONGEST_PATH`], which no file can have, is cut off.
pub fn shown_path(path: &Path) -> String {
    let text = path.display().to_string();
    if path.as_os_str().len() > LONGEST_PATH {
        return shortened(&text);
    }
    one_line(&text)
}

/// A text from its bytes.
///
/// # Errors
/// The line of the first byte that is not UTF-8, and its place there.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before
            .rsplit(|byte| *byte == b'\n')
            .next()
            .map_or(0, <[u8]>::len)
            + 1;
        format!("line {line}: byte {column} of it is not UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_one_line() {
        let path = Path::new("/tmp/\u{1b}[31m\r\n\0ü ß");
        assert_eq!(shown_path(path), r"/tmp/\u{1b}[31m\r\n\u{0}ü ß");
        let longest = format!("/{}", "x".repeat(LONGEST_PATH - 1));
        assert_eq!(shown_path(Path::new(&longest)), longest);
        let too_long = shown_path(Path::new(&format!("{longest}x")));
        assert_eq!(too_long, format!("/{}...", "x".repeat(SHOWN_CHARS - 1)));
    }

    #[test]
    fn an_echoed_text_is_short_and_on_one_line() {
        assert_eq!(quoted("a\r\nb\0\"c"), r#""a\r\nb\0\"c""#);
        assert_eq!(quoted(&"é".repeat(64)), format!("\"{}\"", "é".repeat(64)));
        assert_eq!(
            quoted(&"é".repeat(65)),
            format!("\"{}...\"", "é".repeat(64))
        );
        assert_eq!(quoted(""), "an empty string");
        assert_eq!(quoted("imap://u:hunter2@x"), "a string with @ in it");
        assert_eq!(quoted("o'brien"), "\"o'brien\"");
    }
}
