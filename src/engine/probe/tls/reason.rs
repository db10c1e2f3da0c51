//! The texts for failed handshakes, worded so that an operator can act on them.

use std::time::UNIX_EPOCH;

use openssl::error::{Error, ErrorStack};
use openssl::ssl::{self, SslRef};
use openssl::x509::{X509Ref, X509VerifyResult};

use super::notes::refused_leaf;
use super::times::not_after;
use super::want_of_memory;
use crate::engine::probe::error::{
    ProbeError, Stage, as_own_lack, io_text, is_want_of_means, quote,
};
use crate::engine::probe::proxy;
use crate::engine::probe::transport::READ_LIMIT_TEXT;
use crate::engine::target::{Host, Target, TlsMinVersion};
use crate::sys::tls_certificate_request;
use crate::sys::tls_errors::{self, tell_of_no_memory};

/// Alerts by which servers refuse a certificate, beside `certificate_required`: handshake_failure,
/// bad_certificate … certificate_unknown, unknown_ca, access_denied, decrypt_error.
const ALERTS_OF_REFUSED_CERTIFICATES: [i32; 9] =
    [1040, 1042, 1043, 1044, 1045, 1046, 1048, 1049, 1051];

/// How many alternative names of a certificate a reason lists.
const NAMES_SHOWN: usize = 4;

/// OpenSSL's library code for errors of the operating system (`openssl/err.h`).
const ERR_LIB_SYS: i32 = 2;

// OpenSSL's reason codes (`openssl/sslerr.h`), part of its stable ABI.
const SSL_R_WRONG_VERSION_NUMBER: i32 = 267;
const SSL_R_PACKET_LENGTH_TOO_LONG: i32 = 198;
const SSL_R_HTTP_REQUEST: i32 = 156;
const SSL_R_UNSUPPORTED_PROTOCOL: i32 = 258;
const SSL_R_UNEXPECTED_EOF_WHILE_READING: i32 = 294;
const SSL_R_ALERT_PROTOCOL_VERSION: i32 = 1070;
const SSL_R_ALERT_CERTIFICATE_REQUIRED: i32 = 1116;

/// Alerts by which servers answer bytes that are no handshake, for example a PROXY header:
/// unexpected_message, record_overflow, decode_error, internal_error (RFC 8446 §6). OpenSSL's
/// reason code is 1000 plus the alert's number.
const ALERTS_OF_GARBLED_INPUT: [i32; 4] = [1010, 1022, 1050, 1080];

/// The error for a context that could not be set up.
pub(super) fn setup(errors: &ErrorStack) -> ProbeError {
    before_handshake(errors, "cannot set up")
}

/// The error for a connection that could not be set up: in a context that is good, only memory can be missing.
pub(super) fn setup_of_connection(errors: &ErrorStack) -> ProbeError {
    ProbeError::new(
        Stage::Internal,
        format!("cannot set up: {}", first_line(errors)),
    )
}

/// The error for a failure before the first byte is sent: stage `internal` if the process has no
/// descriptor or memory left, else stage `tls`, because such a failure (a CA file that does not
/// parse) persists until the configuration is changed.
pub(super) fn before_handshake(errors: &ErrorStack, what: &str) -> ProbeError {
    let mut numbers = errors.errors().iter().filter_map(system_error);
    let stage = if numbers.any(is_want_of_means) || tell_of_no_memory(errors) || is_memory_short() {
        Stage::Internal
    } else {
        Stage::Tls
    };
    ProbeError::new(stage, format!("{what}: {}", first_line(errors)))
}

/// The `errno` in an OpenSSL error, if it is one of the operating system.
fn system_error(error: &Error) -> Option<i32> {
    // OpenSSL 3 does not return it from `reason_code`. All versions have it in the lowest 12 bits.
    let number = i32::try_from(error.code() & 0xfff).ok()?;
    (error.library_code() == ERR_LIB_SYS).then_some(number)
}

/// Whether this is a failure of OpenSSL to prepare a cipher or a digest of its own, which no peer
/// can cause.
fn is_local(error: &Error) -> bool {
    const LOCAL: [&str; 3] = ["init fail", "not able to copy ctx", "initialization error"];
    error.reason().is_some_and(|reason| LOCAL.contains(&reason))
}

/// Whether this process cannot have much more memory (`RLIMIT_AS`). OpenSSL does not always say
/// that it got none.
fn is_memory_short() -> bool {
    const PLENTY: usize = 1024 * 1024;
    Vec::<u8>::new().try_reserve_exact(PLENTY).is_err()
}

/// The first error of a stack, without file names and thread ids.
pub(super) fn first_line(errors: &ErrorStack) -> String {
    errors
        .errors()
        .first()
        .map_or_else(|| "OpenSSL gave no reason".to_owned(), error_text)
}

/// The text of an error. OpenSSL 3 has no texts for errors of the operating system.
fn error_text(error: &Error) -> String {
    match (error.reason(), system_error(error)) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(number)) => io_text(&std::io::Error::from_raw_os_error(number)),
        (None, None) => format!("OpenSSL error {:#x}", error.code()),
    }
}

/// The error for an expired certificate.
pub(super) fn expired(not_after: Option<i64>) -> ProbeError {
    let when = not_after
        .and_then(|at| u64::try_from(at).ok())
        .and_then(|at| UNIX_EPOCH.checked_add(std::time::Duration::from_secs(at)))
        .map(|at| format!(" (on {})", humantime::format_rfc3339_seconds(at)))
        .unwrap_or_default();
    ProbeError {
        certificate_end: not_after,
        ..ProbeError::new(Stage::Tls, format!("certificate has expired{when}"))
    }
}

/// `X509_V_ERR_OUT_OF_MEM` (`openssl/x509_vfy.h`).
const OUT_OF_MEMORY: i32 = 17;

/// The error for a failed handshake.
pub(super) fn handshake(error: &ssl::Error, ssl: &SslRef, target: &Target) -> ProbeError {
    if let Some(ours) = error.io_error().and_then(as_own_lack) {
        return ours;
    }
    let is_out_of_memory = ssl.verify_result().as_raw() == OUT_OF_MEMORY;
    let says_so = error
        .ssl_error()
        .is_some_and(|errors| tell_of_no_memory(errors) || errors.errors().iter().any(is_local));
    if is_out_of_memory || says_so || is_memory_short() || want_of_memory::explains(ssl) {
        return ProbeError::new(Stage::Internal, "OpenSSL is out of memory".to_owned());
    }
    ProbeError {
        certificate_end: refused_leaf(ssl).as_deref().and_then(not_after),
        ..ProbeError::new(Stage::Tls, handshake_text(error, ssl, target))
    }
}

fn handshake_text(error: &ssl::Error, ssl: &SslRef, target: &Target) -> String {
    let verdict = ssl.verify_result();
    if verdict != X509VerifyResult::OK && !target.tls_skip_verify {
        return certificate_text(verdict, ssl, target);
    }
    if let Some(io) = error.io_error() {
        return match io.kind() {
            std::io::ErrorKind::FileTooLarge => {
                format!("the server sent more than {READ_LIMIT_TEXT} during the handshake")
            }
            _ => format!(
                "{} during the handshake{}",
                io_text(io),
                proxy::hint(target)
            ),
        };
    }
    let Some(first) = error.ssl_error().and_then(|stack| stack.errors().first()) else {
        // If the peer closes the connection, OpenSSL's error stack is empty.
        return format!(
            "connection closed during the handshake{}",
            proxy::hint(target)
        );
    };
    match first.reason_code() {
        SSL_R_WRONG_VERSION_NUMBER | SSL_R_PACKET_LENGTH_TOO_LONG | SSL_R_HTTP_REQUEST => {
            format!(
                "the server does not speak TLS here (it answered in clear text){}",
                proxy::hint(target)
            )
        }
        SSL_R_UNSUPPORTED_PROTOCOL | SSL_R_ALERT_PROTOCOL_VERSION => {
            // A server that expects TLS only reads the PROXY header as a record of unknown version.
            let hint = if target.haproxy_v2 {
                proxy::hint(target)
            } else {
                ""
            };
            let oldest = match target.tls_min_version {
                TlsMinVersion::V1_2 => "1.2 or newer",
                TlsMinVersion::V1_3 => "1.3 (tls_min_version)",
            };
            format!("the server offers no TLS version of {oldest}{hint}")
        }
        SSL_R_UNEXPECTED_EOF_WHILE_READING => format!(
            "connection closed during the handshake{}",
            proxy::hint(target)
        ),
        SSL_R_ALERT_CERTIFICATE_REQUIRED if target.client_certificate.is_none() => {
            format!("the server requires a client certificate{KEYS_OF_CERTIFICATE}")
        }
        SSL_R_ALERT_CERTIFICATE_REQUIRED => {
            "the server requires a client certificate of another kind than that of tls_cert_file"
                .to_owned()
        }
        code if target.client_certificate.is_some()
            && tls_certificate_request::was_made(ssl)
            && ALERTS_OF_REFUSED_CERTIFICATES.contains(&code) =>
        {
            let reason = quote(error_text(first).as_bytes());
            format!("the server refuses the client certificate of tls_cert_file: {reason}")
        }
        code => {
            let hint = if wants_certificate(ssl, target) {
                ASKED_FOR_CERTIFICATE
            } else if ALERTS_OF_GARBLED_INPUT.contains(&code) {
                proxy::hint(target)
            } else {
                ""
            };
            let reason = quote(error_text(first).as_bytes());
            format!("handshake failed: {reason}{hint}")
        }
    }
}

/// Appended to the reason of a failure where the server asked for a client certificate and got
/// none.
pub(in crate::engine::probe) const ASKED_FOR_CERTIFICATE: &str =
    "; it asked for a client certificate (tls_cert_file, tls_key_file)";

const KEYS_OF_CERTIFICATE: &str = " (tls_cert_file, tls_key_file)";

/// Whether the server asked for a client certificate and none is configured.
pub(super) fn wants_certificate(ssl: &SslRef, target: &Target) -> bool {
    target.client_certificate.is_none() && tls_certificate_request::was_made(ssl)
}

/// The text for an I/O error of a stream, with or without TLS, after the handshake.
pub(in crate::engine::probe) fn stream_text(error: &std::io::Error) -> String {
    let under_tls = error.get_ref().and_then(|e| e.downcast_ref::<ssl::Error>());
    let Some(under_tls) = under_tls else {
        return io_text(error);
    };
    let first = under_tls.ssl_error().and_then(|s| s.errors().first());
    match first {
        // Many servers close without sending `close_notify`.
        None => "connection closed".to_owned(),
        Some(error) if error.reason_code() == SSL_R_UNEXPECTED_EOF_WHILE_READING => {
            "connection closed".to_owned()
        }
        Some(error) if error.reason_code() == SSL_R_ALERT_CERTIFICATE_REQUIRED => {
            "the server requires a client certificate".to_owned()
        }
        Some(error) => format!("TLS failed: {}", error_text(error)),
    }
}

fn certificate_text(verdict: X509VerifyResult, ssl: &SslRef, target: &Target) -> String {
    const CERT_HAS_EXPIRED: i32 = 10;
    let leaf = refused_leaf(ssl);
    match verdict.as_raw() {
        want_of_memory::HOSTNAME_MISMATCH | want_of_memory::IP_MISMATCH => {
            let wanted = match (&target.tls_server_name, &target.host) {
                (Some(name), _) => name.clone(),
                (None, Host::Name(name)) => name.to_string(),
                (None, Host::Ip(ip)) => ip.to_string(),
            };
            let names = leaf.as_deref().map(names_text).unwrap_or_default();
            format!("certificate is not valid for {wanted}{names}")
        }
        CERT_HAS_EXPIRED => match leaf.as_deref() {
            Some(leaf) => expired(not_after(leaf)).reason,
            None => "the certificate of an issuer in the chain has expired".to_owned(),
        },
        _ => format!(
            "certificate not trusted: {}",
            verdict.error_string().to_lowercase()
        ),
    }
}

/// `; it names mail.example.org, 192.0.2.1 and 3 more`
fn names_text(leaf: &X509Ref) -> String {
    let mut names = alternative_names(leaf);
    if names.is_empty() {
        return "; it names no host".to_owned();
    }
    let more = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    let list = names.join(", ");
    match more {
        0 => format!("; it names {list}"),
        more => format!("; it names {list} and {more} more"),
    }
}

/// The DNS names and addresses in a certificate, in printable ASCII.
pub(super) fn alternative_names(leaf: &X509Ref) -> Vec<String> {
    let names = leaf.subject_alt_names();
    // Names that cannot be read are none, and leave an error.
    tls_errors::forget();
    names
        .iter()
        .flatten()
        .filter_map(|name| {
            name.dnsname()
                .map(|dns| quote(dns.as_bytes()))
                .or_else(|| name.ipaddress().and_then(ip_text))
        })
        .collect()
}

fn ip_text(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
mod tests {
    use openssl::asn1::{Asn1Object, Asn1OctetString};
    use openssl::ssl::{SslContext, SslMethod};
    use openssl::x509::{X509, X509Extension};

    use super::*;

    #[test]
    fn names_that_cannot_be_read_leave_no_error() {
        let names = X509Extension::new_from_der(
            &Asn1Object::from_str("subjectAltName").unwrap(),
            false,
            &Asn1OctetString::new_from_bytes(b"no names").unwrap(),
        );
        let mut certificate = X509::builder().unwrap();
        certificate.append_extension(names.unwrap()).unwrap();
        assert_eq!(alternative_names(&certificate.build()), [""; 0]);
        assert!(ErrorStack::get().errors().is_empty());
    }

    #[test]
    fn the_systems_error_is_found_in_openssls() {
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        let errors = builder.set_ca_file("/nonexistent/ca.pem").unwrap_err();
        let numbers: Vec<i32> = errors.errors().iter().filter_map(system_error).collect();
        assert_eq!(numbers, [libc::ENOENT]);
        // A missing file is no shortage of resources: it may be missing for good.
        assert_eq!(setup(&errors).stage, Stage::Tls);
    }
}
