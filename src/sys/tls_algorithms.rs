//! The algorithms that OpenSSL, and whoever configured it for this system, would offer, and what
//! a handshake came to.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::ptr;

use foreign_types::{ForeignType, ForeignTypeRef};
use openssl::pkey::{Id, PKey, Public};
use openssl::ssl::SslRef;

/// `SSL_CTRL_GET_PEER_TMP_KEY`, before OpenSSL 3 `SSL_CTRL_GET_SERVER_TMP_KEY` (`openssl/ssl.h`).
const PEER_TMP_KEY: c_int = 109;

unsafe extern "C" {
    // `const char *SSL_get_cipher_list(const SSL *s, int n)`, all versions of OpenSSL.
    fn SSL_get_cipher_list(ssl: *const c_void, n: c_int) -> *const c_char;
    // `long SSL_ctrl(SSL *s, int cmd, long larg, void *parg)`, all versions of OpenSSL.
    fn SSL_ctrl(ssl: *mut c_void, command: c_int, number: c_long, to: *mut c_void) -> c_long;
}

/// The names of the ciphers, in the order of preference.
pub fn ciphers(ssl: &SslRef) -> Vec<String> {
    (0..)
        .map_while(|n| {
            // SAFETY: `ssl` lives; the name is a constant of the library's, or null past the end.
            unsafe {
                let name = SSL_get_cipher_list(ssl.as_ptr().cast(), n);
                (!name.is_null()).then(|| CStr::from_ptr(name))
            }
        })
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// The kind of key that the server sent for the key exchange, where there was one.
pub fn key_exchange(ssl: &SslRef) -> Option<Id> {
    let mut key = ptr::null_mut::<c_void>();
    // SAFETY: `ssl` lives and is read alone; this command takes the address of a pointer, which
    // it sets to a key of the caller's where it returns 1.
    let key: PKey<Public> = unsafe {
        let is_there = SSL_ctrl(
            ssl.as_ptr().cast(),
            PEER_TMP_KEY,
            0,
            ptr::from_mut(&mut key).cast(),
        );
        if is_there != 1 || key.is_null() {
            return None;
        }
        PKey::from_ptr(key.cast())
    };
    Some(key.id())
}
