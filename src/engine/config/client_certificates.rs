//! The certificates that probes show to servers, with their keys. They are read and checked when a
//! configuration names them, and kept as PEM text: `authorities.rs` says why.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslContext, SslContextBuilder, SslMethod};
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::super::target::{ClientCertificate, Target};
use super::pem_file::{self, Unread};
use super::text::shown_path;
use crate::sys::tls_certificates::{self, KeyProblem};
use crate::sys::{tls_errors, tls_library};

/// The content of the files with client certificates when the configuration was made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientCertificates(Arc<HashMap<ClientCertificate, Arc<CertificatePem>>>);

/// A certificate and its key, as PEM text: OpenSSL objects may not be used after a fork.
#[derive(PartialEq, Eq)]
pub struct CertificatePem {
    chain: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

/// Shows the paths only.
impl fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl ClientCertificates {
    /// Reads what the handshakes of `targets` need.
    ///
    /// # Errors
    /// `backend_servers[2].tls_key_file: …` for a file that holds no certificate or no key, or a
    /// key of another certificate.
    pub fn of(targets: &[Arc<Target>]) -> Result<Self, String> {
        let mut found = HashMap::new();
        for (at, target) in targets.iter().enumerate() {
            let Some(files) = &target.client_certificate else {
                continue;
            };
            if found.contains_key(&**files) {
                continue;
            }
            let placed = |key, problem| format!("backend_servers[{}].{key}: {problem}", at + 1);
            tls_library::usable().map_err(|problem| placed("tls_cert_file", problem))?;
            let pem = read(files).map_err(|(key, unread)| placed(key, unread.problem))?;
            found.insert(ClientCertificate::clone(files), Arc::new(pem));
        }
        Ok(Self(Arc::new(found)))
    }

    /// Whether a target names these files.
    pub fn has_files(&self, files: &ClientCertificate) -> bool {
        self.0.contains_key(files)
    }

    /// The content of the files when the configuration was made. If no target had named them, they are read now.
    ///
    /// # Errors
    /// The key of the file that cannot be used, and why.
    pub fn of_files(
        &self,
        files: &ClientCertificate,
    ) -> Result<Arc<CertificatePem>, (&'static str, Unread)> {
        match self.0.get(files) {
            Some(pem) => Ok(pem.clone()),
            None => read(files).map(Arc::new),
        }
    }
}

impl CertificatePem {
    /// Makes connections of a context show the certificate.
    ///
    /// # Errors
    /// OpenSSL refuses the certificate, for example because its key is too short for the security level.
    pub fn install(&self, builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let mut chain = tls_certificates::from_pem(&self.chain)?.into_iter();
        let Some(leaf) = chain.next() else {
            return Ok(());
        };
        let key = tls_certificates::key_from_pem(&self.key);
        let key = key.map_err(KeyProblem::into_errors)?;
        install(builder, &leaf, chain, &key)
    }
}

fn install(
    builder: &mut SslContextBuilder,
    leaf: &X509,
    issuers: impl Iterator<Item = X509>,
    key: &PKey<Private>,
) -> Result<(), ErrorStack> {
    builder.set_certificate(leaf)?;
    for issuer in issuers {
        builder.add_extra_chain_cert(issuer)?;
    }
    builder.set_private_key(key)?;
    builder.check_private_key()
}

/// The mistakes in both files, for a command that reports all mistakes.
pub(super) fn mistakes(files: &ClientCertificate) -> Vec<(&'static str, Unread)> {
    let Err((key, unread)) = read(files) else {
        return Vec::new();
    };
    // `read` stops at a certificate that cannot be used, so the key file is read here.
    let of_key = (key == CERT_FILE).then(|| read_key(files).err()).flatten();
    std::iter::once((key, unread)).chain(of_key).collect()
}

const CERT_FILE: &str = "tls_cert_file";
const KEY_FILE: &str = "tls_key_file";

/// The content of a file; or the configuration key that names the file, and why the file cannot be used.
type OfFile<T> = Result<T, (&'static str, Unread)>;

fn read_key(files: &ClientCertificate) -> OfFile<(Zeroizing<Vec<u8>>, PKey<Private>)> {
    let of_key = |unread: Unread| (KEY_FILE, unread.in_file(&files.key_file));
    let key = pem_file::read(&files.key_file).map_err(of_key)?;
    let private = tls_errors::apart(|| tls_certificates::key_from_pem(&key))
        .map_err(|problem| of_key(key_problem(&problem, &key).into()))?;
    Ok((key, private))
}

/// Reads both files and checks what can be checked without a server. An error has the configuration key
/// of the file that cannot be used.
fn read(files: &ClientCertificate) -> Result<CertificatePem, (&'static str, Unread)> {
    let ClientCertificate {
        cert_file,
        key_file,
    } = files;
    let of_cert = |unread: Unread| (CERT_FILE, unread.in_file(cert_file));
    let of_key = |unread: Unread| (KEY_FILE, unread.in_file(key_file));
    let chain = pem_file::read(cert_file).map_err(of_cert)?;
    let mut certificates = pem_file::certificates(&chain).map_err(of_cert)?.into_iter();
    let (key, private) = read_key(files)?;
    if let Some(leaf) = certificates.next() {
        let is_of_another = || {
            let public = leaf.public_key();
            public.is_ok_and(|public| !public.public_eq(&private))
        };
        if tls_errors::apart(is_of_another) {
            let problem = format!(
                "the key of the certificate in tls_cert_file ({}) expected, got another one",
                shown_path(cert_file)
            );
            return Err(of_key(problem.into()));
        }
        let is_usable = || {
            let mut builder = SslContext::builder(SslMethod::tls_client())?;
            install(&mut builder, &leaf, certificates, &private)
        };
        tls_errors::apart(is_usable).map_err(|errors: ErrorStack| {
            let reason = pem_file::first_reason(&errors);
            of_cert(format!("OpenSSL refuses the certificate: {reason}").into())
        })?;
    }
    Ok(CertificatePem { chain, key })
}

/// What is wrong with a private key. The text repeats no part of the key.
fn key_problem(problem: &KeyProblem, pem: &[u8]) -> String {
    let got = match (problem, pem) {
        (KeyProblem::Encrypted, _) => {
            return "a private key without a passphrase expected, got an encrypted one \
                    (openssl pkey -in FILE -out FILE takes the passphrase off)"
                .to_owned();
        }
        (KeyProblem::Unreadable(errors), pem) if pem_file::has(pem, b"PRIVATE KEY-----") => {
            let reason = pem_file::first_reason(errors);
            return format!("the private key in it cannot be read: {reason}");
        }
        (_, []) => "an empty file",
        (_, pem) if pem_file::has(pem, b"CERTIFICATE-----") => "a certificate",
        _ => "a file without any",
    };
    format!("a private key in PEM form expected, got {got}")
}

#[cfg(test)]
mod tests {
    use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
    use openssl::hash::MessageDigest;
    use openssl::rsa::Rsa;
    use openssl::x509::X509Extension;

    use super::*;

    /// OpenSSL accepts a certificate whose names cannot be read, and leaves an error.
    #[test]
    fn reading_a_certificate_leaves_the_hosts_errors_and_none_of_its_own() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(2).unwrap();
        certificate.set_pubkey(&key).unwrap();
        let at = |days| Asn1Time::days_from_now(days).unwrap();
        certificate.set_not_before(&at(0)).unwrap();
        certificate.set_not_after(&at(1)).unwrap();
        let names = X509Extension::new_from_der(
            &Asn1Object::from_str("subjectAltName").unwrap(),
            false,
            &Asn1OctetString::new_from_bytes(b"no names").unwrap(),
        );
        certificate.append_extension(names.unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let folder = std::env::temp_dir();
        let file = |kind| folder.join(format!("nb-client-{kind}-{}", std::process::id()));
        let files = ClientCertificate {
            cert_file: file("cert"),
            key_file: file("key"),
        };
        std::fs::write(&files.cert_file, certificate.build().to_pem().unwrap()).unwrap();
        let pem = key.private_key_to_pem_pkcs8().unwrap();
        std::fs::write(&files.key_file, pem).unwrap();
        let of_host = X509::from_der(b"").unwrap_err();
        of_host.put();
        let was_read = read(&files).is_ok();
        for file in [&files.cert_file, &files.key_file] {
            std::fs::remove_file(file).unwrap();
        }
        assert!(was_read);
        let codes = |errors: &ErrorStack| -> Vec<_> {
            errors.errors().iter().map(|error| error.code()).collect()
        };
        assert_eq!(codes(&ErrorStack::get()), codes(&of_host));
    }
}
