//! TLS towards a target, by OpenSSL: the handshake, session resumption, and the certificate's data.
//!
//! Resuming a session saves both sides much of a handshake's cost, but the server does not send its
//! certificate then. So a full handshake is made at least every `tls_full_handshake_interval`.

mod context;
mod details;
mod groups;
mod handshake;
mod names;
mod notes;
mod reason;
mod sessions;
mod slot;
mod times;
mod verified;
mod want_of_memory;
mod wire;

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use openssl::ssl::SslRef;
use openssl::x509::X509;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::context::{TlsContext, Trust};
pub(super) use self::reason::{ASKED_FOR_CERTIFICATE, stream_text};
pub use self::sessions::SessionSlot;
use self::wire::Wire;
use super::error::{ProbeError, Stage};
use super::progress::{ProbeObserver, Progress};
use super::transport::Transport;
use crate::engine::config::{
    Authorities, CertificatePem, ClientCertificates, TlsFiles, Unread, shown_path,
};
use crate::engine::target::{ClientCertificate, Target};
use crate::sys::{tls_certificates, tls_library};

/// How long a connect probe waits for the session ticket that follows a TLS 1.3 handshake
/// (RFC 8446 §4.6.1). It waits only if no ticket has arrived yet.
const TICKET_WAIT: Duration = Duration::from_millis(50);

/// How many TLS contexts are kept for CA and certificate files that only checks of scripts have named, and no
/// target. Without a limit a script that checks with ever new files would take ever more memory.
const OTHERS_MAX: usize = 64;

/// What a completed handshake tells about the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// When the leaf certificate expires, in seconds since 1970.
    pub not_after: Option<i64>,
    /// Whether an earlier session was resumed. The server has then not sent its certificate again.
    pub resumed: bool,
    /// Whether the server asked for a client certificate at the last full handshake, and none is
    /// configured.
    pub wants_certificate: bool,
    /// What a full handshake showed, as the line of a [`TlsDetails`](crate::engine::tls_details::TlsDetails).
    pub details: Option<Arc<String>>,
}

/// What connections have in common. Targets with the same policy share a context.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Policy {
    verification: Verification,
    shows: Option<Box<ClientCertificate>>,
}

/// How certificates are verified.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Verification {
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
    /// Receives the details of every handshake.
    observer: Option<Arc<dyn ProbeObserver>>,
}

#[derive(Default)]
struct Contexts {
    files: TlsFiles,
    made: HashMap<Policy, TlsContext>,
}

impl Contexts {
    /// Adds a context. One too many for files that no target names makes room by dropping all of these:
    /// scripts that use so many gain little from contexts that are kept.
    fn add(&mut self, policy: Policy, context: TlsContext) {
        let TlsFiles {
            authorities,
            client_certificates,
        } = &self.files;
        let is_of_targets = |policy: &Policy| {
            let shown = policy.shows.as_deref();
            let trusted = match &policy.verification {
                Verification::ByFile(path) => authorities.has_file(path),
                Verification::Unverified | Verification::BySystem => true,
            };
            trusted && shown.is_none_or(|files| client_certificates.has_files(files))
        };
        let others = self.made.keys().filter(|made| !is_of_targets(made)).count();
        if others >= OTHERS_MAX && !is_of_targets(&policy) {
            self.made.retain(|made, _| is_of_targets(made));
        }
        self.made.insert(policy, context);
    }
}

impl TlsClient {
    /// A client that reports the details of every handshake.
    pub(super) fn observed(observer: Arc<dyn ProbeObserver>) -> Self {
        Self {
            observer: Some(observer),
            ..Self::default()
        }
    }

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
        let note = |ssl: &SslRef| {
            if let Some(observer) = &self.observer {
                observer.note(Progress::Tls(&details::of(ssl)));
            }
        };
        let (tls, made) =
            handshake::handshake(&context, wire, target, slot, session, &note).await?;
        let facts = TlsFacts {
            not_after: made.not_after,
            resumed: made.resumed,
            wants_certificate: match slot {
                // A server does not ask again when it resumes a session.
                Some(slot) if made.resumed => slot.wants_certificate(),
                _ => made.wants_certificate,
            },
            details: made.details.clone(),
        };
        // OpenSSL does not verify a resumed session's certificate again: it may have expired since.
        if !target.tls_skip_verify && facts.not_after.is_some_and(|at| at <= times::unix_now()) {
            return Err(reason::expired(facts.not_after));
        }
        if let Some(slot) = slot {
            slot.made(made);
        }
        Ok((Box::new(tls), facts))
    }

    /// Makes the context for a target, which the first handshake else waits for.
    pub(super) fn prepare(&self, target: &Target) {
        // The handshake reports why it cannot be made.
        let _ = self.context(target);
    }

    fn context(&self, target: &Target) -> Result<TlsContext, ProbeError> {
        // A failure here concerns every target, so it is stage `internal`.
        tls_library::usable().map_err(|problem| ProbeError::new(Stage::Internal, problem))?;
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let verification = match &target.tls_ca_file {
            _ if target.tls_skip_verify => Verification::Unverified,
            None => Verification::BySystem,
            Some(path) => Verification::ByFile(path.clone()),
        };
        let policy = Policy {
            verification,
            shows: target.client_certificate.clone(),
        };
        if let Some(context) = contexts.made.get(&policy) {
            return Ok(context.clone());
        }
        let TlsFiles {
            authorities,
            client_certificates,
        } = &contexts.files;
        let trust = match &policy.verification {
            Verification::Unverified => Trust::Anybody,
            Verification::BySystem => Trust::These(system(authorities)?),
            Verification::ByFile(path) => Trust::These(of_file(authorities, path)?),
        };
        let shows = policy.shows.as_ref();
        let shows = shows.map(|files| shown(client_certificates, files));
        let context = context::context(trust, shows.transpose()?.as_deref())?;
        contexts.add(policy, context.clone());
        Ok(context)
    }

    /// Sets authorities and client certificates for later handshakes, and drops contexts made with
    /// the previous ones.
    pub fn use_files(&self, files: TlsFiles) {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        *contexts = Contexts {
            files,
            made: HashMap::new(),
        };
    }
}

fn system(authorities: &Authorities) -> Result<Vec<X509>, ProbeError> {
    let pem = authorities.of_system();
    let pem = pem.map_err(|unread| unusable("", &unread))?;
    let what = "the system's CAs";
    tls_certificates::from_pem(&pem).map_err(|errors| reason::before_handshake(&errors, what))
}

fn of_file(authorities: &Authorities, path: &Path) -> Result<Vec<X509>, ProbeError> {
    let what = format!("tls_ca_file {}", shown_path(path));
    let pem = authorities
        .of_file(path)
        .map_err(|unread| unusable(&format!("{what}: "), &unread))?;
    tls_certificates::from_pem(&pem).map_err(|errors| reason::before_handshake(&errors, &what))
}

fn shown(
    certificates: &ClientCertificates,
    files: &ClientCertificate,
) -> Result<Arc<CertificatePem>, ProbeError> {
    let pem = certificates.of_files(files);
    pem.map_err(|(key, unread)| unusable(&format!("{key} "), &unread))
}

fn unusable(what: &str, unread: &Unread) -> ProbeError {
    let stage = match unread.is_own_lack {
        true => Stage::Internal,
        false => Stage::Tls,
    };
    ProbeError::new(stage, format!("{what}{}", unread.problem))
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

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;

    use super::*;
    use crate::engine::target::{Host, Protocol, TlsMode};

    /// A certificate as PEM.
    fn certificate() -> Vec<u8> {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_pubkey(&key).unwrap();
        let at = |days| Asn1Time::days_from_now(days).unwrap();
        certificate.set_not_before(&at(0)).unwrap();
        certificate.set_not_after(&at(1)).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        certificate.build().to_pem().unwrap()
    }

    #[test]
    fn contexts_for_files_of_no_target_are_dropped_when_they_are_many() {
        let file = std::env::temp_dir().join(format!("nb-contexts-{}", std::process::id()));
        std::fs::write(&file, certificate()).unwrap();
        let mut target = Target::new(Protocol::Imap, Host::Ip([127, 0, 0, 1].into()), 993);
        target.tls_mode = TlsMode::Implicit;
        target.tls_ca_file = Some(file.clone());
        let client = TlsClient::default();
        client.use_files(TlsFiles::of(&[Arc::new(target.clone())]).unwrap());
        std::fs::remove_file(&file).unwrap();
        assert!(client.context(&target).is_ok());
        let context = context::context(Trust::Anybody, None).ok().unwrap();
        let mut contexts = client.contexts.lock().unwrap();
        for number in 0..3 * OTHERS_MAX {
            let policy = Policy {
                verification: Verification::ByFile(number.to_string().into()),
                shows: None,
            };
            contexts.add(policy, context.clone());
            assert!(contexts.made.len() <= OTHERS_MAX + 1);
        }
        let of_target = Policy {
            verification: Verification::ByFile(file),
            shows: None,
        };
        assert!(contexts.made.contains_key(&of_target));
    }
}
