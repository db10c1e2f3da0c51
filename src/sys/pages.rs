//! Arrays in pages of their own, for what is big and soon gone: a configuration while it is
//! read. The host's heap neither grows for them nor keeps holes where they were, and none of
//! its settings moves, as glibc's do when a large block is freed.
//!
//! What they held needs no wiping: the kernel hands pages to nobody before it has.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What an array takes first, in bytes. Pages that nothing touches cost nothing.
const FIRST: usize = 64 * 1024;

/// An array that grows at its end. Its pages are given back when it is dropped.
pub struct Pages<T: Copy> {
    start: NonNull<T>,
    length: usize,
    /// Of the mapping, in bytes; 0 where there is none yet.
    bytes: usize,
    owns: PhantomData<T>,
}

impl<T: Copy> Default for Pages<T> {
    fn default() -> Self {
        Self {
            start: NonNull::dangling(),
            length: 0,
            bytes: 0,
            owns: PhantomData,
        }
    }
}

impl<T: Copy> Pages<T> {
    /// # Errors
    /// Where the system gives no memory.
    pub fn push(&mut self, item: T) -> io::Result<()> {
        self.extend(&[item])
    }

    /// # Errors
    /// Where the system gives no memory.
    pub fn extend(&mut self, items: &[T]) -> io::Result<()> {
        let length = self
            .length
            .checked_add(items.len())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        self.make_room(length)?;
        // SAFETY: there is room for `items` behind the `length` items that there are, and
        // nobody else can see it. Items are `Copy`.
        unsafe {
            let end = self.start.as_ptr().add(self.length);
            end.copy_from_nonoverlapping(items.as_ptr(), items.len());
        }
        self.length = length;
        Ok(())
    }

    /// Keeps the first `length` items, if there are more.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Gives the mapping back, where there is one.
    ///
    /// # Safety
    /// Nothing may refer to it any more; `self` gets another one, or goes.
    unsafe fn unmap(&mut self) {
        if self.bytes > 0 {
            // SAFETY: as of this function; the mapping is this array's own.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }

    fn make_room(&mut self, length: usize) -> io::Result<()> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        let needed = length
            .checked_mul(size_of::<T>())
            .filter(|&needed| isize::try_from(needed).is_ok())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        if needed <= self.bytes {
            return Ok(());
        }
        let bytes = needed
            .checked_next_power_of_two()
            .ok_or(io::ErrorKind::OutOfMemory)?
            .max(FIRST);
        // Not mremap: what confines a process may know no more than glibc cannot do without.
        // SAFETY: a new anonymous mapping at an address of the kernel's choosing.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start: NonNull<T> = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the new mapping is larger than what is copied, and apart from it. `&mut self`
        // proves that nobody holds a reference into the old one.
        unsafe {
            start
                .as_ptr()
                .copy_from_nonoverlapping(self.start.as_ptr(), self.length);
            self.unmap();
        }
        self.start = start;
        self.bytes = bytes;
        Ok(())
    }
}

impl Pages<u8> {
    /// Adds up to `most` bytes that `read` gives, to its end or the first error.
    ///
    /// # Errors
    /// Where the system gives no memory; those of `read`.
    pub fn read_from(&mut self, mut read: impl io::Read, most: usize) -> io::Result<()> {
        let before = self.length;
        let end = before.checked_add(most).ok_or(io::ErrorKind::OutOfMemory)?;
        self.make_room(end)?;
        // SAFETY: there is room, and fresh or written to before: bytes have a value in
        // either case.
        let all = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), end) };
        while let Some(rest) = all.get_mut(self.length..).filter(|rest| !rest.is_empty()) {
            match read.read(rest) {
                Ok(0) => break,
                // Whatever a reader says, it cannot have given more.
                Ok(count) => self.length += count.min(rest.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<T: Copy> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `length` items were written, or `length` is 0 and the pointer
        // dangles but is aligned. They change through `&mut self` alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T: Copy> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the first `length` items were written, or `length` is 0 and the pointer
        // dangles but is aligned; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<T: Copy> Drop for Pages<T> {
    fn drop(&mut self) {
        // SAFETY: no reference into the array outlives it, and nothing uses it any more.
        unsafe { self.unmap() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_there_however_far_it_grows() {
        let mut pages = Pages::default();
        assert_eq!(*pages, [] as [u32; 0]);
        for item in 0..100_000_u32 {
            pages.push(item).unwrap();
        }
        assert!(pages.iter().copied().eq(0..100_000));
        pages.truncate(3);
        pages.extend(&[7, 8]).unwrap();
        pages.truncate(9);
        assert_eq!(*pages, [0, 1, 2, 7, 8]);
        pages[1] = 5;
        assert_eq!(*pages, [0, 5, 2, 7, 8]);
    }

    #[test]
    fn what_no_memory_holds_is_an_error() {
        let mut pages = Pages::<u64>::default();
        pages.push(1).unwrap();
        for length in [usize::MAX, usize::MAX / 8, usize::MAX / 16, 1 << 50] {
            assert!(pages.make_room(length).is_err(), "{length}");
        }
        assert_eq!(*pages, [1]);
    }

    /// Gives a byte at a time, and is interrupted in between.
    struct Slow<'a>(&'a [u8], bool);

    impl io::Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = into.len().min(1);
            io::Read::read(&mut self.0, &mut into[..length])
        }
    }

    #[test]
    fn bytes_are_read_to_the_end_or_the_bound() {
        for (most, kept) in [(0, "x"), (2, "xab"), (4, "xabcd"), (100_000, "xabcd")] {
            let mut pages = Pages::default();
            pages.push(b'x').unwrap();
            pages.read_from(Slow(b"abcd", false), most).unwrap();
            assert_eq!(*pages, *kept.as_bytes());
        }
    }
}
