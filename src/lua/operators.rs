//! For operators: the natives of `metrics` and `status_json`.

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
    // Where there is no configuration the text has less in it; other calls say why.
    let _ = process.configure_from_environment();
    let active = process.active(super::start::start_if(args.view(1) == ArgView::Bool(true)));
    let mut pieces = Vec::new();
    write_pieces(active, &mut |piece| pieces.push(LuaValue::from(piece)));
    Answer::Values(vec![CONTENT_TYPE.into(), LuaValue::List(pieces)])
}

/// `status_json(may_start)`: what `status` gives, as JSON.
fn status_json(args: &Args) -> Answer {
    let status = status_table(args.view(1) == ArgView::Bool(true));
    Answer::Text(json(&status).to_string())
}

fn json(value: &LuaValue) -> serde_json::Value {
    match value {
        // Addresses and handles are in no status.
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
