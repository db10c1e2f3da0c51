//! SHA-256.

use crate::sys::gate;

/// The digest of `data`.
///
/// OpenSSL, asked for a digest before it was told otherwise, has the process free all of
/// OpenSSL's tables when it exits, under the hands of a probe that is in its handshake then.
/// `openssl::init` tells it otherwise.
pub(in crate::engine) fn sha256(data: &[u8]) -> [u8; 32] {
    gate::at_once(|| {
        openssl::init();
        openssl::sha::sha256(data)
    })
}
