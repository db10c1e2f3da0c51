//! What a handshake shows: its parameters and the server's certificates, for a person to read.

use openssl::nid::Nid;
use openssl::ssl::SslRef;
use openssl::x509::{X509NameRef, X509Ref, X509VerifyResult};

use super::notes::refused_leaf;
use super::reason;
use super::times;
use crate::engine::tls_details::{CertificateDetails, TlsDetails};
use crate::sys::tls_group;

/// The most certificates and names that are looked at: a peer decides how many there are.
const CERTIFICATES_MAX: usize = 8;
const NAMES_MAX: usize = 64;

/// The details of a connection whose handshake has ended, well or not.
pub(super) fn of(ssl: &SslRef) -> TlsDetails {
    let verdict = ssl.verify_result();
    let sent = ssl.peer_cert_chain().filter(|chain| !chain.is_empty());
    let (certificates, chain) = match sent {
        Some(sent) => (
            sent.len(),
            sent.iter()
                .take(CERTIFICATES_MAX)
                .map(certificate)
                .collect(),
        ),
        // A resumed session has no chain, nor has one whose certificate was refused.
        None => {
            let leaf = ssl.peer_certificate().or_else(|| refused_leaf(ssl));
            let chain: Vec<_> = leaf.iter().map(|leaf| certificate(leaf)).collect();
            (chain.len(), chain)
        }
    };
    TlsDetails {
        at: times::unix_now(),
        version: ssl.version_str().to_owned(),
        cipher: ssl
            .current_cipher()
            .map_or_else(String::new, |cipher| cipher.name().to_owned()),
        group: tls_group::group(ssl),
        certificates,
        chain,
        distrust: (verdict != X509VerifyResult::OK).then(|| verdict.error_string().to_owned()),
    }
}

fn certificate(certificate: &X509Ref) -> CertificateDetails {
    let mut names = reason::alternative_names(certificate);
    names.truncate(NAMES_MAX);
    CertificateDetails {
        subject: name_text(certificate.subject_name()),
        issuer: name_text(certificate.issuer_name()),
        names,
        not_before: times::unix_time(certificate.not_before()),
        not_after: times::not_after(certificate),
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
