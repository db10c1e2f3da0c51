//! The part of a choice that is the same for all users: the usable nodes with their ports, for one
//! filter and one state of the targets. For each user only hashes remain to be calculated and compared.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::hash;

/// The nodes that users can be given, and how to choose between them.
#[derive(Debug)]
pub struct Plan {
    /// The hashes of the nodes, in the order of `nodes`: apart from them, since each user needs all
    /// hashes and only one of the nodes.
    hashes: Vec<u64>,
    nodes: Vec<PlannedNode>,
    /// Whether all weights are equal: the order of the scores is then that of the hashes.
    has_equal_weights: bool,
    degraded: bool,
    /// Why there is no server where `nodes` is empty.
    problem: NoRoute,
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
    /// The text that callers get. Scripts compare it, so it does not change between versions.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoKey => "no key",
            Self::NoNode => "no node",
            Self::Unusable => "unusable",
        }
    }
}

/// A usable node.
#[derive(Debug)]
pub(super) struct PlannedNode {
    /// The node's index in the list of nodes.
    pub(super) node: usize,
    pub(super) hash: u64,
    /// 1..=1000.
    pub(super) weight: u16,
    /// The hash and the target's index of each port that users may be given; never empty.
    pub(super) ports: SmallVec<[(u64, usize); 1]>,
}

/// The choice of a plan for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The index of the target in the configuration.
    pub target: usize,
    /// The index of the node in the list of nodes.
    pub node: usize,
}

/// Hashes that differ by less than this may give equal scores, or scores in the wrong order: a score
/// is rounded. 2^18 of a hash is 64 steps of the fraction, more than 40 times what rounding can do.
const CLOSE: u64 = 1 << 18;

/// A score is at most `weight / (1 - f)`, since `-ln(f) >= 1 - f`. A bound that is below the best score
/// times this number is below that score in spite of rounding, so its node cannot win.
const MARGIN: f64 = 1.0 - 1e-9;

impl Plan {
    pub(super) fn new(nodes: Vec<PlannedNode>, degraded: bool) -> Self {
        let mut weights = nodes.iter().map(|node| node.weight);
        let first = weights.next();
        Self {
            hashes: nodes.iter().map(|node| node.hash).collect(),
            has_equal_weights: weights.all(|weight| Some(weight) == first),
            nodes,
            degraded,
            problem: NoRoute::Unusable,
        }
    }

    pub(super) fn without_nodes(problem: NoRoute) -> Self {
        Self {
            problem,
            ..Self::new(Vec::new(), false)
        }
    }

    /// Whether no node of the pool had all of its vital targets alive, so that nodes with a matching
    /// target that is alive are taken.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// The server of the user with this key.
    ///
    /// # Errors
    /// Where no node can serve users.
    pub fn choose(&self, key: &[u8]) -> Result<Choice, NoRoute> {
        let user = hash::of_name(key);
        let best = if self.has_equal_weights {
            self.highest_hash(user)
        } else {
            self.highest_score(user)
        };
        best.and_then(|node| node.choice(user)).ok_or(self.problem)
    }

    /// The node with the highest score where all weights are equal. Only hashes that are close to
    /// each other need their scores compared.
    fn highest_hash(&self, user: u64) -> Option<&PlannedNode> {
        let (first, others) = self.hashes.split_first()?;
        let (mut best, mut highest) = (0, hash::of_pair(user, *first));
        for (index, node) in (1..).zip(others) {
            let pair = hash::of_pair(user, *node);
            if pair.saturating_add(CLOSE) > highest
                && (pair > highest.saturating_add(CLOSE)
                    || self.is_above((index, pair), (best, highest)))
            {
                (best, highest) = (index, pair);
            }
        }
        self.nodes.get(best)
    }

    fn highest_score(&self, user: u64) -> Option<&PlannedNode> {
        let mut best: Option<(&PlannedNode, f64)> = None;
        for node in &self.nodes {
            let pair = hash::of_pair(user, node.hash);
            let bound = f64::from(node.weight);
            if best.is_some_and(|(_, score)| bound < score * (1.0 - hash::fraction(pair)) * MARGIN)
            {
                continue;
            }
            let score = hash::score(node.weight, pair);
            if best.is_none_or(|(known, highest)| {
                rank((score, node.hash), (highest, known.hash)) == Ordering::Greater
            }) {
                best = Some((node, score));
            }
        }
        best.map(|(node, _)| node)
    }

    /// Compares two nodes by their scores, given by their index and their hash with the user.
    #[cold]
    fn is_above(&self, one: (usize, u64), other: (usize, u64)) -> bool {
        let ranked = |(index, pair): (usize, u64)| {
            let node = self.nodes.get(index);
            node.map(|node| (hash::score(node.weight, pair), node.hash))
        };
        match (ranked(one), ranked(other)) {
            (Some(one), Some(other)) => rank(one, other) == Ordering::Greater,
            _ => false,
        }
    }
}

/// The order of two nodes by score, and where those are equal by the hash of the node, so that the
/// configured order never matters.
pub(super) fn rank(one: (f64, u64), other: (f64, u64)) -> Ordering {
    one.partial_cmp(&other).unwrap_or(Ordering::Equal)
}

impl PlannedNode {
    /// The user's port on this node: the one with the highest hash.
    fn choice(&self, user: u64) -> Option<Choice> {
        let target = match &*self.ports {
            [(_, target)] => *target,
            ports => {
                let ranked = ports
                    .iter()
                    .map(|(port, target)| (hash::of_pair(user, *port), *target));
                ranked.max()?.1
            }
        };
        Some(Choice {
            target,
            node: self.node,
        })
    }
}
