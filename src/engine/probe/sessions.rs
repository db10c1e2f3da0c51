//! What is kept of a target's TLS sessions from probe to probe.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;

use crate::sys::tls_session::Resumable;

/// So many new sessions in a row that the server refused: no more are waited for, until the
/// next full handshake that is due.
const REFUSED_MAX: u32 = 3;

/// Where one target's resumable session is kept between its probes.
#[derive(Default)]
pub struct SessionSlot(Mutex<Slot<Resumable>>);

/// A session, out of its slot while it is offered: one that the server does not take is not
/// offered again.
pub(super) struct Kept<S> {
    pub(super) session: S,
    /// How often it was resumed.
    uses: u32,
}

impl SessionSlot {
    fn lock(&self) -> MutexGuard<'_, Slot<Resumable>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is no session, and hope for one.
    pub(super) fn lacks_session(&self) -> bool {
        let slot = self.lock();
        slot.kept.is_none() && slot.refused < REFUSED_MAX
    }

    /// Whether the last handshake offered a session: had it offered none, it might have
    /// ended otherwise.
    pub(super) fn has_offered(&self) -> bool {
        self.lock().has_offered
    }

    /// The session for one more handshake, unless it is time for a full one.
    pub(super) fn take(&self, full_every: Duration) -> Option<Kept<Resumable>> {
        self.lock().take(full_every)
    }

    /// Keeps a session that the server has just given.
    pub(super) fn put(&self, session: Resumable) {
        self.lock().kept = Some(Kept { session, uses: 0 });
    }

    /// The session was resumed, and is kept if the server has given no newer one.
    pub(super) fn resumed(&self, kept: Kept<Resumable>) {
        let is_ticket = kept.session.version() == SslVersion::TLS1_3;
        self.lock().resumed(kept, is_ticket);
    }

    /// The handshake was a full one, `refused` the session that was offered.
    pub(super) fn made_full(&self, refused: Option<&Kept<Resumable>>) {
        self.lock().made_full(refused);
    }

    /// Forgets the session, so that the next handshake is a full one.
    pub fn clear(&self) {
        *self.lock() = Slot::default();
    }
}

struct Slot<S> {
    kept: Option<Kept<S>>,
    full_handshake_at: Option<Instant>,
    /// Whether the last handshake offered a session.
    has_offered: bool,
    /// The server took a ticket once and not again.
    is_single_use: bool,
    /// New sessions refused in a row.
    refused: u32,
}

impl<S> Default for Slot<S> {
    fn default() -> Self {
        Self {
            kept: None,
            full_handshake_at: None,
            has_offered: false,
            is_single_use: false,
            refused: 0,
        }
    }
}

impl<S> Slot<S> {
    fn take(&mut self, full_every: Duration) -> Option<Kept<S>> {
        let is_due = |at: Instant| at.elapsed() >= full_every;
        if self.full_handshake_at.is_none_or(is_due) {
            *self = Self::default();
        }
        let kept = self.kept.take();
        self.has_offered = kept.is_some();
        kept
    }

    /// RFC 8446 §C.4 advises to use a ticket of TLS 1.3 once, so that nobody can tell that two
    /// connections are one client's. Probes are: to use it again saves both sides a new one
    /// each time. Where the server takes none twice, the next one is waited for.
    fn resumed(&mut self, kept: Kept<S>, is_ticket: bool) {
        self.refused = 0;
        if !(is_ticket && self.is_single_use) {
            self.kept.get_or_insert(Kept {
                uses: kept.uses.saturating_add(1),
                ..kept
            });
        }
    }

    fn made_full(&mut self, refused: Option<&Kept<S>>) {
        match refused.map(|kept| kept.uses) {
            Some(0) => self.refused += 1,
            Some(1) => self.is_single_use = true,
            // It has merely come of age.
            Some(_) | None => {}
        }
        self.full_handshake_at = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A server that gives a session with each handshake, as far as it is waited for, and
    /// takes each so often.
    fn resumed(slot: &mut Slot<u32>, probes: u32, takes: u32) -> Vec<bool> {
        let mut probe = |number| {
            let kept = slot.take(HOUR);
            let is_resumed = kept.as_ref().is_some_and(|kept| kept.uses < takes);
            match kept {
                Some(kept) if is_resumed => slot.resumed(kept, true),
                refused => slot.made_full(refused.as_ref()),
            }
            if slot.kept.is_none() && slot.refused < REFUSED_MAX {
                slot.kept = Some(Kept {
                    session: number,
                    uses: 0,
                });
            }
            is_resumed
        };
        (0..probes).map(&mut probe).collect()
    }

    #[test]
    fn a_session_is_offered_again_and_again() {
        let mut slot = Slot::default();
        assert_eq!(resumed(&mut slot, 4, u32::MAX), [false, true, true, true]);
        let kept = slot.take(HOUR).unwrap();
        assert_eq!((kept.session, kept.uses), (0, 3));
        // One that is refused late tells nothing of the next.
        slot.made_full(Some(&kept));
        assert!(!slot.is_single_use && slot.refused == 0);
    }

    #[test]
    fn a_server_that_takes_none_twice_is_offered_each_once() {
        let mut slot = Slot::default();
        let expected = [false, true, false, true, true, true];
        assert_eq!(resumed(&mut slot, 6, 1), expected);
        // Sessions of TLS 1.2 are for many uses.
        slot.resumed(
            Kept {
                session: 7,
                uses: 0,
            },
            false,
        );
        slot.kept = None;
        slot.resumed(
            Kept {
                session: 8,
                uses: 0,
            },
            false,
        );
        assert_eq!(slot.kept.as_ref().map(|kept| kept.session), Some(8));
    }

    #[test]
    fn a_server_that_takes_none_is_offered_none_until_a_full_handshake_is_due() {
        let mut slot = Slot::default();
        assert_eq!(resumed(&mut slot, 20, 0), [false; 20]);
        assert!(slot.refused == REFUSED_MAX && slot.kept.is_none());
        assert!(slot.take(Duration::ZERO).is_none());
        assert_eq!(slot.refused, 0);
        assert_eq!(resumed(&mut slot, 2, u32::MAX), [false, true]);
    }

    #[test]
    fn what_is_due_is_full_and_a_newer_session_stays() {
        let mut slot = Slot::default();
        resumed(&mut slot, 2, u32::MAX);
        let kept = slot.take(HOUR).unwrap();
        slot.kept = Some(Kept {
            session: 9,
            uses: 0,
        });
        slot.resumed(kept, true);
        assert_eq!(slot.kept.as_ref().map(|kept| kept.session), Some(9));
        assert!(slot.take(Duration::ZERO).is_none());
        assert!(!slot.has_offered);
    }
}
