//! Functions of the API that are natives without a Lua function around them: in an interpreter, that
//! Lua function would cost as much as the native. Row of `make bench`: "whole request sequence, Lua 5.4".
//!
//! Each native handles the common argument types. For anything else (another type, a value to refuse, a
//! context that depends on the coroutine) it calls the Lua function that it stands for, with the same
//! arguments; that function also raises the errors.

use super::context::port;
use super::raw::{Answer, ArgView, Args, Item, Items, stand_in};
use super::result::{Field, field_at, log_left_out};
use crate::engine::process::count_selection;
use crate::engine::request::server_address::is_plain_literal;

/// The table `plainly`. Each of its functions takes the Lua function to fall back to and an extra value,
/// and returns the native. The extra value is the host adapter's table whose index 1 is the current
/// context; for `result_method` it is the number of the field.
pub(super) const NATIVES: Items = &[(
    "plainly",
    Item::Table(&[
        ("select", stand_in!(select)),
        ("apply", stand_in!(apply)),
        ("remove", stand_in!(remove)),
        ("result_method", stand_in!(result_method)),
    ]),
)];

/// `select_backend_server(ip, port)`
fn select(args: &Args) -> Option<Answer> {
    let (ArgView::Bytes(ip), Some(port)) = (args.view(1), port(args.view(2))) else {
        return None;
    };
    is_plain_literal(ip).then_some(())?;
    args.current_context()?.with(|c| c.select(ip, port));
    count_selection();
    Some(Answer::Nothing)
}

/// `apply_backend_result(result)`
fn apply(args: &Args) -> Option<Answer> {
    let (result, context) = (args.result(1)?, args.current_context()?);
    result.with_current(|r| context.with(|c| c.apply(r).ok()))?;
    Some(Answer::Nothing)
}

/// `remove_from_backend_result(names)`
fn remove(args: &Args) -> Option<Answer> {
    let (names, context) = (args.strings(1).ok()?, args.current_context()?);
    context.with(|c| c.remove(names));
    Some(Answer::Nothing)
}

/// `result:attributes(table)` and the other setters, with the number of the field as extra value
fn result_method(args: &Args) -> Option<Answer> {
    let result = args.result(1)?;
    match (field_at(args.extra_number()?)?, args.view(2)) {
        (Field::Attributes, ArgView::Table) => {
            let attributes = args.attributes(2, log_left_out).ok()?;
            result.with(|r| r.attributes = attributes);
        }
        (field, ArgView::Bool(value)) => field.set_flag(result, value).then_some(())?,
        (field, ArgView::Bytes(text)) => field.set_text(result, text).then_some(())?,
        _ => return None,
    }
    Some(Answer::Nothing)
}
