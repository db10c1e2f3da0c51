//! Intervals and thresholds of probes: those of the service section, and those that a target sets for
//! itself.

use std::time::Duration;

use super::issue::Issue;
use super::keys::{self, Key};
use super::reader::Reader;
use crate::engine::target::ProbePolicy;

/// The values for targets that set none themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyDefaults {
    policy: ProbePolicy,
    /// Whether the service section sets `deep_interval`. If not, a target's default follows from its
    /// `connect_interval`; likewise for `has_fast_interval`.
    has_deep_interval: bool,
    has_fast_interval: bool,
}

impl Default for PolicyDefaults {
    fn default() -> Self {
        Self {
            policy: ProbePolicy::DEFAULT,
            has_deep_interval: false,
            has_fast_interval: false,
        }
    }
}

impl PolicyDefaults {
    /// Those of the service section.
    pub(super) fn of_service(reader: &Reader<'_>) -> Result<Self, Issue> {
        let given = |key| Ok::<_, Issue>(reader.duration(key)?.is_some());
        Ok(Self {
            policy: read(reader, &Self::default())?,
            has_deep_interval: given(&keys::DEEP_INTERVAL)?,
            has_fast_interval: given(&keys::FAST_INTERVAL)?,
        })
    }

    pub(super) fn policy(&self) -> ProbePolicy {
        self.policy
    }
}

/// The policy from the keys of a section or a target; `defaults` for keys that are not given.
pub(super) fn read(reader: &Reader<'_>, defaults: &PolicyDefaults) -> Result<ProbePolicy, Issue> {
    let service = defaults.policy;
    let connect_interval = reader
        .duration(&keys::CONNECT_INTERVAL)?
        .unwrap_or(service.connect_interval);
    let deep_default = if defaults.has_deep_interval {
        service.deep_interval
    } else {
        connect_interval
    };
    let fast_default = if defaults.has_fast_interval {
        service.fast_interval
    } else {
        connect_interval.min(Duration::from_secs(1))
    };
    Ok(ProbePolicy {
        connect_interval,
        deep_interval: reader
            .duration(&keys::DEEP_INTERVAL)?
            .unwrap_or(deep_default),
        fast_interval: reader
            .duration(&keys::FAST_INTERVAL)?
            .unwrap_or(fast_default),
        failure_threshold: threshold(reader, &keys::FAILURE_THRESHOLD, service.failure_threshold)?,
        recovery_threshold: threshold(
            reader,
            &keys::RECOVERY_THRESHOLD,
            service.recovery_threshold,
        )?,
    })
}

fn threshold(reader: &Reader<'_>, key: &Key, default: u32) -> Result<u32, Issue> {
    let given = reader.integer(key)?;
    Ok(given
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(default))
}
