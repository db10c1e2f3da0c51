//! The parts of the page: summary, warnings, targets, nodes, events.

use std::time::Duration;

use maud::{Markup, html};

use super::facts::Facts;
use super::graph::{failed, graph};
use super::text::{Shown, age, latency, utc};
use crate::engine::active::{ActiveConfig, TargetStatus};
use crate::engine::target::Protocol;
use crate::engine::verdicts::health::Verdict;
use crate::engine::verdicts::{Event, OperatorState, Sample};
use crate::sys::clock;

/// How many events are shown, the newest first.
const SHOWN_EVENTS: usize = 30;

/// What is said of a protocol in panic.
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

/// The error, protocols in panic, and warnings; the list is there also where it is empty, for the
/// script.
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

pub(super) fn targets(active: Option<&ActiveConfig>) -> Markup {
    html! {
        h2 { "Targets" }
        p id="tools" hidden {
            label { "Filter " input id="filter" type="search" autocomplete="off"; }
            " " output id="count" for="filter" {}
        }
        table id="targets" {
            thead { tr {
                th scope="col" { "Target" }
                th scope="col" { "Node" }
                th scope="col" { "Verdict" }
                th scope="col" { "Since" }
                th scope="col" { "Reason" }
                th scope="col" { "Latency" }
                th scope="col" { "Certificate" }
            } }
            @if let Some(active) = active { (bodies(active)) }
        }
    }
}

/// One table body per protocol.
fn bodies(active: &ActiveConfig) -> Markup {
    let samples = active
        .slots
        .iter()
        .map(|slot| active.table.latencies(*slot));
    let all: Vec<(TargetStatus, Vec<Sample>)> = active.targets().into_iter().zip(samples).collect();
    html! {
        @for protocol in Protocol::ALL {
            (targets_of(active, protocol, &all))
        }
    }
}

fn targets_of(
    active: &ActiveConfig,
    protocol: Protocol,
    all: &[(TargetStatus, Vec<Sample>)],
) -> Markup {
    let mine = || {
        all.iter()
            .filter(|(one, _)| one.target.protocol == protocol)
    };
    let count = mine().count();
    if count == 0 {
        return html! {};
    }
    let alive = mine().filter(|(one, _)| one.record.verdict() == Verdict::Alive);
    html! {
        tbody data-protocol=(protocol) {
            tr class="g" { th colspan="7" scope="rowgroup" {
                (protocol) ": " (alive.count()) " of " (count) " alive"
            } }
            @for (status, samples) in mine() { (row(active, status, samples)) }
        }
    }
}

fn row(active: &ActiveConfig, status: &TargetStatus, samples: &[Sample]) -> Markup {
    let TargetStatus {
        target,
        record,
        ip,
        state,
        tls,
    } = status;
    let verdict = record.verdict();
    let is_soon = active.certificate_ends_within(record).is_some();
    html! {
        tr class=(verdict.name()) {
            th scope="row" {
                (Shown(&target.key()))
                @if *ip != target.host.to_string() {
                    " " small { (ip) }
                }
            }
            td { (Shown(&target.node())) }
            td {
                b { (sign(verdict)) " " (verdict.name()) }
                @if *state != OperatorState::Auto { " " i { (state.name()) } }
            }
            td { @if record.since_ms > 0 { (age_since(record.since_ms)) } }
            td { (Shown(record.error.as_deref().unwrap_or_default())) }
            td {
                (graph(samples))
                @if let Some(took) = record.latency { (latency(took)) }
                @if failed(samples) > 0 { " " small { (failed(samples)) " of " (samples.len()) " failed" } }
            }
            td class=[is_soon.then_some("w")] title=[tls.as_deref()] { (certificate(record.not_after, is_soon)) }
        }
    }
}

/// A sign beside the colour, for those who do not see it.
fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Alive => "✔",
        Verdict::Dead => "✖",
        Verdict::Unknown => "?",
    }
}

fn age_since(unix_ms: u64) -> String {
    age(Duration::from_millis(
        clock::unix_ms().saturating_sub(unix_ms),
    ))
}

/// How many days a certificate is still valid.
fn certificate(not_after: Option<i64>, is_soon: bool) -> String {
    let Some(not_after) = not_after else {
        return String::new();
    };
    let now = i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX);
    match not_after.saturating_sub(now) {
        left if left <= 0 => "⚠ expired".to_owned(),
        left if is_soon => format!("⚠ {} d", left / 86400),
        left => format!("{} d", left / 86400),
    }
}

/// The nodes, where the configuration groups targets into nodes or pools.
pub(super) fn nodes(active: Option<&ActiveConfig>) -> Markup {
    let active = active.filter(|active| active.names_nodes());
    html! {
        section hidden[active.is_none()] {
        h2 { "Nodes" }
        table id="nodes" {
            thead { tr {
                th scope="col" { "Node" }
                th scope="col" { "Pool" }
                th scope="col" { "Weight" }
                th scope="col" { "Usable" }
            } }
            tbody {
                @for status in active.iter().flat_map(|active| active.node_statuses()) {
                    tr class=(if status.why.is_none() { "alive" } else { "dead" }) {
                        th scope="row" { (Shown(&status.node.name)) }
                        td { (Shown(&status.node.pool)) }
                        td { (status.weight) }
                        td { b {
                            @match status.why { None => "✔ yes", Some(why) => { "✖ no: " (why.text()) } }
                        } }
                    }
                }
            }
        }
        }
    }
}

pub(super) fn events(active: Option<&ActiveConfig>) -> Markup {
    let all = active.map_or_else(Vec::new, last_events);
    html! {
        h2 { "Events" }
        table id="events" {
            thead { tr {
                th scope="col" { "Time" }
                th scope="col" { "Event" }
                th scope="col" { "About" }
                th scope="col" { "Change" }
                th scope="col" { "Reason" }
                th scope="col" { "By" }
            } }
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
    let mut events = active.table.events_after(0).events;
    events.drain(..events.len().saturating_sub(SHOWN_EVENTS));
    events
}

/// What an event changed, from what to what.
fn change(from: &str, to: &str) -> String {
    match (from, to) {
        ("", "") => String::new(),
        ("", to) => format!("→ {to}"),
        (from, "") => format!("{from} →"),
        (from, to) => format!("{from} → {to}"),
    }
}
