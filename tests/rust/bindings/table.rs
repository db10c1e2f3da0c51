//! The tables of states and events in `docs/routing.md`: each cell is run.
//!
//! A row is an event, a column the state in which it meets the user's record. A cell says what the
//! caller gets, and after a semicolon what has changed in the store.

use nauthilus_backend::engine::cluster::script::{
    FlushAnswer, FlushStep, LoginAnswer, LoginHow, LoginRequest, Operated, Remembered, ScriptCall,
    SeenNode, Touched, nameless,
};

use super::requests::{DRAIN_TIME, RETENTION, alice, dead, seen};
use super::server::{PREFIX, SECOND, Server};

const DOCS: &str = include_str!("../../../docs/routing.md");

/// The rows after the line that begins with this text, each without its borders.
fn rows(first: &str) -> Vec<Vec<String>> {
    let lines = DOCS.lines().skip_while(|line| !line.starts_with(first));
    let cells = |line: &str| {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    lines
        .take_while(|line| line.starts_with('|'))
        .filter(|line| !line.starts_with("|---"))
        .map(cells)
        .collect()
}

const STATES: [&str; 9] = [
    "none", "bound", "moving", "moved", "pinned", "held", "released", "lost", "outdated",
];

/// Puts alice's record into a state, with `a` as the node that it names. Returns what the machine
/// remembers.
fn prepare(server: &mut Server, state: &str) -> Option<Remembered> {
    server.empty();
    let bind = |server: &mut Server, node: &str| {
        server.run(&server.login(&[seen(node)]));
        server.pass(1_000);
    };
    match state {
        "none" => server.pass(1_000),
        "bound" => bind(server, "a"),
        "moving" | "moved" => {
            bind(server, "c");
            server.run(&server.move_to("a", false));
            server.pass(if state == "moving" { 0 } else { 20 });
        }
        "pinned" => {
            server.run(&server.move_to("a", true));
            server.pass(1_000);
        }
        "held" => {
            bind(server, "a");
            server.run(&server.hold(1_000));
            server.pass(500);
        }
        "released" => {
            bind(server, "a");
            server.run(&server.forget());
            server.pass(500);
        }
        "lost" => {
            bind(server, "a");
            let remembered = server.remembered();
            let mut delete = redis::cmd("DEL");
            let key = nauthilus_backend::engine::cluster::script::user_record(PREFIX, &alice());
            delete.arg(key).exec(&mut server.connection).unwrap();
            return Some(remembered);
        }
        "outdated" => {
            bind(server, "c");
            let mut remembered = server.remembered();
            remembered.node = "a".to_owned();
            remembered.from = "c".to_owned();
            remembered.generation += 1;
            return Some(remembered);
        }
        other => panic!("docs/routing.md has an unknown state: {other}"),
    }
    None
}

/// The login of an event of the first table, in which `b` is where hashing gives users a new node.
fn login_of(server: &mut Server, event: &str) -> LoginRequest {
    let (a, b, c) = (seen("a"), seen("b"), seen("c"));
    let draining = |node: SeenNode, for_seconds| SeenNode {
        takes_new: false,
        drain_since: server.now - for_seconds * SECOND,
        ..node
    };
    let drain_time = DRAIN_TIME.as_secs();
    let nodes = match event {
        "`a` usable, hashing gives `a`" => vec![a, b, c],
        "`a` usable, hashing gives `b`" => vec![b, a, c],
        "`a` unusable" | "the same with `node_failover: refuse`" => vec![dead("a"), b, c],
        "`a` unusable, quorum: to half of the machines"
        | "`a` unusable, quorum: to most machines" => {
            vec![dead("a"), b, c]
        }
        "`a` draining" => vec![draining(a, 10), b, c],
        "`a` draining, `drain_time` over" => vec![draining(a, drain_time), b, c],
        "`a` not configured here, but elsewhere" | "`a` configured nowhere" => vec![b, c],
        "`a` in another pool" => {
            let elsewhere = SeenNode {
                in_pools: false,
                matches: false,
                ..a
            };
            vec![b, c, elsewhere]
        }
        "`a` without the protocol" => {
            let without = SeenNode {
                matches: false,
                usable: false,
                usable_for_new: false,
                ..a
            };
            vec![b, c, without]
        }
        "no node usable" => ["a", "b", "c"].map(dead).to_vec(),
        "no node takes users" => [a, b, c].map(|node| draining(node, 10)).to_vec(),
        "`retention` over" | "after its deadline" => vec![b, a, c],
        other => panic!("docs/routing.md has an unknown event: {other}"),
    };
    if event == "`retention` over" {
        server.pass(RETENTION.as_secs());
    }
    let knows_a = event != "`a` configured nowhere";
    let view = |usable| [("b", true), ("a", usable)];
    let views = [view(true), view(false)];
    let [alive, dead] = views
        .each_ref()
        .map(|view| if knows_a { &view[..] } else { &view[..1] });
    let mut machines = vec![("proxy1", &[("b", true)][..]), ("proxy2", alive)];
    if event == "`a` unusable, quorum: to most machines" {
        machines.push(("proxy3", dead));
    }
    // So long that no other machine can be missing.
    server.pass_with(10, &machines);
    let mut login = server.login(&nodes);
    login.moves_on_failure = event != "the same with `node_failover: refuse`";
    login.needs_quorum = event.contains("quorum");
    if event == "after its deadline" {
        login.deadline = server.now - 1_000;
    }
    login
}

/// The record as a machine with these nodes remembers it: it has no name of another node.
fn as_known(mut record: Remembered, nodes: &[SeenNode]) -> Remembered {
    // The first 64 bits of SHA-1, FIPS 180: the digest that Redis computes.
    const DIGEST_OF_A: u64 = 0x86f7_e437_faa5_a7fc;
    assert_eq!(record.node, "a");
    if nodes.iter().all(|node| node.name != record.node) {
        record.node = nameless(DIGEST_OF_A);
    }
    record
}

/// What can change in the store.
#[derive(PartialEq)]
struct Seen {
    node: String,
    until: u64,
    held: u64,
    keep: String,
    generation: u64,
    dump: Vec<String>,
}

/// Without the samples of which numbers of users are estimated.
fn read(server: &mut Server) -> Seen {
    let mut dump = server.dump();
    dump.retain(|line| !line.contains(":users:"));
    Seen {
        node: server.field(&alice(), "node"),
        until: server.number(&alice(), "until"),
        held: server.number(&alice(), "held"),
        keep: server.field(&alice(), "keep"),
        generation: server.number(&alice(), "generation"),
        dump,
    }
}

/// The change of the store in the words of the tables.
fn change(before: &Seen, after: &Seen, remembered: Option<&Remembered>) -> Option<String> {
    assert!(
        after.generation >= before.generation,
        "a generation went back"
    );
    if before.dump == after.dump {
        return None;
    }
    let known = remembered.map_or(before.generation, |one| one.generation);
    let mut words = Vec::new();
    if after.generation == known && before.generation < known {
        words.push("written back".to_owned());
    }
    if after.generation > known {
        assert!(after.generation > known.max(before.generation));
        let left = remembered.map_or(before.node.as_str(), |one| one.node.as_str());
        match (left, after.node.as_str()) {
            (left, node) if left == node => {}
            (_, "") => words.push("unbound".to_owned()),
            (_, node) => words.push(format!("bound to `{node}`")),
        }
        if before.held != after.held {
            words.push(
                if after.held > 0 {
                    "held"
                } else {
                    "no longer held"
                }
                .to_owned(),
            );
        }
        if before.keep != after.keep {
            words.push(
                if after.keep == "1" {
                    "pinned"
                } else {
                    "no longer pinned"
                }
                .to_owned(),
            );
        }
        if words.is_empty() {
            words.push("noted".to_owned());
        }
    } else if after.until > remembered.map_or(before.until, |one| one.until / 1_000) {
        words.push("renewed".to_owned());
    }
    assert!(!words.is_empty(), "{:#?} {:#?}", before.dump, after.dump);
    Some(words.join(", "))
}

fn answer_of(answer: &LoginAnswer) -> String {
    match answer {
        LoginAnswer::Bound(how, binding) => {
            let how = match how {
                LoginHow::New => "new",
                LoginHow::Bound => "bound",
                LoginHow::Moved => "moved",
                LoginHow::Pinned => "pinned",
            };
            format!("`{}` ({how})", binding.node)
        }
        LoginAnswer::None { reason, .. } => format!("nil, {reason}"),
        LoginAnswer::Late { .. } => "late".to_owned(),
    }
}

fn cell(answer: String, change: Option<String>) -> String {
    match change {
        Some(change) => format!("{answer}; {change}"),
        None => answer,
    }
}

/// Compares a table with what was seen; where they differ, prints the table as it was seen.
fn compare(first: &str, run: impl Fn(&mut Server, &str, &str) -> String) {
    let expected = rows(first);
    let states: Vec<&str> = expected[0].iter().skip(1).map(String::as_str).collect();
    assert_eq!(states, STATES, "the columns of {first}");
    let mut server = Server::start();
    let mut seen = vec![expected[0].clone()];
    for row in &expected[1..] {
        let mut cells = vec![row[0].clone()];
        for state in states.iter().copied() {
            cells.push(run(&mut server, state, &row[0]));
        }
        seen.push(cells);
    }
    let text = |rows: &[Vec<String>]| -> Vec<String> {
        rows.iter()
            .map(|row| format!("| {} |", row.join(" | ")))
            .collect()
    };
    let (expected, seen) = (text(&expected), text(&seen));
    for (expected, seen) in expected.iter().zip(&seen).filter(|(a, b)| a != b) {
        println!("docs/routing.md: {expected}\nseen:            {seen}");
    }
    assert!(
        expected == seen,
        "docs/routing.md differs from what the scripts do"
    );
}

#[test]
#[ignore = "starts redis-server"]
fn logins_do_what_the_table_says() {
    compare("| a login meets", |server, state, event| {
        let remembered = prepare(server, state);
        let mut login = login_of(server, event);
        login.remembered = remembered.clone().map(|one| as_known(one, &login.nodes));
        let before = read(server);
        let all = server.dump();
        let explained = server.run(&LoginRequest {
            explains: true,
            ..login.clone()
        });
        assert!(
            server.dump() == all,
            "explain has changed the store: {state}, {event}"
        );
        let answer = server.run(&login);
        assert_eq!(
            answer_of(&explained),
            answer_of(&answer),
            "explained: {state}, {event}"
        );
        let after = read(server);
        cell(
            answer_of(&answer),
            change(&before, &after, remembered.as_ref()),
        )
    });
}

#[test]
#[ignore = "starts redis-server"]
fn operators_calls_do_what_the_table_says() {
    compare("| a call meets", |server, state, event| {
        let remembered = prepare(server, state);
        server.pass(10);
        let before = read(server);
        let answer = operate(server, event, remembered.as_ref());
        let after = read(server);
        cell(answer, change(&before, &after, remembered.as_ref()))
    });
}

fn operate(server: &mut Server, event: &str, remembered: Option<&Remembered>) -> String {
    let remembered = remembered.cloned();
    let left = |answer: Operated| match answer {
        Operated::Done { has_left, .. } => if has_left { "left" } else { "done" }.to_owned(),
        Operated::UnknownNode => "unknown node".to_owned(),
        Operated::Late { .. } => "late".to_owned(),
    };
    let touched = |answer: Touched| match answer {
        Touched::Users(count) => count.to_string(),
        Touched::Late { .. } => "late".to_owned(),
    };
    match event {
        "`touch_users` on `a`" => touched(server.run(&server.touch("a"))),
        "the same while `a` is draining" => {
            let mut touch = server.touch("a");
            touch.is_draining = true;
            touched(server.run(&touch))
        }
        "`touch_users` on `b`" => touched(server.run(&server.touch("b"))),
        "`move_user` to `a`" | "`move_user` to `b`" | "`move_user` to `b`, `keep`" => {
            let node = if event.contains("`a`") { "a" } else { "b" };
            let mut call = server.move_to(node, event.ends_with("`keep`"));
            call.remembered = remembered;
            left(server.run(&call))
        }
        "`forget_user`" => {
            let mut call = server.forget();
            call.remembered = remembered;
            left(server.run(&call))
        }
        "`hold_user`" | "`hold_user` for 0 s" => {
            let mut call = server.hold(if event.ends_with("0 s") { 0 } else { 5_000 });
            call.remembered = remembered;
            left(server.run(&call))
        }
        "`flush_node` of `a`" => flush(server, Some("a")),
        "`flush_node` of `b`" => flush(server, Some("b")),
        "`move_user` after its deadline" => {
            let mut call = server.move_to("b", false);
            call.deadline = server.now - 1_000;
            left(server.run(&call))
        }
        other => panic!("docs/routing.md has an unknown event: {other}"),
    }
}

fn flush(server: &mut Server, node: Option<&str>) -> String {
    let step = FlushStep {
        cursor: "0".to_owned(),
        prefix: PREFIX.to_owned(),
        node: node.map(str::to_owned),
        limit: 100,
        reason: "asked for".to_owned(),
        by: "ann".to_owned(),
        retention: RETENTION,
        deadline: server.now + SECOND,
    };
    match server.run(&step) {
        FlushAnswer::Released { count, next: None } => count.to_string(),
        other => panic!("{other:?}"),
    }
}

/// A script of ours has no way to another clock than Redis's: the tests replace it in the text.
#[test]
fn scripts_have_no_clock_but_that_of_redis() {
    assert!(!LoginRequest::SOURCE.contains("test clock"));
}
