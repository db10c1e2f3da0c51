use super::target::target;
use super::{accepted, refusal};
use crate::engine::target::Placement;

fn pair(first: &str, second: &str) -> String {
    format!(
        "{{targets: [{{protocol: imap, host: 192.0.2.1, {first}}},
                     {{protocol: pop3, host: 192.0.2.1, {second}}}]}}"
    )
}

#[test]
fn a_target_stands_where_its_keys_say() {
    assert_eq!(target("").placement, Placement::default());
    assert_eq!(target("").node(), "a.example");
    let placed = target("node: Node 1, pool: berlin, weight: 0, vital: false");
    assert_eq!(placed.node(), "Node 1");
    assert_eq!(
        placed.placement,
        Placement {
            node: Some("Node 1".into()),
            pool: "berlin".into(),
            weight: 0,
            vital: false,
        }
    );
    assert_eq!(target("weight: 1000").placement.weight, 1000);
}

#[test]
fn placement_is_no_part_of_the_identity() {
    let placed = target("node: other, pool: p, weight: 7, vital: false");
    assert_eq!(placed.identity(), target("").identity());
}

#[test]
fn what_is_no_name_and_no_weight_is_refused() {
    let long = "n".repeat(256);
    for (keys, problem) in [
        ("weight: -1", "weight: integer 0..1000 expected, got -1"),
        ("weight: 1001", "weight: integer 0..1000 expected, got 1001"),
        (
            "node: ''",
            "node: string of 1..255 bytes without control characters expected, got an empty string",
        ),
        (
            "pool: \"a\\nb\"",
            "pool: string of 1..255 bytes without control characters expected, got \"a\\nb\"",
        ),
    ] {
        let text = format!("{{targets: [{{protocol: imap, host: a.example, {keys}}}]}}");
        assert_eq!(refusal(&text), format!("targets[1].{problem}"));
    }
    let text = format!("{{targets: [{{protocol: imap, host: a.example, node: {long}}}]}}");
    assert!(refusal(&text).starts_with("targets[1].node: string of 1..255 bytes"));
    for key in ["master_separator", "detail_separator"] {
        let text = format!("{{targets: [], {key}: ''}}");
        assert_eq!(
            refusal(&text),
            format!("{key}: string of 1..16 bytes expected, got an empty string")
        );
    }
}

#[test]
fn the_targets_of_a_node_agree() {
    assert_eq!(accepted(&pair("weight: 50", "weight: 50")).targets.len(), 2);
    assert_eq!(
        refusal(&pair("weight: 50", "vital: false")),
        "targets[2].weight: 50 expected as in targets[1], a target of the same node \"192.0.2.1\"; got 100"
    );
    assert_eq!(
        refusal(&pair("pool: a, node: x", "pool: b, node: x")),
        "targets[2].pool: \"a\" expected as in targets[1], a target of the same node \"x\"; got \"b\""
    );
    // Two nodes on one machine may have different weights.
    accepted(&pair("node: x, weight: 1", "node: y, weight: 2"));
}
