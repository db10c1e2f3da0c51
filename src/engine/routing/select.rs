//! The choice of a server: of the usable nodes the one with the user's highest score, then one of
//! its ports.

use std::cmp::Ordering;
use std::sync::Arc;

use smallvec::SmallVec;

use super::filter::Filter;
use super::hash;
use super::nodes::{Node, Nodes, Port};
use crate::engine::config::NodeUsable;
use crate::engine::target::Target;

/// What routing reads of the targets' state. Targets are given by their index in the configuration.
pub trait TargetView {
    /// Whether the target is in the list now.
    fn is_listed(&self, target: usize) -> bool;

    /// The node's weight: its share of the pool's users. Operators may have set another one than
    /// configured.
    fn weight(&self, node: &Node) -> u16 {
        node.weight
    }
    /// Whether routing counts the target as alive: a new verdict counts after `node_down_after` or
    /// `node_up_after`.
    fn is_routable(&self, target: usize) -> bool;
    /// The `ip` of the target's server object.
    fn ip(&self, target: usize) -> String;
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

/// Why there is no server for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The user's name has no key.
    NoKey,
    /// No node of the pools has a target that matches the filter and may be given users.
    NoNode,
    /// There are such nodes, but none of them is usable.
    Unusable,
}

impl NoRoute {
    /// The text that callers get; the words are promised.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoKey => "no key",
            Self::NoNode => "no node",
            Self::Unusable => "unusable",
        }
    }
}

/// Why a node is not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `weight` is 0.
    NoWeight,
    /// A target that has to be alive is dead.
    Dead,
}

impl Why {
    pub fn text(self) -> &'static str {
        match self {
            Self::NoWeight => "weight 0",
            Self::Dead => "dead",
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

/// Nodes with a user's scores. 16 are stored without an allocation, which is enough for most pools.
type Scored<'a> = SmallVec<[(f64, &'a Node); 16]>;

/// The nodes from the highest score down. They are not sorted, since nearly always the first one is
/// taken. Equal scores are decided by the hash of the node, so that the configured order never
/// matters.
fn best_first(mut scored: Scored<'_>) -> impl Iterator<Item = &Node> {
    std::iter::from_fn(move || {
        let ranked = scored.iter().map(|(score, node)| (*score, node.hash));
        let best = ranked
            .enumerate()
            .max_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        best.map(|(at, _)| scored.swap_remove(at).1)
    })
}

impl<'a, V: TargetView> Fleet<'a, V> {
    /// The server of the user with this key.
    ///
    /// # Errors
    /// Where no node can serve the user.
    pub fn route(&self, key: &[u8], filter: &Filter) -> Result<Route<'a>, NoRoute> {
        let user = hash::of_name(key);
        let mut problem = NoRoute::NoNode;
        for pool in pools(filter) {
            let scored = self.scored(user, pool, filter);
            if scored.is_empty() {
                continue;
            }
            problem = NoRoute::Unusable;
            for (node_usable, degraded) in self.stages() {
                let found = best_first(scored.clone())
                    .find(|node| self.is_usable(node, node_usable, filter));
                if let Some(node) = found
                    && let Some(target) = self.port(user, node, filter)
                {
                    return Ok(Route {
                        target,
                        node,
                        degraded,
                    });
                }
            }
        }
        Err(problem)
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
                .map(|node| Candidate {
                    node,
                    score: hash::score(self.view.weight(node), hash::of_pair(user, node.hash)),
                    why: self.why_not(node, filter),
                })
                .collect();
            all.sort_by(|a, b| {
                (b.score, b.node.hash)
                    .partial_cmp(&(a.score, a.node.hash))
                    .unwrap_or(Ordering::Equal)
            });
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

    fn why_not(&self, node: &'a Node, filter: &Filter) -> Option<Why> {
        if self.view.weight(node) == 0 {
            return Some(Why::NoWeight);
        }
        let usable = self.is_usable(node, self.node_usable, filter);
        (!usable).then_some(Why::Dead)
    }

    /// The rules for usable nodes to try in this order, each with whether the route is then
    /// `degraded`.
    fn stages(&self) -> impl Iterator<Item = (NodeUsable, bool)> {
        let way_out = (self.node_usable == NodeUsable::All).then_some((NodeUsable::Match, true));
        std::iter::once((self.node_usable, false)).chain(way_out)
    }

    /// The nodes of a pool that have a matching target and a weight, with the user's scores.
    fn scored(&self, user: u64, pool: &str, filter: &Filter) -> Scored<'a> {
        self.matching(pool, filter)
            .filter(|node| self.view.weight(node) > 0)
            .map(|node| {
                let score = hash::score(self.view.weight(node), hash::of_pair(user, node.hash));
                (score, node)
            })
            .collect()
    }

    pub(super) fn matching<'s>(
        &'s self,
        pool: &'s str,
        filter: &'s Filter,
    ) -> impl Iterator<Item = &'a Node> + 's {
        let nodes: &'a [Node] = &self.nodes.list;
        nodes
            .iter()
            .filter(move |node| &*node.pool == pool)
            .filter(move |node| self.ports(node, filter).next().is_some())
    }

    /// The targets of a node that match the filter, with their index.
    fn ports<'s>(
        &'s self,
        node: &'a Node,
        filter: &'s Filter,
    ) -> impl Iterator<Item = (usize, &'a Target, &'a Port)> + 's {
        node.ports.iter().filter_map(move |port| {
            let target: &'a Arc<Target> = self.targets.get(port.target)?;
            filter
                .matches(target, || self.view.ip(port.target))
                .then_some((port.target, &**target, port))
        })
    }

    pub(super) fn is_usable(&self, node: &'a Node, by: NodeUsable, filter: &Filter) -> bool {
        let routable = |port: &Port| self.view.is_routable(port.target);
        let has_match = || {
            self.ports(node, filter)
                .any(|(target, ..)| self.view.is_routable(target))
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

    /// The user's port on a node. Of the matching targets a listed one is preferred, then one that
    /// routing still counts as alive, then any; the highest hash decides between equals. It need
    /// not be listed: a node that has been dead for less than `node_down_after` keeps its users.
    pub(super) fn port(&self, user: u64, node: &'a Node, filter: &Filter) -> Option<usize> {
        let ranked = self.ports(node, filter).map(|(index, _, port)| {
            let is_alive = [self.view.is_listed(index), self.view.is_routable(index)];
            (is_alive, hash::of_pair(user, port.hash), index)
        });
        ranked.max().map(|(.., index)| index)
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
