//! What a probe reports while it runs, for a person who waits for it.
//!
//! The scheduler's probes have no observer. The command `nauthilus-backend check` has one, to show
//! each stage with its time, the certificate and what the server offers.

use std::net::IpAddr;

use super::error::Stage;
use crate::engine::tls_details::TlsDetails;

/// Something that a running probe has done or found out.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// The probe is in this stage from now on. A stage that needs neither network nor look-up is
    /// not reported.
    Stage(Stage),
    /// The addresses of the host name, in the order in which they are tried.
    Resolved(&'a [IpAddr]),
    /// The address to which the connection was made.
    Connected(IpAddr),
    /// The handshake has ended: its parameters and the certificate, which may have been refused.
    Tls(&'a TlsDetails),
    /// A line of the server's greeting, of its capabilities, or the status line of an HTTP
    /// response. Text of the peer: it may contain any byte but NUL, CR and LF.
    Line(&'a [u8]),
}

/// Receives what a probe reports. It must not block: the probe waits for it.
pub trait ProbeObserver: Send + Sync {
    fn note(&self, progress: Progress<'_>);
}
