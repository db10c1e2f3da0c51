//! Functions of the API that are natives themselves: where Lua is interpreted, a Lua function
//! around a native costs as much as the native.
//!
//! Each does what is plain. Whatever is not (another type, something to refuse, a context that is
//! to be asked for) is for the Lua function that it stands for, which it calls with the same
//! arguments, and which also says what is wrong.

use super::context::port;
use super::raw::{Answer, ArgView, Args, Item, Items, stand_in};
use super::result::{Field, field_at, log_left_out};
use crate::engine::request::server_address::is_plain_literal;

/// The table `plainly`: each of its functions takes the Lua function that is stood for and
/// an extra value, and gives the native. The extra value is the table of the host's adapter whose
/// index 1 is the current context, and of `result_method` the number of its field.
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

/// `result:attributes(table)` and the like, with the field's number as `extra`
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
