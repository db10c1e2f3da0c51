//! Starts the module's threads in the host's process, with all signals blocked.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use arc_swap::ArcSwapOption;

/// The name of the last thread that the system refused to start, and the reason. Empty once a thread
/// of that name has started.
static REFUSED: ArcSwapOption<Refusal> = ArcSwapOption::const_empty();

struct Refusal {
    thread: String,
    reason: String,
}

/// Names the thread that the system last refused to start, and the reason. None once a thread of
/// that name has started.
pub fn last_refusal() -> Option<String> {
    let refused = REFUSED.load();
    let refusal = refused.as_ref()?;
    Some(format!(
        "cannot start the thread {}: {}",
        refusal.thread, refusal.reason
    ))
}

/// Forgets what the parent was refused. For a process after a fork, which has its own threads.
pub fn forget_refusals() {
    REFUSED.store(None);
}

fn note(thread: &str, refused: Option<&io::Error>) {
    match refused {
        Some(error) => REFUSED.store(Some(Arc::new(Refusal {
            thread: thread.to_owned(),
            reason: error.to_string(),
        }))),
        None => {
            let known = REFUSED.load();
            if known.as_ref().is_some_and(|known| known.thread == thread) {
                REFUSED.compare_and_swap(&known, None);
            }
        }
    }
}

/// Starts a thread with every signal blocked, so that no signal handler of the host ever runs on
/// it, nor on a thread that it starts.
///
/// # Errors
/// The system's error where it allows no further thread (`RLIMIT_NPROC`, memory).
pub fn spawn_quiet<F, T>(name: &str, stack_bytes: usize, run: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let spawned = quietly(|| builder(name, stack_bytes).spawn(run));
    note(name, spawned.as_ref().err());
    spawned
}

/// A builder of a thread whose functions have `stack_bytes`.
pub(super) fn builder(name: &str, stack_bytes: usize) -> Builder {
    Builder::new()
        .name(name.to_owned())
        .stack_size(stack_bytes.saturating_add(taken_from_stack()))
}

/// Calls `spawn` with every signal blocked. A new thread has the mask of the one that starts it.
fn quietly<T>(spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises `all` before `pthread_sigmask` reads it; `before` has room
    // for the former mask. Only the calling thread's mask changes.
    let blocked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
    };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    let spawned = spawn();
    // SAFETY: the call that blocked the signals succeeded and initialised `before`. Only the
    // calling thread's mask changes.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    spawned
}

/// How many bytes of a new thread's stack are not for its functions. glibc puts the thread-local
/// variables of the whole process there: those of HAProxy need 43 KB, which would leave a small
/// stack too short.
fn taken_from_stack() -> usize {
    type Minimum = unsafe extern "C" fn(*const libc::pthread_attr_t) -> libc::size_t;
    // SAFETY: the name is NUL-terminated; with `RTLD_DEFAULT` nothing is loaded.
    let found = unsafe {
        libc::dlsym(
            libc::RTLD_DEFAULT,
            c"__pthread_get_minstack".as_ptr().cast(),
        )
    };
    if found.is_null() {
        // Another C library, which makes the stack larger by itself.
        return 0;
    }
    // SAFETY: glibc's function of this name has this type since 2.15. Rust's standard library calls
    // it in the same way.
    let minimum = unsafe { std::mem::transmute::<*mut libc::c_void, Minimum>(found) };
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::zeroed();
    // SAFETY: `pthread_attr_init` initialises the attributes before they are read; glibc's are
    // destroyed without freeing anything where none was set.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return 0;
        }
        let taken = minimum(attributes.as_ptr());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        taken
    }
}

/// The error with which the system refused a thread, and the limit that makes it refuse every one.
pub fn explain_refusal(error: &io::Error) -> String {
    let mut limit = libc::rlimit {
        rlim_cur: 1,
        rlim_max: 1,
    };
    // SAFETY: `limit` has room for what the call writes; the limit itself is not changed.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit) };
    if error.raw_os_error() == Some(libc::EAGAIN) && read == 0 && limit.rlim_cur == 0 {
        format!(
            "{error}: its host forbids this process all threads (RLIMIT_NPROC is 0); HAProxy does so \
             unless its global section says insecure-fork-wanted"
        )
    } else {
        error.to_string()
    }
}

/// How many descriptors the process may have open (the soft `RLIMIT_NOFILE`).
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` has room for what the call writes; the limit itself is not changed.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => limit.rlim_cur,
        _ => 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_until_a_thread_of_that_name_starts() {
        let name = "nb-refused";
        // A stack larger than any address space.
        assert!(spawn_quiet(name, usize::MAX / 4, || ()).is_err());
        let told = last_refusal().unwrap();
        assert!(
            told.starts_with("cannot start the thread nb-refused: "),
            "{told}"
        );
        spawn_quiet("nb-other", 64 * 1024, || ())
            .unwrap()
            .join()
            .unwrap();
        assert!(last_refusal().is_some());
        spawn_quiet(name, 64 * 1024, || ()).unwrap().join().unwrap();
        assert_eq!(last_refusal(), None);
    }
}
