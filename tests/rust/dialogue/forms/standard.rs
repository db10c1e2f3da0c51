//! What the RFCs let a server leave out, repeat, delay, or refuse although it offered it, and the
//! standard's way on from there. One row for each; its name says the clause.

use std::net::{IpAddr, Ipv6Addr};

use nauthilus_backend::engine::target::{AuthMechanism, Protocol, Target};

use super::{Case, REMOTE, REMOTE_TLS, case, check};
use crate::support::{Connection, With, converse, target};

fn login(protocol: Protocol) -> Target {
    target(protocol).login()
}

fn looking_into(target: Target, mailbox: &str) -> Target {
    Target {
        test_mailbox: Some(mailbox.into()),
        ..target
    }
}

fn smtp() -> Vec<Case> {
    vec![
        case(
            "RFC 5321 §4.1.4: EHLO refused for whatever reason, HELO is the way on",
            target(Protocol::Smtp),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 550 5.7.1 not today
                C: HELO probe.example.org
                S: 250 mx
                C: QUIT",
            "",
        ),
        case(
            "RFC 5321 §4.1.4: both refused",
            target(Protocol::Smtp),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 504 5.5.2 <probe.example.org>: Helo command rejected
                C: HELO probe.example.org
                S: 504 5.5.2 <probe.example.org>: Helo command rejected
                C: QUIT",
            "capability: refused: 504 5.5.2 <probe.example.org>: Helo command rejected",
        ),
        case(
            "RFC 5321 §4.2.1: a reply may have many lines, without text",
            target(Protocol::Smtp),
            REMOTE,
            "
                S: 220-
                S: 220
                C: EHLO probe.example.org
                S: 250-
                S: 250
                C: QUIT",
            "",
        ),
        case(
            "RFC 5321 §4.1.1.1: no extension at all",
            target(Protocol::Smtp),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250 mx
                C: QUIT
                S: 221 bye",
            "",
        ),
        case(
            "RFC 5321 §3.8: the server may be gone before its reply to QUIT",
            target(Protocol::Smtp),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250 mx
                C: QUIT
                EOF",
            "",
        ),
        case(
            "RFC 4954 §4: a mechanism that is not known after all, the next one is",
            login(Protocol::Smtp),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN LOGIN
                C: AUTH PLAIN $PLAIN
                S: 504 5.5.4 Unrecognized authentication type
                C: AUTH LOGIN
                S: 334 VXNlcm5hbWU6
                C: $USER
                S: 334 UGFzc3dvcmQ6
                C: $PASSWORD
                S: 235 in
                C: QUIT",
            "",
        ),
        case(
            "a mechanism that needs encryption, the next one does not",
            login(Protocol::Smtp),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN LOGIN
                C: AUTH PLAIN $PLAIN
                S: 538 5.7.11 Encryption required for requested authentication mechanism
                C: AUTH LOGIN
                S: 334 VXNlcm5hbWU6
                C: $USER
                S: 334 UGFzc3dvcmQ6
                C: $PASSWORD
                S: 235 in
                C: QUIT",
            "",
        ),
        case(
            "RFC 4954 §6: too weak for this user, and nothing else is offered",
            login(Protocol::Smtp),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN
                C: AUTH PLAIN $PLAIN
                S: 534 5.7.9 too weak
                C: QUIT",
            "auth: refused: 534 5.7.9 too weak",
        ),
        case(
            "the mechanism that is configured is the only one",
            login(Protocol::Smtp).mechanism(AuthMechanism::Plain),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN LOGIN
                C: AUTH PLAIN $PLAIN
                S: 504 5.5.4 Unrecognized authentication type
                C: QUIT",
            "auth: refused: 504 5.5.4 Unrecognized authentication type",
        ),
        case(
            "RFC 3207 §4: TLS offered, and not available now",
            target(Protocol::Smtp).starttls(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 STARTTLS
                C: STARTTLS
                S: 454 4.7.0 TLS not available due to temporary reason
                C: QUIT",
            "starttls: refused: 454 4.7.0 TLS not available due to temporary reason",
        ),
        case(
            "RFC 2033 §4.1: LHLO has no older form",
            target(Protocol::Lmtp),
            REMOTE,
            "
                S: 220 mx
                C: LHLO probe.example.org
                S: 550 no
                C: QUIT",
            "capability: refused: 550 no",
        ),
        case(
            "RFC 2033 §4.1: a list of nothing",
            target(Protocol::Lmtp),
            REMOTE,
            "
                S: 220 mx
                C: LHLO probe.example.org
                S: 250
                C: QUIT",
            "",
        ),
    ]
}

fn imap() -> Vec<Case> {
    vec![
        case(
            "RFC 9051 §7.1: texts may be empty, unasked data may come at any time",
            target(Protocol::Imap),
            REMOTE,
            "
                S: * OK
                C: a1 CAPABILITY
                S: * OK
                S: * CAPABILITY IMAP4rev1
                S: * NO [ALERT] the disk is nearly full
                S: * BAD what?
                S: a1 OK
                C: z LOGOUT",
            "",
        ),
        case(
            "RFC 9051 §7.1.3: BAD to a mechanism that was offered, LOGIN is the way on",
            login(Protocol::Imap),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 BAD no such mechanism
                C: a2 AUTHENTICATE PLAIN
                S: a2 BAD no such mechanism
                C: a3 LOGIN "probe" "hunter22"
                S: a3 OK in
                C: z LOGOUT"#,
            "",
        ),
        case(
            "RFC 4959 §3: SASL-IR offered, and not understood",
            login(Protocol::Imap).mechanism(AuthMechanism::Plain),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 BAD invalid command or parameters
                C: a2 AUTHENTICATE PLAIN
                S: +
                C: $PLAIN
                S: a2 OK in
                C: z LOGOUT",
            "",
        ),
        case(
            "RFC 9051 §6.2.2: a refusal before the go-ahead",
            login(Protocol::Imap),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN LOGINDISABLED] hello
                C: a1 AUTHENTICATE PLAIN
                S: a1 BAD not now
                C: z LOGOUT",
            "auth: refused: a1 BAD not now",
        ),
        case(
            "RFC 9051 §7.1.5: BYE instead of a reply",
            login(Protocol::Imap),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: * BYE shutting down",
            "auth: refused: * BYE shutting down",
        ),
        case(
            "RFC 9051 §6.2.1: STARTTLS offered, and refused",
            target(Protocol::Imap).starttls(),
            REMOTE,
            "
                S: * OK [CAPABILITY IMAP4rev1 STARTTLS] hello
                C: a1 STARTTLS
                S: a1 BAD no certificate
                C: z LOGOUT",
            "starttls: refused: a1 BAD no certificate",
        ),
        case(
            "RFC 9051 §7.1.4: PREAUTH needs no login, and has mailboxes",
            looking_into(login(Protocol::Imap), "INBOX"),
            REMOTE_TLS,
            r#"
                S: * PREAUTH
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a1 OK
                C: a2 EXAMINE "INBOX"
                S: a2 OK
                C: z LOGOUT"#,
            "",
        ),
        case(
            "RFC 9051 §6.3.3: EXAMINE and what comes with it",
            looking_into(login(Protocol::Imap), "a \"b\" & c"),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: a2 EXAMINE "a \"b\" &- c"
                S: * FLAGS (\Answered \Seen)
                S: * OK [PERMANENTFLAGS ()] none
                S: * 17 EXISTS
                S: * LIST () "/" {3}
                S: a2
                S: * OK [UIDVALIDITY 1] valid
                S: a2 OK [READ-ONLY] done
                C: z LOGOUT"#,
            "",
        ),
        case(
            "RFC 9051 §6.3.3: no such mailbox",
            looking_into(login(Protocol::Imap), "gone"),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: a2 EXAMINE "gone"
                S: a2 NO [NONEXISTENT] no such mailbox
                C: z LOGOUT"#,
            "examine: refused: a2 NO [NONEXISTENT] no such mailbox",
        ),
        case(
            "RFC 3501 §5.1.3: a name in modified UTF-7",
            looking_into(login(Protocol::Imap), "Entwürfe"),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: a2 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a2 OK
                C: a3 EXAMINE "Entw&APw-rfe"
                S: a3 OK
                C: z LOGOUT"#,
            "",
        ),
        case(
            "RFC 6855 §3: a name in UTF-8, in a quoted string",
            looking_into(login(Protocol::Imap), "Entwürfe & \"x\""),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: a2 CAPABILITY
                S: * CAPABILITY IMAP4rev1 UTF8=ACCEPT ENABLE
                S: a2 OK
                C: a3 ENABLE UTF8=ACCEPT
                S: * ENABLED UTF8=ACCEPT
                S: a3 OK
                C: a4 EXAMINE "Entwürfe & \"x\""
                S: a4 OK
                C: z LOGOUT"#,
            "",
        ),
        case(
            "RFC 9051 §4.3: what no quoted string holds, as a literal",
            looking_into(login(Protocol::Imap), "ü\tx"),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: a2 CAPABILITY
                S: * CAPABILITY IMAP4rev2 UTF8=ACCEPT LITERAL-
                S: a2 OK
                C: a3 ENABLE UTF8=ACCEPT
                S: a3 OK
                C: a4 EXAMINE {4+}
                C: ü\tx
                S: a4 OK
                C: z LOGOUT",
            "",
        ),
    ]
}

fn pop3() -> Vec<Case> {
    const IN_USE: &str = "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: RESP-CODES
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: -ERR [IN-USE] another session has it
                C: QUIT";
    vec![
        case(
            "RFC 2449 §8.1.2: the maildrop is in use, so the login was right",
            login(Protocol::Pop3),
            REMOTE_TLS,
            IN_USE,
            "",
        ),
        case(
            "the same, where the maildrop is to be looked into",
            looking_into(login(Protocol::Pop3), "x"),
            REMOTE_TLS,
            IN_USE,
            "auth: refused: -ERR [IN-USE] another session has it",
        ),
        case(
            "RFC 2449 §8.1.1: too soon after the last login",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: LOGIN-DELAY 900
                S: .
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: -ERR [LOGIN-DELAY] wait
                C: QUIT",
            "auth: refused: -ERR [LOGIN-DELAY] wait",
        ),
        case(
            "the same in answer to USER",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: SASL PLAIN
                S: .
                C: USER probe
                S: -ERR [LOGIN-DELAY] wait
                C: QUIT",
            "auth: refused: -ERR [LOGIN-DELAY] wait",
        ),
        case(
            "the same in answer to AUTH",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL LOGIN
                S: .
                C: AUTH LOGIN
                S: -ERR [login-delay] wait
                C: QUIT",
            "auth: refused: -ERR [login-delay] wait",
        ),
        case(
            "RFC 2449 §8.1.2: the maildrop is in use, before the password was sent",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL LOGIN
                S: .
                C: AUTH LOGIN
                S: +
                C: $USER
                S: -ERR [IN-USE] wait
                C: QUIT",
            "auth: refused: -ERR [IN-USE] wait",
        ),
        case(
            "RFC 3206 §6: a server that says why, and does not: it is the mechanism",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN LOGIN
                S: AUTH-RESP-CODE
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: -ERR unsupported
                C: AUTH LOGIN
                S: +
                C: $USER
                S: +
                C: $PASSWORD
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "RFC 3206 §6: the same server, a wrong password",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: AUTH-RESP-CODE
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: -ERR [AUTH] no
                C: QUIT",
            "auth: refused: -ERR [AUTH] no",
        ),
        case(
            "RFC 3206 §4: the server's own trouble",
            login(Protocol::Pop3),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: AUTH-RESP-CODE
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: -ERR [SYS/TEMP] later
                C: QUIT",
            "auth: refused: -ERR [SYS/TEMP] later",
        ),
        case(
            "RFC 1939 §5: STAT",
            looking_into(login(Protocol::Pop3), "x"),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: -ERR
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: +OK
                C: STAT
                S: +OK 2 320
                C: QUIT",
            "",
        ),
        case(
            "RFC 1939 §5: STAT refused",
            looking_into(login(Protocol::Pop3), "x"),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: -ERR
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: +OK
                C: STAT
                S: -ERR [SYS/TEMP] cannot open
                C: QUIT",
            "stat: refused: -ERR [SYS/TEMP] cannot open",
        ),
        case(
            "RFC 2449 §5: no CAPA, behind the PROXY header",
            Target {
                haproxy_v2: true,
                ..target(Protocol::Pop3)
            },
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: -ERR
                C: CAPA
                S: -ERR
                C: CAPA
                S: -ERR
                C: CAPA
                S: -ERR
                C: QUIT
                S: +OK
                EOF",
            "",
        ),
    ]
}

fn sieve() -> Vec<Case> {
    vec![
        case(
            "RFC 5804 §1.3: too weak, the next one",
            login(Protocol::Sieve),
            REMOTE_TLS,
            r#"
                S: "SASL" "PLAIN LOGIN"
                S: OK
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: NO (AUTH-TOO-WEAK) "no"
                C: AUTHENTICATE "LOGIN"
                S: ""
                C: "$USER"
                S: ""
                C: "$PASSWORD"
                S: OK
                C: LOGOUT"#,
            "",
        ),
        case(
            "RFC 5804 §1.3: later",
            login(Protocol::Sieve),
            REMOTE_TLS,
            r#"
                S: "SASL" "PLAIN LOGIN"
                S: OK
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: NO (TRYLATER) "busy"
                C: LOGOUT"#,
            r#"auth: refused: NO (TRYLATER) "busy""#,
        ),
        case(
            "RFC 5804 §2.7: scripts, in quotes and as literals",
            looking_into(login(Protocol::Sieve), "x"),
            REMOTE_TLS,
            r#"
                S: "SASL" "PLAIN"
                S: OK
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: OK
                C: LISTSCRIPTS
                S: "summer"
                S: {8}
                S: vacation ACTIVE
                S: OK "done"
                C: LOGOUT"#,
            "",
        ),
        case(
            "RFC 5804 §2.7: a store that fails",
            looking_into(login(Protocol::Sieve), "x"),
            REMOTE_TLS,
            r#"
                S: "SASL" "PLAIN"
                S: OK
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: OK
                C: LISTSCRIPTS
                S: NO "cannot open"
                C: LOGOUT"#,
            r#"listscripts: refused: NO "cannot open""#,
        ),
        case(
            "RFC 5804 §1.7: texts and lists may be empty",
            target(Protocol::Sieve),
            REMOTE,
            r#"
                S: "SIEVE" ""
                S: OK
                C: CAPABILITY
                S: "SIEVE" ""
                S: OK ""
                C: LOGOUT"#,
            "",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_a_server_may_do_and_the_way_on() {
    check(&[smtp(), imap(), pop3(), sieve()].concat()).await;
}

/// RFC 5321 §4.1.1.1, §4.1.3: without a name of its own a client says the address it comes from.
#[tokio::test(start_paused = true)]
async fn without_a_name_the_connection_gives_the_address() {
    let nameless = Target {
        helo_name: None,
        ..target(Protocol::Smtp)
    };
    let kernels = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let kernels = kernels.trim_end();
    for (local, literal) in [
        (IpAddr::from([192, 0, 2, 7]), "[192.0.2.7]"),
        (Ipv6Addr::LOCALHOST.into(), "[IPv6:::1]"),
    ] {
        let said = if kernels.contains('.') && !kernels.ends_with(".localdomain") {
            kernels
        } else {
            literal
        };
        let connection = Connection { local, ..REMOTE };
        let script = format!("S: 220 mx\nC: EHLO {said}\nS: 250 mx\nC: QUIT");
        let (verdict, script) = converse(&nameless, connection, &script).await;
        assert_eq!((verdict, script), (Ok(()), Ok(())));
    }
}
