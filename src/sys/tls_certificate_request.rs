//! Whether a server asked for a certificate of ours.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};

type Callback = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut *mut c_void) -> c_int;

unsafe extern "C" {
    // `openssl/ssl.h`, all versions of OpenSSL.
    fn SSL_CTX_set_client_cert_cb(context: *mut c_void, callback: Option<Callback>);
}

fn index() -> Result<Index<Ssl, AtomicBool>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, AtomicBool>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let made = Ssl::new_ex_index()?;
            Ok(*INDEX.get_or_init(|| made))
        }
    }
}

/// Has connections of the context remember it.
pub fn remember(builder: &mut SslContextBuilder) {
    // SAFETY: the context lives; the callback is a function without state, there as long as this
    // module, which is never unloaded.
    unsafe { SSL_CTX_set_client_cert_cb(builder.as_ptr().cast(), Some(requested)) };
}

/// Has this connection remember it; its context must as well.
///
/// # Errors
/// Where there is no memory.
pub fn watch(ssl: &mut Ssl) -> Result<(), ErrorStack> {
    ssl.set_ex_data(index()?, AtomicBool::new(false));
    Ok(())
}

/// Whether the server of this connection asked for a certificate.
pub fn was_made(ssl: &SslRef) -> bool {
    index()
        .ok()
        .and_then(|index| ssl.ex_data(index))
        .is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// OpenSSL calls it where the server asks and the connection has no certificate.
unsafe extern "C" fn requested(
    ssl: *mut c_void,
    _certificate: *mut *mut c_void,
    _key: *mut *mut c_void,
) -> c_int {
    // SAFETY: OpenSSL passes the connection that it is working for, which lives during the call.
    let ssl = unsafe { SslRef::from_ptr(ssl.cast()) };
    if let Some(asked) = index().ok().and_then(|index| ssl.ex_data(index)) {
        asked.store(true, Ordering::Relaxed);
    }
    // None: the handshake goes on without.
    0
}
