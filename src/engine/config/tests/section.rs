//! Where in a configuration our section is, and its list of targets.

use super::{accepted, refusal};

#[test]
fn the_list_of_targets_has_to_be_there_once() {
    for (text, problem) in [
        (
            "{}",
            "backend_servers: list of tables expected, got nothing",
        ),
        (
            "{log: none}",
            "backend_servers: list of tables expected, got nothing",
        ),
        ("[1]", "table with named keys expected, got list"),
        ("text", "table expected, got string \"text\""),
        ("~", "table expected, got nothing"),
        (
            "{backend_servers: [], targets: []}",
            "targets: means the same as backend_servers, which is also given",
        ),
        (
            "{targets: 5}",
            "targets: list of tables expected, got number 5",
        ),
        (
            "{targets: {host: a}}",
            "targets: list of tables expected, got table with named keys",
        ),
        (
            "{targets: [a]}",
            "targets[1]: table expected, got string \"a\"",
        ),
        (
            "{targets: [[a]]}",
            "targets[1]: table with named keys expected, got list",
        ),
        (
            "{targets: [{}]}",
            "targets[1].host: IPv4, IPv6 or host name expected, got nothing",
        ),
    ] {
        assert_eq!(refusal(text), problem, "{text}");
    }
    // An empty Lua table is an empty list, and a list of none is a configuration.
    assert!(
        accepted("{backend_servers: {}, expose_attributes: {}}")
            .targets
            .is_empty()
    );
}

#[test]
fn a_table_may_nest_the_section_as_a_file_does() {
    let target = "{protocol: imap, host: a.example}";
    for text in [
        format!("{{backend_server_monitoring: {{backend_servers: [{target}]}}, server: {{x: 1}}}}"),
        format!(
            "{{auth: {{services: {{enabled: [x], backend_health_checks: {{targets: [{target}]}}}}}}}}"
        ),
    ] {
        assert_eq!(accepted(&text).targets.len(), 1);
    }
    for (text, problem) in [
        (
            "{backend_server_monitoring: {targets: [{host: a.example, protocol: ftp}]}}",
            "backend_server_monitoring.targets[1].protocol: one of imap, pop3, lmtp, smtp, sieve, \
             http expected, got \"ftp\"",
        ),
        (
            "{auth: {services: {backend_health_checks: {tragets: []}}}}",
            "auth.services.backend_health_checks.tragets: unknown key; did you mean targets?",
        ),
        (
            "{auth: {services: {backend_health_checks: {}}}, backend_server_monitoring: {}}",
            "auth.services.backend_health_checks: backend_server_monitoring is there, too; keep \
             one of the two",
        ),
        (
            "{backend_server_monitoring: {targets: []}, log: none}",
            "log: stands beside backend_server_monitoring; it belongs inside",
        ),
        (
            "{backend_server_monitoring: 1}",
            "backend_server_monitoring: table expected, got number 1",
        ),
        ("{auth: {services: {}}}", "auth: unknown key"),
        (
            "{backend_servers_monitoring: {targets: []}}",
            "backend_servers_monitoring: unknown section; did you mean backend_server_monitoring?",
        ),
        (
            "{backend_server_monitoring: ~}",
            "backend_server_monitoring: table expected, got nothing",
        ),
    ] {
        assert_eq!(refusal(text), problem);
    }
}
