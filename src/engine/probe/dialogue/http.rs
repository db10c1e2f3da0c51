//! HTTP/1.1 (RFC 9110, RFC 9112): one GET, and the head of its response.
//!
//! ```text
//! C: GET /health HTTP/1.1                           RFC 9112 §3.2.1
//! C: Host: www.example.com                          RFC 9110 §7.2
//! C: User-Agent: nauthilus_backend/0.1.0            §10.1.5
//! C: Accept: */*                                    §12.5.1
//! C: Connection: close                              RFC 9112 §9.6
//! C: Authorization: Basic cHJvYmU6c2VjcmV0          RFC 7617 §2, where credentials are set
//! C:
//! S: HTTP/1.1 103 Early Hints                       RFC 9110 §15.2: not yet the response
//! S:
//! S: HTTP/1.1 200 OK                                §15.3, §15.4: 2xx and 3xx are good
//! S: Content-Length: 1048576
//! S:                                                the body is not read
//! ```

use std::net::IpAddr;

use super::encode::{self, Wiped, concat};
use super::sasl::Credentials;
use super::session::Session;
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::{AuthMechanism, Host, Protocol, TlsMode};

/// The connection ends with the response.
pub(super) const GOODBYE: &[u8] = b"";

const AGENT: &str = concat!("nauthilus_backend/", env!("CARGO_PKG_VERSION"));

/// Bytes that the head of a response seldom exceeds.
const HEAD_USUAL: usize = 2048;

/// Fields of a response's head, at most.
const FIELDS_MAX: usize = 128;

pub(super) async fn talk(s: &mut Session<'_>) -> Result<(), ProbeError> {
    if s.target().tls_mode == TlsMode::StartTls {
        s.enter(Stage::StartTls);
        return Err(s.fail("http has no STARTTLS"));
    }
    s.enter(Stage::Auth);
    let authorization = authorization(s)?;
    s.enter(Stage::Http);
    let request = request(s, authorization)?;
    s.send(&request).await?;
    while !response(s).await? {}
    Ok(())
}

/// The value of `Authorization`; sent without being asked for (RFC 7617 §2.2), since a
/// challenge would only cost a round trip.
fn authorization(s: &Session<'_>) -> Result<Option<Wiped>, ProbeError> {
    let Some(credentials) = Credentials::of(s)? else {
        return Ok(None);
    };
    match s.target().auth_mechanism {
        AuthMechanism::Auto | AuthMechanism::Basic => {}
        other => {
            let name = other.name();
            return Err(s.fail(format!("mechanism {name} is none of http (BASIC is)")));
        }
    }
    if credentials.user.contains(':') {
        // RFC 7617 §2: the server would take what follows for the password.
        return Err(s.fail("test_username contains a colon, which Basic cannot carry"));
    }
    let credentials = credentials.permitted(s)?;
    Ok(Some(encode::basic(credentials.user, credentials.password)))
}

fn request(s: &Session<'_>, authorization: Option<Wiped>) -> Result<Wiped, ProbeError> {
    let target = s.target();
    let host = host(s);
    // The configuration sees to both; a space or a line end here would forge a request.
    for (name, text) in [("request_uri", &*target.request_uri), ("host", &host)] {
        if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(s.fail(format!(
                "{name} is empty or has a space or control character"
            )));
        }
    }
    let head = format!(
        "GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\n\
         Connection: close\r\n",
        uri = target.request_uri,
    );
    Ok(match authorization {
        Some(basic) => concat(&[
            head.as_bytes(),
            b"Authorization: Basic ",
            &basic,
            b"\r\n\r\n",
        ]),
        None => concat(&[head.as_bytes(), b"\r\n"]),
    })
}

/// RFC 9110 §7.2: the name the server is known by, and the port unless it is the scheme's.
/// Under TLS that is the name it is verified by, so that certificate and site agree.
fn host(s: &Session<'_>) -> String {
    let target = s.target();
    let name = match (&target.tls_server_name, &target.host) {
        (Some(name), _) if s.tls() => name.clone(),
        (_, Host::Ip(IpAddr::V6(ip))) => format!("[{ip}]"),
        (_, host) => host.to_string(),
    };
    let mode = if s.tls() {
        TlsMode::Implicit
    } else {
        TlsMode::Plain
    };
    if target.port == Protocol::Http.default_port(mode) {
        name
    } else {
        format!("{name}:{}", target.port)
    }
}

/// Reads one head: whether it is that of the response, or an interim one (1xx).
async fn response(s: &mut Session<'_>) -> Result<bool, ProbeError> {
    s.read_line().await?;
    // What is not HTTP is seen at once; its end might never come.
    if !s.line().starts_with(b"HTTP/") {
        return Err(s.unexpected());
    }
    let mut head = Wiped::new(Vec::with_capacity(HEAD_USUAL));
    loop {
        head.extend_from_slice(s.line());
        head.extend_from_slice(b"\r\n");
        if s.line().is_empty() {
            break;
        }
        s.read_line().await?;
    }

    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = httparse::ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response(&mut response, &head);
    let code = match (parsed, response.code) {
        (Ok(httparse::Status::Complete(_)), Some(code)) => code,
        (Err(e), _) => {
            let first = head.split(|&b| b == b'\r').next().unwrap_or_default();
            let quoted = s.quote(first);
            return Err(s.fail(format!("malformed response ({e}): {quoted}")));
        }
        (Ok(_), _) => return Err(s.fail("malformed response")),
    };
    match code {
        // RFC 9110 §15.2.2: 101 answers an Upgrade, and none was asked for.
        100 | 102..=199 => Ok(false),
        200..=399 => Ok(true),
        _ => {
            let reason = s.quote(response.reason.unwrap_or_default().as_bytes());
            Err(s.fail(format!("status {code} {reason}").trim_end()))
        }
    }
}
