//! The end of nginx's requests: handlers that nginx calls, and notes that a request keeps after it.

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

/// The function of nginx that registers a handler for the end of a request.
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

    /// Makes nginx call `handler` with the request when the request ends, for whatever reason, before
    /// the log phase. That of a subrequest is called at the end of its main request. False if nginx
    /// has no memory.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop with a request that is being processed.
    pub(super) unsafe fn at_end(self, request: Request, handler: CleanupHandler) -> bool {
        // SAFETY: the caller guarantees thread and request.
        unsafe { self.add(request, handler, request.0.as_ptr()) }
    }

    unsafe fn add(self, request: Request, handler: CleanupHandler, data: *mut Opaque) -> bool {
        // SAFETY: called on nginx's thread with a request whose pool still exists. For size 0 nginx only
        // allocates the entry, in that pool, and links it into the list that it runs at the end.
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

/// A note that a request keeps after it has ended: the place of its context.
#[cfg(feature = "luajit")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) request: Request,
    pub(super) number: c_int,
    /// The turn of the place: tells the request from others that had the same place.
    pub(super) turn: u64,
}

#[cfg(feature = "luajit")]
impl EndSymbols {
    /// Leaves a note in a request that is ending, or has ended and is in its log phase. The note lasts
    /// as long as the request's pool. `handler` identifies our notes among nginx's entries. nginx may run
    /// the end of a request twice; the second time it calls `handler` with the note and unlinks it, so
    /// `handler` links it again with [`Self::keep`].
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop with a request whose pool still exists.
    pub(super) unsafe fn leave(self, note: Note, handler: CleanupHandler) {
        // SAFETY: the caller guarantees thread and pool. For a size above 0 nginx sets `data` to that
        // much memory of the pool, which is only aligned for a pointer: hence `write_unaligned`.
        unsafe {
            let request = note.request.0.as_ptr();
            if let Some(mut entry) = NonNull::new((self.add_cleanup)(request, size_of::<Note>())) {
                entry.as_ref().data.cast::<Note>().write_unaligned(note);
                entry.as_mut().handler = Some(handler);
            }
        }
    }

    /// Links a note again that nginx has unlinked to call its handler.
    ///
    /// # Safety
    ///
    /// Called by the handler given to [`Self::leave`], with the pointer that nginx called it with.
    pub(super) unsafe fn keep(self, data: *mut Opaque, handler: CleanupHandler) {
        // SAFETY: only `leave` and `keep` register this handler with data, which is a note in the pool of
        // a request that still exists. This is nginx's thread.
        unsafe {
            if !data.is_null() {
                let note = data.cast::<Note>().read_unaligned();
                self.add(note.request, handler, data);
            }
        }
    }

    /// The note with this handler in a request. nginx has no function that reads the list of handlers, so
    /// this adds an empty entry to get at the rest; each call takes the memory of an entry in the pool.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop with a request whose pool still exists.
    pub(super) unsafe fn note(self, request: Request, handler: CleanupHandler) -> Option<Note> {
        // SAFETY: nginx skips an entry without handler. The entries after it are those of the request
        // and its subrequests, all in the pool of the main request. nginx empties the list before it
        // calls the handlers, so no entry of it is stale. Data of an entry with this handler is a note.
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
