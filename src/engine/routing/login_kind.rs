//! The kinds of logins by which machines tell each other what they see of a node.

use super::filter::{FieldValue, Filter, ServerField};
use crate::engine::target::{Protocol, Target};

/// A protocol, with TLS from the first byte or without. Targets are compared between machines by nothing else:
/// each machine may reach a node at an address and ports of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginKind {
    protocol: Protocol,
    tls: bool,
}

impl LoginKind {
    pub fn of(target: &Target) -> Self {
        Self {
            protocol: target.protocol,
            tls: target.implicit_tls(),
        }
    }

    /// Each kind of these once.
    pub fn each(kinds: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut each = Vec::new();
        for kind in kinds {
            if !each.contains(&kind) {
                each.push(kind);
            }
        }
        each
    }

    /// The filter of such a login for nodes of these pools.
    pub(in crate::engine) fn filter(self, pools: Vec<Box<str>>) -> Filter {
        let protocol = FieldValue::Text(self.protocol.name().into());
        Filter {
            fields: vec![
                (ServerField::Protocol, protocol),
                (ServerField::Tls, FieldValue::Flag(self.tls)),
            ],
            pools: Some(pools),
        }
    }
}

/// `imap`, or `imap+tls`: what machines of a cluster call the kind.
impl std::fmt::Display for LoginKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.protocol.name())?;
        f.write_str(if self.tls { "+tls" } else { "" })
    }
}
