//! The checks on demand that the engine thread makes. Equal checks in flight share a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use super::check::{SharedConnection, Ticket};
use crate::engine::probe::panics;
use crate::engine::probe::{Depth, Prober};
use crate::engine::target::{Host, Target};
use crate::sys::relay::relayed;

/// A request to the engine thread.
pub(super) struct CheckRequest {
    pub target: Arc<Target>,
    /// Whether the result of an equal check in flight may be used.
    pub coalesce: bool,
    pub ticket: Arc<Ticket>,
}

/// The checks in flight in one engine.
pub(super) struct Checks {
    prober: Arc<Prober>,
    permits: Arc<Semaphore>,
    shared: Arc<Mutex<Shared>>,
}

/// The connections that further checks may join, by host and port.
type Shared = HashMap<(Host, u16), Vec<Arc<Joint>>>;

/// One connection, and the tickets that wait for its result.
struct Joint {
    target: Arc<Target>,
    waiting: Mutex<WaitingTickets>,
    abandoned: Notify,
}

#[derive(Default)]
struct WaitingTickets {
    tickets: Vec<Arc<Ticket>>,
    interested: usize,
    /// Whether no further ticket may join. This is so once the check is done, and once every caller has given
    /// up waiting, since the connection is then being aborted.
    closed: bool,
}

impl Checks {
    pub(super) fn new(prober: Arc<Prober>, at_once: usize) -> Self {
        Self {
            prober,
            permits: Arc::new(Semaphore::new(at_once)),
            shared: Arc::default(),
        }
    }

    /// Whether no check is in flight or waits for its turn.
    pub(super) fn is_idle(&self) -> bool {
        // Each task keeps a clone until it has delivered its result.
        Arc::strong_count(&self.shared) == 1
    }

    /// Starts the check, or joins an equal one.
    pub(super) fn start(&self, request: CheckRequest) {
        let CheckRequest {
            target,
            coalesce,
            ticket,
        } = request;
        let mut shared = lock(&self.shared);
        let place = coalesce.then(|| (target.host.clone(), target.port));
        let mut equal = place.iter().filter_map(|place| shared.get(place)).flatten();
        if equal.any(|joint| joint.target == target && joint.join(&ticket)) {
            return;
        }
        let joint = Arc::new(Joint {
            target,
            waiting: Mutex::default(),
            abandoned: Notify::new(),
        });
        if !joint.join(&ticket) {
            return;
        }
        if let Some(place) = &place {
            shared.entry(place.clone()).or_default().push(joint.clone());
        }
        drop(shared);
        self.run(place, joint);
    }

    fn run(&self, place: Option<(Host, u16)>, joint: Arc<Joint>) {
        let (prober, permits, shared) = (
            self.prober.clone(),
            self.permits.clone(),
            self.shared.clone(),
        );
        tokio::spawn(relayed(async move {
            let probing = async {
                let _permit = permits.acquire_owned().await.ok()?;
                let depth = if joint.target.deep_check {
                    Depth::Deep
                } else {
                    Depth::Connect
                };
                let probe = Box::pin(prober.run(&joint.target, depth, None));
                Some(panics::contained(probe).await)
            };
            let outcome = tokio::select! {
                outcome = probing => outcome,
                () = joint.abandoned.notified() => None,
            };
            if let Some(place) = &place {
                let mut shared = lock(&shared);
                if let Some(joints) = shared.get_mut(place) {
                    joints.retain(|other| !Arc::ptr_eq(other, &joint));
                    if joints.is_empty() {
                        shared.remove(place);
                    }
                }
            }
            let (result, tls) = match outcome {
                Some(outcome) => (
                    outcome.result.map_err(|e| e.to_string()),
                    outcome.tls.and_then(|tls| tls.details),
                ),
                None => (Err("cancelled".to_owned()), None),
            };
            for ticket in joint.close() {
                ticket.end(result.clone(), tls.clone());
            }
        }));
    }
}

/// Fails the tickets of a connection that was dropped before it was done, as when the engine ends:
/// their callers would wait for ever.
impl Drop for Joint {
    fn drop(&mut self) {
        for ticket in self.close() {
            ticket.finish(Err("internal: the engine has ended".to_owned()));
        }
    }
}

impl Joint {
    /// Adds `ticket` to those that get the result. False where the connection is closed to further
    /// tickets, or the ticket is cancelled already.
    fn join(self: &Arc<Self>, ticket: &Arc<Ticket>) -> bool {
        let mut waiting = lock(&self.waiting);
        let joint = Arc::downgrade(self);
        if waiting.closed || !ticket.wait_for(joint) {
            return false;
        }
        waiting.interested += 1;
        waiting.tickets.push(ticket.clone());
        true
    }

    /// Closes the connection to further tickets and returns those that wait.
    fn close(&self) -> Vec<Arc<Ticket>> {
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        std::mem::take(&mut waiting.tickets)
    }
}

impl SharedConnection for Joint {
    /// The last ticket that leaves aborts the connection.
    fn leave(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.interested -= 1;
        if waiting.interested == 0 && !waiting.closed {
            waiting.closed = true;
            self.abandoned.notify_one();
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{CheckDefaults, Timeouts, Value, target_from_value};
    use crate::engine::process::check::Check;

    fn joint() -> Arc<Joint> {
        let entries = [
            ("host", Value::Str("127.0.0.1".into())),
            ("port", Value::Int(143)),
        ];
        let described = Value::Map(entries.map(|(key, value)| (key.to_owned(), value)).into());
        let defaults = CheckDefaults {
            timeouts: Timeouts::default(),
            helo_name: None,
            configured: &|_, _| None,
        };
        Arc::new(Joint {
            target: Arc::new(target_from_value(&described, &defaults, &[]).unwrap()),
            waiting: Mutex::default(),
            abandoned: Notify::new(),
        })
    }

    #[test]
    fn a_ticket_that_joins_while_the_last_one_leaves_is_not_cancelled() {
        let (first, first_ticket) = Check::new();
        let (second, second_ticket) = Check::new();
        let joint = joint();
        assert!(joint.join(&first_ticket));
        first.cancel();
        assert!(!joint.join(&second_ticket));
        assert_eq!(second.result(), None);
    }

    #[test]
    fn a_connection_lasts_until_the_last_ticket_has_left() {
        let (first, first_ticket) = Check::new();
        let (second, second_ticket) = Check::new();
        let joint = joint();
        assert!(joint.join(&first_ticket) && joint.join(&second_ticket));
        first.cancel();
        first.cancel();
        drop(first);
        assert!(!lock(&joint.waiting).closed);
        drop(second);
        assert!(lock(&joint.waiting).closed);
    }

    #[test]
    fn a_connection_that_is_done_is_not_aborted() {
        let (check, ticket) = Check::new();
        let joint = joint();
        assert!(joint.join(&ticket));
        for waiting in joint.close() {
            waiting.finish(Ok(()));
        }
        check.cancel();
        assert_eq!(check.result(), Some(Ok(())));
        assert_eq!(
            lock(&joint.waiting).interested,
            1,
            "a ticket left a connection that is done"
        );
    }

    #[test]
    fn a_cancelled_check_joins_no_connection() {
        let (check, ticket) = Check::new();
        check.cancel();
        assert!(!joint().join(&ticket));
        assert_eq!(check.result(), Some(Err("cancelled".to_owned())));
    }
}
