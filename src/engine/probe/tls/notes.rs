//! Data that OpenSSL's callbacks read from and store with a connection.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslRef};
use openssl::x509::{X509, X509Ref, X509StoreContextRef};

use super::sessions::SessionSlot;
use crate::sys::tls_index::{self, OnceIndex};
use crate::sys::tls_verify;

/// Data attached to a connection for OpenSSL's callbacks.
#[derive(Default)]
pub(super) struct Notes {
    /// The name that the server's certificate must have.
    pub(super) name: String,
    /// Where a new session is stored.
    pub(super) slot: Option<Arc<SessionSlot>>,
    /// The leaf certificate that was refused. OpenSSL does not keep it after a failed handshake.
    pub(super) refused: Mutex<Option<X509>>,
    /// The certificates that OpenSSL had put together when it refused one of them, the leaf first.
    pub(super) refused_chain: Mutex<Vec<X509>>,
    /// Whether the server has given a session on this connection.
    pub(super) has_session: AtomicBool,
}

pub(super) fn of_connection(ssl: &SslRef) -> Option<&Notes> {
    ssl.ex_data(notes_index().ok()?)
}

/// Keeps a refused leaf certificate, so that the reason can name its host names and its expiry, and
/// the chain that it was refused with.
pub(super) fn note_refused(context: &X509StoreContextRef) {
    let Some(notes) = tls_verify::connection(context).and_then(of_connection) else {
        return;
    };
    let leaf = context
        .current_cert()
        .filter(|_| context.error_depth() == 0);
    if let Some(leaf) = leaf {
        let mut refused = notes.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(leaf.to_owned());
    }
    let chain = context.chain().into_iter().flatten();
    let chain = chain.map(X509Ref::to_owned).collect();
    let mut refused = notes
        .refused_chain
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *refused = chain;
}

/// The leaf certificate that made this connection's handshake fail.
pub(super) fn refused_leaf(ssl: &SslRef) -> Option<X509> {
    let notes = of_connection(ssl)?;
    let refused = notes.refused.lock();
    refused.unwrap_or_else(PoisonError::into_inner).clone()
}

/// The chain in which a certificate made this connection's handshake fail, the leaf first; empty where
/// there is none.
pub(super) fn refused_chain(ssl: &SslRef) -> Vec<X509> {
    of_connection(ssl).map_or_else(Vec::new, |notes| {
        let chain = notes.refused_chain.lock();
        chain.unwrap_or_else(PoisonError::into_inner).clone()
    })
}

pub(super) fn notes_index() -> Result<Index<Ssl, Notes>, ErrorStack> {
    static INDEX: OnceIndex<Ssl, Notes> = OnceIndex::new();
    tls_index::once(&INDEX, Ssl::new_ex_index)
}
