//! The natives of `set_target_state`, `set_node_weight` and `events`, for operators.

use std::time::Duration;

use super::raw::{Answer, ArgView, Args, Items, LuaValue, native};
use crate::engine::active::OperatorRequest;
use crate::engine::config::parse_duration;
use crate::engine::process::{Start, current};
use crate::engine::verdicts::{Event, OperatorState, Setting};

pub(super) const NATIVES: Items = &[
    ("set_state", native!(set_state)),
    ("set_weight", native!(set_weight)),
    ("duration", native!(duration)),
    ("events", native!(events)),
];

/// `set_state(what, state, reason, by, seconds or nil)`: nil, or why it was refused.
fn set_state(args: &Args) -> Answer {
    let set = || {
        let state = text(args, 2)?;
        let state = OperatorState::from_name(&state).ok_or("no such state")?;
        set(args, Setting::State(state))
    };
    Answer::problem(set())
}

/// `set_weight("node:" .. name, weight or nil, reason, by, seconds or nil)`: nil, or why it was refused.
fn set_weight(args: &Args) -> Answer {
    let set = || {
        let weight = args.optional_number(2)?;
        let weight = weight.map(|weight| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // The glue only passes whole numbers from 0 to 1000.
            let whole = weight.clamp(0.0, 1000.0) as u16;
            whole
        });
        set(args, Setting::Weight(weight))
    };
    Answer::problem(set())
}

fn set(args: &Args, setting: Setting) -> Result<(), String> {
    let lasting = args.optional_number(5)?;
    let wanted = OperatorRequest {
        what: text(args, 1)?,
        setting,
        reason: text(args, 3)?,
        by: text(args, 4)?,
        lasting: lasting.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    };
    let process = current();
    process.configure_from_environment()?;
    let active = process.active(Start::Forbidden).ok_or("not configured")?;
    active.operate(wanted)
}

/// Argument `index` as text; empty for nil.
fn text(args: &Args, index: std::ffi::c_int) -> Result<String, String> {
    match args.view(index) {
        ArgView::Nil => Ok(String::new()),
        _ => Ok(String::from_utf8_lossy(args.bytes(index)?).into_owned()),
    }
}

/// `duration(text)`: seconds, or nil.
fn duration(args: &Args) -> Answer {
    let seconds = args.bytes(1).ok().and_then(|text| {
        let text = std::str::from_utf8(text).ok()?;
        parse_duration(text).map(|time| time.as_secs_f64())
    });
    Answer::Values(vec![seconds.into()])
}

/// `events(since)`: the events after that number, and whether some of them are no longer kept.
fn events(args: &Args) -> Answer {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // The cast saturates.
    let since = args
        .optional_number(1)
        .ok()
        .flatten()
        .map_or(0, |since| since as u64);
    let process = current();
    // An error of the file is ignored here: functions that return errors, such as `status`, report it.
    let _ = process.configure_from_environment();
    let Some(active) = process.active(Start::Forbidden) else {
        return Answer::Values(vec![LuaValue::List(Vec::new()), false.into()]);
    };
    let found = active.table.events_after(since);
    let events = found.events.into_iter().map(event).collect();
    // A reader that passes 0 has read no event before, so none counts as lost for it.
    let lost = found.lost && since > 0;
    Answer::Values(vec![LuaValue::List(events), lost.into()])
}

/// An event as `events` gives it.
pub(super) fn event(event: Event) -> LuaValue {
    let some = |text: String| LuaValue::from(Some(text).filter(|text| !text.is_empty()));
    let (target, node) = match event.subject.strip_prefix("node:") {
        Some(node) => (String::new(), node.to_owned()),
        None => (event.subject, String::new()),
    };
    LuaValue::Table(vec![
        ("seq", event.number.into()),
        (
            "time",
            Duration::from_millis(event.time_ms).as_secs_f64().into(),
        ),
        ("type", event.kind.name().into()),
        ("target", some(target)),
        ("node", some(node)),
        ("from", some(event.from)),
        ("to", some(event.to)),
        ("reason", some(event.reason)),
        ("by", some(event.by)),
    ])
}
