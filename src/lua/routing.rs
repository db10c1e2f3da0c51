//! The natives of `route`, `explain_route` and `nodes`: which server a user is assigned to.

use std::sync::Arc;

use super::raw::{
    Answer, ArgView, Args, Item, Items, LuaValue, config_native, memory_native, native,
};
use super::servers::fields;
use crate::engine::active::{ActiveConfig, NodeStatus};
use crate::engine::config::Value as ConfigValue;
use crate::engine::process::routed::RoutedServer;
use crate::engine::process::{Process, Routes, current};
use crate::engine::routing::{
    Candidate, FieldKind, FieldValue, Filter, NoRoute, POOL, ServerField, unknown_field,
};
use crate::engine::verdicts::UserCounts;

pub(super) const NATIVES: Items = &[
    ("prepare_routes", config_native!(prepare_routes)),
    ("route", memory_native!(route)),
    ("route_server", native!(route_server)),
    ("route_reasons", Item::Texts(REASONS)),
    ("STALE_ROUTES", Item::Number(STALE)),
    ("STORED_ROUTES", Item::Number(STORED)),
    ("route_begin", config_native!(route_begin)),
    ("route_result", native!(route_result)),
    ("route_give_up", native!(route_give_up)),
    ("explain_route", config_native!(explain_route)),
    ("nodes", native!(nodes)),
];

/// What `route` returns instead of the number of a target; from [`REASONS`] down the reasons for which
/// there is no server.
pub(super) const STALE: i32 = -1;
/// The configuration has a store of bindings: `route_begin` asks it.
const STORED: i32 = -2;
const FIRST_REASON: i32 = -3;

/// The reasons of nil, in the order of the numbers from [`FIRST_REASON`] down.
const REASONS: &[&str] = &[
    NoRoute::NoKey.text(),
    NoRoute::NoNode.text(),
    NoRoute::Unusable.text(),
];

fn number_of(why: NoRoute) -> i32 {
    FIRST_REASON
        - match why {
            NoRoute::NoKey => 0,
            NoRoute::NoNode => 1,
            NoRoute::Unusable => 2,
        }
}

/// `prepare_routes(filter or nil, may_start)`: a handle for `route`, the epoch that it holds for, and
/// whether its routes are degraded. Or nil and why there is no configuration; or nil, nil and what is
/// wrong with the filter.
fn prepare_routes(args: &Args) -> Answer {
    let prepared = with_filter(args, 1, |filter| {
        let process = configured()?;
        let start = super::start::start_if(args.view(2) == ArgView::Bool(true));
        let routes = process.routes(filter, start).ok_or_else(not_configured)?;
        let (epoch, is_degraded) = (routes.epoch(), routes.is_degraded());
        let handle = LuaValue::Routes(Some(Box::new(routes)));
        Ok(vec![handle, epoch.into(), is_degraded.into()])
    });
    answer(prepared)
}

/// `route(handle, user, is_new)`: see [`target_of`]. A handle that `is_new` is used whatever has changed since
/// it was made: it may be one that is never current.
fn route(args: &Args) -> Answer {
    let (Some(routes), Ok(user)) = (args.routes(1), args.bytes(2)) else {
        return Answer::Integer(STALE.into());
    };
    let is_new = args.view(3) == ArgView::Bool(true);
    let target = if is_new {
        chosen(routes, user)
    } else {
        target_of(routes, user)
    };
    Answer::Integer(target.into())
}

/// The index of a user's target, [`STALE`] where the routes have to be prepared again, [`STORED`], or the
/// number of the reason.
pub(super) fn target_of(routes: &Routes, user: &[u8]) -> i32 {
    if routes.is_current() {
        chosen(routes, user)
    } else {
        STALE
    }
}

fn chosen(routes: &Routes, user: &[u8]) -> i32 {
    if routes.has_store() {
        return STORED;
    }
    match routes.route(user) {
        Ok(choice) => choice.target.try_into().unwrap_or(STALE),
        Err(why) => number_of(why),
    }
}

/// `route_server(handle, target)`: the fields of the server object of a target that `route` returned.
fn route_server(args: &Args) -> Answer {
    let target = usize::try_from(args.count(2)).ok();
    let server = |routes: &Routes| routes.server(target?);
    match args.routes(1).and_then(server) {
        Some(server) => Answer::Values(vec![fields(&server)]),
        None => Answer::Nil,
    }
}

/// `route_begin(user, filter or nil, may_start)`: a handle of the route that was begun, and for how many
/// seconds to wait for it at most; or the same errors as `route`. Without a store the route is done.
fn route_begin(args: &Args) -> Answer {
    let user = match args.bytes(1) {
        Ok(user) => user,
        Err(refused) => return Answer::Raised(refused),
    };
    let begun = with_filter(args, 2, |filter| {
        let active = active(args, 3)?;
        let settings = active.config.cluster.as_ref();
        let timeout = settings.map_or(0.0, |settings| settings.timeout.as_secs_f64());
        let begun = current().start_route(&active, user, filter.clone());
        Ok(vec![
            begun.map_err(Problem::NoServer)?.into(),
            timeout.into(),
        ])
    });
    answer(begun)
}

/// `route_result(handle)`: the server's fields, how it was chosen, and the details; or nil and why there
/// is no server; nothing while that is not known.
fn route_result(args: &Args) -> Answer {
    args.check(1).map_or_else(Answer::Raised, |check| {
        check.route_result().map_or(Answer::Nothing, routed)
    })
}

/// `route_give_up(handle)`: what `route_result` returns. A route that has not completed is cancelled and
/// answered without the store.
fn route_give_up(args: &Args) -> Answer {
    args.check(1).map_or_else(Answer::Raised, |check| {
        check.give_up_route().map_or(Answer::Nothing, routed)
    })
}

fn routed(result: Result<RoutedServer, String>) -> Answer {
    let (server, routed, pool) = match result {
        Ok(found) => found,
        Err(why) => return Answer::Values(vec![LuaValue::Nil, why.into()]),
    };
    let detail = vec![
        ("node", routed.node.into()),
        ("pool", pool.into()),
        ("from", given(routed.from)),
        ("since", seconds(routed.since_us)),
        ("until", seconds(routed.until_us)),
        ("reason", given(routed.reason)),
        ("by", given(routed.by)),
        ("degraded", routed.degraded.into()),
    ];
    Answer::Values(vec![
        fields(&server),
        routed.how.into(),
        LuaValue::Table(detail),
    ])
}

/// A text, or nil where it is empty.
pub(super) fn given(text: String) -> LuaValue {
    (!text.is_empty()).then_some(text).into()
}

/// Seconds since 1970, or nil where there is no time.
pub(super) fn seconds(us: u64) -> LuaValue {
    match us {
        0 => LuaValue::Nil,
        us => LuaValue::Float(us as f64 / 1e6),
    }
}

/// `explain_route(user, filter or nil, may_start)`: a table, or the same errors as `route`; false where
/// users are bound to servers in a store.
fn explain_route(args: &Args) -> Answer {
    let user = match args.bytes(1) {
        Ok(user) => user,
        Err(refused) => return Answer::Raised(refused),
    };
    let explained = with_filter(args, 2, |filter| {
        let active = active(args, 3)?;
        if active.config.cluster.is_some() {
            return Ok(vec![false.into()]);
        }
        let (key, candidates) = active
            .candidates(user, filter)
            .ok_or(Problem::NoServer(NoRoute::NoKey.text().into()))?;
        let route = active.route(user, filter);
        Ok(vec![LuaValue::Table(vec![
            ("key", String::from_utf8_lossy(&key).into_owned().into()),
            ("how", route.is_ok().then_some("hash").into()),
            (
                "node",
                route.ok().map(|route| route.node.name.to_string()).into(),
            ),
            ("degraded", route.ok().map(|route| route.degraded).into()),
            ("reason", route.err().map(NoRoute::text).into()),
            (
                "candidates",
                LuaValue::List(candidates.iter().map(candidate).collect()),
            ),
        ])])
    });
    answer(explained)
}

/// A node with the user's score, as `explain_route` shows it.
pub(super) fn candidate(candidate: &Candidate<'_>) -> LuaValue {
    LuaValue::Table(vec![
        ("node", candidate.node.name.to_string().into()),
        ("score", candidate.score.into()),
        ("usable", candidate.why.is_none().into()),
        ("why", candidate.why.map(|why| why.text()).into()),
    ])
}

/// `nodes(may_start)`: an array of tables, or nil and why there is no configuration.
fn nodes(args: &Args) -> Answer {
    let active = match active(args, 1) {
        Ok(active) => active,
        Err(problem) => return answer(Err(problem)),
    };
    Answer::Values(vec![node_list(&active)])
}

/// The nodes as `nodes` gives them.
fn node_list(active: &ActiveConfig) -> LuaValue {
    LuaValue::List(active.node_statuses().map(node_fields).collect())
}

/// A node as `nodes` gives it.
pub(super) fn node_fields(status: NodeStatus<'_>) -> LuaValue {
    let since = (status.since_ms > 0).then_some(status.since_ms as f64 / 1e3);
    let count = |of: fn(&UserCounts) -> u64| status.users.as_ref().map(of).into();
    LuaValue::Table(vec![
        ("state", status.state.name().into()),
        ("since", since.into()),
        ("users", count(|of| of.users)),
        ("moved_in", count(|of| of.moved_in)),
        ("moved_out", count(|of| of.moved_out)),
        ("node", status.node.name.to_string().into()),
        ("pool", status.node.pool.to_string().into()),
        ("weight", status.weight.into()),
        ("usable", status.why.is_none().into()),
        ("why", status.why.map(|why| why.text()).into()),
    ])
}

/// Why a native of this file has no result.
pub(super) enum Problem {
    NoServer(String),
    BadFilter(String),
}

pub(super) fn answer(found: Result<Vec<LuaValue>, Problem>) -> Answer {
    Answer::Values(match found {
        Ok(values) => values,
        Err(Problem::NoServer(why)) => vec![LuaValue::Nil, why.into()],
        Err(Problem::BadFilter(why)) => vec![LuaValue::Nil, LuaValue::Nil, why.into()],
    })
}

/// The active configuration. The argument at index `may_start` says whether the call may start the
/// engine.
pub(super) fn active(args: &Args, may_start: i32) -> Result<Arc<ActiveConfig>, Problem> {
    configured()?
        .active(super::start::start_if(
            args.view(may_start) == ArgView::Bool(true),
        ))
        .ok_or_else(not_configured)
}

/// The engine, once it has read the file that the environment names.
fn configured() -> Result<Arc<Process>, Problem> {
    let process = current();
    process
        .configure_from_environment()
        .map_err(|refused| Problem::NoServer(refused.into()))?;
    Ok(process)
}

fn not_configured() -> Problem {
    Problem::NoServer("not configured".to_owned())
}

/// Runs `work` with the filter in argument `index`; nil is the empty filter.
pub(super) fn with_filter<T>(
    args: &Args,
    index: i32,
    work: impl FnOnce(&Filter) -> Result<T, Problem>,
) -> Result<T, Problem> {
    if args.view(index) == ArgView::Nil {
        return work(&Filter::default());
    }
    args.config(index, |value| {
        let value = value.map_err(|issue| Problem::BadFilter(issue.to_string()))?;
        work(&filter(&value).map_err(Problem::BadFilter)?)
    })
}

fn filter(value: &ConfigValue) -> Result<Filter, String> {
    let entries = match value {
        ConfigValue::Map(entries) => entries.as_slice(),
        ConfigValue::List(items) if items.is_empty() => &[],
        _ => return Err("table of a server's fields expected, got list".to_owned()),
    };
    let mut filter = Filter::default();
    for (name, value) in entries {
        if name == POOL {
            filter.pools = Some(pools(value)?);
            continue;
        }
        let field = ServerField::from_name(name).ok_or_else(|| unknown_field(name))?;
        filter.fields.push((field, wanted(field, value)?));
    }
    Ok(filter)
}

fn wanted(field: ServerField, value: &ConfigValue) -> Result<FieldValue, String> {
    let (wanted, expected) = match (field.kind(), value) {
        (FieldKind::Text, ConfigValue::Str(text)) => {
            (Some(FieldValue::Text(text.as_str().into())), "")
        }
        (FieldKind::Flag, ConfigValue::Bool(flag)) => (Some(FieldValue::Flag(*flag)), ""),
        (FieldKind::Number, value) => (number(value).map(FieldValue::Number), "integer 0..65535"),
        (FieldKind::Text, _) => (None, "string"),
        (FieldKind::Flag, _) => (None, "boolean"),
    };
    wanted.ok_or_else(|| format!("{}: {expected} expected", field.name()))
}

fn number(value: &ConfigValue) -> Option<u16> {
    match value {
        ConfigValue::Int(number) => u16::try_from(*number).ok(),
        ConfigValue::Float(number)
            if number.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(number) =>
        {
            Some(*number as u16)
        }
        _ => None,
    }
}

/// The value of `pool`: one name, or several in order of preference.
fn pools(value: &ConfigValue) -> Result<Vec<Box<str>>, String> {
    let name = |value: &ConfigValue| match value {
        ConfigValue::Str(name) => Ok(name.as_str().into()),
        _ => Err("pool: string or array of strings expected".to_owned()),
    };
    match value {
        ConfigValue::List(items) => items.iter().map(name).collect(),
        ConfigValue::Map(entries) if entries.is_empty() => Ok(Vec::new()),
        one => Ok(vec![name(one)?]),
    }
}
