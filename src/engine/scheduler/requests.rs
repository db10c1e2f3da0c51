//! What the writer of a state file does for the command `nauthilus-backend` and for followers, on
//! request. `docs/formats.md` has the lines of a request.
//!
//! What is done at once is done between two events of the scheduler. What takes longer is a task of
//! its own, which lets probes run between its steps: the metrics of many targets, or a call of the
//! store of bindings, which the engine thread makes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::engine::active::{ActiveConfig, NodeStatus, OperatorRequest};
use crate::engine::metrics::{Place, step};
use crate::engine::state_file::call::WantedCall;
use crate::engine::state_file::format::{put_reply, read_operator, read_wanted};
use crate::engine::state_file::saved::WantedSetting;
use crate::engine::verdicts::Event;
use crate::sys::gate;
use crate::sys::relay::relayed;

/// The longest reply, in bytes.
const REPLY_MAX: usize = 16 * 1024 * 1024;

/// How many nodes a step of the list of nodes is about.
const NODES_PER_STEP: usize = 100;

/// The lines of a reply as a content has them, or why nothing was done.
pub(super) type Replied = Result<String, String>;

/// Carries out the lines of a request. The reply says when it is done, and notifies `done`.
///
/// A request that is not done at once has one line. Its call of the store, if it is one, is the
/// second result: it is for the engine thread to make.
pub(super) fn carry_out(
    active: &Arc<ActiveConfig>,
    body: &str,
    done: &Arc<Notify>,
) -> (Arc<ReplySlot>, Option<(WantedCall, Reply)>) {
    let slot = Arc::new(ReplySlot {
        replied: OnceLock::new(),
        done: done.clone(),
    });
    let reply = Reply(slot.clone());
    let (kind, rest) = body
        .trim_end()
        .split_once(' ')
        .unwrap_or((body.trim_end(), ""));
    if WantedCall::is_kind(kind) {
        match WantedCall::read(kind, rest) {
            Some(call) => return (slot, Some((call, reply))),
            None => reply.give(Err(format!("a {kind} line that does not read"))),
        }
    } else if kind == "metrics" || kind == "nodes" {
        let list = if kind == "nodes" {
            List::Nodes
        } else {
            List::Metrics
        };
        tokio::spawn(relayed(in_steps(active.clone(), list, reply)));
    } else {
        reply.give(at_once(active, body));
    }
    (slot, None)
}

// === Replies ===

/// Where the reply to a request will be.
pub(super) struct ReplySlot {
    replied: OnceLock<Replied>,
    done: Arc<Notify>,
}

impl ReplySlot {
    pub(super) fn replied(&self) -> Option<&Replied> {
        self.replied.get()
    }

    /// The lines of the reply.
    pub(super) fn lines(&self) -> Option<&str> {
        self.replied.get()?.as_deref().ok()
    }
}

/// The right to reply to a request, once. Where it is dropped without a reply, the reply is an
/// error: whoever asked does not wait in vain, nor do the requests behind it.
pub(in crate::engine) struct Reply(Arc<ReplySlot>);

impl Reply {
    /// Replies with lines.
    pub(in crate::engine) fn give_lines(self, lines: Result<Vec<String>, String>) {
        self.give(lines.map(|lines| text_of(&lines)));
    }

    fn give(self, replied: Replied) {
        let is_too_long = replied.as_ref().is_ok_and(|text| text.len() > REPLY_MAX);
        let _ = self.0.replied.set(if is_too_long {
            Err(format!("the reply is longer than {REPLY_MAX} bytes"))
        } else {
            replied
        });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let _ = self
            .0
            .replied
            .set(Err("the engine could not do it".to_owned()));
        self.0.done.notify_one();
    }
}

fn text_of(lines: &[String]) -> String {
    let mut text = String::new();
    lines.iter().for_each(|line| put_reply(&mut text, line));
    text
}

// === What takes several steps ===

#[derive(Clone, Copy)]
enum List {
    Metrics,
    Nodes,
}

/// Makes a list. After each step, which takes less than a millisecond, probes have their turn.
async fn in_steps(active: Arc<ActiveConfig>, list: List, reply: Reply) {
    let mut text = String::new();
    let mut place = Place::default();
    while text.len() <= REPLY_MAX {
        let next = match list {
            List::Metrics => step(Some(&active), place).map(|(lines, next)| {
                lines.lines().for_each(|line| put_reply(&mut text, line));
                next
            }),
            List::Nodes => nodes(&active, place.item).map(|lines| {
                lines.iter().for_each(|line| put_reply(&mut text, line));
                let item = place.item + NODES_PER_STEP;
                Place { item, ..place }
            }),
        };
        let Some(next) = next else {
            break;
        };
        place = next;
        // A fork or an exit of the host must not wait for the remaining steps.
        gate::give_way();
        yield_now().await;
    }
    reply.give(Ok(text));
}

/// Some nodes from an index on, as `nodes()` gives them; `None` behind the last one.
fn nodes(active: &ActiveConfig, from: usize) -> Option<Vec<String>> {
    let count = active.node_count();
    if from >= count {
        return None;
    }
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
    let range = from..count.min(from + NODES_PER_STEP);
    Some(active.node_statuses_of(range).map(node).collect())
}

// === What is done at once ===

fn at_once(active: &Arc<ActiveConfig>, body: &str) -> Replied {
    let mut text = String::new();
    for line in body.lines() {
        for line in at_once_line(active, line)? {
            put_reply(&mut text, &line);
        }
    }
    Ok(text)
}

fn at_once_line(active: &Arc<ActiveConfig>, line: &str) -> Result<Vec<String>, String> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "operator" => {
            let operator = read_operator(rest).ok_or("an operator line that does not read")?;
            active.set_operator(&operator).map(|_| Vec::new())
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
