//! Which client makes a target's next TLS handshake, with which session, and who was to blame for
//! the last one. Knows no library: a session is anything.

use std::time::{Duration, Instant};

/// So many new sessions in a row that the server refused: no more are kept, until the next
/// full handshake that is due.
const REFUSED_MAX: u32 = 3;

/// How long rustls is left out after it failed where OpenSSL did not, and how long it goes on
/// without a full handshake of OpenSSL's, by the system's rules of that day, where such are due
/// more often.
const REVIEWED_EVERY: Duration = Duration::from_secs(3600);

/// A session, out of its slot while it is offered: one that the server does not take is not
/// offered again.
pub(super) struct Kept<S> {
    pub(super) session: S,
    /// How often it was resumed.
    pub(super) uses: u32,
}

/// What may have made a handshake fail where a plain one, by OpenSSL and without a session,
/// would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::probe) enum Suspect {
    /// The session that OpenSSL offered, and had been resumed so often.
    Session(u32),
    /// The session that rustls offered, as new as each of its.
    NewSession,
    Rustls,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Client {
    #[default]
    Openssl,
    Rustls,
}

pub(super) struct Slot<S> {
    /// Of the client that makes the next handshake.
    kept: Option<Kept<S>>,
    /// Whether sessions are to be resumed at all.
    keeps: bool,
    /// The first full handshake since one was due: those that refusals bring about must not
    /// put off the next one that starts afresh.
    full_handshake_at: Option<Instant>,
    /// The uses of the session that the last handshake offered.
    offered: Option<u32>,
    /// The server took a session once and not again.
    is_single_use: bool,
    /// New sessions refused in a row.
    refused: u32,
    /// Who made the last handshake, and who makes the next.
    last: Client,
    next: Client,
    /// Rustls has made full handshakes with this server since the last failure, and has resumed.
    is_proven: bool,
    is_proven_to_resume: bool,
    /// Rustls failed where OpenSSL did not.
    barred_at: Option<Instant>,
    /// OpenSSL's last full handshake.
    reviewed_at: Option<Instant>,
    pub(super) certificate_end: Option<i64>,
}

impl<S> Default for Slot<S> {
    fn default() -> Self {
        Self {
            kept: None,
            keeps: true,
            full_handshake_at: None,
            offered: None,
            is_single_use: false,
            refused: 0,
            last: Client::Openssl,
            next: Client::Openssl,
            is_proven: false,
            is_proven_to_resume: false,
            barred_at: None,
            reviewed_at: None,
            certificate_end: None,
        }
    }
}

impl<S> Slot<S> {
    pub(super) fn lacks_session(&self) -> bool {
        self.keeps && self.kept.is_none() && self.refused < REFUSED_MAX && self.last == self.next
    }

    pub(super) fn take(&mut self, full_every: Duration, now: Instant) -> (Client, Option<Kept<S>>) {
        let is_due = |at| now.saturating_duration_since(at) >= full_every;
        if self.full_handshake_at.is_none_or(is_due) {
            let is_reviewed = is_recent(self.reviewed_at, now);
            *self = Self {
                next: if is_reviewed {
                    self.next
                } else {
                    Client::Openssl
                },
                is_proven: self.is_proven,
                is_proven_to_resume: self.is_proven_to_resume,
                barred_at: self.barred_at,
                reviewed_at: self.reviewed_at,
                ..Self::default()
            };
        }
        self.keeps = !full_every.is_zero();
        self.last = self.next;
        let kept = self.kept.take();
        self.offered = kept.as_ref().map(|kept| kept.uses);
        (self.last, kept)
    }

    pub(super) fn put(&mut self, session: S) {
        if self.lacks_session() {
            self.kept = Some(Kept { session, uses: 0 });
        }
    }

    /// RFC 8446 §C.4 advises to use a ticket of TLS 1.3 once, so that nobody can tell that two
    /// connections are one client's. Probes are: to use it again, where the client can, saves both
    /// sides a new one each time. Where the server takes none twice, the next one is waited for.
    pub(super) fn resumed(&mut self, kept: Option<Kept<S>>, is_ticket: bool) {
        self.refused = 0;
        self.is_proven_to_resume |= self.last == Client::Rustls;
        if let Some(kept) = kept.filter(|_| !(is_ticket && self.is_single_use)) {
            self.kept.get_or_insert(Kept {
                uses: kept.uses.saturating_add(1),
                ..kept
            });
        }
    }

    /// The handshake was a full one, whatever was offered.
    pub(super) fn made_full(
        &mut self,
        suits_rustls: bool,
        certificate_end: Option<i64>,
        now: Instant,
    ) {
        match self.offered {
            Some(0) => self.refuse(self.refused.saturating_add(1)),
            Some(1) => self.is_single_use = true,
            // It has merely come of age.
            Some(_) | None => {}
        }
        self.full_handshake_at.get_or_insert(now);
        self.certificate_end = certificate_end;
        if self.last == Client::Rustls {
            self.is_proven = true;
            return;
        }
        self.reviewed_at = Some(now);
        if suits_rustls && !is_recent(self.barred_at, now) {
            self.next = Client::Rustls;
            self.kept = None;
        }
    }

    pub(super) fn failed(&mut self) {
        self.kept = None;
        self.next = Client::Openssl;
        self.is_proven = false;
        self.is_proven_to_resume = false;
        // Another failure may come before the next handshake begins.
        self.last = Client::Openssl;
        self.offered = None;
    }

    pub(super) fn suspect(&self, is_timeout: bool) -> Option<Suspect> {
        let by_rustls = self.last == Client::Rustls;
        match self.offered {
            // A server may not answer what it does not know.
            Some(_) if by_rustls && !(is_timeout && self.is_proven_to_resume) => {
                Some(Suspect::NewSession)
            }
            Some(uses) if !by_rustls && !is_timeout => Some(Suspect::Session(uses)),
            None if by_rustls && !(is_timeout && self.is_proven) => Some(Suspect::Rustls),
            _ => None,
        }
    }

    /// A server that fails where it is offered a session costs two connections each time: it
    /// is offered none in the way that it failed. So it is with one that fails rustls.
    pub(super) fn convicted(&mut self, suspect: Suspect, is_timeout: bool, now: Instant) {
        match suspect {
            Suspect::Rustls => {
                self.barred_at = Some(now);
                self.failed();
            }
            // There is always one, so that a single fault of the network's is no proof.
            Suspect::NewSession if !is_timeout => self.refuse(self.refused.saturating_add(1)),
            Suspect::NewSession | Suspect::Session(0) => self.refuse(REFUSED_MAX),
            Suspect::Session(_) if self.is_single_use => self.refuse(REFUSED_MAX),
            Suspect::Session(_) => self.is_single_use = true,
        }
    }

    fn refuse(&mut self, refused: u32) {
        self.refused = refused;
        if refused >= REFUSED_MAX {
            // Sessions of TLS 1.2 come with the handshake that refused the one before.
            self.kept = None;
        }
    }
}

fn is_recent(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < REVIEWED_EVERY)
}

#[cfg(test)]
mod tests;
