//! Whether a server's certificates are to be trusted, asked without a handshake of OpenSSL's.

use std::ffi::{CStr, c_char, c_int, c_void};

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ssl::SslRef;
use openssl::stack::StackRef;
use openssl::x509::{X509, X509Ref, X509StoreContext};

/// OpenSSL's name for what a server's certificate must be good for.
const SERVER: &CStr = c"ssl_server";

// `openssl/x509_vfy.h`, OpenSSL 1.1.0.
unsafe extern "C" {
    fn X509_STORE_CTX_get0_param(context: *mut c_void) -> *mut c_void;
    fn X509_STORE_CTX_set_default(context: *mut c_void, name: *const c_char) -> c_int;
    fn X509_VERIFY_PARAM_set_auth_level(param: *mut c_void, level: c_int);
    fn X509_VERIFY_PARAM_set1(to: *mut c_void, from: *const c_void) -> c_int;
}

/// Whether a handshake of `ssl`, which was not begun, would accept a server that sends `leaf`
/// and `others`: the authorities of its context, the name and all else that it was told, and
/// its security level decide.
///
/// # Errors
/// Where there is no memory.
pub fn would_accept(
    ssl: &mut SslRef,
    leaf: &X509Ref,
    others: &StackRef<X509>,
) -> Result<bool, ErrorStack> {
    let level = c_int::try_from(ssl.security_level()).unwrap_or(c_int::MAX);
    let wanted = ssl.param_mut().as_ptr();
    let trusted = ssl.ssl_context().cert_store();
    X509StoreContext::new()?.init(trusted, leaf, others, |context| {
        let raw = context.as_ptr().cast();
        // SAFETY: `context` was just made ready and outlives the calls; its parameters are its
        // own, never null. `wanted` is `ssl`'s, which lives and which nobody else has, and is
        // copied from. The order is that of OpenSSL's own handshakes: what `ssl` was told comes
        // last.
        let is_set = unsafe {
            let param = X509_STORE_CTX_get0_param(raw);
            X509_VERIFY_PARAM_set_auth_level(param, level);
            X509_STORE_CTX_set_default(raw, SERVER.as_ptr()) == 1
                && X509_VERIFY_PARAM_set1(param, wanted.cast()) == 1
        };
        if !is_set {
            return Err(ErrorStack::get());
        }
        context.verify_cert()
    })
}
