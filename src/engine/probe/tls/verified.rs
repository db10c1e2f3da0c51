//! Chains of certificates that a context has verified before.
//!
//! The verification of a chain takes more than a tenth of a full handshake's CPU time. Its result follows
//! from the certificates, the expected name, the time, and the authorities and settings of the context, and
//! most servers send the same chain each time. So a context remembers the chains that OpenSSL accepted. It
//! does not ask OpenSSL about such a chain again until one of its certificates expires. That the server has
//! the key of its certificate is proved in each full handshake (RFC 8446 §4.4.3), whether or not the chain
//! is known.
//!
//! Revocation lists, OCSP and certificate transparency are not used. Their answers change with time, so a
//! chain that needs them must not be remembered.

use std::sync::{Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::hash::MessageDigest;
use openssl::sha::Sha256;
use openssl::ssl::{SslContext, SslContextBuilder};
use openssl::x509::{X509Ref, X509StoreContextRef};
use rustc_hash::FxHashMap;

use super::notes;
use super::times;
use crate::sys::tls_index::{self, OnceIndex};
use crate::sys::tls_verify::{self, Verifier};

/// The most chains that a context remembers; a further one makes it forget all of them. As many as a table of
/// 16,384 places takes before it grows: 0.8 MB.
const CHAINS_MAX: usize = 14_336;

/// The digest of the expected name and the certificates that the server sent.
type Key = [u8; 32];

/// When a whole chain is valid: from `from` until just before `until`, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    from: i64,
    until: i64,
}

impl Validity {
    /// None if a time cannot be read.
    fn of<'a>(chain: impl IntoIterator<Item = &'a X509Ref>) -> Option<Self> {
        let mut whole = Self {
            from: i64::MIN,
            until: i64::MAX,
        };
        for certificate in chain {
            whole.from = whole.from.max(times::unix_time(certificate.not_before())?);
            whole.until = whole.until.min(times::not_after(certificate)?);
        }
        Some(whole)
    }
}

#[derive(Default)]
struct VerifiedChains(Mutex<FxHashMap<Key, Validity>>);

impl VerifiedChains {
    fn knows(&self, key: &Key, now: i64) -> bool {
        let chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chains.get(key);
        known.is_some_and(|validity| validity.from <= now && now < validity.until)
    }

    fn remember(&self, key: Key, validity: Validity) {
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= CHAINS_MAX {
            chains.clear();
        }
        if chains.try_reserve(1).is_ok() {
            chains.insert(key, validity);
        }
    }
}

/// Makes handshakes of the context fail if the server's chain is not trusted.
///
/// # Errors
/// There is no memory.
pub(super) fn require(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_ex_data(index()?, VerifiedChains::default());
    tls_verify::install::<Remembering>(builder);
    Ok(())
}

struct Remembering;

impl Verifier for Remembering {
    type Key = Key;

    fn key(context: &X509StoreContextRef) -> Option<Key> {
        let name = &notes::of_connection(tls_verify::connection(context)?)?.name;
        let (own, sent) = tls_verify::sent(context)?;
        // OpenSSL reads a certificate although it has no memory for its key, and notices that only when it
        // verifies the certificate. So it is to verify such a certificate even in a known chain.
        own.public_key().ok()?;
        let mut digest = Sha256::new();
        digest.update(&name.len().to_le_bytes());
        digest.update(name.as_bytes());
        for certificate in sent {
            digest.update(&certificate.digest(MessageDigest::sha256()).ok()?);
        }
        Some(digest.finish())
    }

    fn knows(key: &Key, context: &X509StoreContextRef) -> bool {
        chains_of(context).is_some_and(|chains| chains.knows(key, times::unix_now()))
    }

    fn accepted(key: Key, context: &X509StoreContextRef) {
        // OpenSSL looks at the common name if it has no memory for the alternative names. So it may have
        // accepted a wrong name, which is not to be remembered.
        let names = tls_verify::sent(context).and_then(|(own, _)| own.subject_alt_names());
        // `chain` goes from the server's certificate up to the trusted one, which the server may not have sent.
        let validity = context.chain().and_then(Validity::of);
        if let (Some(_), Some(chains), Some(validity)) = (names, chains_of(context), validity) {
            chains.remember(key, validity);
        }
    }

    fn refused(context: &X509StoreContextRef) {
        notes::note_refused(context);
    }
}

fn chains_of(context: &X509StoreContextRef) -> Option<&VerifiedChains> {
    let connection = tls_verify::connection(context)?;
    connection.ssl_context().ex_data(index().ok()?)
}

fn index() -> Result<Index<SslContext, VerifiedChains>, ErrorStack> {
    static INDEX: OnceIndex<SslContext, VerifiedChains> = OnceIndex::new();
    tls_index::once(&INDEX, SslContext::new_ex_index)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::os::unix::net::UnixStream;

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::ssl::{Ssl, SslMethod, SslStream, SslVersion};
    use openssl::x509::extension::SubjectAlternativeName;
    use openssl::x509::{X509, X509Name};

    use super::super::notes::{Notes, notes_index};
    use super::*;

    /// A server with a certificate for this name that it has signed itself, valid in these days from now, and the
    /// certificate.
    fn server(for_name: &str, days: Range<u32>) -> (SslContext, X509) {
        made(for_name, days, true)
    }

    /// The same; without `has_names` the name is in the subject alone.
    fn made(for_name: &str, days: Range<u32>, has_names: bool) -> (SslContext, X509) {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, for_name).unwrap();
        let name = name.build();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(2).unwrap();
        certificate.set_subject_name(&name).unwrap();
        certificate.set_issuer_name(&name).unwrap();
        certificate.set_pubkey(&key).unwrap();
        let at = |days| Asn1Time::days_from_now(days).unwrap();
        certificate.set_not_before(&at(days.start)).unwrap();
        certificate.set_not_after(&at(days.end)).unwrap();
        let names = SubjectAlternativeName::new()
            .dns(for_name)
            .build(&certificate.x509v3_context(None, None))
            .unwrap();
        if has_names {
            certificate.append_extension(names).unwrap();
        }
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let certificate = certificate.build();
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        context.set_certificate(&certificate).unwrap();
        context.set_private_key(&key).unwrap();
        (context.build(), certificate)
    }

    fn client(trusted: &[&X509], version: SslVersion) -> SslContext {
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.set_max_proto_version(Some(version)).unwrap();
        require(&mut context).unwrap();
        for &certificate in trusted {
            context
                .cert_store_mut()
                .add_cert(certificate.clone())
                .unwrap();
        }
        context.build()
    }

    /// Makes a handshake. Whether OpenSSL was asked to verify the chain; None if the handshake failed.
    fn asks(client: &SslContext, server: &SslContext, name: &str) -> Option<bool> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = SslStream::new(Ssl::new(server).unwrap(), theirs).unwrap();
        let accepting = std::thread::spawn(move || theirs.accept().map_err(drop));
        let mut ssl = Ssl::new(client).unwrap();
        ssl.param_mut().set_host(name).unwrap();
        let notes = Notes {
            name: name.to_owned(),
            ..Notes::default()
        };
        ssl.set_ex_data(notes_index().unwrap(), notes);
        let mut ours = SslStream::new(ssl, ours).unwrap();
        let made = ours.connect();
        // OpenSSL keeps the chain that it has put together.
        let asked = ours.ssl().verified_chain().is_some();
        drop(ours);
        let _ = accepting.join().unwrap();
        made.is_ok().then_some(asked)
    }

    #[test]
    fn a_known_chain_is_not_verified_again() {
        let (first, certificate) = server("a.example", 0..2);
        let (second, other) = server("b.example", 0..2);
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let context = client(&[&certificate, &other], version);
            assert_eq!(asks(&context, &first, "a.example"), Some(true));
            assert_eq!(asks(&context, &first, "a.example"), Some(false));
            assert_eq!(asks(&context, &second, "b.example"), Some(true));
            assert_eq!(asks(&context, &first, "a.example"), Some(false));
            assert_eq!(asks(&context, &second, "b.example"), Some(false));
            // A known chain is good for its name and its context alone. One that was refused is not known.
            for _ in 0..2 {
                assert_eq!(asks(&context, &first, "b.example"), None);
                let distrusting = client(&[&other], version);
                assert_eq!(asks(&distrusting, &first, "a.example"), None);
                assert_eq!(asks(&distrusting, &first, "a.example"), None);
            }
        }
    }

    /// That there are no alternative names, or that there is no memory for them, cannot be told apart.
    #[test]
    fn a_chain_that_was_accepted_for_its_common_name_is_not_remembered() {
        let (server, certificate) = made("c.example", 0..2, false);
        let context = client(&[&certificate], SslVersion::TLS1_3);
        for _ in 0..2 {
            assert_eq!(asks(&context, &server, "c.example"), Some(true));
        }
    }

    #[test]
    fn a_chain_is_valid_while_all_of_its_certificates_are() {
        let chain = [0..5, 2..9, 1..4].map(|days| server("a.example", days).1);
        let at = |certificate: &X509| Validity::of([&**certificate]).unwrap();
        let whole = Validity::of(chain.iter().map(|certificate| &**certificate));
        let expected = Validity {
            from: at(&chain[1]).from,
            until: at(&chain[2]).until,
        };
        assert_eq!(whole, Some(expected));
        assert!(at(&chain[0]).from < expected.from && expected.until < at(&chain[0]).until);
    }

    #[test]
    fn a_chain_is_known_within_its_validity() {
        let chains = VerifiedChains::default();
        let validity = Validity {
            from: 100,
            until: 200,
        };
        chains.remember([1; 32], validity);
        let known = [99, 100, 199, 200].map(|now| chains.knows(&[1; 32], now));
        assert_eq!(known, [false, true, true, false]);
        assert!(!chains.knows(&[2; 32], 150));
    }

    #[test]
    fn the_number_of_chains_is_bounded() {
        let chains = VerifiedChains::default();
        let validity = Validity {
            from: 0,
            until: i64::MAX,
        };
        for number in 0..=CHAINS_MAX {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            chains.remember(digest, validity);
            assert!(chains.knows(&digest, 1));
        }
        assert_eq!(chains.0.lock().unwrap().len(), 1);
    }
}
