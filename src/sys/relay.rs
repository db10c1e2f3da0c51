//! Wakes tasks of the engine's thread from other threads.
//!
//! The runtime would write to a descriptor of its own for that, by a number that nobody can look
//! at first: where the host has closed it and has a file of its own there, the file would get
//! what was written. So a task that other threads wake gets a waker of ours: on the engine's
//! thread it is the runtime's, on another thread it puts the task into a queue and sets an
//! [`EventFd`], which knows whether its descriptor is still ours. The engine's thread waits for the
//! event and wakes the tasks itself.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use super::event::EventFd;
use super::readiness;

thread_local! {
    /// The relay of the engine that runs on this thread.
    static OF_THREAD: RefCell<Option<Arc<Relay>>> = const { RefCell::new(None) };
}

/// What an engine's thread is woken by.
pub struct Relay {
    event: Arc<EventFd>,
    woken: Mutex<Vec<Arc<TaskWaker>>>,
    when_lost: Box<dyn Fn() + Send + Sync>,
}

impl Relay {
    /// `when_lost` is called on the engine's thread where the host has closed its descriptors.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn new(when_lost: impl Fn() + Send + Sync + 'static) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            event: Arc::new(EventFd::new()?),
            woken: Mutex::default(),
            when_lost: Box::new(when_lost),
        }))
    }

    /// Whether the descriptor is still ours. A host that closes descriptors that it does not
    /// know closes this one with the others.
    pub fn is_ours(&self) -> bool {
        self.event.is_ours()
    }

    /// Makes this the relay of the calling thread.
    pub fn adopt_thread(self: &Arc<Self>) {
        OF_THREAD.with(|relay| relay.replace(Some(self.clone())));
    }

    /// The calling thread does nothing for the engine any more.
    pub fn give_up(&self) {
        OF_THREAD.with(|relay| drop(relay.take()));
        (self.when_lost)();
    }

    /// Wakes tasks for as long as it runs. To be run on the engine's thread, in its runtime.
    ///
    /// # Errors
    /// Where the event cannot be waited for.
    pub async fn run(self: Arc<Self>) -> io::Result<()> {
        let event = readiness::of_event(self.event.clone())?;
        loop {
            event.readable().await?.clear_ready();
            // Cleared first: whoever comes after that sets it again.
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
        // Who was first sets the event for all that come before the queue is taken.
        if is_first {
            self.event.set();
        }
    }

    fn is_of_this_thread(&self) -> bool {
        // A thread that is ending has none.
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

/// Makes sure that the descriptors of the calling thread's engine are still its own, before it
/// uses one. Does nothing on other threads.
///
/// Does not return where the host has closed them: each of their numbers may be a file of the
/// host's now, and all that this thread has would write to some and close others. So the thread
/// and what it has stay where they are.
pub fn hold_on() {
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

/// Has a panic of an engine's thread do [`hold_on`] before anything is dropped: the runtime panics
/// where it waits by a number that is not its descriptor any more, and would close what is there.
pub fn hold_on_in_panics() {
    // The hook is this library's own: each that is written in Rust has its own runtime. No
    // `Once`: a child forked while it is being initialised would block for ever.
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if !INSTALLED.swap(true, Ordering::AcqRel) {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            hold_on();
            before(panic);
        }));
    }
}

/// Does [`hold_on`] when it is dropped: before a descriptor is closed that is dropped after it.
pub struct HoldsOn;

impl Drop for HoldsOn {
    fn drop(&mut self) {
        hold_on();
    }
}

/// A future that other threads may wake, made on the engine's thread. Where no engine runs on the
/// calling thread (tests of parts of it) it is woken as any other.
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
