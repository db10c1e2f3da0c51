//! The events that the prober adds: for verdicts (those of a flapping target are coalesced), for nodes, and
//! for certificates.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::ActiveConfig;
use super::event_notes::{UNTOLD, UNUSABLE, USABLE};
use crate::engine::target::Target;
use crate::engine::verdicts::{Event, EventKind, Record, Told, subject_hash};
use crate::sys::clock;

/// The most events about one target's verdict within [`WINDOW`]. The next event after that counts the
/// changes that had none. Without this limit a flapping target would displace all other events from the
/// table, which keeps a fixed number.
const AT_MOST: usize = 4;
const WINDOW: Duration = Duration::from_secs(60);

/// The interval at which the prober checks for late events. A check of thousands of nodes takes some
/// milliseconds.
const LATE_EVERY: Duration = Duration::from_millis(500);

impl ActiveConfig {
    /// Adds the event of a changed verdict, or leaves it to [`ActiveConfig::add_late_events`].
    pub(super) fn note_verdict(&self, target: &Target, before: &Record, after: &Record) {
        let key = target.key();
        let told = self.table.told_of(subject_hash(&key), oldest_ms());
        match verdict_event(&key, &told, before, after) {
            Some(event) => self.table.add_event(&event),
            None => self.event_notes.is_waiting.store(1, Relaxed),
        }
    }

    /// Adds an event about a certificate that expires soon.
    pub fn note_certificate(&self, target: &Target, left: Duration) {
        let reason = match left.as_secs() / 86_400 {
            _ if left.is_zero() => "expired".to_owned(),
            days => format!("expires in {days} days"),
        };
        let event = Event::new(EventKind::Certificate, target.key()).reason(reason);
        self.table.add_event(&event);
    }

    /// Adds the events that are due without a probe: about targets that flapped, and about nodes,
    /// which follow verdicts after a delay. Only the prober calls this.
    pub fn add_late_events(&self) {
        let now_ms = clock::monotonic_ms();
        let last_ms = self.event_notes.late_ms.load(Relaxed);
        if now_ms.saturating_sub(last_ms) < clock::ms(LATE_EVERY) {
            return;
        }
        self.event_notes.late_ms.store(now_ms, Relaxed);
        self.add_coalesced_events();
        if self.names_nodes() {
            self.add_node_events();
        }
    }

    fn add_coalesced_events(&self) {
        if self.event_notes.is_waiting.swap(0, Relaxed) == 0 {
            return;
        }
        // Most targets have no event in the table, and are skipped here.
        let subjects = self.table.event_subjects();
        for (target, slot) in self.config.targets.iter().zip(&self.slots) {
            let key = target.key();
            let subject = subject_hash(&key);
            if !subjects.contains(&subject) {
                continue;
            }
            let told = self.table.told_of(subject, oldest_ms());
            let record = self.table.read(*slot);
            if told.changes == 0 || record.changes <= told.changes {
                continue;
            }
            match verdict_event(&key, &told, &record, &record) {
                Some(event) => self.table.add_event(&event),
                None => self.event_notes.is_waiting.store(1, Relaxed),
            }
        }
    }

    fn add_node_events(&self) {
        for (status, told) in self.node_statuses().zip(&self.event_notes.nodes) {
            let name = format!("node:{}", status.node.name);
            let is = if status.why.is_none() {
                USABLE
            } else {
                UNUSABLE
            };
            let was = match told.load(Relaxed) {
                // Reads the event that an earlier prober may have added.
                UNTOLD => {
                    let told = self.table.told_of(subject_hash(&name), 0);
                    if told.node_is_unusable {
                        UNUSABLE
                    } else {
                        USABLE
                    }
                }
                was => was,
            };
            told.store(is, Relaxed);
            if is != was {
                let word = |state| {
                    if state == USABLE {
                        "usable"
                    } else {
                        "unusable"
                    }
                };
                let event = Event::new(EventKind::Node, name).change(word(was), word(is));
                let reason = status.why.map_or("", |why| why.text());
                self.table.add_event(&event.reason(reason));
            }
        }
    }
}

/// The beginning of the window in which events of one target are counted.
fn oldest_ms() -> u64 {
    clock::unix_ms().saturating_sub(clock::ms(WINDOW))
}

/// The event of a verdict that changed from `before` to `after`; `None` if the target has had [`AT_MOST`]
/// events in the window. The event counts the changes that had no event, and its old verdict is the new
/// one of the target's last event.
fn verdict_event(key: &str, told: &Told, before: &Record, after: &Record) -> Option<Event> {
    if told.recent >= AT_MOST {
        return None;
    }
    let error = after.error.as_deref().unwrap_or_default();
    // An older event may have a higher count: the target was removed and came back, or the event comes from
    // the table before a restart.
    let untold = after.changes.saturating_sub(told.changes);
    let goes_on = told.changes > 0 && untold > 0;
    let from = if goes_on {
        told.to.clone()
    } else {
        before.verdict().name().to_owned()
    };
    let reason = if goes_on && untold > 1 {
        let separator = if error.is_empty() { "" } else { "; " };
        format!("{untold} changes since the last event{separator}{error}")
    } else {
        error.to_owned()
    };
    let event = Event::new(EventKind::Verdict, key);
    let event = event.change(from, after.verdict().name()).reason(reason);
    Some(event.changes(after.changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::verdicts::VerdictTable;
    use crate::engine::verdicts::health::{HealthState, Verdict};

    const KEY: &str = "imap://192.0.2.1:143";

    fn record(verdict: Verdict, changes: u64) -> Record {
        Record {
            connect: HealthState {
                verdict,
                ..HealthState::default()
            },
            changes,
            ..Record::default()
        }
    }

    /// Adds the events of a target that changes `count` times at once to the table, and returns them.
    fn flap(table: &VerdictTable, count: u64) -> Vec<Event> {
        let verdict = |change: u64| match change % 2 {
            0 => Verdict::Alive,
            _ => Verdict::Dead,
        };
        let event = |change: u64| {
            let told = table.told_of(subject_hash(KEY), oldest_ms());
            let (before, after) = (
                record(verdict(change - 1), change - 1),
                record(verdict(change), change),
            );
            let event = verdict_event(KEY, &told, &before, &after)?;
            table.add_event(&event);
            Some(event)
        };
        (1..=count).filter_map(event).collect()
    }

    #[test]
    fn a_flapping_target_has_few_events() {
        let table = VerdictTable::new(1).unwrap();
        let events = flap(&table, 100);
        assert_eq!(events.len(), AT_MOST);
        assert_eq!((&*events[3].from, &*events[3].to), ("dead", "alive"));
        // Another target has no events.
        let other = table.told_of(subject_hash("other"), 0);
        assert_eq!((other.recent, other.changes), (0, 0));
    }

    #[test]
    fn events_from_before_the_clock_was_set_back_do_not_count_as_recent() {
        let table = VerdictTable::new(1).unwrap();
        for mut event in flap(&table, 4) {
            event.time_ms += 3_600_000;
            table.add_event(&event);
        }
        let told = table.told_of(subject_hash(KEY), oldest_ms());
        assert_eq!((told.recent, told.changes), (4, 4));
    }

    #[test]
    fn what_was_left_out_is_told_later() {
        let table = VerdictTable::new(1).unwrap();
        flap(&table, 9);
        // The events are older than the window.
        let told = table.told_of(subject_hash(KEY), u64::MAX);
        assert_eq!((told.recent, told.changes, &*told.to), (0, 4, "alive"));
        let now = Record {
            error: Some("connect: refused".to_owned()),
            ..record(Verdict::Dead, 9)
        };
        let event = verdict_event(KEY, &told, &now, &now).unwrap();
        assert_eq!((&*event.from, &*event.to), ("alive", "dead"));
        assert_eq!(
            event.reason,
            "5 changes since the last event; connect: refused"
        );
    }

    #[test]
    fn a_single_change_that_was_left_out_is_told_later() {
        let table = VerdictTable::new(1).unwrap();
        flap(&table, 5);
        let told = table.told_of(subject_hash(KEY), u64::MAX);
        let now = record(Verdict::Dead, 5);
        let event = verdict_event(KEY, &told, &now, &now).unwrap();
        assert_eq!(
            (&*event.from, &*event.to, &*event.reason),
            ("alive", "dead", "")
        );
    }

    #[test]
    fn a_target_that_begins_anew_has_no_late_event() {
        let told = Told {
            changes: 40,
            to: "dead".to_owned(),
            ..Told::default()
        };
        let (before, after) = (record(Verdict::Unknown, 0), record(Verdict::Alive, 1));
        let event = verdict_event(KEY, &told, &before, &after).unwrap();
        assert_eq!(
            (&*event.from, &*event.to, &*event.reason),
            ("unknown", "alive", "")
        );
    }
}
