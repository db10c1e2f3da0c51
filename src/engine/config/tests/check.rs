//! Targets as checks on demand describe them.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::super::super::target::{Host, Protocol, Target, TlsMode};
use super::super::keys::TARGET_KEYS;
use super::super::{CheckDefaults, Timeouts, Value, target_from_value};
use super::target::target;
use super::value;

fn timeouts() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(1),
        tls: Duration::from_secs(2),
        deep: Some(Duration::from_secs(3)),
    }
}

fn check(text: &str) -> Result<Target, String> {
    let defaults = CheckDefaults {
        timeouts: timeouts(),
        helo_name: None,
        configured: &|_, _| None,
    };
    target_from_value(&value(text), &defaults, &["coalesce", "timeout"])
        .map_err(|error| error.to_string())
}

#[test]
fn a_check_needs_a_host_and_a_way_to_a_port() {
    let read = check("{ip_address: 127.0.0.1, port: 143, coalesce: true, timeout: 3}");
    let read = read.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (read.host.to_string().as_str(), read.port),
        ("127.0.0.1", 143)
    );
    assert_eq!(read.tls_mode, TlsMode::Plain);
    assert_eq!(read.connect_timeout, Duration::from_secs(1));
    assert_eq!(read.tls_timeout, Duration::from_secs(2));
    assert_eq!(read.deep_timeout, Duration::from_secs(3));
    assert_eq!(
        check("{host: a.example, protocol: sieve}").map(|read| read.port),
        Ok(4190)
    );
    let protocols = "protocol: one of imap, pop3, lmtp, smtp, sieve, http expected, got nothing";
    for (text, problem) in [
        ("{}", "host: IPv4, IPv6 or host name expected, got nothing"),
        (
            "{port: 1}",
            "host: IPv4, IPv6 or host name expected, got nothing",
        ),
        ("{host: a}", "port: integer 1..65535 expected, got nothing"),
        (
            "{host: a, ip: b, port: 1}",
            "ip: means the same as host, which is also given",
        ),
        ("{host: a, port: 1, deep_check: true}", protocols),
        ("{host: a, port: 1, tls_mode: starttls}", protocols),
        (
            "{host: a, port: 1, colaesce: true}",
            "colaesce: unknown key; did you mean coalesce?",
        ),
        ("x", "table expected, got string \"x\""),
        ("[1, 2]", "table with named keys expected, got list"),
    ] {
        assert_eq!(check(text).err().as_deref(), Some(problem), "{text}");
    }
}

#[test]
fn a_check_of_a_configured_address_takes_the_tls_settings_it_is_not_given() {
    let known = Arc::new(target(
        "tls: true, tls_skip_verify: true, tls_ca_file: ca.pem, haproxy_v2: true, \
         test_username: u, test_password: p",
    ));
    let asked = Cell::new(None);
    let configured = |host: &Host, port: u16| {
        asked.set(Some((host.to_string(), port)));
        Some(Arc::clone(&known))
    };
    let defaults = CheckDefaults {
        timeouts: timeouts(),
        helo_name: None,
        configured: &configured,
    };
    let check = |text: &str| {
        target_from_value(&value(text), &defaults, &[]).unwrap_or_else(|error| panic!("{error}"))
    };

    let here = std::env::current_dir().unwrap();
    let read = check("{ip: 10.0.0.1, port: 993}");
    assert_eq!(asked.take(), Some(("10.0.0.1".to_owned(), 993)));
    assert_eq!(read.host.to_string(), "10.0.0.1");
    assert_eq!(
        (read.protocol, read.tls_mode),
        (Protocol::Imap, TlsMode::Implicit)
    );
    assert!(read.tls_skip_verify);
    // The certificate has the configured name, whatever address is checked.
    assert_eq!(read.tls_server_name.as_deref(), Some("a.example"));
    assert_eq!(read.tls_ca_file, Some(here.join("ca.pem")));
    // These are no TLS settings: a caller who leaves them out wants none.
    assert!(!read.haproxy_v2 && read.test_username.is_none() && read.test_password.is_none());

    let read = check(
        "{host: b.example, port: 993, protocol: pop3, tls: false, tls_skip_verify: false, \
         tls_server_name: c.example, tls_ca_file: other.pem}",
    );
    assert_eq!(
        (read.protocol, read.tls_mode),
        (Protocol::Pop3, TlsMode::Plain)
    );
    assert!(!read.tls_skip_verify);
    assert_eq!(read.tls_server_name.as_deref(), Some("c.example"));
    assert_eq!(read.tls_ca_file, Some(here.join("other.pem")));

    let read = check("{host: a.example, port: 993}");
    assert_eq!(read.tls_server_name, None);
}

#[test]
fn the_environment_is_not_repeated_in_an_error() {
    // A secret in the wrong place, with a value that no key accepts.
    let secret = "hunter 2\n";
    let mut refused = Vec::new();
    for key in TARGET_KEYS {
        let mut entries = vec![
            ("host".to_owned(), Value::Str("a.example".into())),
            ("port".to_owned(), Value::Int(143)),
        ];
        entries.retain(|(name, _)| name != key.name);
        let env = Value::Env {
            text: secret.into(),
            template: "${PW}".into(),
        };
        // These two are taken together only.
        match key.name {
            "tls_cert_file" => entries.push(("tls_key_file".into(), env.clone())),
            "tls_key_file" => entries.push(("tls_cert_file".into(), env.clone())),
            _ => {}
        }
        entries.push((key.name.into(), env));
        let defaults = CheckDefaults {
            timeouts: timeouts(),
            helo_name: None,
            configured: &|_, _| None,
        };
        if let Err(error) = target_from_value(&Value::Map(entries), &defaults, &[]) {
            let error = error.to_string();
            let own = format!("{}: {} expected, got ", key.name, key.kind.expected());
            assert!(
                error.starts_with(&own) && !error.contains("hunter"),
                "{error}"
            );
            refused.push(key.name);
        }
    }
    // Only a path may have a space and a line feed in it.
    let paths = ["tls_ca_file", "tls_cert_file", "tls_key_file"];
    assert_eq!(refused.len(), TARGET_KEYS.len() - paths.len());
    assert!(paths.iter().all(|path| !refused.contains(path)));
}
