//! Intervals, thresholds and addresses that a target may set for itself.

use std::net::IpAddr;
use std::time::Duration;

use super::super::super::target::ProbePolicy;
use super::target::target;
use super::{accepted, refusal};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn a_targets_own_intervals_and_thresholds_count() {
    let read = target(
        "connect_interval: 30s, deep_interval: 1m, fast_interval: 250ms, failure_threshold: 3,
         recovery_threshold: 2",
    );
    let own = ProbePolicy {
        connect_interval: 30 * S,
        deep_interval: 60 * S,
        fast_interval: 250 * MS,
        failure_threshold: 3,
        recovery_threshold: 2,
    };
    assert_eq!(read.policy, own);
    assert_eq!(target("").policy, ProbePolicy::DEFAULT);
}

/// An interval that neither the target nor the service sets follows the target's `connect_interval`.
#[test]
fn what_a_target_leaves_out_is_the_services_or_follows() {
    let policies = |service: &str| {
        let own = "{protocol: imap, host: a, connect_interval: 200ms}";
        let text = format!("{{backend_servers: [{own}, {{protocol: imap, host: b}}] {service}}}");
        let config = accepted(&text);
        let of = |at: usize| {
            let policy = config.targets[at].policy;
            (
                policy.connect_interval,
                policy.deep_interval,
                policy.fast_interval,
            )
        };
        [of(0), of(1)]
    };
    assert_eq!(
        policies(""),
        [(200 * MS, 200 * MS, 200 * MS), (10 * S, 10 * S, S)]
    );
    assert_eq!(
        policies(", deep_interval: 1m, fast_interval: 2s"),
        [(200 * MS, 60 * S, 2 * S), (10 * S, 60 * S, 2 * S)]
    );
}

#[test]
fn bounds_are_those_of_the_service() {
    for (key, good, bad, range) in [
        (
            "connect_interval",
            ["10ms", "24h"],
            ["9ms", "25h"],
            "duration 10ms..24h",
        ),
        (
            "deep_interval",
            ["10ms", "24h"],
            ["9ms", "25h"],
            "duration 10ms..24h",
        ),
        (
            "fast_interval",
            ["10ms", "24h"],
            ["9ms", "25h"],
            "duration 10ms..24h",
        ),
        (
            "failure_threshold",
            ["1", "100"],
            ["0", "101"],
            "integer 1..100",
        ),
        (
            "recovery_threshold",
            ["1", "100"],
            ["0", "101"],
            "integer 1..100",
        ),
    ] {
        for value in good {
            target(&format!("{key}: {value}"));
        }
        for value in bad {
            let error = refusal(&one(&format!("{key}: {value}")));
            let start = format!("backend_servers[1].{key}: {range} expected, got ");
            assert!(error.starts_with(&start), "{error}");
        }
    }
}

fn one(keys: &str) -> String {
    format!("{{backend_servers: [{{protocol: imap, host: a.example, {keys}}}]}}")
}

#[test]
fn a_policy_is_no_part_of_a_targets_identity() {
    let plain = target("").identity();
    for keys in [
        "connect_interval: 1m",
        "fast_interval: 2s",
        "failure_threshold: 9",
    ] {
        assert_eq!(target(keys).identity(), plain, "{keys}");
    }
    assert_ne!(target("source_address: 127.0.0.1").identity(), plain);
}

#[test]
fn a_source_address_is_one_of_this_machine() {
    let read = target("source_address: 127.0.0.1");
    assert_eq!(read.source_address, Some(IpAddr::from([127, 0, 0, 1])));
    for (keys, problem) in [
        (
            "source_address: 192.0.2.1",
            "address of this machine expected, got 192.0.2.1",
        ),
        (
            "source_address: localhost",
            "IPv4 or IPv6 address of this machine expected, got \"localhost\"",
        ),
    ] {
        let error = refusal(&one(keys));
        assert_eq!(
            error,
            format!("backend_servers[1].source_address: {problem}")
        );
    }
    let other = "{backend_servers: [{protocol: imap, host: '::1', source_address: 127.0.0.1}]}";
    assert_eq!(
        refusal(other),
        "backend_servers[1].source_address: IPv6 expected as for the host, got 127.0.0.1"
    );
}

#[test]
fn a_panic_threshold_is_a_percentage() {
    let threshold = |value: &str| {
        accepted(&format!(
            "{{backend_servers: [], panic_threshold: {value}}}"
        ))
        .panic_threshold
    };
    for (value, percent) in [
        ("0%", 0),
        ("50%", 50),
        ("'100%'", 100),
        ("30", 30),
        ("0", 0),
    ] {
        assert_eq!(threshold(value), percent, "{value}");
    }
    for value in [
        "101%", "-1%", "0.5", "half", "'50'", "'%'", "101", "true", "'+5%'",
    ] {
        let error = refusal(&format!(
            "{{backend_servers: [], panic_threshold: {value}}}"
        ));
        let start = "panic_threshold: percentage 0%..100% expected, got ";
        assert!(error.starts_with(start), "{error}");
    }
}
