//! What real servers may say, in the forms the RFCs allow, and what the verdict then is.

mod http;
mod imap;
mod pop3;
mod sieve;
mod smtp;
mod standard;

use nauthilus_backend::engine::probe::error::Evidence;
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

/// After a refused login the next ones are made less often, and some refusals say nothing of the server.
#[tokio::test(start_paused = true)]
async fn what_a_refusal_means() {
    use Evidence::{Failure, IfRepeated, Nothing};
    let smtp = |code: &str| {
        format!(
            "S: 220 mx
             C: EHLO probe.example.org
             S: 250-mx
             S: 250 AUTH PLAIN
             C: AUTH PLAIN $PLAIN
             S: {code}
             C: QUIT"
        )
    };
    let imap = |answer: &str| {
        format!(
            "S: * OK [CAPABILITY LOGINDISABLED AUTH=PLAIN] hello
             C: a1 AUTHENTICATE PLAIN
             S: +
             C: $PLAIN
             S: a1 {answer}
             C: z LOGOUT"
        )
    };
    let pop3 = |answer: &str| {
        format!(
            "S: +OK
             C: CAPA
             S: -ERR
             C: USER probe
             S: +OK
             C: PASS hunter22
             S: -ERR {answer}
             C: QUIT"
        )
    };
    let sieve = |answer: &str| {
        format!(
            "S: \"SASL\" \"PLAIN\"
             S: OK
             C: AUTHENTICATE \"PLAIN\" \"$PLAIN\"
             S: NO {answer}
             C: LOGOUT"
        )
    };
    let bare = |answer: &str| {
        format!(
            "S: 220 mx
             C: EHLO probe.example.org
             S: 250-mx
             S: 250 AUTH LOGIN
             C: AUTH LOGIN
             S: {answer}
             C: QUIT"
        )
    };
    let in_use = Target {
        test_mailbox: Some("x".into()),
        ..target(Protocol::Pop3)
    };
    for (target, script, login_refused, evidence) in [
        (target(Protocol::Smtp), smtp("535 5.7.8 no"), true, Failure),
        (target(Protocol::Smtp), smtp("554 5.7.8 no"), true, Failure),
        (target(Protocol::Smtp), smtp("525 5.7.13 no"), true, Failure),
        (target(Protocol::Smtp), smtp("534 5.7.9 no"), true, Failure),
        (target(Protocol::Smtp), smtp("454 4.7.0 no"), false, Failure),
        (
            target(Protocol::Smtp),
            smtp("432 4.7.12 no"),
            false,
            Failure,
        ),
        (target(Protocol::Smtp), bare("504 5.5.4 no"), true, Failure),
        (target(Protocol::Smtp), bare("502 5.5.1 no"), true, Failure),
        (target(Protocol::Imap), imap("NO no"), true, Failure),
        (target(Protocol::Imap), imap("BAD no"), true, Failure),
        (
            target(Protocol::Imap),
            imap("NO [UNAVAILABLE] no"),
            false,
            Failure,
        ),
        (target(Protocol::Pop3), pop3("no"), true, Failure),
        (target(Protocol::Pop3), pop3("[AUTH] no"), true, Failure),
        (
            target(Protocol::Pop3),
            pop3("[SYS/TEMP] no"),
            false,
            Failure,
        ),
        (
            target(Protocol::Pop3),
            pop3("[LOGIN-DELAY] no"),
            true,
            Nothing,
        ),
        (in_use, pop3("[IN-USE] no"), false, IfRepeated),
        (target(Protocol::Sieve), sieve("\"no\""), true, Failure),
        (
            target(Protocol::Sieve),
            sieve("(AUTH-TOO-WEAK) \"no\""),
            true,
            Failure,
        ),
        (
            target(Protocol::Sieve),
            sieve("(TRYLATER) \"no\""),
            false,
            Failure,
        ),
    ] {
        let target = target.login();
        let (verdict, followed) = converse(&target, REMOTE_TLS, &script).await;
        assert_eq!(followed, Ok(()), "{script}");
        let error = verdict.expect_err("refused");
        assert_eq!(
            (error.login_refused, error.evidence),
            (login_refused, evidence),
            "{script}"
        );
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
