//! The result of a route with a store, and the answer without the store while it fails.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::active::{ActiveConfig, BackendServer, StoredStanding};
use crate::engine::cluster::script::UserDigest;
use crate::engine::config::{ClusterSettings, OnError};
use crate::engine::routing::{Filter, NoRoute};
use crate::engine::verdicts::{CHOSEN_BY_HASH, HOWS, KnownBinding};
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
        let user = user_hash(&digest_of(key, settings));
        let remembered = active.table.known_binding(user);
        let bound = remembered.map(|known| {
            let login = RememberedLogin {
                active,
                settings,
                known,
                now_us: active.table.store_now_us(),
                remembered_for: active.table.remembered_for(user),
            };
            login.route(&standings)
        });
        if let Some(routed) = bound.transpose()?.flatten() {
            return Ok(routed);
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
        .find(|standing| standing.usable_for_new)
        .ok_or_else(|| problem.text().to_owned())?;
    Ok(Routed {
        how: "fallback",
        node: chosen.node.name.to_string(),
        degraded: chosen.degraded,
        ..Routed::default()
    })
}

/// A login of a user whose record this machine remembers.
struct RememberedLogin<'a> {
    active: &'a ActiveConfig,
    settings: &'a ClusterSettings,
    known: KnownBinding,
    now_us: u64,
    /// For how long the record has been remembered as it is.
    remembered_for: Duration,
}

impl RememberedLogin<'_> {
    /// The answer that the login script of the store gives with this record, in the same order; but an
    /// unusable node is left without a quorum. `None` where the user has no node, or has to leave it.
    ///
    /// # Errors
    /// Why there is no server.
    fn route(&self, standings: &[StoredStanding<'_>]) -> Result<Option<Routed>, String> {
        let (settings, known) = (self.settings, &self.known);
        if known.held > self.now_us {
            return Err("held".to_owned());
        }
        // A binding that has ended is obeyed as well. It may have been renewed on another machine or by
        // reports of live sessions, which only the store knows, and hashing knows less.
        if known.node == 0 {
            return Ok(None);
        }
        if self.has_moved_within(settings.move_delay) {
            return Err("moving".to_owned());
        }
        let is_here = |standing: &&StoredStanding<'_>| standing.node.digest == known.node;
        let Some(here) = standings.iter().find(is_here) else {
            // This machine does not know the node, and the table has only the digest of its name.
            return Err(UNAVAILABLE.to_owned());
        };
        if here.in_pools && !here.matches {
            return Err("no such protocol on the bound node".to_owned());
        }
        let is_pinned = known.until == 0;
        let is_settling = self.has_moved_within(settings.min_stay);
        if !here.usable {
            return match (is_pinned, is_settling, settings.moves_on_failure) {
                (true, ..) => Err(format!("pinned to {}, which is unusable", here.node.name)),
                (_, true, _) => Err("unstable".to_owned()),
                (_, _, false) => Err(NoRoute::Unusable.text().to_owned()),
                _ => Ok(None),
            };
        }
        if !is_pinned && !here.in_pools {
            return if is_settling {
                Err("unstable".to_owned())
            } else {
                Ok(None)
            };
        }
        if !is_pinned && !is_settling && self.is_drained(here) {
            return Ok(None);
        }
        let from = self.active.node_by_digest(known.from);
        Ok(Some(Routed {
            how: "remembered",
            node: here.node.name.to_string(),
            from: from.map_or_else(String::new, |from| from.name.to_string()),
            since_us: known.since,
            until_us: self.ends_us(here),
            reason: String::new(),
            by: String::new(),
            degraded: here.degraded,
        }))
    }

    /// Whether the user was moved to the node less than this time ago. If the store's clock was set back since, or if
    /// it is ahead of this machine's and was never measured, it is the time for which the record has been remembered
    /// that ends the wait.
    fn has_moved_within(&self, time: Duration) -> bool {
        let age = self.now_us.saturating_sub(self.known.since);
        let age = Duration::from_micros(age).max(self.remembered_for);
        self.known.from != 0 && age < time
    }

    /// Whether the node has been draining for `drain_time`.
    fn is_drained(&self, here: &StoredStanding<'_>) -> bool {
        self.drain_end_us(here)
            .is_some_and(|end| end <= self.now_us)
    }

    /// When the drain of the node ends its users' bindings.
    fn drain_end_us(&self, here: &StoredStanding<'_>) -> Option<u64> {
        let drain_time = self.active.config.routing.drain_time.as_micros();
        let drain_time = u64::try_from(drain_time).unwrap_or(u64::MAX);
        let since = here.drain_since_ms.saturating_mul(1000);
        (since > 0).then(|| since.saturating_add(drain_time))
    }

    /// When the binding ends as things are; 0: never.
    fn ends_us(&self, here: &StoredStanding<'_>) -> u64 {
        let until = self.known.until;
        match self.drain_end_us(here) {
            Some(end) if until > 0 => until.min(end.max(self.now_us)),
            _ => until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::Config;
    use crate::engine::verdicts::{Operator, OperatorState, Setting};
    use crate::sys::clock;

    const KEY: &[u8] = b"alice";

    /// Node `a` in the pool `there`, `b` and `c` in the pool `here`, and a store; with these settings.
    fn active(cluster: &str) -> ActiveConfig {
        let target = |node, pool| {
            format!("{{protocol: imap, host: {node}.example, node: {node}, pool: {pool}}}")
        };
        let targets = [("a", "there"), ("b", "here"), ("c", "here")]
            .map(|(node, pool)| target(node, pool))
            .join(", ");
        let text = format!(
            "backend_server_monitoring: {{log: none, drain_time: 1m, backend_servers: [{targets}],
              cluster: {{redis: 'redis://127.0.0.1', {cluster}}}}}"
        );
        let config = Arc::new(Config::from_yaml(&text, &|_| None).unwrap());
        ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap()
    }

    fn hash(active: &ActiveConfig, node: &str) -> u64 {
        let found = active.nodes().find(|known| *known.name == *node);
        found.map_or(0, |node| node.digest)
    }

    fn now_us() -> u64 {
        clock::unix_ms() * 1000
    }

    /// A binding to the node that was made long ago, and ends in an hour.
    fn binding(active: &ActiveConfig, node: &str) -> KnownBinding {
        KnownBinding {
            node: hash(active, node),
            since: 1,
            until: now_us() + 3_600_000_000,
            generation: 1,
            ..KnownBinding::default()
        }
    }

    fn drain(active: &ActiveConfig, node: &str, seconds_ago: u64) {
        active.table.set_operator(&Operator {
            what: format!("node:{node}"),
            setting: Setting::State(OperatorState::Drain),
            since_ms: clock::unix_ms() - seconds_ago * 1000,
            until_ms: 0,
            reason: String::new(),
            by: String::new(),
        });
    }

    /// `how` and the node, or the reason, for a user with this record who asks for these pools.
    fn answer(active: &ActiveConfig, known: &KnownBinding, pools: &[&str]) -> String {
        let settings = active.config.cluster.clone().unwrap();
        active
            .table
            .remember_binding(user_hash(&digest_of(KEY, &settings)), known);
        let filter = Filter {
            pools: Some(pools.iter().map(|pool| (*pool).into()).collect()),
            ..Filter::default()
        };
        match without_store(active, &settings, KEY, &filter) {
            Ok(routed) => format!("{} {}", routed.how, routed.node),
            Err(reason) => reason,
        }
    }

    #[test]
    fn a_pinned_user_stays_where_the_script_asks_for_another_pool() {
        let active = active("min_stay: 0");
        let pinned = KnownBinding {
            until: 0,
            ..binding(&active, "a")
        };
        assert_eq!(answer(&active, &pinned, &["here"]), "remembered a");
        assert_eq!(answer(&active, &pinned, &["here", "there"]), "remembered a");
    }

    #[test]
    fn a_user_leaves_a_pool_that_is_not_asked_for_whatever_node_failover_says() {
        for failover in ["move", "refuse"] {
            let active = active(&format!("node_failover: {failover}"));
            drain(&active, "b", 1);
            let known = binding(&active, "a");
            assert_eq!(answer(&active, &known, &["here"]), "fallback c");
            // Not again within min_stay.
            let moved = KnownBinding {
                from: hash(&active, "c"),
                since: now_us(),
                generation: 2,
                ..known
            };
            assert_eq!(answer(&active, &moved, &["here"]), "unstable");
        }
    }

    #[test]
    fn users_leave_a_draining_node_when_drain_time_is_over() {
        let active = active("node_failover: refuse");
        let known = binding(&active, "b");
        drain(&active, "b", 50);
        assert_eq!(answer(&active, &known, &["here"]), "remembered b");
        let drained = self::active("node_failover: refuse");
        drain(&drained, "b", 61);
        assert_eq!(answer(&drained, &known, &["here"]), "fallback c");
        // A user who was moved there a moment ago stays, and so does a pinned one.
        let moved = KnownBinding {
            from: hash(&drained, "c"),
            since: now_us(),
            generation: 2,
            ..known
        };
        assert_eq!(answer(&drained, &moved, &["here"]), "remembered b");
        let pinned = KnownBinding {
            until: 0,
            generation: 3,
            ..known
        };
        assert_eq!(answer(&drained, &pinned, &["here"]), "remembered b");
    }

    #[test]
    fn a_binding_that_may_have_been_renewed_elsewhere_is_obeyed() {
        let active = active("min_stay: 0");
        for node in ["b", "c"] {
            let ended = KnownBinding {
                until: now_us() - 1,
                ..binding(&active, node)
            };
            let expected = format!("remembered {node}");
            assert_eq!(answer(&active, &ended, &["here"]), expected);
        }
        let released = KnownBinding {
            node: 0,
            generation: 2,
            ..binding(&active, "a")
        };
        assert!(answer(&active, &released, &["here"]).starts_with("fallback "));
    }

    #[test]
    fn delays_and_holds_are_counted_by_the_stores_clock() {
        let active = active("move_delay: 20s, min_stay: 60s");
        // This machine's clock is ahead by an hour.
        let store_now = now_us() - 3_600_000_000;
        active.table.note_store_clock(store_now);
        let moved = KnownBinding {
            from: hash(&active, "c"),
            since: store_now - 10_000_000,
            ..binding(&active, "b")
        };
        assert_eq!(answer(&active, &moved, &["here"]), "moving");
        let held = KnownBinding {
            held: store_now + 10_000_000,
            generation: 2,
            ..binding(&active, "b")
        };
        assert_eq!(answer(&active, &held, &["here"]), "held");
        let was_held = KnownBinding {
            held: store_now - 10_000_000,
            generation: 3,
            ..held
        };
        assert_eq!(answer(&active, &was_held, &["here"]), "remembered b");
    }

    #[test]
    fn a_move_that_lies_in_the_future_delays_a_login_for_move_delay_at_most() {
        let active = active("move_delay: 20s, min_stay: 60s");
        let settings = active.config.cluster.clone().unwrap();
        let now_us = now_us();
        let at = |since, remembered_for| {
            let known = KnownBinding {
                from: hash(&active, "c"),
                since,
                ..binding(&active, "b")
            };
            let login = RememberedLogin {
                active: &active,
                settings: &settings,
                known,
                now_us,
                remembered_for: Duration::from_secs(remembered_for),
            };
            [settings.move_delay, settings.min_stay].map(|time| login.has_moved_within(time))
        };
        let hour = 3_600_000_000;
        assert_eq!(at(now_us + hour, 0), [true, true]);
        assert_eq!(at(now_us + hour, 20), [false, true]);
        assert_eq!(at(now_us + hour, 60), [false, false]);
        assert_eq!(at(now_us - 19_000_000, 0), [true, true]);
        assert_eq!(at(now_us - 20_000_000, 0), [false, true]);
        assert_eq!(at(now_us - 60_000_000, 0), [false, false]);
    }
}
