//! All mistakes of a file are found, and none that only follows from another.

use crate::engine::config::mistakes::of_text;

/// Line, last part of the key and problem of every mistake.
fn mistakes(text: &str) -> Vec<String> {
    let found = of_text(text, &|_| None);
    assert_eq!(found.config.is_none(), !found.mistakes.is_empty());
    let shown = |mistake: &super::super::Mistake| {
        let key = mistake.key.replace("backend_server_monitoring", "");
        let line = mistake.line.unwrap_or(0);
        format!(
            "{line} {}: {}",
            key.trim_start_matches('.'),
            mistake.problem
        )
    };
    found.mistakes.iter().map(shown).collect()
}

fn servers(lines: &[&str]) -> String {
    let head = "backend_server_monitoring:\n  backend_servers:\n";
    let lines: Vec<String> = lines.iter().map(|line| format!("    - {line}\n")).collect();
    head.to_owned() + &lines.concat()
}

#[test]
fn every_mistake_of_the_section_and_its_targets_is_found() {
    let text = "backend_server_monitoring:
  connect_timeout: 5 s
  log: /nonexistent/dir/x.log
  nonsense: 1
  expose_attributes: [good, 'b d', 7]
  backend_servers:
    - { protocol: imap, host: h, port: 70000, tls: yes }
    - { protocol: smtp, port: 25 }
    - { protocol: imap, host: i, tls: true, tls_ca_file: /nonexistent/ca.pem, colour: red }
    - { protocol: imap, host: i, tls: true, tls_ca_file: /nonexistent/ca.pem }
    - { protocol: imap, host: i, node: n, weight: 5 }
    - { protocol: imap, host: j, node: n, weight: 6 }
";
    assert_eq!(
        mistakes(text),
        [
            "2 connect_timeout: duration 1ms..1m expected, got \"5 s\" (write it without a space)",
            "3 log: cannot use /nonexistent/dir/x.log: its directory does not exist",
            "4 nonsense: unknown key",
            "5 expose_attributes[2]: attribute name expected, got \"b d\"",
            "5 expose_attributes[3]: attribute name expected, got number 7",
            "7 backend_servers[1].port: integer 1..65535 expected, got 70000",
            "7 backend_servers[1].tls: boolean expected, got string \"yes\" (write true)",
            "8 backend_servers[2].host: IPv4, IPv6 or host name expected, got nothing",
            "9 backend_servers[3].colour: unknown key",
            "10 backend_servers[4].tls_ca_file: /nonexistent/ca.pem: no such file",
            "12 backend_servers[6].weight: 5 expected as in backend_servers[5], a target of the same node \"n\"; got 6",
        ]
    );
}

#[test]
fn what_only_follows_from_a_mistake_is_none() {
    // A password that cannot be read is still a password beside the user.
    let cases: [(&str, &[&str]); 6] = [
        (
            "{ protocol: imap, host: h, test_username: a, test_password: '' }",
            &["test_password"],
        ),
        (
            "{ protocol: imap, host: h, test_username: a, test_password: '${UNSET}' }",
            &["test_password"],
        ),
        // Under any protocol but http there would be a second mistake.
        (
            "{ protocol: htpp, host: h, auth_mechanism: BASIC }",
            &["protocol"],
        ),
        (
            "{ protocol: imap, ip_address: 'a b', source_address: '::1' }",
            &["ip_address"],
        ),
        ("{ protocol: imap, host: h, ip: h }", &["ip"]),
        (
            "{ host: h, port: 0, deep_check: maybe }",
            &["port", "deep_check", "protocol"],
        ),
    ];
    for (server, expected) in cases {
        let found = mistakes(&servers(&[server]));
        let keys: Vec<&str> = found
            .iter()
            .map(|text| text.split(": ").next().unwrap().rsplit('.').next().unwrap())
            .collect();
        let (mut keys, mut expected) = (keys, expected.to_vec());
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{server}: {found:?}");
    }
}

#[test]
fn every_duplicate_key_is_found_once() {
    let text = servers(&[
        "{ protocol: imap, host: a, host: b, port: 0 }",
        "{ protocol: imap, host: c, host: d }",
    ]);
    let found = mistakes(&text);
    assert_eq!(
        found,
        [
            "3 : host: given twice",
            "3 backend_servers[1].port: integer 1..65535 expected, got 0",
            "4 : host: given twice",
        ]
    );
}

#[test]
fn a_text_that_is_not_yaml_and_one_without_a_section_have_one_mistake() {
    assert_eq!(mistakes("a: [").len(), 1);
    assert_eq!(mistakes("backend_server_monitorng: {}").len(), 1);
    assert_eq!(mistakes("backend_server_monitoring: 5").len(), 1);
    assert_eq!(
        mistakes("backend_server_monitoring:\n  backend_servers: 5").len(),
        1
    );
}

#[test]
fn thousands_of_mistakes_are_found_in_bounded_time() {
    let server = "{ protocol: imap, host: h, port: 0 }";
    let found = mistakes(&servers(&[server; 5_000]));
    assert_eq!(found.len(), 1_000);
}

#[test]
fn files_that_are_named_are_opened_and_neither_made_nor_changed() {
    use std::os::unix::fs::PermissionsExt;

    let dir = std::env::temp_dir().join(format!("nb-mistakes-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    std::fs::write(dir.join("state"), "").unwrap();
    let open_to_all = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(dir.join("state"), open_to_all).unwrap();
    std::fs::create_dir(dir.join("folder")).unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    std::fs::write(dir.join("no-pem"), "no certificate").unwrap();
    let text = |state: &str, log: &str| {
        format!(
            "backend_server_monitoring:
  state_file: {}
  log: {}
  cluster:
    redis: rediss://127.0.0.1
    username: u
    password_file: {}
    key_file: {}
    tls_ca_file: {}
    tls_cert_file: {}
    tls_key_file: {}
  backend_servers:
    - {{ protocol: imap, host: a, tls: true, tls_ca_file: {}, tls_cert_file: {}, tls_key_file: {} }}
    - {{ protocol: imap, host: b, tls: true, tls_ca_file: {} }}
",
            at(state),
            at(log),
            at("none"),
            at("empty"),
            at("no-pem"),
            at("none.crt"),
            at("none.key"),
            at("none.ca"),
            at("none.crt"),
            at("none.key"),
            at("none.ca"),
        )
    };
    let found = mistakes(&text("state", "folder"));
    let found: Vec<String> = found.iter().map(|one| one.replace(&at(""), "")).collect();
    let expected = [
        "2 state_file: cannot use state: others may write it",
        "3 log: cannot use folder: a file expected, got a directory",
        "7 cluster.password_file: none: no such file",
        "8 cluster.key_file: empty: a key expected, got an empty file",
        "9 cluster.tls_ca_file: no-pem: ",
        "10 cluster.tls_cert_file: none.crt: no such file",
        "11 cluster.tls_key_file: none.key: no such file",
        "13 backend_servers[1].tls_ca_file: none.ca: no such file",
        "13 backend_servers[1].tls_cert_file: none.crt: no such file",
        "13 backend_servers[1].tls_key_file: none.key: no such file",
        "14 backend_servers[2].tls_ca_file: none.ca: no such file",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} is not {expected}");
    }
    let mode = std::fs::metadata(dir.join("state")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o666);
    let found = mistakes(&text("new-state", "new.log"));
    assert!(!found.iter().any(|one| one.contains("new")), "{found:#?}");
    assert!(!dir.join("new-state").exists() && !dir.join("new.log").exists());
    let found = mistakes(&text("no-pem", "none"));
    assert!(
        found[0].starts_with("2 state_file: cannot use "),
        "{found:#?}"
    );
    assert!(
        found[0].contains("no state file, and it would be overwritten"),
        "{found:#?}"
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn one_file_for_log_and_state_is_refused_in_any_spelling() {
    let dir = std::env::temp_dir().join(format!("nb-one-file-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("folder")).unwrap();
    std::os::unix::fs::symlink(dir.join("there"), dir.join("link")).unwrap();
    std::fs::write(dir.join("there"), "").unwrap();
    let expected = format!("2 state_file: {}/", dir.display());
    for (log, state, is_one) in [
        ("new", "new", true),
        ("folder/../new", "new", true),
        ("there", "there", true),
        ("link", "there", true),
        ("new", "there", false),
        ("folder/new", "new", false),
    ] {
        let (log, state) = (dir.join(log), dir.join(state));
        let text = format!(
            "backend_server_monitoring:\n  state_file: {}\n  log: {}\n  backend_servers: []\n",
            state.display(),
            log.display()
        );
        let found = mistakes(&text);
        assert_eq!(
            found.len(),
            usize::from(is_one),
            "{log:?} {state:?}: {found:?}"
        );
        let config = super::super::Config::from_yaml(&text, &super::no_env).unwrap();
        assert_eq!(config.with_files().is_err(), is_one);
        if let Some(found) = found.first() {
            assert!(found.starts_with(&expected), "{found}");
            assert!(found.ends_with(" is the file of log as well"), "{found}");
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}
