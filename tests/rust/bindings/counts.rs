//! The numbers of users of nodes, and the release of a node's bindings in steps.

use std::time::Duration;

use nauthilus_backend::engine::cluster::script::{
    FlushAnswer, FlushStep, LoginRequest, NodeCount, SeenNode, Synced, Touched,
};

use super::requests::{RETENTION, dead, seen, user};
use super::server::{PREFIX, SECOND, Server};

impl Server {
    fn bind(&mut self, name: &str, nodes: &[SeenNode]) {
        let login = LoginRequest {
            user: user(name),
            move_delay: Duration::ZERO,
            ..self.login(nodes)
        };
        self.run(&login);
    }

    /// `users`, `moved_in` and `moved_out` of nodes `a` and `b`.
    fn counts(&mut self) -> [(u64, u64, u64); 2] {
        let mut sync = self.sync("proxy1", &[("a", true), ("b", true)]);
        sync.wants_counts = true;
        let Synced::Done { counts, .. } = self.run(&sync) else {
            panic!("the deadline was over")
        };
        ["a", "b"].map(|name| {
            let one: &NodeCount = counts.iter().find(|one| one.node == name).unwrap();
            (one.users, one.moved_in, one.moved_out)
        })
    }

    /// Flushes with at most `limit` bindings a step; returns the bindings of each step.
    fn flush(&mut self, node: Option<&str>, limit: u64) -> Vec<u64> {
        let mut cursor = "0".to_owned();
        let mut released = Vec::new();
        loop {
            let step = FlushStep {
                cursor,
                prefix: PREFIX.to_owned(),
                node: node.map(str::to_owned),
                limit,
                reason: "new nodes".to_owned(),
                by: "ann".to_owned(),
                retention: RETENTION,
                deadline: self.now + SECOND,
            };
            let FlushAnswer::Released { count, next } = self.run(&step) else {
                panic!("the deadline was over")
            };
            released.push(count);
            match next {
                Some(next) => cursor = next,
                None => return released,
            }
        }
    }
}

#[test]
#[ignore = "starts redis-server"]
fn users_are_counted_where_they_are_bound() {
    let mut server = Server::start();
    for number in 0..100 {
        server.bind(&format!("user{number}"), &[seen("a"), seen("b")]);
    }
    assert_eq!(server.counts(), [(100, 0, 0), (0, 0, 0)]);
    for number in 0..40 {
        server.bind(&format!("user{number}"), &[dead("a"), seen("b")]);
    }
    assert_eq!(server.counts(), [(60, 0, 40), (40, 40, 0)]);
    server.pass(RETENTION.as_secs() / 2);
    for number in 0..10 {
        server.bind(&format!("user{number}"), &[seen("a"), seen("b")]);
    }
    let touch = nauthilus_backend::engine::cluster::script::Touch {
        users: (0..50)
            .map(|number| user(&format!("user{number}")))
            .collect(),
        ..server.touch("a")
    };
    assert_eq!(server.run(&touch), Touched::Users(10));
    server.pass(RETENTION.as_secs() / 2);
    assert_eq!(server.counts(), [(10, 0, 40), (10, 40, 0)]);
}

#[test]
#[ignore = "starts redis-server"]
fn many_users_are_estimated_in_bounded_memory() {
    let mut server = Server::start();
    let users: u64 = 12_000;
    for number in 0..users {
        server.bind(&format!("user{number}"), &[seen("a")]);
    }
    let [(estimate, ..), _] = server.counts();
    // Of 3,000 in the sample one standard deviation is 2 %.
    assert!(estimate.abs_diff(users) < users / 10, "{estimate}");
    let size = redis::cmd("ZCARD")
        .arg(format!("{{{PREFIX}}}:users:a"))
        .query::<u64>(&mut server.connection)
        .unwrap();
    assert!((1_500..=4_096).contains(&size), "{size}");
}

#[test]
#[ignore = "starts redis-server"]
fn a_flush_releases_a_node_in_steps() {
    let mut server = Server::start();
    for number in 0..2_000 {
        let node = if number % 2 == 0 { "a" } else { "b" };
        server.bind(&format!("user{number}"), &[seen(node)]);
    }
    let mut pin = server.move_to("a", true);
    pin.user = user("pinned");
    server.run(&pin);
    let released = server.flush(Some("a"), 100);
    assert_eq!(released.iter().sum::<u64>(), 1_000);
    assert!(released.iter().all(|&count| count <= 100), "{released:?}");
    assert_eq!(server.field(&user("pinned"), "node"), "a");
    assert_eq!(server.field(&user("user0"), "node"), "");
    assert_eq!(server.field(&user("user0"), "from"), "a");
    assert_eq!(server.field(&user("user1"), "node"), "b");
    // A released user who comes to another node has moved there, by whom released it.
    server.bind("user0", &[seen("b")]);
    assert_eq!(server.field(&user("user0"), "from"), "a");
    assert_eq!(server.field(&user("user0"), "by"), "ann");
    server.bind("user2", &[seen("a")]);
    assert_eq!(server.field(&user("user2"), "from"), "");
    assert_eq!(server.counts(), [(2, 0, 1), (1_001, 1, 0)]);
}

#[test]
#[ignore = "starts redis-server"]
fn a_flush_without_a_node_releases_who_is_not_where_hashing_puts_users() {
    let mut server = Server::start();
    for number in 0..100 {
        server.bind(&format!("user{number}"), &[seen("a")]);
    }
    // A new node becomes the first choice of some, which changes nothing by itself.
    for number in 0..30 {
        server.bind(&format!("user{number}"), &[seen("b"), seen("a")]);
        assert_eq!(server.field(&user(&format!("user{number}")), "node"), "a");
    }
    assert_eq!(server.flush(None, 1_000).iter().sum::<u64>(), 30);
    server.bind("user0", &[seen("b"), seen("a")]);
    assert_eq!(server.field(&user("user0"), "node"), "b");
    assert_eq!(server.flush(None, 1_000).iter().sum::<u64>(), 0);
}
