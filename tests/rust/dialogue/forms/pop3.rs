//! POP3 (RFC 1939, 2449, 2595, 5034).

use nauthilus_backend::engine::target::{AuthMechanism, Protocol, Target};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{With, target};

fn pop3() -> Target {
    target(Protocol::Pop3)
}

/// PLAIN, although USER is offered.
const OTHER_THAN_USER: &str = "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: SASL PLAIN
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: +OK
                C: QUIT";

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
                S: .
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: +OK in
                C: QUIT",
            "",
        ),
        case(
            "USER and PASS before what else is offered",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN LOGIN
                S: user
                S: .
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "a password that is not ASCII",
            pop3().user("probe", "pässword"),
            REMOTE_TLS,
            OTHER_THAN_USER,
            "",
        ),
        case(
            "a password that ends with a space",
            pop3().user("probe", "hunter22 "),
            REMOTE_TLS,
            OTHER_THAN_USER,
            "",
        ),
        case(
            "a name with a space",
            pop3().user("the probe", "hunter22"),
            REMOTE_TLS,
            OTHER_THAN_USER,
            "",
        ),
        case(
            "a password too long for PASS (RFC 2449, 255 octets)",
            pop3().user("probe", &"x".repeat(249)),
            REMOTE_TLS,
            OTHER_THAN_USER,
            "",
        ),
        case(
            "a password that is not ASCII, and nothing else than USER is offered",
            pop3().user("probe", "pässword"),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: .
                C: USER probe
                S: +OK
                C: PASS pässword
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "USER offered and refused: another mechanism is the way on",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: SASL CRAM-MD5 PLAIN
                S: .
                C: USER probe
                S: -ERR not here
                C: AUTH PLAIN
                S: +
                C: $PLAIN
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "a mechanism offered and refused before it has the password",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: SASL PLAIN LOGIN
                S: .
                C: AUTH PLAIN
                S: -ERR not here
                C: AUTH LOGIN
                S: + VXNlcm5hbWU6
                C: $USER
                S: + UGFzc3dvcmQ6
                C: $PASSWORD
                S: +OK
                C: QUIT",
            "",
        ),
        case(
            "a refused password is not sent another way",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: +OK
                S: USER
                S: SASL PLAIN
                S: AUTH-RESP-CODE
                S: .
                C: USER probe
                S: +OK
                C: PASS hunter22
                S: -ERR no
                C: QUIT",
            "auth: refused: -ERR no",
        ),
        case(
            "configured PLAIN at a server that takes no initial response, as Exchange",
            pop3().login().mechanism(AuthMechanism::Plain),
            REMOTE_TLS,
            r"
                S: +OK The Microsoft Exchange POP3 service is ready.
                C: CAPA
                S: +OK
                S: SASL PLAIN
                S: USER
                S: .
                C: AUTH PLAIN
                S! + \r\n
                C: $PLAIN
                S: +OK User successfully authenticated.
                C: QUIT",
            "",
        ),
        case(
            "CAPA refused, and QUIT answered",
            pop3(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: -ERR what?
                C: QUIT
                S: +OK bye
                EOF",
            "",
        ),
        case(
            "CAPA refused, and then nothing more is served",
            pop3(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: -ERR internal error, closing
                C: QUIT
                EOF",
            "capability: connection closed",
        ),
        case(
            "everything refused",
            pop3(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: -ERR no backend
                C: QUIT
                S: -ERR no backend",
            "capability: refused: -ERR no backend",
        ),
        case(
            "CAPA refused for the server's own trouble (RFC 3206)",
            pop3(),
            REMOTE,
            "
                S: +OK
                C: CAPA
                S: -ERR [SYS/TEMP] Server shutting down.
                C: QUIT",
            "capability: refused: -ERR [SYS/TEMP] Server shutting down.",
        ),
        case(
            "the same before a login",
            pop3().login(),
            REMOTE_TLS,
            "
                S: +OK
                C: CAPA
                S: -ERR [sys/perm] no backend
                C: QUIT",
            "capability: refused: -ERR [sys/perm] no backend",
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
            "PLAIN with a long password",
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
                C: AUTH PLAIN
                S: +
                C: $PLAIN
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
