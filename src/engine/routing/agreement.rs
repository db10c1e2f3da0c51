//! A hash of what all machines must agree on to choose the same node for a user.

use std::fmt::Write;
use std::sync::Arc;

use super::hash;
use crate::engine::config::RoutingSettings;
use crate::engine::target::Target;

/// 16 hexadecimal digits, which differ where two configurations route users differently: other
/// nodes, pools, weights or ports, or another `user_key`. The order of the targets does not count.
/// It only identifies a configuration; it needs no secrecy and proves nothing.
pub fn agreement(targets: &[Arc<Target>], settings: &RoutingSettings) -> String {
    let mut ports: Vec<String> = targets.iter().map(|target| port(target)).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut text = format!(
        "{:?} {:?} {:?} {:?}\n",
        settings.node_usable,
        settings.user_key,
        settings.master_separator,
        settings.detail_separator,
    );
    for port in ports {
        text.push_str(&port);
    }
    format!("{:016x}", hash::of_name(text.as_bytes()))
}

/// One line with the settings of a target on which the choice of a node depends.
fn port(target: &Target) -> String {
    let place = &target.placement;
    let mut line = target.key();
    // Names are quoted, so that two of them are never taken for one longer name.
    let _ = writeln!(
        line,
        " {:?} {:?} {} {}",
        target.node(),
        place.pool,
        place.weight,
        place.vital
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{Config, UserKey};

    fn config(yaml: &str) -> Config {
        let text = format!("backend_server_monitoring:\n  backend_servers:\n{yaml}");
        Config::from_yaml(&text, &|_| None).unwrap()
    }

    fn hash_of(yaml: &str) -> String {
        let config = config(yaml);
        agreement(&config.targets, &config.routing)
    }

    const TWO: &str = "    - {protocol: imap, host: 192.0.2.1, node: a}\n    - {protocol: imap, host: 192.0.2.2, node: b}\n";

    #[test]
    fn what_routes_alike_has_one_hash() {
        let turned = "    - {protocol: imap, host: 192.0.2.2, node: b, connect_interval: 3s}\n    - {protocol: imap, host: 192.0.2.1, node: a}\n    - {protocol: imap, host: 192.0.2.1, node: a}\n";
        assert_eq!(hash_of(TWO), hash_of(turned));
        assert_eq!(hash_of(TWO).len(), 16);
    }

    #[test]
    fn what_routes_differently_has_another() {
        let others = [
            TWO.replace("node: b", "node: c"),
            TWO.replace("node: b", "node: b, weight: 50"),
            TWO.replace("node: b", "node: b, pool: x"),
            TWO.replace("node: b", "node: b, vital: false"),
            TWO.replace("192.0.2.2", "192.0.2.3"),
        ];
        for other in others {
            assert_ne!(hash_of(TWO), hash_of(&other), "{other}");
        }
        let config = config(TWO);
        let mut settings = config.routing.clone();
        settings.user_key = UserKey::Domain;
        assert_ne!(hash_of(TWO), agreement(&config.targets, &settings));
    }
}
