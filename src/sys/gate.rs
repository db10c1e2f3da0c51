//! Gates that keep the host's exit and its forks apart from the engine's use of libraries that it
//! shares with the host.
//!
//! A host that uses OpenSSL itself (nginx, or Lua with LuaSec) has OpenSSL free its tables when
//! the process exits, while the engine's thread may be in the middle of a handshake. And a fork
//! copies OpenSSL's locks as they are: one that the engine's thread holds at that moment is held
//! for ever in the child, which hangs as soon as it uses OpenSSL. So a thread of ours is counted
//! as inside a gate while it uses such a library. An exit closes the gate for good; a fork holds
//! it closed while the process is copied. Both wait until nobody is inside, but never for long.
//!
//! Being inside is a guard, [`Inside`]: it is made where the count goes up, and the count goes
//! down nowhere but where it is dropped. The engine's thread keeps its guard in a variable of the
//! thread, and gives it up while it sleeps.
//!
//! Look-ups of names have a gate of their own. glibc resets some of `getaddrinfo`'s locks in a
//! child and leaves others as they are, and a child that finds one held hangs in its first
//! look-up. They are held for moments, at the beginning and the end; in between a thread may wait
//! seconds for a server and hold none. So a fork waits a few milliseconds for look-ups, no more.
//!
//! `vfork` and `posix_spawn` do not call these handlers, and need not: the program that they
//! start uses nothing of ours.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::count::{Count, EXITING, FORKS};
use super::fork_mark::pid;

mod count;

static OPENSSL: Gate = Gate::new();
static LOOK_UPS: Gate = Gate::new();

/// How long an exit waits at most. A thread is inside for a step of a handshake, or for some
/// 20 ms of its processor's time while it loads the system's CAs; a busy machine may give it
/// that late, and the alternative is a crash.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

/// How long a fork waits at most for the same.
const FORK_PATIENCE: Duration = Duration::from_millis(200);

/// How long a fork waits at most for look-ups of names.
const LOOK_UP_PATIENCE: Duration = Duration::from_millis(5);

/// Between two reads of a state that is waited for.
const POLL_EVERY: Duration = Duration::from_micros(50);

/// A fork that has not ended by then is waited for no longer: it may itself wait for a lock of
/// the host's, whose holder waits for a check.
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

/// Registers the gates' handlers for forks and for OpenSSL's cleaning up. Once is enough for a
/// process and for its children; where the system refuses, forks and exits are as they were
/// without gates.
pub fn install() {
    // Not `Once`: a child forked while it is being initialised would block for ever. Two threads
    // that both register the handlers do no harm.
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Ordering::Acquire) {
        return;
    }
    // What the handlers use is made now: they must not allocate.
    pid();
    own_gate_key();
    // SAFETY: the handlers may be called at any time from any thread: they touch only atomics,
    // sleep for a bounded time, and the library that holds them is never unmapped
    // (`-z nodelete`).
    unsafe { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) };
    at_once(|| {
        openssl::init();
        // SAFETY: the handler touches only atomics and sleeps for a bounded time, and the
        // library that holds it is never unmapped (`-z nodelete`).
        unsafe { OPENSSL_atexit(before_exit) };
    });
    INSTALLED.store(true, Ordering::Release);
}

thread_local! {
    /// The guard of a thread that is inside whenever it does not sleep.
    static WHILE_AWAKE: Cell<Option<Inside>> = const { Cell::new(None) };
}

/// The engine's thread wakes up, and may use OpenSSL from now on. Waits while the process forks;
/// does not return once the process exits. Nothing happens where the thread is inside already.
pub fn wakes_up() {
    WHILE_AWAKE.with(|guard| {
        let inside = guard.take().unwrap_or_else(|| OPENSSL.enter());
        guard.set(Some(inside));
    });
}

/// The engine's thread goes to sleep: forks and exits wait for it no longer.
pub fn goes_to_sleep() {
    WHILE_AWAKE.with(|guard| drop(guard.take()));
}

/// Lets a fork or an exit pass that waits for the calling thread: between two steps of a thread
/// that has too much to do to sleep.
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

/// Runs what uses OpenSSL on any thread: a fork of another one waits for it. It waits for
/// nothing itself, since the thread may be the host's.
pub fn at_once<T>(run: impl FnOnce() -> T) -> T {
    // A thread that is inside is counted already.
    let _inside = if own_gate().is_null() {
        OPENSSL.push_in()
    } else {
        None
    };
    run()
}

/// Runs a look-up of a name, on a thread of ours.
pub fn look_up<T>(run: impl FnOnce() -> T) -> T {
    let _inside = LOOK_UPS.enter();
    run()
}

/// A thread's stay inside a gate, which ends when this is dropped. It never leaves its thread.
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

/// A count of the threads inside, and who keeps others out.
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

    /// Waits while the process forks; does not return where it exits.
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

    /// Waits for nothing; none where the process exits.
    fn push_in(&'static self) -> Option<Inside> {
        self.enter_unless(EXITING).ok()
    }

    /// # Errors
    /// As [`Count::come_in`].
    fn enter_unless(&'static self, bits: u64) -> Result<Inside, u64> {
        self.count.come_in(bits)?;
        set_own_gate(Some(self));
        Ok(Inside {
            gate: self,
            of_this_thread: PhantomData,
        })
    }

    /// Waits until nobody is inside, `at_most` that long.
    fn wait(&self, at_most: Duration) {
        let begun = Instant::now();
        while !self.count.is_empty() && begun.elapsed() < at_most {
            thread::sleep(POLL_EVERY);
        }
    }
}

// === What the libraries call ===

extern "C" fn before_exit() {
    OPENSSL.count.close();
    OPENSSL.wait(EXIT_PATIENCE);
}

/// A thread of ours that forks (a name service's or an OpenSSL module may have it do so) must
/// not wait for itself: what it starts then is another program.
extern "C" fn before_fork() {
    if own_gate().is_null() {
        OPENSSL.count.hold();
        LOOK_UPS.count.hold();
        OPENSSL.wait(FORK_PATIENCE);
        LOOK_UPS.wait(LOOK_UP_PATIENCE);
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

// === The gate that a thread is inside of ===
//
// POSIX's storage and not Rust's: that of a library loaded late allocates memory on first use,
// and the handlers of a fork read this where that is forbidden.

/// 0: none yet; else the key and one more. Not `OnceLock`: a child forked while it is being
/// initialised would block for ever.
static KEY: AtomicU64 = AtomicU64::new(0);

fn own_gate_key() -> Option<libc::pthread_key_t> {
    let known = |kept: u64| libc::pthread_key_t::try_from(kept.checked_sub(1)?).ok();
    if let Some(key) = known(KEY.load(Ordering::Acquire)) {
        return Some(key);
    }
    let mut key = 0;
    // SAFETY: `key` is there to be filled; no destructor is named.
    if unsafe { libc::pthread_key_create(&raw mut key, None) } != 0 {
        return None;
    }
    let kept = u64::from(key) + 1;
    match KEY.compare_exchange(0, kept, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(key),
        Err(kept) => {
            // SAFETY: another thread was first, and nobody knows this key.
            unsafe { libc::pthread_key_delete(key) };
            known(kept)
        }
    }
}

fn own_gate() -> *const Gate {
    own_gate_key().map_or(std::ptr::null(), |key| {
        // SAFETY: the key was made and is never deleted.
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
        // SAFETY: the key was made and is never deleted. Without memory for the value the thread
        // counts as one of the host's, and at worst waits for itself, which is bounded.
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

    /// Whether a thread gets in within `time`; it leaves again.
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
        assert!(gets_in(gate, Duration::from_secs(10)));
        gate.count.hold();
        gate.count.hold();
        gate.count.release();
        assert!(!gets_in(gate, Duration::from_millis(50)));
        gate.count.release();
        assert!(gets_in(gate, Duration::from_secs(10)));
        gate.count.release();
        assert!(gets_in(gate, Duration::from_secs(10)));
    }

    #[test]
    fn a_fork_that_never_ends_is_forgotten() {
        let gate = gate();
        gate.count.hold();
        assert!(gets_in(gate, Duration::from_secs(10)));
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
        let pushed_in = gate.push_in();
        assert!(pushed_in.is_some());
        assert_eq!(inside(gate), 1);
        drop(pushed_in);
        gate.count.close();
        assert!(gate.push_in().is_none());
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
        assert!(gate.push_in().is_none());
        assert_eq!(
            gate.count.0.load(Ordering::Relaxed),
            this_process() | INSIDE
        );
    }

    #[test]
    fn a_thread_that_forks_inside_does_not_wait_for_itself() {
        install();
        for gate in [&OPENSSL, &LOOK_UPS] {
            let inside = gate.push_in();
            assert!(inside.is_some());
            let begun = Instant::now();
            // SAFETY: the child only loads atomics, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let counted = gate.count.0.load(Ordering::Relaxed) == this_process() | 1;
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!counted)) };
            }
            assert!(begun.elapsed() < FORK_PATIENCE);
            drop(inside);
            let mut status = 0;
            // SAFETY: waits for the child just made; `status` is valid to be filled in.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    }
}
