//! `route`: explains which server a user belongs on. Writes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nauthilus_backend::engine::active::{ActiveConfig, StartState};
use nauthilus_backend::engine::config::Config;
use nauthilus_backend::engine::routing::{FieldValue, Filter, NoRoute, ServerField};
use nauthilus_backend::engine::state_file::format::decode;
use nauthilus_backend::engine::state_file::saved::Saved;
use nauthilus_backend::engine::target::Protocol;
use serde_json::json;

use super::cli::RouteArgs;
use super::exit_status::{CommandFailure, ExitStatus};
use super::places;
use super::terminal::{self, harmless};

pub(crate) fn run(args: &RouteArgs) -> Result<ExitStatus, CommandFailure> {
    let filter = filter(args)?;
    let Some(path) = places::config_path(&args.engine) else {
        return Err(CommandFailure::usage(
            "--config or NAUTHILUS_BACKEND_CONFIG expected: which nodes there are",
        ));
    };
    let config = places::read_config(&path)?;
    let file = args.engine.state_file.clone().or(config.state_file.clone());
    let (saved, mut view) = view(file.as_deref(), &config);
    if config.cluster.is_some() {
        // The bindings of users decide before the hash does.
        view.push_str("; the bindings in the store were not read");
    }
    // Without the state file in it: nothing is opened for writing.
    let config = Config {
        state_file: None,
        ..config
    };
    let state = StartState {
        saved,
        ..StartState::default()
    };
    let pid = u64::from(std::process::id());
    let active = ActiveConfig::succeed(None, Arc::new(config), pid, true, state)
        .map_err(|error| CommandFailure::bad(format!("cannot start: {error}")))?;
    Ok(ExitStatus::good_if(explain(args, &active, &filter, &view)))
}

fn filter(args: &RouteArgs) -> Result<Filter, CommandFailure> {
    let mut filter = Filter::default();
    if let Some(protocol) = &args.protocol {
        let known = Protocol::from_name(protocol)
            .ok_or_else(|| CommandFailure::usage(format!("no such protocol: {protocol:?}")))?;
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

/// What is known of the servers, and where from.
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
                // What operators set does not age.
                let view = format!("presumed alive (state file {name} is {age} s old)");
                (Some(saved), view)
            }
        }
    }
}

/// Prints why the user belongs where; whether there is a server.
fn explain(args: &RouteArgs, active: &ActiveConfig, filter: &Filter, view: &str) -> bool {
    let user = args.user.as_bytes();
    let route = active.route(user, filter);
    let (key, candidates) = active.candidates(user, filter).unwrap_or_default();
    let key = String::from_utf8_lossy(&key).into_owned();
    let server = route.ok().and_then(|route| active.server(route.target));
    let server = server.map(|server| server.target.key().to_string());
    let node = route.ok().map(|route| route.node.name.to_string());
    let reason = route.err().map(NoRoute::text);
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
        let explained = json!({
            "user": args.user,
            "key": key,
            "node": node,
            "server": server,
            "how": node.as_ref().map(|_| "hash"),
            "degraded": route.ok().map(|route| route.degraded),
            "reason": reason,
            "view": view,
            "candidates": candidates,
        });
        terminal::line(&explained.to_string());
        return node.is_some();
    }
    let field = |name: &str, value: &str| {
        terminal::line(&harmless(&format!("{name:<10} {value}")));
    };
    field("user", &args.user);
    field("key", &key);
    field("view", view);
    match (&node, &server) {
        (Some(node), server) => {
            field("node", node);
            field("server", server.as_deref().unwrap_or_default());
            field("how", "hash: the usable node with the highest score");
        }
        _ => field("node", &format!("none: {}", reason.unwrap_or_default())),
    }
    if route.ok().is_some_and(|route| route.degraded) {
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
    node.is_some()
}
