//! The status page: one HTML document that needs nothing else.
//!
//! It can be read without JavaScript. With JavaScript, `page.js` reads the JSON of the same status every
//! second and changes only what differs, so that scroll position, filter and focus stay. Both must write
//! the same texts: a field that is added here has to be added to `page.js` as well.

mod facts;
mod graph;
mod rows;
mod sections;
mod text;

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::active::{ActiveConfig, ProbingProcess};
use crate::sys::clock;
pub use facts::Facts;
pub use rows::{node_rows, target_rows};
pub use sections::last_events;
use sections::{events, nodes, summary, targets, warnings};
use text::{Shown, age, utc};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page's title where none is given.
pub const DEFAULT_TITLE: &str = "Backend servers";
/// Where the page reads its data by default, relative to its own address.
pub const DEFAULT_JSON_URL: &str = "status.json";

/// The options of the page.
pub struct PageOptions {
    /// The nonce of the response's Content-Security-Policy, for style and script.
    pub nonce: Option<String>,
    pub title: String,
    /// Where the page reads the status as JSON.
    pub json_url: String,
}

/// The page without the rows of its two long tables. Those are made in steps, because there may be
/// thousands: a host with an event loop does other work between the steps.
pub struct Frame {
    /// The text before the rows of targets.
    pub before_targets: String,
    /// The text between the rows of targets and the rows of nodes.
    pub before_nodes: String,
    pub after_nodes: String,
}

/// Marks the place of the rows in the page. Texts in the page never contain this character.
const ROWS: &str = "\0";

/// The page as it is now, without these rows.
pub fn frame(options: &PageOptions, facts: &Facts) -> Frame {
    let nonce = options.nonce.as_deref();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="robots" content="noindex,nofollow";
                meta name="referrer" content="no-referrer";
                // Without this browsers request /favicon.ico from the server.
                link rel="icon" href="data:,";
                title { (Shown(&options.title)) }
                style nonce=[nonce] { (PreEscaped(STYLE)) }
            }
            body data-json=(Shown(&options.json_url)) {
                main { (content(options, facts)) }
                script nonce=[nonce] { (PreEscaped(SCRIPT)) }
            }
        }
    };
    let page = page.into_string();
    let mut parts = page.splitn(3, ROWS).map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Frame {
        before_targets: part(),
        before_nodes: part(),
        after_nodes: part(),
    }
}

fn content(options: &PageOptions, facts: &Facts) -> Markup {
    let active = facts.active.as_deref();
    html! {
        h1 { (Shown(&options.title)) }
        p id="summary" role="status" { (active.map_or_else(String::new, summary)) }
        p id="meta" { (active.map_or_else(String::new, meta)) }
        p id="asof" { "As of " (utc(clock::unix_ms())) "." }
        noscript { p { "Reload the page to refresh it." } }
        (warnings(facts))
        // The tables exist also without a configuration: the script fills them later.
        (targets(PreEscaped(ROWS)))
        (nodes(active, PreEscaped(ROWS)))
        (events(active))
    }
}

/// Which configuration is in force, and who probes.
fn meta(active: &ActiveConfig) -> String {
    let since = Duration::from_millis(clock::unix_ms().saturating_sub(active.since_ms));
    let prober = match active.prober() {
        None => "No process probes.".to_owned(),
        Some(ProbingProcess {
            pid,
            is_elsewhere: false,
        }) => format!("Process {pid} probes."),
        Some(ProbingProcess {
            pid: 0,
            is_elsewhere: true,
        }) => "Another program probes; the state file has its verdicts.".to_owned(),
        Some(ProbingProcess {
            pid,
            is_elsewhere: true,
        }) => {
            format!("Process {pid} of another program probes; the state file has its verdicts.")
        }
    };
    format!("{prober} Configuration in force for {}.", age(since))
}
