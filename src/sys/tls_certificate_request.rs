//! Whether a server asked for a client certificate during the handshake.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};

use super::tls_index::{self, OnceIndex};

type Callback = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

unsafe extern "C" {
    // `openssl/ssl.h`, all versions of OpenSSL.
    fn SSL_CTX_set_cert_cb(context: *mut c_void, callback: Option<Callback>, given: *mut c_void);
}

/// The index under which an `SSL` object holds the flag "the server has asked". Made once for the
/// process.
fn index() -> Result<Index<Ssl, AtomicBool>, ErrorStack> {
    static INDEX: OnceIndex<Ssl, AtomicBool> = OnceIndex::new();
    tls_index::once(&INDEX, Ssl::new_ex_index)
}

/// Makes connections of the context remember whether the server asked. Needs [`prepare_connection`] on each
/// connection as well.
pub fn prepare_context(builder: &mut SslContextBuilder) {
    // SAFETY: the context lives, and the callback is a function without state of this module,
    // which is never unloaded (`-z nodelete`) and does not use what it is given.
    unsafe { SSL_CTX_set_cert_cb(builder.as_ptr().cast(), Some(requested), ptr::null_mut()) };
}

/// Makes a connection remember whether the server asked. Needs [`prepare_context`] on its context as well.
///
/// # Errors
/// There is no memory.
pub fn prepare_connection(ssl: &mut Ssl) -> Result<(), ErrorStack> {
    ssl.set_ex_data(index()?, AtomicBool::new(false));
    Ok(())
}

/// Whether the server of this connection has asked for a certificate.
pub fn was_made(ssl: &SslRef) -> bool {
    index()
        .ok()
        .and_then(|index| ssl.ex_data(index))
        .is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// OpenSSL calls this when the server asks for a certificate, whether the connection has one or
/// not.
unsafe extern "C" fn requested(ssl: *mut c_void, _given: *mut c_void) -> c_int {
    // SAFETY: OpenSSL passes the connection whose handshake it is doing, which lives during the
    // call.
    let ssl = unsafe { SslRef::from_ptr(ssl.cast()) };
    if let Some(asked) = index().ok().and_then(|index| ssl.ex_data(index)) {
        asked.store(true, Ordering::Relaxed);
    }
    // 1: the handshake continues with what the context has. 0 would end it.
    1
}
