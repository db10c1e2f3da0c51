//! Numbers that a fork sets to zero: how a process learns, with one load and no system
//! call, that what it holds was made by its parent.
//!
//! They live in a page that the kernel wipes in a child (`MADV_WIPEONFORK`, Linux 4.14). Where
//! that is refused, the process id is compared instead.

use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

/// The process's mark: a number that only grows, and that is 0 in a process that has not raised
/// it since its fork.
pub struct ForkMark(Word);

enum Word {
    /// In pages that the kernel wipes.
    Wiped {
        mark: &'static AtomicU64,
        known_pid: &'static AtomicU64,
        incarnation: &'static AtomicU64,
    },
    /// The process id in the upper half, so that one load tells both. The lower half of the mark
    /// is enough to tell two neighbours apart.
    WithPid(AtomicU64),
}

impl ForkMark {
    /// The one of this process. Never blocks: a child may come here while a thread of its
    /// parent did, too.
    pub fn of_process() -> &'static Self {
        static MARK: OnceBox<ForkMark> = OnceBox::new();
        MARK.get_or_init(|| Box::new(Self::new()))
    }

    fn new() -> Self {
        Self(match wiped_page() {
            Some([mark, known_pid, incarnation]) => Word::Wiped {
                mark,
                known_pid,
                incarnation,
            },
            None => Word::WithPid(AtomicU64::new(0)),
        })
    }

    /// The mark, or 0 after a fork. What was stored before the mark was raised is visible to
    /// whoever sees the mark and loads afterwards.
    pub fn get(&self) -> u64 {
        match &self.0 {
            Word::Wiped { mark, .. } => mark.load(Ordering::Acquire),
            Word::WithPid(word) => own_half(word.load(Ordering::Acquire)),
        }
    }

    /// Sets the mark to `value` unless it is higher already: of two threads that raise it, the
    /// one that comes last may have the lower number.
    pub fn raise(&self, value: u64) {
        match &self.0 {
            Word::Wiped { mark, .. } => {
                mark.fetch_max(value, Ordering::AcqRel);
            }
            Word::WithPid(word) => {
                let raised = |seen| Some(asked_pid() << 32 | own_half(seen).max(value & LOW));
                // Always done.
                let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, raised);
            }
        }
    }

    /// The word itself, for readers that cannot call `get` (LuaJIT's FFI); none where the
    /// word alone does not tell.
    pub fn word(&self) -> Option<&'static AtomicU64> {
        match &self.0 {
            Word::Wiped { mark, .. } => Some(mark),
            Word::WithPid(_) => None,
        }
    }
}

const LOW: u64 = 0xffff_ffff;

/// The mark in a word that this process wrote; 0 where another did.
fn own_half(word: u64) -> u64 {
    if word >> 32 == asked_pid() {
        word & LOW
    } else {
        0
    }
}

/// This process's id: asked of the system once after each fork.
pub fn pid() -> u64 {
    let Word::Wiped { known_pid, .. } = &ForkMark::of_process().0 else {
        return asked_pid();
    };
    match known_pid.load(Ordering::Relaxed) {
        0 => {
            let pid = asked_pid();
            known_pid.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

/// Which process this is among those that a thing can be handed down to by forks: no ancestor
/// had the same number. A process id alone does not tell: the system gives those of dead
/// processes away again.
pub fn incarnation() -> u64 {
    // Each process goes on from what its parent had counted.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Word::Wiped { incarnation, .. } = &ForkMark::of_process().0 else {
        return asked_pid();
    };
    let known = incarnation.load(Ordering::Acquire);
    if known != 0 {
        return known;
    }
    let next = COUNT.fetch_add(1, Ordering::AcqRel) + 1;
    match incarnation.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => next,
        Err(others) => others,
    }
}

fn asked_pid() -> u64 {
    u64::from(std::process::id())
}

/// Three words of a page that a child finds zeroed. It is mapped for the life of the process.
fn wiped_page() -> Option<[&'static AtomicU64; 3]> {
    // SAFETY: `sysconf` only reads a value.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|&size| size > 0)?;
    // SAFETY: a new private mapping at an address of the kernel's choosing touches nothing
    // that exists.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            page,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: `start` is the page just mapped, `page` its length.
    if unsafe { libc::madvise(start, page, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: `start` is the page just mapped, `page` its length, and nothing else knows the
        // address.
        unsafe { libc::munmap(start, page) };
        return None;
    }
    let first: *mut u64 = start.cast();
    // SAFETY: the page is zeroed, aligned, writable, never unmapped and longer than three words,
    // which are only ever accessed through these atomics.
    Some(unsafe {
        [
            AtomicU64::from_ptr(first),
            AtomicU64::from_ptr(first.add(1)),
            AtomicU64::from_ptr(first.add(2)),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept_and_never_falls() {
        for mark in [ForkMark::new(), ForkMark(Word::WithPid(AtomicU64::new(0)))] {
            assert_eq!(mark.get(), 0);
            mark.raise(7);
            assert_eq!(mark.get(), 7);
            mark.raise(6);
            assert_eq!(mark.get(), 7);
        }
    }

    #[test]
    fn a_child_is_another_incarnation_and_so_is_its_child() {
        let parent = incarnation();
        assert_eq!(incarnation(), parent);
        // SAFETY: the child only loads and stores atomics, forks once more, and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let own = incarnation();
            // SAFETY: the grandchild only loads and stores atomics, and exits.
            let grandchild = unsafe { libc::fork() };
            if grandchild == 0 {
                let right = ![own, parent].contains(&incarnation());
                // SAFETY: ends the grandchild at once.
                unsafe { libc::_exit(i32::from(!right)) };
            }
            let mut status = 1;
            // SAFETY: waits for the grandchild; `status` is valid to be filled in.
            unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(own == parent || status != 0)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made; `status` is valid to be filled in.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(incarnation(), parent);
    }

    #[test]
    fn the_process_id_is_the_systems() {
        assert_eq!(pid(), asked_pid());
        assert_eq!(pid(), asked_pid());
    }

    #[test]
    fn a_child_learns_its_own_id() {
        let parent = pid();
        // SAFETY: the child only loads and stores atomics, asks for its id, and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = pid() == asked_pid() && pid() != parent;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made; `status` is valid to be filled in.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(pid(), parent);
    }

    #[test]
    fn without_the_kernels_help_another_process_id_reads_zero() {
        let parents = (pid() + 1) << 32 | 9;
        let mark = ForkMark(Word::WithPid(AtomicU64::new(parents)));
        assert_eq!(mark.get(), 0);
        assert!(mark.word().is_none());
        mark.raise(7);
        assert_eq!(mark.get(), 7);
    }
}
