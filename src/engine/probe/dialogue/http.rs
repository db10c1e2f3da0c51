//! HTTP/1.1 (RFC 9110, RFC 9112): one request, and the head of its response.
//!
//! ```text
//! C: GET /health HTTP/1.1                           RFC 9112 §3.2.1
//! C: Host: www.example.com                          RFC 9110 §7.2
//! C: User-Agent: nauthilus_backend/0.2.0            §10.1.5
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
//!
//! A probe succeeds if the status is an expected one and the head is complete within the time and
//! the read limit of a session. The header fields are not parsed: browsers and proxies tolerate
//! nearly everything there, so an odd field is no reason to call a server dead.

use std::net::IpAddr;

use super::encode::{Wiped, basic, concat};
use super::sasl::Credentials;
use super::session::Session;
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::{AuthMechanism, ExpectedStatus, Host, Protocol, TlsMode};

/// None: the request says `Connection: close`, so the connection ends with the response.
pub(super) const CLOSING_COMMAND: &[u8] = b"";

const AGENT: &str = concat!("nauthilus_backend/", env!("CARGO_PKG_VERSION"));

pub(super) async fn run(s: &mut Session<'_>) -> Result<(), ProbeError> {
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

/// The credentials for `Authorization`, sent with the first request (RFC 7617 §2.2): waiting for
/// the server's challenge would cost a round trip.
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
        // RFC 7617 §2: the server would read the part after the colon as the password.
        return Err(s.fail("test_username contains a colon, which Basic cannot carry"));
    }
    let credentials = credentials.permitted(s)?;
    Ok(Some(basic(credentials.user, credentials.password)))
}

fn request(s: &Session<'_>, authorization: Option<Wiped>) -> Result<Wiped, ProbeError> {
    let target = s.target();
    let host = host(s);
    // The configuration refuses such values already. A space or a line end here would change the
    // request.
    for (name, text) in [("request_uri", &*target.request_uri), ("host", &host)] {
        if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(s.fail(format!(
                "{name} is empty or has a space or control character"
            )));
        }
    }
    let head = format!(
        "{method} {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\n\
         Connection: close\r\n",
        method = target.http_method.name(),
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

/// The value of `Host` (RFC 9110 §7.2): the server's name, and the port unless it is the scheme's
/// default. Under TLS it is the name that the certificate is verified for, so that the request goes
/// to the site that the certificate belongs to.
fn host(s: &Session<'_>) -> String {
    let target = s.target();
    if let Some(host) = &target.http_host {
        return host.to_string();
    }
    let name = match (&target.tls_server_name, &target.host) {
        (Some(name), _) if s.tls() => match name.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => name.clone(),
        },
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

/// Reads one head. Returns true for the final response, false for an interim one (1xx).
async fn response(s: &mut Session<'_>) -> Result<bool, ProbeError> {
    s.read_line().await?;
    let Some((code, reason)) = status_line(s.line()) else {
        return Err(s.unexpected());
    };
    let judged = judge(s, code, reason);
    if code != 400 {
        s.accepted();
    }
    loop {
        match s.skip_line().await {
            Ok(true) => {}
            Ok(false) => return judged,
            // A bad status explains more than a head that does not end.
            Err(_) if judged.is_err() => return judged,
            Err(error) => return Err(error),
        }
    }
}

/// Returns true for an expected final status and false for an interim one; any other is an error.
fn judge(s: &Session<'_>, code: u16, reason: &[u8]) -> Result<bool, ProbeError> {
    let expected = &s.target().expected_status;
    match code {
        // RFC 9110 §15.2.2: 101 is not interim here, since the request asks for no upgrade.
        100 | 102..=199 => return Ok(false),
        _ if expected.contains(code) => return Ok(true),
        _ => {}
    }
    let said = format!("status {code} {}", s.quote(reason));
    let said = said.trim_end();
    let is_usual = *expected == ExpectedStatus::usual();
    let failure = s.fail(if is_usual {
        said.to_owned()
    } else {
        format!("{said} (expected {expected})")
    });
    Err(ProbeError {
        login_refused: code == 401 && s.target().test_username.is_some(),
        ..failure
    })
}

/// The code and the reason phrase of a status line (RFC 9112 §4). As lenient as nginx and browsers:
/// any version, several spaces before the code, no phrase, and a suffix that some servers append to
/// the code after a dot (`403.1`).
fn status_line(line: &[u8]) -> Option<(u16, &[u8])> {
    let rest = line.strip_prefix(b"HTTP/")?;
    let (version, rest) = rest.split_at(rest.iter().position(|&b| b == b' ')?);
    let point = version.iter().position(|&b| b == b'.')?;
    let (major, minor) = (&version[..point], &version[point + 1..]);
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if !is_number(major) || major.starts_with(b"0") || !is_number(minor) {
        return None;
    }
    let rest = &rest[rest.iter().position(|&b| b != b' ')?..];
    let (code, reason) = rest.split_at_checked(3)?;
    if !is_number(code) || !matches!(reason.first(), None | Some(b' ' | b'.')) {
        return None;
    }
    let code = code
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some((code, reason.trim_ascii_start()))
}
