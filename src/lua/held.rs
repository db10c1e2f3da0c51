//! What a userdata holds: mostly nobody but its Lua state sees it, and then it needs no lock
//! and no memory beside the userdata's.

use std::cell::{OnceCell, RefCell};

use crate::engine::request::shared::Shared;

/// Data of a Lua state, until C asks for a handle of it: from then on both have one.
///
/// A state is used by one thread at a time, and no work on the data calls Lua or this library: so
/// nobody finds it borrowed.
#[derive(Default)]
pub(super) struct Held<T> {
    own: RefCell<T>,
    /// What counts in place of `own` once it is there.
    shared: OnceCell<Shared<T>>,
}

impl<T> Held<T> {
    pub(super) fn new(content: T) -> Self {
        Self {
            own: RefCell::new(content),
            shared: OnceCell::new(),
        }
    }

    /// Runs `work`, which must call neither Lua nor this library, and where the data is shared
    /// nothing else either.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        match self.shared.get() {
            None => work(&mut self.own.borrow_mut()),
            Some(shared) => shared.with(work),
        }
    }

    /// Whether others have a handle of the data.
    #[cfg(feature = "luajit")]
    pub(super) fn is_shared(&self) -> bool {
        self.shared.get().is_some()
    }
}

impl<T> Held<T> {
    /// Makes it a new one, whose content `clear` has cleared. Whoever else has a handle keeps the
    /// old one.
    #[cfg(feature = "luajit")]
    pub(super) fn clear(&mut self, clear: impl FnOnce(&mut T)) {
        // What was shared is empty.
        clear(self.own.get_mut());
        if self.shared.get().is_some() {
            self.shared = OnceCell::new();
        }
    }
}

impl<T: Default> Held<T> {
    /// A handle of the data, for others than this state.
    pub(super) fn share(&self) -> Shared<T> {
        self.shared
            .get_or_init(|| Shared::new(self.own.take()))
            .clone()
    }
}

impl<T: Clone> Held<T> {
    /// Runs `work` on the data as it is now. Where others have it too that is a copy: `work` may
    /// take the lock of other data.
    pub(super) fn with_current<R>(&self, work: impl FnOnce(&T) -> R) -> R {
        match self.shared.get() {
            None => work(&self.own.borrow()),
            Some(shared) => work(&shared.snapshot()),
        }
    }
}

impl<T: Default> From<Shared<T>> for Held<T> {
    fn from(shared: Shared<T>) -> Self {
        Self {
            own: RefCell::default(),
            shared: OnceCell::from(shared),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shared_is_the_same_for_all() {
        let held = Held::new(1);
        held.with(|n| *n += 1);
        let shared = held.share();
        shared.with(|n| *n += 1);
        held.with(|n| *n += 1);
        assert_eq!(shared.snapshot(), 4);
        assert_eq!(held.with_current(|n| *n), 4);
        assert!(held.share().is_same(&shared));
        let other = Held::from(shared);
        other.with(|n| *n = 7);
        assert_eq!(held.with_current(|n| *n), 7);
    }
}
