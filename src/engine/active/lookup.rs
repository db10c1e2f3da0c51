//! Finds targets by an address, by a host name, or by the user name of their deep checks.

use std::net::IpAddr;
use std::sync::Arc;

use super::ActiveConfig;
use crate::engine::target::{Host, Target};
use crate::engine::verdicts::Slot;
use crate::sys::clock;

impl ActiveConfig {
    /// Requests a probe of the targets at this address now; false where there is none. Each report
    /// is followed by a probe that begins after it, and the probes for reports come at most once
    /// per 100 ms.
    pub fn report_failure(&self, host: &str, port: u16) -> bool {
        let mut known = false;
        let wanted = Wanted::new(host);
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            if target.port == port && self.is_at(target, *slot, &wanted) {
                known = true;
                self.table.report(*slot, clock::monotonic_ns());
            }
        }
        known
    }

    /// The targets at a host and port. `host` is compared with the configured host and with the
    /// address in use.
    pub fn targets_at<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> impl Iterator<Item = &'a Arc<Target>> + 'a {
        let wanted = Wanted::new(host);
        self.config
            .targets
            .iter()
            .zip(&self.slots)
            .filter(move |(target, slot)| {
                target.port == port && self.is_at(target, **slot, &wanted)
            })
            .map(|(target, _)| target)
    }

    fn is_at(&self, target: &Target, slot: Slot, wanted: &Wanted<'_>) -> bool {
        match &target.host {
            Host::Name(name) => {
                name.eq_ignore_ascii_case(wanted.name)
                    || wanted.ip.is_some_and(|wanted| {
                        let address = self.address_of(target, slot);
                        address.is_some_and(|address| address.to_canonical() == wanted)
                    })
            }
            Host::Ip(ip) => wanted.ip == Some(ip.to_canonical()),
        }
    }

    /// The current address of a configured host name: that of a target with this port, or else of another one.
    /// A name may have several addresses, and a port may answer on one of them alone. None where the name is
    /// not configured, or not resolved yet.
    pub fn current_ip_of(&self, name: &str, port: u16) -> Option<IpAddr> {
        let name = name.trim_end_matches('.');
        let is_named = |target: &Target| matches!(&target.host, Host::Name(mine) if mine.eq_ignore_ascii_case(name));
        let named = || {
            let all = self.config.targets.iter().zip(&self.slots);
            all.filter(|(target, _)| is_named(target))
        };
        let mut those_first = named()
            .filter(|(target, _)| target.port == port)
            .chain(named());
        those_first.find_map(|(target, slot)| self.address_of(target, *slot))
    }

    /// The address that the last good probe used, or else the one that the name had when it was
    /// configured.
    fn address_of(&self, target: &Target, slot: Slot) -> Option<IpAddr> {
        let used = self.table.read_brief(slot).1;
        used.or_else(|| self.names.load().address_of(target))
    }

    /// Whether a target's check logs in as this user.
    pub fn is_health_check(&self, username: &[u8]) -> bool {
        self.config.targets.iter().any(|target| {
            target
                .test_username
                .as_ref()
                .is_some_and(|mine| mine.as_bytes() == username)
        })
    }
}

/// A host to compare with all targets, parsed once.
struct Wanted<'a> {
    name: &'a str,
    /// In canonical form: a socket for both families shows an IPv4 address as an IPv4-mapped one.
    ip: Option<IpAddr>,
}

impl<'a> Wanted<'a> {
    fn new(host: &'a str) -> Self {
        Self {
            name: host.trim_end_matches('.'),
            ip: host.parse().ok().map(|ip: IpAddr| ip.to_canonical()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::Config;
    use crate::engine::verdicts::Record;

    /// A socket for both families shows the address of an IPv4 peer as an IPv4-mapped one.
    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let text = "backend_server_monitoring: {log: none, backend_servers: [
            {protocol: imap, host: 192.0.2.1, port: 143}, {protocol: imap, host: '::ffff:192.0.2.1', port: 143},
            {protocol: imap, host: mail.example.org, port: 143}, {protocol: imap, host: '2001:db8::1', port: 143}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap();
        let record = Record {
            address: Some(IpAddr::from([192, 0, 2, 1])),
            ..Record::default()
        };
        active.table.write(active.slots[2], &record, false);
        for host in ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"] {
            assert_eq!(active.targets_at(host, 143).count(), 3, "{host}");
        }
        assert_eq!(active.targets_at("2001:db8::1", 143).count(), 1);
        assert_eq!(active.targets_at("::192.0.2.1", 143).count(), 0);
    }

    #[test]
    fn a_port_has_the_address_on_which_it_answers() {
        let text = "backend_server_monitoring: {log: none, backend_servers: [
            {protocol: imap, host: mail.example.org, port: 143}, {protocol: pop3, host: mail.example.org, port: 110}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active = ActiveConfig::succeed(None, config, 1, true, StartState::default()).unwrap();
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        for (slot, last) in active.slots.iter().zip([1, 2]) {
            let record = Record {
                address: Some(ip(last)),
                ..Record::default()
            };
            active.table.write(*slot, &record, false);
        }
        let found = [143, 110, 993].map(|port| active.current_ip_of("Mail.example.org.", port));
        assert_eq!(found, [Some(ip(1)), Some(ip(2)), Some(ip(1))]);
        assert_eq!(active.current_ip_of("other.example.org", 143), None);
    }
}
