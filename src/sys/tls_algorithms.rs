//! The algorithms that OpenSSL offers in a handshake, as the system's configuration (`openssl.cnf`)
//! allows.

use std::ffi::{CStr, c_char, c_int, c_void};

use foreign_types::ForeignTypeRef;
use openssl::ssl::SslRef;

unsafe extern "C" {
    // `const char *SSL_get_cipher_list(const SSL *s, int n)`, all versions of OpenSSL.
    fn SSL_get_cipher_list(ssl: *const c_void, n: c_int) -> *const c_char;
}

/// The names of the ciphers that `ssl` may offer, in the order of preference.
pub fn ciphers(ssl: &SslRef) -> Vec<String> {
    (0..)
        .map_while(|n| {
            // SAFETY: `ssl` is borrowed, so it lives. OpenSSL returns a constant C string, or null if
            // there are `n` ciphers or fewer.
            unsafe {
                let name = SSL_get_cipher_list(ssl.as_ptr().cast(), n);
                (!name.is_null()).then(|| CStr::from_ptr(name))
            }
        })
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}
