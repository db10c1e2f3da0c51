//! SMTP and LMTP (RFC 5321, 4954, 3207, 2033).

use nauthilus_backend::engine::target::{Protocol, Target};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{With, target};

fn smtp() -> Target {
    target(Protocol::Smtp)
}

fn lmtp() -> Target {
    target(Protocol::Lmtp)
}

#[tokio::test(start_paused = true)]
async fn smtp_in_every_form() {
    check(&[
        case(
            "many lines, codes alone",
            smtp(),
            REMOTE,
            "
                S: 220-mx
                S: 220-
                S: 220
                C: EHLO probe.example.org
                S: 250-mx hello
                S: 250-SIZE 1
                S: 250
                C: QUIT
                S: 221 2.0.0
                EOF",
            "",
        ),
        case(
            "a server from before EHLO",
            smtp(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 502 5.5.1 what?
                C: HELO probe.example.org
                S: 250 mx
                C: QUIT",
            "",
        ),
        case(
            "the same, expected to log in",
            smtp().login(),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 502 5.5.1 what?
                C: QUIT",
            "capability: refused: 502 5.5.1 what?",
        ),
        case(
            "PLAIN",
            smtp().login(),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250-8BITMIME
                S: 250 auth login PLAIN
                C: AUTH PLAIN $PLAIN
                S: 235 2.7.0 in
                C: QUIT",
            "",
        ),
        case(
            "LOGIN, from the form before RFC 2554; replies of several lines",
            smtp().login(),
            REMOTE_TLS,
            r#"
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH=LOGIN CRAM-MD5
                C: AUTH LOGIN
                S: 334 VXNlcm5hbWU6
                C: cHJvYmU=
                S: 334-what
                S! 334 \r\n
                C: aHVudGVyMjI=
                S: 235-2.7.0 in
                S: 235 2.7.0 really
                C: QUIT"#,
            "",
        ),
        case(
            "PLAIN too long for an initial response (RFC 4954, 512 octets)",
            smtp().user("u", &"x".repeat(400)),
            REMOTE_TLS,
            r#"
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN
                C: AUTH PLAIN
                S! 334 \r\n
                C: $PLAIN
                S: 235 in
                C: QUIT"#,
            "",
        ),
        case(
            "STARTTLS",
            smtp().login().starttls(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250-AUTH LOGIN
                S: 250 STARTTLS
                C: STARTTLS
                S: 220 2.0.0 go
                TLS
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN
                C: AUTH PLAIN $PLAIN
                S: 235 in
                C: QUIT",
            "",
        ),
        case(
            "the server's name is no extension",
            smtp().starttls(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250 STARTTLS
                C: QUIT",
            "starttls: server does not offer STARTTLS",
        ),
        case(
            "STARTTLS refused",
            smtp().starttls(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 STARTTLS
                C: STARTTLS
                S: 454 4.7.0 no
                C: QUIT",
            "starttls: refused: 454 4.7.0 no",
        ),
        case(
            "offered in the clear, not under TLS",
            smtp().login().starttls(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250-AUTH PLAIN
                S: 250 STARTTLS
                C: STARTTLS
                S: 220 go
                TLS
                C: EHLO probe.example.org
                S: 250 mx
                C: QUIT",
            "auth: no usable login mechanism offered (offered: none)",
        ),
        case(
            "rejected",
            smtp().login(),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN LOGIN
                C: AUTH PLAIN $PLAIN
                S: 535 5.7.8 no
                C: QUIT",
            "auth: refused: 535 5.7.8 no",
        ),
        case(
            "a success that is none",
            smtp().login(),
            REMOTE_TLS,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN
                C: AUTH PLAIN $PLAIN
                S: 250 ok
                C: QUIT",
            "auth: unexpected reply: 250 ok",
        ),
        case(
            "no service",
            smtp(),
            REMOTE,
            "
                S: 554-5.3.2 no
                S: 554 5.3.2 never
                C: QUIT",
            "greeting: refused: 554 5.3.2 never",
        ),
        case(
            "no service now",
            smtp(),
            REMOTE,
            "
                S: 421 4.3.2 later",
            "greeting: refused: 421 4.3.2 later",
        ),
        case(
            "another code",
            smtp(),
            REMOTE,
            "
                S: 250 hello
                C: QUIT",
            "greeting: unexpected reply: 250 hello",
        ),
        case(
            "a longer number",
            smtp(),
            REMOTE,
            "
                S: 2200 hello",
            "greeting: unexpected reply: 2200 hello",
        ),
        case(
            "a code that is none",
            smtp(),
            REMOTE,
            "
                S: 120 hello",
            "greeting: unexpected reply: 120 hello",
        ),
        case(
            "codes that differ",
            smtp(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 250-mx
                S: 550 no",
            "capability: code 250 changes within a reply: 550 no",
        ),
        case(
            "421 in the middle",
            smtp(),
            REMOTE,
            "
                S: 220 mx
                C: EHLO probe.example.org
                S: 421 4.3.0 shutting down",
            "capability: refused: 421 4.3.0 shutting down",
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn lmtp_says_lhlo() {
    check(&[
        case(
            "without credentials",
            lmtp(),
            REMOTE,
            "
                S: 220 mx LMTP
                C: LHLO probe.example.org
                S: 250-mx
                S: 250 PIPELINING
                C: QUIT",
            "",
        ),
        case(
            "everything",
            lmtp().login().starttls(),
            REMOTE,
            "
                S: 220 mx LMTP
                C: LHLO probe.example.org
                S: 250-mx
                S: 250 STARTTLS
                C: STARTTLS
                S: 220 go
                TLS
                C: LHLO probe.example.org
                S: 250-mx
                S: 250 AUTH PLAIN
                C: AUTH PLAIN $PLAIN
                S: 235 in
                C: QUIT",
            "",
        ),
        case(
            "an SMTP server",
            lmtp(),
            REMOTE,
            "
                S: 220 mx ESMTP
                C: LHLO probe.example.org
                S: 500 5.5.2 what?
                C: QUIT",
            "capability: refused: 500 5.5.2 what?",
        ),
    ])
    .await;
}
