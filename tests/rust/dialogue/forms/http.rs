//! HTTP (RFC 9110, 9112, 7617).

use nauthilus_backend::engine::target::{
    AuthMechanism, ExpectedStatus, Host, HttpMethod, Protocol, Target,
};

use super::{REMOTE, REMOTE_TLS, case, check};
use crate::support::{Answering, LOOPBACK, With, talk_to, target};

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
            "a status line that is none",
            http(),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 200OK",
            "http: unexpected reply: HTTP/1.1 200OK",
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

/// Responses that browsers and nginx accept. The verdict depends on the status line alone, and on
/// the head ending within the bytes that are read.
#[tokio::test(start_paused = true)]
async fn a_good_status_is_good_whatever_the_fields_are() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(5_000));
    for (name, response) in [
        ("no colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"),
        ("no name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n"),
        ("a space in a name", "HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n"),
        ("UTF-8 in a name", "HTTP/1.1 200 OK\r\nGrüße: z\r\n\r\n"),
        (
            "control bytes",
            "HTTP/1.1 200 OK\r\nA: \x01\x08\x1b\x7f\0\r\n\r\n",
        ),
        ("a bare CR", "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n"),
        ("a line of CRs", "HTTP/1.1 200 OK\r\n\r\r\r\n\r\n"),
        ("a folded line first", "HTTP/1.1 200 OK\r\n folded\r\n\r\n"),
        ("bare LFs", "HTTP/1.1 200 OK\nA: b\n\n"),
        ("a long field", &long),
        ("many fields", &many),
        ("another version", "HTTP/2.0 200 OK\r\n\r\n"),
        ("spaces before the code", "HTTP/1.1   200 OK\r\n\r\n"),
        ("a code with a point", "HTTP/1.1 200.1 OK\r\n\r\n"),
        ("no reason", "HTTP/1.1 200\r\n\r\n"),
        ("a reason in UTF-8", "HTTP/1.1 200 \u{1f44d}\r\n\r\n"),
    ] {
        for chunk in [usize::MAX, 1] {
            let verdict = answered(&http(), response, chunk).await;
            assert_eq!(verdict, "", "{name}, {chunk} at a time");
        }
    }
    let beyond = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(70_000));
    for (response, reason) in [
        ("ICY 200 OK\r\n\r\n", "unexpected reply: ICY 200 OK"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "unexpected empty line"),
        ("HTTP/ 200 OK\r\n\r\n", "unexpected reply: HTTP/ 200 OK"),
        (
            "HTTP/1.1 2000 OK\r\n\r\n",
            "unexpected reply: HTTP/1.1 2000 OK",
        ),
        ("HTTP/1.1 20\r\n\r\n", "unexpected reply: HTTP/1.1 20"),
        ("HTTP/1.1 099 x\r\n\r\n", "status 99 x"),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", "connection closed"),
        (
            "HTTP/1.1 200 OK\r\nA:",
            "connection closed in the middle of a line",
        ),
        (&beyond, "the server sent more than 64 KiB"),
    ] {
        for chunk in [usize::MAX, 1] {
            let verdict = answered(&http(), response, chunk).await;
            assert_eq!(verdict, format!("http: {reason}"), "{chunk} at a time");
        }
    }
}

/// The reason that a response gives, empty for a good one.
async fn answered(target: &Target, response: &str, chunk: usize) -> String {
    let peer = Answering {
        text: response.into(),
        at: 0,
        chunk,
    };
    talk_to(peer, target)
        .await
        .map_or_else(|e| e.to_string(), |()| String::new())
}

#[tokio::test(start_paused = true)]
async fn a_request_and_the_status_it_expects() {
    let expecting = |ranges: &[std::ops::RangeInclusive<u16>]| Target {
        expected_status: ExpectedStatus::new(ranges.to_vec()),
        ..http()
    };
    check(&[
        case(
            "HEAD, with a query",
            Target {
                http_method: HttpMethod::Head,
                request_uri: "/health?deep=1&x=%20".into(),
                ..http()
            },
            REMOTE,
            "
                C: HEAD /health?deep=1&x=%20 HTTP/1.1
                C: Host: 127.0.0.1
                $FIELDS
                C:
                S: HTTP/1.1 200 OK
                S: Content-Length: 1000
                S:",
            "",
        ),
        case(
            "the configured Host, whatever the port",
            Target {
                http_host: Some("www.example.org".into()),
                port: 8080,
                ..http()
            },
            REMOTE,
            "
                C: GET / HTTP/1.1
                C: Host: www.example.org
                $FIELDS
                C:
                S: HTTP/1.1 200 OK
                S:",
            "",
        ),
        case(
            "a name to verify that is an IPv6 address",
            Target {
                tls_server_name: Some("2001:db8::1".into()),
                port: 8443,
                ..http()
            },
            REMOTE_TLS,
            "
                C: GET / HTTP/1.1
                C: Host: [2001:db8::1]:8443
                $FIELDS
                C:
                S: HTTP/1.1 200 OK
                S:",
            "",
        ),
        case(
            "a redirect that is not expected",
            expecting(&[200..=299]),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 302 Found
                S: Location: /login
                S:",
            "http: status 302 Found (expected 200-299)",
        ),
        case(
            "one of several ranges",
            expecting(&[200..=204, 401..=401, 503..=503]),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 503 Maintenance
                S:",
            "",
        ),
        case(
            "an interim response is not the one that is expected",
            expecting(&[204..=204]),
            REMOTE,
            "
                $GET
                S: HTTP/1.1 103 Early
                S:
                S: HTTP/1.1 200 OK
                S:",
            "http: status 200 OK (expected 204)",
        ),
    ])
    .await;
}
