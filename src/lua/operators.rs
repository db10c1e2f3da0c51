//! For operators: the natives of `metrics` and `status_json`.

use super::monitor::status_table;
use super::raw::{Answer, Args, Items, Value, View, native};
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
    let active = process.active(super::start::start_if(args.view(1) == View::Bool(true)));
    let mut pieces = Vec::new();
    write_pieces(active, &mut |piece| pieces.push(Value::from(piece)));
    Answer::Values(vec![CONTENT_TYPE.into(), Value::List(pieces)])
}

/// `status_json(may_start)`: what `status` gives, as JSON.
fn status_json(args: &Args) -> Answer {
    let status = status_table(args.view(1) == View::Bool(true));
    Answer::Text(json(&status).to_string())
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        // Addresses and handles are in no status.
        Value::Nil | Value::Address(_) | Value::Check(_) | Value::Service(_) => {
            serde_json::Value::Null
        }
        Value::Bool(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_ref().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Table(fields) => {
            let fields = fields
                .iter()
                .filter(|(_, value)| !matches!(value, Value::Nil));
            fields
                .map(|(name, value)| ((*name).to_owned(), json(value)))
                .collect()
        }
    }
}
