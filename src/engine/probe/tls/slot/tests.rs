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
