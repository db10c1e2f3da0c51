//! `route`: explains which server a user belongs on. Writes nothing.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nauthilus_backend::engine::active::ActiveConfig;
use nauthilus_backend::engine::config::Config;
use nauthilus_backend::engine::process::routed::Routed;
use nauthilus_backend::engine::process::wanted_call::Explained;
use nauthilus_backend::engine::routing::{FieldValue, Filter, NoRoute, ServerField};
use nauthilus_backend::engine::state_file::format::decode;
use nauthilus_backend::engine::state_file::saved::Saved;
use nauthilus_backend::engine::target::Protocol;
use serde_json::json;

use super::cli::RouteArgs;
use super::exit_status::{CommandFailure, ExitStatus};
use super::store::{self, DirectStore};
use super::terminal::{self, harmless, moment_text};
use super::{places, users};

pub(crate) fn run(args: &RouteArgs) -> Result<ExitStatus, CommandFailure> {
    users::checked(&args.user).map_err(CommandFailure::usage)?;
    let filter = filter(args)?;
    let Some(path) = places::config_path(&args.engine) else {
        return Err(CommandFailure::usage(
            "--config or NAUTHILUS_BACKEND_CONFIG expected: which nodes there are",
        ));
    };
    let config = places::read_config(&path)?;
    let file = args.engine.state_file.clone().or(config.state_file.clone());
    let (saved, mut view) = view(file.as_deref(), &config);
    if config.cluster.is_none() {
        let active = store::active(config, saved)?;
        let answer = Answer::of_hash(&active, args.user.as_bytes(), &filter);
        return Ok(ExitStatus::good_if(show(
            args, &active, &filter, &view, &answer,
        )));
    }
    let store = DirectStore::open(config, saved, args.engine.wait)?;
    let active = &store.active;
    let explained = store.explain(args.user.as_bytes(), &filter);
    let (answer, is_known) = match explained {
        Some(Explained::Stored { record, reason }) => {
            view = format!("{}; servers: {view}", store.place);
            (
                Answer::of_record(active, record, reason, args, &filter),
                true,
            )
        }
        Some(Explained::Failing { problem, routed }) => {
            terminal::complain(&format!(
                "{} does not answer ({problem}): the user's binding is not known",
                store.place
            ));
            view = format!("without Redis ({problem}); servers: {view}");
            let answer = match routed {
                Ok(record) => Answer::of_record(active, record, None, args, &filter),
                Err(reason) => Answer::none(reason),
            };
            (answer, false)
        }
        None => (Answer::none(NoRoute::NoKey.text().to_owned()), true),
    };
    let has_server = show(args, active, &filter, &view, &answer);
    Ok(ExitStatus::good_if(has_server && is_known))
}

/// Where the user belongs, and why.
#[derive(Default)]
struct Answer {
    /// Where the user is bound, or would be; also where there is no server for another reason.
    record: Routed,
    server: Option<String>,
    /// Why there is no server.
    reason: Option<String>,
}

impl Answer {
    fn none(reason: String) -> Self {
        Self {
            reason: Some(reason),
            ..Self::default()
        }
    }

    fn of_hash(active: &ActiveConfig, user: &[u8], filter: &Filter) -> Self {
        let route = match active.route(user, filter) {
            Ok(route) => route,
            Err(why) => return Self::none(why.text().to_owned()),
        };
        let server = active.server(route.target);
        Self {
            record: Routed {
                how: "hash",
                node: route.node.name.to_string(),
                degraded: route.degraded,
                ..Routed::default()
            },
            server: server.map(|server| server.target.key().to_string()),
            reason: None,
        }
    }

    fn of_record(
        active: &ActiveConfig,
        record: Routed,
        reason: Option<String>,
        args: &RouteArgs,
        filter: &Filter,
    ) -> Self {
        let key = active.candidates(args.user.as_bytes(), filter);
        let key = key.map(|(key, _)| key).unwrap_or_default();
        let server = active.server_on(&key, &record.node, filter);
        let server = server.map(|(server, _)| server.target.key().to_string());
        let reason = match (&server, reason) {
            (None, None) => Some("no such protocol on the bound node".to_owned()),
            (_, reason) => reason,
        };
        Self {
            record,
            server: server.filter(|_| reason.is_none()),
            reason,
        }
    }
}

fn filter(args: &RouteArgs) -> Result<Filter, CommandFailure> {
    let mut filter = Filter::default();
    if let Some(protocol) = &args.protocol {
        let known = Protocol::from_name(protocol).ok_or_else(|| {
            let names: Vec<&str> = Protocol::ALL.iter().map(|known| known.name()).collect();
            let names = names.join(", ");
            CommandFailure::usage(format!(
                "--protocol: one of {names} expected, got {protocol:?}"
            ))
        })?;
        let field = ServerField::from_name("protocol")
            .ok_or_else(|| CommandFailure::bad("servers have no protocol"))?;
        filter
            .fields
            .push((field, FieldValue::Text(known.name().into())));
    }
    if !args.pool.is_empty() {
        let pools = args.pool.iter().map(|pool| pool.as_str().into());
        filter.pools = Some(pools.collect());
    }
    Ok(filter)
}

/// The verdicts of the servers from a state file, if there is one, and a text that names their source.
fn view(file: Option<&Path>, config: &Config) -> (Option<Saved>, String) {
    let presumed = |why: String| (None, format!("presumed alive ({why})"));
    let Some(path) = file else {
        return presumed("no state file is configured".to_owned());
    };
    let name = path.display();
    let read = std::fs::read(path).map_err(|error| error.to_string());
    match read.and_then(|bytes| decode(&bytes)) {
        Err(reason) => presumed(format!("state file {name}: {reason}")),
        Ok(saved) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let age = now
                .saturating_sub(Duration::from_millis(saved.saved_ms))
                .as_secs();
            if saved.is_within(config.state_max_age) {
                (Some(saved), format!("state file {name}, {age} s old"))
            } else {
                // What operators have set stays in force however old the file is.
                let view = format!("presumed alive (state file {name} is {age} s old)");
                (Some(saved), view)
            }
        }
    }
}

/// Prints why the user belongs where; whether there is a server.
fn show(
    args: &RouteArgs,
    active: &ActiveConfig,
    filter: &Filter,
    view: &str,
    answer: &Answer,
) -> bool {
    let user = args.user.as_bytes();
    let (key, candidates) = active.candidates(user, filter).unwrap_or_default();
    let key = String::from_utf8_lossy(&key).into_owned();
    let Answer {
        record,
        server,
        reason,
    } = answer;
    let has_server = reason.is_none();
    if args.json {
        let candidates: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                json!({
                    "node": candidate.node.name,
                    "score": candidate.score,
                    "usable": candidate.why.is_none(),
                    "why": candidate.why.map(|why| why.text()),
                })
            })
            .collect();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let seconds = |us: u64| (us > 0).then_some(us / 1_000_000);
        let explained = json!({
            "user": args.user,
            "key": key,
            "node": some(&record.node),
            "server": server,
            "how": some(record.how),
            "from": some(&record.from),
            "since": seconds(record.since_us),
            "until": seconds(record.until_us),
            "by": some(&record.by),
            "degraded": has_server.then_some(record.degraded),
            "reason": reason.clone().or(some(&record.reason)),
            "view": view,
            "candidates": candidates,
        });
        terminal::line(&explained.to_string());
        return has_server;
    }
    let field = |name: &str, value: &str| {
        terminal::line(&harmless(&format!("{name:<10} {value}")));
    };
    field("user", &args.user);
    field("key", &key);
    field("view", view);
    match reason {
        None => {
            field("node", &record.node);
            field("server", server.as_deref().unwrap_or_default());
            field("how", how_text(record.how));
        }
        Some(reason) => field("node", &format!("none: {reason}")),
    }
    if let Some(bound) = bound_text(record) {
        field("bound", &bound);
    }
    if has_server && record.degraded {
        field("degraded", "no node of the pool is wholly usable");
    }
    for candidate in candidates {
        let usable = candidate.why.map_or_else(
            || "usable".to_owned(),
            |why| format!("not usable: {}", why.text()),
        );
        field(
            "candidate",
            &format!(
                "{:<24} {:>12.3}  {usable}",
                candidate.node.name, candidate.score
            ),
        );
    }
    has_server
}

fn how_text(how: &str) -> &str {
    match how {
        "hash" => "hash: the usable node with the highest score",
        "new" => "new: the next login binds the user there",
        "bound" => "bound: the user is bound there",
        "moved" => "moved: the next login moves the user there",
        "pinned" => "pinned: an operator has pinned the user there",
        "remembered" => "remembered: where this machine last knew the user to be",
        "fallback" => {
            "fallback: the usable node with the highest score, where the engine remembers no binding"
        }
        how => how,
    }
}

/// `mail1 since 2026-11-30T01:02:03Z until …, from mail2, by ann: new disk`; `None` without a
/// binding.
fn bound_text(record: &Routed) -> Option<String> {
    if record.since_us == 0 || record.node.is_empty() || record.how == "new" {
        return None;
    }
    let time = |us: u64| moment_text(Duration::from_micros(us));
    let mut text = format!("to {} since {}", record.node, time(record.since_us));
    match record.until_us {
        0 => text.push_str(", without end"),
        until => text.push_str(&format!(", until {}", time(until))),
    }
    for (word, value) in [
        ("from", &record.from),
        ("by", &record.by),
        ("reason", &record.reason),
    ] {
        if !value.is_empty() {
            text.push_str(&format!(", {word} {value}"));
        }
    }
    Some(text)
}
