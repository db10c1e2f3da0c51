//! Routing for the active configuration: reads verdicts, operators' settings and weights from the
//! shared table.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{ActiveConfig, BackendServer, OperatorSettings, Panic, shown_ip};
use crate::engine::routing::{
    self, Candidate, Choice, Filter, Fleet, LoginKind, NoRoute, Node, Plan, Route, TargetView,
    Users, Why,
};
use crate::engine::target::Target;
use crate::engine::verdicts::{Delays, OperatorState, Routable, Slot, UserCounts, Verdict};
use crate::sys::clock;

impl ActiveConfig {
    /// The server of a user. Only reads memory, no network or disk.
    ///
    /// # Errors
    /// Why there is none.
    pub fn route(&self, user: &[u8], filter: &Filter) -> Result<Route<'_>, NoRoute> {
        let key = routing::user_key(user, &self.config.routing).ok_or(NoRoute::NoKey)?;
        self.fleet().route(&key, filter)
    }

    /// The plan by which servers are chosen for all users at this moment, for a filter.
    pub fn plan(&self, filter: &Filter) -> TimedPlan {
        // Read before what the plan is made from: a change in between then makes the plan outdated.
        let seen = self.routing_seen();
        let until_ms = self.next_change_ms();
        TimedPlan {
            plan: self.fleet().plan(filter),
            seen,
            until_ms,
        }
    }

    /// Whether a plan of this configuration is what [`ActiveConfig::plan`] would give now.
    pub fn is_current(&self, plan: &TimedPlan) -> bool {
        let is_over = |until_ms| clock::monotonic_ms() >= until_ms;
        plan.seen == self.routing_seen() && !plan.until_ms.is_some_and(is_over)
    }

    /// The user's choice by a plan of this configuration.
    ///
    /// # Errors
    /// Why there is none.
    pub fn choose(&self, plan: &TimedPlan, user: &[u8]) -> Result<Choice, NoRoute> {
        let key = routing::user_key(user, &self.config.routing).ok_or(NoRoute::NoKey)?;
        plan.plan.choose(&key)
    }

    fn routing_seen(&self) -> [u64; 2] {
        [self.table.generation(), self.table.routing_version()]
    }

    /// When routing changes without a change of the table, in milliseconds of `CLOCK_MONOTONIC`: the
    /// first end of a delay or of an operator's setting.
    fn next_change_ms(&self) -> Option<u64> {
        let now_ms = clock::monotonic_ms();
        let delays = self.delays();
        let words = self.slots.iter().map(|slot| self.table.routable(*slot));
        let delays = words.filter_map(|word| word.changes_at_ms(delays));
        let setting = self.operator_settings().first_end_ms();
        let setting = setting.map(|end| now_ms + end.saturating_sub(clock::unix_ms()));
        delays.chain(setting).filter(|&at_ms| at_ms > now_ms).min()
    }

    /// The user's key, and the nodes that the user could be routed to, the highest score first.
    /// `None` where the name has no key.
    pub fn candidates(
        &self,
        user: &[u8],
        filter: &Filter,
    ) -> Option<(Vec<u8>, Vec<Candidate<'_>>)> {
        let key = routing::user_key(user, &self.config.routing)?;
        let candidates = self.fleet().candidates(&key, filter);
        Some((key.into_owned(), candidates))
    }

    /// The server object of a target, by its index in the configuration, with its current address.
    pub fn server(&self, target: usize) -> Option<BackendServer> {
        let configured = self.config.targets.get(target)?;
        let now = Now::of(self);
        Some(BackendServer::new(
            configured,
            now.ip(target),
            &now.settings,
        ))
    }

    /// All nodes, in the order in which the configuration names them first.
    pub fn node_statuses(&self) -> impl Iterator<Item = NodeStatus<'_>> {
        self.node_statuses_of(0..self.node_count())
    }

    pub fn node_count(&self) -> usize {
        self.nodes.list.len()
    }

    /// The nodes with these indices.
    pub fn node_statuses_of(&self, range: Range<usize>) -> impl Iterator<Item = NodeStatus<'_>> {
        let fleet = self.fleet();
        let has_store = self.config.cluster.is_some();
        self.node_places_of(range).map(move |(node, place)| {
            let (state, since_ms) = fleet.view.settings.state_of_node(&node.name);
            NodeStatus {
                node,
                weight: fleet.view.weight(node),
                why: fleet.why_unusable(node),
                is_usable_by_rule: fleet.is_usable_by_rule(node),
                state,
                since_ms,
                users: has_store.then(|| self.table.users(place)).flatten(),
            }
        })
    }

    /// A hash that differs between configurations which route users differently.
    pub fn agreement(&self) -> &str {
        &self.agreement
    }

    /// Whether an earlier target has the same key as the target with this index.
    pub fn repeats_a_key(&self, target: usize) -> bool {
        self.repeated.binary_search(&target).is_ok()
    }

    /// Whether the configuration groups targets into nodes or pools, rather than leaving each host
    /// a node of its own.
    pub fn names_nodes(&self) -> bool {
        let mut targets = self.config.targets.iter();
        targets.any(|target| target.placement.node.is_some() || !target.placement.pool.is_empty())
    }

    /// Whether the configuration routes users: it names nodes or pools, or has a store of bindings.
    pub fn has_routing(&self) -> bool {
        self.config.cluster.is_some() || self.names_nodes()
    }

    fn fleet(&self) -> Fleet<'_, Now<'_>> {
        Fleet {
            nodes: &self.nodes,
            targets: &self.config.targets,
            node_usable: self.config.routing.node_usable,
            view: Now::of(self),
        }
    }

    /// The nodes of the configuration.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.list.iter()
    }

    /// The node whose name has this digest.
    pub fn node_by_digest(&self, digest: u64) -> Option<&Node> {
        self.nodes().find(|node| node.digest == digest)
    }

    /// All nodes for a user whose binding is in the store, in the order of
    /// [`Fleet::standings`].
    pub fn standings(&self, key: &[u8], filter: &Filter) -> Vec<StoredStanding<'_>> {
        let fleet = self.fleet();
        let standings = fleet.standings(key, filter);
        let cluster = self.config.cluster.as_ref();
        let needs_quorum = cluster.is_some_and(|cluster| cluster.needs_quorum);
        standings
            .into_iter()
            .map(|standing| {
                let drain_since_ms = self.drain_since_ms(standing.node, &fleet.view.settings);
                StoredStanding {
                    node: standing.node,
                    in_pools: standing.in_pools,
                    matches: standing.matches,
                    usable: standing.usable,
                    usable_for_new: standing.usable_for_new,
                    degraded: standing.degraded,
                    takes_new: standing.weight > 0 && drain_since_ms == 0,
                    drain_since_ms,
                    asked_kinds: if needs_quorum && !standing.usable {
                        fleet.kinds_on(standing.node, filter)
                    } else {
                        Vec::new()
                    },
                }
            })
            .collect()
    }

    /// All nodes with a filter that matches every target of every pool.
    pub fn standings_of_all(&self) -> Vec<StoredStanding<'_>> {
        let filter = Filter {
            pools: Some(self.pools()),
            ..Filter::default()
        };
        self.standings(&[], &filter)
    }

    /// For each node that has targets of some kind: whether such a login finds the node usable.
    pub fn standings_of_kinds(&self) -> HashMap<&str, Vec<(LoginKind, bool)>> {
        let targets = self.config.targets.iter();
        let mut found: HashMap<&str, Vec<(LoginKind, bool)>> = HashMap::new();
        for kind in LoginKind::each(targets.map(|target| LoginKind::of(target))) {
            let standings = self.fleet().standings(&[], &kind.filter(self.pools()));
            for standing in standings.iter().filter(|standing| standing.matches) {
                let known = found.entry(&standing.node.name).or_default();
                known.push((kind, standing.usable));
            }
        }
        found
    }

    /// The name of each pool once.
    fn pools(&self) -> Vec<Box<str>> {
        let mut pools: Vec<Box<str>> = self.nodes().map(|node| node.pool.clone()).collect();
        pools.sort_unstable();
        pools.dedup();
        pools
    }

    /// Since when the node is draining: it, or a vital target of it; where it has none, all of its targets
    /// that are not in maintenance. 0: it is not.
    fn drain_since_ms(&self, node: &Node, settings: &OperatorSettings) -> u64 {
        let targets = || {
            let ports = node.ports.iter();
            ports.filter_map(|port| self.config.targets.get(port.target))
        };
        let since = |target: &Arc<Target>| settings.drain_since_ms(target);
        let is_vital = |target: &&Arc<Target>| target.placement.vital;
        if targets().any(|target| is_vital(&target)) {
            let vital = targets().filter(is_vital).map(since);
            return vital.filter(|&since| since > 0).min().unwrap_or(0);
        }
        let serves =
            |target: &&Arc<Target>| settings.state_of(target) != OperatorState::Maintenance;
        let each = || targets().filter(serves).map(since);
        match each().min() {
            None | Some(0) => 0,
            // The last one of them makes it a draining node.
            Some(_) => each().max().unwrap_or(0),
        }
    }

    /// The server of a user on the node with this name, and the node; `None` where the node has no
    /// target that matches.
    pub fn server_on(
        &self,
        key: &[u8],
        node: &str,
        filter: &Filter,
    ) -> Option<(BackendServer, &Node)> {
        let (target, node) = self.fleet().port_on(key, node, filter)?;
        Some((self.server(target)?, node))
    }

    /// Updates the routing word of a target after a verdict was published.
    pub(super) fn note_routable(&self, slot: Slot, verdict: Verdict) {
        let before = self.table.routable(slot);
        if before != Routable::settled(verdict) {
            let after = before.after(verdict, clock::monotonic_ms(), self.delays());
            self.table.change_routable(slot, before, after);
        }
    }

    fn delays(&self) -> Delays {
        Delays {
            down: self.config.routing.node_down_after,
            up: self.config.routing.node_up_after,
        }
    }
}

/// A plan, and how long it holds.
#[derive(Debug)]
pub struct TimedPlan {
    pub plan: Plan,
    /// The table's generation and version of routing when the plan was made.
    seen: [u64; 2],
    /// When the plan ends by itself, in milliseconds of `CLOCK_MONOTONIC`.
    until_ms: Option<u64>,
}

/// A node as `nodes()` shows it.
pub struct NodeStatus<'a> {
    pub node: &'a Node,
    /// The weight that an operator has set, else the configured one; 0..=1000.
    pub weight: u16,
    /// Why no user is routed there, with a filter that matches every target; `None` where users
    /// are.
    pub why: Option<Why>,
    /// Whether it is usable by `node_usable`, whatever its weight.
    pub is_usable_by_rule: bool,
    /// What an operator has set for the node, and since when, in milliseconds since 1970; 0: nothing.
    pub state: OperatorState,
    pub since_ms: u64,
    /// The store's last answer; `None` without a store, and before its first answer.
    pub users: Option<UserCounts>,
}

/// A node for a user whose binding is in the store.
#[derive(Clone, Debug)]
pub struct StoredStanding<'a> {
    pub node: &'a Node,
    /// Whether it is in a pool of the filter.
    pub in_pools: bool,
    /// Whether it is in a pool of the filter and has a target that matches the filter.
    pub matches: bool,
    /// Whether users who are bound to it stay there.
    pub usable: bool,
    /// Whether its targets may be given to users without a binding.
    pub usable_for_new: bool,
    /// Whether it is usable only because no node of its pool that takes new users has all of its vital
    /// targets alive.
    pub degraded: bool,
    /// Whether it has a weight and is not draining.
    pub takes_new: bool,
    /// Since when it is draining, in milliseconds since 1970; 0: it is not.
    pub drain_since_ms: u64,
    /// With `verdicts: quorum`, where it is unusable: the kinds of its targets that match the filter. The other
    /// machines are asked whether a login of one of these kinds finds it usable.
    pub asked_kinds: Vec<LoginKind>,
}

/// A view of the table for one call, which reads clock, panic and settings at most once.
struct Now<'a> {
    active: &'a ActiveConfig,
    /// `CLOCK_MONOTONIC` in milliseconds, read only where a routing word depends on the time.
    ms: OnceCell<u64>,
    /// The protocols in panic: so few targets are alive that all count as alive, so that no user is
    /// moved.
    panicking: Vec<Panic>,
    settings: OperatorSettings,
}

impl<'a> Now<'a> {
    fn of(active: &'a ActiveConfig) -> Self {
        Self {
            active,
            ms: OnceCell::new(),
            panicking: active.panicking(),
            settings: active.operator_settings(),
        }
    }

    fn is_in_panic(&self, target: usize) -> bool {
        let is_of = |target: &Arc<Target>| {
            let mut protocols = self.panicking.iter().map(|panic| panic.protocol);
            protocols.any(|protocol| protocol == target.protocol)
        };
        self.active.config.targets.get(target).is_some_and(is_of)
    }

    fn slot(&self, target: usize) -> Option<Slot> {
        self.active.slots.get(target).copied()
    }

    /// Whether operators' settings allow the target to have these users.
    fn is_permitted(&self, target: usize, users: Users) -> bool {
        let target = self.active.config.targets.get(target);
        target.is_some_and(|target| match self.settings.state_of(target) {
            OperatorState::Auto => true,
            OperatorState::Drain => users == Users::Bound,
            OperatorState::Maintenance => false,
        })
    }

    fn lists(&self, verdict: Option<Verdict>) -> bool {
        verdict.is_some_and(|verdict| self.active.lists(verdict))
    }
}

impl TargetView for Now<'_> {
    fn is_listed(&self, target: usize, users: Users) -> bool {
        let read = |slot| self.active.table.read_brief(slot).0;
        let is_shown = || self.is_in_panic(target) || self.lists(self.slot(target).map(read));
        self.is_permitted(target, users) && is_shown()
    }

    fn is_routable(&self, target: usize, users: Users) -> bool {
        let is_alive = || {
            self.lists(self.slot(target).map(|slot| {
                let routable = self.active.table.routable(slot);
                let now_ms = if routable.is_settled() {
                    0
                } else {
                    *self.ms.get_or_init(clock::monotonic_ms)
                };
                let delays = self.active.delays();
                match users {
                    Users::Unbound => routable.verdict(now_ms, delays),
                    Users::Bound => routable.verdict_for_bound(now_ms, delays),
                }
            }))
        };
        self.is_permitted(target, users) && (is_alive() || self.is_in_panic(target))
    }

    fn weight(&self, node: &Node) -> u16 {
        self.settings.weight_of(&node.name).unwrap_or(node.weight)
    }

    fn state(&self, target: usize) -> OperatorState {
        let target = self.active.config.targets.get(target);
        target.map_or_else(OperatorState::default, |target| {
            self.settings.state_of(target)
        })
    }

    fn ip(&self, target: usize) -> String {
        let Some(configured) = self.active.config.targets.get(target) else {
            return String::new();
        };
        let address = self
            .slot(target)
            .and_then(|slot| self.active.table.read_brief(slot).1);
        let known = self.active.names.load();
        shown_ip(configured, address.or_else(|| known.address_of(configured)))
    }
}
