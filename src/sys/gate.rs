//! Gates: they delay an exit or a fork of the host while a thread of ours is inside a function of
//! a library that the host uses as well.
//!
//! If the host uses OpenSSL itself (nginx, or Lua with LuaSec), OpenSSL frees its tables when the
//! process exits, while the engine thread may be in the middle of a handshake: it would crash. And
//! a fork copies OpenSSL's locks in their present state: a lock that the engine thread holds at
//! that moment is held for ever in the child, which hangs as soon as it uses OpenSSL. So a thread
//! of ours is counted as inside a gate while it uses such a library. An exit closes the gate for
//! good; a fork closes it while the process is copied. Both wait until no thread is inside, for a
//! limited time.
//!
//! The guard [`Inside`] stands for a thread that is inside: making it raises the count, and only
//! dropping it lowers the count. The engine thread keeps its guard in a thread-local variable and
//! drops it while it sleeps.
//!
//! Look-ups of names have a gate of their own. glibc resets some of `getaddrinfo`'s locks in a
//! child and not others, and a child in which one of those is held hangs in its first look-up. A
//! thread holds them only briefly, at the start and at the end of a look-up; in between it may
//! wait seconds for a name server without holding any. So a fork waits only a few milliseconds for
//! look-ups.
//!
//! `vfork` and `posix_spawn` do not run the handlers for forks. That is safe: their child runs
//! another program, which does not use this process's locks.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::count::{Count, EXITING, FORKS};
use super::cancellation::uncancelled;
use super::fork_mark::pid;

mod count;

static OPENSSL: Gate = Gate::new();
static LOOK_UPS: Gate = Gate::new();

/// How long an exit waits at most. A thread is inside for one step of a handshake, or for some
/// 20 ms of processor time while a host's thread reads the system's CAs. On a busy machine that can take
/// much longer, and an exit that does not wait for it crashes.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

/// How long a fork waits at most for threads that use OpenSSL.
const FORK_PATIENCE: Duration = Duration::from_millis(200);

/// How long a fork waits at most for look-ups of names: see the module's documentation.
const LOOK_UP_PATIENCE: Duration = Duration::from_millis(5);

/// The pause between two reads of the gate's count by a thread that waits for it to change.
const POLL_EVERY: Duration = Duration::from_micros(50);

/// How long our threads wait at most for a fork to end. Without a limit there could be a deadlock:
/// the fork may wait for a lock of the host's whose holder waits for a check of ours.
const FORK_MAX: Duration = Duration::from_millis(500);

unsafe extern "C" {
    // `int OPENSSL_atexit(void (*handler)(void))`, OpenSSL 1.1.0.
    fn OPENSSL_atexit(handler: extern "C" fn()) -> c_int;
    // POSIX; the `libc` crate does not have it for Linux.
    fn pthread_atfork(
        prepare: extern "C" fn(),
        parent: extern "C" fn(),
        child: extern "C" fn(),
    ) -> c_int;
}

/// Registers the handlers for forks and for OpenSSL's clean-up at exit. Registering them once
/// serves a process and its children. If the system refuses, forks and exits do not wait, and have
/// the risks that the module's documentation names.
pub fn install() {
    // Not `Once`: a child forked while it is being initialised would block for ever. Two threads
    // that both register the handlers do no harm.
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Ordering::Acquire) {
        return;
    }
    // Both are made on first use, which allocates memory, and the handlers must not allocate.
    pid();
    own_gate_key();
    // SAFETY: any thread may call the handlers at any time. They only use atomics and the thread's
    // POSIX storage and sleep for a bounded time, and this library is never unmapped
    // (`-z nodelete`).
    unsafe { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) };
    at_once(|| {
        openssl::init();
        // SAFETY: any thread may call the handler at any time. It only uses atomics and sleeps for
        // a bounded time, and this library is never unmapped (`-z nodelete`).
        unsafe { OPENSSL_atexit(before_exit) };
    });
    INSTALLED.store(true, Ordering::Release);
}

thread_local! {
    /// The guard of the engine thread, which is inside whenever it is awake.
    static WHILE_AWAKE: Cell<Option<Inside>> = const { Cell::new(None) };
}

/// For the engine thread when it wakes up: from now on it may use OpenSSL. Waits while the process
/// forks, and does not return once the process exits. Does nothing if the thread is inside already.
pub fn wakes_up() {
    WHILE_AWAKE.with(|guard| {
        let inside = guard.take().unwrap_or_else(|| OPENSSL.enter());
        guard.set(Some(inside));
    });
}

/// For the engine thread before it sleeps: forks and exits do not wait for it any more.
pub fn goes_to_sleep() {
    WHILE_AWAKE.with(|guard| drop(guard.take()));
}

/// Takes the engine thread out of the gate and in again if a fork or an exit waits for it. The
/// engine thread calls this between two steps of work: while it has many probes to start, or many
/// certificates to read, it does not sleep for a long time, and forks would wait until their limit.
pub fn give_way() {
    if OPENSSL.is_closed() {
        WHILE_AWAKE.with(|guard| {
            if let Some(inside) = guard.take() {
                drop(inside);
                guard.set(Some(OPENSSL.enter()));
            }
        });
    }
}

/// Runs code that uses OpenSSL, on any thread. A fork on another thread waits for it to end. It
/// does not wait for a fork or an exit to end before it starts: the thread may be the host's.
pub fn at_once<T>(run: impl FnOnce() -> T) -> T {
    // A thread that is inside a gate must not be counted a second time.
    let _inside = if own_gate().is_null() {
        OPENSSL.enter_unless_exiting()
    } else {
        None
    };
    run()
}

/// Runs a look-up of a name. Waits while the process forks, and does not return once it exits.
pub fn look_up<T>(run: impl FnOnce() -> T) -> T {
    let _inside = LOOK_UPS.enter();
    run()
}

/// The guard of a thread inside a gate: dropping it takes the thread out. It cannot be sent to
/// another thread.
struct Inside {
    gate: &'static Gate,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        set_own_gate(None);
        self.gate.count.go_out();
    }
}

/// Threads inside, forks in progress and the exit: see [`Count`].
struct Gate {
    count: Count<AtomicU64>,
}

impl Gate {
    const fn new() -> Self {
        Self {
            count: Count(AtomicU64::new(0)),
        }
    }

    fn is_closed(&self) -> bool {
        self.count.is_closed()
    }

    /// Takes the calling thread in. Waits while the process forks, for [`FORK_MAX`] at most; does
    /// not return once it exits.
    fn enter(&'static self) -> Inside {
        let mut since = None;
        loop {
            match self.enter_unless(EXITING | FORKS) {
                Ok(inside) => return inside,
                Err(state) if state & EXITING != 0 => thread::park(),
                Err(_) if since.get_or_insert_with(Instant::now).elapsed() > FORK_MAX => {
                    self.count.forget_forks();
                }
                Err(_) => thread::sleep(POLL_EVERY),
            }
        }
    }

    /// Takes the calling thread in without waiting. None if the process exits.
    fn enter_unless_exiting(&'static self) -> Option<Inside> {
        self.enter_unless(EXITING).ok()
    }

    /// # Errors
    /// See [`Count::come_in`].
    fn enter_unless(&'static self, bits: u64) -> Result<Inside, u64> {
        self.count.come_in(bits)?;
        set_own_gate(Some(self));
        Ok(Inside {
            gate: self,
            of_this_thread: PhantomData,
        })
    }

    /// Waits until no thread is inside, or `at_most` has passed.
    fn wait(&self, at_most: Duration) {
        let begun = Instant::now();
        while !self.count.is_empty() && begun.elapsed() < at_most {
            thread::sleep(POLL_EVERY);
        }
    }
}

// === The handlers that the C library and OpenSSL call ===

extern "C" fn before_exit() {
    OPENSSL.count.close();
    uncancelled(|| OPENSSL.wait(EXIT_PATIENCE));
}

/// Does nothing on a thread that is inside a gate, because that thread would wait for itself. It can
/// only get here from a name service module or an OpenSSL module that forks to start a program.
extern "C" fn before_fork() {
    if own_gate().is_null() {
        OPENSSL.count.hold();
        LOOK_UPS.count.hold();
        uncancelled(|| {
            OPENSSL.wait(FORK_PATIENCE);
            LOOK_UPS.wait(LOOK_UP_PATIENCE);
        });
    }
}

extern "C" fn after_fork_in_parent() {
    if own_gate().is_null() {
        OPENSSL.count.release();
        LOOK_UPS.count.release();
    }
}

extern "C" fn after_fork_in_child() {
    for gate in [&OPENSSL, &LOOK_UPS] {
        gate.count.reset(is_own_gate(gate));
    }
}

// === The gate that the calling thread is inside of ===
//
// Kept in POSIX thread storage, not in `thread_local!`: in a library that was loaded at run time
// the latter allocates memory on first use, and the handlers of a fork must not allocate.

/// The POSIX key plus 1; 0 before it was made. Not `OnceLock`: a child forked while it is being
/// initialised would block for ever.
static KEY: AtomicU64 = AtomicU64::new(0);

fn own_gate_key() -> Option<libc::pthread_key_t> {
    let known = |kept: u64| libc::pthread_key_t::try_from(kept.checked_sub(1)?).ok();
    if let Some(key) = known(KEY.load(Ordering::Acquire)) {
        return Some(key);
    }
    let mut key = 0;
    // SAFETY: `key` has room for what the call writes, and no destructor is registered.
    if unsafe { libc::pthread_key_create(&raw mut key, None) } != 0 {
        return None;
    }
    let kept = u64::from(key) + 1;
    match KEY.compare_exchange(0, kept, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(key),
        Err(kept) => {
            // SAFETY: `key` was just made, and no other thread has seen it: another one's key was
            // stored first.
            unsafe { libc::pthread_key_delete(key) };
            known(kept)
        }
    }
}

fn own_gate() -> *const Gate {
    own_gate_key().map_or(std::ptr::null(), |key| {
        // SAFETY: a key that was stored in `KEY` is valid and never deleted.
        unsafe { libc::pthread_getspecific(key) }
            .cast_const()
            .cast()
    })
}

fn is_own_gate(gate: &Gate) -> bool {
    std::ptr::eq(own_gate(), gate)
}

fn set_own_gate(gate: Option<&'static Gate>) {
    let value = gate.map_or(std::ptr::null(), std::ptr::from_ref);
    if let Some(key) = own_gate_key() {
        // If there is no memory for the value, the thread looks as if it were inside no gate. At
        // worst its fork then waits for itself, for a bounded time.
        // SAFETY: a key that was stored in `KEY` is valid and never deleted.
        unsafe { libc::pthread_setspecific(key, value.cast::<c_void>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::count::{FORK, INSIDE, this_process};
    use super::*;

    fn gate() -> &'static Gate {
        Box::leak(Box::new(Gate::new()))
    }

    fn inside(gate: &Gate) -> u64 {
        gate.count.0.load(Ordering::Relaxed) & INSIDE
    }

    /// Whether a new thread gets into the gate within `time`. It leaves the gate again.
    fn gets_in(gate: &'static Gate, time: Duration) -> bool {
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            drop(gate.enter());
            let _ = tell.send(());
        });
        told.recv_timeout(time).is_ok()
    }

    #[test]
    fn nobody_enters_while_forks_are_under_way() {
        let gate = gate();
        assert!(gets_in(gate, Duration::from_secs(60)));
        gate.count.hold();
        gate.count.hold();
        gate.count.release();
        assert!(!gets_in(gate, Duration::from_millis(50)));
        gate.count.release();
        assert!(gets_in(gate, Duration::from_secs(60)));
        gate.count.release();
        assert!(gets_in(gate, Duration::from_secs(60)));
    }

    #[test]
    fn a_fork_that_never_ends_is_forgotten() {
        let gate = gate();
        gate.count.hold();
        assert!(gets_in(gate, Duration::from_secs(60)));
    }

    #[test]
    fn a_wait_ends_when_all_have_left() {
        let gate = gate();
        let (tell, told) = std::sync::mpsc::channel();
        let leaves = thread::spawn(move || {
            let _inside = gate.enter();
            let _ = tell.send(());
            thread::sleep(Duration::from_millis(20));
        });
        told.recv().unwrap();
        gate.count.hold();
        let begun = Instant::now();
        gate.wait(Duration::from_secs(60));
        assert!(begun.elapsed() < Duration::from_secs(30));
        leaves.join().unwrap();
        assert_eq!(inside(gate), 0);
    }

    #[test]
    fn a_wait_is_bounded() {
        let gate = gate();
        let _inside = gate.enter();
        let begun = Instant::now();
        gate.wait(LOOK_UP_PATIENCE);
        let took = begun.elapsed();
        assert!(took >= LOOK_UP_PATIENCE && took < Duration::from_secs(30));
    }

    #[test]
    fn whoever_must_not_wait_counts_all_the_same() {
        let gate = gate();
        gate.count.hold();
        let entered = gate.enter_unless_exiting();
        assert!(entered.is_some());
        assert_eq!(inside(gate), 1);
        drop(entered);
        gate.count.close();
        assert!(gate.enter_unless_exiting().is_none());
        assert_eq!(inside(gate), 0);
    }

    #[test]
    fn what_a_parent_left_counts_as_nothing() {
        let gate = gate();
        let parents = (pid() + 1) << 32 | EXITING | FORK | 3;
        gate.count.0.store(parents, Ordering::Relaxed);
        assert!(!gate.is_closed());
        let entered = gate.enter();
        assert_eq!(gate.count.0.load(Ordering::Relaxed), this_process() | 1);
        drop(entered);
        assert_eq!(gate.count.0.load(Ordering::Relaxed), this_process());
    }

    #[test]
    fn what_runs_at_once_inside_leaves_the_thread_inside() {
        thread::spawn(|| {
            wakes_up();
            at_once(|| assert!(is_own_gate(&OPENSSL)));
            assert!(
                is_own_gate(&OPENSSL),
                "a fork would not wait for this thread"
            );
            assert!(inside(&OPENSSL) >= 1);
            goes_to_sleep();
            assert!(own_gate().is_null());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn waking_up_and_going_to_sleep_twice_count_once() {
        thread::spawn(|| {
            goes_to_sleep();
            wakes_up();
            wakes_up();
            give_way();
            assert!(is_own_gate(&OPENSSL));
            goes_to_sleep();
            goes_to_sleep();
            assert!(own_gate().is_null());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_count_never_falls_below_nobody() {
        let gate = gate();
        let entered = gate.enter();
        gate.count.reset(false);
        drop(entered);
        assert_eq!(gate.count.0.load(Ordering::Relaxed), this_process());
    }

    #[test]
    fn a_gate_that_is_full_lets_nobody_in() {
        let gate = gate();
        gate.count
            .0
            .store(this_process() | INSIDE, Ordering::Relaxed);
        assert!(gate.enter_unless_exiting().is_none());
        assert_eq!(
            gate.count.0.load(Ordering::Relaxed),
            this_process() | INSIDE
        );
    }

    #[test]
    fn a_thread_that_forks_inside_does_not_wait_for_itself() {
        install();
        // A fork that waits for itself takes `FORK_PATIENCE` every time. On a busy machine a single
        // fork may take that long for other reasons, so one quick fork of eight is enough.
        let is_quick = |gate| (0..8).any(|_| fork_inside(gate) < FORK_PATIENCE);
        for gate in [&OPENSSL, &LOOK_UPS] {
            assert!(is_quick(gate));
        }
    }

    /// Forks inside the gate; returns how long that took.
    fn fork_inside(gate: &'static Gate) -> Duration {
        let inside = gate.enter_unless_exiting();
        assert!(inside.is_some());
        let begun = Instant::now();
        // SAFETY: the child only loads atomics and exits, which is allowed after a fork of a
        // process with several threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let counted = gate.count.0.load(Ordering::Relaxed) == this_process() | 1;
            // SAFETY: `_exit` takes no pointers and runs no handlers.
            unsafe { libc::_exit(i32::from(!counted)) };
        }
        let took = begun.elapsed();
        drop(inside);
        let mut status = 0;
        // SAFETY: `status` has room for what the call writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        took
    }
}
