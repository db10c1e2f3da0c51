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
    match ssl.verify_result().as_raw() {
        KEY_TOO_SMALL => has_strong_key(ssl).unwrap_or(false),
        HOSTNAME_MISMATCH | IP_MISMATCH => has_name(ssl).unwrap_or(false),
        code if OF_CHAIN.contains(&code) => is_trusted(ssl).unwrap_or(false),
        _ => false,
    }
}

fn has_strong_key(ssl: &SslRef) -> Option<bool> {
    let key = read_anew(refused_chain(ssl).first()?)?.public_key().ok()?;
    let level = usize::try_from(ssl.security_level()).ok()?;
    Some(key.security_bits() >= *BITS.get(level)?)
}

/// Whether the leaf has the expected name, whoever has signed it and whenever it is valid.
fn has_name(ssl: &SslRef) -> Option<bool> {
    let leaf = read_anew(refused_chain(ssl).first()?)?;
    let mut param = X509VerifyParam::new().ok()?;
    expect_name(&mut param, &of_connection(ssl)?.name).ok()?;
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
