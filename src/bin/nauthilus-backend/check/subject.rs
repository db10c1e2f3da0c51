//! A server that `check` checks, and the result of one probe of it.

use std::net::IpAddr;
use std::time::Duration;

use nauthilus_backend::engine::probe::error::ProbeError;
use nauthilus_backend::engine::target::Target;

use super::recorder::Recording;
use super::url::CheckUrl;

/// A server to check.
pub(super) struct Subject {
    pub(super) url: CheckUrl,
    pub(super) target: Target,
}

/// One probe that is complete.
pub(super) struct ProbeRun {
    pub(super) result: Result<(), ProbeError>,
    /// The time until the result was known.
    pub(super) elapsed: Duration,
    pub(super) address: Option<IpAddr>,
    pub(super) recording: Recording,
}
