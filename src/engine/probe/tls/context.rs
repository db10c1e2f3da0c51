//! OpenSSL contexts: the settings that all connections with the same verification policy share.

use std::sync::atomic::Ordering;

use openssl::error::ErrorStack;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode,
    SslVersion,
};
use openssl::x509::X509;

use super::groups;
use super::notes;
use super::reason;
use super::verified;
use crate::engine::config::CertificatePem;
use crate::engine::probe::error::ProbeError;
use crate::sys::tls_group::CheapGroup;
use crate::sys::{gate, tls_algorithms, tls_certificate_request, tls_session};

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
            verified::require(&mut builder)?;
            for authority in authorities {
                gate::give_way();
                builder.cert_store_mut().add_cert(authority)?;
            }
        }
    }
    if let Some(pem) = shows {
        pem.install(&mut builder)?;
    }
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    tls_certificate_request::prepare_context(&mut builder);
    tls_session::on_new(&mut builder, |given| {
        let Some(notes) = notes::of_connection(given.connection()) else {
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
