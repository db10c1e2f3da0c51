//! Wakes tasks of the engine thread from other threads.
//!
//! To be woken from another thread, tokio's runtime writes to a descriptor of its own and cannot
//! check first that the number still means that descriptor: if the host has closed it and opened a
//! file of its own with that number, the write would corrupt the file. So a task that other
//! threads wake gets a waker from here. On the engine thread it calls the runtime's waker; on
//! another thread it puts the task into a queue and sets a [`WakeEvent`], which checks that its
//! descriptor is still ours. The engine thread waits for the event and wakes the tasks itself.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use super::event::WakeEvent;
use super::own_descriptor::{OwnDescriptor, host_closes};
use super::readiness;

/// The number of the second descriptor by which an engine notices that the host closes descriptors; if it is taken, the
/// next free one.
///
/// A host closes descriptors in a loop, from 3 upwards, and the system may suspend it within the loop. If an engine starts
/// just then, some of its descriptors get numbers that the loop has passed, and stay open. Others get higher numbers and
/// are closed when the loop goes on. The event's descriptor has a low number, so it alone would not show that. Such
/// loops end at 256 or later, and few engines have a descriptor above that. Only the engines of a host that has closed
/// descriptors before have this second descriptor.
const HIGH: RawFd = 255;

thread_local! {
    /// The relay of the engine that runs on this thread, if one does.
    static OF_THREAD: RefCell<Option<Arc<Relay>>> = const { RefCell::new(None) };
}

/// Passes wake-ups from other threads to an engine thread.
pub struct Relay {
    event: Arc<WakeEvent>,
    /// A copy of the event's descriptor with a high number, see [`HIGH`].
    high: Option<OwnDescriptor>,
    woken: Mutex<Vec<Arc<TaskWaker>>>,
    when_lost: Box<dyn Fn() + Send + Sync>,
}

impl Relay {
    /// `when_lost` is called on the engine thread after the host has closed its descriptors.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(when_lost: impl Fn() + Send + Sync + 'static) -> io::Result<Arc<Self>> {
        let event = Arc::new(WakeEvent::new()?);
        // Without it the event's descriptor alone is checked: the process may have no descriptor left, or not be allowed
        // such numbers.
        let high = host_closes().then(|| event.own_descriptor().copy_at(HIGH).ok());
        Ok(Arc::new(Self {
            event,
            high: high.flatten(),
            woken: Mutex::default(),
            when_lost: Box::new(when_lost),
        }))
    }

    /// Whether the event's descriptor, and its copy with a high number, are still ours. If one of them is not, the host
    /// has closed descriptors that it does not know, and any other descriptor of the engine may be closed as well.
    pub fn is_ours(&self) -> bool {
        self.event.is_ours() && self.high.as_ref().is_none_or(OwnDescriptor::is_ours)
    }

    /// Makes this the relay of the calling thread.
    pub fn adopt_thread(self: &Arc<Self>) {
        OF_THREAD.with(|relay| relay.replace(Some(self.clone())));
    }

    /// Removes the relay from the calling thread, which must then do nothing more for the engine,
    /// and calls `when_lost`.
    pub fn give_up(&self) {
        OF_THREAD.with(|relay| drop(relay.take()));
        (self.when_lost)();
    }

    /// Wakes the queued tasks, without end. Must run on the engine thread, in its runtime.
    ///
    /// # Errors
    /// The runtime cannot wait for the event.
    pub async fn run(self: Arc<Self>) -> io::Result<()> {
        let event = readiness::of_event(self.event.clone())?;
        loop {
            event.readable().await?.clear_ready();
            // Cleared before the queue is taken: a task that is queued later sets the event again.
            self.event.clear();
            let woken = std::mem::take(&mut *self.lock());
            for task in woken {
                task.task.wake();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<TaskWaker>>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, task: Arc<TaskWaker>) {
        let is_first = {
            let mut woken = self.lock();
            woken.push(task);
            woken.len() == 1
        };
        // One event is enough for all tasks that are queued before the queue is taken.
        if is_first {
            self.event.set();
        }
    }

    fn is_of_this_thread(&self) -> bool {
        // A thread that is ending has already destroyed its thread-local values.
        OF_THREAD
            .try_with(|relay| {
                let relay = relay.try_borrow().ok()?;
                Some(std::ptr::eq(relay.as_deref()?, self))
            })
            .ok()
            .flatten()
            .unwrap_or(false)
    }
}

/// The waker of one task.
struct TaskWaker {
    task: AtomicWaker,
    relay: Arc<Relay>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if self.relay.is_of_this_thread() {
            self.task.wake();
        } else {
            let relay = self.relay.clone();
            relay.post(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.relay.is_of_this_thread() {
            self.task.wake();
        } else {
            self.relay.post(self.clone());
        }
    }
}

/// Checks that the descriptors of the calling thread's engine are still ours. The engine thread
/// calls this before it uses or closes a descriptor that makes no such check itself. Does nothing
/// on other threads.
///
/// Does not return if the host has closed the descriptors: each of their numbers may now mean a
/// file of the host's, which this thread would write to, or close when its values are dropped. So
/// the thread sleeps for ever and drops nothing. `when_lost` of [`Relay::new`] is called before.
pub fn halt_if_lost() {
    let lost = OF_THREAD.with(|relay| {
        let relay = relay.borrow();
        relay.as_ref().filter(|relay| !relay.is_ours()).cloned()
    });
    if let Some(relay) = lost {
        relay.give_up();
        loop {
            std::thread::park();
        }
    }
}

/// Installs a panic hook that calls [`halt_if_lost`]. The runtime panics when it waits on a number that
/// is no longer its descriptor, and unwinding would then close the host's file with that number;
/// the hook runs before anything is dropped.
pub fn halt_if_lost_in_panics() {
    // The hook affects this library only: each library written in Rust contains its own copy of
    // the standard library. Not `Once`: a child forked while it is being initialised would block
    // for ever.
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if !INSTALLED.swap(true, Ordering::AcqRel) {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            halt_if_lost();
            before(panic);
        }));
    }
}

/// Calls [`halt_if_lost`] when it is dropped. Declare it after the owner of a descriptor: values are
/// dropped in reverse order, so the check is made before that descriptor is closed.
pub struct HaltIfLost;

impl Drop for HaltIfLost {
    fn drop(&mut self) {
        halt_if_lost();
    }
}

/// Wraps a future that other threads may wake. Must be called on the engine thread. On a thread
/// without an engine, as in unit tests, the future keeps the runtime's own waker.
pub fn relayed<F: Future>(future: F) -> Relayed<F> {
    let relay = OF_THREAD.with(|relay| relay.borrow().clone());
    let waker = relay.map(|relay| {
        let task = Arc::new(TaskWaker {
            task: AtomicWaker::new(),
            relay,
        });
        (Waker::from(task.clone()), task)
    });
    Relayed {
        waker,
        future: Box::pin(future),
    }
}

/// See [`relayed`].
pub struct Relayed<F> {
    waker: Option<(Waker, Arc<TaskWaker>)>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Relayed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        match &this.waker {
            Some((waker, task)) => {
                task.task.register(cx.waker());
                this.future.as_mut().poll(&mut Context::from_waker(waker))
            }
            None => this.future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{Notify, mpsc::unbounded_channel};

    use super::*;

    /// Runs `work` on a runtime of its own with a relay.
    fn on_engine<F, T>(work: impl FnOnce(Arc<Relay>) -> F + Send + 'static) -> T
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let relay = Relay::new(|| ()).unwrap();
            relay.adopt_thread();
            let runs = relay.clone();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                tokio::spawn(runs.run());
                let relayed = relayed(work(relay));
                tokio::time::timeout(Duration::from_secs(60), relayed)
                    .await
                    .unwrap()
            })
        };
        std::thread::spawn(run).join().unwrap()
    }

    #[test]
    fn other_threads_wake_a_task_and_none_is_lost() {
        let sum = on_engine(|_| async {
            let (sender, mut numbers) = unbounded_channel();
            for from in 0..4_u64 {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for number in 0..1000 {
                        sender.send(from * 1000 + number).unwrap();
                        if number % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            drop(sender);
            let mut sum = 0;
            while let Some(number) = numbers.recv().await {
                sum += number;
            }
            sum
        });
        assert_eq!(sum, (0..4000).sum::<u64>());
    }

    #[test]
    fn a_task_of_the_same_thread_needs_no_descriptor() {
        on_engine(|_| async {
            let notify = Arc::new(Notify::new());
            let told = notify.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                told.notify_one();
            });
            notify.notified().await;
        });
    }
}
