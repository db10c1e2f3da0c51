//! The order of all nodes for one user, with the state of each. A store of bindings needs all of them: the
//! user may be bound to a node that hashing would not choose.

use std::cmp::Ordering;

use super::filter::Filter;
use super::hash;
use super::login_kind::LoginKind;
use super::nodes::Node;
use super::select::{Fleet, TargetView, Users, pools};
use crate::engine::config::NodeUsable;

/// A node for a user and a filter.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub node: &'a Node,
    /// Whether it is in a pool of the filter.
    pub in_pools: bool,
    /// Whether it is, and has a target that matches.
    pub matches: bool,
    /// Whether users who are bound to it stay there.
    pub usable: bool,
    /// Whether its targets may be given to users without a binding. A node may be usable for the ones and
    /// not for the others: see [`Users`].
    pub usable_for_new: bool,
    /// Whether it is usable only because no node of its pool that takes new users has all of its vital
    /// targets alive.
    pub degraded: bool,
    /// 0..=1000.
    pub weight: u16,
}

impl<'a, V: TargetView> Fleet<'a, V> {
    /// All nodes: first those that match, pool after pool in the filter's order, in each from the
    /// highest score of the user down.
    pub fn standings(&self, key: &[u8], filter: &Filter) -> Vec<Standing<'a>> {
        let user = hash::of_name(key);
        let nodes: &'a [Node] = &self.nodes.list;
        let mut all: Vec<Standing<'a>> = Vec::with_capacity(nodes.len());
        let mut is_matching = vec![false; nodes.len()];
        for pool in pools(filter) {
            let mut scored: Vec<(f64, &'a Node)> = self
                .matching(pool, filter)
                .map(|(index, node)| {
                    if let Some(is_matching) = is_matching.get_mut(index) {
                        *is_matching = true;
                    }
                    let score = hash::score(self.view.weight(node), hash::of_pair(user, node.hash));
                    (score, node)
                })
                .collect();
            scored.sort_unstable_by(|(a, x), (b, y)| {
                (b, y.hash)
                    .partial_cmp(&(a, x.hash))
                    .unwrap_or(Ordering::Equal)
            });
            // The users of a node that is left need another one: a node without weight, or one that is
            // draining, is none.
            let takes_new = |node| {
                self.view.weight(node) > 0
                    && self.is_usable(node, self.node_usable, filter, Users::Unbound)
            };
            let has_way_out = self.node_usable == NodeUsable::All
                && !scored.iter().any(|&(_, node)| takes_new(node));
            let standing = |(_, node): (f64, &'a Node)| {
                let by = |by, users| self.is_usable(node, by, filter, users);
                let stages = |users| {
                    let regular = by(self.node_usable, users);
                    let way_out = !regular && has_way_out && by(NodeUsable::Match, users);
                    (regular || way_out, way_out)
                };
                let (usable, degraded) = stages(Users::Bound);
                let (usable_for_new, degraded_for_new) = stages(Users::Unbound);
                Standing {
                    node,
                    in_pools: true,
                    matches: true,
                    usable,
                    usable_for_new,
                    degraded: degraded || degraded_for_new,
                    weight: self.view.weight(node),
                }
            };
            all.extend(scored.into_iter().map(standing));
        }
        let others = nodes.iter().zip(&is_matching);
        for (node, _) in others.filter(|(_, is_matching)| !**is_matching) {
            all.push(Standing {
                node,
                in_pools: pools(filter).any(|pool| *node.pool == *pool),
                matches: false,
                usable: self.is_usable(node, self.node_usable, filter, Users::Bound),
                usable_for_new: false,
                degraded: false,
                weight: self.view.weight(node),
            });
        }
        all
    }

    /// The kinds of the node's targets that match the filter.
    pub fn kinds_on(&self, node: &'a Node, filter: &Filter) -> Vec<LoginKind> {
        LoginKind::each(
            self.ports(node, filter)
                .map(|(_, target, _)| LoginKind::of(target)),
        )
    }

    /// The port of a user who is bound to the node with this name, if it has one that matches.
    pub fn port_on(&self, key: &[u8], node: &str, filter: &Filter) -> Option<(usize, &'a Node)> {
        let nodes: &'a [Node] = &self.nodes.list;
        let node = nodes.iter().find(|known| *known.name == *node)?;
        let target = self.port(hash::of_name(key), node, filter)?;
        Some((target, node))
    }
}
