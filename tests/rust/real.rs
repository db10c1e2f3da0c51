//! Dialogues with real servers on loopback: Dovecot, Postfix and nginx, as Debian ships them.
//! They have to be installed, and Postfix wants root: `cargo test --test real -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nauthilus_backend::engine::probe::{Depth, Prober};
use nauthilus_backend::engine::target::{
    AuthMechanism, ExpectedStatus, Host, HttpMethod, Protocol, Secret, Target, TlsMode,
};

/// A helper of `spec/support`, which ends with its server when its input ends.
struct Server {
    helper: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    facts: HashMap<String, String>,
}

impl Server {
    fn start(script: &str) -> Self {
        let path = format!("{}/spec/support/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut helper = Command::new("python3")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut server = Self {
            requests: helper.stdin.take(),
            answers: BufReader::new(helper.stdout.take().expect("piped")),
            helper,
            facts: HashMap::new(),
        };
        let answer = server.ask("start");
        let mut words = answer.split_whitespace();
        assert_eq!(words.next(), Some("ok"), "{script}: {answer}");
        server.facts = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        server
    }

    fn ask(&mut self, request: &str) -> String {
        let requests = self.requests.as_mut().expect("open");
        writeln!(requests, "{request}").expect("a helper that listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }

    /// A target on the listener of that name, with TLS if the name ends in `s`.
    fn target(&self, protocol: Protocol, listener: &str) -> Target {
        let implicit = listener.trim_end_matches("_proxy").ends_with('s');
        let host = Host::Ip("127.0.0.1".parse().expect("an address"));
        let port = self.facts[listener].parse().expect("a port");
        Target {
            tls_mode: if implicit {
                TlsMode::Implicit
            } else {
                TlsMode::Plain
            },
            tls_ca_file: Some(self.facts["ca"].clone().into()),
            haproxy_v2: listener.ends_with("_proxy"),
            deep_check: true,
            connect_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(10),
            deep_timeout: Duration::from_secs(20),
            ..Target::new(protocol, host, port)
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.helper.wait();
    }
}

fn login(target: Target, password: &str) -> Target {
    Target {
        test_username: Some("probe".into()),
        test_password: Some(Secret::new(password.into())),
        ..target
    }
}

fn starttls(target: Target) -> Target {
    Target {
        tls_mode: TlsMode::StartTls,
        ..target
    }
}

/// The reason, empty for a good probe.
async fn probe(target: &Target) -> String {
    let outcome = Prober::default().run(target, Depth::Deep, None).await;
    outcome
        .result
        .map_or_else(|e| e.to_string(), |()| String::new())
}

#[tokio::test]
#[ignore = "needs Dovecot"]
async fn dovecot() {
    let server = Server::start("dovecot.py");
    for (protocol, listener) in [
        (Protocol::Imap, "imap"),
        (Protocol::Imap, "imaps"),
        (Protocol::Imap, "imap_proxy"),
        (Protocol::Imap, "imaps_proxy"),
        (Protocol::Pop3, "pop3"),
        (Protocol::Pop3, "pop3s"),
        (Protocol::Sieve, "sieve"),
        (Protocol::Lmtp, "lmtp"),
        (Protocol::Smtp, "submission"),
    ] {
        let plain = server.target(protocol, listener);
        let mut ways = vec![("as it is", plain.clone())];
        if plain.tls_mode == TlsMode::Plain {
            ways.push(("starttls", starttls(plain)));
        }
        for (way, target) in ways {
            let name = format!("{listener} {way}");
            assert_eq!(probe(&target).await, "", "{name}");
            match protocol {
                // Dovecot's LMTP takes mail from its own network without a login, and offers no
                // mechanism.
                Protocol::Lmtp => {
                    let reason = probe(&login(target, "secret")).await;
                    assert!(
                        reason.starts_with("auth: no usable login mechanism"),
                        "{name}: {reason}"
                    );
                }
                // Dovecot's submission service accepts a login only if it reaches a relay, and
                // there is none here.
                Protocol::Smtp => {
                    let reason = probe(&login(target, "wrong")).await;
                    assert!(
                        reason.starts_with("auth: refused: 535 5.7.8"),
                        "{name}: {reason}"
                    );
                }
                _ => {
                    for mechanism in [
                        AuthMechanism::Auto,
                        AuthMechanism::Plain,
                        AuthMechanism::Login,
                    ] {
                        let target = Target {
                            auth_mechanism: mechanism,
                            ..target.clone()
                        };
                        let name = format!("{name} by {}", mechanism.name());
                        assert_eq!(probe(&login(target.clone(), "secret")).await, "", "{name}");
                        let reason = probe(&login(target, "wrong")).await;
                        assert!(reason.starts_with("auth: "), "{name}: {reason}");
                    }
                }
            }
        }
    }
    // The native command, and a password no quoted string can hold.
    let pop3 = Target {
        auth_mechanism: AuthMechanism::UserPass,
        ..server.target(Protocol::Pop3, "pop3s")
    };
    assert_eq!(probe(&login(pop3.clone(), "secret")).await, "");
    assert!(
        probe(&login(pop3, "wr\u{f6}ng"))
            .await
            .starts_with("auth: refused: -ERR")
    );
}

#[tokio::test]
#[ignore = "needs Postfix, and root"]
async fn postfix() {
    let server = Server::start("postfix.py");
    for listener in ["smtp", "smtps", "smtp_proxy"] {
        let target = server.target(Protocol::Smtp, listener);
        assert_eq!(probe(&target).await, "", "{listener}");
        if target.tls_mode == TlsMode::Plain {
            assert_eq!(
                probe(&starttls(target.clone())).await,
                "",
                "{listener} starttls"
            );
        }
        let reason = probe(&login(target, "secret")).await;
        assert_eq!(
            reason,
            "auth: no usable login mechanism offered (offered: none)"
        );
    }
    let lmtp = server.target(Protocol::Lmtp, "smtp");
    let reason = probe(&lmtp).await;
    assert!(reason.starts_with("capability: refused: 50"), "{reason}");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn nginx() {
    let server = Server::start("web.py");
    for listener in ["http", "https", "http_proxy"] {
        let at = |uri: &str| Target {
            request_uri: uri.to_owned().into(),
            ..server.target(Protocol::Http, listener)
        };
        for (uri, reason) in [
            ("/", ""),
            ("/moved", ""),
            ("/gone", "http: status 503 Service Temporarily Unavailable"),
            ("/private", "http: status 401 Unauthorized"),
        ] {
            assert_eq!(probe(&at(uri)).await, reason, "{listener} {uri}");
        }
        assert_eq!(
            probe(&login(at("/private"), "secret")).await,
            "",
            "{listener}"
        );
        let reason = probe(&login(at("/private"), "wrong")).await;
        assert_eq!(reason, "http: status 401 Unauthorized", "{listener}");
    }
}

fn looking_into(target: Target, mailbox: &str) -> Target {
    Target {
        test_mailbox: Some(mailbox.into()),
        ..target
    }
}

/// A store behind a login: mailboxes that are there and are not, and one that hangs.
#[tokio::test]
#[ignore = "needs Dovecot"]
async fn dovecot_store() {
    let server = Server::start("dovecot.py");
    let at = |protocol, listener: &str| login(server.target(protocol, listener), "secret");
    let imap = at(Protocol::Imap, "imaps");
    assert_eq!(probe(&looking_into(imap.clone(), "INBOX")).await, "");
    for missing in ["gone", "Entwürfe & \"x\""] {
        let reason = probe(&looking_into(imap.clone(), missing)).await;
        let wanted = "examine: refused: a";
        assert!(reason.starts_with(wanted), "{reason}");
        assert!(reason.contains("Mailbox doesn't exist: "), "{reason}");
    }
    for (protocol, listener) in [(Protocol::Pop3, "pop3s"), (Protocol::Sieve, "sieve")] {
        let reason = probe(&looking_into(at(protocol, listener), "any")).await;
        assert_eq!(reason, "", "{listener}");
    }

    // Another process holds the lock that Dovecot takes when it delivers a new message.
    let folder = std::path::Path::new(&server.facts["ca"])
        .ancestors()
        .nth(2)
        .expect("a folder");
    let mailbox = folder.join("mail/probe");
    let lock = "import fcntl, sys; file = open(sys.argv[1], 'r+b'); \
                fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", lock])
        .arg(mailbox.join("dovecot.index.log"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut held = String::new();
    let stdout = holder.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut held).expect("a line");
    assert_eq!(held, "held\n");
    std::fs::write(mailbox.join("new/1.new"), "Subject: new\n\nx\n").expect("a message");
    let hung = Target {
        deep_timeout: Duration::from_secs(5),
        ..looking_into(imap.clone(), "INBOX")
    };
    let reasons = [probe(&imap).await, probe(&hung).await];
    drop(holder.stdin.take());
    holder.wait().expect("an end");
    assert_eq!(reasons, ["", "examine: timed out after 5s"]);
}

#[tokio::test]
#[ignore = "needs Postfix, and root"]
async fn postfix_wants_a_qualified_name() {
    let server = Server::start("postfix.py");
    let named = |name: Option<&str>| Target {
        helo_name: name.map(Into::into),
        ..server.target(Protocol::Smtp, "smtp_strict")
    };
    // The name of this machine, or its address literal.
    assert_eq!(probe(&named(None)).await, "");
    assert_eq!(probe(&named(Some("probe.example.org"))).await, "");
    let reason = probe(&named(Some("localhost"))).await;
    assert_eq!(
        reason,
        "capability: refused: 504 5.5.2 <localhost>: Helo command rejected: \
         need fully-qualified hostname"
    );
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn nginx_by_method_host_and_status() {
    let server = Server::start("web.py");
    let plain = |uri: &str| Target {
        request_uri: uri.to_owned().into(),
        ..server.target(Protocol::Http, "http")
    };
    let host = |name: Option<&str>, wanted: &str| Target {
        http_host: name.map(Into::into),
        ..plain(&format!("/host?wanted={wanted}"))
    };
    let port = server.facts["http"].clone();
    for target in [
        Target {
            http_method: HttpMethod::Head,
            ..plain("/method?wanted=HEAD")
        },
        plain("/method?wanted=GET"),
        host(None, &format!("127.0.0.1:{port}")),
        host(Some("www.example.org"), "www.example.org"),
        host(Some("[2001:db8::1]:80"), "[2001:db8::1]:80"),
        Target {
            expected_status: ExpectedStatus::new(vec![503..=503]),
            ..plain("/gone")
        },
    ] {
        assert_eq!(probe(&target).await, "", "{target:?}");
    }
    for (target, reason) in [
        (
            Target {
                expected_status: ExpectedStatus::new(vec![200..=299]),
                ..plain("/moved")
            },
            "http: status 301 Moved Permanently (expected 200-299)",
        ),
        (
            host(Some("www.example.org"), "other.example.org"),
            "http: status 421 Misdirected Request",
        ),
    ] {
        assert_eq!(probe(&target).await, reason);
    }
}
