//! IMAP (RFC 9051, RFC 3501).

use nauthilus_backend::engine::target::{AuthMechanism, Protocol, Target};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{LOOPBACK, With, target};

fn imap() -> Target {
    target(Protocol::Imap)
}

#[tokio::test(start_paused = true)]
async fn imap_without_credentials() {
    check(&[
        case(
            "greeting, list, end",
            imap(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a1 OK done
                C: z LOGOUT
                S: * BYE bye
                S: z OK
                EOF",
            "",
        ),
        case(
            "asked although the greeting has the list, in any case, with bare LF",
            imap(),
            REMOTE,
            r#"
                S! * ok [capability imap4rev1] hello\n
                C: a1 CAPABILITY
                S! * capability imap4rev1\na1 ok\n
                C: z LOGOUT"#,
            "",
        ),
        case(
            "Dovecot's greeting before the greeting",
            imap(),
            REMOTE,
            "
                S: * OK Waiting for authentication process to respond..
                S: * OK [CAPABILITY IMAP4rev1] Dovecot ready.
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a1 OK done
                C: z LOGOUT",
            "",
        ),
        case(
            "untagged lines and literals that look like replies",
            imap(),
            REMOTE,
            r#"
                S: * OK hello
                C: a1 CAPABILITY
                S: * 3 EXISTS
                S: * LIST () "/" {14}
                S: a1 BAD liter
                S: * FETCH (X {0}
                S:  Y {3+}
                S: *
                S:  Z)
                S: * OK [ALERT] text with a brace {5}
                S: * NO trouble ahead
                S: * CAPABILITY IMAP4rev2
                S: a1 OK [CAPABILITY IMAP4rev2 X] done
                C: z LOGOUT"#,
            "",
        ),
        case(
            "already logged in",
            imap().login(),
            REMOTE,
            "
                S: * PREAUTH hello
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a1 OK
                C: z LOGOUT",
            "",
        ),
        case(
            "refuses to serve",
            imap(),
            REMOTE,
            "
                S: * BYE overloaded",
            "greeting: refused: * BYE overloaded",
        ),
        case(
            "not a greeting",
            imap(),
            REMOTE,
            "
                S: a1 OK hello",
            "greeting: unexpected reply: a1 OK hello",
        ),
        case(
            "OK in the text of a NO, and another tag",
            imap(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a1 NO Not OK
                C: z LOGOUT",
            "capability: refused: a1 NO Not OK",
        ),
        case(
            "another tag",
            imap(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: a11 OK done",
            "capability: unexpected reply: a11 OK done",
        ),
        case(
            "tagged nonsense",
            imap(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: a1 OKAY",
            "capability: unexpected reply: a1 OKAY",
        ),
        case(
            "no list",
            imap(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: a1 OK done
                C: z LOGOUT",
            "capability: no list in the reply to CAPABILITY",
        ),
        case(
            "BYE in the middle",
            imap(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: * BYE shutting down",
            "capability: refused: * BYE shutting down",
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn imap_logs_in() {
    check(&[
        case(
            "PLAIN with initial response",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=LOGIN SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: * CAPABILITY IMAP4rev1 IDLE
                S: a1 OK [CAPABILITY IMAP4rev1] in
                C: z LOGOUT",
            "",
        ),
        case(
            "PLAIN without",
            imap().login(),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN
                S! + \r\n
                C: $PLAIN
                S: a1 OK in
                C: z LOGOUT"#,
            "",
        ),
        case(
            "a continuation without even a space, untagged lines around",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN
                S: * OK still here
                S: +
                C: $PLAIN
                S: * OK still here
                S: a1 OK in
                C: z LOGOUT",
            "",
        ),
        case(
            "AUTH=LOGIN",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=LOGIN LOGINDISABLED] hello
                C: a1 AUTHENTICATE LOGIN
                S: + VXNlcm5hbWU6
                C: $USER
                S: + UGFzc3dvcmQ6
                C: $PASSWORD
                S: a1 OK in
                C: z LOGOUT",
            "",
        ),
        case(
            "LOGIN command",
            imap().login(),
            REMOTE_TLS,
            r#"
                S: * OK hello
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1 AUTH=CRAM-MD5
                S: a1 OK
                C: a2 LOGIN "probe" "hunter22"
                S: a2 OK in
                C: z LOGOUT"#,
            "",
        ),
        case(
            "LOGIN command, escapes",
            imap().user("a\"b", "c\\d e"),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1] hello
                C: a1 LOGIN "a\"b" "c\\d e"
                S: a1 OK in
                C: z LOGOUT"#,
            "",
        ),
        case(
            "LOGIN command, literals with go-ahead",
            imap().user("j\u{f6}rg", "p\u{e4}ss"),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1] hello
                C: a1 LOGIN {5}
                S: + go on
                C: jörg {5}
                S: + go on
                C: päss
                S: a1 OK in
                C: z LOGOUT",
            "",
        ),
        case(
            "LOGIN command, literals without",
            imap().user("probe", "p\u{e4}ss"),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 LITERAL+] hello
                C: a1 LOGIN "probe" {5+}
                C: päss
                S: a1 OK in
                C: z LOGOUT"#,
            "",
        ),
        case(
            "LOGIN command, literal refused",
            imap().user("j\u{f6}rg", "p\u{e4}ss"),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1] hello
                C: a1 LOGIN {5}
                S: a1 BAD no literals
                C: z LOGOUT",
            "auth: refused: a1 BAD no literals",
        ),
        case(
            "rejected, and nothing else is tried",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=LOGIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 NO [AUTHENTICATIONFAILED] Not OK
                C: z LOGOUT",
            "auth: refused: a1 NO [AUTHENTICATIONFAILED] Not OK",
        ),
        case(
            "a challenge after PLAIN said all",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: + more?",
            "auth: unexpected reply: + more?",
        ),
        case(
            "logged in before the credentials were sent",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN
                S: a1 OK in
                C: z LOGOUT",
            "auth: unexpected reply: a1 OK in",
        ),
        case(
            "the server repeats what we sent",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN LOGINDISABLED] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 BAD AUTHENTICATE PLAIN $PLAIN
                C: a2 AUTHENTICATE PLAIN
                S: +
                C: $PLAIN
                S: a2 BAD $PLAIN
                C: z LOGOUT",
            "auth: refused: a2 BAD [redacted]",
        ),
        case(
            "nothing usable",
            imap().login(),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=CRAM-MD5 AUTH=SCRAM-SHA-1] hello
                C: z LOGOUT",
            "auth: no usable login mechanism offered (offered: CRAM-MD5, SCRAM-SHA-1)",
        ),
        case(
            "configured, not offered",
            imap().login().mechanism(AuthMechanism::Plain),
            REMOTE_TLS,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=LOGIN] hello
                C: z LOGOUT",
            "auth: mechanism PLAIN not offered (offered: LOGIN, LOGIN command)",
        ),
        case(
            "configured LOGIN is the command where the mechanism is not offered",
            imap().login().mechanism(AuthMechanism::Login),
            REMOTE_TLS,
            r#"
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello
                C: a1 LOGIN "probe" "hunter22"
                S: a1 OK in
                C: z LOGOUT"#,
            "",
        ),
        case(
            "not in the clear",
            imap().login(),
            REMOTE,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello
                C: z LOGOUT",
            "auth: credentials are not sent without TLS (allow_plaintext_auth permits it)",
        ),
        case(
            "in the clear where allowed",
            Target {
                allow_plaintext_auth: true,
                ..imap().login()
            },
            REMOTE,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: z LOGOUT",
            "",
        ),
        case(
            "to loopback always",
            imap().login(),
            LOOPBACK,
            "
                S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hello
                C: a1 AUTHENTICATE PLAIN $PLAIN
                S: a1 OK in
                C: z LOGOUT",
            "",
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn imap_starts_tls() {
    check(&[
        case(
            "what was learned in the clear is forgotten",
            imap().login().starttls(),
            REMOTE,
            "
                S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED AUTH=LOGIN] hello
                C: a1 STARTTLS
                S: a1 OK [CAPABILITY IMAP4rev1 AUTH=X] begin
                TLS
                C: a2 CAPABILITY
                S: * CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN
                S: a2 OK
                C: a3 AUTHENTICATE PLAIN $PLAIN
                S: a3 OK in
                C: z LOGOUT",
            "",
        ),
        case(
            "asked for the list first",
            imap().starttls(),
            REMOTE,
            "
                S: * OK hello
                C: a1 CAPABILITY
                S: * CAPABILITY IMAP4rev1 starttls
                S: a1 OK
                C: a2 STARTTLS
                S: a2 OK begin
                TLS
                C: a3 CAPABILITY
                S: * CAPABILITY IMAP4rev1
                S: a3 OK
                C: z LOGOUT",
            "",
        ),
        case(
            "not offered",
            imap().login().starttls(),
            REMOTE,
            "
                S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello
                C: z LOGOUT",
            "starttls: server does not offer STARTTLS",
        ),
        case(
            "refused",
            imap().login().starttls(),
            REMOTE,
            "
                S: * OK [CAPABILITY IMAP4rev1 STARTTLS] hello
                C: a1 STARTTLS
                S: a1 NO not now
                C: z LOGOUT",
            "starttls: refused: a1 NO not now",
        ),
        case(
            "ruled out by PREAUTH",
            imap().login().starttls(),
            REMOTE,
            "
                S: * PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] hello
                C: z LOGOUT",
            "starttls: server greets with PREAUTH, which rules STARTTLS out",
        ),
    ])
    .await;
}
