use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// A server that gives a session with each handshake and resumes each `takes` times. It is probed
/// once a minute.
struct Server {
    slot: TlsSlot<u32>,
    now: Instant,
    takes: u32,
    given: u32,
    /// Whether a session comes within the handshake, as in TLS 1.2, or after it.
    within_handshake: bool,
}

impl Server {
    fn new(takes: u32) -> Self {
        Self {
            slot: TlsSlot::default(),
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
        let uses = self.slot.offered.map(|offered| offered.uses);
        assert_eq!(uses, kept.as_ref().map(|kept| kept.uses));
        let is_resumed = kept.as_ref().is_some_and(|kept| kept.uses < self.takes);
        self.give(self.within_handshake && !is_resumed);
        match kept {
            Some(kept) if is_resumed => self.slot.resumed(Some(kept), !self.within_handshake),
            _ => self.slot.made_full(self.now),
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
    // The server gave newer sessions, which were not stored.
    assert_eq!((kept.session, kept.uses), (0, 3));
    // A session refused after several uses says nothing about the next one.
    server.slot.made_full(server.now);
    assert!(!server.slot.is_single_use && server.slot.refused == 0);
}

#[test]
fn a_server_that_takes_none_twice_is_offered_each_once() {
    let mut server = Server::new(1);
    let expected = [false, true, false, true, true, true];
    assert_eq!(server.resumed(6), expected);
    // TLS 1.2 sessions are used many times.
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
    // The server restarts: it refuses the old session and gives a new one that it resumes.
    server.takes = 0;
    assert_eq!(server.resumed(1), [false]);
    server.takes = u32::MAX;
    assert_eq!(server.offered(3), [false, true, true]);
}

#[test]
fn what_fails_with_a_session_is_offered_none_in_that_way() {
    // Offering a new session makes the handshake fail.
    let mut server = Server::new(u32::MAX);
    server.resumed(1);
    assert!(server.slot.take(HOUR, server.now).is_some());
    let offered = server.slot.failed(false).unwrap();
    server.resumed(1);
    server.slot.spoilt_by(offered);
    assert_eq!(server.offered(58), [false; 58]);
    assert_eq!(server.offered(3), [false, true, true], "when due");

    // Offering a used session does.
    let mut server = Server::new(u32::MAX);
    server.resumed(2);
    assert!(server.slot.take(HOUR, server.now).is_some());
    let offered = server.slot.failed(false).unwrap();
    server.resumed(1);
    server.slot.spoilt_by(offered);
    for _ in 0..5 {
        assert_eq!(server.probe(), (true, true));
        assert_eq!(server.slot.kept.as_ref().map(|kept| kept.uses), Some(0));
    }
    // Then offering a new one does as well.
    server.slot.spoilt_by(Offered { uses: 1 });
    assert!(!server.slot.lacks_session() && server.slot.kept.is_none());
}

#[test]
fn a_failure_without_an_offer_is_never_repeated() {
    let mut server = Server::new(u32::MAX);
    for is_timeout in [false, true] {
        assert_eq!(server.slot.failed(is_timeout), None, "before any");
        assert!(server.slot.take(HOUR, server.now).is_none());
        assert_eq!(server.slot.failed(is_timeout), None, "a full one");
        server.resumed(2);
        assert_eq!(server.slot.failed(is_timeout), None, "one that has ended");
    }
}

#[test]
fn a_timeout_is_repeated_only_if_the_server_never_resumed() {
    let mut server = Server::new(u32::MAX);
    server.resumed(1);
    assert!(server.slot.take(HOUR, server.now).is_some());
    assert_eq!(server.slot.failed(true), Some(Offered { uses: 0 }));
    server.resumed(2);
    assert!(server.slot.take(HOUR, server.now).is_some());
    assert_eq!(server.slot.failed(true), None);
    // If the server is silent again when the next session is offered, the session is the cause.
    server.resumed(1);
    assert!(server.slot.take(HOUR, server.now).is_some());
    assert_eq!(server.slot.failed(true), Some(Offered { uses: 0 }));
}

#[test]
fn what_is_due_is_full_and_a_newer_session_stays() {
    let mut server = Server::new(u32::MAX);
    server.resumed(2);
    let kept = server.slot.take(HOUR, server.now);
    server.slot.put(9);
    server.slot.resumed(kept, true);
    let newer = server.slot.kept.as_ref().map(|kept| kept.session);
    assert_eq!(newer, Some(9));
    let due = server.now + HOUR;
    assert!(server.slot.take(HOUR, due).is_none());
    assert_eq!(server.slot.offered, None);
}
