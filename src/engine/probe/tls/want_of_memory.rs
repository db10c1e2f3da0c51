//! Whether OpenSSL refused a certificate only because it got no memory.
//!
//! Where it gets none for a public key, it calls the key too weak; where it gets none for an
//! issuer's certificate, it calls that missing; where it gets none for the names of a certificate, it finds
//! none. So what it refused is looked at once more.

use openssl::ssl::SslRef;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509Ref, X509StoreContext};

use super::names::expect_name;
use super::notes::{of_connection, refused_chain};
use crate::sys::tls_errors;

/// `X509_V_ERR_HOSTNAME_MISMATCH` (`openssl/x509_vfy.h`).
pub(super) const HOSTNAME_MISMATCH: i32 = 62;
/// `X509_V_ERR_IP_ADDRESS_MISMATCH` (`openssl/x509_vfy.h`).
pub(super) const IP_MISMATCH: i32 = 64;
/// `X509_V_ERR_EE_KEY_TOO_SMALL` (`openssl/x509_vfy.h`).
const KEY_TOO_SMALL: i32 = 66;

/// Errors of the chain that want of memory leads to, and that depend on nothing but the chain and
/// the trusted certificates: unspecified, the issuer is missing, its key cannot be read, a signature
/// is wrong, a certificate is signed by itself, the leaf's signature cannot be verified.
const OF_CHAIN: [i32; 8] = [1, 2, 6, 7, 18, 19, 20, 21];

/// The bits of security that OpenSSL's levels ask for (`SSL_CTX_set_security_level`).
const BITS: [u32; 6] = [0, 80, 112, 128, 192, 256];

/// Whether the handshake failed for a certificate in which the fault is not found again.
pub(super) fn explains(ssl: &SslRef) -> bool {
    let is_explained = is_not_found_again(ssl);
    // A certificate that is refused once more leaves the errors of its verification.
    tls_errors::forget();
    is_explained
}

fn is_not_found_again(ssl: &SslRef) -> bool {
    match ssl.verify_result().as_raw() {
        KEY_TOO_SMALL => has_strong_key(ssl).unwrap_or(false),
        HOSTNAME_MISMATCH | IP_MISMATCH => {
            let leaf = refused_chain(ssl).into_iter().next();
            let is_named = |leaf: X509| has_name(&leaf, &of_connection(ssl)?.name);
            leaf.and_then(is_named).unwrap_or(false)
        }
        code if OF_CHAIN.contains(&code) => is_trusted(ssl).unwrap_or(false),
        _ => false,
    }
}

fn has_strong_key(ssl: &SslRef) -> Option<bool> {
    let key = read_anew(refused_chain(ssl).first()?)?.public_key().ok()?;
    let level = usize::try_from(ssl.security_level()).ok()?;
    Some(key.security_bits() >= *BITS.get(level)?)
}

/// Whether the leaf has this name, whoever has signed it and whenever it is valid.
fn has_name(leaf: &X509Ref, name: &str) -> Option<bool> {
    let leaf = read_anew(leaf)?;
    let mut param = X509VerifyParam::new().ok()?;
    expect_name(&mut param, name).ok()?;
    let flags = X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::NO_CHECK_TIME;
    param.set_flags(flags).ok()?;
    let mut store = X509StoreBuilder::new().ok()?;
    store.set_param(&param).ok()?;
    store.add_cert(leaf.clone()).ok()?;
    let mut context = X509StoreContext::new().ok()?;
    let none = Stack::new().ok()?;
    let verified = context.init(&store.build(), &leaf, &none, |context| {
        context.verify_cert()
    });
    verified.ok()
}

fn is_trusted(ssl: &SslRef) -> Option<bool> {
    let mut chain = Stack::new().ok()?;
    let refused = refused_chain(ssl);
    for certificate in &refused {
        chain.push(read_anew(certificate)?).ok()?;
    }
    let leaf = read_anew(refused.first()?)?;
    let store = ssl.ssl_context().cert_store();
    let mut context = X509StoreContext::new().ok()?;
    let verified = context.init(store, &leaf, &chain, |context| context.verify_cert());
    verified.ok()
}

/// The same certificate from its bytes: OpenSSL remembers of the other that its key could not be read.
fn read_anew(certificate: &X509Ref) -> Option<X509> {
    X509::from_der(&certificate.to_der().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::error::ErrorStack;
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::{PKey, Private};
    use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream};
    use openssl::x509::X509Name;
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};

    use super::super::notes::{Notes, notes_index};
    use super::super::verified;
    use super::*;

    /// A certificate for `subject` with a key of its own. Its issuer is called "CA" and has the key `signed_by`, if
    /// given; else it has signed itself. No identifiers of keys tell one "CA" from another.
    fn certificate(subject: &str, signed_by: Option<&PKey<Private>>) -> (X509, PKey<Private>) {
        let named = |text| {
            let mut name = X509Name::builder().unwrap();
            name.append_entry_by_nid(Nid::COMMONNAME, text).unwrap();
            name.build()
        };
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut made = X509::builder().unwrap();
        made.set_version(2).unwrap();
        made.set_subject_name(&named(subject)).unwrap();
        made.set_issuer_name(&named("CA")).unwrap();
        made.set_pubkey(&key).unwrap();
        let at = |days| Asn1Time::days_from_now(days).unwrap();
        made.set_not_before(&at(0)).unwrap();
        made.set_not_after(&at(1)).unwrap();
        if signed_by.is_none() {
            let authority = BasicConstraints::new().critical().ca().build().unwrap();
            made.append_extension(authority).unwrap();
        }
        let signer = signed_by.unwrap_or(&key);
        made.sign(signer, MessageDigest::sha256()).unwrap();
        (made.build(), key)
    }

    #[test]
    fn a_wrong_signature_is_found_again_and_leaves_no_errors() {
        let (_, key_before) = certificate("CA", None);
        let (authority, _) = certificate("CA", None);
        let (leaf, key) = certificate("a.example", Some(&key_before));
        let mut server = SslContext::builder(SslMethod::tls_server()).unwrap();
        server.set_certificate(&leaf).unwrap();
        server.set_private_key(&key).unwrap();
        let server = server.build();
        let mut client = SslContext::builder(SslMethod::tls_client()).unwrap();
        verified::require(&mut client).unwrap();
        client.cert_store_mut().add_cert(authority).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = SslStream::new(Ssl::new(&server).unwrap(), theirs).unwrap();
        let accepting = std::thread::spawn(move || theirs.accept().map_err(drop));
        let mut ssl = Ssl::new(&client.build()).unwrap();
        ssl.set_ex_data(notes_index().unwrap(), Notes::default());
        let mut ours = SslStream::new(ssl, ours).unwrap();
        assert!(ours.connect().is_err());
        // X509_V_ERR_CERT_SIGNATURE_FAILURE
        assert_eq!(ours.ssl().verify_result().as_raw(), 7);
        assert!(!explains(ours.ssl()));
        assert!(ErrorStack::get().errors().is_empty());
        drop(ours);
        let _ = accepting.join().unwrap();
    }

    #[test]
    fn a_leaf_has_the_names_in_it_and_no_other() {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut leaf = X509::builder().unwrap();
        leaf.set_version(2).unwrap();
        leaf.set_pubkey(&key).unwrap();
        // It has expired, and nobody trusts it.
        let past = Asn1Time::from_unix(0).unwrap();
        leaf.set_not_before(&past).unwrap();
        leaf.set_not_after(&past).unwrap();
        let names = SubjectAlternativeName::new()
            .dns("a.example")
            .ip("192.0.2.1")
            .build(&leaf.x509v3_context(None, None))
            .unwrap();
        leaf.append_extension(names).unwrap();
        leaf.sign(&key, MessageDigest::sha256()).unwrap();
        let leaf = leaf.build();
        let found = ["a.example", "192.0.2.1", "b.example", "192.0.2.2"];
        let found = found.map(|name| has_name(&leaf, name));
        assert_eq!(found, [Some(true), Some(true), Some(false), Some(false)]);
    }
}
