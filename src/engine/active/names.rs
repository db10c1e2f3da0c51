//! The addresses of a configuration's host names at the time it was configured.
//!
//! nginx's mail proxy takes addresses only, and a worker needs one before its first probe has
//! resolved the name. So the master, which never probes, resolves the names while it reads its
//! configuration, as nginx does for its own upstreams, and the workers inherit the addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::ActiveConfig;
use crate::engine::config::Config;
use crate::engine::probe::resolve::resolve_here;
use crate::engine::target::{Host, HostName, Target};

/// Addresses by host name.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    found: HashMap<HostName, Arc<[IpAddr]>>,
    is_required: bool,
}

impl KnownNames {
    /// No addresses. `is_required`: the host takes addresses only, so a name without one is not
    /// listed.
    pub fn none(is_required: bool) -> Self {
        Self {
            found: HashMap::new(),
            is_required,
        }
    }

    /// Resolves the names of `config` one after the other. Blocks the calling thread for as long as
    /// the system's resolver takes; no lookup is started once `connect_timeout` has passed.
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
                // A failed lookup is kept as well, so that other targets with the same name do not
                // repeat it.
                let addresses = resolve_here(name).unwrap_or_else(|| [].into());
                known.found.insert(name.clone(), addresses);
            }
        }
        known
    }

    /// Whether a name without an address is not listed.
    pub fn is_required(&self) -> bool {
        self.is_required
    }

    /// The addresses of a target's host name; empty for an address.
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
    /// The addresses of the host names when they were last configured.
    pub fn names(&self) -> Arc<KnownNames> {
        self.names.load_full()
    }

    /// Replaces the addresses after the same configuration was given again. They may change the
    /// list, so readers get a new generation.
    pub fn set_names(&self, names: KnownNames) {
        self.names.store(Arc::new(names));
        self.table.bump_generation();
    }
}
