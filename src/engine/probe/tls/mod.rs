//! TLS as a client of a target, by OpenSSL: the handshake, the sessions it resumes, and what it
//! showed.
//!
//! Resumption saves much of a handshake's price on both sides, but skips the certificate:
//! hence a full handshake at least every `tls_full_handshake_interval`.

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

/// What sets one context apart from another: how certificates are verified.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Policy {
    Unverified,
    BySystem,
    ByFile(PathBuf),
}

/// The TLS side of the probe engine: one per engine, shared by all probes.
#[derive(Default)]
pub struct TlsClient {
    /// What connections of each policy are made from. The system's CAs take some 20 ms to load, a
    /// connection takes about a microsecond.
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
    /// With `slot`, an earlier session may be resumed, if its full handshake is younger than
    /// the given interval, and a new one is stored there.
    ///
    /// # Errors
    /// Of stage `tls`, or of `internal` where the process had no means to go on. The caller tells
    /// `slot` of them, with [`SessionSlot::failed`].
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
        // A resumed session's certificate was verified when it was new; time has passed.
        if !target.tls_skip_verify && facts.not_after.is_some_and(|at| at <= reason::unix_now()) {
            return Err(reason::expired(facts.not_after));
        }
        if let Some(slot) = slot {
            slot.made(made);
        }
        Ok((Box::new(tls), facts))
    }

    fn context(&self, target: &Target) -> Result<SslContext, ProbeError> {
        // Nothing of the target's: no probe could be made.
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

    /// Trusts these from now on.
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

/// Reads until the ticket has come, [`TICKET_WAIT`] has passed, or data or the end came.
/// For connections that are closed next: what was read is lost.
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
    // No ticket is no failure: the next handshake is a full one.
    let _ = tokio::time::timeout(TICKET_WAIT, read).await;
}
