//! The subcommands that ask a running engine: `nodes`, `events`, `metrics`, `drain`, `maintenance`, `auto`.

use std::time::Duration;

use nauthilus_backend::engine::active::OperatorRequest;
use nauthilus_backend::engine::state_file::format::wanted_line;
use nauthilus_backend::engine::state_file::saved::WantedSetting;
use nauthilus_backend::engine::verdicts::{OperatorState, Setting};
use serde_json::Value as Json;

use super::cli::{EngineArgs, EventsArgs, MetricsArgs, NodesArgs, SetArgs};
use super::engine::{AskFailure, ask};
use super::exit_status::{CommandFailure, ExitStatus};
use super::places::EnginePlaces;
use super::store::DirectStore;
use super::terminal::{self, Tone, harmless, moment_text, toned};

fn reply(engine: &EngineArgs, body: &str) -> Result<Vec<String>, CommandFailure> {
    let places = EnginePlaces::of(engine)?;
    Ok(ask(places.state_file()?, body, engine.wait)?)
}

pub(crate) fn set(args: &SetArgs, state: OperatorState) -> Result<ExitStatus, CommandFailure> {
    let through = set_somewhere(args, state)?;
    let tone = match state {
        OperatorState::Auto => Tone::Good,
        _ => Tone::Doubtful,
    };
    let what = harmless(&args.what);
    let state = toned(tone, state.name());
    terminal::line(&format!("{what}: {state}{}", harmless(&through)));
    Ok(ExitStatus::Good)
}

/// Sets the state through a running engine, or in the store. Returns a remark that says which.
fn set_somewhere(args: &SetArgs, state: OperatorState) -> Result<String, CommandFailure> {
    let places = EnginePlaces::of(&args.engine)?;
    let with_store = places
        .config
        .as_ref()
        .map(|(_, config)| config)
        .filter(|config| config.cluster.is_some());
    if let Some(path) = &places.state_file {
        let wanted = WantedSetting {
            what: args.what.clone(),
            setting: Setting::State(state),
            for_ms: args.lasting.map_or(0, |time| {
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            }),
            by: args.author.by(),
            reason: args.author.reason.clone(),
        };
        match ask(path, &wanted_line(&wanted), args.engine.wait) {
            Ok(_) => return Ok(String::new()),
            Err(AskFailure::Unanswered(reason)) if with_store.is_some() => {
                terminal::complain(&format!("{reason}; going on without an engine"));
            }
            Err(failure) => return Err(hinted(failure.into())),
        }
    }
    let Some(config) = with_store else {
        return Err(CommandFailure::bad(places.without_state_file()));
    };
    let store = DirectStore::open(config.clone(), None, args.engine.wait)?;
    store
        .set(OperatorRequest {
            what: args.what.clone(),
            setting: Setting::State(state),
            reason: args.author.reason.clone(),
            by: args.author.by(),
            lasting: args.lasting,
        })
        .map_err(hinted)?;
    Ok(format!(" (for all machines, in {})", store.place))
}

/// Adds to the refusal of an unknown name how targets and nodes are named.
fn hinted(failure: CommandFailure) -> CommandFailure {
    if !failure.reason.starts_with("no such target or node") {
        return failure;
    }
    let reason = format!(
        "{}; a target's key expected, as nauthilus-backend watch shows it, or node:NAME",
        failure.reason
    );
    CommandFailure { reason, ..failure }
}

pub(crate) fn metrics(args: &MetricsArgs) -> Result<ExitStatus, CommandFailure> {
    for line in reply(&args.engine, "metrics\n")? {
        terminal::line(&line);
    }
    Ok(ExitStatus::Good)
}

pub(crate) fn events(args: &EventsArgs) -> Result<ExitStatus, CommandFailure> {
    let lines = reply(&args.engine, &format!("events {}\n", args.since))?;
    let (head, events) = lines
        .split_first()
        .map_or((None, &lines[..]), |(head, rest)| (Some(head), rest));
    let is_lost = head.and_then(|head| parsed(head)?.get("lost")?.as_bool());
    if is_lost == Some(true) {
        terminal::complain("events before these are not kept any more");
    }
    for line in events {
        if args.json {
            terminal::line(line);
        } else if let Some(event) = parsed(line) {
            terminal::line(&event_text(&event));
        }
    }
    Ok(ExitStatus::Good)
}

fn parsed(line: &str) -> Option<Json> {
    serde_json::from_str(line).ok()
}

/// `12  2026-11-29T21:15:08Z  verdict  imap://…  alive -> dead  connect: refused`
fn event_text(event: &Json) -> String {
    let text = |name: &str| event.get(name).and_then(Json::as_str).unwrap_or_default();
    let seconds = event.get("time").and_then(Json::as_f64).unwrap_or(0.0);
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let time = moment_text(since);
    let subject = match (text("target"), text("node")) {
        ("", "") => String::new(),
        ("", node) => format!("  node:{node}"),
        (target, _) => format!("  {target}"),
    };
    let change = match (text("from"), text("to")) {
        ("", "") => String::new(),
        ("", to) => format!("  {to}"),
        (from, to) => format!("  {from} -> {to}"),
    };
    let mut line = format!(
        "{:>6}  {time}  {:<11}{subject}{change}",
        event.get("seq").and_then(Json::as_u64).unwrap_or(0),
        text("type"),
    );
    for (before, name) in [("  ", "reason"), ("  by ", "by")] {
        if !text(name).is_empty() {
            line.push_str(before);
            line.push_str(text(name));
        }
    }
    harmless(&line)
}

pub(crate) fn nodes(args: &NodesArgs) -> Result<ExitStatus, CommandFailure> {
    let lines = reply(&args.engine, "nodes\n")?;
    if !args.json {
        let header = ["NODE", "POOL", "WEIGHT", "STATE", "USERS", "USABLE"];
        terminal::line(&row(header));
    }
    for line in lines {
        if args.json {
            terminal::line(&line);
        } else if let Some(node) = parsed(&line) {
            let text = |name: &str| node.get(name).and_then(Json::as_str).unwrap_or_default();
            let number = |name: &str| {
                let number = node.get(name).and_then(Json::as_u64);
                number.map_or_else(|| "-".to_owned(), |number| number.to_string())
            };
            let (weight, users) = (number("weight"), number("users"));
            let is_usable = node.get("usable").and_then(Json::as_bool) == Some(true);
            let usable = if is_usable {
                "yes".to_owned()
            } else {
                format!("no: {}", text("why"))
            };
            let (state, pool) = (text("state"), text("pool"));
            let cells = [text("node"), pool, &weight, state, &users, &usable];
            terminal::line(&harmless(&row(cells)));
        }
    }
    Ok(ExitStatus::Good)
}

fn row([node, pool, weight, state, users, usable]: [&str; 6]) -> String {
    format!("{node:<24} {pool:<12} {weight:>6} {state:<11} {users:>7} {usable}")
}
