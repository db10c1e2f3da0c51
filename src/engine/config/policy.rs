//! How often targets are probed and what makes a verdict: the service's keys, and a target's
//! own in their place.

use std::time::Duration;

use super::issue::Issue;
use super::keys::{self, Key};
use super::reader::Reader;
use crate::engine::target::ProbePolicy;

/// What a target uses that has no keys of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyDefaults {
    policy: ProbePolicy,
    /// Whether these were given: else they follow from `connect_interval`.
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

/// What a section or a target says, and `defaults` where it says nothing.
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
