//! The list of alive servers and their addresses, and what `status()` shows of targets.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ActiveConfig, KnownNames, OperatorSettings};
use crate::engine::config::InitialState;
use crate::engine::target::{Host, Protocol, Target};
use crate::engine::verdicts::health::Verdict;
use crate::engine::verdicts::{OperatorState, Record, Slot};

/// A server of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendServer {
    pub target: Arc<Target>,
    /// The address the last good probe used, or what is configured.
    pub ip: String,
    /// The weight in force of the target's node, 0..=1000.
    pub weight: u16,
    /// The state that operators have set.
    pub state: OperatorState,
}

impl BackendServer {
    pub(super) fn new(target: &Arc<Target>, ip: String, settings: &OperatorSettings) -> Self {
        let weight = settings.weight_of(&target.node());
        Self {
            target: target.clone(),
            ip,
            weight: weight.unwrap_or(target.placement.weight),
            state: settings.state_of(target),
        }
    }
}

/// The alive targets at one generation, in configured order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub generation: u64,
    pub servers: Vec<BackendServer>,
}

/// A target as `status()` shows it.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    pub target: Arc<Target>,
    pub slot: Slot,
    pub record: Record,
    /// What the last full TLS handshake showed, as the line of a
    /// [`TlsDetails`](crate::engine::tls_details::TlsDetails).
    pub tls: Option<String>,
    /// The state that operators have set.
    pub state: OperatorState,
    /// What a server object of this target shows as `ip`.
    pub ip: String,
}

/// A protocol in panic, and how many of its targets are alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic {
    pub protocol: Protocol,
    pub alive: usize,
    pub of: usize,
}

impl ActiveConfig {
    /// Whether a target with this verdict is listed while its protocol is not in panic.
    pub fn lists(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Alive => true,
            Verdict::Dead => false,
            Verdict::Unknown => self.config.initial_state == InitialState::Alive,
        }
    }

    /// The list of alive targets now, consistent with its generation.
    pub fn snapshot(&self) -> Snapshot {
        let names = self.names.load();
        let (generation, servers) = self.table.view(|table| {
            let briefs = self.slots.iter().map(|slot| table.read_brief(*slot));
            let briefs: Vec<(Verdict, Option<IpAddr>)> = briefs.collect();
            let settings = self.operator_settings();
            let verdicts = briefs.iter().map(|(verdict, _)| *verdict);
            let panicking = self.panicking_by(verdicts, &settings);
            let pairs = self.config.targets.iter().zip(&briefs);
            pairs
                .filter(|(target, _)| settings.lists(target))
                .filter_map(|(target, (verdict, address))| {
                    let is_panic = panicking.iter().any(|p| p.protocol == target.protocol);
                    let verdict = if is_panic { Verdict::Alive } else { *verdict };
                    let ip = self.shown_by(&names, target, verdict, *address)?;
                    Some(BackendServer::new(target, ip, &settings))
                })
                .collect()
        });
        Snapshot {
            generation,
            servers,
        }
    }

    /// The `ip` with which a target is listed; `None` where it is not listed.
    pub(super) fn shown(
        &self,
        target: &Target,
        verdict: Verdict,
        address: Option<IpAddr>,
    ) -> Option<String> {
        self.shown_by(&self.names.load(), target, verdict, address)
    }

    fn shown_by(
        &self,
        names: &KnownNames,
        target: &Target,
        verdict: Verdict,
        address: Option<IpAddr>,
    ) -> Option<String> {
        let address = address.or_else(|| names.address_of(target));
        let has_address = address.is_some() || matches!(target.host, Host::Ip(_));
        let is_listed = self.lists(verdict) && (has_address || !names.is_required());
        is_listed.then(|| shown_ip(target, address))
    }

    /// The protocols of which so few targets are alive that all of them are listed.
    pub fn panicking(&self) -> Vec<Panic> {
        if self.config.panic_threshold == 0 {
            return Vec::new();
        }
        let verdicts = self.slots.iter().map(|slot| self.table.read_brief(*slot).0);
        self.panicking_by(verdicts, &self.operator_settings())
    }

    /// The protocols in panic, from the verdicts of all targets in configured order.
    fn panicking_by(
        &self,
        verdicts: impl Iterator<Item = Verdict>,
        settings: &OperatorSettings,
    ) -> Vec<Panic> {
        let threshold = usize::from(self.config.panic_threshold);
        if threshold == 0 {
            return Vec::new();
        }
        let mut counts = Protocol::ALL.map(|protocol| Panic {
            protocol,
            alive: 0,
            of: 0,
        });
        let pairs = self.config.targets.iter().zip(verdicts);
        // A target in drain or maintenance counts neither as alive nor as dead.
        for (target, verdict) in pairs.filter(|(target, _)| settings.lists(target)) {
            if let Some(count) = counts.iter_mut().find(|c| c.protocol == target.protocol) {
                count.of += 1;
                count.alive += usize::from(self.lists(verdict));
            }
        }
        let is_short = |count: &Panic| count.alive * 100 < threshold * count.of;
        counts.into_iter().filter(is_short).collect()
    }

    /// The indices of the targets with the same key as the target with this index, if that is the first
    /// of them: this one and the later ones. Usually it is alone.
    pub fn of_one_key(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let at = self.namesakes.partition_point(|(of, _)| *of < first);
        let later = self.namesakes.get(at..).unwrap_or_default().iter();
        let later = later.take_while(move |(of, _)| *of == first);
        std::iter::once(first).chain(later.map(|(_, later)| *later))
    }

    /// All targets with their records, in configured order.
    pub fn targets(&self) -> Vec<TargetStatus> {
        self.target_statuses(0..self.slots.len())
    }

    /// The targets with these indices.
    pub fn target_statuses(&self, indices: impl IntoIterator<Item = usize>) -> Vec<TargetStatus> {
        let names = self.names.load();
        let settings = self.operator_settings();
        let status = |index: usize| {
            let (target, slot) = (self.config.targets.get(index)?, *self.slots.get(index)?);
            let record = self.table.read(slot);
            let address = record.address.or_else(|| names.address_of(target));
            Some(TargetStatus {
                ip: shown_ip(target, address),
                state: settings.state_of(target),
                tls: self.table.tls(slot),
                target: target.clone(),
                slot,
                record,
            })
        };
        indices.into_iter().filter_map(status).collect()
    }
}

/// The `ip` of a server object: the address, or the host name where no address is known.
pub fn shown_ip(target: &Target, address: Option<IpAddr>) -> String {
    match (&target.host, address) {
        (Host::Ip(ip), _) => ip.to_string(),
        (Host::Name(_), Some(address)) => address.to_string(),
        (Host::Name(name), None) => name.to_string(),
    }
}
