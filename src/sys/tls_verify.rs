//! Two callbacks of OpenSSL's verification of certificates. One is asked before a chain is verified whether
//! the chain is known. The other is given each certificate that OpenSSL refuses; the `openssl` crate has such
//! a callback too, but it panics if OpenSSL had no memory to store the connection's context, and a panic in
//! a callback of C ends the host.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use foreign_types::ForeignTypeRef;
use openssl::ssl::{SslContextBuilder, SslRef};
use openssl::stack::StackRef;
use openssl::x509::{X509, X509Ref, X509StoreContext, X509StoreContextRef, X509VerifyResult};

/// `SSL_VERIFY_PEER` (`openssl/ssl.h`).
const VERIFY_PEER: c_int = 1;

type OnCertificate = unsafe extern "C" fn(c_int, *mut c_void) -> c_int;
type OnChain = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

unsafe extern "C" {
    // `openssl/ssl.h` and `openssl/x509_vfy.h`, OpenSSL 1.1.0.
    fn SSL_CTX_set_verify(context: *mut c_void, mode: c_int, callback: Option<OnCertificate>);
    fn SSL_CTX_set_cert_verify_callback(
        context: *mut c_void,
        callback: Option<OnChain>,
        argument: *mut c_void,
    );
    fn X509_verify_cert(context: *mut c_void) -> c_int;
    fn X509_STORE_CTX_get0_cert(context: *const c_void) -> *mut c_void;
    fn X509_STORE_CTX_get0_untrusted(context: *const c_void) -> *mut c_void;
}

/// Decides which chains of certificates need no verification.
pub trait Verifier {
    /// Identifies everything on which the result of a verification depends, but for the context's settings
    /// and the time.
    type Key: Copy;

    /// The key of the chain that a server has sent. None: OpenSSL verifies the chain, and the result is not
    /// remembered.
    fn key(context: &X509StoreContextRef) -> Option<Self::Key>;

    /// Whether OpenSSL has accepted the chain before and would accept it now as well. Then it counts as accepted, and
    /// OpenSSL does not verify it.
    fn knows(key: &Self::Key, context: &X509StoreContextRef) -> bool;

    /// OpenSSL has accepted the chain.
    fn accepted(key: Self::Key, context: &X509StoreContextRef);

    /// OpenSSL refuses a certificate.
    fn refused(context: &X509StoreContextRef);
}

/// Makes handshakes of the context fail where neither `V` knows the server's certificates nor OpenSSL
/// accepts them.
pub fn install<V: Verifier>(builder: &mut SslContextBuilder) {
    let context = builder.as_ptr().cast();
    // SAFETY: the context lives, and the callbacks are functions without state of this module, which
    // is never unloaded (`-z nodelete`).
    unsafe {
        SSL_CTX_set_verify(context, VERIFY_PEER, Some(certificate_verified::<V>));
        SSL_CTX_set_cert_verify_callback(context, Some(verify_chain::<V>), ptr::null_mut());
    }
}

/// The connection for whose handshake OpenSSL verifies a chain.
pub fn connection(context: &X509StoreContextRef) -> Option<&SslRef> {
    context.ex_data(X509StoreContext::ssl_idx().ok()?)
}

/// The server's own certificate, and all that it sent, that one included. None if it sent none.
pub fn sent(context: &X509StoreContextRef) -> Option<(&X509Ref, &StackRef<X509>)> {
    // SAFETY: OpenSSL returns pointers to its own objects, or null. They live as long as the
    // verification, which `context` borrows.
    unsafe {
        let own: *mut c_void = X509_STORE_CTX_get0_cert(context.as_ptr().cast());
        let all: *mut c_void = X509_STORE_CTX_get0_untrusted(context.as_ptr().cast());
        if own.is_null() || all.is_null() {
            return None;
        }
        Some((
            X509Ref::from_ptr(own.cast()),
            StackRef::from_ptr(all.cast()),
        ))
    }
}

/// OpenSSL calls this to verify a server's certificates. Returns 1 if they are good.
unsafe extern "C" fn verify_chain<V: Verifier>(context: *mut c_void, _: *mut c_void) -> c_int {
    if context.is_null() {
        return 0;
    }
    // SAFETY: OpenSSL passes the verification that it is doing, which lives during the call and is used
    // by nobody else. No reference made here is in use when the next one is made.
    let verification = || unsafe { X509StoreContextRef::from_ptr_mut(context.cast()) };
    let key = caught(|| V::key(verification())).flatten();
    let is_known = |key| caught(|| V::knows(key, verification())) == Some(true);
    if key.as_ref().is_some_and(is_known) {
        verification().set_error(X509VerifyResult::OK);
        return 1;
    }
    // Not the crate's function, which empties OpenSSL's queue of errors if there is one. The reason of a
    // refusal is made of that queue.
    // SAFETY: as above.
    let verdict = unsafe { X509_verify_cert(context) };
    if let Some(key) = key.filter(|_| verdict == 1) {
        caught(|| V::accepted(key, verification()));
    }
    // An error counts as a refusal, as it does without this callback. OpenSSL 3.0.0 and 3.0.1 would suspend the
    // handshake for a negative number.
    verdict.max(0)
}

/// OpenSSL calls this for each certificate of a chain. Returns its decision unchanged.
unsafe extern "C" fn certificate_verified<V: Verifier>(
    trusted: c_int,
    context: *mut c_void,
) -> c_int {
    if trusted == 0 && !context.is_null() {
        // SAFETY: as in `verify_chain`.
        let context = unsafe { X509StoreContextRef::from_ptr(context.cast()) };
        // What a panic leaves behind is a reason without details.
        caught(|| V::refused(context));
    }
    trusted
}

/// What `work` returns. None if it panics, which must not unwind into OpenSSL.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(made) => Some(made),
        Err(panic) => {
            // Not dropped: the destructor of a panic's payload may panic again.
            std::mem::forget(panic);
            None
        }
    }
}
