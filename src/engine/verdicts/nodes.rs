//! The nodes of the configuration: how many users the store says that each has, and how many this
//! machine has moved away from it.
//!
//! A node has one place for the table's life, which is found by the hash of its name. Place 0 stands
//! for all nodes that are not configured here: users may be moved away from them.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::layout::*;
use super::memory::VerdictTable;

/// The index of a node's place. Only [`VerdictTable::assign_nodes`] makes one, so it is within the
/// table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodePlace(usize);

impl NodePlace {
    /// The place of all nodes that are not configured here.
    pub const UNKNOWN: Self = Self(0);
}

/// What the store says of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserCounts {
    /// When the store said so, in microseconds since 1970 of its own clock; never 0.
    pub as_of_us: u64,
    /// How many users are bound to the node; an estimate.
    pub users: u64,
    /// How many users were ever moved there from another node, and away to another.
    pub moved_in: u64,
    pub moved_out: u64,
}

/// Why a user was moved away from a node. The numbers are part of the layout and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveReason {
    /// The node was unusable.
    Unusable,
    /// It was draining for `drain_time`.
    Drain,
    /// A login asked for a pool that the node is not in.
    AnotherPool,
    /// No living machine has the node in its configuration.
    UnknownNode,
    /// An operator has moved the user, or has released the user from the node.
    Operator,
}

impl MoveReason {
    pub const ALL: [Self; 5] = [
        Self::Unusable,
        Self::Drain,
        Self::AnotherPool,
        Self::UnknownNode,
        Self::Operator,
    ];

    /// As the store's scripts and the metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unusable => "unusable",
            Self::Drain => "drain",
            Self::AnotherPool => "another pool",
            Self::UnknownNode => "unknown node",
            Self::Operator => "operator",
        }
    }

    /// The reason that a script has given. Any other text is an operator's.
    pub fn from_name(name: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|reason| reason.name() == name)
            .unwrap_or(Self::Operator)
    }

    fn index(self) -> usize {
        match self {
            Self::Unusable => 0,
            Self::Drain => 1,
            Self::AnotherPool => 2,
            Self::UnknownNode => 3,
            Self::Operator => 4,
        }
    }
}

/// Within this time an answer of the store that is older than a known one was overtaken by it on the
/// way. One that is older still comes from a store whose clock was set back.
const OVERTAKEN_US: u64 = 10_000_000;

impl VerdictTable {
    /// A place for each hash of a node's name: the one that an earlier call gave to it, or a new
    /// one. `None` where the table is full. Only the owner of the table may call this.
    pub fn assign_nodes(&self, names: &[u64]) -> Option<Vec<NodePlace>> {
        let mut used = self.nodes_used();
        let mut known: HashMap<u64, NodePlace> = (1..=used)
            .map(|index| (self.node_name(NodePlace(index)), NodePlace(index)))
            .collect();
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            let place = match known.get(name) {
                Some(place) => *place,
                None if used < self.capacity => {
                    used += 1;
                    let place = NodePlace(used);
                    self.node_word(place, NODE_NAME).store(*name, Relaxed);
                    known.insert(*name, place);
                    place
                }
                None => return None,
            };
            places.push(place);
        }
        self.header(NODES_USED)
            .store(u64::try_from(used).unwrap_or(u64::MAX), Release);
        Some(places)
    }

    fn nodes_used(&self) -> usize {
        usize::try_from(self.header(NODES_USED).load(Acquire))
            .unwrap_or(self.capacity)
            .min(self.capacity)
    }

    fn node_name(&self, place: NodePlace) -> u64 {
        self.node_word(place, NODE_NAME).load(Relaxed)
    }

    /// Stores what the store says of a node, unless another process has read something later.
    pub fn note_users(&self, place: NodePlace, counts: &UserCounts) {
        let sequence = self.node_word(place, NODE_SEQUENCE);
        let ticket = self.begin(sequence);
        let ahead = self.node_word(place, NODE_AS_OF).load(Relaxed);
        let ahead = ahead.saturating_sub(counts.as_of_us);
        // An earlier answer would make the counts of moves go back for a moment.
        if ahead == 0 || ahead > OVERTAKEN_US {
            let put = |index, value| self.node_word(place, index).store(value, Relaxed);
            put(NODE_AS_OF, counts.as_of_us);
            put(NODE_USERS, counts.users);
            put(NODE_MOVED_IN, counts.moved_in);
            put(NODE_MOVED_OUT, counts.moved_out);
        }
        self.end(sequence, ticket);
    }

    /// The numbers of users and moves that Redis last gave for a node; `None` before its first answer.
    pub fn users(&self, place: NodePlace) -> Option<UserCounts> {
        let word = |index| self.node_word(place, index).load(Relaxed);
        let counts = self.consistent(self.node_word(place, NODE_SEQUENCE), || UserCounts {
            as_of_us: word(NODE_AS_OF),
            users: word(NODE_USERS),
            moved_in: word(NODE_MOVED_IN),
            moved_out: word(NODE_MOVED_OUT),
        });
        (counts.as_of_us > 0).then_some(counts)
    }

    /// Counts a user whom this machine has moved away from the node.
    pub fn count_move(&self, from: NodePlace, reason: MoveReason) {
        self.node_word(from, NODE_MOVES + reason.index())
            .fetch_add(1, Relaxed);
    }

    pub fn moves(&self, from: NodePlace, reason: MoveReason) -> u64 {
        self.node_word(from, NODE_MOVES + reason.index())
            .load(Relaxed)
    }

    fn node_word(&self, place: NodePlace, index: usize) -> &AtomicU64 {
        self.at(self.places.nodes + place.0 * NODE + index)
    }

    /// Copies what another table has of the nodes of this one.
    pub(super) fn inherit_nodes(&self, before: &Self) {
        let known: HashMap<u64, NodePlace> = (1..=before.nodes_used())
            .map(|index| (before.node_name(NodePlace(index)), NodePlace(index)))
            .collect();
        for index in 0..=self.nodes_used() {
            let place = NodePlace(index);
            let from = match index {
                0 => Some(NodePlace::UNKNOWN),
                _ => known.get(&self.node_name(place)).copied(),
            };
            let Some(from) = from else {
                continue;
            };
            if let Some(counts) = before.users(from) {
                self.note_users(place, &counts);
            }
            for reason in MoveReason::ALL {
                self.node_word(place, NODE_MOVES + reason.index())
                    .store(before.moves(from, reason), Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(as_of_us: u64, moved_in: u64) -> UserCounts {
        UserCounts {
            as_of_us,
            users: 7,
            moved_in,
            moved_out: 1,
        }
    }

    #[test]
    fn a_node_keeps_its_place() {
        let table = VerdictTable::new(3).unwrap();
        let first = table.assign_nodes(&[10, 20]).unwrap();
        table.count_move(first[1], MoveReason::Drain);
        let second = table.assign_nodes(&[30, 20]).unwrap();
        assert_eq!(second[1], first[1]);
        assert_ne!(second[0], first[0]);
        assert_eq!(table.moves(second[1], MoveReason::Drain), 1);
        assert_eq!(table.moves(second[0], MoveReason::Drain), 0);
        // 10, 20 and 30 are all that fit.
        assert_eq!(table.assign_nodes(&[40]), None);
        table.count_move(NodePlace::UNKNOWN, MoveReason::Operator);
        assert_eq!(table.moves(second[0], MoveReason::Operator), 0);
    }

    #[test]
    fn an_answer_that_was_overtaken_is_not_stored() {
        let table = VerdictTable::new(1).unwrap();
        let place = table.assign_nodes(&[10]).unwrap()[0];
        assert_eq!(table.users(place), None);
        table.note_users(place, &counts(90_000_000, 5));
        table.note_users(place, &counts(89_999_999, 4));
        assert_eq!(table.users(place), Some(counts(90_000_000, 5)));
        // A store with another clock.
        table.note_users(place, &counts(1_000, 0));
        assert_eq!(table.users(place), Some(counts(1_000, 0)));
    }

    #[test]
    fn a_table_that_follows_another_has_its_counts() {
        let before = VerdictTable::new(2).unwrap();
        let places = before.assign_nodes(&[10, 20]).unwrap();
        before.note_users(places[1], &counts(5, 5));
        before.count_move(places[1], MoveReason::Unusable);
        before.count_move(NodePlace::UNKNOWN, MoveReason::UnknownNode);
        let table = VerdictTable::new(4).unwrap();
        let places = table.assign_nodes(&[30, 20]).unwrap();
        table.inherit_nodes(&before);
        table.inherit_nodes(&before);
        assert_eq!(table.users(places[0]), None);
        assert_eq!(table.users(places[1]), Some(counts(5, 5)));
        assert_eq!(table.moves(places[1], MoveReason::Unusable), 1);
        assert_eq!(table.moves(NodePlace::UNKNOWN, MoveReason::UnknownNode), 1);
    }

    #[test]
    fn reasons_of_scripts_have_their_names() {
        for reason in MoveReason::ALL {
            assert_eq!(MoveReason::from_name(reason.name()), reason);
        }
        assert_eq!(MoveReason::from_name("new disks"), MoveReason::Operator);
    }
}
