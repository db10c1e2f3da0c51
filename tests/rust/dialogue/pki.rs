//! Certificates made for a test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslContext, SslContextBuilder, SslMethod, SslVersion};
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509Name};

const DAY: i64 = 86_400;

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

/// What is to be in a certificate.
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a str,
    pub(crate) issuer: Option<&'a Identity>,
    pub(crate) ca: bool,
    /// Its IP address or DNS name.
    pub(crate) valid_for: &'a str,
    /// In days from now.
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// In seconds from now, instead of `until`.
    pub(crate) ends_in: Option<i64>,
    pub(crate) key: Key,
    pub(crate) signed_over: MessageDigest,
    /// Good for clients alone (RFC 5280 §4.2.1.12).
    pub(crate) for_clients: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    Ec(Nid),
    Ed25519,
    Rsa(u32),
}

impl Key {
    fn generate(self) -> PKey<Private> {
        match self {
            Self::Ec(curve) => {
                let group = EcGroup::from_curve_name(curve).unwrap();
                PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
            }
            Self::Ed25519 => PKey::generate_ed25519().unwrap(),
            Self::Rsa(bits) => PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap(),
        }
    }
}

/// The digest that a key signs over, unless it has one of its own.
fn digest(key: &PKey<Private>, wished: MessageDigest) -> MessageDigest {
    if key.id() == Id::ED25519 {
        MessageDigest::null()
    } else {
        wished
    }
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self {
            name: "probe test",
            issuer: None,
            ca: false,
            valid_for: "127.0.0.1",
            from: -1,
            until: 30,
            ends_in: None,
            key: Key::Ec(Nid::X9_62_PRIME256V1),
            signed_over: MessageDigest::sha256(),
            for_clients: false,
        }
    }
}

impl Identity {
    pub(crate) fn new(wish: &Wish<'_>) -> Self {
        let key = wish.key.generate();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, wish.name)
            .unwrap();
        let name = name.build();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let at = |seconds: i64| Asn1Time::from_unix(i64::try_from(now).unwrap() + seconds).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();

        let mut x = X509::builder().unwrap();
        x.set_version(2).unwrap();
        x.set_serial_number(&serial.to_asn1_integer().unwrap())
            .unwrap();
        x.set_subject_name(&name).unwrap();
        x.set_pubkey(&key).unwrap();
        x.set_not_before(&at(wish.from * DAY)).unwrap();
        x.set_not_after(&at(wish.ends_in.unwrap_or(wish.until * DAY)))
            .unwrap();
        if wish.ca {
            x.append_extension(BasicConstraints::new().critical().ca().build().unwrap())
                .unwrap();
            x.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap())
                .unwrap();
        } else {
            let mut names = SubjectAlternativeName::new();
            match wish.valid_for.parse::<std::net::IpAddr>() {
                Ok(_) => names.ip(wish.valid_for),
                Err(_) => names.dns(wish.valid_for),
            };
            let names = names.build(&x.x509v3_context(None, None)).unwrap();
            x.append_extension(names).unwrap();
        }
        if wish.for_clients {
            x.append_extension(ExtendedKeyUsage::new().client_auth().build().unwrap())
                .unwrap();
        }
        match wish.issuer {
            Some(issuer) => {
                x.set_issuer_name(issuer.certificate.subject_name())
                    .unwrap();
                x.sign(&issuer.key, digest(&issuer.key, wish.signed_over))
                    .unwrap();
            }
            None => {
                x.set_issuer_name(&name).unwrap();
                x.sign(&key, digest(&key, wish.signed_over)).unwrap();
            }
        }
        Self {
            certificate: x.build(),
            key,
        }
    }

    /// A server's side, with these certificates after its own, in this order.
    pub(crate) fn server(&self, chain: &[&Self]) -> SslContext {
        self.configured(chain).build()
    }

    /// The same, refusing every version but TLS 1.0.
    pub(crate) fn ancient_server(&self) -> SslContext {
        let mut context = self.configured(&[]);
        context.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        context
            .set_max_proto_version(Some(SslVersion::TLS1))
            .unwrap();
        context.build()
    }

    /// A server's side that resumes sessions, of this version alone.
    pub(crate) fn resuming_server(&self, version: SslVersion) -> SslContext {
        self.resuming(version).build()
    }

    /// The same, with `next` in its place once it `is_renewed`; sessions stay good.
    pub(crate) fn renewed_server(
        &self,
        version: SslVersion,
        next: &Self,
        is_renewed: &Arc<AtomicBool>,
    ) -> SslContext {
        let (next, is_renewed) = (next.resuming_server(version), is_renewed.clone());
        let mut context = self.resuming(version);
        context.set_servername_callback(move |ssl, _| {
            if is_renewed.load(SeqCst) {
                ssl.set_ssl_context(&next).unwrap();
            }
            Ok(())
        });
        context.build()
    }

    fn resuming(&self, version: SslVersion) -> SslContextBuilder {
        let mut context = self.configured(&[]);
        context.set_session_id_context(b"test").unwrap();
        context.set_min_proto_version(Some(version)).unwrap();
        context.set_max_proto_version(Some(version)).unwrap();
        context
    }

    /// A server's side of TLS 1.3 that sends no ticket after the handshake.
    pub(crate) fn ticketless_server(&self) -> SslContext {
        let mut context = self.configured(&[]);
        context
            .set_min_proto_version(Some(SslVersion::TLS1_3))
            .unwrap();
        context.set_num_tickets(0).unwrap();
        context.build()
    }

    /// A server's side under a security policy of its own, also for sessions: it accepts small keys
    /// and old digests, since only the client's policy is tested.
    pub(crate) fn lax_server(
        &self,
        chain: &[&Self],
        change: impl FnOnce(&mut SslContextBuilder),
    ) -> SslContext {
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        context.set_security_level(0);
        self.configure(&mut context, chain);
        context.set_session_id_context(b"test").unwrap();
        change(&mut context);
        context.build()
    }

    fn configured(&self, chain: &[&Self]) -> SslContextBuilder {
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        self.configure(&mut context, chain);
        context
    }

    fn configure(&self, context: &mut SslContextBuilder, chain: &[&Self]) {
        context.set_certificate(&self.certificate).unwrap();
        context.set_private_key(&self.key).unwrap();
        for identity in chain {
            context
                .add_extra_chain_cert(identity.certificate.clone())
                .unwrap();
        }
    }
}

/// The root that the tests' targets trust, and the file it is in.
pub(crate) fn root() -> (&'static Identity, PathBuf) {
    static ROOT: OnceLock<(Identity, PathBuf)> = OnceLock::new();
    let (root, file) = ROOT.get_or_init(|| {
        let root = Identity::new(&Wish {
            name: "probe test root",
            ca: true,
            ..Wish::default()
        });
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("dialogue-root-{}.pem", std::process::id()));
        std::fs::write(&file, root.certificate.to_pem().unwrap()).unwrap();
        (root, file)
    });
    (root, file.clone())
}
