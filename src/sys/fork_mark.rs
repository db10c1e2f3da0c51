//! A number that a fork sets to zero: how a process learns, with one load and no system
//! call, that what it holds was made by its parent.
//!
//! The number lives in a page that the kernel wipes in a child (`MADV_WIPEONFORK`, Linux
//! 4.14). Where that is refused, the process id is compared instead.

use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

/// The process's mark. `get` is 0 in a process that has not called `set` since its fork.
pub struct ForkMark {
    word: &'static AtomicU64,
    wiped_by_kernel: bool,
    /// In the same page, which the kernel wipes.
    known_pid: Option<&'static AtomicU64>,
    /// Who set the word; compared only where the kernel does not wipe.
    owner: AtomicU64,
}

impl ForkMark {
    /// The one of this process. Never blocks: a child may come here while a thread of its
    /// parent did, too.
    pub fn of_process() -> &'static Self {
        static MARK: OnceBox<ForkMark> = OnceBox::new();
        MARK.get_or_init(|| Box::new(Self::new()))
    }

    fn new() -> Self {
        match wiped_page() {
            Some([word, known_pid]) => Self {
                word,
                wiped_by_kernel: true,
                known_pid: Some(known_pid),
                owner: AtomicU64::new(0),
            },
            None => Self {
                word: Box::leak(Box::new(AtomicU64::new(0))),
                wiped_by_kernel: false,
                known_pid: None,
                owner: AtomicU64::new(0),
            },
        }
    }

    /// The mark, or 0 after a fork.
    pub fn get(&self) -> u64 {
        let value = self.word.load(Ordering::Acquire);
        if self.wiped_by_kernel || self.owner.load(Ordering::Acquire) == asked_pid() {
            value
        } else {
            0
        }
    }

    pub fn set(&self, value: u64) {
        if !self.wiped_by_kernel {
            self.owner.store(asked_pid(), Ordering::Release);
        }
        self.word.store(value, Ordering::Release);
    }

    /// The word itself, for readers that cannot call `get` (LuaJIT's FFI); none where the
    /// word alone does not tell.
    pub fn word(&self) -> Option<&'static AtomicU64> {
        self.wiped_by_kernel.then_some(self.word)
    }
}

/// This process's id: asked of the system once after each fork.
pub fn pid() -> u64 {
    let mark = ForkMark::of_process();
    let Some(known) = mark.known_pid else {
        return asked_pid();
    };
    match known.load(Ordering::Relaxed) {
        0 => {
            let pid = asked_pid();
            known.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

fn asked_pid() -> u64 {
    u64::from(std::process::id())
}

/// Two words of a page that a child finds zeroed. It is mapped for the life of the process.
fn wiped_page() -> Option<[&'static AtomicU64; 2]> {
    // SAFETY: asks for no name's meaning beyond sysconf's own list.
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
        // SAFETY: as above; nothing else knows the address.
        unsafe { libc::munmap(start, page) };
        return None;
    }
    let first: *mut u64 = start.cast();
    // SAFETY: the page is zeroed, aligned, writable, never unmapped and longer than two words,
    // which are only ever accessed through these atomics.
    Some(unsafe {
        [
            AtomicU64::from_ptr(first),
            AtomicU64::from_ptr(first.add(1)),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept() {
        let mark = ForkMark::new();
        assert_eq!(mark.get(), 0);
        mark.set(7);
        assert_eq!(mark.get(), 7);
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
        let mark = ForkMark {
            word: Box::leak(Box::new(AtomicU64::new(7))),
            wiped_by_kernel: false,
            known_pid: None,
            owner: AtomicU64::new(pid() + 1),
        };
        assert_eq!(mark.get(), 0);
        assert!(mark.word().is_none());
    }
}
