//! The words of the shared table: where a target's, and those of all, are found. What they mean
//! is in the other files of this folder, each with its part of [`VerdictTable`].

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::layout::*;
use crate::sys::shared::SharedWords;

/// Where a target's slot is. Only [`VerdictTable::assign`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub(super) usize);

pub struct VerdictTable {
    pub(super) shared: SharedWords,
    pub(super) capacity: usize,
    pub(super) places: Places,
    /// The lease as this process last had it. A child inherits a word that names its parent.
    pub(super) mine: AtomicU64,
    /// Whom this process took the lease from while that one was stopped; 0: nobody.
    pub(super) displaced: AtomicU64,
}

impl VerdictTable {
    /// A table with room for `capacity` targets over its life.
    ///
    /// # Errors
    /// What the system says where it gives no shared memory.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let places = Places::of(capacity).ok_or(io::ErrorKind::InvalidInput)?;
        let table = Self {
            shared: SharedWords::new(places.end)?,
            capacity,
            places,
            mine: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
        };
        let put = |index, value| table.header(index).store(value, Relaxed);
        put(MAGIC_WORD, MAGIC);
        put(VERSION_WORD, VERSION);
        put(CAPACITY_WORD, u64::try_from(capacity).unwrap_or(0));
        Ok(table)
    }

    pub(super) fn header(&self, index: usize) -> &AtomicU64 {
        self.at(index)
    }

    pub(super) fn word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(self.places.slots + slot.0 * SLOT + index)
    }

    /// A word of the text of the slot's error.
    pub(super) fn error_word(&self, slot: Slot, index: usize) -> &AtomicU64 {
        self.at(self.places.errors + slot.0 * ERROR_WORDS + index)
    }

    pub(super) fn at(&self, index: usize) -> &AtomicU64 {
        // Slots come from `assign` alone and so lie within the table; the fallback keeps
        // even a wrong one of another table from ending the host.
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.shared.words().get(index).unwrap_or(&NOWHERE)
    }
}
