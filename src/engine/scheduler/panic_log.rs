//! Logs when panic begins and ends for a protocol.

use crate::engine::active::{ActiveConfig, Panic};
use crate::engine::log::{Level, Line, Log};
use crate::engine::target::Protocol;
use crate::engine::verdicts::{Event, EventKind, PANIC, VerdictTable, subject_hash};

/// The protocols in panic that were last logged.
pub(super) struct PanicLog {
    protocols: Vec<Protocol>,
    /// The epoch and the generation of the table at that time. Each change of a verdict, of an operator's setting
    /// and of the configuration changes one of them.
    seen: Option<(u64, u64)>,
}

impl PanicLog {
    /// Goes on from what an earlier prober of this table has logged.
    pub(super) fn of_table(table: &VerdictTable) -> Self {
        let is_told = |protocol: &Protocol| {
            let subject = subject_hash(protocol.name());
            table.told_of(subject, 0).is_in_panic
        };
        Self {
            protocols: Protocol::ALL.into_iter().filter(is_told).collect(),
            seen: None,
        }
    }

    /// Logs once when panic begins and once when it ends, with an event each.
    pub(super) fn update(&mut self, active: &ActiveConfig, log: &Log) {
        let seen = Some((active.epoch, active.table.generation()));
        if self.seen == seen {
            return;
        }
        let add_event = |protocol: Protocol, from: &str, to: &str| {
            let event = Event::new(EventKind::Panic, protocol.name()).change(from, to);
            active.table.add_event(&event);
        };
        let now = active.panicking();
        let is_new = |panic: &&Panic| !self.protocols.contains(&panic.protocol);
        for Panic {
            protocol,
            alive,
            of,
        } in now.iter().filter(is_new)
        {
            let line = Line::new(Level::Warning, "panic_begins").with("protocol", protocol);
            log.write(line.with("alive", alive).with("of", of));
            add_event(*protocol, "", PANIC);
        }
        let is_over = |protocol: &&Protocol| !now.iter().any(|panic| panic.protocol == **protocol);
        for protocol in self.protocols.iter().filter(is_over) {
            log.write(Line::new(Level::Info, "panic_ends").with("protocol", protocol));
            add_event(*protocol, PANIC, "");
        }
        *self = Self {
            protocols: now.iter().map(|panic| panic.protocol).collect(),
            seen,
        };
    }
}
