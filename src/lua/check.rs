//! Checks on demand: the natives of `check_backend_connection` and `start_check`.

use std::sync::Arc;

use super::engine::{tls_details, to_duration};
use super::raw::{
    Answer, ArgView, Args, Items, LuaValue, Refused, config_native, native, number_value,
};
use crate::engine::config::{Value as ConfigValue, parse_host};
use crate::engine::process::check::{Check, CheckResult};
use crate::engine::process::current;

/// An option of a check that is no key of a target: whether the check may share the connection of an
/// equal check in flight.
const COALESCE: &str = "coalesce";

pub(super) const NATIVES: Items = &[
    ("check_start", config_native!(start)),
    ("check_start_at", native!(start_at)),
    ("host_problem", native!(host_problem)),
    ("check_result", native!(result)),
    ("check_wait", native!(wait)),
    ("check_fd", native!(fd)),
    ("check_cancel", native!(cancel)),
    ("check_tls", native!(tls)),
];

/// `host_problem(text)`: nil for an IP address or a host name, else what was expected.
fn host_problem(args: &Args) -> Answer {
    match args.bytes(1).map(std::str::from_utf8) {
        Ok(Ok(host)) => {
            parse_host(host).map_or_else(|why| Answer::Text(why.to_string()), |_| Answer::Nil)
        }
        Ok(Err(_)) => Answer::Text("a host name or an IP address expected".to_owned()),
        Err(refused) => Answer::Raised(refused),
    }
}

/// `check_start(table)`: a handle of the started check, or nil and what is wrong with the table.
fn start(args: &Args) -> Answer {
    if args.view(1) != ArgView::Table {
        return Answer::Raised("nauthilus_backend: internal error: a table expected");
    }
    handle(begin_described(args, 1))
}

/// `check_start_at(host, port, haproxy_v2, tls)`: the same without a table.
fn start_at(args: &Args) -> Answer {
    match described_at(args, 1) {
        Ok(described) => handle(described.and_then(|value| begin(&value))),
        Err(refused) => Answer::Raised(refused),
    }
}

fn handle(started: Result<Check, String>) -> Answer {
    Answer::Values(match started {
        Ok(check) => vec![check.into()],
        Err(reason) => vec![LuaValue::Nil, reason.into()],
    })
}

/// Starts the check that the table at `index` describes, or says what is wrong with it.
pub(super) fn begin_described(args: &Args, index: i32) -> Result<Check, String> {
    args.config(index, |value| {
        begin(&value.map_err(|issue| issue.to_string())?)
    })
}

/// The description of a check from four arguments, beginning at `first`: `host, port, haproxy_v2, tls`;
/// or what is wrong with them. A flag that is nil is left out.
pub(super) fn described_at(
    args: &Args,
    first: i32,
) -> Result<Result<ConfigValue, String>, Refused> {
    let (host, port) = (args.bytes(first)?, args.number(first + 1)?);
    let flags = [
        ("haproxy_v2", args.optional_flag(first + 2)?),
        ("tls", args.optional_flag(first + 3)?),
    ];
    let Ok(host) = std::str::from_utf8(host) else {
        return Ok(Err("host: text in UTF-8 expected".to_owned()));
    };
    let mut entries = vec![
        ("host".to_owned(), ConfigValue::Str(host.to_owned())),
        ("port".to_owned(), number_value(port)),
    ];
    for (key, flag) in flags {
        entries.extend(flag.map(|flag| (key.to_owned(), ConfigValue::Bool(flag))));
    }
    Ok(Ok(ConfigValue::Map(entries)))
}

/// Starts the check that is described, or says what is wrong with the description.
pub(super) fn begin(described: &ConfigValue) -> Result<Check, String> {
    let process = current();
    let target = process.target_for_check(described, &[COALESCE])?;
    Ok(process.check(Arc::new(target), may_coalesce(described)))
}

fn may_coalesce(described: &ConfigValue) -> bool {
    let ConfigValue::Map(entries) = described else {
        return true;
    };
    !entries
        .iter()
        .any(|(key, value)| key == COALESCE && *value == ConfigValue::Bool(false))
}

/// `check_result(handle)`: whether the check is done, and the reason if it failed.
fn result(args: &Args) -> Answer {
    args.check(1)
        .map_or_else(Answer::Raised, |check| answer(check.result()))
}

/// `check_wait(handle, seconds or nil)`: waits until the check is done, then the same. Blocks the thread.
fn wait(args: &Args) -> Answer {
    match (args.check(1), args.optional_number(2)) {
        (Ok(check), Ok(seconds)) => answer(check.wait(seconds.and_then(to_duration))),
        (Err(refused), _) | (_, Err(refused)) => Answer::Raised(refused),
    }
}

/// The return values of `check_result`: whether the check is done, and the reason if it failed.
pub(super) fn answer(result: Option<CheckResult>) -> Answer {
    Answer::Values(match result {
        None => vec![false.into(), LuaValue::Nil],
        Some(result) => vec![true.into(), result.err().into()],
    })
}

/// `check_fd(handle)`: a descriptor that becomes readable when the check is done, or nil and why there is
/// none.
fn fd(args: &Args) -> Answer {
    args.check(1).map_or_else(Answer::Raised, |check| {
        Answer::Values(match check.descriptor() {
            Ok(fd) => vec![i64::from(fd).into()],
            Err(e) => vec![
                LuaValue::Nil,
                format!("no descriptor to wait on: {e}").into(),
            ],
        })
    })
}

/// `check_tls(handle)`: what the handshake showed, or nil.
fn tls(args: &Args) -> Answer {
    args.check(1).map_or_else(Answer::Raised, |check| {
        let details = check.tls();
        Answer::Values(vec![
            details.map_or(LuaValue::Nil, |line| tls_details(&line)),
        ])
    })
}

/// `check_cancel(handle)`
fn cancel(args: &Args) -> Answer {
    args.check(1).map_or_else(Answer::Raised, |check| {
        check.cancel();
        Answer::Nothing
    })
}
