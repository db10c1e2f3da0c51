//! Where what a target's TLS handshakes leave is kept from probe to probe, with the sessions of
//! either client.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;
use rustls::client::Tls13ClientSessionValue;

use super::slot::{Client, Kept, Slot, Suspect};
use crate::sys::tls_session::Resumable;

/// Where what one target's handshakes left is kept between its probes.
#[derive(Default)]
pub struct SessionSlot(Mutex<Slot<Session>>);

/// A session, of the client that may resume it.
pub(super) enum Session {
    Openssl(Resumable),
    Rustls(Box<Tls13ClientSessionValue>),
}

/// Who makes a handshake, with the session to offer.
pub(super) enum Offer {
    Openssl(Option<Kept<Resumable>>),
    Rustls(Option<Box<Tls13ClientSessionValue>>),
}

/// A handshake that was made.
pub(super) struct Made {
    /// Seconds since 1970 at which the leaf certificate ends.
    pub(super) not_after: Option<i64>,
    pub(super) resumed: bool,
    /// What was offered, if it may be offered again.
    pub(super) session: Option<Kept<Resumable>>,
    /// It was a full one by OpenSSL which rustls could have made.
    pub(super) suits_rustls: bool,
}

impl SessionSlot {
    fn lock(&self) -> MutexGuard<'_, Slot<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no session, and hope for one.
    pub(super) fn lacks_session(&self) -> bool {
        self.lock().lacks_session()
    }

    /// What may be to blame for the failure of the last handshake, or of what followed it. What
    /// passed its deadline would do so again, unless the server has never answered the like.
    pub(in crate::engine::probe) fn suspect(&self, is_timeout: bool) -> Option<Suspect> {
        self.lock().suspect(is_timeout)
    }

    /// The session for one more handshake, unless it is time for a full one.
    pub(super) fn take(&self, full_every: Duration) -> Offer {
        let (client, kept) = self.lock().take(full_every, Instant::now());
        match (client, kept) {
            (Client::Openssl, kept) => Offer::Openssl(kept.and_then(Kept::of_openssl)),
            (Client::Rustls, kept) => Offer::Rustls(kept.and_then(Kept::of_rustls)),
        }
    }

    /// Keeps a session that the server has just given, if there is none.
    pub(super) fn put(&self, session: Session) {
        self.lock().put(session);
    }

    /// Takes in a handshake that was made.
    pub(super) fn made(&self, made: Made) {
        let mut slot = self.lock();
        if made.resumed {
            let is_ticket = |kept: &Kept<Resumable>| kept.session.version() == SslVersion::TLS1_3;
            let is_ticket = made.session.as_ref().is_none_or(is_ticket);
            let kept = made.session.map(|kept| Kept {
                session: Session::Openssl(kept.session),
                uses: kept.uses,
            });
            slot.resumed(kept, is_ticket);
        } else {
            slot.made_full(made.suits_rustls, made.not_after, Instant::now());
        }
    }

    /// The end of the certificate that the last full handshake showed, in seconds since 1970.
    pub(super) fn certificate_end(&self) -> Option<i64> {
        self.lock().certificate_end
    }

    /// The handshake failed: the next one is a full one, by OpenSSL.
    pub(in crate::engine::probe) fn failed(&self) {
        self.lock().failed();
    }

    /// A handshake failed under suspicion, and at once a plain one did not; or it took all the
    /// time there was, so that no other could tell.
    pub(in crate::engine::probe) fn convicted(&self, suspect: Suspect, is_timeout: bool) {
        self.lock().convicted(suspect, is_timeout, Instant::now());
    }
}

impl Kept<Session> {
    fn of_openssl(self) -> Option<Kept<Resumable>> {
        match self.session {
            Session::Openssl(session) => Some(Kept {
                session,
                uses: self.uses,
            }),
            Session::Rustls(_) => None,
        }
    }

    fn of_rustls(self) -> Option<Box<Tls13ClientSessionValue>> {
        match self.session {
            Session::Rustls(session) => Some(session),
            Session::Openssl(_) => None,
        }
    }
}
