//! ManageSieve (RFC 5804).

use nauthilus_backend::engine::target::{AuthMechanism, Protocol, Target};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{With, target};

fn sieve() -> Target {
    target(Protocol::Sieve)
}

#[tokio::test(start_paused = true)]
async fn sieve_in_every_form() {
    check(&[
        case(
            "without credentials it is asked once more",
            sieve(),
            REMOTE,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: CAPABILITY
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: LOGOUT
                S: OK
                EOF"#,
            "",
        ),
        case(
            "values of other kinds than RFC 5804 has, and several of them",
            sieve().login(),
            REMOTE_TLS,
            r#"
                S: "MAXREDIRECTS" 4
                S: "SASL" "PLAIN" "LOGIN"
                S: "X-LIST" ("a" "b")
                S: OK
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: OK
                C: LOGOUT"#,
            "",
        ),
        case(
            "PLAIN",
            sieve().login(),
            REMOTE_TLS,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "LOGIN plain"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: OK (SASL "cnNwYXV0aA==") "in"
                C: LOGOUT"#,
            "",
        ),
        case(
            "every string a literal",
            sieve().login(),
            REMOTE_TLS,
            r#"
                S: {14}
                S: IMPLEMENTATION {4}
                S: OK
                S:
                S: {4+}
                S: SASL {5}
                S: PLAIN
                S: ok (TAG {2}
                S: "() {3}
                S: hi!
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: ok
                C: LOGOUT"#,
            "",
        ),
        case(
            "LOGIN, prompts quoted and literal",
            sieve().login(),
            REMOTE_TLS,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "LOGIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: AUTHENTICATE "LOGIN"
                S: "VXNlcm5hbWU6"
                C: "cHJvYmU="
                S: {12}
                S: UGFzc3dvcmQ6
                C: "aHVudGVyMjI="
                S: OK
                C: LOGOUT"#,
            "",
        ),
        case(
            "PLAIN too long for a quoted string",
            sieve().user("u", &"x".repeat(1000)),
            REMOTE_TLS,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: AUTHENTICATE "PLAIN" {1340+}
                C: $PLAIN
                S: OK
                C: LOGOUT"#,
            "",
        ),
        case(
            "STARTTLS: the list comes by itself",
            sieve().login().starttls(),
            REMOTE,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" ""
                S: "StartTLS"
                S: OK
                C: STARTTLS
                S: OK
                TLS
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: OK
                C: LOGOUT"#,
            "",
        ),
        case(
            "STARTTLS not offered",
            sieve().starttls(),
            REMOTE,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: LOGOUT"#,
            "starttls: server does not offer STARTTLS",
        ),
        case(
            "STARTTLS refused",
            sieve().starttls(),
            REMOTE,
            r#"
                S: "STARTTLS"
                S: OK
                C: STARTTLS
                S: NO "not now"
                C: LOGOUT"#,
            "starttls: refused: NO \"not now\"",
        ),
        case(
            "rejected, in a literal",
            sieve().login(),
            REMOTE_TLS,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: AUTHENTICATE "PLAIN" "$PLAIN"
                S: NO (AUTH-TOO-WEAK) {3}
                S: no!
                C: LOGOUT"#,
            "auth: refused: NO (AUTH-TOO-WEAK) {3} no!",
        ),
        case(
            "refuses to serve",
            sieve(),
            REMOTE,
            r#"
                S: BYE (TRYLATER) "busy""#,
            "greeting: refused: BYE (TRYLATER) \"busy\"",
        ),
        case(
            "no list",
            sieve(),
            REMOTE,
            "
                S: OK
                C: LOGOUT",
            "greeting: OK without a list of capabilities",
        ),
        case(
            "another protocol",
            sieve(),
            REMOTE,
            "
                S: 220 mx ESMTP",
            "greeting: unexpected reply: 220 mx ESMTP",
        ),
        case(
            "an open quote",
            sieve(),
            REMOTE,
            r#"
                S: "IMPLEMENTATION"#,
            "greeting: unexpected reply: \"IMPLEMENTATION",
        ),
        case(
            "configured, not offered",
            sieve().login().mechanism(AuthMechanism::Login),
            REMOTE_TLS,
            r#"
                S: "IMPLEMENTATION" "x"
                S: "SASL" "PLAIN"
                S: "SIEVE" "vacation"
                S: OK "ready"
                C: LOGOUT"#,
            "auth: mechanism LOGIN not offered (offered: PLAIN)",
        ),
    ])
    .await;
}
