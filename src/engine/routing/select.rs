//! The choice of a server: of the usable nodes the one with the user's highest score, then one of
//! its ports.

use std::sync::Arc;

use smallvec::SmallVec;

use super::filter::{Filter, ShownFields};
use super::hash;
use super::nodes::{Node, Nodes, Port};
use super::plan::{NoRoute, Plan, PlannedNode, rank};
use crate::engine::config::NodeUsable;
use crate::engine::target::Target;
use crate::engine::verdicts::OperatorState;

/// The users for whom a target or a node is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Users without a binding. A draining target takes none of them.
    Unbound,
    /// Users who are bound to the target's node. A draining target keeps them, and one whose first
    /// verdict is dead keeps them for `node_down_after`.
    Bound,
}

/// The state of targets and nodes that routing reads. A target is given by its index in the configuration.
pub trait TargetView {
    /// Whether the target is alive by its last verdict, and operators' settings allow these users there. With
    /// [`Users::Unbound`] this is whether `get_backend_servers` lists it.
    fn is_listed(&self, target: usize, users: Users) -> bool;

    /// The node's weight: its share of the pool's users. Operators may have set another one than
    /// configured.
    fn weight(&self, node: &Node) -> u16 {
        node.weight
    }
    /// Whether routing counts the target as alive, and it may have these users: a new verdict counts after
    /// `node_down_after` or `node_up_after`.
    fn is_routable(&self, target: usize, users: Users) -> bool;
    /// The `ip` of the target's server object.
    fn ip(&self, target: usize) -> String;
    /// The state that operators have set.
    fn state(&self, _: usize) -> OperatorState {
        OperatorState::Auto
    }
}

/// The fields of a target's server object, read from a view.
struct ShownBy<'v, V> {
    view: &'v V,
    node: &'v Node,
    target: usize,
}

impl<V: TargetView> ShownFields for ShownBy<'_, V> {
    fn ip(&self) -> String {
        self.view.ip(self.target)
    }

    fn weight(&self) -> u16 {
        self.view.weight(self.node)
    }

    fn state(&self) -> OperatorState {
        self.view.state(self.target)
    }
}

/// All that a choice depends on: the nodes and targets of a configuration, and their state.
pub struct Fleet<'a, V> {
    pub nodes: &'a Nodes,
    pub targets: &'a [Arc<Target>],
    pub node_usable: NodeUsable,
    pub view: V,
}

/// Where a user belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The index of the target in the configuration.
    pub target: usize,
    pub node: &'a Node,
    /// No node of the pool had all of its vital targets alive, so a node with a matching target
    /// that is alive was taken.
    pub degraded: bool,
}

/// Why a node is not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `weight` is 0.
    NoWeight,
    /// A target that has to be alive is dead.
    Dead,
    /// An operator has set this state for the node or for a target that has to be alive.
    Drain,
    Maintenance,
}

impl Why {
    pub fn text(self) -> &'static str {
        match self {
            Self::NoWeight => "weight 0",
            Self::Dead => "dead",
            Self::Drain => OperatorState::Drain.name(),
            Self::Maintenance => OperatorState::Maintenance.name(),
        }
    }
}

/// A node with its score for a user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<'a> {
    pub node: &'a Node,
    /// The score that `hash::score` gives; the user belongs on the node with the highest score.
    pub score: f64,
    /// Why the node cannot be chosen; `None` where it can.
    pub why: Option<Why>,
}

impl<'a, V: TargetView> Fleet<'a, V> {
    /// The server of the user with this key.
    ///
    /// # Errors
    /// Where no node can serve the user.
    pub fn route(&self, key: &[u8], filter: &Filter) -> Result<Route<'a>, NoRoute> {
        let plan = self.plan(filter);
        let choice = plan.choose(key)?;
        let nodes: &'a [Node] = &self.nodes.list;
        Ok(Route {
            target: choice.target,
            node: nodes.get(choice.node).ok_or(NoRoute::NoNode)?,
            degraded: plan.is_degraded(),
        })
    }

    /// The nodes that users can be given now: those of the first pool with a usable node.
    pub fn plan(&self, filter: &Filter) -> Plan {
        let mut problem = NoRoute::NoNode;
        for pool in pools(filter) {
            let has_weight = |(_, node): &(usize, &'a Node)| self.view.weight(node) > 0;
            let members: Vec<_> = self.matching(pool, filter).filter(has_weight).collect();
            if members.is_empty() {
                continue;
            }
            problem = NoRoute::Unusable;
            for (node_usable, degraded) in self.stages() {
                let usable = members
                    .iter()
                    .filter(|(_, node)| self.is_usable(node, node_usable, filter, Users::Unbound));
                let planned: Vec<_> = usable
                    .map(|&(index, node)| PlannedNode {
                        node: index,
                        hash: node.hash,
                        weight: self.view.weight(node),
                        ports: self.best_ports(node, filter, Users::Unbound),
                    })
                    .collect();
                if !planned.is_empty() {
                    return Plan::new(planned, degraded);
                }
            }
        }
        Plan::without_nodes(problem)
    }

    /// The nodes with a matching target, the highest score first: those of the pool that the user
    /// is routed to, or where there is no route, of the first pool that has any.
    pub fn candidates(&self, key: &[u8], filter: &Filter) -> Vec<Candidate<'a>> {
        let user = hash::of_name(key);
        // The user may be routed to a later pool than the first with a matching target, which then
        // has no usable node.
        let routed = self.route(key, filter);
        for pool in pools(filter) {
            if let Ok(route) = &routed
                && *route.node.pool != *pool
            {
                continue;
            }
            let mut all: Vec<Candidate<'a>> = self
                .matching(pool, filter)
                .map(|(_, node)| Candidate {
                    node,
                    score: hash::score(self.view.weight(node), hash::of_pair(user, node.hash)),
                    why: self.why_not(node, filter),
                })
                .collect();
            all.sort_unstable_by(|a, b| rank((b.score, b.node.hash), (a.score, a.node.hash)));
            if !all.is_empty() {
                return all;
            }
        }
        Vec::new()
    }

    /// Why no user is routed to a node, with a filter that matches every target; `None` where users
    /// are.
    pub fn why_unusable(&self, node: &'a Node) -> Option<Why> {
        self.why_not(node, &Filter::default())
    }

    /// Whether a node is usable by `node_usable`, whatever its weight, with a filter that matches every
    /// target.
    pub fn is_usable_by_rule(&self, node: &'a Node) -> bool {
        let filter = Filter::default();
        self.is_usable(node, self.node_usable, &filter, Users::Unbound)
    }

    fn why_not(&self, node: &'a Node, filter: &Filter) -> Option<Why> {
        if self.view.weight(node) == 0 {
            return Some(Why::NoWeight);
        }
        if self.is_usable(node, self.node_usable, filter, Users::Unbound) {
            return None;
        }
        Some(match self.strictest_state(node, filter) {
            OperatorState::Auto => Why::Dead,
            OperatorState::Drain => Why::Drain,
            OperatorState::Maintenance => Why::Maintenance,
        })
    }

    /// The strictest state that operators have set for the targets that decide whether the node is
    /// usable.
    fn strictest_state(&self, node: &'a Node, filter: &Filter) -> OperatorState {
        let matching: SmallVec<[usize; 4]> = self
            .ports(node, filter)
            .map(|(target, ..)| target)
            .collect();
        let is_vital = |target: usize| {
            let target = self.targets.get(target);
            target.is_some_and(|target| target.placement.vital)
        };
        let all = node.ports.iter().map(|port| port.target);
        let has_vital = all.clone().any(is_vital);
        let decides = |target: &usize| match self.node_usable {
            NodeUsable::All if has_vital => is_vital(*target),
            NodeUsable::Any => true,
            NodeUsable::All | NodeUsable::Match => matching.contains(target),
        };
        let states = all.filter(decides).map(|target| self.view.state(target));
        states.max().unwrap_or_default()
    }

    /// The rules for usable nodes to try in this order, each with whether the route is then
    /// `degraded`.
    fn stages(&self) -> impl Iterator<Item = (NodeUsable, bool)> {
        let way_out = (self.node_usable == NodeUsable::All).then_some((NodeUsable::Match, true));
        std::iter::once((self.node_usable, false)).chain(way_out)
    }

    /// The nodes of a pool that have a matching target, with their index.
    pub(super) fn matching<'s>(
        &'s self,
        pool: &'s str,
        filter: &'s Filter,
    ) -> impl Iterator<Item = (usize, &'a Node)> + 's {
        let nodes: &'a [Node] = &self.nodes.list;
        nodes
            .iter()
            .enumerate()
            .filter(move |(_, node)| &*node.pool == pool)
            .filter(move |(_, node)| self.ports(node, filter).next().is_some())
    }

    /// The targets of a node that match the filter, with their index.
    pub(super) fn ports<'s>(
        &'s self,
        node: &'a Node,
        filter: &'s Filter,
    ) -> impl Iterator<Item = (usize, &'a Target, &'a Port)> + 's {
        node.ports.iter().filter_map(move |port| {
            let target: &'a Arc<Target> = self.targets.get(port.target)?;
            let shown = ShownBy {
                view: &self.view,
                node,
                target: port.target,
            };
            filter
                .matches(target, &shown)
                .then_some((port.target, &**target, port))
        })
    }

    pub(super) fn is_usable(
        &self,
        node: &'a Node,
        by: NodeUsable,
        filter: &Filter,
        users: Users,
    ) -> bool {
        let routable = |port: &Port| self.view.is_routable(port.target, users);
        let has_match = || {
            self.ports(node, filter)
                .any(|(target, ..)| self.view.is_routable(target, users))
        };
        match by {
            NodeUsable::All => {
                let is_vital = |port: &&Port| {
                    let target = self.targets.get(port.target);
                    target.is_some_and(|target| target.placement.vital)
                };
                let mut vital = node.ports.iter().filter(is_vital).peekable();
                // A node without a vital target is usable where a matching target is alive.
                if vital.peek().is_none() {
                    return has_match();
                }
                vital.all(routable)
            }
            NodeUsable::Any => node.ports.iter().any(routable),
            NodeUsable::Match => has_match(),
        }
    }

    /// The ports of a node that users may be given: of the matching targets the listed ones, else (for
    /// bound users) those that are alive and draining, else those that routing still counts as alive,
    /// else all. They need not be listed: a node that has been dead for less than `node_down_after` keeps
    /// its users.
    fn best_ports(
        &self,
        node: &'a Node,
        filter: &Filter,
        users: Users,
    ) -> SmallVec<[(u64, usize); 1]> {
        let ranked = |(index, _, port): (usize, &Target, &Port)| {
            let is_alive = [
                self.view.is_listed(index, Users::Unbound),
                self.view.is_listed(index, users),
                self.view.is_routable(index, users),
            ];
            (is_alive, port.hash, index)
        };
        let ports: SmallVec<[_; 4]> = self.ports(node, filter).map(ranked).collect();
        let best = ports.iter().map(|(is_alive, ..)| *is_alive).max();
        ports
            .into_iter()
            .filter(|(is_alive, ..)| Some(*is_alive) == best)
            .map(|(_, hash, index)| (hash, index))
            .collect()
    }

    /// The port of a user who is bound to a node: of those that such users may be given the one with the
    /// highest hash.
    pub(super) fn port(&self, user: u64, node: &'a Node, filter: &Filter) -> Option<usize> {
        let ports = self.best_ports(node, filter, Users::Bound).into_iter();
        let ranked = ports.map(|(port, index)| (hash::of_pair(user, port), index));
        ranked.max().map(|(_, index)| index)
    }
}

pub(super) fn pools(filter: &Filter) -> impl Iterator<Item = &str> {
    let named = filter.pools.as_deref();
    let unnamed = named.is_none().then_some("");
    named
        .into_iter()
        .flatten()
        .map(|name| &**name)
        .chain(unnamed)
}
