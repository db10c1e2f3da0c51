//! How many connections the probes and checks of a process hold at once.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// Counts connections. Each probe may have one, whatever the count is: the scheduler bounds how many probes are in
/// flight. A further one, to another address of the same name, is only allowed while the count is below the limit.
#[derive(Clone)]
pub(in crate::engine) struct ConnectionLimit(Arc<Counts>);

struct Counts {
    limit: AtomicUsize,
    held: AtomicUsize,
}

/// A connection that counts until this is dropped.
pub(in crate::engine) struct CountedConnection(Arc<Counts>);

impl Default for ConnectionLimit {
    /// No limit.
    fn default() -> Self {
        Self(Arc::new(Counts {
            limit: AtomicUsize::new(usize::MAX),
            held: AtomicUsize::new(0),
        }))
    }
}

impl ConnectionLimit {
    pub(in crate::engine) fn set(&self, limit: usize) {
        self.0.limit.store(limit, Relaxed);
    }

    /// Counts the connection of a probe.
    pub(in crate::engine) fn hold(&self) -> CountedConnection {
        self.0.held.fetch_add(1, Relaxed);
        CountedConnection(self.0.clone())
    }

    /// Counts a further connection. None if there are as many as the limit, or more.
    pub(in crate::engine) fn hold_further(&self) -> Option<CountedConnection> {
        let is_below = self.0.held.load(Relaxed) < self.0.limit.load(Relaxed);
        is_below.then(|| self.hold())
    }

    #[cfg(test)]
    pub(in crate::engine) fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_connections_end_at_the_limit_and_those_of_probes_do_not() {
        let limit = ConnectionLimit::default();
        limit.set(2);
        let first = limit.hold();
        let second = limit.hold_further();
        assert!(second.is_some());
        assert!(limit.hold_further().is_none());
        let third = limit.hold();
        drop(second);
        assert!(limit.hold_further().is_none());
        drop((first, third));
        assert_eq!(limit.held(), 0);
        assert!(limit.hold_further().is_some());
    }
}
