//! The YAML loader. A configuration is written by a person, or by a template gone wrong.
//!
//! Whatever it says: no panic; a refusal is one printable line that names a place; what is
//! accepted says the same when it is read again, and shows no password.

use std::ffi::OsString;

use nauthilus_backend::engine::config::Config;

/// In the environment, and in no other text here.
const PASSWORD: &str = "Zq7#Wv9!";

/// The reasons quote what was written, shortened.
const REASON_MAX: usize = 2_000;

pub fn yaml(data: &[u8]) {
    load(data);
}

/// Loads it; whether it was accepted.
pub fn load(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let environment = |name: &str| match name {
        "PASSWORD" => Some(PASSWORD.into()),
        "PORT" => Some("143".into()),
        "EMPTY" => Some(OsString::new()),
        _ => None,
    };
    match Config::from_yaml(&text, &environment) {
        Ok(config) => {
            assert_eq!(Config::from_yaml(&text, &environment).as_ref(), Ok(&config));
            for target in &config.targets {
                if let Some(password) = &target.test_password {
                    let shown = format!("{password:?}");
                    assert!(!shown.contains(PASSWORD), "{shown}");
                }
                assert!(!target.key().contains(char::is_control), "{}", target.key());
            }
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!((1..REASON_MAX).contains(&text.len()), "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
            false
        }
    }
}

pub const YAML: &[&[u8]] = &[
    b"backend_server_monitoring:\n  connect_interval: 10s\n  deep_interval: 1m30s\n  backend_servers:\n\
      \x20   - protocol: imap\n      host: 192.0.2.1\n      port: 993\n      tls: true\n\
      \x20   - {protocol: pop3, host: pop.example.org, tls_mode: starttls, deep_check: true,\n\
      \x20      test_username: probe, test_password: '${PASSWORD}'}\n",
    b"server:\n  address: 1.2.3.4\nauth:\n  services:\n    backend_health_checks:\n      log: none\n\
      \x20     targets:\n        - {protocol: http, host: \"[2001:db8::1]\", port: '${PORT}', request_uri: /up}\n",
    b"base: &base {protocol: smtp, host: a.example.org, haproxy_v2: true}\nbackend_server_monitoring:\n\
      \x20 expose_attributes: [a, b]\n  state_file: /tmp/x\n  cert_warn: 14d\n  targets:\n\
      \x20   - *base\n    - <<: *base\n      port: 25\n    - <<: [*base, {port: 26}]\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: [*d, *d]\n\
      backend_server_monitoring: {backend_servers: []}\n",
    b"%YAML 1.2\n---\n? backend_server_monitoring\n: log: >-\n    stderr\n  backend_servers: !!seq\n\
      \x20 - protocol: |-\n      sieve\n    host: \"\\u0061.example\"\n    deep_timeout: .5\n...\n",
];

pub const YAML_WORDS: &[&str] = &[
    "\n",
    ": ",
    "- ",
    "  ",
    "\t",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "|",
    ">",
    "? ",
    "!!str ",
    "!!int ",
    "---\n",
    "...\n",
    "%TAG ! x\n",
    "~",
    "null",
    "true",
    "0x1f",
    "1e309",
    ".nan",
    "-0",
    "65536",
    "500ms",
    "99999d",
    "${PASSWORD}",
    "${EMPTY}",
    "${UNSET}",
    "$${",
    "\\x00",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "backend_server_monitoring",
    "backend_servers",
    "targets",
    "connect_timeout",
    "tls_mode",
    "test_password",
    "auth_mechanism",
];
