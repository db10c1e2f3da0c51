//! What a probe finds out, and what it is given for that.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::error::ProbeError;
use super::stage_clock::{StageClock, StageTimes};
use super::tls::{SessionSlot, TlsFacts};

/// How far a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// TCP, then the PROXY header and implicit TLS, if they are configured.
    Connect,
    /// As [`Depth::Connect`], and then the protocol's dialogue.
    Deep,
}

/// The result of one probe.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub result: Result<(), ProbeError>,
    /// The address that was connected to.
    pub address: Option<IpAddr>,
    /// The time from the start until the result was known. The graceful close and the wait for a
    /// session ticket come after that and are not included.
    pub elapsed: Duration,
    /// How long each stage took; empty where the whole time was for connecting.
    pub stages: StageTimes,
    /// From the last TLS handshake; None if there was none.
    pub tls: Option<TlsFacts>,
}

impl Outcome {
    /// Whether the outcome may change the target's verdict, see [`super::error::Evidence`].
    // Not inlined: where it is, the compiler branches by the error's field before it knows that there is an error.
    // That does no harm, but memcheck reports it.
    #[inline(never)]
    pub fn is_conclusive(&self) -> bool {
        self.result
            .as_ref()
            .map_or_else(ProbeError::is_conclusive, |()| true)
    }
}

/// Where one target's TLS sessions are stored, and for how long they may be resumed.
#[derive(Clone)]
pub struct Resumption {
    pub slot: Arc<SessionSlot>,
    /// The longest time between two full handshakes. Only a full handshake shows the certificate.
    pub full_every: Duration,
}

/// What a probe has found out while it goes on.
pub(super) struct ProbeFindings<'a> {
    pub(super) clock: &'a StageClock,
    /// Set once the result is known.
    is_known: &'a AtomicBool,
    pub(super) address: Option<IpAddr>,
    /// The result and the time at which it was known, if the probe goes on after that (graceful
    /// close, wait for a session ticket). None: the result is known when the probe returns.
    pub(super) known: Option<(Result<(), ProbeError>, Instant)>,
    pub(super) tls: Option<TlsFacts>,
}

impl<'a> ProbeFindings<'a> {
    pub(super) fn new(clock: &'a StageClock, is_known: &'a AtomicBool) -> Self {
        Self {
            clock,
            is_known,
            address: None,
            known: None,
            tls: None,
        }
    }

    pub(super) fn know(&mut self, outcome: Result<(), ProbeError>) {
        self.known = Some((outcome, Instant::now()));
        self.is_known.store(true, Ordering::Relaxed);
    }
}
