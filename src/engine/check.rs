//! A check on demand: the monitor's probe, for whoever asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::panics;
use super::probe::{Depth, Prober};
use super::target::Target;
use crate::sys::event::Event;
use crate::sys::fork_mark::pid;

/// Why a check could not be made, or failed: one line. `Ok` is a good check.
pub type CheckResult = Result<(), String>;

/// A check that was asked for. Dropping it calls it off.
pub struct Check(Arc<Ticket>);

/// Calls a check off, whoever holds it.
pub struct Canceller(Arc<Ticket>);

/// What the asker and the engine share.
pub(super) struct Ticket {
    state: Mutex<State>,
    ended: Condvar,
    /// Rung when the asker has lost interest.
    cancelled: Notify,
    /// The process whose engine makes the check.
    owner: AtomicU64,
}

#[derive(Default)]
struct State {
    result: Option<CheckResult>,
    event: Option<Event>,
    /// What is called once there is a result.
    listeners: Vec<Listener>,
}

type Listener = Box<dyn FnOnce() + Send>;

impl Check {
    pub(super) fn new() -> (Self, Arc<Ticket>) {
        let ticket = Arc::new(Ticket {
            state: Mutex::default(),
            ended: Condvar::new(),
            cancelled: Notify::new(),
            owner: AtomicU64::new(pid()),
        });
        (Self(ticket.clone()), ticket)
    }

    /// What came of it, once it is done. Never blocks.
    pub fn result(&self) -> Option<CheckResult> {
        if let Some(stranded) = self.stranded() {
            return Some(stranded);
        }
        self.0.lock().result.clone()
    }

    /// Waits for the result; `None` when the time is over. Blocks the calling thread.
    pub fn wait(&self, at_most: Option<Duration>) -> Option<CheckResult> {
        if let Some(stranded) = self.stranded() {
            return Some(stranded);
        }
        let end = at_most.and_then(|time| Instant::now().checked_add(time));
        let mut state = self.0.lock();
        loop {
            if let Some(result) = &state.result {
                return Some(result.clone());
            }
            state = match end {
                None => self
                    .0
                    .ended
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.0
                        .ended
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// A descriptor that is readable once the check is done, for poll loops. It belongs to
    /// the check.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn descriptor(&self) -> std::io::Result<i32> {
        let mut state = self.0.lock();
        if state.event.is_none() {
            let event = Event::new()?;
            if state.result.is_some() {
                event.set();
            }
            state.event = Some(event);
        }
        Ok(state.event.as_ref().map_or(-1, Event::descriptor))
    }

    /// Calls `listener` once the check is done: here and now where it is, else on the thread
    /// that ends it. It must neither block nor panic.
    pub fn when_done(&self, listener: impl FnOnce() + Send + 'static) {
        if !self.is_stranded() {
            let mut state = self.0.lock();
            if state.result.is_none() {
                state.listeners.push(Box::new(listener));
                return;
            }
        }
        listener();
    }

    /// Calls the check off; its result is then that it was cancelled.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    pub fn canceller(&self) -> Canceller {
        Canceller(self.0.clone())
    }

    /// A child of the process that asked has no engine that would ever answer; its lock may
    /// be held by a thread that the child does not have.
    fn stranded(&self) -> Option<CheckResult> {
        self.is_stranded()
            .then(|| Err("internal: the check was started before this process was forked".into()))
    }

    fn is_stranded(&self) -> bool {
        self.0.is_stranded()
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if !self.is_stranded() {
            self.0.cancelled.notify_one();
        }
    }
}

impl Canceller {
    /// As [`Check::cancel`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Ticket {
    /// In a child, ringing would write to the descriptor that woke the parent's engine, and
    /// that may be a file of the child's own by now.
    fn is_stranded(&self) -> bool {
        self.owner.load(Ordering::Relaxed) != pid()
    }

    fn cancel(&self) {
        if self.is_stranded() {
            return;
        }
        self.finish(Err("cancelled".to_owned()));
        self.cancelled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result stands.
    pub(super) fn finish(&self, result: CheckResult) {
        let mut state = self.lock();
        if state.result.is_none() {
            state.result = Some(result);
            if let Some(event) = &state.event {
                event.set();
            }
            self.ended.notify_all();
        }
        let listeners = std::mem::take(&mut state.listeners);
        drop(state);
        for listener in listeners {
            listener();
        }
    }
}

/// What is asked of the engine.
pub(super) struct Request {
    pub target: Arc<Target>,
    /// Whether an equal check under way will do.
    pub coalesce: bool,
    pub ticket: Arc<Ticket>,
}

/// The checks under way in one engine.
pub(super) struct Checks {
    prober: Arc<Prober>,
    permits: Arc<Semaphore>,
    shared: Arc<Mutex<HashMap<String, Vec<Arc<Joint>>>>>,
}

/// One connection and everybody who waits for it.
struct Joint {
    target: Arc<Target>,
    waiting: Mutex<Vec<Arc<Ticket>>>,
    interested: AtomicUsize,
    abandoned: Notify,
}

impl Checks {
    pub(super) fn new(prober: Arc<Prober>, at_once: usize) -> Self {
        Self {
            prober,
            permits: Arc::new(Semaphore::new(at_once)),
            shared: Arc::default(),
        }
    }

    /// Whether none is under way or waits for its turn.
    pub(super) fn is_idle(&self) -> bool {
        // Each keeps a clone until it has told what came of it.
        Arc::strong_count(&self.shared) == 1
    }

    /// Starts the check, or joins an equal one.
    pub(super) fn start(&self, request: Request) {
        let Request {
            target,
            coalesce,
            ticket,
        } = request;
        let key = target.identity();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let joints = shared.entry(key.clone()).or_default();
        let equal = joints
            .iter()
            .find(|joint| coalesce && joint.is_wanted() && joint.target == target)
            .cloned();
        let joint = match equal {
            Some(joint) => joint,
            None => {
                let joint = Arc::new(Joint {
                    target,
                    waiting: Mutex::default(),
                    interested: AtomicUsize::new(0),
                    abandoned: Notify::new(),
                });
                if coalesce {
                    joints.push(joint.clone());
                }
                self.run(key.clone(), joint.clone());
                joint
            }
        };
        if joints.is_empty() {
            shared.remove(&key);
        }
        drop(shared);
        joint.add(ticket);
    }

    fn run(&self, key: String, joint: Arc<Joint>) {
        let (prober, permits, shared) = (
            self.prober.clone(),
            self.permits.clone(),
            self.shared.clone(),
        );
        tokio::spawn(async move {
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
            {
                // From here on nobody joins, so that nobody is forgotten.
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(joints) = shared.get_mut(&key) {
                    joints.retain(|other| !Arc::ptr_eq(other, &joint));
                    if joints.is_empty() {
                        shared.remove(&key);
                    }
                }
            }
            let result = match outcome {
                Some(outcome) => outcome.result.map_err(|e| e.to_string()),
                None => Err("cancelled".to_owned()),
            };
            for ticket in joint.take_waiting() {
                ticket.finish(result.clone());
            }
        });
    }
}

/// One that its engine has dropped in the middle leaves nobody waiting.
impl Drop for Joint {
    fn drop(&mut self) {
        for ticket in self.take_waiting() {
            ticket.finish(Err("internal: the engine has ended".to_owned()));
        }
    }
}

impl Joint {
    fn add(self: &Arc<Self>, ticket: Arc<Ticket>) {
        self.interested.fetch_add(1, Ordering::Relaxed);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ticket.clone());
        let joint = Arc::downgrade(self);
        tokio::spawn(async move {
            ticket.cancelled.notified().await;
            if let Some(joint) = joint.upgrade()
                && joint.interested.fetch_sub(1, Ordering::Relaxed) == 1
            {
                joint.abandoned.notify_one();
            }
        });
    }

    /// Whether anybody waits. One that nobody waited for is about to be given up; it changes
    /// only on the engine's thread, where this is asked.
    fn is_wanted(&self) -> bool {
        self.interested.load(Ordering::Relaxed) > 0
    }

    fn take_waiting(&self) -> Vec<Arc<Ticket>> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
