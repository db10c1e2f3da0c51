//! Wakes the coroutine that waits for a check.
//!
//! The coroutine sleeps on a semaphore of nginx's Lua module. When its check completes, the engine
//! thread puts the number of the wait into a queue and sets an event, which nginx's event loop polls
//! like the channel to the master. The handler, on nginx's thread, takes the numbers and posts the
//! semaphores. So a wait costs nothing while it lasts, and needs no polling timer, no socket and no
//! path in a file system that the worker's user would need rights for.
//!
//! A wait ends with [`Waits::end`] or with its request, whose end nginx reports. If no script has the
//! check, the check belongs to the wait and is then cancelled. A killed light thread is only
//! recognisable by a semaphore that nobody waits for, so later waits of the same request search for
//! such semaphores. The Lua side owns the semaphores and keeps each until its wait has ended or is listed
//! in `released`, so that no freed semaphore is posted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::contained;
use super::symbols::{Opaque, Request, Semaphore, Symbols, WakeSymbols};
use crate::engine::process::check::{Check, CheckResult, Listening};
use crate::lua::check::{answer, begin, begin_described, described_at};
use crate::lua::raw::{Answer, Args, Item, Items, LuaValue, Refused, config_native, native};
use crate::sys::event::WakeEvent;
use crate::sys::fork_mark::pid;

/// The natives of waits, for an nginx with the symbols they need. The glue passes addresses as numbers,
/// which are below 2^53 and so exact in a float.
pub(super) const NATIVES: Items = &[(
    "nginx",
    Item::Table(&[
        ("is_worker", super::IS_WORKER),
        ("wait_begin", native!(wait_begin)),
        ("wait_check", config_native!(wait_check)),
        ("wait_check_at", native!(wait_check_at)),
        ("wait_take", native!(wait_take)),
        ("wait_end", native!(wait_end)),
        ("waits_released", native!(waits_released)),
    ]),
)];

/// `wait_begin(semaphore, request, handle)`: the number of a new wait for that check, or nil where no
/// wait is possible.
fn wait_begin(args: &Args) -> Answer {
    let begin = || {
        let (semaphore, request, check) = (args.number(1)?, args.number(2)?, args.check(3)?);
        let begun = with_waits(|wake, waits| {
            let number = waits.begin(wake, semaphore, request, None)?;
            waits.listen(number, check);
            Some(number)
        });
        Ok(Answer::Values(vec![begun.into()]))
    };
    begin().unwrap_or_else(Answer::Raised)
}

/// `wait_check(semaphore, request, table)`: starts a check that belongs to its wait. Returns the number
/// of the wait; nil where no wait is possible; or nil and what is wrong with the table.
fn wait_check(args: &Args) -> Answer {
    begin_own(args, |args| Ok(begin_described(args, 3)))
}

/// `wait_check_at(semaphore, request, host, port, haproxy_v2, tls)`: the same without a table.
fn wait_check_at(args: &Args) -> Answer {
    begin_own(args, |args| {
        Ok(described_at(args, 3)?.and_then(|described| begin(&described)))
    })
}

fn begin_own(
    args: &Args,
    start: impl FnOnce(&Args) -> Result<Result<Check, String>, Refused>,
) -> Answer {
    let begin = || {
        let (semaphore, request) = (args.number(1)?, args.number(2)?);
        let check = match start(args)? {
            Ok(check) => check,
            Err(reason) => return Ok(Answer::Values(vec![LuaValue::Nil, reason.into()])),
        };
        let begun = with_waits(|wake, waits| {
            let check = Arc::new(check);
            let number = waits.begin(wake, semaphore, request, Some(check.clone()))?;
            waits.listen(number, &check);
            Some(number)
        });
        Ok(Answer::Values(vec![begun.into()]))
    };
    begin().unwrap_or_else(Answer::Raised)
}

/// `wait_take(number)`: whether the check that belongs to the wait is done, and the reason if it failed.
/// Ends the wait if the check is done.
fn wait_take(args: &Args) -> Answer {
    let number = args.count(1);
    answer(with_waits(|_, waits| Some(waits.take(number))).unwrap_or_else(unknown))
}

/// `wait_end(number)`: ends the wait; its semaphore is not posted from now on.
fn wait_end(args: &Args) -> Answer {
    let number = args.count(1);
    drop(with_waits(|_, waits| waits.end(number)));
    Answer::Nothing
}

/// `waits_released()`: the numbers of waits that ended with their request since the last call, or nil.
fn waits_released(_: &Args) -> Answer {
    let released = with_waits(|_, waits| Some(std::mem::take(&mut waits.released)));
    match released {
        Some(released) if !released.is_empty() => Answer::Values(vec![LuaValue::List(
            released.into_iter().map(LuaValue::from).collect(),
        )]),
        _ => Answer::Nil,
    }
}

/// An address from the glue, which converts pointers with the FFI: a whole number from 0, and exact.
fn to_address(number: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // The cast saturates, so that no number is undefined behaviour.
    let address = number as usize;
    address
}

/// The waits of this process. Only nginx's thread uses them, so the lock never blocks.
static WAITS: Mutex<Option<Waits>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Waits>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on the waits of this process and nginx cycle, which are made on first use; `None` if that
/// fails.
fn with_waits<T>(work: impl FnOnce(&WakeSymbols, &mut Waits) -> Option<T>) -> Option<T> {
    let wake = wake_symbols()?;
    let mut guard = lock();
    let fits = guard
        .as_ref()
        .is_some_and(|waits| waits.pid == pid() && waits.cycle == wake.cycle());
    if !fits {
        let fresh = Waits::start(wake)?;
        // Never dropped: nginx may poll the event of the old waits until the process ends.
        std::mem::forget(guard.replace(fresh));
    }
    work(wake, guard.as_mut()?)
}

/// The number of the next wait. Unique in the process, also across several [`Waits`]: a late
/// notification for one wait must never be taken for another.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The result for a wait that does not exist: an error, since waiting for it would never end.
fn unknown() -> Option<CheckResult> {
    let reason = "internal: the process has no such wait any more";
    Some(Err(reason.to_owned()))
}

struct Waits {
    pid: u64,
    cycle: usize,
    notifier: Arc<WaitNotifier>,
    finished: Receiver<u64>,
    waiting: HashMap<u64, Wait>,
    /// The waits of each request whose end is reported to us.
    of_request: HashMap<Request, Vec<u64>>,
    released: Vec<u64>,
}

struct Wait {
    semaphore: Semaphore,
    request: Request,
    /// Removes the listener from the check when the wait ends; otherwise a check that is waited for many
    /// times would collect listeners.
    listening: Option<Listening>,
    /// The check that belongs to the wait.
    own: Option<Arc<Check>>,
}

/// The part of the waits that the engine thread uses.
struct WaitNotifier {
    numbers: Sender<u64>,
    event: WakeEvent,
    /// Whether the event is set or about to be set. Only the thread that changes this to true makes the
    /// system call, so that one call announces all numbers that are in the queue by then.
    notified: AtomicBool,
}

impl WaitNotifier {
    fn notify(&self, number: u64) {
        // The receiver lives as long as the process.
        let _ = self.numbers.send(number);
        if !self.notified.swap(true, Ordering::AcqRel) {
            self.event.set();
        }
    }

    /// Called before the numbers are taken: a number that is sent after this sets the event again.
    fn acknowledge(&self) {
        self.event.clear();
        // A swap, not a store: a thread that found `true` sent its number without setting the event.
        // Reading the value that its swap wrote makes that number visible to this thread.
        self.notified.swap(false, Ordering::AcqRel);
    }
}

impl Waits {
    fn start(wake: &WakeSymbols) -> Option<Self> {
        let event = WakeEvent::new().ok()?;
        // SAFETY: the glue only waits in phases in which nginx's event loop runs, on nginx's thread. The
        // event stays open: waits are never dropped once nginx polls their event.
        if !unsafe { wake.add_event(event.descriptor(), on_notified) } {
            return None;
        }
        let (numbers, finished) = channel();
        Some(Self {
            pid: pid(),
            cycle: wake.cycle(),
            notifier: Arc::new(WaitNotifier {
                numbers,
                event,
                notified: AtomicBool::new(false),
            }),
            finished,
            waiting: HashMap::new(),
            of_request: HashMap::new(),
            released: Vec::new(),
        })
    }

    fn begin(
        &mut self,
        wake: &WakeSymbols,
        semaphore: f64,
        request: f64,
        own: Option<Arc<Check>>,
    ) -> Option<u64> {
        let wait = Wait {
            semaphore: Semaphore::at(to_address(semaphore))?,
            request: Request::at(to_address(request))?,
            own,
            listening: None,
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.cancel_abandoned(wake, wait.request, number);
        match self.of_request.entry(wait.request) {
            Entry::Occupied(mut waits) => waits.get_mut().push(number),
            Entry::Vacant(first_wait) => {
                // SAFETY: the glue passes the current request, on nginx's thread.
                if !unsafe { wake.ends.at_end(wait.request, on_request_end) } {
                    return None;
                }
                first_wait.insert(vec![number]);
            }
        }
        self.waiting.insert(number, wait);
        Some(number)
    }

    /// Makes the check post the wait's semaphore when it completes.
    fn listen(&mut self, number: u64, check: &Check) {
        let notifier = self.notifier.clone();
        let listening = check.when_done(move || notifier.notify(number));
        if let Some(wait) = self.waiting.get_mut(&number) {
            wait.listening = Some(listening);
        }
    }

    fn end(&mut self, number: u64) -> Option<Wait> {
        let wait = self.waiting.remove(&number)?;
        if let Some(numbers) = self.of_request.get_mut(&wait.request) {
            numbers.retain(|other| *other != number);
        }
        Some(wait)
    }

    /// The result of the check that belongs to a wait, which ends the wait; `None` while it is running.
    fn take(&mut self, number: u64) -> Option<CheckResult> {
        let Some(wait) = self.waiting.get(&number) else {
            return unknown();
        };
        let result = wait.own.as_ref()?.result()?;
        self.end(number);
        Some(result)
    }

    /// Cancels checks of the request whose coroutine was killed. A request may have a thousand waits, so
    /// each call examines four of them; `turn` selects which.
    fn cancel_abandoned(&self, wake: &WakeSymbols, request: Request, turn: u64) {
        const EXAMINED: usize = 4;
        let Some(numbers) = self.of_request.get(&request) else {
            return;
        };
        let turn = usize::try_from(turn).unwrap_or_default();
        let first = turn
            .wrapping_mul(EXAMINED)
            .checked_rem(numbers.len())
            .unwrap_or_default();
        for number in numbers
            .iter()
            .cycle()
            .skip(first)
            .take(EXAMINED.min(numbers.len()))
        {
            if let Some(wait) = self.waiting.get(number)
                // SAFETY: this is nginx's thread, and the Lua side keeps the semaphore of a wait that
                // has not ended.
                && !unsafe { wake.is_awaited(wait.semaphore) }
                && let Some(check) = &wait.own
            {
                // If nobody waits because the semaphore was posted, the check is done and this has no
                // effect.
                check.cancel();
            }
        }
    }

    /// Removes and returns the waits of a request that has ended; their coroutines never run again.
    fn forget(&mut self, request: Request) -> Vec<Wait> {
        let numbers = self.of_request.remove(&request).unwrap_or_default();
        let ended = numbers.iter().filter_map(|n| self.waiting.remove(n));
        let ended = ended.collect();
        self.released.extend(numbers);
        ended
    }
}

/// nginx calls this in its event loop while the event is readable.
unsafe extern "C" fn on_notified(_: *mut Opaque) {
    contained(|| {
        let Some(wake) = wake_symbols() else {
            return;
        };
        let guard = lock();
        let Some(waits) = guard.as_ref() else {
            return;
        };
        waits.notifier.acknowledge();
        while let Ok(number) = waits.finished.try_recv() {
            if let Some(wait) = waits.waiting.get(&number) {
                // SAFETY: this is nginx's thread, and the Lua side keeps the semaphore of a wait that
                // has not ended. Posting only queues an event: no Lua runs while the lock is held.
                unsafe { wake.post(wait.semaphore) };
            }
        }
    });
}

/// nginx calls this when a request ends.
unsafe extern "C" fn on_request_end(data: *mut Opaque) {
    contained(|| {
        let Some(request) = Request::of_pointer(data) else {
            return;
        };
        let ended = lock().as_mut().map(|waits| waits.forget(request));
        // Cancels the checks that belong to these waits, after the lock is released.
        drop(ended);
    });
}

fn wake_symbols() -> Option<&'static WakeSymbols> {
    Symbols::of_process()?.wake.as_ref()
}
