//! SHA-256, and SHA-1 for what Redis computes as well.

use openssl::hash::MessageDigest;

use crate::sys::{gate, tls_errors};

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

/// The SHA-1 of `data`; `None` if the system's policy does not allow SHA-1. The error stays in no queue: the thread
/// may be the host's.
pub(in crate::engine) fn sha1(data: &[u8]) -> Option<[u8; 20]> {
    let hashed = || openssl::hash::hash(MessageDigest::sha1(), data).ok();
    let digest = gate::at_once(|| tls_errors::apart(hashed))?;
    (*digest).try_into().ok()
}

/// The first 64 bits of the SHA-1 of a name, or of its SHA-256 if SHA-1 is not allowed; never 0. The table has it
/// for the name of a node, and the scripts in Redis, which know SHA-1 alone, find the name that belongs to it.
pub(in crate::engine) fn name_digest(name: &str) -> u64 {
    let name = name.as_bytes();
    let sha1 = sha1(name).and_then(|digest| digest.first_chunk().copied());
    let first = sha1.or_else(|| sha256(name).first_chunk().copied());
    first.map_or(1, |first| u64::from_be_bytes(first).max(1))
}
