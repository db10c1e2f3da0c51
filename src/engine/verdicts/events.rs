//! The last events, in a ring of the shared table.
//!
//! Any process adds events without waiting for another: the number of an event decides its place. A
//! reader copies the words and accepts them only where the sequence number is that of the event
//! before and after, and where the checksum fits. The checksum is needed because a writer that was
//! stopped in the middle may go on after the ring has come round, and write its remaining words
//! into a later event.

use std::collections::HashSet;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use super::event::{Event, EventKind};
use super::layout::*;
use super::memory::VerdictTable;
use super::texts::{cut, from_words, pack_lengths, to_words};
use crate::sys::clock;

/// The longest texts of an event, in bytes: subject, both states together, reason and author.
/// Together they fit `EVENT_TEXT_WORDS`.
const SUBJECT_MAX: usize = 272;
const STATES_MAX: usize = 32;
/// The same of a move, whose states are names of nodes.
const MOVE_SUBJECT_MAX: usize = 138;
const MOVE_STATES_MAX: usize = 166;
const REASON_MAX: usize = 100;
const BY_MAX: usize = 40;

/// An event that is not written although a later one is older than this, in milliseconds, counts as
/// lost. Writing one takes microseconds.
const OVERDUE_MS: u64 = 1000;

/// What the ring has of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The number of events about its verdict between the time that was asked for and now. An event with a
    /// later time than now was added before the clock was set back, and is not counted.
    pub recent: usize,
    /// Of the newest event about its verdict, how often it had changed; 0: there is none.
    pub changes: u64,
    /// The verdict of that event.
    pub to: String,
    /// Whether the newest event about it as a node says that it is unusable.
    pub node_is_unusable: bool,
    /// Whether the newest event about it as a protocol says that it is in panic.
    pub is_in_panic: bool,
}

/// What an event about panic has as `to` while the protocol is in panic, and as `from` when that is over.
pub const PANIC: &str = "panic";

/// The hash by which [`VerdictTable::told_of`] finds the events of a subject.
pub fn subject_hash(subject: &str) -> u64 {
    twox_hash::XxHash3_64::oneshot(cut(subject, SUBJECT_MAX).as_bytes())
}

/// The events that a reader asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The oldest first.
    pub events: Vec<Event>,
    /// Whether events after the number that was asked for are missing.
    pub lost: bool,
}

impl VerdictTable {
    /// Adds an event; texts that are too long are cut.
    pub fn add_event(&self, event: &Event) {
        let number = self
            .header(EVENTS_BEGUN)
            .fetch_add(1, AcqRel)
            .wrapping_add(1);
        self.put_event(number, event);
    }

    fn put_event(&self, number: u64, event: &Event) {
        let (subject_max, states_max) = match event.kind {
            EventKind::Move => (MOVE_SUBJECT_MAX, MOVE_STATES_MAX),
            _ => (SUBJECT_MAX, STATES_MAX),
        };
        let states = format!(
            "{}\0{}",
            cut(&event.from, states_max / 2 - 1),
            cut(&event.to, states_max / 2)
        );
        let texts = [
            cut(&event.subject, subject_max),
            states.as_str(),
            cut(&event.reason, REASON_MAX),
            cut(&event.by, BY_MAX),
        ];
        let words = to_words(&texts);
        let lengths = pack_lengths(&texts);
        let sequence = self.event_word(number, EVENT_SEQUENCE);
        let writing = number.wrapping_mul(2);
        let seen = sequence.load(Relaxed);
        // A newer event has the place already: this process was stopped while the ring came round.
        if seen >= writing
            || sequence
                .compare_exchange(seen, writing | 1, Acquire, Relaxed)
                .is_err()
        {
            return;
        }
        fence(Release);
        let put = |index, value| self.event_word(number, index).store(value, Relaxed);
        put(EVENT_TIME, event.time_ms);
        put(EVENT_KIND, event.kind.number());
        put(EVENT_LENGTHS, lengths);
        put(EVENT_CHANGES, event.changes);
        put(EVENT_SUBJECT, subject_hash(&event.subject));
        for (index, word) in words.iter().take(EVENT_TEXT_WORDS).enumerate() {
            put(EVENT_TEXT + index, *word);
        }
        let head = [
            number,
            event.time_ms,
            event.kind.number(),
            lengths,
            event.changes,
        ];
        put(EVENT_CHECKSUM, checksum(head.iter().chain(&words).copied()));
        // Fails where a newer event has taken the place meanwhile; this event is then lost.
        let _ = sequence.compare_exchange(writing | 1, writing + 2, Release, Relaxed);
    }

    /// What the ring has of the subject with this hash, its newest events first. `since_ms`: the
    /// time from which events are counted, in milliseconds since 1970.
    pub fn told_of(&self, subject: u64, since_ms: u64) -> Told {
        let last = self.last_event();
        let kept = u64::try_from(EVENTS).unwrap_or(u64::MAX);
        let mut told = Told::default();
        let now_ms = clock::unix_ms();
        let (mut has_node, mut has_panic) = (false, false);
        for number in (last.saturating_sub(kept) + 1..=last).rev() {
            // Most events are about something else: their texts are not read.
            let get = |index| self.event_word(number, index).load(Relaxed);
            if get(EVENT_SUBJECT) != subject {
                continue;
            }
            let EventRead::Whole(event) = self.read_event(number) else {
                continue;
            };
            match event.kind {
                EventKind::Verdict => {
                    told.recent += usize::from((since_ms..=now_ms).contains(&event.time_ms));
                    if told.changes == 0 {
                        (told.changes, told.to) = (event.changes, event.to);
                    }
                }
                EventKind::Node if !has_node => {
                    has_node = true;
                    told.node_is_unusable = event.to == "unusable";
                }
                EventKind::Panic if !has_panic => {
                    has_panic = true;
                    told.is_in_panic = event.to == PANIC;
                }
                _ => {}
            }
        }
        told
    }

    /// The hashes of the subjects that events of the ring are about.
    pub fn event_subjects(&self) -> HashSet<u64> {
        let last = self.last_event();
        let kept = u64::try_from(EVENTS).unwrap_or(u64::MAX);
        (last.saturating_sub(kept) + 1..=last)
            .map(|number| self.event_word(number, EVENT_SUBJECT).load(Relaxed))
            .collect()
    }

    /// The number of the newest event, 0: none yet.
    pub fn last_event(&self) -> u64 {
        self.header(EVENTS_BEGUN).load(Acquire)
    }

    /// The events after number `since` that the ring still has.
    pub fn events_after(&self, since: u64) -> Events {
        let last = self.last_event();
        let kept = u64::try_from(EVENTS).unwrap_or(u64::MAX);
        let oldest = last.saturating_sub(kept);
        let mut found = Events {
            events: Vec::new(),
            // A number above the newest one is from another table, such as before a restart.
            lost: since < oldest || since > last,
        };
        let first = if since > last {
            oldest
        } else {
            since.max(oldest)
        };
        for number in first + 1..=last {
            match self.read_event(number) {
                EventRead::Whole(event) => found.events.push(event),
                // The reader gets it with its next call, and the events after it too: it must not
                // skip it.
                EventRead::BeingWritten if !self.is_overdue(number, last) => break,
                EventRead::BeingWritten | EventRead::Gone => found.lost = true,
            }
        }
        found
    }

    /// Whether a later event was written so long ago that the writer of this one is dead or
    /// stopped.
    fn is_overdue(&self, number: u64, last: u64) -> bool {
        let now = clock::unix_ms();
        (number + 1..=last).any(|later| match self.read_event(later) {
            EventRead::Whole(later) => now.abs_diff(later.time_ms) > OVERDUE_MS,
            EventRead::BeingWritten | EventRead::Gone => false,
        })
    }

    fn read_event(&self, number: u64) -> EventRead {
        let done = number.wrapping_mul(2).wrapping_add(2);
        let sequence = self.event_word(number, EVENT_SEQUENCE);
        let before = sequence.load(Acquire);
        if before < done {
            // Readers wait for an event that has its number and is not written yet, while fewer than
            // 8 newer ones were begun. Otherwise it counts as lost: its writer may be dead or
            // stopped.
            let behind = self.last_event().saturating_sub(number);
            return if behind < 8 {
                EventRead::BeingWritten
            } else {
                EventRead::Gone
            };
        }
        let get = |index| self.event_word(number, index).load(Relaxed);
        let (time_ms, kind, lengths) = (get(EVENT_TIME), get(EVENT_KIND), get(EVENT_LENGTHS));
        let changes = get(EVENT_CHANGES);
        let start = self.event_index(number) + EVENT_TEXT;
        let words = (start..start + EVENT_TEXT_WORDS).map(|index| self.at(index));
        let [subject, states, reason, by] = from_words(lengths, words);
        let sum = get(EVENT_CHECKSUM);
        fence(Acquire);
        if sequence.load(Relaxed) != done {
            return EventRead::Gone;
        }
        let texts = [
            subject.as_str(),
            states.as_str(),
            reason.as_str(),
            by.as_str(),
        ];
        let words = to_words(&texts);
        let head = [number, time_ms, kind, lengths, changes];
        if checksum(head.iter().chain(&words).copied()) != sum {
            return EventRead::Gone;
        }
        let (from, to) = states.split_once('\0').unwrap_or_default();
        EventRead::Whole(Event {
            number,
            time_ms,
            kind: EventKind::from_number(kind),
            from: from.to_owned(),
            to: to.to_owned(),
            subject,
            reason,
            by,
            changes,
        })
    }

    fn event_index(&self, number: u64) -> usize {
        let kept = u64::try_from(EVENTS).unwrap_or(u64::MAX);
        let place = usize::try_from(number % kept).unwrap_or(0);
        self.places.events + place * EVENT
    }

    fn event_word(&self, number: u64, index: usize) -> &std::sync::atomic::AtomicU64 {
        self.at(self.event_index(number) + index)
    }

    pub(super) fn inherit_events(&self, before: &Self) {
        for event in before.events_after(0).events {
            self.put_event(event.number, &event);
        }
        self.header(EVENTS_BEGUN)
            .store(before.last_event(), Release);
    }
}

enum EventRead {
    Whole(Event),
    BeingWritten,
    Gone,
}

/// FNV-1a over words. It only has to detect the mixed words of two events, not to resist an
/// attacker.
fn checksum(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        Event::new(EventKind::Verdict, text)
            .change("alive", "dead")
            .reason("connect: refused")
            .by("x")
    }

    #[test]
    fn an_event_reads_as_it_was_written() {
        let table = VerdictTable::new(1).unwrap();
        table.add_event(&event("imap://192.0.2.1:143"));
        let found = table.events_after(0);
        assert!(!found.lost);
        assert_eq!(
            found.events,
            [Event {
                number: 1,
                ..found.events[0].clone()
            }]
        );
        let seen = &found.events[0];
        assert_eq!((seen.from.as_str(), seen.to.as_str()), ("alive", "dead"));
        assert_eq!(
            (seen.reason.as_str(), seen.by.as_str()),
            ("connect: refused", "x")
        );
        assert_eq!(seen.subject, "imap://192.0.2.1:143");
        assert_eq!(table.events_after(1), Events::default());
    }

    #[test]
    fn a_reader_that_comes_late_is_told() {
        let table = VerdictTable::new(1).unwrap();
        for number in 1..=EVENTS + 10 {
            table.add_event(&event(&number.to_string()));
        }
        let all = table.events_after(0);
        assert!(all.lost);
        assert_eq!(all.events.len(), EVENTS);
        assert_eq!(all.events[0].subject, "11");
        assert!(!table.events_after(10).lost);
        assert!(table.events_after(9).lost);
        // The number of another table, or of one before a restart.
        assert!(table.events_after(1_000_000).lost);
    }

    #[test]
    fn a_move_has_the_whole_names_of_its_nodes() {
        let table = VerdictTable::new(1).unwrap();
        let (from, to) = (
            "mail-storage-01.backend.example.org",
            "mail-storage-02.backend.example.org",
        );
        let moved = Event::new(EventKind::Move, format!("node:{from}"));
        table.add_event(&moved.change(from, to));
        // The longest names leave every other text in its place.
        let long = "n".repeat(255);
        let longest = Event::new(EventKind::Move, format!("node:{long}"));
        let longest = longest.change(long.as_str(), long.as_str());
        table.add_event(&longest.reason("r".repeat(200)).by("b".repeat(200)));
        let found = table.events_after(0).events;
        assert_eq!((found[0].from.as_str(), found[0].to.as_str()), (from, to));
        assert_eq!(found[0].subject, format!("node:{from}"));
        assert_eq!((found[1].from.len(), found[1].to.len()), (82, 83));
        assert_eq!((found[1].reason.len(), found[1].by.len()), (100, 40));
    }

    #[test]
    fn long_texts_are_cut_and_stay_apart() {
        let table = VerdictTable::new(1).unwrap();
        let long = "é".repeat(1000);
        let full = Event {
            subject: long.clone(),
            from: long.clone(),
            to: long.clone(),
            reason: long.clone(),
            by: long,
            ..event("")
        };
        table.add_event(&full);
        let seen = table.events_after(0).events.remove(0);
        assert_eq!(seen.subject.len(), SUBJECT_MAX);
        for (text, max) in [
            (&seen.reason, REASON_MAX),
            (&seen.by, BY_MAX),
            (&seen.to, STATES_MAX / 2),
        ] {
            assert_eq!(text.chars().count(), max / 2);
            assert!(text.chars().all(|c| c == 'é'));
        }
    }

    #[test]
    fn an_event_whose_writer_stopped_is_skipped_and_never_mixed() {
        let table = VerdictTable::new(1).unwrap();
        table.add_event(&event("first"));
        // A writer takes a number, begins to write and is stopped.
        let stopped = table.header(EVENTS_BEGUN).fetch_add(1, AcqRel) + 1;
        table
            .event_word(stopped, EVENT_SEQUENCE)
            .store(stopped * 2 + 1, Relaxed);
        for number in 0..20 {
            table.add_event(&event(&number.to_string()));
        }
        let found = table.events_after(0);
        assert!(found.lost);
        assert_eq!(found.events.len(), 21);
        // The writer goes on after the ring has come round.
        for _ in 0..EVENTS {
            table.add_event(&event("newer"));
        }
        table.put_event(stopped, &event("older"));
        assert!(
            table
                .events_after(0)
                .events
                .iter()
                .all(|e| e.subject != "older")
        );
        // The writer was stopped in the middle of the texts: one of its words lands in a newer
        // event.
        table.event_word(stopped, EVENT_TEXT).store(0, Relaxed);
        let found = table.events_after(0);
        assert_eq!(found.events.len(), EVENTS - 1);
        assert!(
            found
                .events
                .iter()
                .all(|e| e.subject == "newer" || e.subject.parse::<u32>().is_ok())
        );
    }

    #[test]
    fn an_event_that_is_written_after_a_later_one_is_not_missed() {
        let table = VerdictTable::new(1).unwrap();
        table.add_event(&event("first"));
        // A writer has taken a number and not begun to write; another one is faster.
        let slow = table.header(EVENTS_BEGUN).fetch_add(1, AcqRel) + 1;
        table.add_event(&event("third"));
        let found = table.events_after(0);
        assert_eq!((found.events.len(), found.lost), (1, false));
        table.put_event(slow, &event("second"));
        let found = table.events_after(1);
        let subjects = found.events.iter().map(|event| event.subject.as_str());
        assert!(subjects.eq(["second", "third"]) && !found.lost);
    }

    #[test]
    fn a_writer_that_died_keeps_later_events_back_for_a_second_only() {
        let table = VerdictTable::new(1).unwrap();
        table.header(EVENTS_BEGUN).fetch_add(1, AcqRel);
        table.add_event(&Event {
            time_ms: clock::unix_ms() - 2 * OVERDUE_MS,
            ..event("second")
        });
        let found = table.events_after(0);
        assert_eq!((found.events.len(), found.lost), (1, true));
    }

    #[test]
    fn writers_do_not_wait_for_each_other() {
        let table = std::sync::Arc::new(VerdictTable::new(1).unwrap());
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let table = table.clone();
                std::thread::spawn(move || {
                    for number in 0..200 {
                        table.add_event(&event(&format!("{writer} {number}")));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let found = table.events_after(0);
        assert_eq!(found.events.len(), 800);
        assert!(!found.lost);
    }
}
