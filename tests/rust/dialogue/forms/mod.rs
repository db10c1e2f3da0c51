//! What real servers may say, in the forms the RFCs allow, and what the verdict then is.

mod http;
mod imap;
mod pop3;
mod sieve;
mod smtp;
mod standard;

use nauthilus_backend::engine::target::{Protocol, Target};

use crate::support::{Connection, LOOPBACK, With, converse, target};

const REMOTE: Connection = Connection {
    loopback: false,
    ..LOOPBACK
};
const REMOTE_TLS: Connection = Connection {
    tls: true,
    ..REMOTE
};

/// A conversation and the reason that its probe ends with; `""` for a good one.
#[derive(Clone)]
struct Case {
    name: &'static str,
    target: Target,
    connection: Connection,
    script: &'static str,
    reason: &'static str,
}

fn case(
    name: &'static str,
    target: Target,
    connection: Connection,
    script: &'static str,
    reason: &'static str,
) -> Case {
    Case {
        name,
        target,
        connection,
        script,
        reason,
    }
}

/// Runs each case with three sizes of pipe, so that replies arrive whole, in pieces and byte by
/// byte.
async fn check(cases: &[Case]) {
    for case in cases {
        for pipe in [64 * 1024, 7, 1] {
            let connection = Connection {
                pipe,
                ..case.connection
            };
            let (verdict, script) = converse(&case.target, connection, case.script).await;
            let reason = verdict.map_or_else(|e| e.to_string(), |()| String::new());
            assert_eq!(
                (script, reason.as_str()),
                (Ok(()), case.reason),
                "{} (pipe of {pipe})",
                case.name
            );
        }
    }
}

/// CVE-2011-0411: bytes that were injected behind the reply to STARTTLS must not be read as if they
/// had come under TLS. The probe sends nothing more to such a server.
#[tokio::test(start_paused = true)]
async fn injected_replies_fail_the_probe() {
    for (protocol, script) in [
        (
            Protocol::Imap,
            r"
            S: * OK [CAPABILITY STARTTLS] hello
            C: a1 STARTTLS
            S! a1 OK\r\n* CAPABILITY X\r\n",
        ),
        (
            Protocol::Pop3,
            r"
            S: +OK
            C: CAPA
            S! +OK\r\nSTLS\r\n.\r\n
            C: STLS
            S! +OK\r\n+OK injected\r\n",
        ),
        (
            Protocol::Smtp,
            r"
            S: 220 hello
            C: EHLO probe.example.org
            S! 250-me\r\n250 STARTTLS\r\n
            C: STARTTLS
            S! 220 go\r\n250 injected\r\n",
        ),
        (
            Protocol::Lmtp,
            r"
            S: 220 hello
            C: LHLO probe.example.org
            S! 250-me\r\n250 STARTTLS\r\n
            C: STARTTLS
            S! 220 go\r\n250 injected\r\n",
        ),
        (
            Protocol::Sieve,
            r#"
            S! "IMPLEMENTATION" "x"\r\n"STARTTLS"\r\nOK\r\n
            C: STARTTLS
            S! OK\r\n"SASL" "X"\r\nOK\r\n"#,
        ),
    ] {
        let target = target(protocol).login().starttls();
        let (verdict, script) = converse(&target, LOOPBACK, script).await;
        let reason = verdict.expect_err("injected").to_string();
        assert!(
            reason.starts_with("starttls: ")
                && reason.ends_with("bytes in the clear between the reply and the TLS handshake"),
            "{protocol}: {reason}"
        );
        assert_eq!(script, Ok(()), "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_would_forge_a_command_are_not_sent() {
    for (protocol, script) in [
        (
            Protocol::Imap,
            "
            S: * OK [CAPABILITY AUTH=PLAIN] hello
            C: z LOGOUT",
        ),
        (
            Protocol::Pop3,
            "
            S: +OK
            C: CAPA
            S: -ERR
            C: QUIT",
        ),
        (
            Protocol::Smtp,
            "
            S: 220 hello
            C: EHLO probe.example.org
            S: 250-me
            S: 250 AUTH PLAIN
            C: QUIT",
        ),
        (Protocol::Http, ""),
    ] {
        for (user, password) in [("a\r\nQUIT", "b"), ("a", "b\nc"), ("a\0b", "c")] {
            let target = target(protocol).user(user, password);
            let (verdict, script) = converse(&target, LOOPBACK, script).await;
            assert_eq!(script, Ok(()), "{protocol}");
            assert_eq!(
                verdict.expect_err("forged").to_string(),
                "auth: test_username or test_password contains CR, LF or NUL"
            );
        }
    }
}
