//! Which session a target's next TLS handshake offers, and what its outcomes say about offering
//! any. Independent of OpenSSL: a session is of any type.

use std::time::{Duration, Instant};

/// New sessions that the server may refuse in a row. After that none are kept until the next
/// full handshake is due: each would cost memory and work on both sides for nothing.
const REFUSED_MAX: u32 = 3;

/// A session. It is taken out of its slot while it is offered: one that the server does not
/// resume is not offered again.
pub(super) struct Kept<S> {
    pub(super) session: S,
    /// How often it was resumed.
    pub(super) uses: u32,
}

/// A session that a failed handshake had offered: the failure may be due to the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::probe) struct Offered {
    /// How often it had been resumed before.
    uses: u32,
}

pub(super) struct TlsSlot<S> {
    kept: Option<Kept<S>>,
    /// Whether sessions are to be resumed at all.
    keeps: bool,
    /// When the first full handshake was made since one was due. Full handshakes that refused
    /// sessions bring about must not postpone the next one that is due.
    full_handshake_at: Option<Instant>,
    /// The session that the current handshake offers.
    offered: Option<Offered>,
    /// The server resumed a session once and not again.
    is_single_use: bool,
    /// New sessions refused in a row.
    refused: u32,
    /// The server has resumed a session since the last failure.
    has_resumed: bool,
}

impl<S> Default for TlsSlot<S> {
    fn default() -> Self {
        Self {
            kept: None,
            keeps: true,
            full_handshake_at: None,
            offered: None,
            is_single_use: false,
            refused: 0,
            has_resumed: false,
        }
    }
}

impl<S> TlsSlot<S> {
    /// Whether a session that the server gives would be kept.
    pub(super) fn lacks_session(&self) -> bool {
        self.keeps && self.kept.is_none() && self.refused < REFUSED_MAX
    }

    /// The session for a handshake that begins now, or none where a full one is due.
    pub(super) fn take(&mut self, full_every: Duration, now: Instant) -> Option<Kept<S>> {
        let is_due = |at| now.saturating_duration_since(at) >= full_every;
        if self.full_handshake_at.is_none_or(is_due) {
            *self = Self {
                has_resumed: self.has_resumed,
                ..Self::default()
            };
        }
        self.keeps = !full_every.is_zero();
        let kept = self.kept.take();
        self.offered = kept.as_ref().map(|kept| Offered { uses: kept.uses });
        kept
    }

    /// Keeps a session that the server gave, unless there is one.
    pub(super) fn put(&mut self, session: S) {
        if self.lacks_session() {
            self.kept = Some(Kept { session, uses: 0 });
        }
    }

    /// The handshake resumed the session that was offered.
    ///
    /// RFC 8446 §C.4 advises to use a ticket of TLS 1.3 once, so that an observer cannot tell
    /// that two connections are one client's. Probes need no such secrecy: using a ticket again
    /// saves both sides a new one each time. Where the server resumes none twice, each is used
    /// once and the next is waited for.
    pub(super) fn resumed(&mut self, kept: Option<Kept<S>>, is_ticket: bool) {
        self.offered = None;
        self.refused = 0;
        self.has_resumed = true;
        if let Some(kept) = kept.filter(|_| !(is_ticket && self.is_single_use)) {
            self.kept.get_or_insert(Kept {
                uses: kept.uses.saturating_add(1),
                ..kept
            });
        }
    }

    /// The handshake was a full one, whatever was offered.
    pub(super) fn made_full(&mut self, now: Instant) {
        match self.offered.take() {
            Some(Offered { uses: 0 }) => self.refuse(self.refused.saturating_add(1)),
            Some(Offered { uses: 1 }) => self.is_single_use = true,
            // The session has merely expired.
            Some(_) | None => {}
        }
        self.full_handshake_at.get_or_insert(now);
    }

    /// The handshake failed: the next one offers nothing. Returns what this one had offered, if
    /// the probe is to be repeated without it.
    ///
    /// After a timeout it is repeated only if the server has not resumed any session since its
    /// last failure: such a server may drop a hello that offers one. One that has resumed before
    /// has stopped answering, and a second timeout would only delay that verdict.
    pub(super) fn failed(&mut self, is_timeout: bool) -> Option<Offered> {
        let offered = self
            .offered
            .take()
            .filter(|_| !(is_timeout && self.has_resumed));
        self.kept = None;
        self.has_resumed = false;
        offered
    }

    /// The offer was why the handshake failed. Such a server costs two connections each time, so
    /// it is offered no session again that was used as often, until a full handshake is due.
    pub(super) fn spoilt_by(&mut self, offered: Offered) {
        if offered.uses == 0 || self.is_single_use {
            self.refuse(REFUSED_MAX);
        } else {
            self.is_single_use = true;
        }
    }

    fn refuse(&mut self, refused: u32) {
        self.refused = refused;
        if refused >= REFUSED_MAX {
            // TLS 1.2 gives a session within the handshake that refused the one before.
            self.kept = None;
        }
    }
}

#[cfg(test)]
mod tests;
