//! Stores one target's TLS session between probes.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;

use super::slot::{Kept, Offered, TlsSlot};
use crate::sys::tls_session::Resumable;

/// One target's TLS session, and whether to offer it; see [`TlsSlot`]. Shared between the probe and
/// OpenSSL's callbacks.
#[derive(Default)]
pub struct SessionSlot {
    slot: Mutex<TlsSlot<Resumable>>,
    /// Whether the server asked for a client certificate at the last full handshake and got none.
    wants_certificate: AtomicBool,
    /// Whether the latest handshake offered the cheapest group alone (see [`super::groups`]).
    offered_one_group: AtomicBool,
    /// Whether the server failed such a handshake, and then completed one with every group.
    needs_every_group: AtomicBool,
}

/// A completed handshake.
pub(super) struct Made {
    /// When the leaf certificate expires, in seconds since 1970.
    pub(super) not_after: Option<i64>,
    pub(super) resumed: bool,
    /// Whether the server has just asked for a client certificate and got none.
    pub(super) wants_certificate: bool,
    /// What a full handshake showed, as a line.
    pub(super) details: Option<Arc<String>>,
    /// The session that the handshake offered.
    pub(super) session: Option<Kept<Resumable>>,
}

impl SessionSlot {
    fn lock(&self) -> MutexGuard<'_, TlsSlot<Resumable>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no session is stored, and one that the server gives would be stored.
    pub(super) fn lacks_session(&self) -> bool {
        self.lock().lacks_session()
    }

    /// Takes the session for a handshake that begins now; None if there is none or a full handshake
    /// is due.
    pub(super) fn take(&self, full_every: Duration) -> Option<Kept<Resumable>> {
        self.lock().take(full_every, Instant::now())
    }

    /// Stores a session that the server has just given, unless one is stored already.
    pub(super) fn put(&self, session: Resumable) {
        self.lock().put(session);
    }

    /// Records a completed handshake.
    pub(super) fn made(&self, made: Made) {
        let mut slot = self.lock();
        if made.resumed {
            let is_ticket = |kept: &Kept<Resumable>| kept.session.version() == SslVersion::TLS1_3;
            let is_ticket = made.session.as_ref().is_none_or(is_ticket);
            slot.resumed(made.session, is_ticket);
        } else {
            self.wants_certificate
                .store(made.wants_certificate, Relaxed);
            slot.made_full(Instant::now());
        }
    }

    /// Whether the server asked for a client certificate at the last full handshake and got none.
    pub(super) fn wants_certificate(&self) -> bool {
        self.wants_certificate.load(Relaxed)
    }

    /// Records a failed handshake: the next one is a full one. Returns what this one offered, if
    /// the probe is to be repeated without a session.
    pub(in crate::engine::probe) fn failed(&self, is_timeout: bool) -> Option<Offered> {
        self.lock().failed(is_timeout)
    }

    /// Records that a handshake failed because of the session it offered, or because of the only
    /// group that it offered with the session. Later handshakes offer every group then, and whether
    /// the session was the cause turns out the next time.
    pub(in crate::engine::probe) fn spoilt_by(&self, offered: Offered) {
        if self.offered_one_group.load(Relaxed) {
            self.needs_every_group.store(true, Relaxed);
        } else {
            self.lock().spoilt_by(offered);
        }
    }

    /// Whether a handshake that offers a session may offer a single group.
    pub(super) fn may_offer_one_group(&self) -> bool {
        !self.needs_every_group.load(Relaxed)
    }

    /// Records whether the handshake that begins now offers a single group.
    pub(super) fn offers_one_group(&self, is_so: bool) {
        self.offered_one_group.store(is_so, Relaxed);
    }
}
