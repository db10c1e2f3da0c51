//! The list of servers that a Lua state was given last: what it has of that need not be made again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::engine::active::BackendServer;
use crate::engine::target::Target;

/// The last list that a Lua state was given: what it has of that need not be made again.
#[derive(Default)]
pub(super) struct Lists(pub(super) RefCell<GivenList>);

/// A list that was given.
#[derive(Default)]
pub(super) struct GivenList {
    /// From 1; 0 is no list's.
    pub(super) number: u64,
    servers: Vec<GivenServer>,
}

/// What tells a server apart from others. Not the target itself, which would keep what a
/// configuration that was replaced has of it, a password too.
struct GivenServer {
    target: Weak<Target>,
    ip: String,
}

/// No two lists of a process ever have one number, or indices of one would be taken for those of
/// another.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

impl GivenList {
    pub(super) fn new(servers: &[BackendServer]) -> Self {
        let given = |server: &BackendServer| GivenServer {
            target: Arc::downgrade(&server.target),
            ip: server.ip.clone(),
        };
        Self {
            number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1,
            servers: servers.iter().map(given).collect(),
        }
    }

    /// For each of these servers the index, from 1, that it has in this list. While a weak
    /// pointer lives no other target has its address.
    pub(super) fn indices_of(&self, servers: &[BackendServer]) -> Vec<Option<u64>> {
        let known: HashMap<_, _> = (1..)
            .zip(&self.servers)
            .map(|(index, server)| (server.target.as_ptr(), (index, &server.ip)))
            .collect();
        let index_of = |server: &BackendServer| {
            let (index, ip) = known.get(&Arc::as_ptr(&server.target))?;
            (**ip == server.ip).then_some(*index)
        };
        servers.iter().map(index_of).collect()
    }
}
