//! Decides which session a target's next TLS handshake offers, and learns from the outcomes whether
//! offering sessions to this server works. Independent of OpenSSL: a session is of any type.

use std::time::{Duration, Instant};

/// How many new sessions in a row the server may refuse to resume. After that no session is stored
/// until the next full handshake is due, because each would cost both sides work for nothing.
const REFUSED_MAX: u32 = 3;

/// A stored session. It is taken out of its slot when it is offered and put back only if the server
/// resumes it, so a session that the server refused is not offered again.
pub(super) struct Kept<S> {
    pub(super) session: S,
    /// How often it was resumed.
    pub(super) uses: u32,
}

/// What a handshake offered. If the handshake fails, the offered session may be the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::probe) struct Offered {
    /// How often the session had been resumed before.
    uses: u32,
}

pub(super) struct TlsSlot<S> {
    kept: Option<Kept<S>>,
    /// Whether sessions are resumed at all: not if the interval of full handshakes is 0.
    keeps: bool,
    /// When the last full handshake that was due was made. Full handshakes that the server made
    /// because it refused a session do not move this time, so they do not postpone the next one.
    full_handshake_at: Option<Instant>,
    /// The session that the current handshake offers.
    offered: Option<Offered>,
    /// Whether the server has resumed a session once and refused it the second time.
    is_single_use: bool,
    /// How many new sessions in a row the server has refused.
    refused: u32,
    /// Whether the server has resumed a session since the last failed handshake.
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
    /// Whether a session that the server gives would be stored.
    pub(super) fn lacks_session(&self) -> bool {
        self.keeps && self.kept.is_none() && self.refused < REFUSED_MAX
    }

    /// Takes the session for a handshake that begins now; None if there is none or a full handshake
    /// is due.
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

    /// Stores a session that the server gave, unless one is stored already.
    pub(super) fn put(&mut self, session: S) {
        if self.lacks_session() {
            self.kept = Some(Kept { session, uses: 0 });
        }
    }

    /// Records that the handshake resumed the offered session.
    ///
    /// RFC 8446 §C.4 advises to use a TLS 1.3 ticket only once, so that an observer cannot link two
    /// connections to one client. Probes need no such privacy, and using a ticket again saves both
    /// sides a new one each time. If the server does not resume a ticket twice, each ticket is used
    /// once and the next one is waited for.
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

    /// Records a full handshake. A session that was offered was refused.
    pub(super) fn made_full(&mut self, now: Instant) {
        match self.offered.take() {
            Some(Offered { uses: 0 }) => self.refuse(self.refused.saturating_add(1)),
            Some(Offered { uses: 1 }) => self.is_single_use = true,
            // A session that was resumed more often has merely expired.
            Some(_) | None => {}
        }
        self.full_handshake_at.get_or_insert(now);
    }

    /// Records a failed handshake: the next one offers nothing. Returns what this one offered, if
    /// the probe is to be repeated without a session.
    ///
    /// After a timeout the probe is repeated only if the server has resumed no session since its
    /// last failure: it may be a server that ignores a ClientHello with a session. A server that
    /// has resumed one has stopped answering, and repeating the probe would delay that verdict by a
    /// second timeout.
    pub(super) fn failed(&mut self, is_timeout: bool) -> Option<Offered> {
        let offered = self
            .offered
            .take()
            .filter(|_| !(is_timeout && self.has_resumed));
        self.kept = None;
        self.has_resumed = false;
        offered
    }

    /// Records that the offered session made the handshake fail. Each such failure costs a second
    /// connection, so until a full handshake is due, the server is offered no session at all if a
    /// new one failed, and only new ones if a used one failed.
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
            // In TLS 1.2 the handshake that refuses a session may already have given a new one.
            self.kept = None;
        }
    }
}

#[cfg(test)]
mod tests;
