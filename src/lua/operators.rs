//! The natives of `metrics`, `status_json` and `status_page`, for operators.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{current_status, status_fields, target_rows};
use super::maintenance::event;
use super::raw::{Answer, ArgView, Args, Items, LuaValue, native};
use super::routing::node_fields;
use crate::engine::active::ActiveConfig;
use crate::engine::metrics::{CONTENT_TYPE, Place, pieces, step};
use crate::engine::page::{self, DEFAULT_JSON_URL, DEFAULT_TITLE, PageOptions, last_events};
use crate::engine::process::current;
use crate::sys::clock;

pub(super) const NATIVES: Items = &[
    ("metrics", native!(metrics)),
    ("metrics_step", native!(metrics_step)),
    ("status_json_frame", native!(status_json_frame)),
    ("status_json_rows", native!(status_json_rows)),
    ("status_page_frame", native!(status_page_frame)),
    ("status_page_rows", native!(status_page_rows)),
];

/// `metrics(may_start)`: the content type, and a handle of the active configuration, or nil where
/// there is none.
fn metrics(args: &Args) -> Answer {
    let process = current();
    // Without a configuration the text lacks the targets; other functions return the reason.
    let _ = process.configure_from_environment();
    let active = process.active(super::start::start_if(args.view(1) == ArgView::Bool(true)));
    let handle = active.map_or(LuaValue::Nil, LuaValue::ActiveConfig);
    Answer::Values(vec![CONTENT_TYPE.into(), handle])
}

/// `metrics_step(handle or nil, family, item)`: the place of the next step as two numbers, and an
/// array with this step's text in pieces; nothing after the end.
fn metrics_step(args: &Args) -> Answer {
    let place = Place {
        family: whole(args, 2),
        item: whole(args, 3),
    };
    let active = match args.active_config(1) {
        Ok(active) => active,
        Err(refused) => return Answer::Raised(refused),
    };
    let Some((text, next)) = step(active, place) else {
        return Answer::Nothing;
    };
    let pieces = pieces(&text).map(|piece| piece.to_owned().into());
    let index = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    Answer::Values(vec![
        index(next.family).into(),
        index(next.item).into(),
        LuaValue::List(pieces.collect()),
    ])
}

/// Argument `index` as an index; 0 where it is none.
fn whole(args: &Args, index: std::ffi::c_int) -> usize {
    let number = args.optional_number(index).ok().flatten().unwrap_or(0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // The cast saturates.
    let whole = number as usize;
    whole
}

/// How many targets or nodes a step of the JSON is about.
const STEP: usize = 25;

/// The list of rows that a step is about: the glue passes its number.
fn is_of_nodes(args: &Args) -> bool {
    args.optional_number(2).ok().flatten() == Some(1.0)
}

/// The text of a page or of the JSON, without the rows of targets and nodes: a handle of the active
/// configuration, or nil where there is none; what comes before the targets, before the nodes, and after
/// them.
fn frame(active: Option<Arc<ActiveConfig>>, parts: [String; 3]) -> Answer {
    let handle = active.map_or(LuaValue::Nil, LuaValue::ActiveConfig);
    let mut values = vec![handle];
    values.extend(parts.map(LuaValue::from));
    Answer::Values(values)
}

/// The text of some rows, and the first item of the next step; nothing after the last.
fn rows(
    args: &Args,
    of: impl FnOnce(&Arc<ActiveConfig>, usize) -> Option<(String, usize)>,
) -> Answer {
    let active = match args.active_config(1) {
        Ok(active) => active,
        Err(refused) => return Answer::Raised(refused),
    };
    let item = whole(args, 3);
    match active.and_then(|active| of(active, item)) {
        Some((text, next)) => {
            let next = i64::try_from(next).unwrap_or(i64::MAX);
            Answer::Values(vec![text.into(), next.into()])
        }
        None => Answer::Nothing,
    }
}

/// `status_json_frame(may_start)`: see [`frame`]. The JSON has the table of `status`, and everything else
/// that the status page shows.
fn status_json_frame(args: &Args) -> Answer {
    let status = current_status(args.view(1) == ArgView::Bool(true));
    let mut fields = status_fields(&status);
    fields.push(("time", unix_seconds(clock::unix_ms()).into()));
    let active = status.active.as_deref();
    if let Some(active) = active {
        let prober = active.prober();
        let pid = prober.map(|prober| prober.pid).filter(|&pid| pid != 0);
        let events = last_events(active).into_iter().map(event);
        fields.extend([
            ("configured_since", unix_seconds(active.since_ms).into()),
            ("prober", pid.into()),
            (
                "prober_elsewhere",
                prober.is_some_and(|prober| prober.is_elsewhere).into(),
            ),
            ("routing", active.has_routing().into()),
            ("cluster", active.config.cluster.is_some().into()),
            ("events", LuaValue::List(events.collect())),
        ]);
    }
    let mut head = json(&LuaValue::Table(fields)).to_string();
    // Removes the closing brace: more fields follow.
    head.pop();
    head.push_str(",\"targets\":[");
    let (nodes, end) = if active.is_some() {
        ("],\"nodes\":[", "]}")
    } else {
        ("]", "}")
    };
    frame(status.active, [head, nodes.to_owned(), end.to_owned()])
}

/// `status_json_rows(handle, list, item)`: see [`rows`].
fn status_json_rows(args: &Args) -> Answer {
    let is_of_nodes = is_of_nodes(args);
    rows(args, |active, item| {
        let count = if is_of_nodes {
            active.node_count()
        } else {
            active.slots.len()
        };
        let end = count.min(item.saturating_add(STEP));
        let values: Vec<LuaValue> = match (item < end, is_of_nodes) {
            (false, _) => return None,
            (true, true) => active
                .node_statuses_of(item..end)
                .map(node_fields)
                .collect(),
            (true, false) => target_rows(active, item..end, true).collect(),
        };
        let mut text = String::new();
        for value in &values {
            if item > 0 || !text.is_empty() {
                text.push(',');
            }
            text.push_str(&json(value).to_string());
        }
        Some((text, end))
    })
}

fn unix_seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// `status_page_frame(may_start, nonce or nil, title or nil, json_url or nil)`: see [`frame`].
fn status_page_frame(args: &Args) -> Answer {
    let status = current_status(args.view(1) == ArgView::Bool(true));
    let text = |index| match args.view(index) {
        ArgView::Nil => None,
        _ => Some(String::from_utf8_lossy(args.bytes(index).ok()?).into_owned()),
    };
    let options = PageOptions {
        nonce: text(2),
        title: text(3).unwrap_or_else(|| DEFAULT_TITLE.to_owned()),
        json_url: text(4).unwrap_or_else(|| DEFAULT_JSON_URL.to_owned()),
    };
    let page = page::frame(&options, &status);
    let parts = [page.before_targets, page.before_nodes, page.after_nodes];
    frame(status.active, parts)
}

/// `status_page_rows(handle, list, item)`: see [`rows`].
fn status_page_rows(args: &Args) -> Answer {
    let is_of_nodes = is_of_nodes(args);
    rows(args, |active, item| {
        if is_of_nodes {
            page::node_rows(active, item)
        } else {
            page::target_rows(active, item)
        }
    })
}

fn json(value: &LuaValue) -> serde_json::Value {
    match value {
        // No status contains an address or a handle.
        LuaValue::Nil
        | LuaValue::Address(_)
        | LuaValue::Check(_)
        | LuaValue::Routes(_)
        | LuaValue::ActiveConfig(_) => serde_json::Value::Null,
        LuaValue::Bool(value) => (*value).into(),
        LuaValue::Integer(number) => (*number).into(),
        LuaValue::Float(number) => (*number).into(),
        LuaValue::Text(text) => text.as_ref().into(),
        LuaValue::List(items) => items.iter().map(json).collect(),
        LuaValue::Table(fields) => {
            let fields = fields
                .iter()
                .filter(|(_, value)| !matches!(value, LuaValue::Nil));
            fields
                .map(|(name, value)| ((*name).to_owned(), json(value)))
                .collect()
        }
    }
}
