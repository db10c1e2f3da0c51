use std::ffi::OsString;

use super::super::{Config, Value};
use super::{no_env, value};

fn env(name: &str) -> Option<OsString> {
    match name {
        "PASSWORD" => Some("12345".into()),
        "HOST" => Some("imap.example".into()),
        "PORT" => Some("993".into()),
        "TLS" => Some("true".into()),
        "TIMEOUT" => Some("2s".into()),
        "BAD" => Some("hunter2 hunter2".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, String> {
    Config::from_yaml(text, &env).map_err(|error| error.to_string())
}

fn problem(text: &str) -> String {
    match read(text) {
        Err(error) => error,
        Ok(config) => panic!("accepted: {text}: {config:?}"),
    }
}

#[test]
fn scalars_follow_the_core_schema() {
    for (text, expected) in [
        ("null", Value::Nil),
        ("Null", Value::Nil),
        ("~", Value::Nil),
        ("true", Value::Bool(true)),
        ("False", Value::Bool(false)),
        ("tRue", Value::Str("tRue".into())),
        ("yes", Value::Str("yes".into())),
        ("on", Value::Str("on".into())),
        ("12", Value::Int(12)),
        ("-12", Value::Int(-12)),
        ("+12", Value::Int(12)),
        ("012", Value::Int(12)),
        ("0o14", Value::Int(12)),
        ("0xC", Value::Int(12)),
        ("-0xC", Value::Str("-0xC".into())),
        ("0x-C", Value::Str("0x-C".into())),
        ("0o8", Value::Str("0o8".into())),
        ("1_000", Value::Str("1_000".into())),
        ("9223372036854775807", Value::Int(i64::MAX)),
        (
            "9223372036854775808",
            Value::Float(9_223_372_036_854_775_808.0),
        ),
        ("1.5", Value::Float(1.5)),
        ("-.5", Value::Float(-0.5)),
        ("5.", Value::Float(5.0)),
        ("1e3", Value::Float(1000.0)),
        ("1E-3", Value::Float(0.001)),
        ("1e", Value::Str("1e".into())),
        (".", Value::Str(".".into())),
        ("1.2.3", Value::Str("1.2.3".into())),
        ("1:30", Value::Str("1:30".into())),
        (".inf", Value::Float(f64::INFINITY)),
        ("-.Inf", Value::Float(f64::NEG_INFINITY)),
        ("inf", Value::Str("inf".into())),
        ("nan", Value::Str("nan".into())),
        ("infinity", Value::Str("infinity".into())),
        ("'12'", Value::Str("12".into())),
        ("\"true\"", Value::Str("true".into())),
        ("''", Value::Str(String::new())),
        ("|\n  12\n", Value::Str("12\n".into())),
        ("!!str 12", Value::Str("12".into())),
        ("! 12", Value::Str("12".into())),
        ("!!int '12'", Value::Int(12)),
        ("!!float 1", Value::Int(1)),
        ("!!bool 'true'", Value::Bool(true)),
        ("!!null ''", Value::Nil),
        (
            "[1, a]",
            Value::List(vec![Value::Int(1), Value::Str("a".into())]),
        ),
        ("{a: 1}", Value::Map(vec![("a".into(), Value::Int(1))])),
        ("{\"a\": }", Value::Map(vec![("a".into(), Value::Nil)])),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    assert!(matches!(value(".nan"), Value::Float(number) if number.is_nan()));
}

/// Both layouts, with the sections that are not ours.
#[test]
fn whole_files_of_either_layout_are_read() {
    let documented = "\
server:
  address: '[::]:9080'
  1: one
  ? [complex, key]
  : !custom value
lua: {search: [{protocol: [imap, pop3]}]}
backend_server_monitoring:
  backend_servers:
    - \"protocol\": \"imap\"
      'host': 192.168.0.2
      port: \"993\"
      deep_check: true
      test_username: some_unique_test_user
      test_password: some_password
      tls: true
      tls_skip_verify: true
      haproxy_v2: true
";
    let nested = "\
%YAML 1.2
---
auth:
  backends: {order: [cache]}
  services:
    enabled: [backend_health_checks]
    backend_health_checks:
      connect_interval: 10s
      targets:
        - {protocol: imap, host: 192.168.0.2, port: 993, deep_check: true, tls: true,
           test_username: some_unique_test_user, test_password: some_password,
           tls_skip_verify: true, haproxy_v2: true}
backend_server_monitoring: ~
...
";
    let config = read(documented);
    assert_eq!(config, read(nested));
    assert_eq!(
        config,
        read(&format!("\u{feff}{}", documented.replace('\n', "\r\n")))
    );
    let keys: Vec<String> = config
        .iter()
        .flat_map(|config| config.targets.iter().map(|target| target.key()))
        .collect();
    assert_eq!(keys, ["imap://192.168.0.2:993"]);
}

#[test]
fn problems_come_with_line_and_whole_path() {
    for (text, expected) in [
        (
            "a: b\nbackend_server_monitoring:\n  backend_servers:\n    - protocol: imap\n      \
             host: a\n    - protocol: imap\n      host: b\n      port: 70000\n",
            "line 8: backend_server_monitoring.backend_servers[2].port: integer 1..65535 \
             expected, got 70000",
        ),
        (
            "auth:\n  services:\n    backend_health_checks:\n      targets:\n\n        - host: a\n",
            "line 6: auth.services.backend_health_checks.targets[1].protocol: one of imap, pop3, \
             lmtp, smtp, sieve, http expected, got nothing",
        ),
        (
            "backend_server_monitoring:\n  backend_servers: []\n  \n  log_: x\n",
            "line 4: backend_server_monitoring.log_: unknown key; did you mean log?",
        ),
        (
            "backend_server_monitoring:\n  targets: []\n  ? [a]\n  : b\n",
            "line 2: backend_server_monitoring: key that is a name expected, got list",
        ),
        (
            "backend_server_monitoring:\n  targets:\n    - !include servers.yml\n",
            "line 3: backend_server_monitoring.targets[1]: unknown tag !include",
        ),
        (
            "backend_server_monitoring:\n  failure_threshold: !!int x\n",
            "line 2: backend_server_monitoring.failure_threshold: int expected, as the tag !!int \
             says",
        ),
        (
            "backend_server_monitoring: []\nauth: {services: {backend_health_checks: []}}",
            "line 2: auth.services.backend_health_checks: backend_server_monitoring is there, \
             too; keep one of the two",
        ),
        (
            "server: {}\nauth: {services: {}}\n",
            "section backend_server_monitoring or auth.services.backend_health_checks expected, \
             got neither",
        ),
        (
            "backend_servers: []\n",
            "section backend_server_monitoring or auth.services.backend_health_checks expected, \
             got neither (backend_servers belongs inside it)",
        ),
        (
            "# x\nbackend_server_monitoring:\n",
            "line 2: backend_server_monitoring: table expected, got nothing",
        ),
        (
            "a: b\nbackend_servers_monitoring:\n  targets: []\n",
            "line 3: backend_servers_monitoring: unknown section; did you mean \
             backend_server_monitoring?",
        ),
        (
            "auth:\n  services:\n    backend_healthchecks: {targets: []}\n",
            "line 3: auth.services.backend_healthchecks: unknown section; did you mean \
             backend_health_checks?",
        ),
        (
            "auth: {services: {backend_health_checks: }}\n",
            "line 1: auth.services.backend_health_checks: table expected, got nothing",
        ),
        (
            "- backend_server_monitoring\n",
            "section backend_server_monitoring or auth.services.backend_health_checks expected, \
             got neither",
        ),
        ("", "line 1: table expected, got an empty document"),
        (
            "# nothing\n",
            "line 1: table expected, got an empty document",
        ),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn the_rest_of_the_file_has_to_be_yaml_too() {
    let ours = "backend_server_monitoring: {targets: []}\n";
    for (rest, line, problem_is) in [
        ("a: [1, 2\n", 3, "not YAML: "),
        ("a: b: c\n", 2, "not YAML: "),
        ("\ta: b\n", 2, "not YAML: "),
        ("a: \"b\n", 2, "not YAML: "),
        ("a: *unknown\n", 2, "not YAML: "),
        ("a: @b\n", 2, "not YAML: "),
        ("a: 1\na: 2\n", 3, "a: given twice"),
        ("a: {b: 1, 'b': 2}\n", 2, "b: given twice"),
        (
            "backend_server_monitoring: {}\n",
            2,
            "backend_server_monitoring: given twice",
        ),
        (
            "---\na: b\n",
            2,
            "a second YAML document begins here; the file must have one",
        ),
        (
            "a: &x [*x]\n",
            2,
            "this alias names a value that contains the alias itself",
        ),
        ("a: {<<: 1}\n", 2, "<<: table expected to merge"),
        ("a: {<<: [{}, 1]}\n", 2, "<<: table expected to merge"),
    ] {
        let error = problem(&format!("{ours}{rest}"));
        let start = format!("line {line}: {problem_is}");
        assert!(error.starts_with(&start), "{rest}: {error}");
    }
    // `1` and `"1"` are two keys, and null is one.
    for rest in ["1: a\n\"1\": b\n", "~: a\n"] {
        assert!(read(&format!("{ours}{rest}")).is_ok(), "{rest}");
    }
}

#[test]
fn a_key_given_twice_is_found_among_many() {
    let with = |at: usize, last: &str| {
        let mut keys: Vec<String> = (1..=40).map(|key| format!("k{key}")).collect();
        keys.insert(at, "1".to_owned());
        keys.push(last.to_owned());
        let entries: String = keys.iter().map(|key| format!("  {key}: x\n")).collect();
        read(&format!(
            "backend_server_monitoring: {{targets: []}}\na:\n{entries}"
        ))
        .map(|config| config.targets.len())
    };
    // Duplicates of keys from before and after the point at which a table begins to hash its keys.
    for at in [2, 29] {
        for last in ["k3", "k15", "k16", "k17", "k30", "k40", "1"] {
            assert_eq!(with(at, last), Err(format!("line 44: {last}: given twice")));
        }
        assert_eq!(with(at, "\"1\""), Ok(0));
        assert_eq!(with(at, "k41"), Ok(0));
    }
}

#[test]
fn anchors_and_merge_keys_share_settings() {
    let config = read(
        "\
defaults: &defaults {protocol: imap, port: 993, tls: true}
strict: &strict {tls_skip_verify: false, port: 1}
backend_server_monitoring:
  targets:
    - <<: *defaults
      host: a.example
    - {host: b.example, port: 1993, <<: *defaults}
    - {<<: [*defaults, *strict], host: c.example}
    - &last {protocol: pop3, host: d.example}
    - *last
    - {'<<': x, host: e.example}
",
    );
    let error = config.map(|config| config.targets.len());
    assert_eq!(
        error,
        Err("line 11: backend_server_monitoring.targets[6].<<: unknown key".to_owned())
    );
    let config = read(
        "\
defaults: &defaults {protocol: imap, port: 993, tls: true}
strict: &strict {tls_skip_verify: true, port: 1}
backend_server_monitoring:
  targets:
    - <<: *defaults
      host: a.example
    - {host: b.example, port: 1993, <<: *defaults}
    - {<<: [*defaults, *strict], host: c.example}
    - &last {protocol: pop3, host: d.example}
    - *last
",
    );
    let shown: Vec<(String, bool, bool)> = config
        .iter()
        .flat_map(|config| &config.targets)
        .map(|t| (t.key(), t.implicit_tls(), t.tls_skip_verify))
        .collect();
    assert_eq!(
        shown,
        [
            ("imap://a.example:993".to_owned(), true, false),
            ("imap://b.example:1993".to_owned(), true, false),
            ("imap://c.example:993".to_owned(), true, true),
            ("pop3://d.example:110".to_owned(), false, false),
            ("pop3://d.example:110".to_owned(), false, false),
        ]
    );
}

#[test]
fn variables_take_the_type_their_key_wants() {
    let config = read(
        "\
backend_server_monitoring:
  connect_timeout: ${TIMEOUT}
  targets:
    - protocol: imap
      host: ${HOST}
      port: ${PORT}
      tls: \"${TLS}\"
      tls_server_name: mx-${PORT}.${HOST}
      test_username: $${HOST} $HOST
      test_password: ${PASSWORD}
",
    );
    let targets = config.map(|config| config.targets);
    let target = &targets.unwrap_or_else(|error| panic!("{error}"))[0];
    assert_eq!(target.key(), "imap://imap.example:993");
    assert!(target.implicit_tls());
    assert_eq!(
        target.tls_server_name.as_deref(),
        Some("mx-993.imap.example")
    );
    assert_eq!(target.test_username.as_deref(), Some("${HOST} $HOST"));
    assert_eq!(
        target.test_password.as_ref().map(|p| p.expose()),
        Some("12345")
    );
    assert_eq!(target.connect_timeout.as_secs(), 2);
}

#[test]
fn variables_that_do_not_fit_are_named_but_not_shown() {
    let target = |line: &str| {
        format!(
            "backend_server_monitoring:\n  targets:\n    - host: a\n      {line}\n      protocol: imap\n"
        )
    };
    for (line, expected) in [
        (
            "port: ${UNSET}",
            "port: environment variable UNSET is not set",
        ),
        (
            "port: ${BAD}",
            "port: integer 1..65535 expected, got the value of \"${BAD}\"",
        ),
        (
            "tls: ${BAD}",
            "tls: boolean expected, got the value of \"${BAD}\"",
        ),
        (
            "ip_address: x",
            "ip_address: means the same as host, which is also given",
        ),
        (
            "test_password: a${UNSET}",
            "test_password: environment variable UNSET is not set",
        ),
        (
            "test_password: hunter2${",
            "test_password: ${NAME} expected, of letters, digits and _; $${ writes a literal ${",
        ),
        (
            "tls_server_name: ${BAD}",
            "tls_server_name: IPv4, IPv6 or host name expected, got the value of \"${BAD}\"",
        ),
    ] {
        assert_eq!(
            problem(&target(line)),
            format!("line 4: backend_server_monitoring.targets[1].{expected}")
        );
    }
    // Not in keys, not in other sections.
    assert_eq!(
        problem(&target("${HOST}: a")),
        "line 4: backend_server_monitoring.targets[1].${HOST}: unknown key; did you mean host?"
    );
    assert!(read("x: ${UNSET}\ny: ${\nbackend_server_monitoring: {targets: []}\n").is_ok());
    let text = target("port: ${PORT}");
    assert!(Config::from_yaml(&text, &no_env).is_err());
}

/// YAML 1.2.2 §6.2 has a tab separate tokens as a space does; only indentation must not have one.
#[test]
fn a_tab_may_follow_a_colon() {
    let text = "\
backend_server_monitoring:
  log:\tnone
  targets:
    - protocol:\timap
      host:\t\t\"a.example\"
      port:\t 993
      deep_interval:\t5s\t# seldom
";
    let spaced = read(&text.replace('\t', " "));
    assert!(spaced.is_ok(), "{spaced:?}");
    assert_eq!(read(text), spaced);
    for text in ["a:\t-1\n", "a: {b:\tc}\n", "a: 'b:\tc'\n", "? a\n:\tb\n"] {
        let text = format!("{text}backend_server_monitoring: {{targets: []}}\n");
        assert!(read(&text).is_ok(), "{text}");
    }
    for text in ["\ta: b\n", "a:\n\tb: c\n", "a:\t- b\n", "a:\tb: c\n"] {
        let text = format!("{text}backend_server_monitoring: {{targets: []}}\n");
        assert!(problem(&text).contains("not YAML: "), "{text}");
    }
}

/// What stands between `-`, `?` or `:` and a list or table in the same line is its indentation
/// (YAML 1.2.2 §6.1, §8.2.1).
#[test]
fn a_tab_is_refused_in_the_indentation_of_lists_and_tables() {
    let ours = "backend_server_monitoring: {targets: []}\n";
    let key = "the key";
    let item = "\"-\"";
    for (text, line, first) in [
        ("a:\n  -\ta: 1\n", 3, key),
        ("a:\n  - \ta: 1\n", 3, key),
        ("a:\n  -\t a: 1\n", 3, key),
        ("a:\n  -\t&x a: 1\n", 3, key),
        ("a:\n  -\t!!str a: 1\n", 3, key),
        ("a:\n  -\t\"a\": 1\n", 3, key),
        ("a:\n  -\t? b\n", 3, key),
        ("a:\n  -\t{a: 1}: 2\n", 3, key),
        ("a:\n  - -\ta: 1\n", 3, key),
        ("a:\n- b\n-\ta: 1\n", 4, key),
        ("a:\r\n- b\r\n-\ta: 1\r\n", 4, key),
        ("a: {\u{e9}: 1}\nb:\n  -\ta: 1\n", 4, key),
        ("? a\n:\t- x\n", 3, item),
        ("? a\n: \t- x\n", 3, item),
        ("? a\n: \t\t - x\n", 3, item),
        ("? a\n: \t-\n", 3, item),
        ("? a\n:\ta: b\n", 3, key),
        ("? a\n: \ta: b\n", 3, key),
        ("? a\n: - \tb: c\n", 3, key),
        ("a:\n \tb: c\n", 3, key),
        ("a:\n \t- c\n", 3, item),
    ] {
        let expected = format!("line {line}: not YAML: spaces expected before {first}, got a tab");
        assert_eq!(problem(&format!("{ours}{text}")), expected, "{text:?}");
    }
    // The parser's own words, which name no place.
    for text in [
        "a:\n  -\t- x\n",
        "a:\n  - \t- x\n",
        "a:\n  -\t-\n",
        "?\t- x\n",
        "? \t- x\n",
        "?\ta: b\n",
        "? \ta: b\n",
    ] {
        let problem = problem(&format!("{ours}{text}"));
        assert!(problem.contains("not YAML: "), "{text:?}: {problem}");
    }
    // YAML allows a tab after `-`, `?` or `:` where a scalar, a collection in brackets, a tag, an anchor or a comment
    // follows: there the tab is a separator (YAML 1.2.2 §6.2), not the indentation of a nested block.
    for text in [
        "a:\n  -\tb\n",
        "a:\n  -\t-1\n",
        "a:\n  -\t[b, {c: d}]\n",
        "a:\n  -\t{b: c}\n",
        "a:\n  -\t{b:\tc,\n     \td: [e: f,\n     \tg: h]}\n",
        "a:\n  -\t\n    b: c\n",
        "a:\n  -\t# why\n    b: c\n",
        "a:\n  -\t&x\n    b: c\n",
        "a:\n  -\t!!map\n    b: c\n",
        "a:\n  - &x\tb: c\n",
        "a:\n  - b\t: c\n",
        "a:\t\n- b\t\n",
        "a:\t[\n \tb,\n \t{c: d}\n \t]\n",
        "? a\n:\t[b]\n",
        "? a\n: \t{b: c}\n",
        "? a\n:\t\n  - x\n",
        "? {b:\tc}\n:\tx\n",
        "a: |\n  -\tb: c\n",
        "a: 'b\n  -\tc: d'\n",
    ] {
        let read = read(&format!("{ours}{text}"));
        assert!(read.is_ok(), "{text:?}: {read:?}");
    }
}

#[test]
fn what_yaml_itself_refuses_is_told_whole() {
    for (text, expected) in [
        ("a: @b\n", "line 1: not YAML: unexpected character: `@'"),
        (
            "a: \"\\q\"\n",
            "line 1: not YAML: while parsing a quoted scalar, found unknown escape character",
        ),
        ("a: [1, 2\nb: c\n", "line 2: not YAML: "),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(expected), "{problem}");
        assert!(
            !problem.contains('\\') && !problem.ends_with("..."),
            "{problem}"
        );
    }
}
