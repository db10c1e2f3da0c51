//! The queue in which OpenSSL collects the errors of a thread.
//!
//! Whether a call on a connection has failed, or only has to wait, OpenSSL tells by this queue. So the queue has to be
//! empty before each such call (SSL_get_error(3)): an error that something else has left there makes the call
//! fail, on whichever connection of the thread it is made.

use std::ffi::c_ulong;
use std::panic::catch_unwind;

use openssl::error::{Error, ErrorStack};

unsafe extern "C" {
    // `openssl/err.h`, all versions of OpenSSL.
    fn ERR_peek_error() -> c_ulong;
    fn ERR_clear_error();
}

/// Empties the queue of the calling thread, which has used OpenSSL before.
pub fn forget() {
    if has_any() {
        // SAFETY: any thread may empty its own queue.
        unsafe { ERR_clear_error() };
    }
}

/// Runs `work`, which uses OpenSSL, on a thread that may be the host's: `work` finds the queue empty, and its errors do
/// not stay there. Errors of the host that were in the queue are there again afterwards; an error of the
/// operating system has lost its number then.
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    // Without this the first OpenSSL call initialises the library so that it frees its state at
    // exit, while threads may still use it.
    openssl::init();
    let of_host = has_any().then(take).flatten();
    let done = work();
    forget();
    if let Some(errors) = of_host {
        errors.put();
    }
    done
}

/// Whether OpenSSL got no memory. The errors that follow from it, such as a key that counts as
/// too weak because it could not be read, say nothing about a certificate or a server.
pub fn tell_of_no_memory(errors: &ErrorStack) -> bool {
    // `ERR_R_MALLOC_FAILURE` has this text in all versions and in no language but English; its
    // number changed with OpenSSL 3.
    let is_it = |error: &Error| error.reason() == Some("malloc failure");
    errors.errors().iter().any(is_it)
}

/// Looking costs less than emptying a queue that is empty already.
fn has_any() -> bool {
    // SAFETY: any thread may look at its own queue.
    unsafe { ERR_peek_error() != 0 }
}

/// None if the text of an error is not UTF-8, which makes the `openssl` crate panic.
fn take() -> Option<ErrorStack> {
    catch_unwind(ErrorStack::get).ok()
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509;

    use super::*;

    fn reasons() -> Vec<Option<&'static str>> {
        let left = ErrorStack::get();
        left.errors().iter().map(|error| error.reason()).collect()
    }

    #[test]
    fn the_errors_of_the_host_stay_and_those_of_the_module_do_not() {
        let failed = |bytes: &[u8]| X509::from_der(bytes).unwrap_err();
        let of_host = failed(b"\x30\x80x");
        let expected: Vec<_> = of_host
            .errors()
            .iter()
            .map(|error| error.reason())
            .collect();
        for before in [None, Some(&of_host)] {
            if let Some(errors) = before {
                errors.put();
            }
            let seen = apart(|| {
                let seen = has_any();
                failed(b"").put();
                seen
            });
            assert!(!seen, "the work sees errors of the host");
            let wanted = before.map_or_else(Vec::new, |_| expected.clone());
            assert_eq!(reasons(), wanted);
        }
        of_host.put();
        forget();
        assert_eq!(reasons(), []);
    }
}
