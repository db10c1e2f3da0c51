//! One TLS handshake by OpenSSL, with the system's `openssl.cnf` in force.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{self, Ssl, SslRef, SslVerifyMode, SslVersion};
use tokio::io::{AsyncRead, AsyncWrite};

use super::context::TlsContext;
use super::details;
use super::names::{expect_name, server_name};
use super::notes::{self, Notes, notes_index};
use super::reason;
use super::sessions::{Made, SessionSlot};
use super::slot::Kept;
use super::times;
use super::wire::Wire;
use crate::engine::probe::deadline::within;
use crate::engine::probe::error::{ProbeError, Stage};
use crate::engine::target::{Target, TlsMinVersion};
use crate::sys::tls_session::Resumable;
use crate::sys::tls_stream::TlsStream;
use crate::sys::{tls_certificate_request, tls_group};

/// How long a probe waits at least for the refusal of a server that asked for a client certificate
/// in TLS 1.3. A server that goes on usually sends a session ticket at once, which ends
/// the wait.
const REFUSAL_WAIT: Duration = Duration::from_millis(50);

/// Performs one handshake within the target's `tls_timeout` and offers `session`, if given.
/// `note` is called when the handshake has succeeded or failed, not after a timeout.
pub(super) async fn handshake<S>(
    context: &TlsContext,
    wire: Wire<S>,
    target: &Target,
    slot: Option<&Arc<SessionSlot>>,
    session: Option<Kept<Resumable>>,
    note: &(dyn Fn(&SslRef) + Sync),
) -> Result<(TlsStream<Wire<S>>, Made), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ssl = connection(context, target, slot, session.as_ref())
        .map_err(|errors| reason::setup_of_connection(&errors))?;
    let mut tls =
        TlsStream::new(ssl, wire).map_err(|errors| reason::setup_of_connection(&errors))?;
    let begun = Instant::now();
    match within(target.tls_timeout, tls.connect()).await {
        None => return Err(ProbeError::timeout(Stage::Tls, target.tls_timeout)),
        Some(Err(error)) => {
            note(tls.ssl());
            send_at_once(tls.get_mut()).await;
            return Err(reason::handshake(&error, tls.ssl(), target));
        }
        Some(Ok(())) => {}
    }
    if may_still_refuse(tls.ssl()) {
        let patience = REFUSAL_WAIT.max(2 * begun.elapsed());
        let left = target.tls_timeout.saturating_sub(begun.elapsed());
        if let Some(Err(error)) = within(patience.min(left), acceptance(&mut tls)).await {
            return Err(reason::handshake(&error, tls.ssl(), target));
        }
    }
    note(tls.ssl());
    let ssl = tls.ssl();
    let leaf = ssl.peer_certificate();
    let made = Made {
        not_after: leaf.as_deref().and_then(times::not_after),
        resumed: ssl.session_reused(),
        wants_certificate: reason::wants_certificate(ssl, target),
        details: (!ssl.session_reused()).then(|| Arc::new(details::of(ssl).to_line())),
        session,
    };
    Ok((tls, made))
}

/// Whether the server may still refuse our client certificate, or that we have none. In TLS 1.3 the
/// client sends the last message of the handshake, so the server checks its certificate only after
/// OpenSSL has reported success (RFC 8446 §4.4.2.4).
fn may_still_refuse(ssl: &SslRef) -> bool {
    ssl.version2() == Some(SslVersion::TLS1_3)
        && !ssl.session_reused()
        && tls_certificate_request::was_made(ssl)
}

/// Waits for a sign that the server has accepted the client: a session ticket, which it sends only
/// after the handshake, or application data, which stays unread. A refusal arrives as an alert.
async fn acceptance<S>(tls: &mut TlsStream<Wire<S>>) -> Result<(), ssl::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let peeked = tls.poll_peek(cx, &mut [0]);
        let notes = notes::of_connection(tls.ssl());
        if notes.is_some_and(|notes| notes.has_session.load(Ordering::Relaxed)) {
            return Poll::Ready(Ok(()));
        }
        peeked.map_ok(|_| ())
    })
    .await
}

fn connection(
    context: &TlsContext,
    target: &Target,
    slot: Option<&Arc<SessionSlot>>,
    session: Option<&Kept<Resumable>>,
) -> Result<Ssl, ErrorStack> {
    let mut ssl = match session.map(|kept| &kept.session) {
        Some(resumable) => resumable.connection()?,
        None => Ssl::new(&context.ssl)?,
    };
    if let Some(kept) = session {
        if kept.session.version() == SslVersion::TLS1_2 {
            // Offering TLS 1.3 as well would cost a key exchange that resuming TLS 1.2 does not need.
            ssl.set_max_proto_version(Some(SslVersion::TLS1_2))?;
        }
        let group = context.resuming_group.filter(|_| {
            kept.session.version() == SslVersion::TLS1_3
                && slot.is_none_or(|slot| slot.may_offer_one_group())
        });
        if let Some(group) = group {
            tls_group::offer_only(&mut ssl, group)?;
        }
        if let Some(slot) = slot {
            slot.offers_one_group(group.is_some());
        }
    }
    tls_certificate_request::prepare_connection(&mut ssl)?;
    // Whatever else a connection sets that changes the result of a verification must become part of the key
    // in `verified.rs`.
    let name = server_name(target);
    expect_name(ssl.param_mut(), &name)?;
    if name.parse::<std::net::IpAddr>().is_err() {
        // SNI must not contain an IP address (RFC 6066 §3).
        ssl.set_hostname(&name)?;
    }
    if target.tls_min_version == TlsMinVersion::V1_3 {
        ssl.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    }
    if target.tls_skip_verify {
        ssl.set_verify(SslVerifyMode::NONE);
    }
    let notes = Notes {
        name,
        slot: slot.cloned(),
        ..Notes::default()
    };
    ssl.set_ex_data(notes_index()?, notes);
    Ok(ssl)
}

/// Sends what [`Wire`] still holds, without waiting: after a failed handshake, the alert that tells
/// the server the reason.
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
