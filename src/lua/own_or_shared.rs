//! The content of a userdata. As long as only its Lua state uses it, it needs no lock and no memory
//! besides the userdata's.

use std::cell::{OnceCell, RefCell};

use crate::engine::request::shared::Shared;

/// Data that belongs to one Lua state until a second handle of it is needed: from then on it is behind a
/// shared, locked reference.
///
/// A Lua state is used by one thread at a time, and no closure that works on the data calls Lua or this
/// library, so the `RefCell` is never found borrowed.
#[derive(Default)]
pub(super) struct OwnOrShared<T> {
    own: RefCell<T>,
    /// Used instead of `own` once it is set.
    shared: OnceCell<Shared<T>>,
}

impl<T> OwnOrShared<T> {
    pub(super) fn new(content: T) -> Self {
        Self {
            own: RefCell::new(content),
            shared: OnceCell::new(),
        }
    }

    /// Runs `work` on the data. `work` must call neither Lua nor this library. If the data is shared it
    /// runs under a lock, so it must not call a host that may block either.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        match self.shared.get() {
            None => work(&mut self.own.borrow_mut()),
            Some(shared) => shared.with(work),
        }
    }

    /// Whether the data is behind a shared handle.
    #[cfg(feature = "luajit")]
    pub(super) fn is_shared(&self) -> bool {
        self.shared.get().is_some()
    }
}

impl<T> OwnOrShared<T> {
    /// Empties the data with `clear` for use by another request. Data that was shared stays with the
    /// other handles.
    #[cfg(feature = "luajit")]
    pub(super) fn clear(&mut self, clear: impl FnOnce(&mut T)) {
        // If the data was shared, `own` is already empty.
        clear(self.own.get_mut());
        if self.shared.get().is_some() {
            self.shared = OnceCell::new();
        }
    }
}

impl<T: Default> OwnOrShared<T> {
    /// A shared handle of the data. The first call moves the data behind it.
    pub(super) fn share(&self) -> Shared<T> {
        self.shared
            .get_or_init(|| Shared::new(self.own.take()))
            .clone()
    }
}

impl<T: Clone> OwnOrShared<T> {
    /// Runs `work` on the present data. Shared data is copied first, so that no lock is held: `work` may
    /// take the lock of other data.
    pub(super) fn with_current<R>(&self, work: impl FnOnce(&T) -> R) -> R {
        match self.shared.get() {
            None => work(&self.own.borrow()),
            Some(shared) => work(&shared.snapshot()),
        }
    }
}

impl<T: Default> From<Shared<T>> for OwnOrShared<T> {
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
        let content = OwnOrShared::new(1);
        content.with(|n| *n += 1);
        let shared = content.share();
        shared.with(|n| *n += 1);
        content.with(|n| *n += 1);
        assert_eq!(shared.snapshot(), 4);
        assert_eq!(content.with_current(|n| *n), 4);
        assert!(content.share().is_same(&shared));
        let other = OwnOrShared::from(shared);
        other.with(|n| *n = 7);
        assert_eq!(content.with_current(|n| *n), 7);
    }
}
