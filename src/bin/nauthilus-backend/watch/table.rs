//! The lines of `watch`'s table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unicode_width::UnicodeWidthChar;

use super::source::Row;
use crate::terminal::{Tone, harmless, toned};

/// The width of lines that go into a pipe.
pub(super) const PIPE_WIDTH: usize = 160;

/// The state of a row in the colour of its meaning, where standard output has colours.
pub(super) fn toned_state(row: &Row, text: &str) -> String {
    let tone = match (row.verdict.as_str(), row.state.as_str()) {
        ("dead", _) => Tone::Bad,
        ("alive", "auto" | "") => Tone::Good,
        _ => Tone::Doubtful,
    };
    toned(tone, text)
}

/// The rows by name, or those with problems first. Rows of one name stay in their order.
pub(super) fn sorted(rows: &[Row], by_problem: bool) -> Vec<&Row> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| {
        let order = |row: &Row| by_problem && !is_problem(row);
        order(a).cmp(&order(b)).then_with(|| a.key.cmp(&b.key))
    });
    rows
}

pub(super) fn is_problem(row: &Row) -> bool {
    row.verdict != "alive" || !matches!(row.state.as_str(), "auto" | "")
}

/// The widths of the columns before the last one.
const STATE: usize = 12;
const SINCE: usize = 8;
const LATENCY: usize = 9;

fn key_width(width: usize) -> usize {
    (width / 3).clamp(16, 48)
}

pub(super) fn header(width: usize) -> String {
    let cells = cells("TARGET", "STATE", "SINCE", "LATENCY", "REASON", width);
    cells.concat().trim_end().to_owned()
}

/// A line of at most `width` columns. `paint` colours the state.
pub(super) fn line(row: &Row, width: usize, paint: &dyn Fn(&Row, &str) -> String) -> String {
    let state = match row.state.as_str() {
        "auto" | "" if row.is_target() => row.verdict.clone(),
        state => state.to_owned(),
    };
    let latency = row
        .latency
        .map_or_else(String::new, |latency| format!("{:.1} ms", latency * 1e3));
    let [key, state, since, latency, reason] = cells(
        &row.key,
        &state,
        &since_text(row.since),
        &latency,
        &row.error,
        width,
    );
    let state = paint(row, &state);
    [key, state, since, latency, reason]
        .concat()
        .trim_end()
        .to_owned()
}

fn cells(
    key: &str,
    state: &str,
    since: &str,
    latency: &str,
    reason: &str,
    width: usize,
) -> [String; 5] {
    let key_width = key_width(width);
    let before = key_width + STATE + SINCE + LATENCY + 4;
    [
        fitted(key, key_width) + " ",
        fitted(state, STATE) + " ",
        fitted(since, SINCE) + " ",
        fitted(latency, LATENCY) + " ",
        fitted(reason, width.saturating_sub(before)),
    ]
}

/// A text of others, cut or filled up to a number of columns.
pub(super) fn fitted(text: &str, columns: usize) -> String {
    let mut fitted = String::new();
    let mut used = 0;
    for c in harmless(text).chars() {
        let width = c.width().unwrap_or(0);
        if used + width > columns {
            break;
        }
        fitted.push(c);
        used += width;
    }
    fitted.extend(std::iter::repeat_n(' ', columns - used));
    fitted
}

/// `12s`, `5m`, `3h`, `14d`.
fn since_text(since: f64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let since = Duration::try_from_secs_f64(since).unwrap_or_default();
    if since.is_zero() {
        return String::new();
    }
    let seconds = now.saturating_sub(since).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_no_wider_than_the_terminal() {
        let row = Row {
            key: "imap://日本語日本語日本語日本語日本語日本語日本語.example.org:143".to_owned(),
            verdict: "dead".to_owned(),
            error: "connect: \x1b[31mrefused ".repeat(20),
            since: 1.0,
            latency: Some(0.0123),
            ..Row::default()
        };
        for width in [40, 80, 160] {
            let line = line(&row, width, &|_, text| text.to_owned());
            let columns: usize = line.chars().map(|c| c.width().unwrap_or(0)).sum();
            assert!(columns <= width.max(49), "{columns} > {width}: {line}");
            assert!(!line.contains('\x1b'), "{line}");
        }
    }
}
