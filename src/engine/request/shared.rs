//! Data with several owners: a Lua userdata and C handles refer to the same result or context.

use std::sync::{Arc, Mutex, PoisonError};

/// A reference to shared data. The data has a lock of its own, which is held for one access and never while
/// code of the host is called.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub fn new(content: T) -> Self {
        Self(Arc::new(Mutex::new(content)))
    }

    /// Runs `work` under the lock. `work` must not call code of the host, which could need the same lock.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // Poisoning is ignored: a panic cannot leave a change of this data half done.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A copy as of now.
    pub fn snapshot(&self) -> T
    where
        T: Clone,
    {
        self.with(|content| content.clone())
    }

    /// Whether both are handles of the same data.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_see_the_same_data() {
        let one = Shared::new(1);
        let other = one.clone();
        std::thread::spawn(move || other.with(|n| *n = 2))
            .join()
            .unwrap();
        assert_eq!(one.snapshot(), 2);
        assert!(one.is_same(&one.clone()));
        assert!(!one.is_same(&Shared::new(2)));
    }
}
