//! A verify callback that is given each certificate that OpenSSL refuses. The `openssl` crate has such
//! a callback too, but it panics if OpenSSL had no memory to store the connection's context, and a
//! panic in a callback of C ends the host.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use foreign_types::ForeignTypeRef;
use openssl::ssl::SslContextBuilder;
use openssl::x509::X509StoreContextRef;

/// `SSL_VERIFY_PEER` (`openssl/ssl.h`).
const VERIFY_PEER: c_int = 1;

type Callback = unsafe extern "C" fn(c_int, *mut c_void) -> c_int;

unsafe extern "C" {
    // `openssl/ssl.h`, all versions of OpenSSL.
    fn SSL_CTX_set_verify(context: *mut c_void, mode: c_int, callback: Option<Callback>);
}

/// Receives each certificate that OpenSSL refuses.
pub trait NoteRefused {
    fn note(context: &mut X509StoreContextRef);
}

/// Makes handshakes of the context fail where OpenSSL refuses a certificate, after `N` has noted it.
pub fn refuse<N: NoteRefused>(builder: &mut SslContextBuilder) {
    // SAFETY: the context lives, and the callback is a function without state of this module, which
    // is never unloaded (`-z nodelete`).
    unsafe { SSL_CTX_set_verify(builder.as_ptr().cast(), VERIFY_PEER, Some(verified::<N>)) };
}

/// OpenSSL calls this for each certificate of a chain. Returns its decision unchanged.
unsafe extern "C" fn verified<N: NoteRefused>(trusted: c_int, context: *mut c_void) -> c_int {
    if trusted == 0 && !context.is_null() {
        // SAFETY: OpenSSL passes the verification that it is doing, which lives during the call and is
        // used by nobody else.
        let context = unsafe { X509StoreContextRef::from_ptr_mut(context.cast()) };
        // A panic must not unwind into OpenSSL. What it leaves behind is a reason without details.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| N::note(context))) {
            std::mem::forget(panic);
        }
    }
    trusted
}
