//! A check on demand: one probe of a target, made on the engine thread for a caller. A route waits
//! for the store with the same ticket.
//!
//! After a fork the parent goes on with its checks. In the child each of them returns an error: the thread that
//! makes them does not exist there. A route returns the answer without the store instead.

use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;

use super::routed::{RouteResult, RoutedServer, RoutedUser, UNAVAILABLE};
use crate::sys::event::WakeEvent;
use crate::sys::fork_mark::incarnation;

/// The result of a check. `Ok`: the probe succeeded. `Err`: one line that says why it failed or
/// could not be made.
pub type CheckResult = Result<(), String>;

/// The error of a check that was cancelled.
const CANCELLED: &str = "cancelled";

/// The caller's handle of a check. Dropping it cancels the check.
pub struct Check {
    ticket: Arc<Ticket>,
    /// The event that a forked child waits on. The child has no engine that would set the ticket's
    /// own event, and must not take the ticket's lock, which a thread of the parent may have held
    /// at the fork.
    in_child: ArcSwapOption<WakeEvent>,
    /// The user to route, if the check is a route; `None` if it is a probe.
    pub(super) route: Option<Box<RoutedUser>>,
    /// The answer to a route that no engine will answer any more. Kept, so that a caller that asks
    /// again gets the same one and it is counted once. Not a `OnceLock`: a child that is forked
    /// while a thread sets it would block for ever.
    without_engine: OnceBox<Result<RoutedServer, String>>,
    /// The result of a call of the store. Its type is known to `store_call.rs` only.
    pub(super) payload: Option<Arc<dyn Any + Send + Sync>>,
}

/// The connection that makes one or several equal checks.
pub(super) trait SharedConnection: Send + Sync {
    /// A ticket that waited for the result was cancelled.
    fn leave(&self);
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
    connection: Option<Weak<dyn SharedConnection>>,
    event: Option<WakeEvent>,
    /// The callbacks to call when the check is done, each with a number by which it can be removed.
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
            without_engine: OnceBox::new(),
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
        // The result is read first, the route after it: the engine thread stores the route before
        // the result. In the other order it could store both between the two reads, and the route
        // would be missed.
        let result = self.result()?;
        let routed = match (self.routed(), result) {
            (Some(routed), _) => routed,
            (None, Err(reason)) if reason == CANCELLED => Err(reason),
            (None, _) => return Some(self.route_without_engine(user)),
        };
        Some(routed.and_then(|routed| user.on_node(routed)))
    }

    /// The answer without the store: the engine that was asked has ended, or this is a forked child.
    fn route_without_engine(&self, user: &RoutedUser) -> Result<RoutedServer, String> {
        let without = || {
            let found = user.without_store();
            Box::new(found.unwrap_or_else(|| Err(UNAVAILABLE.to_owned())))
        };
        self.without_engine.get_or_init(without).clone()
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
            let event = WakeEvent::new()?;
            if state.result.is_some() {
                event.set();
            }
            state.event = Some(event);
        }
        Ok(state.event.as_ref().map_or(-1, WakeEvent::descriptor))
    }

    fn descriptor_in_child(&self) -> std::io::Result<i32> {
        loop {
            let known = self.in_child.load();
            if let Some(event) = known.as_ref().filter(|event| event.is_of_this_process()) {
                return Ok(event.descriptor());
            }
            let event = Arc::new(WakeEvent::new()?);
            event.set();
            // Fails if another thread has stored its event first; the loop then finds that one.
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
        let connection = self.end(Err(CANCELLED.to_owned()), None);
        if let Some(connection) = connection.and_then(|connection| connection.upgrade()) {
            connection.leave();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn finish(&self, result: CheckResult) {
        self.end(result, None);
    }

    /// Sets the result of a route. False if it has a result already, or was cancelled.
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

    /// Lets the ticket wait for the result of a connection. False where it has a result already.
    pub(super) fn wait_for(&self, connection: Weak<dyn SharedConnection>) -> bool {
        let mut state = self.lock();
        let waits = state.result.is_none();
        if waits {
            state.connection = Some(connection);
        }
        waits
    }

    /// Sets the result unless there is one, and notifies everybody who waits. Returns the
    /// connection that the caller was waiting for, if this was the first result.
    pub(super) fn end(
        &self,
        result: CheckResult,
        tls: Option<Arc<String>>,
    ) -> Option<Weak<dyn SharedConnection>> {
        let mut state = self.lock();
        if state.result.is_some() {
            return None;
        }
        state.result = Some(result);
        state.tls = tls;
        if let Some(event) = &state.event {
            event.set();
        }
        self.ended.notify_all();
        let connection = state.connection.take();
        let listeners = std::mem::take(&mut state.listeners);
        drop(state);
        for (_, listener) in listeners {
            listener();
        }
        connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::{ActiveConfig, StartState};
    use crate::engine::config::Config;
    use crate::engine::routing::Filter;
    use crate::engine::verdicts::{CHOSEN_BY_HASH, HOWS};

    /// A route that waits for a store.
    fn waiting_route() -> (Check, Arc<Ticket>) {
        let text = "backend_server_monitoring: {log: none, cluster: {redis: 'redis://127.0.0.1:1'}, \
             backend_servers: [{protocol: imap, host: 127.0.0.1, port: 143, node: a}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap();
        let (mut check, ticket) = Check::new();
        check.route = Some(Box::new(RoutedUser {
            active: Arc::new(active),
            key: b"alice".to_vec(),
            filter: Filter::default(),
        }));
        (check, ticket)
    }

    #[test]
    fn a_route_whose_engine_has_ended_is_answered_without_the_store_and_counted_once() {
        let (check, ticket) = waiting_route();
        assert!(check.route_result().is_none());
        ticket.finish(Err("internal: why".to_owned()));
        for _ in 0..3 {
            let (server, routed, _) = check.route_result().unwrap().unwrap();
            assert_eq!((server.target.port, routed.how), (143, "fallback"));
        }
        let table = &check.route.as_ref().unwrap().active.table;
        let fallback = HOWS.iter().position(|how| *how == "fallback").unwrap();
        assert_eq!(table.selections(CHOSEN_BY_HASH + fallback), 1);
    }

    #[test]
    fn a_route_that_was_cancelled_says_so() {
        let (check, _ticket) = waiting_route();
        check.cancel();
        assert_eq!(check.route_result().unwrap().unwrap_err(), CANCELLED);
    }

    #[test]
    fn a_call_of_the_store_whose_engine_has_ended_has_a_documented_reason() {
        use crate::engine::process::store_call::StoreResult;

        let (mut check, ticket) = Check::new();
        check.payload = Some(Arc::new(std::sync::OnceLock::<StoreResult>::new()));
        assert!(check.store_result().is_none());
        ticket.finish(Err("internal: why".to_owned()));
        assert_eq!(check.store_result().unwrap().unwrap_err(), UNAVAILABLE);
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
}
