use std::path::Path;
use std::time::Duration;

use super::super::super::target::{
    AuthMechanism, ExpectedStatus, Host, HttpMethod, Placement, ProbePolicy, Protocol, Target,
    TlsMinVersion, TlsMode,
};
use super::super::keys::TARGET_KEYS;
use super::{accepted, refusal};

/// The one target of a configuration that has these keys beside a protocol and a host.
pub(super) fn target(keys: &str) -> Target {
    let text = format!("{{backend_servers: [{{protocol: imap, host: a.example, {keys}}}]}}");
    (*accepted(&text).targets[0]).clone()
}

fn problem(keys: &str) -> String {
    let text = format!("{{backend_servers: [{{protocol: imap, host: a.example, {keys}}}]}}");
    let error = refusal(&text);
    error
        .strip_prefix("backend_servers[1].")
        .unwrap_or_else(|| panic!("{error}"))
        .to_owned()
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let second = Duration::from_secs(1);
    assert_eq!(
        target(""),
        Target {
            protocol: Protocol::Imap,
            host: Host::Name("a.example".into()),
            port: 143,
            tls_mode: TlsMode::Plain,
            tls_skip_verify: false,
            tls_server_name: None,
            tls_ca_file: None,
            client_certificate: None,
            tls_min_version: TlsMinVersion::V1_2,
            haproxy_v2: false,
            deep_check: false,
            test_username: None,
            test_password: None,
            auth_mechanism: AuthMechanism::Auto,
            allow_plaintext_auth: false,
            request_uri: "/".into(),
            placement: Placement::default(),
            http_method: HttpMethod::Get,
            http_host: None,
            expected_status: ExpectedStatus::usual(),
            helo_name: None,
            test_mailbox: None,
            connect_timeout: 5 * second,
            tls_timeout: 5 * second,
            deep_timeout: 5 * second,
            policy: ProbePolicy::DEFAULT,
            source_address: None,
        }
    );
}

#[test]
fn every_key_is_read() {
    let read = accepted(
        "{backend_servers: [{protocol: POP3, host: '[2001:db8::1]', port: '995', tls: true,
          tls_mode: IMPLICIT, tls_skip_verify: true, tls_server_name: pop.example.org.,
          tls_ca_file: ca.pem, tls_cert_file: ../c.pem, tls_key_file: /etc/c.key, tls_min_version: 1.3,
          haproxy_v2: true, deep_check: true, test_username: user,
          test_password: \"pass: 'word'\", auth_mechanism: userpass, allow_plaintext_auth: true,
          request_uri: '/health?x=1', http_method: head, http_host: 'www.example.org:8080',
          expected_status: 200-299, helo_name: '[192.0.2.1]', test_mailbox: Drafts, connect_timeout: 1m, tls_timeout: 0.25,
          deep_timeout: 5m}]}",
    );
    let read = &read.targets[0];
    assert_eq!(read.key(), "pop3://[2001:db8::1]:995");
    assert_eq!(read.tls_mode, TlsMode::Implicit);
    let shown = read.client_certificate.as_ref().unwrap();
    assert!(shown.cert_file.is_absolute() && shown.cert_file.ends_with("../c.pem"));
    assert_eq!(shown.key_file, Path::new("/etc/c.key"));
    assert_eq!(read.tls_min_version, TlsMinVersion::V1_3);
    assert!(read.tls_skip_verify && read.haproxy_v2 && read.deep_check);
    assert_eq!(read.tls_server_name.as_deref(), Some("pop.example.org"));
    // The process may change its directory later.
    let absolute = std::env::current_dir().unwrap().join("ca.pem");
    assert_eq!(read.tls_ca_file, Some(absolute));
    assert_eq!(read.test_username.as_deref(), Some("user"));
    let password = read.test_password.as_ref().map(|secret| secret.expose());
    assert_eq!(password, Some("pass: 'word'"));
    assert_eq!(read.auth_mechanism, AuthMechanism::UserPass);
    assert!(read.allow_plaintext_auth);
    assert_eq!(read.request_uri, "/health?x=1");
    assert_eq!(read.http_method, HttpMethod::Head);
    assert_eq!(read.http_host.as_deref(), Some("www.example.org:8080"));
    assert_eq!(read.expected_status.to_string(), "200-299");
    assert_eq!(read.helo_name.as_deref(), Some("[192.0.2.1]"));
    assert_eq!(read.test_mailbox.as_deref(), Some("Drafts"));
    assert_eq!(read.connect_timeout, Duration::from_secs(60));
    assert_eq!(read.tls_timeout, Duration::from_millis(250));
    assert_eq!(read.deep_timeout, Duration::from_secs(300));
}

#[test]
fn the_example_of_the_contract_reads_as_promised() {
    assert_eq!(
        refusal(
            "{backend_servers: [{protocol: imap, host: a.example},
                                {protocol: imap, host: a.example, port: 70000}]}"
        ),
        "backend_servers[2].port: integer 1..65535 expected, got 70000"
    );
    assert_eq!(
        refusal("{targets: [{protocol: imap, ip: a.example, port: 0}]}"),
        "targets[1].port: integer 1..65535 expected, got 0"
    );
}

#[test]
fn ports_are_integers_however_lua_writes_them() {
    for port in [
        "993", "'993'", "993.0", "'993.0'", "' 993 '", "0x3e1", "9.93e2",
    ] {
        assert_eq!(target(&format!("port: {port}")).port, 993, "{port}");
    }
    for port in ["1", "65535"] {
        assert_eq!(target(&format!("port: {port}")).port.to_string(), port);
    }
    for (port, got) in [
        ("0", "0"),
        ("65536", "65536"),
        ("-1", "-1"),
        ("993.5", "993.5"),
        ("imaps", "string \"imaps\""),
        ("''", "an empty string"),
        ("'99999999999999999999'", "string \"99999999999999999999\""),
        ("99999999999999999999", "1e20"),
    ] {
        assert_eq!(
            problem(&format!("port: {port}")),
            format!("port: integer 1..65535 expected, got {got}")
        );
    }
}

#[test]
fn ports_default_by_protocol_and_tls_mode() {
    for (protocol, plain, implicit) in [
        ("imap", 143, 993),
        ("pop3", 110, 995),
        ("lmtp", 24, 24),
        ("smtp", 25, 465),
        ("sieve", 4190, 4190),
        ("http", 80, 443),
    ] {
        for (tls, port) in [("false", plain), ("true", implicit)] {
            let text =
                format!("{{targets: [{{protocol: {protocol}, host: a.example, tls: {tls}}}]}}");
            assert_eq!(accepted(&text).targets[0].port, port, "{text}");
        }
    }
    for (protocol, mode) in [
        ("imap", TlsMode::Plain),
        ("pop3", TlsMode::Plain),
        ("lmtp", TlsMode::Plain),
        ("smtp", TlsMode::Plain),
        ("sieve", TlsMode::StartTls),
        ("http", TlsMode::Plain),
    ] {
        for (given, wanted) in [
            ("", mode),
            (", tls: false", TlsMode::Plain),
            (", tls: true", TlsMode::Implicit),
            (", tls_mode: plain", TlsMode::Plain),
        ] {
            let text = format!("{{targets: [{{protocol: {protocol}, host: a.example{given}}}]}}");
            assert_eq!(accepted(&text).targets[0].tls_mode, wanted, "{text}");
        }
    }
    assert_eq!(target("tls_mode: starttls").port, 143);
}

#[test]
fn tls_and_tls_mode_agree_or_are_refused() {
    for (keys, mode) in [
        ("tls: true", TlsMode::Implicit),
        ("tls: false", TlsMode::Plain),
        ("tls_mode: Implicit", TlsMode::Implicit),
        ("tls_mode: plain", TlsMode::Plain),
        ("tls_mode: STARTTLS", TlsMode::StartTls),
        ("tls: true, tls_mode: implicit", TlsMode::Implicit),
        ("tls: false, tls_mode: plain", TlsMode::Plain),
        // As a server object of such a target reads.
        ("tls: false, tls_mode: starttls", TlsMode::StartTls),
    ] {
        assert_eq!(target(keys).tls_mode, mode, "{keys}");
    }
    for (tls, mode) in [
        ("true", "plain"),
        ("true", "starttls"),
        ("false", "implicit"),
    ] {
        assert_eq!(
            problem(&format!("tls: {tls}, tls_mode: {mode}")),
            format!("tls: {tls} contradicts tls_mode: {mode} (tls: true is tls_mode: implicit)")
        );
    }
    assert_eq!(
        problem("tls_mode: opportunistic"),
        "tls_mode: one of plain, implicit, starttls expected, got \"opportunistic\""
    );
    assert_eq!(
        refusal("{targets: [{protocol: http, host: a.example, tls_mode: starttls}]}"),
        "targets[1].tls_mode: http has no STARTTLS"
    );
}

#[test]
fn tls_settings_of_a_plain_target_are_kept() {
    // A target is switched to plain for a test without losing the rest.
    let read = target("tls: false, tls_skip_verify: true, tls_server_name: b.example");
    assert!(read.tls_skip_verify);
    assert_eq!(read.tls_server_name.as_deref(), Some("b.example"));
}

#[test]
fn a_host_has_three_names_of_which_one_is_given() {
    for name in ["host", "ip", "ip_address"] {
        let read = accepted(&format!(
            "{{targets: [{{protocol: imap, {name}: 10.0.0.1}}]}}"
        ));
        assert_eq!(read.targets[0].key(), "imap://10.0.0.1:143");
        assert_eq!(
            refusal(&format!(
                "{{targets: [{{protocol: imap, {name}: 10.0.0.256}}]}}"
            )),
            format!(
                "targets[1].{name}: IPv4, IPv6 or host name expected, got \"10.0.0.256\" \
                 (a name must not end in a number)"
            )
        );
    }
    assert_eq!(
        problem("ip: 10.0.0.1"),
        "ip: means the same as host, which is also given"
    );
    assert_eq!(
        refusal("{targets: [{protocol: imap, host: 10}]}"),
        "targets[1].host: IPv4, IPv6 or host name expected, got number 10 (put it in quotes)"
    );
    for key in ["node", "pool"] {
        assert_eq!(
            problem(&format!("{key}: 1")),
            format!(
                "{key}: string of 1..255 bytes without control characters expected, got number 1 \
                 (put it in quotes)"
            )
        );
    }
    assert_eq!(
        refusal("{targets: [{protocol: imap, host: ''}]}"),
        "targets[1].host: IPv4, IPv6 or host name expected, got an empty string"
    );
    assert_eq!(
        problem("tls_server_name: a b"),
        "tls_server_name: IPv4, IPv6 or host name expected, got \"a b\""
    );
}

#[test]
fn a_protocol_is_required() {
    assert_eq!(
        refusal("{targets: [{host: a.example}]}"),
        "targets[1].protocol: one of imap, pop3, lmtp, smtp, sieve, http expected, got nothing"
    );
    assert_eq!(
        refusal("{targets: [{host: a.example, protocol: imaps}]}"),
        "targets[1].protocol: one of imap, pop3, lmtp, smtp, sieve, http expected, got \"imaps\""
    );
}

#[test]
fn a_mechanism_has_to_be_one_of_the_protocol() {
    let all = ["auto", "PLAIN", "LOGIN", "USERPASS", "BASIC"];
    for (protocol, allowed) in [
        ("imap", "auto, PLAIN, LOGIN"),
        ("smtp", "auto, PLAIN, LOGIN"),
        ("lmtp", "auto, PLAIN, LOGIN"),
        ("sieve", "auto, PLAIN, LOGIN"),
        ("pop3", "auto, PLAIN, LOGIN, USERPASS"),
        ("http", "auto, BASIC"),
    ] {
        for mechanism in all {
            let text = format!(
                "{{targets: [{{protocol: {protocol}, host: a.example, auth_mechanism: {}}}]}}",
                mechanism.to_lowercase()
            );
            if allowed.split(", ").any(|name| name == mechanism) {
                assert_eq!(accepted(&text).targets[0].auth_mechanism.name(), mechanism);
            } else {
                assert_eq!(
                    refusal(&text),
                    format!(
                        "targets[1].auth_mechanism: one of {allowed} expected for {protocol}, got \
                         {mechanism}"
                    )
                );
            }
        }
    }
    assert_eq!(
        problem("auth_mechanism: CRAM-MD5"),
        "auth_mechanism: one of auto, PLAIN, LOGIN, USERPASS, BASIC expected, got \"CRAM-MD5\""
    );
}

#[test]
fn credentials_come_together_and_are_never_repeated() {
    let expected = "string of 1..1024 bytes without CR, LF and NUL expected";
    let long = "hunter2".repeat(147);
    for (keys, text) in [
        (
            "test_username: hunter2",
            "test_username: test_password expected beside it, got nothing".to_owned(),
        ),
        (
            "test_password: hunter2",
            "test_password: test_username expected beside it, got nothing".to_owned(),
        ),
        (
            "test_username: u, test_password: \"hunter2\\r\\n\"",
            format!("test_password: {expected}, got a line break in it"),
        ),
        (
            "test_username: \"hunter2\\n\", test_password: p",
            format!("test_username: {expected}, got a line break in it"),
        ),
        (
            "test_username: u, test_password: \"hunter2\\0\"",
            format!("test_password: {expected}, got NUL in it"),
        ),
        (
            "test_username: '', test_password: p",
            format!("test_username: {expected}, got an empty string"),
        ),
        (
            "test_username: u, test_password: 1702",
            format!("test_password: {expected}, got number (put it in quotes)"),
        ),
        (
            "test_username: u, test_password: [hunter2]",
            format!("test_password: {expected}, got list"),
        ),
        (
            &format!("test_username: u, test_password: {long}"),
            format!("test_password: {expected}, got 1029 bytes"),
        ),
        (
            "test_username: u, test_pasword: hunter2",
            "test_pasword: unknown key; did you mean test_password?".to_owned(),
        ),
    ] {
        let text_of_error = problem(keys);
        assert_eq!(text_of_error, text);
        assert!(!text_of_error.contains("hunter2") && !text_of_error.contains("1702"));
    }
    assert_eq!(
        refusal("{targets: [{protocol: http, host: a, test_username: 'a:b', test_password: c}]}"),
        "targets[1].test_username: no colon expected for http, got one"
    );
    assert_eq!(
        target("test_username: 'a:b', test_password: c")
            .test_username
            .as_deref(),
        Some("a:b")
    );
    let shown = format!("{:?}", target("test_username: u, test_password: hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_request_uri_is_one_that_can_be_sent() {
    let expected = "request_uri: string that starts with / , of 1..8000 visible ASCII characters \
                    expected";
    for (uri, got) in [
        ("health", "another start"),
        ("http://a/", "another start"),
        ("/ü", "other characters"),
        ("'/a b'", "a space in it"),
        ("\"/a\\r\\nX: y\"", "a line break in it"),
        ("\"/a\\0\"", "NUL in it"),
        ("''", "an empty string"),
        ("true", "boolean"),
    ] {
        assert_eq!(
            problem(&format!("request_uri: {uri}")),
            format!("{expected}, got {got}")
        );
    }
    let longest = format!("/{}", "a".repeat(7_999));
    assert_eq!(
        target(&format!("request_uri: {longest}")).request_uri,
        longest
    );
    assert!(problem(&format!("request_uri: {longest}a")).starts_with("request_uri: string"));
}

#[test]
fn switches_are_booleans() {
    for key in [
        "tls",
        "tls_skip_verify",
        "haproxy_v2",
        "deep_check",
        "allow_plaintext_auth",
    ] {
        for (value, got) in [
            ("yes", "string \"yes\" (write true)"),
            (
                "'true'",
                "string \"true\" (write true or false without quotes)",
            ),
            ("1", "number 1"),
            ("[]", "list"),
        ] {
            assert_eq!(
                problem(&format!("{key}: {value}")),
                format!("{key}: boolean expected, got {got}")
            );
        }
    }
}

#[test]
fn timeouts_of_a_target_have_the_service_s_bounds() {
    for (key, bad, range) in [
        ("connect_timeout", "61", "1ms..1m"),
        ("tls_timeout", "61", "1ms..1m"),
        ("deep_timeout", "301", "1ms..5m"),
    ] {
        assert_eq!(
            problem(&format!("{key}: {bad}")),
            format!("{key}: duration {range} expected, got {bad}")
        );
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    for (key, hint) in [
        ("hots", "; did you mean host?"),
        ("hostname", "; did you mean host?"),
        ("username", "; did you mean test_username?"),
        ("skip_verify", "; did you mean tls_skip_verify?"),
        ("haproxy", "; did you mean haproxy_v2?"),
        ("prot", "; did you mean port?"),
        ("colour", ""),
        ("proxy_protocol", "; did you mean haproxy_v2?"),
        ("send-proxy-v2", "; did you mean haproxy_v2?"),
        (
            "timeout",
            "; did you mean connect_timeout, tls_timeout or deep_timeout?",
        ),
        (
            "interval",
            "; did you mean connect_interval, deep_interval or fast_interval?",
        ),
        ("name", "; did you mean host or node?"),
        ("ssl", "; did you mean tls?"),
        ("SSL", "; did you mean tls?"),
        ("starttls", "; did you mean tls_mode?"),
        ("enabled", ""),
        ("rise", "; did you mean recovery_threshold?"),
        (
            "threshold",
            "; did you mean failure_threshold or recovery_threshold?",
        ),
        (
            "state_max_age",
            " of a target; it belongs to the service section",
        ),
    ] {
        assert_eq!(
            problem(&format!("{key}: 1")),
            format!("{key}: unknown key{hint}")
        );
    }
}

#[test]
fn every_target_key_is_refused_when_it_is_a_table() {
    for key in TARGET_KEYS {
        // The target has no other key: the error is about this key or, if that is read later, about the
        // missing host.
        let text = format!("{{targets: [{{{}: {{a: 1}}}}]}}", key.name);
        let error = refusal(&text);
        let own = format!(
            "targets[1].{}: {} expected, got table",
            key.name,
            key.kind.expected()
        );
        let earlier = "targets[1].host: IPv4, IPv6 or host name expected, got nothing";
        assert!(error == own || error == earlier, "{error}");
        if key.name != "host" && key.name != "protocol" {
            let text = format!("{}: {{a: 1}}", key.name);
            assert_eq!(
                problem(&text),
                format!("{}: {} expected, got table", key.name, key.kind.expected())
            );
        }
    }
}

#[test]
fn a_dialogue_has_the_time_that_its_protocol_needs() {
    let deep = |text: &str| accepted(text).targets[0].deep_timeout.as_secs();
    assert_eq!(deep("{targets: [{protocol: smtp, host: a.example}]}"), 15);
    assert_eq!(deep("{targets: [{protocol: lmtp, host: a.example}]}"), 5);
    // A configured `deep_timeout` applies to every protocol.
    assert_eq!(
        deep("{deep_timeout: 3s, targets: [{protocol: smtp, host: a.example}]}"),
        3
    );
}

#[test]
fn status_codes_are_codes_and_ranges() {
    let status = |text: &str| {
        let read = target(&format!("expected_status: {text}"));
        read.expected_status.to_string()
    };
    for (text, read) in [
        ("200", "200"),
        ("'204'", "204"),
        ("200.0", "200"),
        ("200-399", "200-399"),
        ("' 200 - 204 , 401 '", "200-204,401"),
        ("[200, 301-303, '401,403']", "200,301-303,401,403"),
        ("200-599", "200-599"),
        ("599", "599"),
    ] {
        assert_eq!(status(text), read, "{text}");
    }
    assert!(target("expected_status: 401").expected_status.contains(401));
    assert!(!target("expected_status: 401").expected_status.contains(200));
    let expected = "status codes and ranges within 200..599, as in 200-299,401 expected, got";
    for (text, place, got) in [
        ("199", "expected_status", "199"),
        ("600", "expected_status", "600"),
        ("100-200", "expected_status", "\"100-200\""),
        ("299-200", "expected_status", "\"299-200\""),
        ("2xx", "expected_status", "\"2xx\""),
        ("'+200'", "expected_status", "\"+200\""),
        ("'200,'", "expected_status", "\"200,\""),
        ("''", "expected_status", "an empty string"),
        ("true", "expected_status", "boolean"),
        ("200.5", "expected_status", "200.5"),
        ("[200, 99]", "expected_status[2]", "number"),
        ("[]", "expected_status", "0 of them"),
    ] {
        let problem = problem(&format!("expected_status: {text}"));
        assert!(
            problem.starts_with(&format!("{place}: {expected}")),
            "{text}: {problem}"
        );
        assert!(problem.contains(got), "{text}: {problem}");
    }
}

#[test]
fn a_host_field_is_sent_as_it_is_written() {
    let host = |text: &str| target(&format!("http_host: {text}")).http_host;
    for (text, sent) in [
        ("www.example.org", "www.example.org"),
        ("'www.example.org:8080'", "www.example.org:8080"),
        ("192.0.2.1", "192.0.2.1"),
        ("'2001:db8::1'", "[2001:db8::1]"),
        ("'[2001:db8::1]'", "[2001:db8::1]"),
        ("'[2001:db8::1]:8080'", "[2001:db8::1]:8080"),
    ] {
        assert_eq!(host(text).as_deref(), Some(sent), "{text}");
    }
    for text in [
        "''",
        "'a b'",
        "'a:'",
        "'a:0'",
        "'a:65536'",
        "'a:+80'",
        "'a:b:1'",
        "'[2001:db8::1'",
        "'http://a'",
        "\"a\\r\\nX: y\"",
    ] {
        let problem = problem(&format!("http_host: {text}"));
        assert!(
            problem.starts_with("http_host: host, or host:port expected, got "),
            "{text}: {problem}"
        );
    }
}

#[test]
fn only_methods_that_change_nothing() {
    assert_eq!(
        problem("http_method: POST"),
        "http_method: one of GET, HEAD expected, got \"POST\""
    );
}

#[test]
fn a_client_calls_itself_by_a_name_or_a_literal() {
    for name in [
        "probe.example.org",
        "localhost",
        "'[192.0.2.1]'",
        "'[IPv6:2001:db8::1]'",
    ] {
        let read = target(&format!("helo_name: {name}"));
        assert_eq!(read.helo_name.as_deref(), Some(name.trim_matches('\'')));
    }
    for name in [
        "''",
        "192.0.2.1",
        "'[2001:db8::1]'",
        "'[IPv6:192.0.2.1]'",
        "'[192.0.2.1'",
        "'a b'",
        "a.example.",
        "\"a\\r\\nMAIL FROM:<>\"",
    ] {
        let problem = problem(&format!("helo_name: {name}"));
        assert!(
            problem
                .starts_with("helo_name: host name, or an address literal as in [192.0.2.1] or "),
            "{name}: {problem}"
        );
    }
    // A target's own comes before the service's.
    let config = accepted(
        "{helo_name: a.example, targets: [{protocol: smtp, host: b.example},
          {protocol: smtp, host: b.example, port: 587, helo_name: c.example}]}",
    );
    let names: Vec<_> = config
        .targets
        .iter()
        .map(|t| t.helo_name.as_deref())
        .collect();
    assert_eq!(names, [Some("a.example"), Some("c.example")]);
}

#[test]
fn a_test_mailbox_needs_a_login_and_a_store() {
    let login = "test_username: u, test_password: p";
    let read = target(&format!("test_mailbox: 'Entw\u{fc}rfe', {login}"));
    assert_eq!(read.test_mailbox.as_deref(), Some("Entw\u{fc}rfe"));
    assert_eq!(
        problem("test_mailbox: INBOX"),
        "test_mailbox: test_username expected beside it, got nothing"
    );
    for wrong in ["''", "\"a\\nb\"", "true"] {
        let problem = problem(&format!("test_mailbox: {wrong}, {login}"));
        assert!(
            problem.starts_with("test_mailbox: string of 1..1024 bytes without CR, LF and NUL"),
            "{wrong}: {problem}"
        );
    }
    for protocol in ["smtp", "lmtp", "http"] {
        assert_eq!(
            refusal(&format!(
                "{{targets: [{{protocol: {protocol}, host: a.example, test_mailbox: x, {login}}}]}}"
            )),
            format!(
                "targets[1].test_mailbox: only imap, pop3 and sieve have a mailbox to open, {protocol} has none"
            )
        );
    }
}

/// A new version must not forget the verdicts of targets that use nothing new.
#[test]
fn an_identity_names_only_what_is_set() {
    let plain = target("").identity();
    assert!(plain.ends_with("|/"), "{plain}");
    let login = "test_username: u, test_password: p";
    for (key, without) in [
        ("http_method: HEAD", ""),
        ("http_host: b.example", ""),
        ("expected_status: 200", ""),
        ("helo_name: b.example", ""),
        ("tls_min_version: 1.3", ""),
        ("tls_cert_file: /a, tls_key_file: /b", ""),
        (
            "tls_cert_file: /a, tls_key_file: /b",
            "tls_cert_file: /a, tls_key_file: /c",
        ),
        (&format!("test_mailbox: INBOX, {login}"), login),
    ] {
        assert_ne!(target(key).identity(), target(without).identity(), "{key}");
    }
}

#[test]
fn words_where_tls_is_a_boolean_are_explained() {
    for (given, hint) in [
        ("yes", "\"yes\" (write true)"),
        ("On", "\"On\" (write true)"),
        ("'no'", "\"no\" (write false)"),
        ("'true'", "\"true\" (write true or false without quotes)"),
        ("starttls", "\"starttls\" (write tls_mode: starttls)"),
        ("STARTTLS", "\"starttls\" (write tls_mode: starttls)"),
        ("implicit", "\"implicit\" (write tls_mode: implicit)"),
    ] {
        let got = problem(&format!("tls: {given}"));
        let got = got.strip_prefix("tls: boolean expected, got ");
        assert_eq!(
            got.map(|got| got.replace("string ", "")),
            Some(hint.to_owned()),
            "{given}"
        );
    }
}

#[test]
fn a_space_in_a_duration_is_named() {
    for given in ["10 s", "1m 30s", "500 ms"] {
        assert_eq!(
            problem(&format!("deep_timeout: {given}")),
            format!(
                "deep_timeout: duration 1ms..5m expected, got \"{given}\" (write it without a space)"
            )
        );
    }
    assert!(problem("deep_timeout: 10 sec").ends_with("got \"10 sec\""));
}

#[test]
fn a_port_behind_an_address_in_brackets_has_its_own_key() {
    assert_eq!(
        refusal("{targets: [{protocol: imap, host: '[::1]:993'}]}"),
        "targets[1].host: IPv4, IPv6 or host name expected, got \"[::1]:993\" (the port has its \
         own key)"
    );
}
