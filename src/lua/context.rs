//! Natives of the request context.

use std::net::IpAddr;

use super::own_or_shared::OwnOrShared;
use super::raw::{Answer, ArgView, Args, Items, memory_native};
use crate::engine::process::{count_selection, current};
use crate::engine::request::context::RequestContext;
use crate::engine::request::result::BackendResult;
use crate::engine::request::server_address::{NotAnAddress, ServerAddress, is_plain_literal};
use crate::sys::cancellation::uncancelled;

pub(super) const NATIVES: Items = &[
    ("context_new", memory_native!(new)),
    ("context_share", memory_native!(share)),
    ("context_become", memory_native!(become_other)),
    ("is_context", memory_native!(is_context)),
    ("context_set_base", memory_native!(set_base)),
    ("context_apply", memory_native!(apply)),
    ("context_remove", memory_native!(remove)),
    ("context_select", memory_native!(select)),
    ("context_changes", memory_native!(changes)),
    ("context_reset", memory_native!(reset)),
    ("context_attributes", memory_native!(attributes)),
    ("context_groups", memory_native!(groups)),
    ("context_removed", memory_native!(removed)),
    ("context_selected", memory_native!(selected)),
    ("context_headers", memory_native!(headers)),
    ("context_header_list", memory_native!(header_list)),
    ("context_result", memory_native!(current_result)),
];

/// `context_new()` → context
fn new(_: &Args) -> Answer {
    Answer::Context
}

/// `context_share(context)` → another userdata of the same data
fn share(args: &Args) -> Answer {
    from_context(args, |context| Answer::SharedContext(context.share()))
}

/// `context_become(context, other)`: makes the first a second userdata of the other's data; its old data
/// is dropped
fn become_other(args: &Args) -> Answer {
    let other = args.context(2).map(OwnOrShared::share);
    if other.is_some_and(|shared| args.replace_context(1, shared.into())) {
        Answer::Nothing
    } else {
        Answer::BadSelf
    }
}

/// `is_context(value)` → boolean
fn is_context(args: &Args) -> Answer {
    Answer::Bool(args.context(1).is_some())
}

/// `context_set_base(context, result)` → nothing, or why it is refused, or false where `result`
/// is none
fn set_base(args: &Args) -> Answer {
    with_result(args, |context, result| {
        result
            .with_current(|base| context.with(|c| c.set_base(base.clone())))
            .map_err(|e| e.to_string())
    })
}

/// `context_apply(context, result)` → nothing, or why it is refused, or false where `result`
/// is none
fn apply(args: &Args) -> Answer {
    with_result(args, |context, result| {
        result
            .with_current(|r| context.with(|c| c.apply(r)))
            .map_err(|e| e.to_string())
    })
}

fn with_result(
    args: &Args,
    work: impl FnOnce(&OwnOrShared<RequestContext>, &OwnOrShared<BackendResult>) -> Result<(), String>,
) -> Answer {
    let Some(context) = args.context(1) else {
        return Answer::BadSelf;
    };
    let Some(result) = args.result(2) else {
        return Answer::Bool(false);
    };
    match work(context, result) {
        Ok(()) => Answer::Nothing,
        Err(why) => Answer::Text(why),
    }
}

/// `context_remove(context, names)` → nothing, or why the names are refused
fn remove(args: &Args) -> Answer {
    let Some(context) = args.context(1) else {
        return Answer::BadSelf;
    };
    match args.strings(2) {
        Ok(names) => {
            context.with(|c| c.remove(names));
            Answer::Nothing
        }
        Err(why) => Answer::Text(why),
    }
}

/// `context_select(context, ip, port)` → nothing, or why `ip` is refused. The glue has checked that
/// `port` is an integer from 1 to 65535.
fn select(args: &Args) -> Answer {
    let Some(context) = args.context(1) else {
        return Answer::BadSelf;
    };
    let (ArgView::Bytes(ip), Some(port)) = (args.view(2), port(args.view(3))) else {
        return Answer::Text(NotAnAddress.to_string());
    };
    if is_plain_literal(ip) {
        context.with(|c| c.select(ip, port));
        count_selection();
        return Answer::Nothing;
    }
    match ServerAddress::parse(ip) {
        Ok(ServerAddress::Literal(ip)) => context.with(|c| c.select(ip, port)),
        Ok(ServerAddress::Name(name)) => match current_ip_of(name, port) {
            Some(ip) => context.with(|c| c.select(ip.to_string(), port)),
            None => context.with(|c| c.select(name, port)),
        },
        Err(refused) => return Answer::Text(refused.to_string()),
    }
    count_selection();
    Answer::Nothing
}

/// The current address of the target that is configured with this host name and port.
fn current_ip_of(name: &str, port: u16) -> Option<IpAddr> {
    // The natives here work on memory alone but for this, which may read a file.
    uncancelled(|| {
        let process = current();
        // The functions that list servers report a refused configuration file.
        process.configure_from_environment().ok()?;
        process.current_ip_of(name, port)
    })
}

/// A port that a script passed; `None` unless it is an integer from 1 to 65535.
#[inline]
pub(super) fn port(view: ArgView<'_>) -> Option<u16> {
    let number = match view {
        ArgView::Integer(number) => number.try_into().ok()?,
        ArgView::Float(number) if number.fract() == 0.0 && (1.0..=65535.0).contains(&number) => {
            number as u16
        }
        _ => return None,
    };
    (number != 0).then_some(number)
}

/// `context_changes(context, table)` → the new length of `table`, filled with name, value, name, value, …
/// of the headers that changed since the last call; false is the value of a header to clear
fn changes(args: &Args) -> Answer {
    match (args.context(1), args.view(2)) {
        (Some(context), ArgView::Table) => Answer::Changes(context.with(|c| c.take_changes())),
        _ => Answer::BadSelf,
    }
}

/// Calls `answer` with the context that is argument 1; returns nil, true if it is no context.
fn from_context(
    args: &Args,
    answer: impl FnOnce(&OwnOrShared<RequestContext>) -> Answer,
) -> Answer {
    args.context(1).map_or(Answer::BadSelf, answer)
}

/// `context_reset(context)` → nothing
fn reset(args: &Args) -> Answer {
    from_context(args, |context| {
        context.with(|c| c.reset());
        Answer::Nothing
    })
}

/// `context_attributes(context)` → table name → value
fn attributes(args: &Args) -> Answer {
    from_context(args, |context| {
        Answer::Attributes(context.with(|c| c.attributes()))
    })
}

/// `context_groups(context)` → array
fn groups(args: &Args) -> Answer {
    from_context(args, |context| Answer::List(context.with(|c| c.groups())))
}

/// `context_removed(context)` → array
fn removed(args: &Args) -> Answer {
    from_context(args, |context| {
        Answer::List(context.with(|c| c.removed().iter().map(|name| (**name).into()).collect()))
    })
}

/// `context_selected(context)` → ip, port, or nil, nil
fn selected(args: &Args) -> Answer {
    from_context(args, |context| {
        Answer::Selection(context.with(|c| c.selected().cloned()))
    })
}

/// `context_headers(context)` → table name → value
fn headers(args: &Args) -> Answer {
    from_context(args, |context| {
        Answer::HeaderTable(context.with(|c| c.headers().copy()))
    })
}

/// `context_header_list(context)` → array name, value, name, value, …
fn header_list(args: &Args) -> Answer {
    from_context(args, |context| {
        Answer::HeaderList(context.with(|c| c.headers().copy()))
    })
}

/// `context_result(context)` → a new result with a copy of the context's current result
fn current_result(args: &Args) -> Answer {
    from_context(args, |context| {
        Answer::Result(context.with(|c| c.current_result()))
    })
}
