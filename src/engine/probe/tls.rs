//! TLS as a client of a target: contexts, verification, resumption.
//!
//! A context is built once per policy (loading the system's CAs takes some 20 ms), a
//! connection from it costs about a microsecond. Resumption saves most of a handshake's
//! price on both sides, but skips the certificate: hence a full handshake at least every
//! `tls_full_handshake_interval`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509StoreContext, X509StoreContextRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_openssl::SslStream;

use super::deadline::within;
use super::error::{ProbeError, Stage};
use super::sessions::Kept;
pub use super::sessions::SessionSlot;
use super::tls_reason;
use super::wire::Wire;
use crate::engine::target::{Host, Target};
use crate::sys::tls_ciphers;
use crate::sys::tls_session::{self, Resumable};

/// How long a probe waits for a session ticket that follows a TLS 1.3 handshake
/// (RFC 8446 §4.6.1). It is waited for only where none came with the handshake.
const TICKET_WAIT: Duration = Duration::from_millis(50);

/// What a handshake showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// Seconds since 1970 at which the leaf certificate ends.
    pub not_after: Option<i64>,
    /// Whether an earlier session was resumed, its certificate not sent again.
    pub resumed: bool,
}

/// What sets one context apart from another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Policy {
    skip_verify: bool,
    ca_file: Option<PathBuf>,
}

/// The TLS side of the probe engine: one per engine, shared by all probes.
#[derive(Default)]
pub struct TlsClient {
    contexts: Mutex<HashMap<Policy, SslContext>>,
}

/// What OpenSSL's callbacks leave with a connection.
#[derive(Default)]
pub(super) struct Notes {
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

impl TlsClient {
    /// Performs the handshake within the target's `tls_timeout`.
    ///
    /// With `slot`, an earlier session may be resumed, if its full handshake is younger than
    /// the given interval, and a new one is stored there. Every failure is of stage `tls`, or of `internal`
    /// where the process had no means to go on; one
    /// for which the slot's session may be to blame leaves [`SessionSlot::offered`] set.
    pub async fn handshake<S>(
        &self,
        stream: S,
        target: &Target,
        slot: Option<(&Arc<SessionSlot>, Duration)>,
    ) -> Result<(SslStream<Wire<S>>, TlsFacts), ProbeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let session = slot.and_then(|(slot, full_every)| slot.take(full_every));
        let ssl = self.connection(target, slot.map(|(slot, _)| slot), session.as_ref())?;
        let mut tls = SslStream::new(ssl, Wire::new(stream)).map_err(|e| tls_reason::setup(&e))?;
        let handshake = Pin::new(&mut tls).connect();
        match within(target.tls_timeout, handshake).await {
            None => return Err(ProbeError::timeout(Stage::Tls, target.tls_timeout)),
            Some(Err(error)) => {
                // The alert that says why.
                send_at_once(&mut tls).await;
                return Err(tls_reason::handshake(&error, tls.ssl(), target));
            }
            Some(Ok(())) => {}
        }
        let facts = TlsFacts {
            not_after: tls_reason::leaf_not_after(tls.ssl()),
            resumed: tls.ssl().session_reused(),
        };
        // A resumed session's certificate was verified when it was new; time has passed.
        if !target.tls_skip_verify
            && facts
                .not_after
                .is_some_and(|at| at <= tls_reason::unix_now())
        {
            return Err(tls_reason::expired(facts.not_after));
        }
        if let Some((slot, _)) = slot {
            match session {
                Some(session) if facts.resumed => slot.resumed(session),
                refused => slot.made_full(refused.as_ref()),
            }
        }
        Ok((tls, facts))
    }

    fn connection(
        &self,
        target: &Target,
        slot: Option<&Arc<SessionSlot>>,
        session: Option<&Kept<Resumable>>,
    ) -> Result<Ssl, ProbeError> {
        let context = self.context(target)?;
        let build = || -> Result<Ssl, ErrorStack> {
            let mut ssl = match session.map(|kept| &kept.session) {
                Some(resumable) => resumable.connection()?,
                None => Ssl::new(&context)?,
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
            let name = match (&target.tls_server_name, &target.host) {
                (Some(name), _) => name.trim_end_matches('.').to_owned(),
                (None, Host::Name(name)) => name.trim_end_matches('.').to_owned(),
                (None, Host::Ip(ip)) => ip.to_string(),
            };
            let param = ssl.param_mut();
            // RFC 9525 §6.3: a wildcard stands for one whole left-most label.
            param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
            match name.parse::<IpAddr>() {
                // A literal is matched against IP SANs and is no SNI (RFC 6066 §3).
                Ok(ip) => param.set_ip(ip)?,
                Err(_) => {
                    param.set_host(&name)?;
                    ssl.set_hostname(&name)?;
                }
            }
            if target.tls_skip_verify {
                ssl.set_verify(SslVerifyMode::NONE);
            }
            Ok(ssl)
        };
        build().map_err(|e| tls_reason::setup(&e))
    }

    fn context(&self, target: &Target) -> Result<SslContext, ProbeError> {
        let policy = Policy {
            skip_verify: target.tls_skip_verify,
            ca_file: target
                .tls_ca_file
                .clone()
                .filter(|_| !target.tls_skip_verify),
        };
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&policy) {
            return Ok(context.clone());
        }
        let context = build_context(&policy)?;
        contexts.insert(policy, context.clone());
        Ok(context)
    }

    /// Forgets the contexts, so that CA files are read again.
    pub fn forget(&self) {
        self.contexts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

fn build_context(policy: &Policy) -> Result<SslContext, ProbeError> {
    let setup = |e: ErrorStack| tls_reason::setup(&e);
    let mut builder = SslContext::builder(SslMethod::tls_client()).map_err(setup)?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(setup)?;
    builder.set_options(SslOptions::NO_COMPRESSION);
    // One read takes in all that has come, rather than two reads per record.
    builder.set_read_ahead(true);
    prefer_cheap_suites(&mut builder).map_err(setup)?;
    if policy.skip_verify {
        builder.set_verify(SslVerifyMode::NONE);
    } else {
        builder.set_verify_callback(SslVerifyMode::PEER, note_refused);
        match &policy.ca_file {
            Some(file) => builder.set_ca_file(file).map_err(|e| {
                tls_reason::before_handshake(&e, &format!("tls_ca_file {}", file.display()))
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
    let names = tls_ciphers::names(&*Ssl::new(&plain)?);
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

/// Sends what is gathered, as far as that goes without waiting.
async fn send_at_once<S>(tls: &mut SslStream<Wire<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let _ = tls.get_mut().poll_send(cx);
        Poll::Ready(())
    })
    .await;
}

/// Reads until the ticket has come, [`TICKET_WAIT`] has passed, or data or the end came.
/// For connections that are closed next: what was read is lost.
pub async fn await_ticket<S>(tls: &mut SslStream<S>, slot: &SessionSlot)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !slot.lacks_session() {
        return;
    }
    let mut scratch = [0_u8; 512];
    let read = poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut scratch);
        let polled = Pin::new(&mut *tls).poll_read(cx, &mut buffer);
        match polled {
            Poll::Pending if slot.lacks_session() => Poll::Pending,
            _ => Poll::Ready(()),
        }
    });
    // No ticket is no failure: the next handshake is a full one.
    let _ = tokio::time::timeout(TICKET_WAIT, read).await;
}
