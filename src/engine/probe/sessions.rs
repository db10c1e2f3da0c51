//! What is kept of a target's TLS sessions from probe to probe.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;

use crate::sys::tls_session::Resumable;

/// So many new sessions in a row that the server refused: no more are kept, until the next
/// full handshake that is due.
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
        self.lock().lacks_session()
    }

    /// How often the session that the last handshake offered had been resumed; none where it
    /// offered none. Had it offered none, it might have ended otherwise.
    pub(super) fn offered(&self) -> Option<u32> {
        self.lock().offered
    }

    /// The session for one more handshake, unless it is time for a full one.
    pub(super) fn take(&self, full_every: Duration) -> Option<Kept<Resumable>> {
        self.lock().take(full_every, Instant::now())
    }

    /// Keeps a session that the server has just given, if there is none.
    pub(super) fn put(&self, session: Resumable) {
        self.lock().put(session);
    }

    /// The session was resumed, and is kept if the server has given no newer one.
    pub(super) fn resumed(&self, kept: Kept<Resumable>) {
        let is_ticket = kept.session.version() == SslVersion::TLS1_3;
        self.lock().resumed(kept, is_ticket);
    }

    /// The handshake was a full one, `refused` the session that was offered.
    pub(super) fn made_full(&self, refused: Option<&Kept<Resumable>>) {
        self.lock().made_full(refused, Instant::now());
    }

    /// The handshake failed: the next one is a full one.
    pub(super) fn failed(&self) {
        self.lock().failed();
    }

    /// A handshake failed that offered a session resumed `uses` times, and at once a full one
    /// did not.
    pub(super) fn spoiled(&self, uses: u32) {
        self.lock().spoiled(uses);
    }
}

struct Slot<S> {
    kept: Option<Kept<S>>,
    /// The first full handshake since one was due: those that refusals bring about must not
    /// put off the next one that starts afresh.
    full_handshake_at: Option<Instant>,
    /// The uses of the session that the last handshake offered.
    offered: Option<u32>,
    /// The server took a session once and not again.
    is_single_use: bool,
    /// New sessions refused in a row.
    refused: u32,
}

impl<S> Default for Slot<S> {
    fn default() -> Self {
        Self {
            kept: None,
            full_handshake_at: None,
            offered: None,
            is_single_use: false,
            refused: 0,
        }
    }
}

impl<S> Slot<S> {
    fn lacks_session(&self) -> bool {
        self.kept.is_none() && self.refused < REFUSED_MAX
    }

    fn take(&mut self, full_every: Duration, now: Instant) -> Option<Kept<S>> {
        let is_due = |at| now.saturating_duration_since(at) >= full_every;
        if self.full_handshake_at.is_none_or(is_due) {
            *self = Self::default();
        }
        let kept = self.kept.take();
        self.offered = kept.as_ref().map(|kept| kept.uses);
        kept
    }

    fn put(&mut self, session: S) {
        if self.lacks_session() {
            self.kept = Some(Kept { session, uses: 0 });
        }
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

    fn made_full(&mut self, refused: Option<&Kept<S>>, now: Instant) {
        match refused.map(|kept| kept.uses) {
            Some(0) => self.refuse(self.refused.saturating_add(1)),
            Some(1) => self.is_single_use = true,
            // It has merely come of age.
            Some(_) | None => {}
        }
        self.full_handshake_at.get_or_insert(now);
    }

    fn failed(&mut self) {
        self.kept = None;
    }

    /// A server that fails where it is offered a session costs two connections each time: it
    /// is offered none in the way that it failed.
    fn spoiled(&mut self, uses: u32) {
        if uses == 0 || self.is_single_use {
            self.refuse(REFUSED_MAX);
        } else {
            self.is_single_use = true;
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A server that gives a session with each handshake and takes each so often, probed once
    /// a minute.
    struct Server {
        slot: Slot<u32>,
        now: Instant,
        takes: u32,
        given: u32,
        /// A session comes with the handshake, as in TLS 1.2, or after it.
        within_handshake: bool,
    }

    impl Server {
        fn new(takes: u32) -> Self {
            Self {
                slot: Slot::default(),
                now: Instant::now(),
                takes,
                given: 0,
                within_handshake: false,
            }
        }

        fn give(&mut self, now: bool) {
            if now {
                self.slot.put(self.given);
                self.given += 1;
            }
        }

        /// Whether a session was offered, and whether it was resumed.
        fn probe(&mut self) -> (bool, bool) {
            let kept = self.slot.take(HOUR, self.now);
            let is_offered = kept.is_some();
            assert_eq!(self.slot.offered, kept.as_ref().map(|kept| kept.uses));
            let is_resumed = kept.as_ref().is_some_and(|kept| kept.uses < self.takes);
            self.give(self.within_handshake && !is_resumed);
            match kept {
                Some(kept) if is_resumed => self.slot.resumed(kept, !self.within_handshake),
                refused => self.slot.made_full(refused.as_ref(), self.now),
            }
            self.give(!self.within_handshake);
            self.now += MINUTE;
            (is_offered, is_resumed)
        }

        fn resumed(&mut self, probes: u32) -> Vec<bool> {
            (0..probes).map(|_| self.probe().1).collect()
        }

        fn offered(&mut self, probes: u32) -> Vec<bool> {
            (0..probes).map(|_| self.probe().0).collect()
        }
    }

    #[test]
    fn a_session_is_offered_again_and_again() {
        let mut server = Server::new(u32::MAX);
        assert_eq!(server.resumed(4), [false, true, true, true]);
        let kept = server.slot.take(HOUR, server.now).unwrap();
        // Newer ones came, and were left.
        assert_eq!((kept.session, kept.uses), (0, 3));
        // One that is refused late tells nothing of the next.
        server.slot.made_full(Some(&kept), server.now);
        assert!(!server.slot.is_single_use && server.slot.refused == 0);
    }

    #[test]
    fn a_server_that_takes_none_twice_is_offered_each_once() {
        let mut server = Server::new(1);
        let expected = [false, true, false, true, true, true];
        assert_eq!(server.resumed(6), expected);
        // Sessions of TLS 1.2 are for many uses.
        let mut slot = server.slot;
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
        for within_handshake in [false, true] {
            let mut server = Server {
                within_handshake,
                ..Server::new(0)
            };
            let mut hour = [false; 60];
            hour[1..4].fill(true);
            for _ in 0..3 {
                assert_eq!(server.offered(60), hour, "{within_handshake}");
            }
            server.takes = u32::MAX;
            assert_eq!(server.resumed(2), [false, true]);
        }
    }

    #[test]
    fn full_handshakes_that_were_not_due_do_not_put_off_the_next() {
        let mut server = Server::new(u32::MAX);
        server.resumed(59);
        // A restart: what was offered is refused, what came in its place is good.
        server.takes = 0;
        assert_eq!(server.resumed(1), [false]);
        server.takes = u32::MAX;
        assert_eq!(server.offered(3), [false, true, true]);
    }

    #[test]
    fn what_fails_with_a_session_is_offered_none_in_that_way() {
        // New sessions spoil a handshake.
        let mut server = Server::new(u32::MAX);
        server.resumed(1);
        assert!(server.slot.take(HOUR, server.now).is_some());
        server.slot.failed();
        let uses = server.slot.offered.unwrap();
        server.resumed(1);
        server.slot.spoiled(uses);
        assert_eq!(server.offered(58), [false; 58]);
        assert_eq!(server.offered(3), [false, true, true], "when due");

        // Used ones do.
        let mut server = Server::new(u32::MAX);
        server.resumed(2);
        assert!(server.slot.take(HOUR, server.now).is_some());
        server.slot.failed();
        let uses = server.slot.offered.unwrap();
        server.resumed(1);
        server.slot.spoiled(uses);
        for _ in 0..5 {
            assert_eq!(server.probe(), (true, true));
            assert_eq!(server.slot.kept.as_ref().map(|kept| kept.uses), Some(0));
        }
        // And then new ones as well.
        server.slot.spoiled(1);
        assert!(!server.slot.lacks_session() && server.slot.kept.is_none());
    }

    #[test]
    fn what_is_due_is_full_and_a_newer_session_stays() {
        let mut server = Server::new(u32::MAX);
        server.resumed(2);
        let kept = server.slot.take(HOUR, server.now).unwrap();
        server.slot.put(9);
        server.slot.resumed(kept, true);
        let newer = server.slot.kept.as_ref().map(|kept| kept.session);
        assert_eq!(newer, Some(9));
        let due = server.now + HOUR;
        assert!(server.slot.take(HOUR, due).is_none());
        assert_eq!(server.slot.offered, None);
    }
}
