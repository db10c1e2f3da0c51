//! Runs `find` under loom, in every order in which two threads of a process that was just forked
//! can load its engine.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};

use super::{EnginePlace, find};

const PARENTS: u64 = 1;

/// The state after a fork: the pointer is to the parent's engine, and the mark is wiped.
struct Child {
    engine: AtomicU64,
    mark: AtomicU64,
    begun: AtomicU64,
}

impl EnginePlace for Child {
    type Engine = u64;
    type Seen = u64;

    fn is_marked(&self) -> bool {
        self.mark.load(Ordering::Acquire) != 0
    }

    fn load(&self) -> (u64, Option<u64>) {
        let seen = self.engine.load(Ordering::Acquire);
        (seen, Some(seen))
    }

    fn is_own(&self, engine: &u64) -> bool {
        *engine != PARENTS
    }

    fn mark(&self, _: &u64) {
        self.mark.fetch_max(1, Ordering::AcqRel);
    }

    fn begin(&self, seen: u64) {
        let fresh = PARENTS + 1 + self.begun.fetch_add(1, Ordering::Relaxed);
        // Fails where another thread was first; its engine is then used.
        let _ = self
            .engine
            .compare_exchange(seen, fresh, Ordering::AcqRel, Ordering::Acquire);
    }
}

#[test]
fn all_threads_find_one_engine_and_it_is_their_own_process_s() {
    loom::model(|| {
        let child = Arc::new(Child {
            engine: AtomicU64::new(PARENTS),
            mark: AtomicU64::new(0),
            begun: AtomicU64::new(0),
        });
        let other = child.clone();
        let thread = loom::thread::spawn(move || find(&*other));
        let found = find(&*child);
        assert_ne!(found, PARENTS, "the engine of the parent");
        assert_eq!(thread.join().unwrap(), found);
    });
}
