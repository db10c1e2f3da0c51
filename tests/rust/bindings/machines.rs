//! Machines that know of each other: registrations, quorum, operators' settings.

use nauthilus_backend::engine::cluster::script::{
    ClusterSetting, LoginAnswer, LoginHow, Operated, OtherMachine, Remembered, Sync, Synced,
    nameless,
};
use nauthilus_backend::engine::config::Config;
use nauthilus_backend::engine::routing::LoginKind;

use super::requests::{alice, binding, dead, seen};
use super::server::{SECOND, Server};

fn machines(server: &mut Server, sync: &Sync) -> Vec<OtherMachine> {
    match server.run(sync) {
        Synced::Done { machines, .. } => machines,
        Synced::Late { .. } => panic!("the deadline was over"),
    }
}

#[test]
#[ignore = "starts redis-server"]
fn machines_learn_of_each_other_while_they_live() {
    let mut server = Server::start();
    let mut other = server.sync("proxy2", &[]);
    other.config_hash = "another".to_owned();
    server.run(&other);
    let own = server.sync("proxy1", &[]);
    let both = machines(&mut server, &own);
    let names: Vec<_> = both
        .iter()
        .map(|one| (one.machine.as_str(), one.config_hash.as_str()))
        .collect();
    assert_eq!(names, [("proxy1", "same"), ("proxy2", "another")]);
    server.pass(10);
    let own = server.sync("proxy1", &[]);
    let one = machines(&mut server, &own);
    assert_eq!(one.len(), 1);
}

fn quorum_login(server: &mut Server) -> LoginAnswer {
    let mut login = server.login(&[dead("a"), seen("b")]);
    login.needs_quorum = true;
    server.run(&login)
}

#[test]
#[ignore = "starts redis-server"]
fn more_than_half_of_the_living_machines_give_a_node_up() {
    for (others, gives_up) in [
        (&[][..], true),
        (&[true], false),
        (&[false], true),
        (&[true, false], true),
        (&[true, true], false),
        (&[true, true, false], false),
        (&[true, false, false], true),
    ] {
        let mut server = Server::start();
        server.run(&server.login(&[seen("a")]));
        // A machine whose registration has ended does not count for the quorum.
        server.run(&server.sync("ended", &[("a", true)]));
        server.pass(100);
        let names: Vec<_> = (0..others.len())
            .map(|number| format!("other{number}"))
            .collect();
        let views: Vec<_> = others.iter().map(|usable| [("a", *usable)]).collect();
        let mut machines = vec![("proxy1", &[("a", true)][..])];
        for (name, view) in names.iter().zip(&views) {
            machines.push((name, view));
        }
        server.pass_with(10, &machines);
        let answer = binding(quorum_login(&mut server));
        assert_eq!(answer.node == "b", gives_up, "{others:?}: {answer:?}");
    }
}

#[test]
#[ignore = "starts redis-server"]
fn machines_vote_on_the_kinds_of_targets_that_a_login_asks_for() {
    let kind = |protocol| {
        let text = format!(
            "backend_server_monitoring: {{backend_servers: [{{protocol: {protocol}, host: a}}]}}"
        );
        let config = Config::from_yaml(&text, &|_| None).unwrap();
        LoginKind::of(&config.targets[0])
    };
    let (imap, pop3) = (kind("imap"), kind("pop3"));
    // What two other machines see of the node: with all of its targets, and for logins of the kinds that it has there.
    let older = |usable| (usable, vec![]);
    let both = |has_imap| (true, vec![(imap, has_imap), (pop3, true)]);
    let none = || (true, vec![(pop3, true)]);
    for (others, gives_up) in [
        ([both(false), both(true)], true),
        ([both(true), both(true)], false),
        // A machine without such a target does not count.
        ([none(), none()], true),
        ([both(true), none()], false),
        ([both(false), older(true)], true),
        ([older(true), none()], false),
        ([older(false), both(true)], true),
    ] {
        let mut server = Server::start();
        server.run(&server.login(&[seen("a")]));
        server.pass(100);
        for _ in 0..2 {
            // Machines whose nodes are others do not count either.
            server.run(&server.sync("elsewhere", &[("z", true)]));
            server.run(&server.sync("proxy1", &[("a", true)]));
            for (number, (usable, logins)) in others.iter().enumerate() {
                let mut sync = server.sync(&format!("other{number}"), &[("a", *usable)]);
                sync.nodes[0].logins.clone_from(logins);
                server.run(&sync);
            }
            server.pass(5);
        }
        server.pass(1);
        let mut login = server.login(&[dead("a"), seen("b")]);
        login.needs_quorum = true;
        login.nodes[0].asked_kinds = vec![imap];
        let answer = binding(server.run(&login));
        assert_eq!(answer.node == "b", gives_up, "{others:?}: {answer:?}");
    }
}

#[test]
#[ignore = "starts redis-server"]
fn after_an_outage_of_the_store_no_machine_decides_alone() {
    let own = ("proxy1", &[("a", false)][..]);
    let other = ("proxy2", &[("a", true)][..]);
    for away in [7, 20] {
        let mut server = Server::start();
        server.run(&server.login(&[seen("a")]));
        server.pass_with(60, &[own, other]);
        // Redis was out of reach. It has kept its data, and this machine is the first one to reach it again.
        server.pass(away);
        server.pass_with(9, &[own]);
        assert_eq!(binding(quorum_login(&mut server)).node, "a", "{away}");
        let mut unknown = server.login(&[seen("b")]);
        unknown.explains = true;
        let answer = server.run(&unknown);
        assert!(
            matches!(&answer, LoginAnswer::None { reason, .. } if reason == "unknown node a"),
            "{answer:?}"
        );
        // The other one has not come back within the time in which all that live do.
        server.pass_with(1, &[own]);
        assert_eq!(binding(quorum_login(&mut server)).node, "b", "{away}");
    }
}

#[test]
#[ignore = "starts redis-server"]
fn a_machine_without_a_registration_decides_nothing() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    server.pass(100);
    assert_eq!(binding(quorum_login(&mut server)).node, "a");
    server.pass_with(10, &[("proxy1", &[("a", false)])]);
    // Its clock was set forward: all registrations have ended.
    server.pass(3_000);
    assert_eq!(binding(quorum_login(&mut server)).node, "a");
}

#[test]
#[ignore = "starts redis-server"]
fn registrations_end_in_time_after_the_clock_was_set_back() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    server.pass_with(60, &[("ended", &[("a", true)]), ("other", &[("a", true)])]);
    server.set_clock(server.now - 30 * SECOND);
    let own = ("proxy1", &[("a", false)][..]);
    server.pass_with(9, &[own]);
    assert_eq!(binding(quorum_login(&mut server)).node, "a");
    server.pass_with(1, &[own]);
    assert_eq!(binding(quorum_login(&mut server)).node, "b");
}

#[test]
#[ignore = "starts redis-server"]
fn without_memory_machines_register_and_exchange_settings() {
    let mut server = Server::start();
    server.run(&server.sync("proxy1", &[("a", true)]));
    server.pass(9);
    server
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .unwrap();
    let mut sync = server.sync("proxy2", &[("a", true)]);
    sync.settings = vec![ClusterSetting {
        name: "state node:a".to_owned(),
        since_ms: 20,
        text: "drain".to_owned(),
    }];
    assert_eq!(machines(&mut server, &sync).len(), 2);
    let sync = server.sync("proxy1", &[("a", true)]);
    let Synced::Done {
        machines, settings, ..
    } = server.run(&sync)
    else {
        panic!("the deadline was over")
    };
    assert_eq!(machines.len(), 2, "{machines:?}");
    assert_eq!(settings.len(), 1);
}

#[test]
#[ignore = "starts redis-server"]
fn a_store_that_was_empty_gives_no_node_up_before_all_machines_can_have_registered() {
    let mut server = Server::start();
    server.run(&server.login(&[seen("a")]));
    let remembered = server.remembered();
    server.empty();
    server.run(&server.sync("proxy1", &[("b", true)]));
    for (seconds, expected) in [(0, "unknown node a"), (9, "unknown node a"), (1, "")] {
        server.pass_with(seconds, &[("proxy1", &[("b", true)])]);
        let mut login = server.login(&[seen("b")]);
        login.remembered = Some(remembered.clone());
        let answer = server.run(&login);
        match answer {
            LoginAnswer::None {
                reason, binding, ..
            } if expected.is_empty() => {
                assert_eq!((reason.as_str(), binding.node.as_str()), ("moving", "b"));
            }
            LoginAnswer::None { reason, .. } => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
    }
    server.empty();
    server.run(&server.sync("proxy1", &[("a", true)]));
    let mut login = server.login(&[dead("a"), seen("b")]);
    login.needs_quorum = true;
    login.remembered = Some(remembered);
    assert_eq!(binding(server.run(&login)).node, "a");
}

/// The first 64 bits of the SHA-1 of `c`: what a machine without this node remembers of it.
const DIGEST_OF_C: u64 = 0x84a5_1684_1ba7_7a5b;

#[test]
#[ignore = "starts redis-server"]
fn a_node_without_a_name_costs_a_digest_of_each_name_that_only_others_have() {
    let mut server = Server::start();
    let names: Vec<String> = (0..100).map(|number| format!("node{number}")).collect();
    let register = |server: &mut Server, extra: &[&str]| {
        for machine in 0..50 {
            // Each machine finds another node dead, so that no two texts are equal.
            let nodes = names.iter().enumerate();
            let nodes = nodes.map(|(at, name)| (name.as_str(), at != machine));
            let extra = extra.iter().map(|name| (*name, true));
            let nodes: Vec<_> = nodes.chain(extra).collect();
            let sync = server.sync(&format!("proxy{machine}"), &nodes);
            server.run(&sync);
        }
    };
    let own: Vec<_> = names.iter().map(|name| seen(name)).collect();
    let remembered = |server: &Server, node: String, from: u64| Remembered {
        node,
        from: nameless(from),
        since: server.now,
        until: server.now + 3_600 * SECOND,
        held: 0,
        remains: 0,
        generation: server.now,
    };
    register(&mut server, &[]);
    // A node before that nobody has any more: its name is not looked for.
    let mut login = server.login(&own);
    login.remembered = Some(remembered(&server, "node0".to_owned(), DIGEST_OF_C));
    let back = binding(server.run(&login));
    assert_eq!((back.node.as_str(), back.from.as_str()), ("node0", "?"));
    assert_eq!(server.digests(), 0);
    // A node that nobody has any more: all have the nodes that this machine has.
    server.empty();
    register(&mut server, &[]);
    login.remembered = Some(remembered(&server, nameless(DIGEST_OF_C), 1));
    login.explains = true;
    assert_eq!(binding(server.run(&login)).node, "?");
    assert_eq!(server.digests(), 0);
    // One that others have, beside another one.
    register(&mut server, &["b", "c"]);
    assert_eq!(binding(server.run(&login)).node, "c");
    assert_eq!(server.digests(), 2);
    // An operator's call does not say which nodes its machine has.
    let mut forget = server.forget();
    forget.remembered = Some(remembered(&server, nameless(2), 1));
    server.run(&forget);
    assert_eq!(server.digests(), 102);
}

#[test]
#[ignore = "starts redis-server"]
fn a_machine_without_the_node_loses_no_binding_by_an_operators_hold() {
    let mut server = Server::start();
    for keep in [false, true] {
        server.run(&server.move_to("c", keep));
        let by_name = server.remembered();
        let mut nameless_one = by_name.clone();
        nameless_one.node = nameless(DIGEST_OF_C);
        server.empty();
        server.pass_with(20, &[("proxy1", &[("a", true)])]);
        let before = server.dump();
        for seconds in [60, 0] {
            let mut hold = server.hold(seconds);
            hold.remembered = Some(nameless_one.clone());
            assert_eq!(server.run(&hold), Operated::UnknownNode);
        }
        assert_eq!(server.dump(), before);
        // The machine that has the node brings the binding back, and then the user can be held.
        server.run(&server.sync("proxy2", &[("a", true), ("c", true)]));
        let mut hold = server.hold(60);
        hold.remembered = Some(nameless_one.clone());
        let Operated::Done { binding: held, .. } = server.run(&hold) else {
            panic!("not held")
        };
        assert_eq!(held.node, "c");
        server.run(&server.hold(0));
        let mut login = server.login(&[seen("a"), seen("c")]);
        login.remembered = Some(by_name);
        let expected = if keep {
            LoginHow::Pinned
        } else {
            LoginHow::Bound
        };
        let answer = server.run(&login);
        assert!(
            matches!(&answer, LoginAnswer::Bound(how, one) if *how == expected && one.node == "c"),
            "{answer:?}"
        );
        // Who is forgotten there has left a node, and is not bound to it again by a machine that remembers it.
        let by_name = server.remembered();
        server.empty();
        server.pass_with(20, &[("proxy1", &[("a", true)])]);
        let mut forget = server.forget();
        forget.remembered = Some(Remembered {
            node: nameless(DIGEST_OF_C),
            ..by_name.clone()
        });
        let answer = server.run(&forget);
        assert!(
            matches!(&answer, Operated::Done { has_left: true, binding } if binding.from == "?"),
            "{answer:?}"
        );
        let mut login = server.login(&[seen("a"), seen("c")]);
        login.remembered = Some(by_name);
        assert_eq!(binding(server.run(&login)).node, "a");
        server.pass(10_000);
        server.remove_ended();
    }
}

#[test]
#[ignore = "starts redis-server"]
fn of_two_settings_the_later_one_counts_everywhere() {
    let mut server = Server::start();
    let setting = |name: &str, since_ms, text: &str| ClusterSetting {
        name: name.to_owned(),
        since_ms,
        text: text.to_owned(),
    };
    let sync = |server: &mut Server, machine: &str, settings: &[ClusterSetting]| {
        let mut sync = server.sync(machine, &[]);
        sync.settings = settings.to_vec();
        match server.run(&sync) {
            Synced::Done { settings, .. } => settings,
            Synced::Late { .. } => panic!("the deadline was over"),
        }
    };
    let drain = setting("state node:a", 20, "drain\nby ann");
    let auto = setting("state node:a", 10, "auto");
    let weight = setting("weight node:a", 5, "7");
    assert_eq!(
        sync(&mut server, "proxy1", &[drain.clone(), weight.clone()]),
        []
    );
    // proxy2 has an earlier `auto`: the store keeps proxy1's later `drain`, and proxy2 learns it.
    assert_eq!(
        sync(&mut server, "proxy2", &[auto, weight.clone()]),
        std::slice::from_ref(&drain)
    );
    assert_eq!(
        sync(&mut server, "proxy2", &[drain.clone(), weight.clone()]),
        []
    );
    let mut all = sync(&mut server, "proxy3", &[]);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(all, [drain.clone(), weight.clone()]);
    // A store that lost its data gets the settings again from a machine that knows them.
    server.empty();
    sync(&mut server, "proxy1", std::slice::from_ref(&drain));
    assert_eq!(sync(&mut server, "proxy3", &[weight]), [drain]);
}

#[test]
#[ignore = "starts redis-server"]
fn a_machine_brings_its_highest_generation_back() {
    let mut server = Server::start();
    let mut sync = server.sync("proxy1", &[]);
    sync.generation = server.now + 1_000;
    let Synced::Done {
        now,
        generation,
        born,
        ..
    } = server.run(&sync)
    else {
        panic!("the deadline was over")
    };
    assert_eq!(
        (now, born, generation),
        (server.now, server.now, server.now + 1_000)
    );
    let made = binding(server.run(&server.login(&[seen("a")])));
    assert_eq!(made.generation, server.now + 1_001);
    assert_eq!(server.field(&alice(), "by"), "proxy1");
}
