//! One probe of one target: resolve, connect, PROXY header, TLS, dialogue.
//!
//! The scheduler and `check_backend_connection` run the same code. `connect_timeout` bounds
//! resolving, connecting and the PROXY header together; TLS and the dialogue each have their own
//! timeout. The number of bytes read from the peer is bounded, see [`transport::READ_LIMIT`].

mod attempts;
mod connect;
mod connection_limit;
mod deadline;
pub mod dialogue;
pub mod error;
mod lingering;
mod outcome;
pub(in crate::engine) mod panics;
pub mod progress;
mod proxy;
pub mod resolve;
mod socket;
mod stage_clock;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod transport;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;

pub(in crate::engine) use self::attempts::Attempts;
pub use self::connect::ReusableSockets;
use self::connect::{Destination, Dialled, Manner};
pub(in crate::engine) use self::connect::{attempt_interval, connect_to};
pub(in crate::engine) use self::connection_limit::ConnectionLimit;
use self::deadline::within;
use self::dialogue::Conversation;
use self::error::{ProbeError, Stage};
use self::lingering::LingerHandle;
pub use self::lingering::LingeringConnections;
use self::outcome::ProbeFindings;
pub use self::outcome::{Depth, Outcome, Resumption};
use self::progress::{ProbeObserver, Progress};
use self::resolve::Resolver;
pub(in crate::engine) use self::socket::Stream;
pub use self::stage_clock::{StageClock, StageTimes};
use self::tls::{TlsClient, TlsFacts};
use self::transport::{Limited, READ_LIMIT, Transport};
use super::config::TlsFiles;
use super::target::{Host, HostName, Target, TlsMode};

/// The TLS client and the resolver that all probes of an engine share.
#[derive(Default)]
pub struct Prober {
    tls: TlsClient,
    resolver: Resolver,
    connections: ConnectionLimit,
    observer: Option<Arc<dyn ProbeObserver>>,
}

/// A probe that was started, see [`Prober::begin`].
pub enum Begun {
    Ended(Outcome),
    Underway(Underway),
}

/// A probe that has to wait for the network. [`Prober::finish`] continues it.
pub struct Underway {
    started: Instant,
    /// The connection attempt to the first address, if the address was known without a look-up.
    first: Option<(IpAddr, Dialled)>,
    is_known: Arc<AtomicBool>,
}

impl Underway {
    fn new(started: Instant, first: Option<(IpAddr, Dialled)>) -> Self {
        Self {
            started,
            first,
            is_known: Arc::default(),
        }
    }

    /// Becomes true when the result is known and only the graceful close, or the wait for a session
    /// ticket, is left.
    pub fn is_known(&self) -> Arc<AtomicBool> {
        self.is_known.clone()
    }
}

/// The sum of the timeouts that apply to a probe of this depth.
fn longest(target: &Target, depth: Depth) -> Duration {
    let deep = match depth {
        Depth::Connect => Duration::ZERO,
        Depth::Deep => target.deep_timeout,
    };
    target.connect_timeout + target.tls_timeout + deep
}

fn manner(target: &Target, depth: Depth) -> Manner {
    if depth == Depth::Deep || ends_gracefully(target) {
        Manner::Dialogue
    } else {
        Manner::ConnectOnly
    }
}

/// Whether a connect probe of this target needs a graceful close instead of a reset. After a TLS
/// handshake, servers log a reset as an error. After a PROXY header, the kernel of the server may
/// discard the unread header when the reset arrives.
fn ends_gracefully(target: &Target) -> bool {
    target.implicit_tls() || target.haproxy_v2
}

/// Graceful close: sends TLS's `close_notify`, if the connection uses TLS, and FIN. Then reads what
/// the server still sends, here or among the lingering connections, because the kernel sends a
/// reset if a socket is closed with unread bytes.
async fn end_gracefully(
    mut transport: impl Transport,
    lingering: Option<&LingeringConnections>,
    linger: &LingerHandle,
) {
    // Tried once, without waiting: the result of the probe is already known.
    let _ = transport.shutdown().now_or_never();
    linger.open();
    drop(transport);
    await_end(lingering, linger).await;
}

/// Moves the connection to the lingering ones, or waits here until the server closes it. What still
/// arrives is read from the socket, past TLS: after `close_notify` OpenSSL stops at the first session
/// ticket, and closing a socket with unread bytes sends a reset.
async fn await_end(lingering: Option<&LingeringConnections>, linger: &LingerHandle) {
    match lingering {
        Some(lingering) => lingering.take(linger),
        None => {
            if let Some(connection) = linger.take() {
                connection.wait_for_end().await;
            }
        }
    }
}

/// A failure under TLS of a server that asked for a client certificate and got none, which may be
/// why: many servers go on without it and then refuse what is asked of them.
fn without_certificate(error: ProbeError) -> ProbeError {
    if error.stage == Stage::Tls || error.is_timeout || !error.is_conclusive() {
        return error;
    }
    let reason = format!("{}{}", error.reason, tls::ASKED_FOR_CERTIFICATE);
    ProbeError { reason, ..error }
}

impl Prober {
    /// A prober whose probes report what they do.
    pub fn observed(observer: Arc<dyn ProbeObserver>) -> Self {
        Self {
            tls: TlsClient::observed(observer.clone()),
            observer: Some(observer),
            ..Self::default()
        }
    }

    /// Makes what handshakes with this target need, so that the first one takes no longer than
    /// others. A failure is reported by the probe.
    pub fn prepare(&self, target: &Target) {
        if target.tls_mode != TlsMode::Plain {
            self.tls.prepare(target);
        }
    }

    fn report(&self, progress: Progress<'_>) {
        if let Some(observer) = &self.observer {
            observer.note(progress);
        }
    }

    fn enter(&self, clock: &StageClock, stage: Stage) {
        clock.enter(stage);
        self.report(Progress::Stage(stage));
    }

    /// Runs one probe. It completes within the sum of the target's timeouts. If the process was
    /// stopped (SIGSTOP) meanwhile, deadlines are renewed once, so it may take twice as long.
    pub async fn run(
        &self,
        target: &Target,
        depth: Depth,
        resumption: Option<&Resumption>,
    ) -> Outcome {
        if self.observer.is_some() {
            // `begin` reports no stages.
            let probe = Underway::new(Instant::now(), None);
            return self.finish(probe, target, depth, resumption, None).await;
        }
        match self.begin(target, depth, &mut ReusableSockets::default()) {
            Begun::Ended(outcome) => outcome,
            Begun::Underway(probe) => self.finish(probe, target, depth, resumption, None).await,
        }
    }

    /// Begins a probe and does what needs no waiting. A connect-only probe often completes here:
    /// it then costs a few system calls and no task.
    ///
    /// `reusable` keeps a connected socket for the next probe of the same batch.
    pub fn begin(&self, target: &Target, depth: Depth, reusable: &mut ReusableSockets) -> Begun {
        let started = Instant::now();
        let underway = |first| Begun::Underway(Underway::new(started, first));
        if manner(target, depth) == Manner::Dialogue {
            return underway(None);
        }
        let known;
        let addresses = match &target.host {
            Host::Ip(ip) => std::slice::from_ref(ip),
            Host::Name(name) => {
                known = self.resolver.known(name);
                known.as_deref().unwrap_or_default()
            }
        };
        let source = target.source_address;
        let Some(address) = addresses
            .first()
            .map(IpAddr::to_canonical)
            .filter(|address| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4()))
        else {
            return underway(None);
        };
        // A socket bound to a source address must not be reused for a target without one.
        let mut own = ReusableSockets::default();
        let reusable = if source.is_some() { &mut own } else { reusable };
        let dialled = connect::dial(address, target.port, source, Manner::ConnectOnly, reusable);
        let (result, address) = match dialled {
            Dialled::Connected(socket) => {
                connect::abort(socket, address, reusable);
                (Ok(()), Some(address))
            }
            // The address of a host name may be out of date: `finish` looks the name up again.
            Dialled::Failed(error) if matches!(target.host, Host::Ip(_)) => (Err(error), None),
            dialled => return underway(Some((address, dialled))),
        };
        let elapsed = started.elapsed();
        Begun::Ended(Outcome {
            result,
            address,
            elapsed,
            stages: StageTimes::new(),
            tls: None,
        })
    }

    /// Continues a probe until it completes, within the sum of the target's timeouts.
    ///
    /// If a handshake fails that offered a session, the session may be the cause: the server may
    /// have changed its certificate or its TLS versions, or be unable to resume. The probe is then
    /// repeated once without a session, within the time that is left. No other failure is repeated.
    ///
    /// A connection that only waits for the server to close moves to `lingering`, if that is given
    /// and has room; otherwise this waits for it.
    pub async fn finish(
        &self,
        probe: Underway,
        target: &Target,
        depth: Depth,
        resumption: Option<&Resumption>,
        lingering: Option<&LingeringConnections>,
    ) -> Outcome {
        let Underway {
            started,
            first,
            is_known,
        } = probe;
        let _connection = self.connections.hold();
        let (clock, second_clock) = (StageClock::default(), StageClock::default());
        if first.is_some() {
            clock.enter_at(Stage::Connect, started);
        }
        let mut found = ProbeFindings::new(&clock, &is_known);
        let mut result = self
            .stages(target, depth, resumption, first, lingering, &mut found)
            .await;
        if let (Err(error), Some(kept)) = (&result, resumption)
            && error.stage == Stage::Tls
            && let Some(offered) = kept.slot.failed(error.is_timeout)
        {
            if error.is_timeout {
                // Recorded before the repetition, because that may time out as well.
                kept.slot.spoilt_by(offered);
            }
            // An expired certificate or a timeout does not show that the session was the cause.
            let is_spoilt = error.certificate_end.is_none() && !error.is_timeout;
            if let Some(left) = longest(target, depth).checked_sub(started.elapsed()) {
                let mut found_anew = ProbeFindings::new(&second_clock, &is_known);
                let anew = self.stages(target, depth, Some(kept), None, lingering, &mut found_anew);
                let ended = within(left, anew).await;
                // If time runs out during the graceful close, the result is already known and
                // counts.
                let known = || found_anew.known.as_ref().map(|(known, _)| known.clone());
                if let Some(anew) = ended.or_else(known) {
                    if is_spoilt && found_anew.tls.is_some() {
                        kept.slot.spoilt_by(offered);
                    }
                    (result, found) = (anew, found_anew);
                }
            }
        }
        if let Err(error) = &result
            && error.certificate_end.is_some()
        {
            found.tls = Some(TlsFacts {
                not_after: error.certificate_end,
                ..TlsFacts::default()
            });
        }
        let known_at = found.known.map_or_else(Instant::now, |(_, at)| at);
        Outcome {
            result,
            address: found.address,
            elapsed: known_at - started,
            stages: found.clock.times_until(known_at),
            tls: found.tls,
        }
    }

    /// Sets the host names of the configuration's targets, each with addresses to be used if the name
    /// cannot be looked up.
    pub fn configure_names<'n>(&self, names: impl Iterator<Item = (&'n HostName, Vec<IpAddr>)>) {
        self.resolver.configure(names);
    }

    /// Sets how many connections of probes and checks there may be before one of a name with several addresses
    /// tries them one after the other.
    pub fn limit_connections(&self, limit: usize) {
        self.connections.set(limit);
    }

    #[cfg(test)]
    pub(in crate::engine) fn connections(&self) -> &ConnectionLimit {
        &self.connections
    }

    /// Sets the authorities that later handshakes trust, and the certificates that they show.
    pub fn use_files(&self, files: TlsFiles) {
        self.tls.use_files(files);
    }

    async fn stages(
        &self,
        target: &Target,
        depth: Depth,
        resumption: Option<&Resumption>,
        first: Option<(IpAddr, Dialled)>,
        lingering: Option<&LingeringConnections>,
        found: &mut ProbeFindings<'_>,
    ) -> Result<(), ProbeError> {
        let clock = found.clock;
        let mut stage = Stage::Resolve;
        let mut lacked = None;
        let manner = manner(target, depth);
        let opening = self.open(target, manner, first, clock, &mut stage, &mut lacked);
        let stream = match within(target.connect_timeout, opening).await {
            Some(opened) => opened?,
            None => {
                // If our process could not ask for the name or try one of the addresses, the server
                // might have answered: report our failure, which is inconclusive, instead of the
                // timeout.
                let lacked = lacked.filter(|_| matches!(stage, Stage::Resolve | Stage::Connect));
                let timeout = || ProbeError::timeout(stage, target.connect_timeout);
                return Err(lacked.unwrap_or_else(timeout));
            }
        };
        let (mut stream, address) = stream;
        found.address = Some(address);
        if depth == Depth::Connect {
            if !ends_gracefully(target) {
                stream.end_abruptly();
                return Ok(());
            }
            let lingering = lingering.filter(|lingering| lingering.have_room());
            let linger = stream.linger();
            if target.implicit_tls() {
                let tls = self.connect_tls(stream, target, resumption, found).await?;
                end_gracefully(tls, lingering, &linger).await;
            } else {
                found.know(Ok(()));
                end_gracefully(stream, lingering, &linger).await;
            }
            return Ok(());
        }
        self.converse(stream, address, target, resumption, lingering, found)
            .await
    }

    async fn open(
        &self,
        target: &Target,
        manner: Manner,
        first: Option<(IpAddr, Dialled)>,
        clock: &StageClock,
        stage: &mut Stage,
        lacked: &mut Option<ProbeError>,
    ) -> Result<(Stream, IpAddr), ProbeError> {
        let begun = Instant::now();
        let resolved;
        let addresses = match &target.host {
            Host::Ip(ip) => std::slice::from_ref(ip),
            Host::Name(name) => {
                // The rest of the time is for connecting to the addresses that are known.
                let patience = target.connect_timeout / 4;
                self.enter(clock, Stage::Resolve);
                resolved = self.resolver.resolve_within(name, patience, lacked).await?;
                self.report(Progress::Resolved(&resolved));
                &*resolved
            }
        };
        let again = async {
            match &target.host {
                Host::Ip(_) => None,
                Host::Name(name) => self.resolver.resolve_again(name).await,
            }
        };
        *stage = Stage::Connect;
        self.enter(clock, Stage::Connect);
        let wanted = Destination {
            addresses,
            port: target.port,
            source: target.source_address,
            manner,
            time: target.connect_timeout.saturating_sub(begun.elapsed()),
            limit: &self.connections,
        };
        let (mut stream, address) = connect::connect(wanted, again, first, lacked).await?;
        self.report(Progress::Connected(address));
        if target.haproxy_v2 {
            *stage = Stage::Proxy;
            self.enter(clock, Stage::Proxy);
            proxy::send(&mut stream).await?;
        }
        Ok((stream, address))
    }

    /// The TLS part of a connect probe: the handshake, and a short wait for a session ticket.
    async fn connect_tls(
        &self,
        stream: Stream,
        target: &Target,
        resumption: Option<&Resumption>,
        found: &mut ProbeFindings<'_>,
    ) -> Result<Box<dyn Transport>, ProbeError> {
        self.enter(found.clock, Stage::Tls);
        let kept = resumption.map(|r| (&r.slot, r.full_every));
        let (mut tls, facts) = self.tls.handshake(stream, target, kept).await?;
        found.tls = Some(facts);
        found.know(Ok(()));
        if let Some(resumption) = resumption {
            tls::await_ticket(&mut *tls, &resumption.slot).await;
        }
        Ok(tls)
    }

    async fn converse(
        &self,
        mut stream: Stream,
        address: IpAddr,
        target: &Target,
        resumption: Option<&Resumption>,
        lingering: Option<&LingeringConnections>,
        found: &mut ProbeFindings<'_>,
    ) -> Result<(), ProbeError> {
        let clock = found.clock;
        let lingering = lingering.filter(|lingering| lingering.have_room());
        let linger = stream.linger();
        let kept = resumption.map(|r| (&r.slot, r.full_every));
        let seen: Mutex<Option<TlsFacts>> = Mutex::new(None);
        let note = |facts: TlsFacts| {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
        };
        let upgrade = |transport: Box<dyn Transport>| {
            async move {
                let (tls, facts) = self.tls.handshake(transport, target, kept).await?;
                note(facts);
                Ok(tls)
            }
            .boxed()
        };
        let local = stream.local_ip().unwrap_or(Ipv4Addr::LOCALHOST.into());
        // One limit for all bytes that follow, with and without TLS.
        let stream = Limited::new(stream, READ_LIMIT);
        let tls = target.implicit_tls();
        let transport: Box<dyn Transport> = if tls {
            self.enter(clock, Stage::Tls);
            upgrade(Box::new(stream)).await?
        } else {
            Box::new(stream)
        };
        let about = Conversation {
            target,
            tls,
            loopback: address.to_canonical().is_loopback(),
            local,
            upgrade: &upgrade,
            observer: self.observer.as_deref(),
            clock: Some(clock),
        };
        let (verdict, unclosed) = dialogue::until_verdict(transport, about).await;
        found.tls = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wants_certificate = found.tls.as_ref().is_some_and(|tls| tls.wants_certificate);
        let verdict = match verdict {
            Err(error) if wants_certificate => Err(without_certificate(error)),
            verdict => verdict,
        };
        found.know(verdict.clone());
        let leave = || linger.open();
        match lingering {
            Some(_) => unclosed.leave(leave).await,
            None => unclosed.finish(leave).await,
        }
        await_end(lingering, &linger).await;
        verdict
    }
}
