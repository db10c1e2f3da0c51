//! Where one target's TLS session is kept from probe to probe.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;

use super::slot::{Kept, Offered, TlsSlot};
use crate::sys::tls_session::Resumable;

/// What one target's handshakes leave for its next probe.
#[derive(Default)]
pub struct SessionSlot(Mutex<TlsSlot<Resumable>>);

/// A handshake that was made.
pub(super) struct Made {
    /// Seconds since 1970 at which the leaf certificate ends.
    pub(super) not_after: Option<i64>,
    pub(super) resumed: bool,
    /// What was offered.
    pub(super) session: Option<Kept<Resumable>>,
}

impl SessionSlot {
    fn lock(&self) -> MutexGuard<'_, TlsSlot<Resumable>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no session, and one that the server gives would be kept.
    pub(super) fn lacks_session(&self) -> bool {
        self.lock().lacks_session()
    }

    /// The session for a handshake that begins now, or none where a full one is due.
    pub(super) fn take(&self, full_every: Duration) -> Option<Kept<Resumable>> {
        self.lock().take(full_every, Instant::now())
    }

    /// Keeps a session that the server has just given, unless there is one.
    pub(super) fn put(&self, session: Resumable) {
        self.lock().put(session);
    }

    /// Takes in a handshake that was made.
    pub(super) fn made(&self, made: Made) {
        let mut slot = self.lock();
        if made.resumed {
            let is_ticket = |kept: &Kept<Resumable>| kept.session.version() == SslVersion::TLS1_3;
            let is_ticket = made.session.as_ref().is_none_or(is_ticket);
            slot.resumed(made.session, is_ticket);
        } else {
            slot.made_full(Instant::now());
        }
    }

    /// The handshake failed, so the next one is a full one. Returns what this one had offered,
    /// if the probe is to be repeated without it.
    pub(in crate::engine::probe) fn failed(&self, is_timeout: bool) -> Option<Offered> {
        self.lock().failed(is_timeout)
    }

    /// The handshake failed because of what it offered: without it, it did not.
    pub(in crate::engine::probe) fn spoilt_by(&self, offered: Offered) {
        self.lock().spoilt_by(offered);
    }
}
