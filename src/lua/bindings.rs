//! The natives of the calls that change users' bindings in the store, and of `explain_route` with one.

use std::time::Duration;

use super::raw::{Answer, ArgView, Args, Items, LuaValue, config_native, native};
use super::routing::{Problem, active, answer, candidate, given, seconds, with_filter};
use crate::engine::process::current;
use crate::engine::process::routed::Routed;
use crate::engine::process::store_call::{
    Author, SCHEDULING, StoreCall, StoreDone, StoreResult, keys_of,
};

pub(super) const NATIVES: Items = &[
    ("store_touch", native!(touch)),
    ("store_move", native!(move_user)),
    ("store_forget", native!(forget)),
    ("store_hold", native!(hold)),
    ("store_flush", native!(flush)),
    ("store_result", native!(store_result)),
    ("explain_begin", config_native!(explain_begin)),
    ("explain_result", config_native!(explain_result)),
];

/// `store_touch(may_start, users, node)`: a handle of the call that was begun, and for how
/// many seconds to wait for it at most; or nil and why the call was not begun.
fn touch(args: &Args) -> Answer {
    begin(args, |active| {
        let users = args.strings(2).map_err(refused)?;
        Ok(StoreCall::Touch {
            keys: keys_of(active, users.iter().map(|user| &**user)),
            node: text(args, 3)?,
        })
    })
}

/// `store_move(may_start, user, reason, by, node, keep)`: returns what `store_touch` returns.
fn move_user(args: &Args) -> Answer {
    begin(args, |active| {
        Ok(StoreCall::Move {
            key: key(args, active)?,
            node: text(args, 5)?,
            keep: args.view(6) == ArgView::Bool(true),
        })
    })
}

/// `store_forget(may_start, user, reason, by)`: returns what `store_touch` returns.
fn forget(args: &Args) -> Answer {
    begin(args, |active| {
        Ok(StoreCall::Forget {
            key: key(args, active)?,
        })
    })
}

/// `store_hold(may_start, user, reason, by, seconds)`: returns what `store_touch` returns.
fn hold(args: &Args) -> Answer {
    begin(args, |active| {
        let seconds = args.number(5).map_err(refused)?;
        Ok(StoreCall::Hold {
            key: key(args, active)?,
            duration: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        })
    })
}

/// `store_flush(may_start, node or nil, reason, by, rate)`: returns what `store_touch` returns.
fn flush(args: &Args) -> Answer {
    begin(args, |_| {
        let rate = args.number(5).map_err(refused)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // The glue only passes whole numbers from 1 to a million.
        let rate = rate.clamp(1.0, 1e6) as u64;
        let is_of_all = args.view(2) == ArgView::Nil;
        Ok(StoreCall::Flush {
            node: if is_of_all {
                None
            } else {
                Some(text(args, 2)?)
            },
            rate,
        })
    })
}

fn begin(
    args: &Args,
    call: impl FnOnce(&crate::engine::active::ActiveConfig) -> Result<StoreCall, Problem>,
) -> Answer {
    let begun = || {
        let active = active(args, 1)?;
        let call = call(&active)?;
        let author = match call {
            StoreCall::Touch { .. } | StoreCall::Explain { .. } => Author::default(),
            _ => Author {
                reason: text(args, 3)?,
                by: text(args, 4)?,
            },
        };
        let (check, longest) = current()
            .start_store_call(&active, call, author)
            .map_err(Problem::NoServer)?;
        Ok(vec![
            check.into(),
            (longest + SCHEDULING).as_secs_f64().into(),
        ])
    };
    answer(begun())
}

fn key(args: &Args, active: &crate::engine::active::ActiveConfig) -> Result<Vec<u8>, Problem> {
    let user = args.bytes(2).map_err(refused)?;
    let mut keys = keys_of(active, std::iter::once(user));
    // Without a store every call fails with "no store", also for a name that has no key.
    if active.config.cluster.is_none() {
        return Ok(Vec::new());
    }
    keys.pop()
        .ok_or_else(|| Problem::NoServer("no key".to_owned()))
}

fn refused(refused: impl Into<String>) -> Problem {
    Problem::NoServer(refused.into())
}

/// Argument `index` as text; empty for nil.
fn text(args: &Args, index: std::ffi::c_int) -> Result<String, Problem> {
    match args.view(index) {
        ArgView::Nil => Ok(String::new()),
        _ => Ok(String::from_utf8_lossy(args.bytes(index).map_err(refused)?).into_owned()),
    }
}

/// `store_result(handle)`: what the call did, or nil and why nothing; nothing while it is not known.
fn store_result(args: &Args) -> Answer {
    args.check(1).map_or_else(Answer::Raised, |check| {
        check.store_result().map_or(Answer::Nothing, done)
    })
}

fn done(result: StoreResult) -> Answer {
    Answer::Values(match result {
        Err(why) => vec![LuaValue::Nil, why.into()],
        Ok(StoreDone::Touched(count)) => {
            vec![LuaValue::Integer(i64::try_from(count).unwrap_or(i64::MAX))]
        }
        Ok(StoreDone::Changed { record, has_left }) => {
            let mut fields = record_fields(record);
            fields.push(("left", has_left.into()));
            vec![true.into(), LuaValue::Table(fields)]
        }
        Ok(StoreDone::Begun | StoreDone::Explained { .. }) => vec![true.into()],
    })
}

fn record_fields(record: Routed) -> Vec<(&'static str, LuaValue)> {
    vec![
        ("node", given(record.node)),
        ("from", given(record.from)),
        ("since", seconds(record.since_us)),
        ("until", seconds(record.until_us)),
        ("reason", given(record.reason)),
        ("by", given(record.by)),
    ]
}

/// `explain_begin(user, filter or nil, may_start)`: a handle and the longest wait; or the errors of
/// `explain_route`.
fn explain_begin(args: &Args) -> Answer {
    let user = match args.bytes(1) {
        Ok(user) => user,
        Err(refused) => return Answer::Raised(refused),
    };
    let begun = with_filter(args, 2, |filter| {
        let active = active(args, 3)?;
        let mut keys = keys_of(&active, std::iter::once(user));
        let key = keys.pop();
        let call = StoreCall::Explain {
            key: key.ok_or_else(|| Problem::NoServer("no key".to_owned()))?,
            filter: filter.clone(),
        };
        let (check, longest) = current()
            .start_store_call(&active, call, Author::default())
            .map_err(Problem::NoServer)?;
        Ok(vec![
            check.into(),
            (longest + SCHEDULING).as_secs_f64().into(),
        ])
    });
    answer(begun)
}

/// `explain_result(user, filter or nil, may_start, handle)`: the table of `explain_route`; nothing while
/// it is not known.
fn explain_result(args: &Args) -> Answer {
    let (user, result) = match (args.bytes(1), args.check(4)) {
        (Ok(user), Ok(check)) => (user, check.store_result()),
        (Err(refused), _) | (_, Err(refused)) => return Answer::Raised(refused),
    };
    let Some(result) = result else {
        return Answer::Nothing;
    };
    let explained = with_filter(args, 2, |filter| {
        let active = active(args, 3)?;
        let (key, candidates) = active
            .candidates(user, filter)
            .ok_or_else(|| Problem::NoServer("no key".to_owned()))?;
        let (record, reason, problem) = match result {
            Ok(StoreDone::Explained {
                record,
                reason,
                problem,
            }) => (record, reason, problem),
            Ok(_) => return Err(Problem::NoServer("no store".to_owned())),
            Err(why) => (Routed::default(), Some(why.clone()), Some(why)),
        };
        let (how, degraded) = (record.how, record.degraded);
        let mut fields = record_fields(record);
        if let Some(reason) = reason {
            fields.retain(|(name, _)| *name != "reason");
            fields.push(("reason", reason.into()));
        } else {
            fields.push(("degraded", degraded.into()));
        }
        fields.extend([
            ("key", String::from_utf8_lossy(&key).into_owned().into()),
            ("how", given(how.to_owned())),
            ("problem", given(problem.unwrap_or_default())),
            (
                "candidates",
                LuaValue::List(candidates.iter().map(candidate).collect()),
            ),
        ]);
        Ok(vec![LuaValue::Table(fields)])
    });
    answer(explained)
}
