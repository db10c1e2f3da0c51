//! A store that loses data, has no memory left, or whose clock goes back.

use std::time::Duration;

use nauthilus_backend::engine::cluster::script::{
    FlushStep, LoginAnswer, LoginHow, Operated, Remembered, UserDigest, user_record,
};

use super::requests::{RETENTION, alice, binding, dead, seen, user};
use super::server::{PREFIX, SECOND, Server};

#[test]
#[ignore = "starts redis-server"]
fn a_record_is_readable() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    server.run(&server.move_to("b", true));
    server.run(&server.hold(60));
    let expected = [
        ("node", "b"),
        ("from", "a"),
        ("since", "4102444800000"),
        ("until", ""),
        ("reason", "asked for"),
        ("by", "ann"),
        ("keep", "1"),
        ("held", "4102444860000"),
        ("held_reason", "mailbox repair"),
        ("held_by", "ann"),
        // The first login has the clock's time, each change after it one more.
        ("generation", "4102444800000002"),
    ];
    for (name, value) in expected {
        assert_eq!(server.field(&alice(), name), value, "{name}");
    }
    let key = String::from_utf8(user_record(PREFIX, &alice())).unwrap();
    assert_eq!(key, format!("{{{PREFIX}}}:user:{}", alice().0));
}

#[test]
#[ignore = "starts redis-server"]
fn generations_never_go_back() {
    let mut server = Server::start();
    let first = binding(server.run(&server.login(&[seen("a")]))).generation;
    assert_eq!(first, server.now);
    // The clock goes back, as that of another server may after a failover.
    server.set_clock(server.now - 3_600 * SECOND);
    let other = server.login(&[seen("a")]);
    let other = binding(
        server.run(&nauthilus_backend::engine::cluster::script::LoginRequest {
            user: user("bob"),
            ..other
        }),
    );
    assert_eq!(other.generation, first + 1);
    // The store's data is lost; the machine remembers a generation that is later than the clock.
    let remembered = server.remembered();
    server.empty();
    let mut login = server.login(&[seen("b"), seen("a")]);
    login.remembered = Some(remembered.clone());
    let back = binding(server.run(&login));
    assert_eq!((back.node.as_str(), back.generation), ("a", first));
    let moved = server.run(&server.move_to("b", false));
    let Operated::Done { binding: moved, .. } = moved else {
        panic!("{moved:?}")
    };
    assert!(moved.generation > first);
    // The generation grows as well after a binding that has ended and is no longer written back.
    server.empty();
    let mut login = server.login(&[seen("b")]);
    login.remembered = Some(Remembered {
        until: server.now,
        ..remembered
    });
    let new = binding(server.run(&login));
    assert_eq!(new.node, "b");
    assert!(new.generation > first);
}

#[test]
#[ignore = "starts redis-server"]
fn what_an_operator_undid_stays_undone() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    let remembered = server.remembered();
    for undo in ["forget", "hold ended"] {
        let before = match undo {
            "forget" => {
                server.run(&server.forget());
                remembered.clone()
            }
            _ => {
                server.run(&server.forget());
                server.run(&server.hold(600));
                let held = server.remembered();
                server.run(&server.hold(0));
                held
            }
        };
        server.pass(5);
        // Another machine still remembers the binding from before.
        let mut login = server.login(&[seen("a")]);
        login.remembered = Some(before);
        let answer = server.run(&login);
        assert!(
            matches!(&answer, LoginAnswer::Bound(LoginHow::New, _)),
            "{undo}: {answer:?}"
        );
    }
    // A hold of a user without a record: the end of it is known for as long as the hold was to last.
    server.empty();
    server.run(&server.hold(600));
    let held = server.remembered();
    server.run(&server.hold(0));
    let mut login = server.login(&[seen("a")]);
    login.remembered = Some(held);
    let answer = server.run(&login);
    assert!(
        matches!(&answer, LoginAnswer::Bound(LoginHow::New, _)),
        "{answer:?}"
    );
}

/// The answer to a login of alice on a machine that remembers this record, where hashing gives `b`.
fn login_with(server: &mut Server, remembered: &Remembered) -> (LoginHow, String) {
    let mut login = server.login(&[seen("b"), seen("a")]);
    login.remembered = Some(remembered.clone());
    login.move_delay = Duration::ZERO;
    match server.run(&login) {
        LoginAnswer::Bound(how, binding) => (how, binding.node),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "starts redis-server"]
fn a_pin_that_was_ended_stays_ended_for_all_who_remember_it() {
    type Undo = fn(&mut Server);
    let undo: [(&str, Undo); 3] = [
        ("forget", |server| {
            server.run(&server.forget());
        }),
        ("move", |server| {
            server.run(&server.move_to("b", false));
        }),
        ("move, and a login", |server| {
            server.run(&server.move_to("b", false));
            server.pass(RETENTION.as_secs() + 1);
            server.remove_ended();
            server.run(&server.login(&[seen("b")]));
        }),
    ];
    for (what, undo) in undo {
        let mut server = Server::start();
        server.run(&server.move_to("a", true));
        let pinned = server.remembered();
        undo(&mut server);
        let ended = server.remembered();
        server.pass(RETENTION.as_secs() + 1);
        server.remove_ended();
        let new = (LoginHow::New, "b".to_owned());
        assert_eq!(login_with(&mut server, &pinned), new, "{what}");
        // Nor does the pin come back where the store has lost its data, and a machine remembers the end of it.
        server.empty();
        assert_eq!(login_with(&mut server, &ended), new, "{what}, lost");
        let bound = (LoginHow::Bound, "b".to_owned());
        assert_eq!(login_with(&mut server, &pinned), bound, "{what}, lost");
    }
}

#[test]
#[ignore = "starts redis-server"]
fn a_record_outlives_those_that_it_has_replaced_whatever_retention_is() {
    let short = Duration::from_secs(2);
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    let remembered = server.remembered();
    // A login on a machine with another retention, and then a call that lets the record end.
    for ends in ["login", "forget", "flush", "touch", "hold"] {
        server.empty();
        assert_eq!(login_with(&mut server, &remembered).1, "a");
        let mut login = server.login(&[seen("a")]);
        login.retention = short;
        server.run(&login);
        match ends {
            "forget" => {
                let mut forget = server.forget();
                forget.retention = short;
                server.run(&forget);
            }
            "flush" => {
                let flush = FlushStep {
                    cursor: "0".to_owned(),
                    prefix: PREFIX.to_owned(),
                    node: Some("a".to_owned()),
                    limit: 9,
                    reason: String::new(),
                    by: String::new(),
                    retention: short,
                    deadline: server.now + SECOND,
                };
                server.run(&flush);
            }
            "touch" => {
                let mut touch = server.touch("a");
                touch.retention = short * 2;
                server.run(&touch);
            }
            "hold" => {
                server.run(&server.hold(3));
            }
            _ => {}
        }
        server.pass(10);
        server.remove_ended();
        let new = (LoginHow::New, "b".to_owned());
        assert_eq!(login_with(&mut server, &remembered), new, "{ends}");
    }
    // When no machine can remember the first binding any more, nothing is left.
    server.pass(RETENTION.as_secs() + 1);
    server.remove_ended();
    assert_eq!(server.field(&alice(), "generation"), "");
}

#[test]
#[ignore = "starts redis-server"]
fn min_stay_counts_on_after_the_data_was_lost() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("c")]));
    server.run(&server.move_to("a", false));
    let remembered = server.remembered();
    server.empty();
    server.pass(30);
    let mut login = server.login(&[dead("a"), seen("b")]);
    login.remembered = Some(remembered);
    let answer = server.run(&login);
    assert!(
        matches!(&answer, LoginAnswer::None { reason, .. } if reason == "unstable"),
        "{answer:?}"
    );
    server.pass(30);
    let answer = server.run(&login_later(&server, &login));
    assert_eq!(binding(answer).node, "b");
}

#[test]
#[ignore = "starts redis-server"]
fn a_clock_that_is_set_back_prolongs_a_move_by_its_delays_at_most() {
    for is_remembered in [false, true] {
        let mut server = Server::start();
        server.run(&server.login(&[seen("c")]));
        server.run(&server.move_to("a", false));
        let remembered = server.remembered();
        if is_remembered {
            server.empty();
        }
        // Days after the move.
        server.set_clock(server.now - 3_600 * SECOND);
        let login = |server: &Server, node| {
            let mut login = server.login(&[node, seen("b")]);
            login.remembered = is_remembered.then(|| remembered.clone());
            login
        };
        let reason = |answer: LoginAnswer| match answer {
            LoginAnswer::None { reason, .. } => reason,
            LoginAnswer::Bound(_, binding) => binding.node,
            LoginAnswer::Late { .. } => "late".to_owned(),
        };
        for (seconds, node, expected) in [
            (0, seen("a"), "moving"),
            (19, seen("a"), "moving"),
            (1, seen("a"), "a"),
            (39, dead("a"), "unstable"),
            (1, dead("a"), "moving"),
            // The clock is where it was at the time of the move.
            (3_540, seen("b"), "b"),
            (10, seen("b"), "b"),
        ] {
            server.pass(seconds);
            let answer = server.run(&login(&server, node));
            assert_eq!(
                reason(answer),
                expected,
                "after {seconds} s, {is_remembered}"
            );
        }
    }
}

fn login_later(
    server: &Server,
    login: &nauthilus_backend::engine::cluster::script::LoginRequest,
) -> nauthilus_backend::engine::cluster::script::LoginRequest {
    let mut login = login.clone();
    login.deadline = server.now + SECOND;
    login
}

#[test]
#[ignore = "starts redis-server"]
fn a_login_waits_for_no_move_delay_where_there_is_none() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    let mut login = server.login(&[dead("a"), seen("b")]);
    login.move_delay = Duration::ZERO;
    match server.run(&login) {
        LoginAnswer::Bound(LoginHow::Moved, binding) => {
            assert_eq!((binding.from.as_str(), binding.node.as_str()), ("a", "b"));
            assert_eq!(
                (binding.reason.as_str(), binding.by.as_str()),
                ("unusable", "proxy1")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "starts redis-server"]
fn without_memory_bindings_are_answered_and_none_is_made() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    let until = server.number(&alice(), "until");
    server.pass(10);
    let set = ["CONFIG", "SET", "maxmemory", "1"];
    server.command(&set).unwrap();
    let before = server.dump();
    let answer = server.run(&server.login(&[seen("b"), seen("a")]));
    assert_eq!(binding(answer).until, until * 1_000);
    let mut other = server.login(&[seen("b")]);
    other.user = UserDigest::of(b"bob", None);
    let error = server.try_run(&other).unwrap_err().to_string();
    assert!(
        error.contains("OOM") || error.contains("maxmemory"),
        "{error}"
    );
    assert_eq!(server.dump(), before);
    server
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .unwrap();
    let answer = binding(server.run(&server.login(&[seen("a")])));
    let retention = u64::try_from(RETENTION.as_micros()).unwrap();
    assert_eq!(answer.until, server.now + retention);
}

#[test]
#[ignore = "starts redis-server"]
fn a_replica_answers_no_login() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    // Port 1 of loopback: there is no primary, so the data stays as it is.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let error = server.try_run(&server.login(&[seen("a")])).unwrap_err();
    assert!(
        error.to_string().to_lowercase().contains("read only")
            || error.to_string().contains("READONLY"),
        "{error}"
    );
}
