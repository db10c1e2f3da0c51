//! POP3 (RFC 1939, 2449, 2595, 5034).

use nauthilus_backend::engine::target::{AuthMechanism, Protocol, Target};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{With, target};

fn pop3() -> Target {
    target(Protocol::Pop3)
}

#[tokio::test(start_paused = true)]
async fn pop3_in_every_form() {
    check(&[
        case(
            "without credentials",
            pop3(),
            REMOTE,
            "
                S: +OK <1896.697170952@x>
                C: CAPA
                S: +OK
                S: TOP
                S: .
                C: QUIT
                S: +OK
                EOF",
            "",
        ),
        case(
            "a server without CAPA",
            pop3().login(),
            REMOTE_TLS,
            r#"
                S! +OK\n
                C: CAPA
                S: -ERR what?
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: +ok in
                C: QUIT"#,
            "",
        ),
        case(
            "PLAIN, from a list with dots before its lines",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK list
                S: ..x
                S: .sasl LOGIN plain
                S: USER
                S: .
                C: AUTH PLAIN $PLAIN
                S: +OK in
                C: QUIT",
            "",
        ),
        case(
            "LOGIN",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL LOGIN
                S: .
                C: AUTH LOGIN
                S: + VXNlcm5hbWU6
                C: cHJvYmU=
                S: + UGFzc3dvcmQ6
                C: aHVudGVyMjI=
                S: +OK in
                C: QUIT",
            "",
        ),
        case(
            "PLAIN too long for an initial response (RFC 5034, 255 octets)",
            pop3().user("u", &"x".repeat(200)),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: +OK in
                C: QUIT",
            "",
        ),
        case(
            "a password with spaces",
            pop3().user("probe", "a b  c"),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: .
                C: USER probe
                S: +OK
                C: PASS a b  c
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "configured USERPASS although SASL is offered",
            pop3().login().mechanism(AuthMechanism::UserPass),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: USER
                S: .
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "configured, not offered",
            pop3().login().mechanism(AuthMechanism::UserPass),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN CRAM-MD5
                S: .
                C: QUIT",
            "auth: mechanism USERPASS not offered (offered: PLAIN, CRAM-MD5)",
        ),
        case(
            "nothing offered",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: TOP
                S: .
                C: QUIT",
            "auth: no usable login mechanism offered (offered: none)",
        ),
        case(
            "rejected password, repeated by the server",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: -ERR
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: -ERR [AUTH] not hunter22
                C: QUIT",
            "auth: refused: -ERR [AUTH] not [redacted]",
        ),
        case(
            "rejected user",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: -ERR
                C: USER probe
                S: -ERR who?
                C: QUIT",
            "auth: refused: -ERR who?",
        ),
        case(
            "refuses to serve",
            pop3(),
            REMOTE,
            "
                S: -ERR [SYS/TEMP] later
                C: QUIT",
            "greeting: refused: -ERR [SYS/TEMP] later",
        ),
        case(
            "not a greeting",
            pop3(),
            REMOTE,
            "
                S: +OKAY",
            "greeting: unexpected reply: +OKAY",
        ),
        case(
            "empty greeting",
            pop3(),
            REMOTE,
            r#"
                S! \r\n"#,
            "greeting: unexpected empty line",
        ),
        case(
            "continuation out of turn",
            pop3(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: + go",
            "capability: unexpected reply: + go",
        ),
        case(
            "STLS",
            pop3().login().starttls(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: STLS
                S: SASL LOGIN
                S: .
                C: STLS
                S: +OK
                TLS
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: .
                C: AUTH PLAIN $PLAIN
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "STLS not offered",
            pop3().starttls(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: -ERR
                C: QUIT",
            "starttls: server does not offer STLS",
        ),
        case(
            "STLS refused",
            pop3().starttls(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: STLS
                S: .
                C: STLS
                S: -ERR no
                C: QUIT",
            "starttls: refused: -ERR no",
        ),
    ])
    .await;
}
