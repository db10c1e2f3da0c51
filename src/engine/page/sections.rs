//! The parts of the page: summary, warnings, the tables of targets, nodes and events. `rows` has the rows of
//! the first two.

use maud::{Markup, PreEscaped, html};

use super::facts::Facts;
use super::text::{Shown, utc};
use crate::engine::active::ActiveConfig;
use crate::engine::verdicts::Event;
use crate::engine::verdicts::health::Verdict;

/// How many events are shown, the newest first.
const SHOWN_EVENTS: u64 = 30;

/// The text of the warning about a protocol in panic.
const PANIC: &str = "so few targets are alive that all are listed (panic)";

/// How many targets have each verdict.
pub(super) fn summary(active: &ActiveConfig) -> String {
    let verdicts = active
        .slots
        .iter()
        .map(|slot| active.table.read_brief(*slot).0);
    let (mut alive, mut dead, mut unknown) = (0_usize, 0_usize, 0_usize);
    for verdict in verdicts {
        match verdict {
            Verdict::Alive => alive += 1,
            Verdict::Dead => dead += 1,
            Verdict::Unknown => unknown += 1,
        }
    }
    let count = active.slots.len();
    format!("{count} targets: {alive} alive, {dead} dead, {unknown} unknown.")
}

/// The error, protocols in panic, and warnings. An empty list is written, too: the script may fill it.
pub(super) fn warnings(facts: &Facts) -> Markup {
    let panicking = facts.active.iter().flat_map(|active| active.panicking());
    html! {
        ul id="warnings" {
            @if let Some(error) = &facts.error { li { "⚠ " (Shown(error)) } }
            @for panic in panicking { li { "⚠ " (panic.protocol) ": " (PANIC) } }
            @for warning in &facts.warnings { li { "⚠ " (Shown(warning)) } }
        }
    }
}

/// The first row of a table.
fn head(titles: &[&str]) -> Markup {
    html! {
        thead { tr { @for title in titles { th scope="col" { (title) } } } }
    }
}

pub(super) fn targets(rows: PreEscaped<&str>) -> Markup {
    html! {
        h2 { "Targets" }
        p id="tools" hidden {
            label { "Filter " input id="filter" type="search" autocomplete="off"; }
            " " output id="count" for="filter" {}
        }
        table id="targets" {
            (head(&["Target", "Node", "Verdict", "Since", "Reason", "Latency", "Certificate"]))
            (rows)
        }
    }
}

/// The nodes, where the configuration groups targets into nodes or pools, or binds users to nodes. With a store
/// there are columns for the users.
pub(super) fn nodes(active: Option<&ActiveConfig>, rows: PreEscaped<&str>) -> Markup {
    let has_store = active.is_some_and(|active| active.config.cluster.is_some());
    html! {
        section hidden[!active.is_some_and(ActiveConfig::has_routing)] {
        h2 { "Nodes" }
        table id="nodes" class=[has_store.then_some("s")] {
            (head(&["Node", "Pool", "Weight", "Usable", "Set by operators", "Users", "Moved here", "Moved away"]))
            tbody { (rows) }
        }
        }
    }
}

pub(super) fn events(active: Option<&ActiveConfig>) -> Markup {
    let all = active.map_or_else(Vec::new, last_events);
    html! {
        h2 { "Events" }
        table id="events" {
            (head(&["Time", "Event", "About", "Change", "Reason", "By"]))
            tbody {
                @for event in all.iter().rev() {
                    tr {
                        th scope="row" { (utc(event.time_ms)) }
                        td { (event.kind.name()) }
                        td { (Shown(&event.subject)) }
                        td { (Shown(&change(&event.from, &event.to))) }
                        td { (Shown(&event.reason)) }
                        td { (Shown(&event.by)) }
                    }
                }
            }
        }
    }
}

/// The events that are shown, the oldest first.
pub fn last_events(active: &ActiveConfig) -> Vec<Event> {
    let last = active.table.last_event();
    let since = last.saturating_sub(SHOWN_EVENTS);
    active.table.events_after(since).events
}

/// The change that an event reports: the old value and the new one.
fn change(from: &str, to: &str) -> String {
    match (from, to) {
        ("", "") => String::new(),
        ("", to) => format!("→ {to}"),
        (from, "") => format!("{from} →"),
        (from, to) => format!("{from} → {to}"),
    }
}
