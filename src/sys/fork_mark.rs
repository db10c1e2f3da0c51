//! Numbers that a fork sets to 0 in the child. By reading one a process notices that an object was
//! made by its parent before the fork, without a system call such as `getpid`.
//!
//! They are in a page that the kernel fills with zeros in a child (`MADV_WIPEONFORK`, Linux 4.14).
//! If the kernel refuses that, the process id is kept beside the number and compared instead.

use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

/// The process's mark: a number that only grows. It is 0 in a child until the child raises it.
pub struct ForkMark(Word);

enum Word {
    /// In a page that the kernel fills with zeros in a child.
    Wiped {
        mark: &'static AtomicU64,
        known_pid: &'static AtomicU64,
        incarnation: &'static AtomicU64,
    },
    /// The process id in the upper 32 bits and the low 32 bits of the mark, so that one load reads
    /// both. 32 bits are enough to tell a mark from the next one.
    WithPid(AtomicU64),
}

impl ForkMark {
    /// The mark of this process. Never blocks: it may run in a child that was forked while a
    /// thread of the parent was in here, which a lock would block for ever.
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

    /// The mark; 0 after a fork. A thread that reads a mark here also sees what was stored before
    /// [`ForkMark::raise`] set it.
    #[inline]
    pub fn get(&self) -> u64 {
        match &self.0 {
            Word::Wiped { mark, .. } => mark.load(Ordering::Acquire),
            Word::WithPid(word) => own_half(word.load(Ordering::Acquire)),
        }
    }

    /// Sets the mark to `value` unless it is higher already: of two threads that raise it, the second
    /// may have the lower number.
    pub fn raise(&self, value: u64) {
        match &self.0 {
            Word::Wiped { mark, .. } => {
                mark.fetch_max(value, Ordering::AcqRel);
            }
            Word::WithPid(word) => {
                let raised = |seen| Some(asked_pid() << 32 | own_half(seen).max(value & LOW));
                // Cannot fail: the closure never returns `None`.
                let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, raised);
            }
        }
    }

    /// The word itself, for LuaJIT's FFI, which reads memory and cannot call `get`. None where the
    /// word contains the process id and so is not the mark alone.
    pub fn word(&self) -> Option<&'static AtomicU64> {
        match &self.0 {
            Word::Wiped { mark, .. } => Some(mark),
            Word::WithPid(_) => None,
        }
    }
}

const LOW: u64 = 0xffff_ffff;

/// The mark in `word` if this process wrote it, else 0.
fn own_half(word: u64) -> u64 {
    if word >> 32 == asked_pid() {
        word & LOW
    } else {
        0
    }
}

/// This process's id. Needs a system call only the first time in each process.
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

/// A number that differs from those of all processes that this one descends from, so that an object
/// can tell whether the present process made it or inherited it by a fork. A process id is not
/// enough: the system uses the id of a dead process again.
pub fn incarnation() -> u64 {
    // Inherited by a fork, so that a child counts on from its parent's number.
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

/// Three words of a page that is zero again in a child, and mapped for the life of the process.
/// None if the kernel refuses.
fn wiped_page() -> Option<[&'static AtomicU64; 3]> {
    // SAFETY: the call takes no pointers and only reads a value.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|&size| size > 0)?;
    // SAFETY: a new private mapping, at an address that the kernel chooses, replaces no mapping
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
    // SAFETY: `start` is the page that was just mapped, and `page` its length.
    if unsafe { libc::madvise(start, page, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: `start` is the page that was just mapped, `page` its length, and nothing refers
        // to it yet.
        unsafe { libc::munmap(start, page) };
        return None;
    }
    let first: *mut u64 = start.cast();
    // SAFETY: the page is writable, aligned, longer than three words and never unmapped; the words
    // are only accessed through these atomics.
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
        // SAFETY: the child only loads and stores atomics, forks once more, and exits, which is
        // allowed after a fork of a process with several threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let own = incarnation();
            // SAFETY: the grandchild only loads and stores atomics, and exits; its parent has one
            // thread.
            let grandchild = unsafe { libc::fork() };
            if grandchild == 0 {
                let right = ![own, parent].contains(&incarnation());
                // SAFETY: `_exit` takes no pointers and runs no handlers.
                unsafe { libc::_exit(i32::from(!right)) };
            }
            let mut status = 1;
            // SAFETY: `status` has room for what the call writes.
            unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
            // SAFETY: `_exit` takes no pointers and runs no handlers.
            unsafe { libc::_exit(i32::from(own == parent || status != 0)) };
        }
        let mut status = 0;
        // SAFETY: `status` has room for what the call writes.
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
        // SAFETY: the child only loads and stores atomics, calls `getpid`, and exits, which is
        // allowed after a fork of a process with several threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = pid() == asked_pid() && pid() != parent;
            // SAFETY: `_exit` takes no pointers and runs no handlers.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: `status` has room for what the call writes.
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
