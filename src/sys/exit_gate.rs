//! The host's exit and the engine's use of OpenSSL, kept apart.
//!
//! A host that uses OpenSSL itself (nginx, or Lua with LuaSec) has OpenSSL free its tables
//! when the process exits, while the engine's thread may be in the middle of a handshake.
//! OpenSSL calls those who ask for it before it does so: the gate is closed then, and a
//! thread that wants through waits for the end of the process.
//!
//! Nothing is registered with the C library, and a host without OpenSSL never comes here.

use std::ffi::c_int;
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The process in the upper half; whether the gate is closed; threads that are inside. What a
/// parent left is another process's, and counts as nothing: its threads are not here.
static STATE: AtomicU64 = AtomicU64::new(0);
const CLOSED: u64 = 1 << 31;
const INSIDE: u64 = CLOSED - 1;

/// How long an exit waits at most. A thread is inside for a step of a handshake, or for some
/// 20 ms while it loads the system's CAs.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_micros(100);

unsafe extern "C" {
    // `int OPENSSL_atexit(void (*handler)(void))`, OpenSSL 1.1.0.
    fn OPENSSL_atexit(handler: extern "C" fn()) -> c_int;
}

/// Has OpenSSL close the gate before it cleans up. Once is enough for a process and for its
/// children; where OpenSSL refuses, an exit is as it was without the gate.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        openssl::init();
        // SAFETY: the handler may be called at any time from any thread: it touches only
        // atomics, and the library that holds it is never unmapped (`-z nodelete`).
        unsafe { OPENSSL_atexit(close) };
    });
}

fn this_process() -> u64 {
    u64::from(process::id()) << 32
}

/// Before the calling thread uses OpenSSL. Does not return once the gate is closed.
pub fn enter() {
    let process = this_process();
    let mut seen = STATE.load(Ordering::Acquire);
    loop {
        let state = if seen >> 32 == process >> 32 {
            seen
        } else {
            process
        };
        if state & CLOSED != 0 {
            loop {
                thread::park();
            }
        }
        match STATE.compare_exchange_weak(seen, state + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

/// After [`enter`], when the thread will not use OpenSSL until it enters again.
pub fn leave() {
    STATE.fetch_sub(1, Ordering::AcqRel);
}

extern "C" fn close() {
    let process = this_process();
    let mut seen = STATE.load(Ordering::Acquire);
    loop {
        if seen >> 32 != process >> 32 {
            return;
        }
        match STATE.compare_exchange_weak(seen, seen | CLOSED, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
    let begun = Instant::now();
    while STATE.load(Ordering::Acquire) & INSIDE != 0 && begun.elapsed() < PATIENCE {
        thread::sleep(LOOK);
    }
}
