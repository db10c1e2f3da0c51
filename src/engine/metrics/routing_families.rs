//! The families about nodes, routes and the store of bindings.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::put::{Range, counter, gauge, put_counter, put_counter_alone, put_gauge, put_histogram};
use crate::engine::active::ActiveConfig;
use crate::engine::verdicts::{
    CHOSEN_BY_HASH, CHOSEN_BY_SCRIPT, Counter, HOWS, MoveReason, NodePlace, OperatorState,
    REFUSALS, StoreState,
};

pub(super) fn node_usable(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let mut family = gauge(
        encoder,
        "node_usable",
        "Whether the node is usable by node_usable",
    )?;
    for status in active.node_statuses_of(range) {
        let labels = [("node", &*status.node.name), ("pool", &*status.node.pool)];
        put_gauge(&mut family, &labels, &i64::from(status.is_usable_by_rule))?;
    }
    Ok(())
}

/// The strictest state that operators have set for the node or its targets. It says why a node without
/// failed probes gets no users.
pub(super) fn node_state(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    let settings = active.operator_settings();
    let help = "What operators have set for the node or one of its targets";
    let mut family = gauge(encoder, "node_state", help)?;
    for (node, _) in active.node_places_of(range) {
        let targets = node
            .ports
            .iter()
            .filter_map(|port| active.config.targets.get(port.target));
        let set = targets
            .map(|target| settings.state_of(target))
            .max()
            .unwrap_or_default();
        for state in OperatorState::ALL {
            let labels = [
                ("node", &*node.name),
                ("pool", &*node.pool),
                ("state", state.name()),
            ];
            put_gauge(&mut family, &labels, &i64::from(state == set))?;
        }
    }
    Ok(())
}

/// Absent without a store: only the store knows where users are.
pub(super) fn node_users(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    if active.config.cluster.is_none() {
        return Ok(());
    }
    let help = "Users that are bound to the node, on all machines: an estimate";
    let mut family = gauge(encoder, "node_users", help)?;
    for (node, place) in active.node_places_of(range) {
        if let Some(counts) = active.table.users(place) {
            let labels = [("node", &*node.name), ("pool", &*node.pool)];
            let users = i64::try_from(counts.users).unwrap_or(i64::MAX);
            put_gauge(&mut family, &labels, &users)?;
        }
    }
    Ok(())
}

/// Moves by this machine: the sum over all machines is the number of moves.
pub(super) fn moves(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
    range: Range,
) -> fmt::Result {
    if active.config.cluster.is_none() {
        return Ok(());
    }
    let help = "Users that this machine has moved away from the node, by reason";
    let mut family = counter(encoder, "moves", help)?;
    // Nodes that are not configured here have no name.
    let unknown = (range.start == 0).then_some(("", NodePlace::UNKNOWN));
    let nodes = active.node_places_of(range);
    let nodes = nodes.map(|(node, place)| (&*node.name, place));
    for (node, place) in unknown.into_iter().chain(nodes) {
        for reason in MoveReason::ALL {
            let count = active.table.moves(place, reason);
            // A zero is written for counts that can rise: the rate of a counter needs a value from before
            // it first rose.
            let is_usual = (place == NodePlace::UNKNOWN) == (reason == MoveReason::UnknownNode);
            if count > 0 || is_usual {
                let labels = [("node", node), ("reason", reason.name())];
                put_counter(&mut family, &labels, &count)?;
            }
        }
    }
    Ok(())
}

/// How often `select_backend_server` has recorded a server for a request.
pub(super) fn selections(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
) -> fmt::Result {
    let help = "Servers that select_backend_server was given for a request";
    let mut family = counter(encoder, "selections", help)?;
    put_counter_alone(&mut family, &active.table.selections(CHOSEN_BY_SCRIPT))
}

pub(super) fn routes(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let mut family = counter(encoder, "routes", "Routes found for users, by how")?;
    // Without a store every route is found by hashing, so only that way is written.
    let ways = if active.config.cluster.is_some() {
        HOWS.len()
    } else {
        1
    };
    for (how, choice) in HOWS.iter().take(ways).zip(CHOSEN_BY_HASH..) {
        put_counter(
            &mut family,
            &[("how", *how)],
            &active.table.selections(choice),
        )?;
    }
    Ok(())
}

pub(super) fn refusals(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let help = "Users for whom route found no server, by reason";
    let mut family = counter(encoder, "routes_refused", help)?;
    for (index, reason) in REFUSALS.iter().enumerate() {
        let count = active.table.count_of(Counter::Refused(index));
        put_counter(&mut family, &[("reason", *reason)], &count)?;
    }
    Ok(())
}

/// Absent until the store was first asked.
pub(super) fn redis_up(encoder: &mut DescriptorEncoder<'_>, active: &ActiveConfig) -> fmt::Result {
    let up = match active.table.store_state() {
        _ if active.config.cluster.is_none() => return Ok(()),
        StoreState::Unknown => return Ok(()),
        StoreState::Up => 1,
        StoreState::Down => 0,
    };
    gauge(
        encoder,
        "redis_up",
        "Whether Redis answers this machine in time",
    )?
    .encode_gauge(&up)
}

pub(super) fn redis_durations(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
) -> fmt::Result {
    if active.config.cluster.is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(
        "redis_request_duration_seconds",
        "How long calls waited for Redis; those that it has not answered in time waited for the timeout",
        None,
        MetricType::Histogram,
    )?;
    put_histogram(&mut family, &active.table.store_histogram())
}

/// A hash of what routing depends on: two machines with different hashes may route a user differently.
pub(super) fn config_info(
    encoder: &mut DescriptorEncoder<'_>,
    active: &ActiveConfig,
) -> fmt::Result {
    let help = "What the machines that route the same users must agree on";
    let mut family = encoder.encode_descriptor("config", help, None, MetricType::Info)?;
    family.encode_info(&[("hash", active.agreement())])
}
