//! What the last full TLS handshake with a target showed, as a line of text, for all processes that
//! share the table.

use std::sync::atomic::Ordering::Relaxed;

use super::layout::*;
use super::memory::{Slot, VerdictTable};
use super::texts;
use crate::engine::tls_details::TLS_LINE_MAX;

impl VerdictTable {
    /// Stores the line of a [`TlsDetails`](crate::engine::tls_details::TlsDetails); an empty one
    /// where nothing is known. Only for the process that may write the slot.
    pub fn note_tls(&self, slot: Slot, line: &str) {
        let line = texts::cut(line, TLS_LINE_MAX);
        let sequence = self.word(slot, SLOT_SEQUENCE);
        let ticket = self.begin(sequence);
        for (index, word) in texts::to_words(&[line, "", "", ""]).into_iter().enumerate() {
            self.tls_word(slot, index + 1).store(word, Relaxed);
        }
        let length = u64::try_from(line.len()).unwrap_or(0);
        self.tls_word(slot, 0).store(length, Relaxed);
        if !self.end(sequence, ticket) {
            // This process was stopped meanwhile and may have mixed its words with those of the
            // process that took over. The next full handshake fills them again.
            self.tls_word(slot, 0).store(0, Relaxed);
        }
    }

    /// What the last full handshake showed; None before the first.
    pub fn tls(&self, slot: Slot) -> Option<String> {
        self.consistent(self.word(slot, SLOT_SEQUENCE), || {
            let length = self.tls_word(slot, 0).load(Relaxed);
            if length == 0 || usize::try_from(length).ok()? > TLS_LINE_MAX {
                return None;
            }
            let words = (1..TLS_DETAILS).map(|index| self.tls_word(slot, index));
            let [line, ..] = texts::from_words(length, words);
            Some(line)
        })
    }

    fn tls_word(&self, slot: Slot, index: usize) -> &std::sync::atomic::AtomicU64 {
        self.at(self.places.tls_details + slot.0 * TLS_DETAILS + index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_each_slot_reads_as_it_was_written() {
        let table = VerdictTable::new(2).unwrap();
        let slots = table.assign(&[[1, 2], [3, 4]], |_| None).unwrap();
        let long = "é".repeat(TLS_LINE_MAX);
        for (line, read) in [
            ("at=1 protocol=TLSv1.3", Some("at=1 protocol=TLSv1.3")),
            (long.as_str(), Some(&long[..TLS_LINE_MAX])),
            ("", None),
        ] {
            table.note_tls(slots[1], line);
            assert_eq!(table.tls(slots[1]).as_deref(), read);
            assert_eq!(table.tls(slots[0]), None);
        }
        table.note_tls(slots[0], "x");
        let next = VerdictTable::new(2).unwrap();
        let own = next.assign(&[[1, 2]], |_| None).unwrap();
        next.inherit_slot(own[0], &table, slots[0]);
        assert_eq!(next.tls(own[0]).as_deref(), Some("x"));
    }
}
