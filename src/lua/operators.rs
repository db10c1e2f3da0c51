//! The natives of `metrics`, `status_json` and `status_page`, for operators.

use std::time::Duration;

use super::engine::{current_status, status_fields};
use super::maintenance::event;
use super::raw::{Answer, ArgView, Args, Items, LuaValue, native};
use super::routing::node_list;
use crate::engine::metrics::{CONTENT_TYPE, Place, pieces, step};
use crate::engine::page::{DEFAULT_JSON_URL, DEFAULT_TITLE, PageOptions, last_events, render};
use crate::engine::process::current;
use crate::sys::clock;

pub(super) const NATIVES: Items = &[
    ("metrics", native!(metrics)),
    ("metrics_step", native!(metrics_step)),
    ("status_json", native!(status_json)),
    ("status_page", native!(status_page)),
];

/// `metrics(may_start)`: the content type, and a handle of the active configuration, or nil where
/// there is none.
fn metrics(args: &Args) -> Answer {
    let process = current();
    // Without a configuration the text lacks the targets; other functions return the reason.
    let _ = process.configure_from_environment();
    let active = process.active(super::start::start_if(args.view(1) == ArgView::Bool(true)));
    let handle = active.map_or(LuaValue::Nil, LuaValue::Service);
    Answer::Values(vec![CONTENT_TYPE.into(), handle])
}

/// `metrics_step(handle or nil, family, item)`: the place of the next step as two numbers, and an
/// array with this step's text in pieces; nothing after the end.
fn metrics_step(args: &Args) -> Answer {
    let number = |index| {
        let number = args.optional_number(index).ok().flatten().unwrap_or(0.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // The cast saturates.
        let whole = number as usize;
        whole
    };
    let place = Place {
        family: number(2),
        item: number(3),
    };
    let active = match args.service(1) {
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

/// `status_json(may_start)`: as JSON the table of `status`, and everything else that the status page
/// shows.
fn status_json(args: &Args) -> Answer {
    let status = current_status(args.view(1) == ArgView::Bool(true));
    let mut fields = status_fields(&status, true);
    fields.push(("time", unix_seconds(clock::unix_ms()).into()));
    if let Some(active) = status.active.as_deref() {
        let prober = Some(active.table.prober()).filter(|&pid| pid != 0);
        let events = last_events(active).into_iter().map(event);
        fields.extend([
            ("configured_since", unix_seconds(active.since_ms).into()),
            ("prober", prober.into()),
            ("routing", active.names_nodes().into()),
            ("nodes", node_list(active)),
            ("events", LuaValue::List(events.collect())),
        ]);
    }
    Answer::Text(json(&LuaValue::Table(fields)).to_string())
}

fn unix_seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// `status_page(may_start, nonce or nil, title or nil, json_url or nil)`: the page.
fn status_page(args: &Args) -> Answer {
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
    Answer::Text(render(&options, &status))
}

fn json(value: &LuaValue) -> serde_json::Value {
    match value {
        // No status contains an address or a handle.
        LuaValue::Nil
        | LuaValue::Address(_)
        | LuaValue::Check(_)
        | LuaValue::Routes(_)
        | LuaValue::Service(_) => serde_json::Value::Null,
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
