//! HTTP (RFC 9110, 9112, 7617).

use nauthilus_backend::engine::target::{AuthMechanism, Host, Protocol, Target};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{LOOPBACK, With, target};

fn http() -> Target {
    target(Protocol::Http)
}

fn at(host: Host, port: u16) -> Target {
    Target {
        host,
        port,
        ..http()
    }
}

#[tokio::test(start_paused = true)]
async fn http_in_every_form() {
    check(&[
        case(
            "200, body not waited for",
            http(),
            REMOTE,
            r#"
                $GET
                S: HTTP/1.1 200 OK
                S: Content-Length: 1000
                S! \r\n"#,
            "",
        ),
        case(
            "204 without a reason",
            http(),
            REMOTE,
            r#"
                $GET
                S: HTTP/1.0 204
                S! \r\n"#,
            "",
        ),
        case(
            "302, bare LF",
            http(),
            REMOTE,
            r#"
                $GET
                S! HTTP/1.1 302 Found\nLocation: /x\n\n"#,
            "",
        ),
        case(
            "1xx first, folded and spaced fields",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 103 Early
                S: Link: a
                S:
                S: HTTP/1.1 100 Continue
                S:
                S: HTTP/1.1 200 OK
                S: A: b
                S:  c
                S: D : e
                S:",
            "",
        ),
        case(
            "chunked body already there",
            http(),
            REMOTE,
            r"
                $GET
                S! HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "",
        ),
        case(
            "404",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 404 Not Found
                S:",
            "http: status 404 Not Found",
        ),
        case(
            "503 without a reason",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 503 
                S:",
            "http: status 503",
        ),
        case(
            "101 unasked",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 101 Switching Protocols
                S:",
            "http: status 101 Switching Protocols",
        ),
        case(
            "another protocol",
            http(),
            REMOTE,
            "
                $GET
                S: SSH-2.0-OpenSSH_9.2",
            "http: unexpected reply: SSH-2.0-OpenSSH_9.2",
        ),
        case(
            "another version",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/2.0 200 OK
                S:",
            "http: malformed response (invalid HTTP version): HTTP/2.0 200 OK",
        ),
        case(
            "no field",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 200 OK
                S: : x
                S:",
            "http: malformed response (invalid header name): HTTP/1.1 200 OK",
        ),
        case(
            "Basic",
            Target {
                request_uri: "/health?x=1".into(),
                ..http().login()
            },
            REMOTE_TLS,
            "
                C: GET /health?x=1 HTTP/1.1
                C: Host: 127.0.0.1:80
                $FIELDS
                C: Authorization: Basic $BASIC
                C:
                S: HTTP/1.1 200 OK
                S:",
            "",
        ),
        case(
            "Basic refused",
            http().login().mechanism(AuthMechanism::Basic),
            LOOPBACK,
            "
                C: GET / HTTP/1.1
                C: Host: 127.0.0.1
                $FIELDS
                C: Authorization: Basic $BASIC
                C:
                S: HTTP/1.1 401 cHJvYmU6aHVudGVyMjI=
                S:",
            "http: status 401 [redacted]",
        ),
        case(
            "Basic not in the clear",
            http().login(),
            REMOTE,
            "",
            "auth: credentials are not sent without TLS (allow_plaintext_auth permits it)",
        ),
        case(
            "Basic cannot carry a colon",
            http().user("a:b", "c"),
            REMOTE_TLS,
            "",
            "auth: test_username contains a colon, which Basic cannot carry",
        ),
        case(
            "not a mechanism of http",
            http().login().mechanism(AuthMechanism::Plain),
            REMOTE_TLS,
            "",
            "auth: mechanism PLAIN is none of http (BASIC is)",
        ),
        case(
            "no STARTTLS",
            http().starttls(),
            REMOTE,
            "",
            "starttls: http has no STARTTLS",
        ),
        case(
            "IPv6 and a port",
            at(Host::Ip("2001:db8::1".parse().unwrap()), 8080),
            REMOTE,
            "
                C: GET / HTTP/1.1
                C: Host: [2001:db8::1]:8080
                $FIELDS
                C:
                S: HTTP/1.1 200 OK
                S:",
            "",
        ),
        case(
            "443 under TLS",
            at(Host::Name("www.example.com".into()), 443),
            REMOTE_TLS,
            "
                C: GET / HTTP/1.1
                C: Host: www.example.com
                $FIELDS
                C:
                S: HTTP/1.1 200 OK
                S:",
            "",
        ),
        case(
            "the name that is verified",
            Target {
                tls_server_name: Some("www.example.com".into()),
                port: 443,
                ..http()
            },
            REMOTE_TLS,
            "
                C: GET / HTTP/1.1
                C: Host: www.example.com
                $FIELDS
                C:
                S: HTTP/1.1 200 OK
                S:",
            "",
        ),
        case(
            "a forged request",
            Target {
                request_uri: "/ HTTP/1.1\r\nX: y".into(),
                ..http()
            },
            REMOTE,
            "",
            "http: request_uri is empty or has a space or control character",
        ),
    ])
    .await;
}
