//! The store's warnings and numbers of users, for `status()`, `nodes()` and the metrics; and the count of
//! users that this machine has moved.

use std::collections::HashMap;
use std::sync::Arc;

use super::ActiveConfig;
use crate::engine::routing::Node;
use crate::engine::verdicts::{Event, EventKind, MoveReason, NodePlace, UserCounts};

/// How many users are bound to a node, as the store says.
#[derive(Clone, Debug)]
pub struct NodeUsers {
    pub node: String,
    pub counts: UserCounts,
}

/// A user who was moved from one node to another.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    pub from: &'a str,
    pub to: &'a str,
    /// Why, as the user's record says.
    pub reason: &'a str,
    /// An operator, or the name of the machine whose login moved the user.
    pub by: &'a str,
}

impl ActiveConfig {
    /// The store's warnings, as this process has last read them.
    pub fn cluster_warnings(&self) -> Arc<Vec<String>> {
        self.cluster_warnings.load_full()
    }

    pub fn note_cluster_warnings(&self, warnings: Vec<String>) {
        self.cluster_warnings.store(Arc::new(warnings));
    }

    /// Stores how many users the nodes have, for all processes that share the table.
    pub fn note_node_users(&self, users: &[NodeUsers]) {
        let nodes = self.nodes().zip(&self.node_places);
        let places: HashMap<&str, NodePlace> =
            nodes.map(|(node, place)| (&*node.name, *place)).collect();
        for one in users {
            if let Some(place) = places.get(&*one.node) {
                self.table.note_users(*place, &one.counts);
            }
        }
    }

    /// Counts a move that this machine has made, and adds its event.
    pub fn note_move(&self, moved: Move<'_>, why: MoveReason) {
        let at = self.nodes().position(|node| *node.name == *moved.from);
        let place = at.and_then(|at| self.node_places.get(at).copied());
        self.table
            .count_move(place.unwrap_or(NodePlace::UNKNOWN), why);
        let event = Event::new(EventKind::Move, format!("node:{}", moved.from));
        self.table.add_event(
            &event
                .change(moved.from, moved.to)
                .reason(moved.reason)
                .by(moved.by),
        );
    }

    /// The places of the nodes with these indices.
    pub(in crate::engine) fn node_places_of(
        &self,
        range: std::ops::Range<usize>,
    ) -> impl Iterator<Item = (&Node, NodePlace)> {
        let nodes = self.nodes.list.get(range.clone()).unwrap_or_default();
        let places = self.node_places.get(range).unwrap_or_default();
        nodes.iter().zip(places.iter().copied())
    }
}
