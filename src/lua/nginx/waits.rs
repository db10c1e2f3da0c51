//! Wakes the coroutine that waits for a check.
//!
//! The coroutine sleeps on a semaphore of nginx's Lua module. When its check is done, the
//! engine's thread puts the wait's number into a queue and sets an eventfd, which nginx's event
//! loop watches like the channel to its master; the handler, on nginx's own thread, takes the
//! numbers and posts the semaphores. So a wait costs nothing while it lasts, whatever its
//! length: no timer that polls, no socket, no path in a file system that the worker's user
//! would need a right to.
//!
//! A wait ends with [`Waits::end`], or with its request, of which nginx tells: then a check
//! that belongs to its wait, since no script has it, is called off. A light thread that is killed leaves no trace but
//! a semaphore that nobody waits for: its request's later waits look for those. A semaphore belongs to the Lua side, which keeps
//! it until the wait has ended or been given up (`released`), so that none is posted that has
//! been freed.

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
use crate::sys::event::EventFd;
use crate::sys::fork_mark::pid;

/// The natives of waits, for an nginx that has what they need. The addresses are numbers below 2^53.
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

/// `wait_begin(semaphore, request, handle)`: a number, or nil where no wait is possible.
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

/// `wait_check(semaphore, request, table)`: starts a check that belongs to its wait; a number, or
/// nil where no wait is possible, or nil and what is wrong with the table.
fn wait_check(args: &Args) -> Answer {
    begin_own(args, |args| Ok(begin_described(args, 3)))
}

/// `wait_check_at(semaphore, request, host, port, haproxy_v2, tls)`: the same for these.
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

/// `wait_take(number)`: whether the check that belongs to the wait is done, and the reason of a
/// failure; where it is, the wait has ended.
fn wait_take(args: &Args) -> Answer {
    let number = args.count(1);
    answer(with_waits(|_, waits| Some(waits.take(number))).unwrap_or_else(unknown))
}

/// `wait_end(number)`: the semaphore is not posted any more.
fn wait_end(args: &Args) -> Answer {
    let number = args.count(1);
    drop(with_waits(|_, waits| waits.end(number)));
    Answer::Nothing
}

/// `waits_released()`: the numbers of waits whose request ended, or nil.
fn waits_released(_: &Args) -> Answer {
    let released = with_waits(|_, waits| Some(std::mem::take(&mut waits.released)));
    match released {
        Some(released) if !released.is_empty() => Answer::Values(vec![LuaValue::List(
            released.into_iter().map(LuaValue::from).collect(),
        )]),
        _ => Answer::Nil,
    }
}

/// The glue gives what the FFI says of a pointer: whole, positive, exact.
fn to_address(number: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // A cast saturates.
    let address = number as usize;
    address
}

/// The waits of this process. Only nginx's thread comes here: the lock is never waited for.
static WAITS: Mutex<Option<Waits>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Waits>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on the waits of this process, made where it has none; `None` where they cannot
/// be made.
fn with_waits<T>(work: impl FnOnce(&WakeSymbols, &mut Waits) -> Option<T>) -> Option<T> {
    let wake = wake_symbols()?;
    let mut guard = lock();
    let fits = guard
        .as_ref()
        .is_some_and(|waits| waits.pid == pid() && waits.cycle == wake.cycle());
    if !fits {
        let fresh = Waits::start(wake)?;
        // The descriptor of the ones before may be watched by nginx until the process ends.
        std::mem::forget(guard.replace(fresh));
    }
    work(wake, guard.as_mut()?)
}

/// The number of the next wait. No two waits of a process have one number, whichever [`Waits`]
/// they are of: what is late for one never means another.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Of a wait that is not there there is nothing to wait for: its result is an error.
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
    /// The waits of each request whose end is watched.
    of_request: HashMap<Request, Vec<u64>>,
    released: Vec<u64>,
}

struct Wait {
    semaphore: Semaphore,
    request: Request,
    /// What the check keeps for the wait: a check may be waited for many times before it is done.
    listening: Option<Listening>,
    /// The check that belongs to the wait.
    own: Option<Arc<Check>>,
}

/// What the engine's thread has of the waits.
struct WaitNotifier {
    numbers: Sender<u64>,
    event: EventFd,
    /// Whether the event is set, or about to be: one system call is enough for many numbers.
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

    /// Before the numbers are taken: those that are sent from now on set the event again.
    fn acknowledge(&self) {
        self.event.clear();
        // Not a store: who found `true` here has sent its number without setting the event, and
        // only reading what it wrote makes sure that this thread then finds the number.
        self.notified.swap(false, Ordering::AcqRel);
    }
}

impl Waits {
    fn start(wake: &WakeSymbols) -> Option<Self> {
        let event = EventFd::new().ok()?;
        // SAFETY: the glue calls this from a phase of a request that can wait, on nginx's
        // thread. The event is owned by waits that are never dropped once nginx watches it.
        if !unsafe { wake.watch(event.descriptor(), on_notified) } {
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
        self.call_off_deserted(wake, wait.request, number);
        match self.of_request.entry(wait.request) {
            Entry::Occupied(mut watched) => watched.get_mut().push(number),
            Entry::Vacant(unwatched) => {
                // SAFETY: the glue gives the request that is running, on nginx's thread.
                if !unsafe { wake.ends.at_end(wait.request, on_request_end) } {
                    return None;
                }
                unwatched.insert(vec![number]);
            }
        }
        self.waiting.insert(number, wait);
        Some(number)
    }

    /// Has the wait end with its check.
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

    /// The result of the check that belongs to a wait; with it the wait ends.
    fn take(&mut self, number: u64) -> Option<CheckResult> {
        let Some(wait) = self.waiting.get(&number) else {
            return unknown();
        };
        let result = wait.own.as_ref()?.result()?;
        self.end(number);
        Some(result)
    }

    /// Calls checks of the request off whose coroutine was killed. Looks at a few of its waits,
    /// at others each `turn`: it may have a thousand.
    fn call_off_deserted(&self, wake: &WakeSymbols, request: Request, turn: u64) {
        const LOOKS: usize = 4;
        let Some(numbers) = self.of_request.get(&request) else {
            return;
        };
        let turn = usize::try_from(turn).unwrap_or_default();
        let first = turn
            .wrapping_mul(LOOKS)
            .checked_rem(numbers.len())
            .unwrap_or_default();
        for number in numbers
            .iter()
            .cycle()
            .skip(first)
            .take(LOOKS.min(numbers.len()))
        {
            if let Some(wait) = self.waiting.get(number)
                // SAFETY: nginx's thread; the Lua side keeps the semaphore of a wait that has
                // not ended.
                && !unsafe { wake.is_awaited(wait.semaphore) }
                && let Some(check) = &wait.own
            {
                // Where the semaphore was posted the check is done, and this does nothing.
                check.cancel();
            }
        }
    }

    /// The request has ended: whoever still waits in it never runs again.
    fn forget(&mut self, request: Request) -> Vec<Wait> {
        let numbers = self.of_request.remove(&request).unwrap_or_default();
        let ended = numbers.iter().filter_map(|n| self.waiting.remove(n));
        let ended = ended.collect();
        self.released.extend(numbers);
        ended
    }
}

/// nginx calls this in its event loop while the eventfd is readable.
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
                // SAFETY: nginx's thread; the Lua side keeps the semaphore of a wait that has
                // not ended. Posting only queues an event: no Lua runs inside.
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
        // This calls their checks off.
        drop(ended);
    });
}

fn wake_symbols() -> Option<&'static WakeSymbols> {
    Symbols::of_process()?.wake.as_ref()
}
