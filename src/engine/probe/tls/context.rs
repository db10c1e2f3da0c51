//! OpenSSL contexts: the settings that all connections with the same verification policy share.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use openssl::error::ErrorStack;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use openssl::x509::{X509, X509Ref, X509StoreContext, X509StoreContextRef};

use super::groups;
use super::notes::notes_index;
use super::reason;
use crate::engine::config::CertificatePem;
use crate::engine::probe::error::ProbeError;
use crate::sys::tls_group::CheapGroup;
use crate::sys::tls_verify::NoteRefused;
use crate::sys::{tls_algorithms, tls_certificate_request, tls_session, tls_verify};

/// Which certificates connections trust.
pub(super) enum Trust {
    Anybody,
    These(Vec<X509>),
}

/// A context, and what follows from it for its connections.
#[derive(Clone)]
pub(super) struct TlsContext {
    pub(super) ssl: SslContext,
    /// The group that a handshake offers alone if it offers a session; None: it offers what every
    /// handshake does.
    pub(super) resuming_group: Option<CheapGroup>,
}

/// Makes the context for a set of trusted authorities, and the certificate that is shown to a
/// server that asks for one.
///
/// # Errors
/// Stage `tls`, or `internal` if the process has no descriptor or memory left.
pub(super) fn context(
    trust: Trust,
    shows: Option<&CertificatePem>,
) -> Result<TlsContext, ProbeError> {
    make(trust, shows).map_err(|errors| reason::setup(&errors))
}

fn make(trust: Trust, shows: Option<&CertificatePem>) -> Result<TlsContext, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_options(SslOptions::NO_COMPRESSION);
    // OpenSSL then reads all that has arrived at once; otherwise it reads twice per record.
    builder.set_read_ahead(true);
    prefer_cheap_suites(&mut builder)?;
    match trust {
        Trust::Anybody => builder.set_verify(SslVerifyMode::NONE),
        Trust::These(authorities) => {
            tls_verify::refuse::<Refused>(&mut builder);
            for authority in authorities {
                builder.cert_store_mut().add_cert(authority)?;
            }
        }
    }
    if let Some(pem) = shows {
        pem.install(&mut builder)?;
    }
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    tls_certificate_request::prepare_context(&mut builder);
    let index = notes_index()?;
    tls_session::on_new(&mut builder, move |given| {
        let Some(notes) = given.connection().ex_data(index) else {
            return;
        };
        notes.has_session.store(true, Ordering::Relaxed);
        if let Some(slot) = &notes.slot
            && slot.lacks_session()
            // If the copy fails, the next handshake is a full one.
            && let Ok(session) = given.copy()
        {
            slot.put(session);
        }
    });
    let ssl = builder.build();
    Ok(TlsContext {
        resuming_group: groups::cheapest(&ssl)?,
        ssl,
    })
}

/// Puts TLS 1.3's mandatory suite (AES-128-GCM with SHA-256) first among those that this system
/// allows. A probe hashes more than it encrypts, and many processors have instructions for SHA-256
/// but none for SHA-384.
fn prefer_cheap_suites(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    let plain = SslContext::builder(SslMethod::tls_client())?.build();
    let names = tls_algorithms::ciphers(&*Ssl::new(&plain)?);
    let mut suites: Vec<&str> = names.iter().map(String::as_str).collect();
    suites.retain(|name| name.starts_with("TLS_"));
    // To the front; the others keep their order.
    let cheap = suites
        .iter()
        .position(|&name| name == "TLS_AES_128_GCM_SHA256");
    if let Some(before_and_cheap) = cheap.and_then(|at| suites.get_mut(..=at)) {
        before_and_cheap.rotate_right(1);
    }
    builder.set_ciphersuites(&suites.join(":"))
}

/// Stores a refused leaf certificate so that the reason can name its host names and its expiry, and
/// the chain that it was refused with.
struct Refused;

impl NoteRefused for Refused {
    fn note(context: &mut X509StoreContextRef) {
        let Ok(ssl_index) = X509StoreContext::ssl_idx() else {
            return;
        };
        let ssl = context.ex_data(ssl_index);
        let notes = notes_index()
            .ok()
            .and_then(|index| ssl.and_then(|ssl| ssl.ex_data(index)));
        let Some(notes) = notes else {
            return;
        };
        let leaf = context
            .current_cert()
            .filter(|_| context.error_depth() == 0);
        if let Some(leaf) = leaf {
            let mut refused = notes.refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused = Some(leaf.to_owned());
        }
        let chain = context.chain().into_iter().flatten();
        let chain = chain.map(X509Ref::to_owned).collect();
        let mut refused = notes
            .refused_chain
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *refused = chain;
    }
}
