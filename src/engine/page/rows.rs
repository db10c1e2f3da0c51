//! The rows of targets and nodes. They are made in steps, so that thousands of rows do not keep the event
//! loop of a host from other work.

use std::time::Duration;

use maud::{Markup, html};

use super::graph::{failed, graph};
use super::text::{Shown, age, latency};
use crate::engine::active::{ActiveConfig, NodeStatus, TargetStatus};
use crate::engine::routing::Why;
use crate::engine::target::Protocol;
use crate::engine::verdicts::OperatorState;
use crate::engine::verdicts::health::Verdict;
use crate::sys::clock;

/// How many rows a step makes.
const STEP: usize = 50;

/// The rows of targets at `item`: targets are listed protocol after protocol, each in a table body of its
/// own, and an item is a target of one protocol. Also returns the first item of the next step; `None` after
/// the last.
pub fn target_rows(active: &ActiveConfig, item: usize) -> Option<(String, usize)> {
    let count = active.slots.len();
    let protocol = *Protocol::ALL.get(item.checked_div(count)?)?;
    let first = item % count;
    let of_protocol = |index: &usize| {
        let target = active.config.targets.get(*index);
        target.is_some_and(|target| target.protocol == protocol)
    };
    let mut text = String::new();
    let mut mine = (first..count).filter(of_protocol).peekable();
    let has_any = mine.peek().is_some();
    if first == 0 && has_any {
        text.push_str(&format!("<tbody data-protocol=\"{protocol}\">"));
        text.push_str(&head(active, protocol).into_string());
    }
    for status in active.target_statuses(mine.by_ref().take(STEP)) {
        text.push_str(&row(active, &status).into_string());
    }
    let next = match mine.next() {
        Some(next) => item - first + next,
        None => {
            // Ends the table body of the protocol, if one was begun in this step or an earlier one.
            if has_any {
                text.push_str("</tbody>");
            }
            item - first + count
        }
    };
    Some((text, next))
}

/// The heading above the targets of a protocol.
fn head(active: &ActiveConfig, protocol: Protocol) -> Markup {
    let pairs = active.config.targets.iter().zip(&active.slots);
    let (mut count, mut alive) = (0_usize, 0_usize);
    for (_, slot) in pairs.filter(|(target, _)| target.protocol == protocol) {
        count += 1;
        alive += usize::from(active.table.read_brief(*slot).0 == Verdict::Alive);
    }
    html! {
        tr class="g" { th colspan="7" scope="rowgroup" {
            (protocol) ": " (alive) " of " (count) " alive"
        } }
    }
}

fn row(active: &ActiveConfig, status: &TargetStatus) -> Markup {
    let TargetStatus {
        target,
        slot,
        record,
        ip,
        state,
        tls,
    } = status;
    let samples = &active.table.latencies(*slot);
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

/// A sign for a verdict, beside its colour: not everybody can tell the colours apart.
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

/// The rows of nodes from `item` on, and the first item of the next step; `None` after the last.
pub fn node_rows(active: &ActiveConfig, item: usize) -> Option<(String, usize)> {
    let end = active.node_count().min(item.saturating_add(STEP));
    if item >= end || !active.has_routing() {
        return None;
    }
    let rows = html! {
        @for status in active.node_statuses_of(item..end) { (node_row(&status)) }
    };
    Some((rows.into_string(), end))
}

fn node_row(status: &NodeStatus<'_>) -> Markup {
    html! {
        tr class=(match status.why { None => "alive", Some(Why::Dead) => "dead", Some(_) => "out" }) {
            th scope="row" { (Shown(&status.node.name)) }
            td { (Shown(&status.node.pool)) }
            td { (status.weight) }
            td { b {
                @match status.why { None => "✔ yes", Some(why) => { "✖ no: " (why.text()) } }
            } }
            td {
                @if status.state != OperatorState::Auto {
                    i { (status.state.name()) } " " (age_since(status.since_ms))
                }
            }
            @if let Some(of) = &status.users {
                td { (of.users) } td { (of.moved_in) } td { (of.moved_out) }
            } @else {
                td {} td {} td {}
            }
        }
    }
}
