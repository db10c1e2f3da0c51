//! What a configuration's host names meant when it was configured.
//!
//! nginx's mail proxy takes addresses only, and its master probes nothing: names are looked up
//! there while it reads its configuration, as nginx does for its own upstreams, and the workers
//! that it forks know the answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::ActiveConfig;
use crate::engine::config::Config;
use crate::engine::probe::resolve::resolve_here;
use crate::engine::target::{Host, HostName, Target};

/// Addresses of names.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    found: HashMap<HostName, Arc<[IpAddr]>>,
    is_required: bool,
}

impl KnownNames {
    /// No name. `is_required`: a name without an address is of no use to this host.
    pub fn none(is_required: bool) -> Self {
        Self {
            found: HashMap::new(),
            is_required,
        }
    }

    /// Looks the names of `config` up, one after the other, and blocks the calling thread for as
    /// long as the system's resolver takes. None is begun after the configuration's
    /// `connect_timeout`.
    pub fn look_up(config: &Config, is_required: bool) -> Self {
        let begun = Instant::now();
        let mut known = Self::none(is_required);
        for target in &config.targets {
            if begun.elapsed() >= config.timeouts.connect {
                break;
            }
            if let Host::Name(name) = &target.host
                && !known.found.contains_key(name)
            {
                // What has no address is not asked for again by each of its targets.
                let addresses = resolve_here(name).unwrap_or_else(|| [].into());
                known.found.insert(name.clone(), addresses);
            }
        }
        known
    }

    /// Whether a name without an address is of no use to this host.
    pub fn is_required(&self) -> bool {
        self.is_required
    }

    /// All that is known of a target's name.
    pub fn addresses_of(&self, target: &Target) -> &[IpAddr] {
        match &target.host {
            Host::Name(name) => self.found.get(name).map_or(&[], |found| found),
            Host::Ip(_) => &[],
        }
    }

    pub(super) fn address_of(&self, target: &Target) -> Option<IpAddr> {
        self.addresses_of(target).first().copied()
    }
}

impl ActiveConfig {
    /// What the host names meant when they were last configured.
    pub fn names(&self) -> Arc<KnownNames> {
        self.names.load_full()
    }

    /// The same configuration was given again, and its names were looked up again.
    pub fn set_names(&self, names: KnownNames) {
        self.names.store(Arc::new(names));
        self.table.bump_generation();
    }
}
