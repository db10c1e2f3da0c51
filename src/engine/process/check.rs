//! A check on demand: one probe of a target, made on the engine thread for a caller. A route waits
//! for the store with the same ticket.
//!
//! The parent of a fork goes on with its checks. In the child they are over: each returns an error, since the
//! thread that makes them exists in the parent alone.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, Semaphore};

use super::routed::{RouteResult, RoutedServer, RoutedUser, UNAVAILABLE};
use crate::engine::probe::panics;
use crate::engine::probe::{Depth, Prober};
use crate::engine::target::{Host, Target};
use crate::sys::event::EventFd;
use crate::sys::fork_mark::incarnation;
use crate::sys::relay::relayed;

/// The result of a check. `Ok`: the probe succeeded. `Err`: one line that says why it failed or
/// could not be made.
pub type CheckResult = Result<(), String>;

/// The caller's handle of a check. Dropping it cancels the check.
pub struct Check {
    ticket: Arc<Ticket>,
    /// The event that a forked child waits on. The child has no engine that would set the ticket's
    /// own event, and must not take the ticket's lock, which a thread of the parent may have held
    /// at the fork.
    in_child: ArcSwapOption<EventFd>,
    /// Whom the check routes; `None`: it probes.
    pub(super) route: Option<Box<RoutedUser>>,
    /// The result of another call of the store, which the file of those calls knows the type of.
    pub(super) payload: Option<Arc<dyn Any + Send + Sync>>,
}

/// The state of a check, shared by the caller and the engine thread.
pub(super) struct Ticket {
    state: Mutex<State>,
    ended: Condvar,
    /// The process whose engine makes the check: see [`incarnation`].
    owner: u64,
}

#[derive(Default)]
struct State {
    result: Option<CheckResult>,
    /// The result of a route, which uses a ticket as well.
    routed: Option<RouteResult>,
    /// What the handshake showed, as the line of a
    /// [`TlsDetails`](crate::engine::tls_details::TlsDetails).
    tls: Option<Arc<String>>,
    /// The connection that makes the check, from when the engine takes the request until the
    /// result.
    joint: Weak<Joint>,
    event: Option<EventFd>,
    /// The callbacks to call with the result, each with a number by which it is removed.
    listeners: Vec<(u64, Listener)>,
    next_listener: u64,
}

type Listener = Box<dyn FnOnce() + Send>;

/// The registration of a listener. Dropping it removes the listener from the check.
#[must_use]
pub struct Listening(Option<(Weak<Ticket>, u64)>);

impl Drop for Listening {
    fn drop(&mut self) {
        let Some((ticket, number)) = self.0.take() else {
            return;
        };
        if let Some(ticket) = ticket.upgrade().filter(|ticket| !ticket.is_stranded()) {
            let mut state = ticket.lock();
            let at = state
                .listeners
                .iter()
                .position(|(known, _)| *known == number);
            let forgotten = at.map(|at| state.listeners.swap_remove(at));
            drop(state);
            drop(forgotten);
        }
    }
}

impl Check {
    pub(super) fn new() -> (Self, Arc<Ticket>) {
        let ticket = Arc::new(Ticket {
            state: Mutex::default(),
            ended: Condvar::new(),
            owner: incarnation(),
        });
        let check = Self {
            ticket: ticket.clone(),
            in_child: ArcSwapOption::const_empty(),
            route: None,
            payload: None,
        };
        (check, ticket)
    }

    /// The result, once the check is done. Never blocks.
    pub fn result(&self) -> Option<CheckResult> {
        if let Some(stranded) = self.stranded() {
            return Some(stranded);
        }
        self.ticket.lock().result.clone()
    }

    /// The result of a route, once it is done.
    fn routed(&self) -> Option<RouteResult> {
        if self.is_stranded() {
            return None;
        }
        self.ticket.lock().routed.clone()
    }

    /// The server of a user, or why there is none. `None` while it is not known, and for a check
    /// that is no route.
    pub fn route_result(&self) -> Option<Result<RoutedServer, String>> {
        let user = self.route.as_ref()?;
        let routed = match (self.routed(), self.result()?) {
            (Some(routed), _) => routed,
            (None, Err(reason)) => Err(reason),
            (None, Ok(())) => Err(UNAVAILABLE.to_owned()),
        };
        Some(routed.and_then(|routed| user.on_node(routed)))
    }

    /// Cancels the route. Its result is the answer without the store, for a caller that waits no
    /// longer.
    pub fn give_up_route(&self) -> Option<Result<RoutedServer, String>> {
        self.route_result().or_else(|| {
            self.cancel();
            self.route.as_ref()?.without_store()
        })
    }

    /// What the check's TLS handshake showed, as the line of a
    /// [`TlsDetails`](crate::engine::tls_details::TlsDetails); None before the check is done, and
    /// where there was no handshake. Never blocks.
    pub fn tls(&self) -> Option<Arc<String>> {
        if self.is_stranded() {
            return None;
        }
        self.ticket.lock().tls.clone()
    }

    /// Waits for the result, at most `at_most` long; `None` when that time is over. Blocks the
    /// calling thread.
    pub fn wait(&self, at_most: Option<Duration>) -> Option<CheckResult> {
        if let Some(stranded) = self.stranded() {
            return Some(stranded);
        }
        let end = at_most.and_then(|time| Instant::now().checked_add(time));
        let mut state = self.ticket.lock();
        loop {
            if let Some(result) = &state.result {
                return Some(result.clone());
            }
            state = match end {
                None => self
                    .ticket
                    .ended
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.ticket
                        .ended
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// A descriptor that becomes readable when the check is done, for poll loops. The check owns
    /// and closes it. In a forked child the check counts as done, so the descriptor is readable at
    /// once.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn descriptor(&self) -> std::io::Result<i32> {
        if self.is_stranded() {
            return self.descriptor_in_child();
        }
        let mut state = self.ticket.lock();
        if state.event.is_none() {
            let event = EventFd::new()?;
            if state.result.is_some() {
                event.set();
            }
            state.event = Some(event);
        }
        Ok(state.event.as_ref().map_or(-1, EventFd::descriptor))
    }

    fn descriptor_in_child(&self) -> std::io::Result<i32> {
        loop {
            let known = self.in_child.load();
            if let Some(event) = known.as_ref().filter(|event| event.is_of_this_process()) {
                return Ok(event.descriptor());
            }
            let event = Arc::new(EventFd::new()?);
            event.set();
            // Fails where another thread was first; the loop then finds that thread's event.
            self.in_child.compare_and_swap(&known, Some(event));
        }
    }

    /// Calls `listener` when the check is done: at once on the calling thread if it is done
    /// already, else on the thread that finishes it, unless the returned registration is dropped
    /// before. The listener must neither block nor panic, since that thread may be the engine
    /// thread.
    pub fn when_done(&self, listener: impl FnOnce() + Send + 'static) -> Listening {
        if !self.is_stranded() {
            let mut state = self.ticket.lock();
            if state.result.is_none() {
                let number = state.next_listener;
                state.next_listener += 1;
                state.listeners.push((number, Box::new(listener)));
                return Listening(Some((Arc::downgrade(&self.ticket), number)));
            }
        }
        listener();
        Listening(None)
    }

    /// Cancels the check; its result is then the error `cancelled`.
    pub fn cancel(&self) {
        self.ticket.cancel();
    }

    /// The result in a forked child. The engine that made the check does not exist there, and the
    /// ticket's lock may be held by a thread that the child does not have.
    fn stranded(&self) -> Option<CheckResult> {
        self.is_stranded()
            .then(|| Err("internal: the check was started before this process was forked".into()))
    }

    fn is_stranded(&self) -> bool {
        self.ticket.is_stranded()
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.ticket.cancel();
    }
}

impl Ticket {
    /// Whether this is a forked child of the ticket's process. There nothing may be notified: the
    /// number of the descriptor that wakes the parent's engine may belong to another file of the
    /// child by now.
    fn is_stranded(&self) -> bool {
        self.owner != incarnation()
    }

    fn cancel(&self) {
        if self.is_stranded() {
            return;
        }
        if let Some(joint) = self.end(Err("cancelled".to_owned()), None).upgrade() {
            joint.leave();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn finish(&self, result: CheckResult) {
        self.end(result, None);
    }

    /// The same for a route. False where it has a result, or was cancelled.
    pub(super) fn finish_route(&self, routed: RouteResult) -> bool {
        let mut state = self.lock();
        let is_first = state.result.is_none();
        if is_first {
            state.routed = Some(routed);
        }
        drop(state);
        self.end(Ok(()), None);
        is_first
    }

    /// Sets the result unless there is one, and notifies everybody who waits. Returns the
    /// connection that the caller was waiting for, if this was the first result.
    fn end(&self, result: CheckResult, tls: Option<Arc<String>>) -> Weak<Joint> {
        let mut state = self.lock();
        if state.result.is_some() {
            return Weak::new();
        }
        state.result = Some(result);
        state.tls = tls;
        if let Some(event) = &state.event {
            event.set();
        }
        self.ended.notify_all();
        let joint = std::mem::take(&mut state.joint);
        let listeners = std::mem::take(&mut state.listeners);
        drop(state);
        for (_, listener) in listeners {
            listener();
        }
        joint
    }
}

/// A request to the engine thread.
pub(super) struct CheckRequest {
    pub target: Arc<Target>,
    /// Whether the result of an equal check that is under way may be used.
    pub coalesce: bool,
    pub ticket: Arc<Ticket>,
}

/// The checks under way in one engine.
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
    party: Mutex<Party>,
    abandoned: Notify,
}

#[derive(Default)]
struct Party {
    waiting: Vec<Arc<Ticket>>,
    interested: usize,
    /// Nobody may join any more: the last waiting ticket has left and the connection is being
    /// aborted, or it is done.
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

    /// Whether no check is under way or waits for its turn.
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
            party: Mutex::default(),
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
        let mut party = lock(&self.party);
        let mut state = ticket.lock();
        if party.closed || state.result.is_some() {
            return false;
        }
        state.joint = Arc::downgrade(self);
        party.interested += 1;
        party.waiting.push(ticket.clone());
        true
    }

    /// A ticket was cancelled. The last one aborts the connection.
    fn leave(&self) {
        let mut party = lock(&self.party);
        party.interested -= 1;
        if party.interested == 0 && !party.closed {
            party.closed = true;
            self.abandoned.notify_one();
        }
    }

    /// Closes the connection to further tickets and returns those that wait.
    fn close(&self) -> Vec<Arc<Ticket>> {
        let mut party = lock(&self.party);
        party.closed = true;
        std::mem::take(&mut party.waiting)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{CheckDefaults, Timeouts, Value, target_from_value};

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
            party: Mutex::default(),
            abandoned: Notify::new(),
        })
    }

    #[test]
    fn who_comes_as_the_last_one_leaves_is_not_cancelled_with_him() {
        let (first, first_ticket) = Check::new();
        let (second, second_ticket) = Check::new();
        let joint = joint();
        assert!(joint.join(&first_ticket));
        first.cancel();
        assert!(!joint.join(&second_ticket));
        assert_eq!(second.result(), None);
    }

    #[test]
    fn a_listener_that_is_not_wanted_any_more_is_forgotten() {
        let (check, ticket) = Check::new();
        let called = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let listen = || {
            let called = called.clone();
            check.when_done(move || {
                called.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
        };
        let kept = listen();
        for _ in 0..1000 {
            drop(listen());
        }
        assert_eq!(ticket.lock().listeners.len(), 1);
        ticket.finish(Ok(()));
        drop(kept);
        let _ = listen();
        assert_eq!(called.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[test]
    fn a_connection_lasts_until_the_last_one_left() {
        let (first, first_ticket) = Check::new();
        let (second, second_ticket) = Check::new();
        let joint = joint();
        assert!(joint.join(&first_ticket) && joint.join(&second_ticket));
        first.cancel();
        first.cancel();
        drop(first);
        assert!(!lock(&joint.party).closed);
        drop(second);
        assert!(lock(&joint.party).closed);
    }

    #[test]
    fn what_is_done_is_not_given_up() {
        let (check, ticket) = Check::new();
        let joint = joint();
        assert!(joint.join(&ticket));
        for waiting in joint.close() {
            waiting.finish(Ok(()));
        }
        check.cancel();
        assert_eq!(check.result(), Some(Ok(())));
        assert_eq!(
            lock(&joint.party).interested,
            1,
            "nobody leaves what is done"
        );
    }

    #[test]
    fn a_check_that_was_called_off_joins_nothing() {
        let (check, ticket) = Check::new();
        check.cancel();
        assert!(!joint().join(&ticket));
        assert_eq!(check.result(), Some(Err("cancelled".to_owned())));
    }
}
