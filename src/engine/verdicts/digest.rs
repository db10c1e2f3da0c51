//! SHA-256.

use crate::sys::gate;

/// The digest of `data`.
///
/// `openssl::init` comes first: a digest would otherwise initialise OpenSSL with an exit handler
/// that frees its tables, and a probe that is in a handshake at exit would then use freed memory.
pub(in crate::engine) fn sha256(data: &[u8]) -> [u8; 32] {
    gate::at_once(|| {
        openssl::init();
        openssl::sha::sha256(data)
    })
}
