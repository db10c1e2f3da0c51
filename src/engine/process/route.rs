//! Routes with a store. The engine thread sends the login to the store, and this machine remembers the
//! binding that the store returns, for the time when the store fails.

use std::sync::Arc;
use std::time::Instant;

use super::check::{Check, Ticket};
use super::routed::{RouteResult, Routed, RoutedUser, count, digest_of, user_hash, without_store};
use crate::engine::active::{ActiveConfig, Move};
use crate::engine::cluster::ClientHandle;
use crate::engine::cluster::script::{
    Binding, LoginAnswer, LoginHow, LoginRequest, Remembered, SeenNode, UserDigest, nameless,
};
use crate::engine::config::ClusterSettings;
use crate::engine::routing::{Filter, NoRoute, user_key};
use crate::engine::verdicts::digest::name_digest;
use crate::engine::verdicts::{KnownBinding, MoveReason};

/// A user who logs in.
pub(super) struct RouteRequest {
    pub(super) active: Arc<ActiveConfig>,
    settings: Arc<ClusterSettings>,
    key: Vec<u8>,
    filter: Filter,
    until: Instant,
    pub(super) ticket: Arc<Ticket>,
    is_answered: bool,
}

/// Begins to route a user: the check that tells when the route is done, and what the engine thread has
/// to do for it. Without a store the route is done.
///
/// # Errors
/// The name has no key.
pub(super) fn begin(
    active: &Arc<ActiveConfig>,
    user: &[u8],
    filter: Filter,
) -> Result<(Check, Option<Box<RouteRequest>>), String> {
    let key = user_key(user, &active.config.routing);
    let Some(key) = key.map(|key| key.into_owned()) else {
        let reason = NoRoute::NoKey.text();
        active.table.count_refusal(reason);
        return Err(reason.to_owned());
    };
    let (mut check, ticket) = Check::new();
    check.route = Some(Box::new(RoutedUser {
        active: active.clone(),
        key: key.clone(),
        filter: filter.clone(),
    }));
    let Some(settings) = active.config.cluster.clone() else {
        let routed = active.route(user, &filter);
        let routed = routed.map(|route| Routed {
            how: "hash",
            node: route.node.name.to_string(),
            degraded: route.degraded,
            ..Routed::default()
        });
        let routed = routed.map_err(|why| why.text().to_owned());
        count(active, &routed);
        ticket.finish_route(routed);
        return Ok((check, None));
    };
    let request = RouteRequest {
        active: active.clone(),
        until: Instant::now() + settings.timeout,
        settings,
        key,
        filter,
        ticket,
        is_answered: false,
    };
    Ok((check, Some(Box::new(request))))
}

/// Answers without the store if the request was not answered: the engine has ended, or could not be started.
/// Otherwise the caller would wait for ever.
impl Drop for RouteRequest {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let routed = without_store(&self.active, &self.settings, &self.key, &self.filter);
        self.ticket.finish_route(routed);
    }
}

impl RouteRequest {
    /// Asks the store, and finishes the ticket. Runs on the engine thread.
    pub(super) async fn run(mut self, client: Option<ClientHandle>) {
        let routed = match &client {
            Some(client) => self.ask(client).await,
            None => None,
        };
        let (active, settings) = (&self.active, &self.settings);
        let routed =
            routed.unwrap_or_else(|| without_store(active, settings, &self.key, &self.filter));
        self.is_answered = true;
        if self.ticket.finish_route(routed.clone()) {
            count(&self.active, &routed);
        }
    }

    /// `None` where the store does not answer.
    async fn ask(&self, client: &ClientHandle) -> Option<RouteResult> {
        let (active, settings) = (&self.active, &self.settings);
        let mut sent = None;
        // Called when it is this login's turn: where many wait, those that are too late cost no more.
        let make = |deadline| {
            let mut login = Login::of(active, settings, &self.key, &self.filter);
            sent = Some((login.user, std::mem::take(&mut login.degraded)));
            let machine = client.machine().to_owned();
            login.request(active, settings, machine, deadline, false)
        };
        let answer = client.call(self.until, make).await.ok()?;
        let (user, degraded) = sent?;
        Some(match answer {
            LoginAnswer::Late { .. } => return None,
            LoginAnswer::Bound(how, binding) => {
                remember(&self.active, user, &binding);
                if how == LoginHow::Moved {
                    note_move(&self.active, &binding, why_moved(&binding, client));
                }
                let degraded = degraded.contains(&binding.node);
                Ok(routed(how_name(how), binding, degraded))
            }
            LoginAnswer::None {
                reason,
                binding,
                has_moved,
            } => {
                if binding.generation > 0 {
                    remember(&self.active, user, &binding);
                }
                if has_moved {
                    note_move(&self.active, &binding, why_moved(&binding, client));
                }
                Err(reason)
            }
        })
    }
}

/// The data of a login that the script in the store gets.
pub(super) struct Login {
    digest: UserDigest,
    /// The user as the shared table knows it.
    pub(super) user: [u64; 2],
    nodes: Vec<SeenNode>,
    /// The nodes that are usable only because no other one of their pool is.
    pub(super) degraded: Vec<String>,
    remembered: Option<Remembered>,
}

impl Login {
    pub(super) fn of(
        active: &ActiveConfig,
        settings: &ClusterSettings,
        key: &[u8],
        filter: &Filter,
    ) -> Self {
        let (digest, user) = user_of(key, settings);
        let standings = active.standings(key, filter);
        let nodes = standings.iter().map(|standing| SeenNode {
            asked_kinds: standing.asked_kinds.clone(),
            name: standing.node.name.to_string(),
            in_pools: standing.in_pools,
            matches: standing.matches,
            usable: standing.usable,
            usable_for_new: standing.usable_for_new,
            takes_new: standing.takes_new,
            drain_since: standing.drain_since_ms.saturating_mul(1000),
        });
        let degraded = standings.iter().filter(|standing| standing.degraded);
        Self {
            digest,
            user,
            nodes: nodes.collect(),
            degraded: degraded
                .map(|standing| standing.node.name.to_string())
                .collect(),
            remembered: remembered(active, user),
        }
    }

    pub(super) fn request(
        self,
        active: &ActiveConfig,
        settings: &ClusterSettings,
        machine: String,
        deadline: u64,
        explains: bool,
    ) -> LoginRequest {
        LoginRequest {
            user: self.digest,
            nodes: self.nodes,
            remembered: self.remembered,
            deadline,
            retention: settings.retention,
            move_delay: settings.move_delay,
            min_stay: settings.min_stay,
            drain_time: active.config.routing.drain_time,
            moves_on_failure: settings.moves_on_failure,
            needs_quorum: settings.needs_quorum,
            machine,
            explains,
        }
    }
}

/// The user as the store and as the shared table know it.
pub(super) fn user_of(key: &[u8], settings: &ClusterSettings) -> (UserDigest, [u64; 2]) {
    let digest = digest_of(key, settings);
    let user = user_hash(&digest);
    (digest, user)
}

pub(super) fn how_name(how: LoginHow) -> &'static str {
    match how {
        LoginHow::New => "new",
        LoginHow::Bound => "bound",
        LoginHow::Moved => "moved",
        LoginHow::Pinned => "pinned",
    }
}

pub(super) fn routed(how: &'static str, binding: Binding, degraded: bool) -> Routed {
    Routed {
        how,
        node: binding.node,
        from: binding.from,
        since_us: binding.since,
        until_us: binding.ends,
        reason: binding.reason,
        by: binding.by,
        degraded,
    }
}

/// Why a login has moved the user: for a reason of this machine's own, or because an operator had
/// released the user.
fn why_moved(binding: &Binding, client: &ClientHandle) -> MoveReason {
    if binding.by == client.machine() {
        MoveReason::from_name(&binding.reason)
    } else {
        MoveReason::Operator
    }
}

pub(super) fn note_move(active: &ActiveConfig, binding: &Binding, why: MoveReason) {
    let moved = Move {
        from: &binding.from,
        to: &binding.node,
        reason: &binding.reason,
        by: &binding.by,
    };
    active.note_move(moved, why);
}

pub(super) fn remember(active: &ActiveConfig, user: [u64; 2], binding: &Binding) {
    let digest = |name: &str| {
        if name.is_empty() {
            return 0;
        }
        let known = active.nodes().find(|node| *node.name == *name);
        known.map_or_else(|| name_digest(name), |node| node.digest)
    };
    active.table.remember_binding(
        user,
        &KnownBinding {
            node: digest(&binding.node),
            from: digest(&binding.from),
            since: binding.since,
            until: binding.until,
            held: binding.held,
            remains: binding.remains,
            generation: binding.generation,
        },
    );
}

/// The record that this machine remembers of a user: a store that has lost its data gets it back.
pub(super) fn remembered(active: &ActiveConfig, user: [u64; 2]) -> Option<Remembered> {
    let known = active.table.known_binding(user)?;
    let name = |digest: u64| match (digest, active.node_by_digest(digest)) {
        (0, _) => String::new(),
        (_, Some(node)) => node.name.to_string(),
        // The table has only the digest of a name.
        (digest, None) => nameless(digest),
    };
    Some(Remembered {
        node: name(known.node),
        from: name(known.from),
        since: known.since,
        until: known.until,
        held: known.held,
        remains: known.remains,
        generation: known.generation,
    })
}
