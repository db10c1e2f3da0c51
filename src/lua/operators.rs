//! The natives of `metrics` and `status_json`, for operators.

use super::monitor::status_table;
use super::raw::{Answer, ArgView, Args, Items, LuaValue, native};
use crate::engine::metrics::{CONTENT_TYPE, write_pieces};
use crate::engine::process::current;

pub(super) const NATIVES: Items = &[
    ("metrics", native!(metrics)),
    ("status_json", native!(status_json)),
];

/// `metrics(may_start)`: the content type, and an array of pieces of the text.
fn metrics(args: &Args) -> Answer {
    let process = current();
    // Without a configuration the text lacks the targets; other functions return the reason.
    let _ = process.configure_from_environment();
    let active = process.active(super::start::start_if(args.view(1) == ArgView::Bool(true)));
    let mut pieces = Vec::new();
    write_pieces(active, &mut |piece| pieces.push(LuaValue::from(piece)));
    Answer::Values(vec![CONTENT_TYPE.into(), LuaValue::List(pieces)])
}

/// `status_json(may_start)`: the table of `status` as JSON.
fn status_json(args: &Args) -> Answer {
    let status = status_table(args.view(1) == ArgView::Bool(true));
    Answer::Text(json(&status).to_string())
}

fn json(value: &LuaValue) -> serde_json::Value {
    match value {
        // No status contains an address or a handle.
        LuaValue::Nil | LuaValue::Address(_) | LuaValue::Check(_) | LuaValue::Service(_) => {
            serde_json::Value::Null
        }
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
