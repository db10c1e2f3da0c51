//! Compiles `sequence.rs` with loom's atomics, which run each test in every order in which the
//! threads can run and see each other's stores.

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc;

// The file is compiled twice on purpose: here with loom's atomics.
#[allow(clippy::duplicate_mod)]
#[path = "sequence.rs"]
mod sequence;

/// The atomics and thread calls that `sequence.rs` uses, from loom.
mod machine {
    pub(super) use loom::hint;
    pub(super) use loom::sync::atomic::{AtomicU64, fence};

    pub(super) mod thread {
        use std::time::Duration;

        pub(in super::super) use loom::thread::yield_now;

        pub(in super::super) fn sleep(_: Duration) {
            yield_now();
        }
    }
}

/// Stands in for the table: the methods of `sequence.rs` use none of its fields.
struct VerdictTable;

/// Stands in for `memory.rs`, from which `sequence.rs` imports the table.
mod memory {
    pub(super) use super::VerdictTable;
}

struct Sequenced {
    sequence: machine::AtomicU64,
    words: [machine::AtomicU64; 2],
}

impl Sequenced {
    fn shared() -> Arc<Self> {
        Arc::new(Self {
            sequence: machine::AtomicU64::new(0),
            words: [machine::AtomicU64::new(0), machine::AtomicU64::new(0)],
        })
    }

    /// Writes a record whose words are equal. False where another writer took it over.
    fn write(&self, value: u64) -> bool {
        let ticket = VerdictTable.begin(&self.sequence);
        for word in &self.words {
            word.store(value, Relaxed);
        }
        VerdictTable.end(&self.sequence, ticket)
    }

    fn read(&self) -> [u64; 2] {
        VerdictTable.consistent(&self.sequence, || {
            let [first, second] = &self.words;
            [first.load(Relaxed), second.load(Relaxed)]
        })
    }
}

#[test]
fn a_reader_sees_whole_records() {
    loom::model(|| {
        let record = Sequenced::shared();
        let other = record.clone();
        let writer = loom::thread::spawn(move || assert!(other.write(1)));
        let [first, second] = record.read();
        assert_eq!(first, second);
        writer.join().unwrap();
        assert_eq!(record.read(), [1, 1]);
    });
}

#[test]
fn two_writers_write_one_after_the_other() {
    loom::model(|| {
        let record = Sequenced::shared();
        let other = record.clone();
        let writer = loom::thread::spawn(move || assert!(other.write(1)));
        assert!(record.write(2));
        writer.join().unwrap();
        let [first, second] = record.read();
        assert_eq!(first, second);
    });
}

#[test]
fn a_writer_learns_that_its_record_was_taken_from_it() {
    loom::model(|| {
        let record = Sequenced::shared();
        let other = record.clone();
        let writer = loom::thread::spawn(move || other.write(1));
        let was_at_work = VerdictTable.revoke(&record.sequence);
        let is_done = writer.join().unwrap();
        assert!(is_done || was_at_work, "nobody took it, and yet it is gone");
    });
}
