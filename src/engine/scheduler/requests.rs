//! What the writer of a state file does for the command `nauthilus-backend` and for followers, on
//! request. `docs/formats.md` has the lines of a request.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::engine::active::{ActiveConfig, NodeStatus, OperatorRequest};
use crate::engine::metrics::write_pieces;
use crate::engine::state_file::format::{read_operator, read_wanted};
use crate::engine::state_file::saved::WantedSetting;
use crate::engine::verdicts::{Event, Set};

/// The longest reply, in bytes.
const REPLY_MAX: usize = 16 * 1024 * 1024;

/// Carries out the lines of a request, and returns the lines of the reply.
///
/// # Errors
/// Why the first line that failed was not carried out.
pub(super) fn carry_out(active: &Arc<ActiveConfig>, body: &str) -> Result<Vec<String>, String> {
    let mut reply = Vec::new();
    for line in body.lines() {
        reply.extend(carry_out_line(active, line)?);
    }
    if reply.iter().map(String::len).sum::<usize>() > REPLY_MAX {
        return Err(format!("the reply is longer than {REPLY_MAX} bytes"));
    }
    Ok(reply)
}

fn carry_out_line(active: &Arc<ActiveConfig>, line: &str) -> Result<Vec<String>, String> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "operator" => {
            let operator = read_operator(rest).ok_or("an operator line that does not read")?;
            match active.table.set_operator(&operator) {
                Set::Done | Set::Older => Ok(Vec::new()),
                Set::Full => Err("there is no room for more settings".to_owned()),
            }
        }
        "set" => {
            let wanted = read_wanted(rest).ok_or("a set line that does not read")?;
            set(active, wanted).map(|()| Vec::new())
        }
        "events" => {
            let since = rest.parse().map_err(|_| "a number expected after events")?;
            let found = active.table.events_after(since);
            let lost = json!({ "lost": found.lost && since > 0 }).to_string();
            let events = found.events.iter().map(event_json);
            Ok(std::iter::once(lost).chain(events).collect())
        }
        "nodes" => Ok(nodes(active)),
        "metrics" => {
            let mut text = String::new();
            write_pieces(Some(active), &mut |piece| text.push_str(piece));
            Ok(text.lines().map(str::to_owned).collect())
        }
        _ => Err("not a request that this version knows".to_owned()),
    }
}

fn set(active: &ActiveConfig, wanted: WantedSetting) -> Result<(), String> {
    active.operate(OperatorRequest {
        what: wanted.what,
        setting: wanted.setting,
        reason: wanted.reason,
        by: wanted.by,
        lasting: (wanted.for_ms > 0).then(|| Duration::from_millis(wanted.for_ms)),
    })
}

/// As `events()` gives it.
fn event_json(event: &Event) -> String {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let node = event.subject.strip_prefix("node:");
    let target = match node {
        Some(_) => None,
        None => some(&event.subject),
    };
    json!({
        "seq": event.number,
        "time": Duration::from_millis(event.time_ms).as_secs_f64(),
        "type": event.kind.name(),
        "target": target,
        "node": node,
        "from": some(&event.from),
        "to": some(&event.to),
        "reason": some(&event.reason),
        "by": some(&event.by),
    })
    .to_string()
}

/// As `nodes()` gives them.
fn nodes(active: &ActiveConfig) -> Vec<String> {
    let node = |status: NodeStatus<'_>| {
        let since = (status.since_ms > 0).then_some(status.since_ms as f64 / 1e3);
        json!({
            "node": status.node.name,
            "pool": status.node.pool,
            "weight": status.weight,
            "usable": status.why.is_none(),
            "why": status.why.map(|why| why.text()),
            "state": status.state.name(),
            "since": since,
            "users": status.users.map(|of| of.users),
            "moved_in": status.users.map(|of| of.moved_in),
            "moved_out": status.users.map(|of| of.moved_out),
        })
        .to_string()
    };
    active.node_statuses().map(node).collect()
}
