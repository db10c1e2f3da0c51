//! Reports of trouble: any process asks for a probe of a target, and the prober makes it.
//!
//! Reports are counted. A report is answered when the outcome of a probe that began after it was
//! published. Until then it stays open, so it is not lost where a probe ends without an outcome that
//! counts: when another configuration comes into force, or another process becomes the prober.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

use super::layout::*;
use super::memory::{Slot, VerdictTable};
use crate::sys::clock;

/// While a report of a target is open, the prober was woken for it already, and further reports do not
/// wake it. After this time they do: the process that made the first may have been killed before it
/// woke the prober.
const WAKE_AGAIN: Duration = Duration::from_millis(100);

/// The low half of a word: how many reports there were, modulo 2^32.
const NUMBER: u64 = 0xffff_ffff;

/// The halves of [`HANDLED_REPORTS`]: the number of the last report before the begin of a probe, and before
/// that of one whose outcome was published.
fn halves(word: u64) -> (u32, u32) {
    (number(word), number(word >> 32))
}

fn number(word: u64) -> u32 {
    u32::try_from(word & NUMBER).unwrap_or_default()
}

/// Whether `later` counts more reports than `earlier`, of two numbers that may have wrapped.
fn is_later(later: u32, earlier: u32) -> bool {
    later.wrapping_sub(earlier).cast_signed() > 0
}

impl VerdictTable {
    /// Asks for a probe that begins after this call. Returns false where an earlier report waits
    /// for such a probe already.
    pub fn report(&self, slot: Slot, now_ns: u64) -> bool {
        let word = self.word(slot, REPORTS);
        let seen = word.load(SeqCst);
        let (begun, _) = halves(self.word(slot, HANDLED_REPORTS).load(SeqCst));
        let is_new = number(seen) == begun;
        if is_new {
            // Where this fails, another process has reported since this call began, and the probe
            // for its report begins after both.
            let next = seen.wrapping_add(1);
            let _ = word.compare_exchange(seen, next, SeqCst, Relaxed);
        } else {
            let woken_at = self.word(slot, REPORTED_AT).load(Relaxed);
            if now_ns.saturating_sub(woken_at) < clock::ns(WAKE_AGAIN) {
                return false;
            }
        }
        self.word(slot, REPORTED_AT).store(now_ns, Relaxed);
        self.wake_prober();
        is_new
    }

    /// How many reports there were, modulo 2^32.
    pub fn reports(&self, slot: Slot) -> u32 {
        number(self.word(slot, REPORTS).load(Acquire))
    }

    /// Which of the reports are answered: their number, modulo 2^32.
    pub fn answered(&self, slot: Slot) -> u32 {
        halves(self.word(slot, HANDLED_REPORTS).load(Acquire)).1
    }

    /// Records that a probe is about to begin, and returns the number of the last report before it.
    pub fn note_probe(&self, slot: Slot) -> u32 {
        let reports = self.reports(slot);
        self.raise(slot, |(_, answered)| (reports, answered));
        // A process that still sees the report as waiting has loaded the word before this fence,
        // and the probe begins after it.
        fence(SeqCst);
        reports
    }

    /// Records that the reports up to this number are answered.
    pub fn answer(&self, slot: Slot, reports: u32) {
        if is_later(reports, self.answered(slot)) {
            self.raise(slot, |(begun, _)| (begun, reports));
        }
    }

    /// Changes the halves of [`HANDLED_REPORTS`]; neither goes back, since the process that was the prober
    /// before may be late.
    fn raise(&self, slot: Slot, next: impl Fn((u32, u32)) -> (u32, u32)) {
        let later = |new, old| if is_later(new, old) { new } else { old };
        let word = self.word(slot, HANDLED_REPORTS);
        let mut seen = word.load(Acquire);
        loop {
            let old = halves(seen);
            let new = next(old);
            let new = (later(new.0, old.0), later(new.1, old.1));
            if new == old {
                return;
            }
            let packed = u64::from(new.1) << 32 | u64::from(new.0);
            match word.compare_exchange_weak(seen, packed, AcqRel, Acquire) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Keeps a report open that the table before this one has not answered.
    pub(super) fn inherit_reports(&self, slot: Slot, before: &Self, known: Slot) {
        if before.reports(known) != before.answered(known) {
            self.report(slot, clock::monotonic_ns());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::verdicts::hash_identity;

    const MS: u64 = 1_000_000;

    fn table() -> (VerdictTable, Slot) {
        let table = VerdictTable::new(1).unwrap();
        let slot = table.assign(&[hash_identity("a")], |_| None).unwrap()[0];
        (table, slot)
    }

    #[test]
    fn a_report_waits_until_a_probe_that_began_after_it_was_published() {
        let (table, slot) = table();
        assert!(table.report(slot, MS));
        assert_eq!((table.reports(slot), table.answered(slot)), (1, 0));
        let begun = table.note_probe(slot);
        // During the probe: this one needs another probe.
        assert!(table.report(slot, 2 * MS));
        table.answer(slot, begun);
        assert_eq!((table.reports(slot), table.answered(slot)), (2, 1));
        let begun = table.note_probe(slot);
        table.answer(slot, begun);
        assert_eq!((table.reports(slot), table.answered(slot)), (2, 2));
        assert_eq!(table.wakes(), 2);
    }

    #[test]
    fn reports_of_a_target_that_waits_for_its_probe_wake_nobody() {
        let (table, slot) = table();
        assert!(table.report(slot, MS));
        assert!(!table.report(slot, 2 * MS));
        assert_eq!(table.wakes(), 1);
        // As if the first reporter had been killed before it woke the prober.
        assert!(!table.report(slot, 200 * MS));
        assert_eq!((table.wakes(), table.reports(slot)), (2, 1));
    }

    #[test]
    fn a_prober_that_was_stopped_takes_nothing_back() {
        let (table, slot) = table();
        let early = table.note_probe(slot);
        table.report(slot, MS);
        let late = table.note_probe(slot);
        table.answer(slot, late);
        table.answer(slot, early);
        assert_eq!(table.answered(slot), 1);
    }

    #[test]
    fn the_numbers_may_wrap() {
        let (table, slot) = table();
        let last = u64::from(u32::MAX);
        table.word(slot, REPORTS).store(last, Relaxed);
        table
            .word(slot, HANDLED_REPORTS)
            .store(last << 32 | last, Relaxed);
        assert!(table.report(slot, MS));
        let begun = table.note_probe(slot);
        table.answer(slot, begun);
        assert_eq!((table.reports(slot), table.answered(slot)), (0, 0));
    }

    #[test]
    fn another_table_keeps_what_was_not_answered() {
        let (before, known) = table();
        let (after, slot) = table();
        after.inherit_slot(slot, &before, known);
        assert_eq!(after.reports(slot), after.answered(slot));
        before.report(known, MS);
        after.inherit_slot(slot, &before, known);
        assert_ne!(after.reports(slot), after.answered(slot));
    }
}
