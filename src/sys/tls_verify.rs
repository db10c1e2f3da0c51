//! Whether a server's certificates are to be trusted, asked without a handshake of OpenSSL's.

use std::ffi::{CStr, c_char, c_int, c_void};

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ssl::SslRef;
use openssl::stack::StackRef;
use openssl::x509::{X509, X509Ref, X509StoreContext};

/// OpenSSL's name for what a server's certificate must be good for.
const SERVER: &CStr = c"ssl_server";

// `openssl/x509_vfy.h`, OpenSSL 1.1.0.
unsafe extern "C" {
    fn X509_STORE_CTX_get0_param(context: *mut c_void) -> *mut c_void;
    fn X509_STORE_CTX_set_default(context: *mut c_void, name: *const c_char) -> c_int;
    fn X509_VERIFY_PARAM_set_auth_level(param: *mut c_void, level: c_int);
    fn X509_VERIFY_PARAM_set1(to: *mut c_void, from: *const c_void) -> c_int;
}

/// Whether a handshake of `ssl`, which was not begun, would accept a server that sends `leaf`
/// and `others`: the authorities of its context, the name and all else that it was told, and
/// its security level decide.
///
/// # Errors
/// Where there is no memory.
pub fn would_accept(
    ssl: &mut SslRef,
    leaf: &X509Ref,
    others: &StackRef<X509>,
) -> Result<bool, ErrorStack> {
    let level = c_int::try_from(ssl.security_level()).unwrap_or(c_int::MAX);
    let wanted = ssl.param_mut().as_ptr();
    let trusted = ssl.ssl_context().cert_store();
    X509StoreContext::new()?.init(trusted, leaf, others, |context| {
        let raw = context.as_ptr().cast();
        // SAFETY: `context` was just made ready and outlives the calls; its parameters are its
        // own, never null. `wanted` is `ssl`'s, which lives and which nobody else has, and is
        // copied from. The order is that of OpenSSL's own handshakes: what `ssl` was told comes
        // last.
        let is_set = unsafe {
            let param = X509_STORE_CTX_get0_param(raw);
            X509_VERIFY_PARAM_set_auth_level(param, level);
            X509_STORE_CTX_set_default(raw, SERVER.as_ptr()) == 1
                && X509_VERIFY_PARAM_set1(param, wanted.cast()) == 1
        };
        if !is_set {
            return Err(ErrorStack::get());
        }
        let is_accepted = context.verify_cert();
        // What a refusal leaves in this thread's queue must not be taken for another call's.
        drop(ErrorStack::get());
        is_accepted
    })
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::ssl::{Ssl, SslContext, SslMethod};
    use openssl::stack::Stack;
    use openssl::x509::X509Name;
    use openssl::x509::extension::SubjectAlternativeName;

    use super::*;

    /// A certificate that vouches for itself.
    fn certificate(host: &str) -> X509 {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, host).unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        let day = |days| Asn1Time::days_from_now(days).unwrap();
        builder.set_not_before(&day(0)).unwrap();
        builder.set_not_after(&day(1)).unwrap();
        builder.set_pubkey(&key).unwrap();
        let mut names = SubjectAlternativeName::new();
        let names = names.dns(host);
        let names = names.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn authorities_and_name_decide_and_no_error_is_left_behind() {
        let known = certificate("mx.example.org");
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.cert_store_mut().add_cert(known.clone()).unwrap();
        let context = context.build();
        let mut others = Stack::new().unwrap();
        others.push(certificate("other.example.org")).unwrap();
        let accepts = |name: &str, leaf: &X509| {
            let mut ssl = Ssl::new(&context).unwrap();
            ssl.param_mut().set_host(name).unwrap();
            would_accept(&mut ssl, leaf, &others).unwrap()
        };
        assert!(accepts("mx.example.org", &known));
        assert!(!accepts("mx.example.com", &known));
        assert!(!accepts("mx.example.org", &certificate("mx.example.org")));
        assert!(accepts("mx.example.org", &known));
        assert!(ErrorStack::get().errors().is_empty());
    }
}
