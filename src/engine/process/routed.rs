//! The result of a route with a store, and the answer without the store while it fails.

use std::sync::Arc;

use crate::engine::active::{ActiveConfig, BackendServer};
use crate::engine::cluster::script::UserDigest;
use crate::engine::config::{ClusterSettings, OnError};
use crate::engine::routing::{Filter, NoRoute};
use crate::engine::verdicts::{CHOSEN_BY_HASH, HOWS, KnownBinding};
use crate::sys::clock;
use crate::sys::fork_mark::pid;

/// The result of a route for a user, if a store is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// `new`, `bound`, `moved`, `pinned`, `remembered` or `fallback`.
    pub how: &'static str,
    pub node: String,
    /// The node that the user was moved from; empty: none.
    pub from: String,
    /// When the user was bound to the node, in microseconds since 1970; 0 without a binding.
    pub since_us: u64,
    /// When the binding ends, in microseconds since 1970; 0 for one without an end, or none.
    pub until_us: u64,
    pub reason: String,
    pub by: String,
    pub degraded: bool,
}

/// The server of a user, or why there is none: one of the documented reasons.
pub type RouteResult = Result<Routed, String>;

/// A server, how it was chosen, and its pool.
pub type RoutedServer = (BackendServer, Routed, String);

/// The user that a check routes.
pub(super) struct RoutedUser {
    pub active: Arc<ActiveConfig>,
    pub key: Vec<u8>,
    pub filter: Filter,
}

impl RoutedUser {
    pub(super) fn on_node(&self, routed: Routed) -> Result<RoutedServer, String> {
        let found = self.active.server_on(&self.key, &routed.node, &self.filter);
        let (server, node) = found.ok_or("no such protocol on the bound node")?;
        let pool = node.pool.to_string();
        Ok((server, routed, pool))
    }

    /// The answer without the store.
    pub(super) fn without_store(&self) -> Option<Result<RoutedServer, String>> {
        let settings = self.active.config.cluster.clone()?;
        let routed = without_store(&self.active, &settings, &self.key, &self.filter);
        count(&self.active, &routed);
        Some(routed.and_then(|routed| self.on_node(routed)))
    }
}

/// The reason where the store has not answered.
pub const UNAVAILABLE: &str = "store unavailable";

/// Counts a route, or the reason why there is none, for the metrics.
pub(super) fn count(active: &ActiveConfig, routed: &RouteResult) {
    match routed {
        Ok(routed) => {
            if let Some(at) = HOWS.iter().position(|known| *known == routed.how) {
                active.table.count_selection(pid(), CHOSEN_BY_HASH + at);
            }
        }
        Err(reason) => active.table.count_refusal(reason),
    }
}

pub(super) fn digest_of(key: &[u8], settings: &ClusterSettings) -> UserDigest {
    let secret = settings.files.hmac_key.as_ref();
    UserDigest::of(key, secret.map(|secret| secret.as_slice()))
}

/// The first 16 bytes of a digest: the user as the shared table knows it.
pub(super) fn user_hash(digest: &UserDigest) -> [u64; 2] {
    let word = |at: usize| {
        let digits = digest.0.get(at..at + 16).unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or(0)
    };
    [word(0), word(16)]
}

/// The answer while the store fails, as `on_error` says.
pub(super) fn without_store(
    active: &ActiveConfig,
    settings: &ClusterSettings,
    key: &[u8],
    filter: &Filter,
) -> RouteResult {
    if settings.on_error == OnError::Refuse {
        return Err(UNAVAILABLE.to_owned());
    }
    let standings = active.standings(key, filter);
    if settings.on_error == OnError::Remembered {
        let digest = digest_of(key, settings);
        let now_us = clock::unix_ms().saturating_mul(1000);
        let known = active.table.known_binding(user_hash(&digest));
        let is_bound =
            |known: &KnownBinding| known.node != 0 && (known.until == 0 || known.until > now_us);
        if let Some(known) = known {
            if known.held > now_us {
                return Err("held".to_owned());
            }
            if is_bound(&known) {
                let here = standings
                    .iter()
                    .find(|standing| standing.node.name_hash() == known.node);
                let is_moved = known.from != 0;
                let age = now_us.saturating_sub(known.since);
                let is_within =
                    |time: std::time::Duration| is_moved && u128::from(age) < time.as_micros();
                let Some(here) = here else {
                    // This machine does not know the node, and the table has only the hash of its
                    // name.
                    return Err(UNAVAILABLE.to_owned());
                };
                if is_within(settings.move_delay) {
                    return Err("moving".to_owned());
                }
                if here.in_pools && !here.matches {
                    return Err("no such protocol on the bound node".to_owned());
                }
                if here.matches && here.usable {
                    let node = here.node.name.to_string();
                    let from = active.node_by_hash(known.from);
                    return Ok(Routed {
                        how: "remembered",
                        node,
                        from: from.map_or_else(String::new, |from| from.name.to_string()),
                        since_us: known.since,
                        until_us: known.until,
                        reason: String::new(),
                        by: String::new(),
                        degraded: here.degraded,
                    });
                }
                if known.until == 0 {
                    let node = &here.node.name;
                    return Err(format!("pinned to {node}, which is unusable"));
                }
                if is_within(settings.min_stay) {
                    return Err("unstable".to_owned());
                }
                if !settings.moves_on_failure {
                    return Err(NoRoute::Unusable.text().to_owned());
                }
            }
        }
    }
    let mut candidates = standings
        .iter()
        .filter(|standing| standing.matches && standing.takes_new)
        .peekable();
    let problem = if candidates.peek().is_some() {
        NoRoute::Unusable
    } else {
        NoRoute::NoNode
    };
    let chosen = candidates
        .find(|standing| standing.usable)
        .ok_or_else(|| problem.text().to_owned())?;
    Ok(Routed {
        how: "fallback",
        node: chosen.node.name.to_string(),
        degraded: chosen.degraded,
        ..Routed::default()
    })
}
