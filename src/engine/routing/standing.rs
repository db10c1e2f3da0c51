//! The order of all nodes for one user, with the state of each. A store of bindings needs all of them: the
//! user may be bound to a node that hashing would not choose.

use std::cmp::Ordering;

use super::filter::Filter;
use super::hash;
use super::nodes::Node;
use super::select::{Fleet, TargetView, pools};
use crate::engine::config::NodeUsable;

/// A node for a user and a filter.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub node: &'a Node,
    /// Whether it is in a pool of the filter.
    pub in_pools: bool,
    /// Whether it is, and has a target that matches.
    pub matches: bool,
    pub usable: bool,
    /// Whether it is usable only because no node of its pool has all of its vital targets alive.
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
        for pool in pools(filter) {
            let mut scored: Vec<(f64, &'a Node)> = self
                .matching(pool, filter)
                .map(|(_, node)| {
                    let score = hash::score(self.view.weight(node), hash::of_pair(user, node.hash));
                    (score, node)
                })
                .collect();
            scored.sort_unstable_by(|(a, x), (b, y)| {
                (b, y.hash)
                    .partial_cmp(&(a, x.hash))
                    .unwrap_or(Ordering::Equal)
            });
            let standing = |(_, node): (f64, &'a Node), by, degraded| {
                let usable = self.is_usable(node, by, filter);
                Standing {
                    node,
                    in_pools: true,
                    matches: true,
                    usable,
                    degraded: degraded && usable,
                    weight: self.view.weight(node),
                }
            };
            let mut of_pool: Vec<Standing<'a>> = scored
                .iter()
                .map(|one| standing(*one, self.node_usable, false))
                .collect();
            let has_any = of_pool.iter().any(|one| one.usable && one.weight > 0);
            if !has_any && self.node_usable == NodeUsable::All {
                let again = scored
                    .iter()
                    .map(|one| standing(*one, NodeUsable::Match, true));
                of_pool = again.collect();
            }
            all.append(&mut of_pool);
        }
        for node in nodes {
            if all.iter().any(|one| std::ptr::eq(one.node, node)) {
                continue;
            }
            all.push(Standing {
                node,
                in_pools: pools(filter).any(|pool| *node.pool == *pool),
                matches: false,
                usable: self.is_usable(node, self.node_usable, filter),
                degraded: false,
                weight: self.view.weight(node),
            });
        }
        all
    }

    /// The user's port on the node with this name, if it has one that matches.
    pub fn port_on(&self, key: &[u8], node: &str, filter: &Filter) -> Option<(usize, &'a Node)> {
        let nodes: &'a [Node] = &self.nodes.list;
        let node = nodes.iter().find(|known| *known.name == *node)?;
        let target = self.port(hash::of_name(key), node, filter)?;
        Some((target, node))
    }
}
