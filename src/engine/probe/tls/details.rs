//! The parameters of a handshake and the server's certificate, for a person to read.

use openssl::nid::Nid;
use openssl::ssl::SslRef;
use openssl::x509::{X509NameRef, X509Ref, X509VerifyResult};

use super::notes::refused_leaf;
use super::reason;

/// The parameters of a handshake and the server's certificate. All texts are the peer's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsDetails {
    /// `TLSv1.3`.
    pub version: String,
    /// `TLS_AES_256_GCM_SHA384`; empty where the handshake failed before one was chosen.
    pub cipher: String,
    /// None where the server has shown none.
    pub certificate: Option<CertificateDetails>,
    /// Why the certificate was not trusted; none where it was, or where it was not verified.
    pub distrust: Option<String>,
}

/// A server's own certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateDetails {
    /// `CN=mail.example.org, O=Example`.
    pub subject: String,
    pub issuer: String,
    /// The DNS names and addresses that it is valid for.
    pub names: Vec<String>,
    /// In seconds since 1970.
    pub not_before: Option<i64>,
    /// In seconds since 1970.
    pub not_after: Option<i64>,
}

/// The details of a connection whose handshake has ended, well or not.
pub(super) fn of(ssl: &SslRef) -> TlsDetails {
    let leaf = ssl.peer_certificate().or_else(|| refused_leaf(ssl));
    let verdict = ssl.verify_result();
    TlsDetails {
        version: ssl.version_str().to_owned(),
        cipher: ssl
            .current_cipher()
            .map_or_else(String::new, |cipher| cipher.name().to_owned()),
        certificate: leaf.as_deref().map(certificate),
        distrust: (verdict != X509VerifyResult::OK).then(|| verdict.error_string().to_owned()),
    }
}

fn certificate(leaf: &X509Ref) -> CertificateDetails {
    CertificateDetails {
        subject: name_text(leaf.subject_name()),
        issuer: name_text(leaf.issuer_name()),
        names: reason::alternative_names(leaf),
        not_before: reason::unix_time(leaf.not_before()),
        not_after: reason::not_after(leaf),
    }
}

/// `CN=mail.example.org, O=Example`
fn name_text(name: &X509NameRef) -> String {
    let entries = name.entries().map(|entry| {
        let nid = entry.object().nid();
        let key = match nid {
            Nid::UNDEF => entry.object().to_string(),
            nid => nid.short_name().unwrap_or("?").to_owned(),
        };
        let value = entry.data().to_string();
        format!("{key}={}", value.as_deref().unwrap_or("?"))
    });
    let entries: Vec<String> = entries.collect();
    entries.join(", ")
}
