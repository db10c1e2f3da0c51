//! The nodes of a configuration: which targets are the ports of one machine.

use std::collections::HashMap;
use std::sync::Arc;

use super::hash;
use crate::engine::target::Target;
use crate::engine::verdicts::digest::name_digest;

/// A machine that serves users.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Box<str>,
    /// Empty: the pool without a name.
    pub pool: Box<str>,
    /// The configured weight, 0..=1000; 0: no users.
    pub weight: u16,
    /// The node's targets in configured order, each once; never empty.
    pub ports: Vec<Port>,
    /// See [`name_digest`]; 0 without a store of bindings, see [`Nodes::compute_digests`].
    pub digest: u64,
    pub(super) hash: u64,
}

/// A target as a port of its node.
#[derive(Debug, PartialEq, Eq)]
pub struct Port {
    /// The target's index in the configuration.
    pub target: usize,
    pub(super) hash: u64,
}

/// All nodes, in the order in which the configuration names them first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    pub list: Vec<Node>,
}

impl Node {
    /// The hash of its name, by which the shared table finds its place.
    pub fn name_hash(&self) -> u64 {
        self.hash
    }
}

impl Nodes {
    /// The nodes of these targets. A target that is configured twice is one port.
    pub fn of(targets: &[Arc<Target>]) -> Self {
        let mut list: Vec<Node> = Vec::new();
        let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
        for (index, target) in targets.iter().enumerate() {
            let name: Box<str> = target.node().into();
            let at = *by_name.entry(name.clone()).or_insert_with(|| {
                list.push(Node {
                    digest: 0,
                    hash: hash::of_name(name.as_bytes()),
                    name,
                    pool: target.placement.pool.clone(),
                    weight: target.placement.weight,
                    ports: Vec::new(),
                });
                list.len() - 1
            });
            let Some(node) = list.get_mut(at) else {
                continue;
            };
            let known = node
                .ports
                .iter()
                .filter_map(|port| targets.get(port.target));
            if known
                .clone()
                .all(|known| known.identity() != target.identity())
            {
                node.ports.push(Port {
                    target: index,
                    hash: hash::of_name(target.key().as_bytes()),
                });
            }
        }
        Self { list }
    }

    /// Computes the digests of the nodes' names. Only a store of bindings needs them, so that a configuration without
    /// one asks nothing of OpenSSL here, which may be a copy of the host's.
    pub fn compute_digests(&mut self) {
        for node in &mut self.list {
            node.digest = name_digest(&node.name);
        }
    }
}
