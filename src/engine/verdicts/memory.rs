//! The shared table as words: where the words of a target and of the header are. The other files of
//! this folder say what the words mean, each with its own methods of [`VerdictTable`].

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::layout::*;
use crate::sys::shared::SharedWords;

/// The index of a target's slot. Only [`VerdictTable::assign`] makes one, so it is within the
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub(super) usize);

pub struct VerdictTable {
    pub(super) shared: SharedWords,
    pub(super) capacity: usize,
    pub(super) places: Places,
    /// The lease word that this process last wrote; 0 before that. A child inherits its parent's
    /// word, which names the parent's process id, so it never passes for the child's own.
    pub(super) mine: AtomicU64,
    /// The process that this one took the lease from without getting the lock, that is while that
    /// process was stopped; 0: none.
    pub(super) displaced: AtomicU64,
    /// The highest epoch that this process, the owner, has given to a configuration.
    pub(super) epochs: AtomicU64,
}

impl VerdictTable {
    /// A table with room for `capacity` targets over its life.
    ///
    /// # Errors
    /// The system's error where it gives no shared memory.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let places = Places::of(capacity).ok_or(io::ErrorKind::InvalidInput)?;
        let table = Self {
            shared: SharedWords::new(places.end)?,
            capacity,
            places,
            mine: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
            epochs: AtomicU64::new(0),
        };
        let put = |index, value| table.header(index).store(value, Relaxed);
        put(MAGIC_WORD, MAGIC);
        put(VERSION_WORD, VERSION);
        put(CAPACITY_WORD, u64::try_from(capacity).unwrap_or(0));
        put(TABLE_ID, fastrand::u64(1..));
        Ok(table)
    }

    pub(super) fn header(&self, index: usize) -> &AtomicU64 {
        self.at(index)
    }

    pub(super) fn word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(self.places.slots + slot.0 * SLOT + index)
    }

    /// A word of the slot's error text.
    pub(super) fn error_word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(self.places.errors + slot.0 * ERROR_WORDS + index)
    }

    pub(super) fn at(&self, index: usize) -> &AtomicU64 {
        // `assign` alone makes slots, so they lie within the table. The fallback keeps a slot that
        // was passed to the wrong table from panicking in the host's process.
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.shared.words().get(index).unwrap_or(&NOWHERE)
    }
}
