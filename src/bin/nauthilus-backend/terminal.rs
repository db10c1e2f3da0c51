//! Prints whole lines on standard output. Control characters in text of peers, files
//! and users are replaced.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::exit;
use std::time::Duration;

use nauthilus_backend::sys::reader;

/// The exit status that shells report for a program that SIGPIPE ended: 128 + 13.
const BROKEN_PIPE: i32 = 141;

/// Prints a line. If the reader has closed the pipe, as `head` does, the command ends without a message.
pub(crate) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints text as it is and at once, for a reader that waits for it.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = done {
        if error.kind() == io::ErrorKind::BrokenPipe {
            exit(BROKEN_PIPE);
        }
        complain(&format!("cannot write to standard output: {error}"));
        exit(1);
    }
}

/// Waits for this time. If meanwhile the reader closes the pipe, the command ends as where it prints a line.
pub(crate) fn pause(time: Duration) {
    if reader::has_left_within(io::stdout().as_fd(), time) {
        exit(BROKEN_PIPE);
    }
}

/// Says on standard error why something did not work.
pub(crate) fn complain(reason: &str) {
    // An error is ignored: if standard error is closed, there is nowhere to report it.
    let _ = writeln!(
        io::stderr().lock(),
        "nauthilus-backend: {}",
        harmless(reason)
    );
}

/// Whether standard output is a terminal that can move its cursor.
pub(crate) fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && !is_dumb
}

/// Whether colours are wanted: see <https://no-color.org>.
fn has_colours() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What the colour of a text says. The text itself says it as well: colours may be off.
#[derive(Clone, Copy)]
pub(crate) enum Tone {
    Good,
    Bad,
    Doubtful,
}

/// The text in the colour of its tone, where colours are wanted.
pub(crate) fn toned(tone: Tone, text: &str) -> String {
    if !has_colours() {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Bad => "31",
        Tone::Doubtful => "33",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Text of a peer, a file or a user for a terminal: on one line, and without characters that
/// control the terminal or reorder what is shown.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            let is_format = matches!(c,
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if c.is_control() || is_format {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// [`harmless`] of bytes.
pub(crate) fn harmless_bytes(bytes: &[u8]) -> String {
    harmless(&String::from_utf8_lossy(bytes))
}

/// `0.42 ms`, `12.3 ms`, `1.20 s`.
pub(crate) fn time_text(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// A time since 1970, as `2026-11-29T01:02:03Z`. One after the year 9999 is the last second of that year.
pub(crate) fn moment_text(since: Duration) -> String {
    let since = since.min(Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

/// A number of seconds since 1970, as `2026-11-29`.
pub(crate) fn date_text(seconds: i64) -> String {
    let since = u64::try_from(seconds).ok().map(Duration::from_secs);
    let time = since.and_then(|since| std::time::UNIX_EPOCH.checked_add(since));
    match time {
        Some(time) => {
            let text = humantime::format_rfc3339_seconds(time).to_string();
            text.split('T').next().unwrap_or_default().to_owned()
        }
        None => "before 1970".to_owned(),
    }
}

/// How many days from now a time in seconds since 1970 is; negative where it has passed.
pub(crate) fn days_until(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    (seconds - now).div_euclid(86_400)
}

/// `1 target`, `3 targets`.
pub(crate) fn count_text(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_of_a_peer_reaches_the_terminal() {
        assert_eq!(
            harmless("a\x1b[31mb\r\n\u{9b}c"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}\u{fffd}c"
        );
        assert_eq!(harmless("invoice\u{202e}fdp"), "invoice\u{fffd}fdp");
        assert_eq!(harmless_bytes(b"gr\xc3\xbcn \xff"), "grün \u{fffd}");
    }
}
