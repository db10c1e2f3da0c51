//! One handshake by OpenSSL, under the rules of the system's `openssl.cnf`, with a reason for each
//! failure.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509StoreContext, X509StoreContextRef};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;

use super::sessions::{Made, SessionSlot};
use super::slot::Kept;
use super::wire::Wire;
use super::{expect_name, reason, send_at_once, server_name};
use crate::engine::probe::deadline::within;
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::Target;
use crate::sys::tls_algorithms;
use crate::sys::tls_session::{self, Resumable};

/// What OpenSSL's callbacks leave with a connection.
#[derive(Default)]
struct Notes {
    /// Where a new session goes.
    slot: Option<Arc<SessionSlot>>,
    /// The leaf certificate that was refused: OpenSSL drops it with the handshake.
    refused: Mutex<Option<X509>>,
}

/// The leaf certificate that made this connection's handshake fail.
pub(super) fn refused_leaf(ssl: &SslRef) -> Option<X509> {
    let notes = ssl.ex_data(notes_index().ok()?)?;
    let refused = notes.refused.lock();
    refused.unwrap_or_else(PoisonError::into_inner).clone()
}

fn notes_index() -> Result<Index<Ssl, Notes>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Notes>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let made = Ssl::new_ex_index()?;
            Ok(*INDEX.get_or_init(|| made))
        }
    }
}

/// One handshake within the target's `tls_timeout`, which offers the session.
pub(super) async fn handshake<S>(
    context: &SslContext,
    wire: Wire<S>,
    target: &Target,
    slot: Option<&Arc<SessionSlot>>,
    session: Option<Kept<Resumable>>,
) -> Result<(SslStream<Wire<S>>, Made), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ssl = connection(context, target, slot, session.as_ref())
        .map_err(|errors| reason::setup(&errors))?;
    let mut tls = SslStream::new(ssl, wire).map_err(|errors| reason::setup(&errors))?;
    match within(target.tls_timeout, Pin::new(&mut tls).connect()).await {
        None => return Err(ProbeError::timeout(Stage::Tls, target.tls_timeout)),
        Some(Err(error)) => {
            send_at_once(tls.get_mut()).await;
            return Err(reason::handshake(&error, tls.ssl(), target));
        }
        Some(Ok(())) => {}
    }
    let ssl = tls.ssl();
    let leaf = ssl.peer_certificate();
    let made = Made {
        not_after: leaf.as_deref().and_then(reason::not_after),
        resumed: ssl.session_reused(),
        session,
    };
    Ok((tls, made))
}

fn connection(
    context: &SslContext,
    target: &Target,
    slot: Option<&Arc<SessionSlot>>,
    session: Option<&Kept<Resumable>>,
) -> Result<Ssl, ErrorStack> {
    let mut ssl = match session.map(|kept| &kept.session) {
        Some(resumable) => resumable.connection()?,
        None => Ssl::new(context)?,
    };
    if session.is_some_and(|kept| kept.session.version() == SslVersion::TLS1_2) {
        // To offer 1.3 as well takes a key exchange that resuming 1.2 has no use for.
        ssl.set_max_proto_version(Some(SslVersion::TLS1_2))?;
    }
    let notes = Notes {
        slot: slot.cloned(),
        ..Notes::default()
    };
    ssl.set_ex_data(notes_index()?, notes);
    let name = server_name(target);
    expect_name(ssl.param_mut(), &name)?;
    if name.parse::<std::net::IpAddr>().is_err() {
        // A literal is no SNI (RFC 6066 §3).
        ssl.set_hostname(&name)?;
    }
    if target.tls_skip_verify {
        ssl.set_verify(SslVerifyMode::NONE);
    }
    Ok(ssl)
}

/// What connections of one policy are made from: verified by the CAs of `ca_file`, or else the
/// system's.
pub(super) fn context(skip_verify: bool, ca_file: Option<&Path>) -> Result<SslContext, ProbeError> {
    let setup = |errors: ErrorStack| reason::setup(&errors);
    let mut builder = SslContext::builder(SslMethod::tls_client()).map_err(setup)?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(setup)?;
    builder.set_options(SslOptions::NO_COMPRESSION);
    // One read takes in all that has come, rather than two reads per record.
    builder.set_read_ahead(true);
    prefer_cheap_suites(&mut builder).map_err(setup)?;
    if skip_verify {
        builder.set_verify(SslVerifyMode::NONE);
    } else {
        builder.set_verify_callback(SslVerifyMode::PEER, note_refused);
        match ca_file {
            Some(file) => builder.set_ca_file(file).map_err(|errors| {
                reason::before_handshake(&errors, &format!("tls_ca_file {}", file.display()))
            })?,
            None => trust_system_cas(&mut builder).map_err(setup)?,
        }
    }
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    let index = notes_index().map_err(setup)?;
    tls_session::on_new(&mut builder, move |given| {
        let notes = given.connection().ex_data(index);
        if let Some(slot) = notes.and_then(|notes| notes.slot.as_ref())
            && slot.lacks_session()
            // Without it the next handshake is a full one.
            && let Ok(session) = given.copy()
        {
            slot.put(session);
        }
    });
    Ok(builder.build())
}

/// Asks for TLS 1.3's mandatory suite first, of those that this system allows. A probe hashes
/// more than it encrypts, and processors have instructions for SHA-256 that they lack for
/// SHA-384.
fn prefer_cheap_suites(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    let plain = SslContext::builder(SslMethod::tls_client())?.build();
    let names = tls_algorithms::ciphers(&*Ssl::new(&plain)?);
    let mut suites: Vec<&str> = names.iter().map(String::as_str).collect();
    suites.retain(|name| name.starts_with("TLS_"));
    // A stable sort: the others keep their order.
    suites.sort_by_key(|&name| name != "TLS_AES_128_GCM_SHA256");
    builder.set_ciphersuites(&suites.join(":"))
}

/// Changes no verdict; keeps what a refusal is about.
fn note_refused(trusted: bool, context: &mut X509StoreContextRef) -> bool {
    let leaf = context
        .current_cert()
        .filter(|_| context.error_depth() == 0);
    if let Some(leaf) = leaf.filter(|_| !trusted)
        && let Ok(ssl_index) = X509StoreContext::ssl_idx()
        && let Some(ssl) = context.ex_data(ssl_index)
        && let Some(notes) = notes_index().ok().and_then(|index| ssl.ex_data(index))
    {
        let mut refused = notes.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(leaf.to_owned());
    }
    trusted
}

/// OpenSSL's own default places, and where it has none (a vendored build looks in the
/// prefix it was compiled for), those where the systems keep their CAs.
fn trust_system_cas(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder.set_default_verify_paths()?;
    if cfg!(feature = "vendored-openssl") {
        let found = openssl_probe::probe();
        if let Some(file) = found.cert_file {
            builder.set_ca_file(file)?;
        }
    }
    Ok(())
}
