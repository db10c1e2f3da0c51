use std::path::PathBuf;
use std::time::Duration;

use super::super::super::target::ProbePolicy;
use super::super::keys::SERVICE_KEYS;
use super::super::{
    Config, ConfigOrigin, InitialState, Kind, LogSink, NodeUsable, RoutingSettings, Timeouts,
    TlsFiles, UserKey, Value,
};
use super::{accepted, refusal, table, value};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const MIN: Duration = Duration::from_secs(60);
const H: Duration = Duration::from_secs(3_600);
const D: Duration = Duration::from_secs(86_400);

fn with(key: &str, value: &str) -> String {
    format!("{{backend_servers: [], {key}: {value}}}")
}

#[test]
fn the_defaults_are_the_documented_ones() {
    assert_eq!(
        accepted("{backend_servers: []}"),
        Config {
            timeouts: Timeouts {
                connect: 5 * S,
                tls: 5 * S,
                deep: None,
            },
            helo_name: None,
            policy: ProbePolicy::DEFAULT,
            panic_threshold: 0,
            initial_state: InitialState::Alive,
            max_concurrent_probes: 512,
            expose_attributes: Vec::new(),
            state_file: None,
            state_max_age: 5 * MIN,
            tls_full_handshake_interval: H,
            cert_warn: 14 * D,
            log: LogSink::Stderr,
            routing: RoutingSettings::default(),
            targets: Vec::new(),
            cluster: None,
            tls_files: TlsFiles::default(),
            warnings: Vec::new(),
            origin: ConfigOrigin::default(),
        }
    );
}

#[test]
fn every_key_is_read() {
    let config = accepted(
        "{connect_timeout: 1, tls_timeout: 2s, deep_timeout: 1.5, connect_interval: 30s,
          deep_interval: 2m, fast_interval: 100ms, helo_name: probe.example.org, failure_threshold: 3, recovery_threshold: '2', panic_threshold: 30%,
          initial_state: DEAD, max_concurrent_probes: 7.0, expose_attributes: [token, Secret-Key],
          state_file: /run/nb/state, state_max_age: 1h, tls_full_handshake_interval: 0,
          cert_warn: 30d, log: syslog, node_usable: ANY, node_down_after: 0, node_up_after: 5m,
          user_key: domain, master_separator: '*', detail_separator: '+',
          targets: [{protocol: imap, host: a.example}, {protocol: lmtp, host: b.example}]}",
    );
    let targets = config.targets.clone();
    let keys: Vec<String> = targets.iter().map(|target| target.key()).collect();
    assert_eq!(keys, ["imap://a.example:143", "lmtp://b.example:24"]);
    assert_eq!(targets[0].connect_timeout, S);
    assert_eq!(targets[0].tls_timeout, 2 * S);
    assert_eq!(targets[0].deep_timeout, 1_500 * MS);
    assert_eq!(targets[1].policy, config.policy);
    assert_eq!(targets[0].helo_name.as_deref(), Some("probe.example.org"));
    assert_eq!(
        config,
        Config {
            timeouts: Timeouts {
                connect: S,
                tls: 2 * S,
                deep: Some(1_500 * MS),
            },
            helo_name: Some("probe.example.org".into()),
            policy: ProbePolicy {
                connect_interval: 30 * S,
                deep_interval: 2 * MIN,
                fast_interval: 100 * MS,
                failure_threshold: 3,
                recovery_threshold: 2,
            },
            panic_threshold: 30,
            initial_state: InitialState::Dead,
            max_concurrent_probes: 7,
            expose_attributes: vec!["token".into(), "Secret-Key".into()],
            state_file: Some(PathBuf::from("/run/nb/state")),
            state_max_age: H,
            tls_full_handshake_interval: Duration::ZERO,
            cert_warn: 30 * D,
            log: LogSink::Syslog,
            routing: RoutingSettings {
                node_usable: NodeUsable::Any,
                node_down_after: Duration::ZERO,
                node_up_after: 5 * MIN,
                user_key: UserKey::Domain,
                master_separator: Some("*".into()),
                detail_separator: Some("+".into()),
                drain_time: Duration::from_secs(15 * 60),
            },
            cluster: None,
            targets,
            tls_files: TlsFiles::default(),
            warnings: Vec::new(),
            origin: ConfigOrigin::default(),
        }
    );
}

#[test]
fn intervals_follow_the_connect_interval() {
    for (connect, deep, fast) in [
        ("30s", 30 * S, S),
        ("200ms", 200 * MS, 200 * MS),
        ("1s", S, S),
    ] {
        let policy = accepted(&with("connect_interval", connect)).policy;
        assert_eq!((policy.deep_interval, policy.fast_interval), (deep, fast));
    }
}

#[test]
fn ranges_are_the_promised_ones() {
    for (key, smallest, largest, range) in [
        ("connect_timeout", "1ms", "1m", "duration 1ms..1m"),
        ("tls_timeout", "1ms", "1m", "duration 1ms..1m"),
        ("deep_timeout", "1ms", "5m", "duration 1ms..5m"),
        ("connect_interval", "10ms", "24h", "duration 10ms..24h"),
        ("deep_interval", "10ms", "24h", "duration 10ms..24h"),
        ("fast_interval", "10ms", "24h", "duration 10ms..24h"),
        ("state_max_age", "1s", "24h", "duration 1s..24h"),
        (
            "tls_full_handshake_interval",
            "0",
            "24h",
            "duration 0s..24h",
        ),
        ("cert_warn", "0", "365d", "duration 0s..365d"),
        ("node_down_after", "0", "24h", "duration 0s..24h"),
        ("node_up_after", "0", "24h", "duration 0s..24h"),
        ("drain_time", "0", "24h", "duration 0s..24h"),
        ("failure_threshold", "1", "100", "integer 1..100"),
        ("recovery_threshold", "1", "100", "integer 1..100"),
        ("max_concurrent_probes", "1", "65536", "integer 1..65536"),
    ] {
        for good in [smallest, largest] {
            accepted(&with(key, good));
        }
        let key_kind = SERVICE_KEYS.iter().find(|k| k.name == key).map(|k| k.kind);
        assert_eq!(
            key_kind.map(Kind::expected).as_deref(),
            Some(range),
            "{key}"
        );
    }
}

/// Both sides of both bounds, for whatever the table of keys says they are.
#[test]
fn every_bound_is_enforced() {
    for key in SERVICE_KEYS {
        let (good, bad): (Vec<Value>, Vec<Value>) = match key.kind {
            Kind::Integer { min, max } => (
                vec![Value::Int(min), Value::Int(max)],
                vec![Value::Int(min - 1), Value::Int(max + 1)],
            ),
            Kind::Duration { min, max } => {
                let seconds = |d: Duration| Value::Float(d.as_secs_f64());
                let mut bad = vec![seconds(max + MS), Value::Float(-0.001)];
                bad.extend(min.checked_sub(MS / 2).map(seconds));
                (vec![seconds(min), seconds(max)], bad)
            }
            _ => continue,
        };
        let config = |value: &Value| {
            Config::from_value(&Value::Map(vec![
                ("backend_servers".into(), Value::List(Vec::new())),
                (key.name.into(), value.clone()),
            ]))
        };
        for value in good {
            assert!(config(&value).is_ok(), "{}: {value:?}", key.name);
        }
        for value in bad {
            let expected = format!(
                "{}: {} expected, got {}",
                key.name,
                key.kind.expected(),
                value.shown()
            );
            assert_eq!(
                config(&value).map_err(|error| error.to_string()).err(),
                Some(expected)
            );
        }
    }
}

#[test]
fn wrong_values_are_named_with_what_was_expected() {
    for (key, value, problem) in [
        ("failure_threshold", "0", "integer 1..100 expected, got 0"),
        (
            "failure_threshold",
            "1.5",
            "integer 1..100 expected, got 1.5",
        ),
        (
            "failure_threshold",
            "1e300",
            "integer 1..100 expected, got 1e300",
        ),
        (
            "failure_threshold",
            ".nan",
            "integer 1..100 expected, got NaN",
        ),
        (
            "failure_threshold",
            "many",
            "integer 1..100 expected, got string \"many\"",
        ),
        (
            "failure_threshold",
            "'1e3'",
            "integer 1..100 expected, got string \"1e3\"",
        ),
        (
            "failure_threshold",
            "inf",
            "integer 1..100 expected, got string \"inf\"",
        ),
        (
            "failure_threshold",
            "true",
            "integer 1..100 expected, got boolean true",
        ),
        (
            "failure_threshold",
            "[1]",
            "integer 1..100 expected, got list",
        ),
        (
            "failure_threshold",
            "{a: 1}",
            "integer 1..100 expected, got table",
        ),
        (
            "failure_threshold",
            "{}",
            "integer 1..100 expected, got empty table",
        ),
        (
            "connect_timeout",
            "2m",
            "duration 1ms..1m expected, got \"2m\"",
        ),
        ("connect_timeout", "61", "duration 1ms..1m expected, got 61"),
        ("connect_timeout", "0", "duration 1ms..1m expected, got 0"),
        ("connect_timeout", "-1", "duration 1ms..1m expected, got -1"),
        (
            "connect_timeout",
            ".inf",
            "duration 1ms..1m expected, got inf",
        ),
        (
            "connect_timeout",
            "soon",
            "duration 1ms..1m expected, got \"soon\"",
        ),
        (
            "connect_timeout",
            "''",
            "duration 1ms..1m expected, got an empty string",
        ),
        (
            "connect_timeout",
            "true",
            "duration 1ms..1m expected, got boolean true",
        ),
        (
            "connect_timeout",
            "[]",
            "duration 1ms..1m expected, got list",
        ),
        (
            "initial_state",
            "up",
            "one of alive, dead expected, got \"up\"",
        ),
        (
            "initial_state",
            "1",
            "one of alive, dead expected, got number 1 (put it in quotes)",
        ),
        (
            "state_file",
            "''",
            "path of a file expected, got an empty string",
        ),
        (
            "state_file",
            "/run/",
            "path of a file expected, got \"/run/\"",
        ),
        (
            "state_file",
            "\"a\\0b\"",
            "path of a file expected, got \"a\\0b\"",
        ),
        (
            "state_file",
            "false",
            "path of a file expected, got boolean false",
        ),
        (
            "log",
            "stdout",
            "stderr, none, syslog or the path of a file expected, got \"stdout\"",
        ),
        (
            "log",
            "sylog",
            "stderr, none, syslog or the path of a file expected, got \"sylog\"",
        ),
        (
            "log",
            "./",
            "stderr, none, syslog or the path of a file expected, got \"./\"",
        ),
        (
            "log",
            "''",
            "stderr, none, syslog or the path of a file expected, got an empty string",
        ),
        (
            "log",
            "1",
            "stderr, none, syslog or the path of a file expected, got number 1",
        ),
        (
            "expose_attributes",
            "token",
            "list of attribute names expected, got string \"token\"",
        ),
        (
            "expose_attributes",
            "{a: b}",
            "list of attribute names expected, got table with named keys",
        ),
    ] {
        assert_eq!(refusal(&with(key, value)), format!("{key}: {problem}"));
    }
    for (items, problem) in [
        (
            "[a, 1]",
            "expose_attributes[2]: attribute name expected, got number 1",
        ),
        (
            "['a b']",
            "expose_attributes[1]: attribute name expected, got \"a b\"",
        ),
        (
            "['']",
            "expose_attributes[1]: attribute name expected, got an empty string",
        ),
        (
            "[[]]",
            "expose_attributes[1]: attribute name expected, got list",
        ),
        (
            "[ä]",
            "expose_attributes[1]: attribute name expected, got \"ä\"",
        ),
    ] {
        assert_eq!(refusal(&with("expose_attributes", items)), problem);
    }
    let longest = "a".repeat(256);
    accepted(&with("expose_attributes", &format!("[{longest}]")));
    assert!(table(&with("expose_attributes", &format!("[{longest}a]"))).is_err());
}

#[test]
fn the_log_sink_is_a_word_or_a_path() {
    let absolute = |text: &str| LogSink::File(std::path::absolute(text).unwrap());
    for (text, sink) in [
        ("stderr", LogSink::Stderr),
        ("None", LogSink::None),
        ("SYSLOG", LogSink::Syslog),
        ("/var/log/nb.log", LogSink::File("/var/log/nb.log".into())),
        ("nb.log", absolute("nb.log")),
        ("./none", absolute("none")),
    ] {
        assert_eq!(accepted(&with("log", text)).log, sink);
    }
}

#[test]
fn null_counts_as_not_given() {
    let nulls: Vec<String> = SERVICE_KEYS
        .iter()
        .filter(|key| key.name != "backend_servers")
        .map(|key| format!("{}: null", key.name))
        .collect();
    assert_eq!(
        accepted(&format!(
            "{{backend_servers: [], targets: ~, {}}}",
            nulls.join(", ")
        )),
        accepted("{backend_servers: []}")
    );
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    for (key, problem) in [
        (
            "conect_timeout",
            "unknown key; did you mean connect_timeout?",
        ),
        (
            "Connect-Timeout",
            "unknown key; did you mean connect_timeout?",
        ),
        (
            "backend_server",
            "unknown key; did you mean backend_servers?",
        ),
        ("target", "unknown key; did you mean targets?"),
        (
            "threshold",
            "unknown key; did you mean failure_threshold, recovery_threshold or panic_threshold?",
        ),
        ("ssl", "unknown key"),
        ("enabled", "unknown key"),
        ("name", "unknown key"),
        ("logs", "unknown key; did you mean log?"),
        ("frobnicate", "unknown key"),
        ("''", "unknown key"),
        (
            "host",
            "unknown key of the service section; it belongs to a target",
        ),
    ] {
        let shown = key.trim_matches('\'');
        assert_eq!(refusal(&with(key, "1")), format!("{shown}: {problem}"));
    }
    let long = "connect_timeout".repeat(6);
    assert_eq!(
        refusal(&with(&long, "1")),
        format!("{}...: unknown key", &long[..64])
    );
}

#[test]
fn a_key_given_twice_is_refused() {
    // No Lua table can do this; a caller that builds the value can.
    let twice = Value::Map(vec![
        ("log".into(), Value::Str("none".into())),
        ("log".into(), Value::Str("none".into())),
    ]);
    let error = Config::from_value(&twice).map_err(|error| error.to_string());
    assert_eq!(error.err().as_deref(), Some("log: given twice"));
}

#[test]
fn lua_values_need_no_environment() {
    // In a table `${NAME}` is text like any other.
    let config = Config::from_value(&Value::Map(vec![
        ("targets".into(), Value::List(Vec::new())),
        ("state_file".into(), Value::Str("${HOME}/state".into())),
    ]));
    assert_eq!(
        config.map(|config| config.state_file),
        Ok(Some(std::path::absolute("${HOME}/state").unwrap()))
    );
    assert_eq!(value("$${x}"), Value::Str("${x}".into()));
}
