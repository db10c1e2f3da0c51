//! Tests the nodes' shares of users, and which users move when a node leaves or returns.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::engine::config::{NodeUsable, RoutingSettings};
use crate::engine::probe::dialogue::testing;
use crate::engine::target::{Host, HostName, Placement, Protocol, Target};

/// A view in which all targets are alive except these.
struct Dead(Vec<usize>);

impl TargetView for Dead {
    fn is_listed(&self, target: usize, _: Users) -> bool {
        !self.0.contains(&target)
    }

    fn is_routable(&self, target: usize, _: Users) -> bool {
        !self.0.contains(&target)
    }

    fn ip(&self, _: usize) -> String {
        "192.0.2.1".into()
    }
}

fn target(node: &str, protocol: Protocol, port: u16, weight: u16) -> Arc<Target> {
    Arc::new(Target {
        host: Host::Name(HostName::new(&format!("{node}.example"))),
        port,
        placement: Placement {
            node: Some(node.into()),
            weight,
            ..Placement::default()
        },
        ..testing::target(protocol)
    })
}

fn imap_nodes(weights: &[u16]) -> Vec<Arc<Target>> {
    let node = |(index, &weight): (usize, &u16)| {
        target(&format!("node{index}"), Protocol::Imap, 143, weight)
    };
    weights.iter().enumerate().map(node).collect()
}

fn route_all(targets: &[Arc<Target>], dead: &[usize], users: usize) -> Vec<String> {
    let nodes = Nodes::of(targets);
    let fleet = Fleet {
        nodes: &nodes,
        targets,
        node_usable: NodeUsable::All,
        view: Dead(dead.to_vec()),
    };
    // One plan for all users, as in a running process.
    let plan = fleet.plan(&Filter::default());
    let node_of = |user: usize| {
        let key = format!("user{user}@example.org");
        let choice = plan.choose(key.as_bytes()).expect("a node");
        nodes.list[choice.node].name.to_string()
    };
    (0..users).map(node_of).collect()
}

/// How many users a test routes: `ROUTED_USERS`, which the long tests set to a million.
fn users(few: usize) -> usize {
    let wanted = std::env::var("ROUTED_USERS");
    wanted.map_or(few, |number| number.parse().expect("a number of users"))
}

/// Pearson's chi-squared statistic of the users per node against the shares that the weights give.
fn chi_squared(routes: &[String], weights: &[u16]) -> f64 {
    let mut counts: HashMap<&str, f64> = HashMap::new();
    for node in routes {
        *counts.entry(node).or_default() += 1.0;
    }
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let users = routes.len() as f64;
    let term = |(index, &weight): (usize, &u16)| {
        let expected = users * f64::from(weight) / total;
        let count = counts.get(format!("node{index}").as_str());
        (count.copied().unwrap_or_default() - expected).powi(2) / expected
    };
    weights.iter().enumerate().map(term).sum()
}

/// The value that Pearson's statistic exceeds by chance once in 10,000 cases (Wilson and Hilferty's
/// approximation).
fn limit(weights: &[u16]) -> f64 {
    let k = (weights.len() - 1) as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 3.719 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

#[test]
fn shares_are_what_weight_and_chance_allow() {
    let users = users(20_000);
    let uneven: Vec<u16> = (1..=20).map(|step| 50 * step).collect();
    for weights in [
        vec![100; 2],
        vec![100; 10],
        vec![100; 100],
        vec![1, 1000],
        uneven,
    ] {
        let routes = route_all(&imap_nodes(&weights), &[], users);
        let statistic = chi_squared(&routes, &weights);
        assert!(
            statistic < limit(&weights),
            "{} nodes: {statistic} above {}",
            weights.len(),
            limit(&weights)
        );
    }
}

#[test]
fn a_node_that_goes_moves_its_own_users_alone_and_evenly() {
    let weights = [100; 10];
    let targets = imap_nodes(&weights);
    let users = users(10_000);
    let before = route_all(&targets, &[], users);
    let after = route_all(&targets, &[3], users);
    let mut moved = Vec::new();
    for (was, is) in before.iter().zip(&after) {
        if was == "node3" {
            assert_ne!(is, "node3");
            // node9 is counted under the name of the removed node, so that the nine names have no
            // gap.
            moved.push(if is == "node9" {
                "node3".to_owned()
            } else {
                is.clone()
            });
        } else {
            assert_eq!(was, is, "only users of the node that went move");
        }
    }
    assert!(chi_squared(&moved, &weights[1..]) < limit(&weights[1..]));
    // A node that is removed from the configuration and one that is dead give the same moves.
    let gone: Vec<_> = targets
        .iter()
        .filter(|t| t.node() != "node3")
        .cloned()
        .collect();
    assert_eq!(route_all(&gone, &[], users), after);
}

#[test]
fn a_node_that_comes_takes_only_what_becomes_its_own() {
    let users = users(10_000);
    let before = route_all(&imap_nodes(&[100; 10]), &[], users);
    let after = route_all(&imap_nodes(&[100; 11]), &[], users);
    for (was, is) in before.iter().zip(&after) {
        assert!(is == was || is == "node10", "{was} became {is}");
    }
    // The new node's share differs from its weight only as far as chance allows.
    assert!(chi_squared(&after, &[100; 11]) < limit(&[100; 11]));
}

/// A plan compares hashes where weights are equal and otherwise skips nodes that cannot win: it has to
/// choose what the scores of all nodes say.
#[test]
fn a_plan_chooses_the_highest_score() {
    let uneven: Vec<u16> = (1..=20).map(|step| 50 * step).collect();
    for weights in [vec![100; 10], vec![1, 1000, 3], uneven] {
        let targets = imap_nodes(&weights);
        let nodes = Nodes::of(&targets);
        let chosen = route_all(&targets, &[], 5_000);
        for (user, node) in chosen.iter().enumerate() {
            let key = hash::of_name(format!("user{user}@example.org").as_bytes());
            let score = |node: &Node| hash::score(node.weight, hash::of_pair(key, node.hash));
            let best = nodes
                .list
                .iter()
                .max_by(|a, b| score(a).total_cmp(&score(b)));
            assert_eq!(best.map(|best| &*best.name), Some(&**node));
        }
    }
}

#[test]
fn the_order_of_a_configuration_does_not_matter() {
    let mut targets = imap_nodes(&[100, 200, 100, 50, 300]);
    let before = route_all(&targets, &[], 10_000);
    targets.reverse();
    assert_eq!(route_all(&targets, &[], 10_000), before);
}

/// A view in which all targets are alive, except for some of them.
#[derive(Default)]
struct Mixed {
    dead: &'static [usize],
    draining: &'static [usize],
    /// Dead by their first verdict, for less than `node_down_after`.
    never_alive: &'static [usize],
}

impl TargetView for Mixed {
    fn is_listed(&self, target: usize, users: Users) -> bool {
        !self.never_alive.contains(&target) && self.is_routable(target, users)
    }

    fn is_routable(&self, target: usize, users: Users) -> bool {
        let is_bound = users == Users::Bound;
        let has_users = |kept: &[usize]| !kept.contains(&target) || is_bound;
        !self.dead.contains(&target) && has_users(self.draining) && has_users(self.never_alive)
    }

    fn ip(&self, _: usize) -> String {
        "192.0.2.1".into()
    }
}

/// For each node of `two_nodes` and IMAP: usable for bound users, for others, and whether degraded.
fn standings_of(view: Mixed) -> Vec<(String, [bool; 3])> {
    let targets = two_nodes();
    let nodes = Nodes::of(&targets);
    let fleet = Fleet {
        nodes: &nodes,
        targets: &targets,
        node_usable: NodeUsable::All,
        view,
    };
    let standings = fleet.standings(b"alice", &wanted("imap"));
    let mut all: Vec<_> = standings
        .into_iter()
        .map(|one| {
            let flags = [one.usable, one.usable_for_new, one.degraded];
            (one.node.name.to_string(), flags)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn what_matches_counts_where_the_only_whole_node_takes_no_users() {
    let expected = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    // Node a is draining, POP3 on node b is dead: b serves the users of both, a keeps its own.
    let view = Mixed {
        draining: &[0, 1],
        dead: &[3],
        ..Mixed::default()
    };
    assert_eq!(
        standings_of(view),
        expected([true, false, false], [true, true, true])
    );
    // While node a is alive and not draining, the users of node b go there.
    let view = Mixed {
        dead: &[3],
        ..Mixed::default()
    };
    assert_eq!(
        standings_of(view),
        expected([true, true, false], [false, false, false])
    );
}

#[test]
fn a_node_that_has_never_been_alive_keeps_bound_users_and_takes_no_others() {
    let expected = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    let view = Mixed {
        never_alive: &[0, 1],
        ..Mixed::default()
    };
    assert_eq!(
        standings_of(view),
        expected([true, false, false], [true, true, false])
    );
    // If that is so for one port of each node, what matches counts for users without a binding.
    let view = Mixed {
        never_alive: &[1, 3],
        ..Mixed::default()
    };
    assert_eq!(
        standings_of(view),
        expected([true, true, true], [true, true, true])
    );
    let view = Mixed {
        never_alive: &[0, 2],
        ..Mixed::default()
    };
    assert_eq!(
        standings_of(view),
        expected([true, false, false], [true, false, false])
    );
}

#[test]
fn a_draining_port_is_given_to_nobody_while_its_node_has_another() {
    let targets = [
        target("a", Protocol::Imap, 143, 100),
        target("a", Protocol::Imap, 1143, 100),
    ];
    let nodes = Nodes::of(&targets);
    let ports = |view: Mixed| {
        let fleet = Fleet {
            nodes: &nodes,
            targets: &targets,
            node_usable: NodeUsable::Match,
            view,
        };
        let mut ports: Vec<usize> = (0..50)
            .filter_map(|user| {
                let key = format!("user{user}");
                Some(fleet.port_on(key.as_bytes(), "a", &wanted("imap"))?.0)
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let draining = |others: Mixed| Mixed {
        draining: &[0],
        ..others
    };
    assert_eq!(ports(draining(Mixed::default())), [1]);
    // A draining port is better than one that is dead.
    let dead = Mixed {
        dead: &[1],
        ..Mixed::default()
    };
    assert_eq!(ports(draining(dead)), [0]);
    let never_alive = Mixed {
        never_alive: &[1],
        ..Mixed::default()
    };
    assert_eq!(ports(draining(never_alive)), [0]);
}

fn two_nodes() -> Vec<Arc<Target>> {
    vec![
        target("a", Protocol::Imap, 143, 100),
        target("a", Protocol::Pop3, 110, 100),
        target("b", Protocol::Imap, 143, 100),
        target("b", Protocol::Pop3, 110, 100),
    ]
}

fn wanted(protocol: &str) -> Filter {
    Filter {
        fields: vec![(ServerField::Protocol, FieldValue::Text(protocol.into()))],
        pools: None,
    }
}

fn routed(
    targets: &[Arc<Target>],
    node_usable: NodeUsable,
    dead: &[usize],
    user: &str,
    filter: &Filter,
) -> Result<(usize, String, bool), NoRoute> {
    let nodes = Nodes::of(targets);
    let fleet = Fleet {
        nodes: &nodes,
        targets,
        node_usable,
        view: Dead(dead.to_vec()),
    };
    let route = fleet.route(user.as_bytes(), filter)?;
    Ok((route.target, route.node.name.to_string(), route.degraded))
}

#[test]
fn node_usable_says_what_makes_a_node_unusable() {
    use NodeUsable::{All, Any, Match};
    let targets = two_nodes();
    let user = (0..)
        .map(|n| format!("user{n}"))
        .find(|user| {
            routed(&targets, All, &[], user, &wanted("imap")).map(|r| r.1) == Ok("a".into())
        })
        .expect("a user of node a");
    let at =
        |usable, dead: &[usize], protocol| routed(&targets, usable, dead, &user, &wanted(protocol));
    let on = |target, node: &str, degraded| Ok((target, node.to_owned(), degraded));
    // POP3 on node a is dead: all sessions of the user leave it, or only those of POP3.
    assert_eq!(at(All, &[1], "imap"), on(2, "b", false));
    assert_eq!(at(All, &[1], "pop3"), on(3, "b", false));
    assert_eq!(at(Any, &[1], "imap"), on(0, "a", false));
    assert_eq!(at(Match, &[1], "imap"), on(0, "a", false));
    assert_eq!(at(Match, &[1], "pop3"), on(3, "b", false));
    // No node has all its targets alive: the matching target decides, and the route is `degraded`.
    assert_eq!(at(All, &[1, 3], "imap"), on(0, "a", true));
    assert_eq!(at(All, &[1, 3], "pop3"), Err(NoRoute::Unusable));
    assert_eq!(at(All, &[0, 1, 2, 3], "imap"), Err(NoRoute::Unusable));
    assert_eq!(at(All, &[], "sieve"), Err(NoRoute::NoNode));
}

#[test]
fn a_target_that_is_not_vital_takes_no_node_away() {
    let mut targets = two_nodes();
    for target in &mut targets {
        if target.protocol == Protocol::Pop3 {
            Arc::make_mut(target).placement.vital = false;
        }
    }
    let nodes_of = |dead: &[usize]| -> Vec<_> {
        (0..50)
            .map(|n| {
                routed(
                    &targets,
                    NodeUsable::All,
                    dead,
                    &format!("u{n}"),
                    &wanted("imap"),
                )
            })
            .collect()
    };
    assert_eq!(nodes_of(&[1]), nodes_of(&[]));
}

#[test]
fn pools_are_tried_in_their_order() {
    let mut targets = two_nodes();
    for (index, target) in targets.iter_mut().enumerate() {
        Arc::make_mut(target).placement.pool = if index < 2 { "near" } else { "far" }.into();
    }
    let filter = |pools: &[&str]| Filter {
        pools: Some(pools.iter().map(|&name| name.into()).collect()),
        ..wanted("imap")
    };
    let at = |dead: &[usize], pools: &[&str]| {
        routed(&targets, NodeUsable::All, dead, "alice", &filter(pools)).map(|route| route.0)
    };
    assert_eq!(at(&[], &["near"]), Ok(0));
    assert_eq!(at(&[], &["far"]), Ok(2));
    assert_eq!(at(&[], &["near", "far"]), Ok(0));
    assert_eq!(at(&[0], &["near", "far"]), Ok(2));
    assert_eq!(at(&[0], &["near"]), Err(NoRoute::Unusable));
    assert_eq!(at(&[], &["elsewhere"]), Err(NoRoute::NoNode));
    let none = routed(&targets, NodeUsable::All, &[], "alice", &wanted("imap"));
    assert_eq!(
        none,
        Err(NoRoute::NoNode),
        "no target is in the unnamed pool"
    );
}

#[test]
fn a_node_of_weight_zero_takes_nobody() {
    let routes = route_all(&imap_nodes(&[100, 0]), &[], 1_000);
    assert!(routes.iter().all(|node| node == "node0"));
    let alone = routed(
        &imap_nodes(&[0]),
        NodeUsable::All,
        &[],
        "alice",
        &Filter::default(),
    );
    assert_eq!(alone, Err(NoRoute::NoNode));
}

#[test]
fn several_ports_share_a_nodes_users_and_one_that_is_dead_gives_them_up() {
    let targets = [
        target("a", Protocol::Imap, 143, 100),
        target("a", Protocol::Imap, 1143, 100),
    ];
    let port_of = |dead: &[usize], user: usize| {
        let user = format!("user{user}");
        routed(&targets, NodeUsable::Any, dead, &user, &wanted("imap")).map(|route| route.0)
    };
    let both: Vec<_> = (0..1_000).map(|user| port_of(&[], user)).collect();
    let first = both.iter().filter(|port| **port == Ok(0)).count();
    assert!(
        (400..600).contains(&first),
        "{first} of 1,000 on the first port"
    );
    assert!((0..1_000).all(|user| port_of(&[0], user) == Ok(1)));
}

#[test]
fn equal_targets_are_one_port() {
    let once = [target("a", Protocol::Imap, 143, 100)];
    let twice = [once[0].clone(), once[0].clone()];
    assert_eq!(Nodes::of(&twice).list[0].ports.len(), 1);
}

#[test]
fn a_key_is_all_that_counts_of_a_user() {
    let settings = RoutingSettings::default();
    assert_eq!(
        user_key(b"ALICE@example.org", &settings),
        user_key(b"alice@EXAMPLE.org", &settings)
    );
}
