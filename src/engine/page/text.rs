//! How the page writes texts, times and durations. `page.js` writes them in the same way.

use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use maud::{Escaper, Render};

/// A text from a configuration, a peer or an operator: the only way in which such a text gets into
/// the page. Characters of HTML are escaped; characters that are invisible or that change the order
/// of others are written as `\u{202e}`, so that a name cannot look like another one.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a>(pub &'a str);

impl Render for Shown<'_> {
    fn render_to(&self, page: &mut String) {
        let mut escaper = Escaper::new(page);
        // Writing to memory does not fail.
        let _ = write_visibly(self.0, &mut escaper);
    }
}

fn write_visibly(text: &str, to: &mut impl Write) -> fmt::Result {
    for character in text.chars() {
        if is_invisible(character) {
            write!(to, "\\u{{{:x}}}", u32::from(character))?;
        } else {
            to.write_char(character)?;
        }
    }
    Ok(())
}

fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A duration in its two largest units: `5 s`, `3 min`, `2 h 5 min`, `4 d 3 h`.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min")
    } else {
        format!("{seconds} s")
    }
}

/// A latency with about three digits: `0.25 ms`, `1.2 ms`, `150 ms`, `2.50 s`.
pub(super) fn latency(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let ms = seconds * 1000.0;
    if ms < 1.0 {
        format!("{ms:.2} ms")
    } else if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{seconds:.2} s")
    }
}

/// A time in milliseconds since 1970 as `2026-11-22 10:00:00 UTC`. A time that is out of range is
/// the latest one.
pub(super) fn utc(unix_ms: u64) -> String {
    let latest = Duration::from_secs(253_402_300_799);
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms).min(latest);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        let text = "<script>&\"'</script>]]>";
        let page = html! { p title=(Shown(text)) { (Shown(text)) } }.into_string();
        let escaped = "&lt;script&gt;&amp;&quot;'&lt;/script&gt;]]&gt;";
        assert_eq!(page, format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn invisible_characters_become_visible() {
        let text = "a\u{202e}b\u{2028}c\0\u{200b}d\u{85}é";
        let page = Shown(text).render().into_string();
        assert_eq!(page, "a\\u{202e}b\\u{2028}c\\u{0}\\u{200b}d\\u{85}é");
    }

    #[test]
    fn times_have_their_units() {
        let ages = [5, 180, 7500, 356_400].map(|s| age(Duration::from_secs(s)));
        assert_eq!(ages, ["5 s", "3 min", "2 h 5 min", "4 d 3 h"]);
        let latencies =
            [250, 1234, 150_000, 2_500_000].map(|us| latency(Duration::from_micros(us)));
        assert_eq!(latencies, ["0.25 ms", "1.2 ms", "150 ms", "2.50 s"]);
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(u64::MAX), "9999-12-31 23:59:59 UTC");
    }
}
