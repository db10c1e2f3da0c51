//! TLS as a client of a target: which client makes a handshake, and what it showed.
//!
//! Two clients share the work. OpenSSL's speaks whatever servers speak, under the rules of the
//! system that it runs on, and finds the reason of every failure. The one of rustls knows TLS 1.3 alone,
//! takes a third to two thirds of the time for it, and has certificates verified by OpenSSL: it
//! makes a target's handshakes once OpenSSL's has shown that it can. It finds that a server is
//! well; where it fails, the probe is made once more with OpenSSL, whose word counts. Only a
//! server that rustls has met before and that falls silent is not asked again.
//!
//! Resumption saves much of a handshake's price on both sides, but skips the certificate:
//! hence a full handshake at least every `tls_full_handshake_interval`.

mod certificates;
mod reason;
mod sessions;
mod slot;
mod wire;
mod with_openssl;
mod with_rustls;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::SslContext;
use openssl::x509::verify::{X509CheckFlags, X509VerifyParamRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use self::reason::{is_by_rustls, stream_text};
use self::sessions::Offer;
pub use self::sessions::SessionSlot;
pub(super) use self::slot::Suspect;
use self::wire::Wire;
use super::error::ProbeError;
use super::transport::Transport;
use crate::engine::target::{Host, Target};

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

/// What sets one pair of clients apart from another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Policy {
    skip_verify: bool,
    ca_file: Option<PathBuf>,
}

/// What handshakes of one policy are made with. The system's CAs take some 20 ms to load, a
/// connection takes about a microsecond.
#[derive(Clone)]
struct Clients {
    openssl: SslContext,
    /// None where the system's rules leave it nothing.
    rustls: Option<with_rustls::Client>,
}

/// The TLS side of the probe engine: one per engine, shared by all probes.
#[derive(Default)]
pub struct TlsClient {
    clients: Mutex<HashMap<Policy, Clients>>,
}

impl TlsClient {
    /// Performs the handshake within the target's `tls_timeout`.
    ///
    /// With `slot`, an earlier session may be resumed, if its full handshake is younger than
    /// the given interval, and a new one is stored there. Every failure is of stage `tls`, or
    /// of `internal` where the process had no means to go on; one for which what the slot chose
    /// may be to blame has a [`SessionSlot::suspect`].
    pub async fn handshake<S>(
        &self,
        stream: S,
        target: &Target,
        slot: Option<(&Arc<SessionSlot>, Duration)>,
    ) -> Result<(Box<dyn Transport>, TlsFacts), ProbeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let clients = self.clients(target)?;
        let wire = Wire::new(stream);
        let offer = slot.map_or(Offer::Openssl(None), |(slot, every)| slot.take(every));
        let slot = slot.map(|(slot, _)| slot);
        let (transport, made): (Box<dyn Transport>, _) = match (offer, slot, &clients.rustls) {
            (Offer::Rustls(session), Some(slot), Some(client)) => {
                let (tls, made) = client.handshake(wire, target, slot, session).await?;
                (Box::new(tls), made)
            }
            (offer, slot, rustls) => {
                let session = match offer {
                    Offer::Openssl(session) => session,
                    Offer::Rustls(_) => None,
                };
                let context = &clients.openssl;
                let (tls, mut made) =
                    with_openssl::handshake(context, wire, target, slot, session).await?;
                made.suits_rustls &= rustls.is_some();
                (Box::new(tls), made)
            }
        };
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
        Ok((transport, facts))
    }

    fn clients(&self, target: &Target) -> Result<Clients, ProbeError> {
        let policy = Policy {
            skip_verify: target.tls_skip_verify,
            ca_file: target
                .tls_ca_file
                .clone()
                .filter(|_| !target.tls_skip_verify),
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clients) = clients.get(&policy) {
            return Ok(clients.clone());
        }
        let openssl = with_openssl::context(policy.skip_verify, policy.ca_file.as_deref())?;
        let made = Clients {
            rustls: with_rustls::Client::new(&openssl, policy.skip_verify),
            openssl,
        };
        clients.insert(policy, made.clone());
        Ok(made)
    }

    /// Forgets the clients, so that CA files are read again.
    pub fn forget(&self) {
        self.clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The name to ask for and to find in the certificate: a host's, without the dot that may end
/// it, or an address.
fn server_name(target: &Target) -> String {
    match (&target.tls_server_name, &target.host) {
        (Some(name), _) => name.to_string(),
        (None, Host::Name(name)) => name.trim_end_matches('.').to_owned(),
        (None, Host::Ip(ip)) => ip.to_string(),
    }
}

/// Has the certificate's names compared with `name`: a literal is matched against IP SANs.
fn expect_name(param: &mut X509VerifyParamRef, name: &str) -> Result<(), ErrorStack> {
    // RFC 9525 §6.3: a wildcard stands for one whole left-most label.
    param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
    match name.parse::<IpAddr>() {
        Ok(ip) => param.set_ip(ip),
        Err(_) => param.set_host(name),
    }
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

/// Sends what is gathered, as far as that goes without waiting: the alert that says why.
async fn send_at_once<S>(wire: &mut Wire<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let _ = wire.poll_send(cx);
        Poll::Ready(())
    })
    .await;
}
