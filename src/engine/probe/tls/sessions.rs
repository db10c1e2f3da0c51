//! What is kept of a target's TLS handshakes from probe to probe: which client makes the next
//! one, and the session that it may resume.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;
use rustls::client::Tls13ClientSessionValue;

use crate::sys::tls_session::Resumable;

/// So many new sessions in a row that the server refused: no more are kept, until the next
/// full handshake that is due.
const REFUSED_MAX: u32 = 3;

/// How long rustls is left out after it failed where OpenSSL did not, and how long it goes on
/// without a full handshake of OpenSSL's, by the system's rules of that day, where such are due
/// more often.
const REVIEWED_EVERY: Duration = Duration::from_secs(3600);

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

/// A session, out of its slot while it is offered: one that the server does not take is not
/// offered again.
pub(super) struct Kept<S> {
    pub(super) session: S,
    /// How often it was resumed.
    uses: u32,
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Client {
    #[default]
    Openssl,
    Rustls,
}

struct Slot<S> {
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
    certificate_end: Option<i64>,
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
    fn lacks_session(&self) -> bool {
        self.keeps && self.kept.is_none() && self.refused < REFUSED_MAX && self.last == self.next
    }

    fn take(&mut self, full_every: Duration, now: Instant) -> (Client, Option<Kept<S>>) {
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

    fn put(&mut self, session: S) {
        if self.lacks_session() {
            self.kept = Some(Kept { session, uses: 0 });
        }
    }

    /// RFC 8446 §C.4 advises to use a ticket of TLS 1.3 once, so that nobody can tell that two
    /// connections are one client's. Probes are: to use it again, where the client can, saves both
    /// sides a new one each time. Where the server takes none twice, the next one is waited for.
    fn resumed(&mut self, kept: Option<Kept<S>>, is_ticket: bool) {
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
    fn made_full(&mut self, suits_rustls: bool, certificate_end: Option<i64>, now: Instant) {
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

    fn failed(&mut self) {
        self.kept = None;
        self.next = Client::Openssl;
        self.is_proven = false;
        self.is_proven_to_resume = false;
        // Another failure may come before the next handshake begins.
        self.last = Client::Openssl;
        self.offered = None;
    }

    fn suspect(&self, is_timeout: bool) -> Option<Suspect> {
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
    fn convicted(&mut self, suspect: Suspect, is_timeout: bool, now: Instant) {
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
            let (_, kept) = self.slot.take(HOUR, self.now);
            let is_offered = kept.is_some();
            assert_eq!(self.slot.offered, kept.as_ref().map(|kept| kept.uses));
            let is_resumed = kept.as_ref().is_some_and(|kept| kept.uses < self.takes);
            self.give(self.within_handshake && !is_resumed);
            match kept {
                Some(kept) if is_resumed => self.slot.resumed(Some(kept), !self.within_handshake),
                _ => self.slot.made_full(false, None, self.now),
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
        let kept = server.slot.take(HOUR, server.now).1.unwrap();
        // Newer ones came, and were left.
        assert_eq!((kept.session, kept.uses), (0, 3));
        // One that is refused late tells nothing of the next.
        server.slot.made_full(false, None, server.now);
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
        let kept = Kept {
            session: 8,
            uses: 0,
        };
        slot.resumed(Some(kept), false);
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
        assert!(server.slot.take(HOUR, server.now).1.is_some());
        let suspect = server.slot.suspect(false).unwrap();
        server.slot.failed();
        server.resumed(1);
        server.slot.convicted(suspect, false, server.now);
        assert_eq!(server.offered(58), [false; 58]);
        assert_eq!(server.offered(3), [false, true, true], "when due");

        // Used ones do.
        let mut server = Server::new(u32::MAX);
        server.resumed(2);
        assert!(server.slot.take(HOUR, server.now).1.is_some());
        let suspect = server.slot.suspect(false).unwrap();
        server.slot.failed();
        server.resumed(1);
        server.slot.convicted(suspect, false, server.now);
        for _ in 0..5 {
            assert_eq!(server.probe(), (true, true));
            assert_eq!(server.slot.kept.as_ref().map(|kept| kept.uses), Some(0));
        }
        // And then new ones as well.
        server
            .slot
            .convicted(Suspect::Session(1), false, server.now);
        assert!(!server.slot.lacks_session() && server.slot.kept.is_none());
    }

    #[test]
    fn what_is_due_is_full_and_a_newer_session_stays() {
        let mut server = Server::new(u32::MAX);
        server.resumed(2);
        let (_, kept) = server.slot.take(HOUR, server.now);
        server.slot.put(9);
        server.slot.resumed(kept, true);
        let newer = server.slot.kept.as_ref().map(|kept| kept.session);
        assert_eq!(newer, Some(9));
        let due = server.now + HOUR;
        assert!(server.slot.take(HOUR, due).1.is_none());
        assert_eq!(server.slot.offered, None);
    }

    /// One handshake of a server that suits both clients; whoever made it, and whether a session
    /// was offered.
    fn handshake(slot: &mut Slot<u32>, full_every: Duration, now: Instant) -> (Client, bool) {
        let (client, kept) = slot.take(full_every, now);
        let is_offered = kept.is_some();
        if is_offered {
            slot.resumed(None, true);
        } else {
            slot.made_full(client == Client::Openssl, Some(7), now);
        }
        slot.put(0);
        (client, is_offered)
    }

    #[test]
    fn rustls_follows_openssl_and_starts_with_a_full_handshake() {
        let mut slot = Slot::default();
        let now = Instant::now();
        let seen = [(); 4].map(|()| handshake(&mut slot, HOUR, now));
        let expected = [
            (Client::Openssl, false),
            (Client::Rustls, false),
            (Client::Rustls, true),
            (Client::Rustls, true),
        ];
        assert_eq!(seen, expected);
        assert_eq!(slot.certificate_end, Some(7));
        // OpenSSL looks after it once an hour, where a full handshake is due.
        let due = now + HOUR;
        let seen = [(); 3].map(|()| handshake(&mut slot, HOUR, due));
        assert_eq!(seen, expected[..3]);
        let minute = due + MINUTE;
        assert_eq!(
            handshake(&mut slot, MINUTE, minute),
            (Client::Rustls, false)
        );
        let day = HOUR * 24;
        assert_eq!(
            handshake(&mut slot, day, due + HOUR),
            (Client::Rustls, true)
        );
        assert_eq!(
            handshake(&mut slot, day, minute + day),
            (Client::Openssl, false)
        );
    }

    #[test]
    fn a_session_of_one_client_is_not_kept_for_the_other() {
        let mut slot = Slot::default();
        let now = Instant::now();
        slot.take(HOUR, now);
        // Within the handshake, and after it.
        slot.put(1);
        slot.made_full(true, None, now);
        slot.put(2);
        assert!(slot.kept.is_none() && !slot.lacks_session());
    }

    #[test]
    fn who_keeps_no_sessions_has_both_clients_all_the_same() {
        let mut slot = Slot::default();
        let now = Instant::now();
        let seen = [(); 3].map(|()| handshake(&mut slot, Duration::ZERO, now));
        assert_eq!(seen.map(|(_, is_offered)| is_offered), [false; 3]);
        assert_eq!(
            seen.map(|(client, _)| client == Client::Rustls),
            [false, true, true]
        );
        let later = now + HOUR;
        let seen = [(); 2].map(|()| handshake(&mut slot, Duration::ZERO, later).0);
        assert_eq!(seen, [Client::Openssl, Client::Rustls]);
        // Sessions that are wanted again are kept again.
        let now = later;
        assert_eq!(handshake(&mut slot, HOUR, now), (Client::Rustls, false));
        assert_eq!(handshake(&mut slot, HOUR, now), (Client::Rustls, true));
    }

    #[test]
    fn what_fails_rustls_alone_is_left_to_openssl_for_an_hour() {
        for full_every in [HOUR * 24, Duration::ZERO] {
            let mut slot = Slot::default();
            let now = Instant::now();
            handshake(&mut slot, full_every, now);
            assert_eq!(slot.suspect(false), None, "OpenSSL, without a session");
            slot.take(full_every, now);
            let suspect = slot.suspect(false).unwrap();
            slot.failed();
            assert_eq!(suspect, Suspect::Rustls);
            handshake(&mut slot, full_every, now);
            slot.convicted(suspect, false, now);
            let soon = now + HOUR - Duration::from_secs(1);
            for at in [now, soon] {
                assert_eq!(handshake(&mut slot, full_every, at).0, Client::Openssl);
            }
            let later = now + HOUR + Duration::from_secs(1);
            // What resumes tells nothing of rustls: the next full one does.
            slot.kept = None;
            assert_eq!(handshake(&mut slot, full_every, later).0, Client::Openssl);
            assert_eq!(handshake(&mut slot, full_every, later).0, Client::Rustls);
        }
    }

    #[test]
    fn only_who_never_answered_rustls_is_asked_again_after_silence() {
        let mut slot = Slot::default();
        let now = Instant::now();
        handshake(&mut slot, HOUR, now);
        slot.take(HOUR, now);
        assert_eq!(slot.suspect(true), Some(Suspect::Rustls));
        slot.failed();
        for _ in 0..2 {
            handshake(&mut slot, HOUR, now);
        }
        slot.take(HOUR, now);
        assert_eq!(
            slot.suspect(true),
            Some(Suspect::NewSession),
            "never resumed"
        );
        handshake(&mut slot, HOUR, now);
        handshake(&mut slot, HOUR, now);
        slot.take(HOUR, now);
        assert_eq!(slot.suspect(true), None);
        assert_eq!(slot.suspect(false), Some(Suspect::NewSession));
        slot.kept = None;
        slot.take(HOUR, now);
        assert_eq!(slot.suspect(true), None, "met before");
        assert_eq!(slot.suspect(false), Some(Suspect::Rustls));
        slot.failed();
        assert_eq!(slot.suspect(false), None, "until the next handshake");
        // Silence that comes back with rustls is its own.
        assert_eq!(handshake(&mut slot, HOUR, now).0, Client::Openssl);
        assert_eq!(slot.take(HOUR, now).0, Client::Rustls);
        assert_eq!(slot.suspect(true), Some(Suspect::Rustls));
    }

    #[test]
    fn sessions_that_fail_rustls_are_offered_no_more() {
        for (is_timeout, convictions) in [(false, 3), (true, 1)] {
            let mut slot = Slot::default();
            let now = Instant::now();
            for _ in 0..convictions {
                // OpenSSL, rustls, and rustls with a session.
                handshake(&mut slot, HOUR, now);
                handshake(&mut slot, HOUR, now);
                assert!(slot.take(HOUR, now).1.is_some());
                let suspect = slot.suspect(is_timeout).unwrap();
                assert_eq!(suspect, Suspect::NewSession);
                slot.failed();
                slot.convicted(suspect, is_timeout, now);
            }
            let seen = [(); 4].map(|()| handshake(&mut slot, HOUR, now));
            assert!(seen.iter().all(|&(_, is_offered)| !is_offered));
            assert_eq!(slot.last, Client::Rustls, "which is not to blame");
        }
    }
}
