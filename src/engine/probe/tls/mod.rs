//! TLS towards a target, by OpenSSL: the handshake, session resumption, and the certificate's data.
//!
//! Resuming a session saves both sides much of a handshake's cost, but the server does not send its
//! certificate then. So a full handshake is made at least every `tls_full_handshake_interval`.

mod context;
mod handshake;
mod names;
mod notes;
mod reason;
mod sessions;
mod slot;
mod wire;

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use openssl::ssl::SslContext;
use openssl::x509::X509;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::context::Trust;
pub(super) use self::reason::stream_text;
pub use self::sessions::SessionSlot;
use self::wire::Wire;
use super::error::{ProbeError, Stage};
use super::transport::Transport;
use crate::engine::config::Authorities;
use crate::engine::target::Target;
use crate::sys::{tls_certificates, tls_library};

/// How long a connect probe waits for the session ticket that follows a TLS 1.3 handshake
/// (RFC 8446 §4.6.1). It waits only if no ticket has arrived yet.
const TICKET_WAIT: Duration = Duration::from_millis(50);

/// What a completed handshake tells about the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// When the leaf certificate expires, in seconds since 1970.
    pub not_after: Option<i64>,
    /// Whether an earlier session was resumed. The server has then not sent its certificate again.
    pub resumed: bool,
}

/// How certificates are verified. Targets with the same policy share a context.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Policy {
    Unverified,
    BySystem,
    ByFile(PathBuf),
}

/// The TLS side of the probe engine: one per engine, shared by all probes.
#[derive(Default)]
pub struct TlsClient {
    /// One OpenSSL context per policy. Loading the system's CAs takes some 20 ms; making a
    /// connection from an existing context takes about a microsecond.
    contexts: Mutex<Contexts>,
}

#[derive(Default)]
struct Contexts {
    authorities: Authorities,
    made: HashMap<Policy, SslContext>,
}

impl TlsClient {
    /// Performs the handshake within the target's `tls_timeout`.
    ///
    /// With `slot`, the session stored there may be resumed, unless the last full handshake is
    /// older than the given interval; and a session that the server gives is stored there.
    ///
    /// # Errors
    /// Stage `tls`, or `internal` for a failure of our own process. The caller reports a failure to
    /// the slot with [`SessionSlot::failed`].
    pub async fn handshake<S>(
        &self,
        stream: S,
        target: &Target,
        slot: Option<(&Arc<SessionSlot>, Duration)>,
    ) -> Result<(Box<dyn Transport>, TlsFacts), ProbeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let context = self.context(target)?;
        let wire = Wire::new(stream);
        let session = slot.and_then(|(slot, every)| slot.take(every));
        let slot = slot.map(|(slot, _)| slot);
        let (tls, made) = handshake::handshake(&context, wire, target, slot, session).await?;
        let facts = TlsFacts {
            not_after: made.not_after,
            resumed: made.resumed,
        };
        // OpenSSL does not verify a resumed session's certificate again: it may have expired since.
        if !target.tls_skip_verify && facts.not_after.is_some_and(|at| at <= reason::unix_now()) {
            return Err(reason::expired(facts.not_after));
        }
        if let Some(slot) = slot {
            slot.made(made);
        }
        Ok((Box::new(tls), facts))
    }

    fn context(&self, target: &Target) -> Result<SslContext, ProbeError> {
        // A failure here concerns every target, so it is stage `internal`.
        tls_library::usable().map_err(|problem| ProbeError::new(Stage::Internal, problem))?;
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = match &target.tls_ca_file {
            _ if target.tls_skip_verify => Policy::Unverified,
            None => Policy::BySystem,
            Some(path) => Policy::ByFile(path.clone()),
        };
        if let Some(context) = contexts.made.get(&policy) {
            return Ok(context.clone());
        }
        let trust = match &policy {
            Policy::Unverified => Trust::Anybody,
            Policy::BySystem => Trust::These(system(&contexts.authorities)?),
            Policy::ByFile(path) => Trust::These(of_file(&contexts.authorities, path)?),
        };
        let context = context::context(trust)?;
        contexts.made.insert(policy, context.clone());
        Ok(context)
    }

    /// Sets the authorities for later handshakes, and drops contexts made with the previous ones.
    pub fn trust(&self, authorities: Authorities) {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        *contexts = Contexts {
            authorities,
            made: HashMap::new(),
        };
    }
}

fn system(authorities: &Authorities) -> Result<Vec<X509>, ProbeError> {
    let what = "the system's authorities";
    let pem = authorities.of_system();
    tls_certificates::from_pem(&pem).map_err(|errors| reason::before_handshake(&errors, what))
}

fn of_file(authorities: &Authorities, path: &Path) -> Result<Vec<X509>, ProbeError> {
    let what = format!("tls_ca_file {}", path.display());
    let pem = authorities.of_file(path).map_err(|unread| {
        let stage = match unread.is_own_lack {
            true => Stage::Internal,
            false => Stage::Tls,
        };
        ProbeError::new(stage, format!("{what}: {}", unread.problem))
    })?;
    tls_certificates::from_pem(&pem).map_err(|errors| reason::before_handshake(&errors, &what))
}

/// Reads until a session ticket or any data has arrived, the peer has closed, or [`TICKET_WAIT`]
/// has passed. Only for connections that are closed next, because the data read is discarded.
pub async fn await_ticket(tls: &mut dyn Transport, slot: &SessionSlot) {
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
    // Without a ticket the next handshake is a full one.
    let _ = tokio::time::timeout(TICKET_WAIT, read).await;
}
