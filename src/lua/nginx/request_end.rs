//! The end of nginx's requests: who is told of it, and what a request still carries after it.

use std::ptr::NonNull;

#[cfg(feature = "luajit")]
use std::ffi::c_int;

use super::pointers::{Opaque, Request, address};

pub(super) type CleanupHandler = unsafe extern "C" fn(*mut Opaque);

/// `ngx_http_cleanup_t`
#[repr(C)]
struct Cleanup {
    handler: Option<CleanupHandler>,
    data: *mut Opaque,
    next: *mut Self,
}

type AddCleanup = unsafe extern "C" fn(*mut Opaque, usize) -> *mut Cleanup;

/// What tells of the end of a request.
#[derive(Clone, Copy)]
pub(super) struct EndSymbols {
    add_cleanup: AddCleanup,
}

impl EndSymbols {
    pub(super) fn look_up() -> Option<Self> {
        let found = address(c"ngx_http_cleanup_add")?;
        // SAFETY: nginx declares it with this type: http/ngx_http_core_module.h.
        let add_cleanup = unsafe { std::mem::transmute::<NonNull<Opaque>, AddCleanup>(found) };
        Some(Self { add_cleanup })
    }

    /// Has `handler` called with the request itself when the request ends, however it does, before
    /// the log phase; false where there is no memory.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop with a request that is being processed.
    pub(super) unsafe fn at_end(self, request: Request, handler: CleanupHandler) -> bool {
        // SAFETY: as of this function.
        unsafe { self.add(request, handler, request.0.as_ptr()) }
    }

    unsafe fn add(self, request: Request, handler: CleanupHandler, data: *mut Opaque) -> bool {
        // SAFETY: as of `at_end`. With size 0 nothing but the entry is allocated, in the
        // request's pool; nginx has linked it in, and reads it when the request ends.
        unsafe {
            let Some(mut entry) = NonNull::new((self.add_cleanup)(request.0.as_ptr(), 0)) else {
                return false;
            };
            entry.as_mut().handler = Some(handler);
            entry.as_mut().data = data;
        }
        true
    }
}

/// What is remembered of a request that has ended.
#[cfg(feature = "luajit")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) request: Request,
    pub(super) number: c_int,
    /// Which of those that had the number.
    pub(super) turn: u64,
}

#[cfg(feature = "luajit")]
impl EndSymbols {
    /// Leaves a note with a request that is ending, or has ended and is in its log phase. It is
    /// there as long as the request is. `handler` tells whose notes they
    /// are; where nginx ends the request once more it is called with the note, for [`Self::keep`].
    ///
    /// # Safety
    ///
    /// As of [`Self::at_end`].
    pub(super) unsafe fn leave(self, note: Note, handler: CleanupHandler) {
        // SAFETY: as of this function. Of a size above 0 that much memory is allocated in the
        // request's pool, aligned for a pointer only.
        unsafe {
            let request = note.request.0.as_ptr();
            if let Some(mut entry) = NonNull::new((self.add_cleanup)(request, size_of::<Note>())) {
                entry.as_ref().data.cast::<Note>().write_unaligned(note);
                entry.as_mut().handler = Some(handler);
            }
        }
    }

    /// Has the request keep a note that its handler was called with.
    ///
    /// # Safety
    ///
    /// Called by that handler, with what it was called with.
    pub(super) unsafe fn keep(self, data: *mut Opaque, handler: CleanupHandler) {
        // SAFETY: as of this function: it is a note, in the pool of a request that still is.
        unsafe {
            if !data.is_null() {
                let note = data.cast::<Note>().read_unaligned();
                self.add(note.request, handler, data);
            }
        }
    }

    /// The note that was left with a request by this handler. Each call takes the memory of an entry
    /// in the request's pool.
    ///
    /// # Safety
    ///
    /// As of [`Self::at_end`].
    pub(super) unsafe fn note(self, request: Request, handler: CleanupHandler) -> Option<Note> {
        // SAFETY: as of this function. An entry without a handler does nothing, and the ones
        // before it are those of the request and its subrequests, all in one pool: nginx clears
        // the list once it has called them, so that only what was left since is there. What has
        // this handler has a note.
        unsafe {
            let mut entry = (self.add_cleanup)(request.0.as_ptr(), 0).as_ref()?;
            while let Some(before) = entry.next.as_ref() {
                if before
                    .handler
                    .is_some_and(|h| std::ptr::fn_addr_eq(h, handler))
                    && !before.data.is_null()
                {
                    let note = before.data.cast::<Note>().read_unaligned();
                    if note.request == request {
                        return Some(note);
                    }
                }
                entry = before;
            }
        }
        None
    }
}
