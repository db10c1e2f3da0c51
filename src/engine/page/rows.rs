//! The rows of targets and nodes. They are made in steps, so that thousands of rows do not keep the event
//! loop of a host from other work.

use std::time::Duration;

use maud::{Markup, html};

use super::graph::{failed, graph};
use super::text::{Shown, age, latency, utc};
use crate::engine::active::{ActiveConfig, NodeStatus, TargetStatus};
use crate::engine::routing::Why;
use crate::engine::target::Protocol;
use crate::engine::tls_details::{CertificateDetails, TlsDetails};
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
    let handshake = tls
        .as_deref()
        .and_then(TlsDetails::from_line)
        .map(handshake);
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
            td class=[is_soon.then_some("w")] title=[handshake.as_deref().map(Shown)] {
                (certificate(record.not_after, is_soon))
            }
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

/// What the last full TLS handshake showed: protocol, cipher and group, and the certificates.
fn handshake(tls: TlsDetails) -> String {
    let protocol = [tls.version, tls.cipher, tls.group.unwrap_or_default()];
    let protocol = protocol.into_iter().filter(|part| !part.is_empty());
    let mut parts = vec![protocol.collect::<Vec<_>>().join(" ")];
    parts.extend(tls.chain.iter().map(one_certificate));
    parts.join("; ")
}

fn one_certificate(of: &CertificateDetails) -> String {
    let mut text = format!("{} issued by {}", of.subject, of.issuer);
    if let Some(expiry) = of.not_after {
        let expiry = u64::try_from(expiry).unwrap_or(0);
        text.push_str(&format!(" until {}", utc(expiry.saturating_mul(1000))));
    }
    if !of.names.is_empty() {
        text.push_str(&format!(" for {}", of.names.join(", ")));
    }
    text
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::Config;

    #[test]
    fn what_a_certificate_says_is_shown_with_visible_characters() {
        let text = "backend_server_monitoring: {log: none, backend_servers: [\
            {protocol: imap, host: 127.0.0.1, port: 993, tls: true}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap();
        let details = TlsDetails {
            at: 1_700_000_000,
            version: "TLSv1.3".to_owned(),
            cipher: "AES".to_owned(),
            group: Some("X25519".to_owned()),
            certificates: 1,
            chain: vec![CertificateDetails {
                subject: "CN=\u{202e}moc.knab\"<b>".to_owned(),
                issuer: "CN=R11".to_owned(),
                names: vec!["a.example".to_owned(), "b.example".to_owned()],
                not_after: Some(1_800_000_000),
                ..CertificateDetails::default()
            }],
            ..TlsDetails::default()
        };
        active.table.note_tls(active.slots[0], &details.to_line());
        let (rows, _) = target_rows(&active, 0).unwrap();
        let title = "title=\"TLSv1.3 AES X25519; CN=\\u{202e}moc.knab&quot;&lt;b&gt; issued by CN=R11 \
            until 2027-01-15 08:00:00 UTC for a.example, b.example\"";
        assert!(rows.contains(title), "{rows}");
        assert!(!rows.contains('\u{202e}'), "{rows}");
    }
}
