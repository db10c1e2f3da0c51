//! What is accepted and yet warned of.

use super::super::Config;
use super::{accepted, no_env};

const NO_TLS: &str = "has no effect without TLS (tls: true, or tls_mode)";
const NO_HTTP: &str = "has no effect: it is for http alone";

/// The warnings of a configuration of two imap targets, the second with these keys.
fn of(keys: &str) -> Vec<String> {
    accepted(&format!(
        "{{targets: [{{protocol: imap, host: a.example}}, \
         {{protocol: imap, host: b.example, {keys}}}]}}"
    ))
    .warnings
}

#[test]
fn keys_that_have_no_effect_are_warned_of() {
    for (keys, warning) in [
        (
            "test_username: u, test_password: p",
            "test_username: is not used: without deep_check nothing logs in".to_owned(),
        ),
        (
            "tls_skip_verify: true",
            format!("tls_skip_verify: {NO_TLS}"),
        ),
        (
            "tls_server_name: c.example",
            format!("tls_server_name: {NO_TLS}"),
        ),
        (
            "tls_ca_file: /etc/ca.pem, tls: false",
            format!("tls_ca_file: {NO_TLS}"),
        ),
        ("tls_min_version: 1.3", format!("tls_min_version: {NO_TLS}")),
        ("request_uri: /", format!("request_uri: {NO_HTTP}")),
        ("http_host: c.example", format!("http_host: {NO_HTTP}")),
        ("http_method: HEAD", format!("http_method: {NO_HTTP}")),
        (
            "expected_status: 200",
            format!("expected_status: {NO_HTTP}"),
        ),
        (
            "tls_mode: starttls",
            "tls_mode: starttls is not tried without deep_check: the server is only connected to"
                .to_owned(),
        ),
        (
            "connect_interval: 5s, fast_interval: 6s",
            "fast_interval: is above connect_interval: a server that failed is probed less often \
             than a good one"
                .to_owned(),
        ),
    ] {
        assert_eq!(of(keys), [format!("targets[2].{warning}")], "{keys}");
    }
    for keys in [
        "deep_check: true, test_username: u, test_password: p",
        "tls_skip_verify: false",
        "tls: true, tls_skip_verify: true, tls_server_name: c.example, tls_ca_file: /etc/ca.pem",
        "tls: true, tls_min_version: 1.2, tls_cert_file: /etc/c.pem, tls_key_file: /etc/c.pem",
        "tls_mode: starttls, deep_check: true, tls_skip_verify: true",
        "connect_interval: 5s, fast_interval: 5s",
    ] {
        assert_eq!(of(keys), [""; 0], "{keys}");
    }
    let sieve = accepted("{targets: [{protocol: sieve, host: a.example, tls_skip_verify: true}]}");
    assert_eq!(
        sieve.warnings,
        [
            "targets[1].tls_mode: starttls is not tried without deep_check: the server is only connected to"
        ]
    );
    // Its STARTTLS is the default: nobody asked for more than the other protocols do.
    let http = "{protocol: http, host: a.example, request_uri: /health, http_host: b.example}";
    for target in [http, "{protocol: sieve, host: a.example}"] {
        let config = accepted(&format!("{{targets: [{target}]}}"));
        assert_eq!(config.warnings, [""; 0], "{target}");
    }
}

#[test]
fn a_service_s_fast_interval_is_warned_of_once() {
    let config = accepted(
        "{connect_interval: 5s, fast_interval: 10s, targets: [{protocol: imap, host: a.example}, \
         {protocol: imap, host: b.example}]}",
    );
    let own = accepted(
        "{fast_interval: 5s, targets: [{protocol: imap, host: a.example, connect_interval: 2s}]}",
    );
    assert_eq!(
        own.warnings,
        [
            "targets[1].connect_interval: is below the service's fast_interval: a server that \
             failed is probed less often than a good one"
        ]
    );
    assert_eq!(
        config.warnings,
        [
            "fast_interval: 10s is above connect_interval: a server that failed is probed less \
             often than a good one (5s)"
        ]
    );
}

#[test]
fn nodes_whose_names_are_spelled_in_two_ways_are_warned_of() {
    let warnings = |targets: &[&str]| {
        let list: Vec<_> = targets
            .iter()
            .map(|target| format!("{{protocol: imap, {target}}}"))
            .collect();
        accepted(&format!("{{targets: [{}]}}", list.join(", "))).warnings
    };
    assert_eq!(
        warnings(&["host: Mail1.example", "host: mail1.example, port: 1143"]),
        [
            "targets[2].node: \"mail1.example\" is another node than \"Mail1.example\" of [1], \
             because the names are spelled differently"
        ]
    );
    assert_eq!(
        warnings(&[
            "host: '::ffff:192.0.2.1'",
            "host: 192.0.2.1, port: 1143",
            "host: 192.0.2.2, node: '::FFFF:192.0.2.1'",
        ]),
        [
            "targets[2].node: \"192.0.2.1\" is another node than \"::ffff:192.0.2.1\" of [1], \
             because the names are spelled differently (and so in 1 other server)"
        ]
    );
    let one = [
        "host: mail1.example",
        "host: Mail1.example, port: 1143, node: mail1.example",
    ];
    assert_eq!(warnings(&one), [""; 0]);
    assert_eq!(warnings(&["host: a.example", "host: b.example"]), [""; 0]);
}

#[test]
fn many_of_a_kind_are_one_warning() {
    let target = |host: u32| {
        format!("{{protocol: imap, host: h{host}.example, request_uri: /, tls_skip_verify: true}}")
    };
    let targets: Vec<String> = (1..=4).map(target).collect();
    let config = accepted(&format!("{{backend_servers: [{}]}}", targets.join(", ")));
    assert_eq!(
        config.warnings,
        [
            format!("backend_servers[1].tls_skip_verify: {NO_TLS} (and so in 3 other servers)"),
            format!("backend_servers[1].request_uri: {NO_HTTP} (and so in 3 other servers)"),
        ]
    );
}

#[test]
fn a_target_that_is_there_twice_is_warned_of() {
    let twice = |first: &str, second: &str| {
        accepted(&format!("{{targets: [{{{first}}}, {{{second}}}]}}")).warnings
    };
    assert_eq!(
        twice(
            "protocol: imap, host: a.example",
            "protocol: imap, host: A.example, node: a.example, port: 143, deep_check: true"
        ),
        [""; 0],
    );
    assert_eq!(
        twice(
            "protocol: imap, host: a.example",
            "protocol: imap, host: a.example, port: 143, deep_check: true"
        ),
        ["targets[2]: imap://a.example:143 is listed twice: it is [1] as well"],
    );
    for second in [
        "protocol: pop3, host: a.example",
        "protocol: imap, host: a.example, port: 993",
        "protocol: imap, host: b.example",
    ] {
        let first = "protocol: imap, host: a.example";
        assert_eq!(twice(first, second), [""; 0], "{second}");
    }
    let http = "protocol: http, host: a.example, request_uri: /a";
    assert_eq!(
        twice(http, "protocol: http, host: a.example, request_uri: /b"),
        [""; 0]
    );
    assert_eq!(
        twice(http, http),
        ["targets[2]: http://a.example:80 is listed twice: it is [1] as well"]
    );
    let three = format!(
        "{{targets: [{}]}}",
        ["{protocol: imap, host: a.example}"; 4].join(",")
    );
    assert_eq!(
        accepted(&three).warnings,
        [
            "targets[2]: imap://a.example:143 is listed twice: it is [1] as well (and so in 2 \
             other servers)"
        ]
    );
}

#[test]
fn a_text_s_warnings_have_their_lines() {
    let text = "\
backend_server_monitoring:
  connect_interval: 5s
  fast_interval: 10s
  targets:
    - protocol: imap
      host: a.example
      request_uri: /
";
    let warnings = Config::from_yaml(text, &no_env).map(|config| config.warnings);
    assert_eq!(
        warnings,
        Ok(vec![
            "line 3: backend_server_monitoring.fast_interval: 10s is above connect_interval: a \
             server that failed is probed less often than a good one (5s)"
                .to_owned(),
            format!("line 7: backend_server_monitoring.targets[1].request_uri: {NO_HTTP}"),
        ])
    );
}
