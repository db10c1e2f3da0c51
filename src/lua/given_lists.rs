//! The list of servers that a Lua state got last: server objects that it already has are not made again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::engine::active::BackendServer;
use crate::engine::target::Target;
use crate::engine::verdicts::OperatorState;

/// A list of servers that a Lua state has got.
#[derive(Default)]
pub(super) struct GivenList {
    /// The number of the list, from 1; 0 is no list.
    pub(super) number: u64,
    /// The epoch for which the list may be kept; 0: it must not be.
    pub(super) epoch: u64,
    pub(super) generation: u64,
    servers: Vec<GivenServer>,
}

/// Identifies a server. Weak: a strong reference would keep targets of a replaced configuration in
/// memory, including their passwords.
struct GivenServer {
    target: Weak<Target>,
    ip: String,
    weight: u16,
    state: OperatorState,
}

impl GivenServer {
    /// Whether an object of this server shows the same as one of `server`, which has the same target.
    fn shows(&self, server: &BackendServer) -> bool {
        self.ip == server.ip && self.weight == server.weight && self.state == server.state
    }
}

/// The number of the last list. Unique in the process; otherwise an index into one list would be taken
/// for an index into another.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

impl GivenList {
    pub(super) fn new(epoch: u64, generation: u64, servers: &[BackendServer]) -> Self {
        let given = |server: &BackendServer| GivenServer {
            target: Arc::downgrade(&server.target),
            ip: server.ip.clone(),
            weight: server.weight,
            state: server.state,
        };
        Self {
            number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1,
            epoch,
            generation,
            servers: servers.iter().map(given).collect(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    /// For each of these servers its index in this list, from 1. Targets are compared by address: a weak
    /// pointer keeps the allocation, so no other target can have the same address.
    pub(super) fn indices_of(&self, servers: &[BackendServer]) -> Vec<Option<u64>> {
        let known: HashMap<_, _> = (1..)
            .zip(&self.servers)
            .map(|(index, server)| (server.target.as_ptr(), (index, server)))
            .collect();
        let index_of = |server: &BackendServer| {
            let (index, given) = known.get(&Arc::as_ptr(&server.target))?;
            given.shows(server).then_some(*index)
        };
        servers.iter().map(index_of).collect()
    }
}
