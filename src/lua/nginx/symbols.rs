//! The names of nginx and its Lua module that are used here.
//!
//! All are part of what nginx offers to modules built apart from it: their types have been the
//! same since nginx 1.4 and lua-nginx-module 0.10.15.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use once_cell::race::OnceBox;

use super::pointers::at;
pub(super) use super::pointers::{Opaque, Request, address};
use super::request_end::EndSymbols;

/// A semaphore of the Lua module: `ngx_http_lua_sema_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Semaphore(NonNull<Opaque>);

pub(super) type EventHandler = unsafe extern "C" fn(*mut Opaque);

type AddChannelEvent = unsafe extern "C" fn(*mut Opaque, c_int, isize, EventHandler) -> isize;
type PostSemaphore = unsafe extern "C" fn(*mut Opaque, c_int) -> c_int;
type CountSemaphore = unsafe extern "C" fn(*mut Opaque) -> c_int;

/// `NGX_READ_EVENT` of Linux: `EPOLLIN | EPOLLRDHUP`, whatever the event module.
const READ_EVENT: isize = 0x2001;

/// What a process is to nginx, of `ngx_process`'s values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessRole {
    /// The master, before or after it forks, or the only process.
    Head,
    /// A worker, the privileged agent, or a cache's manager or loader.
    Forked,
}

const PROCESS_WORKER: usize = 3;

pub(super) struct Symbols {
    process: &'static AtomicUsize,
    exiting: &'static AtomicUsize,
    quit: &'static AtomicI32,
    terminate: &'static AtomicI32,
    #[cfg(feature = "luajit")]
    pub(super) ends: Option<EndSymbols>,
    pub(super) wake: Option<WakeSymbols>,
}

/// What wakes a coroutine.
pub(super) struct WakeSymbols {
    pub(super) ends: EndSymbols,
    cycle: &'static AtomicPtr<Opaque>,
    add_channel_event: AddChannelEvent,
    post_semaphore: PostSemaphore,
    count_semaphore: CountSemaphore,
}

impl Symbols {
    /// Those of this process; none where it is not an nginx.
    pub(super) fn of_process() -> Option<&'static Self> {
        static SYMBOLS: OnceBox<Option<Symbols>> = OnceBox::new();
        SYMBOLS.get_or_init(|| Box::new(Self::look_up())).as_ref()
    }

    fn look_up() -> Option<Self> {
        // SAFETY: nginx declares these as `ngx_uint_t` and `sig_atomic_t` (an `int`), aligned
        // and there for the life of the process, which writes them with single stores.
        unsafe {
            Some(Self {
                process: AtomicUsize::from_ptr(address(c"ngx_process")?.cast().as_ptr()),
                exiting: AtomicUsize::from_ptr(address(c"ngx_exiting")?.cast().as_ptr()),
                quit: AtomicI32::from_ptr(address(c"ngx_quit")?.cast().as_ptr()),
                terminate: AtomicI32::from_ptr(address(c"ngx_terminate")?.cast().as_ptr()),
                #[cfg(feature = "luajit")]
                ends: EndSymbols::look_up(),
                wake: WakeSymbols::look_up(),
            })
        }
    }

    /// Whether this process has been told to exit.
    pub(super) fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::Relaxed) != 0
            || self.quit.load(Ordering::Relaxed) != 0
            || self.terminate.load(Ordering::Relaxed) != 0
    }

    pub(super) fn role(&self) -> ProcessRole {
        if self.process.load(Ordering::Relaxed) >= PROCESS_WORKER {
            ProcessRole::Forked
        } else {
            ProcessRole::Head
        }
    }
}

impl WakeSymbols {
    fn look_up() -> Option<Self> {
        // SAFETY: nginx declares `volatile ngx_cycle_t *ngx_cycle` and a function of this
        // type: os/unix/ngx_channel.h; the Lua module declares the last two for LuaJIT's FFI.
        unsafe {
            Some(Self {
                ends: EndSymbols::look_up()?,
                cycle: AtomicPtr::from_ptr(address(c"ngx_cycle")?.cast().as_ptr()),
                add_channel_event: std::mem::transmute::<NonNull<Opaque>, AddChannelEvent>(
                    address(c"ngx_add_channel_event")?,
                ),
                post_semaphore: std::mem::transmute::<NonNull<Opaque>, PostSemaphore>(address(
                    c"ngx_http_lua_ffi_sema_post",
                )?),
                count_semaphore: std::mem::transmute::<NonNull<Opaque>, CountSemaphore>(address(
                    c"ngx_http_lua_ffi_sema_count",
                )?),
            })
        }
    }

    /// What nginx runs now: another one after a reload of an nginx without a master.
    pub(super) fn cycle(&self) -> usize {
        self.cycle.load(Ordering::Relaxed).addr()
    }

    /// Has `handler` called in nginx's event loop while `descriptor` is readable; false where
    /// nginx has no connection slot left. Marked as a channel, so that a worker neither waits
    /// for it nor complains of it when it exits.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop, while it runs. `descriptor` stays open for
    /// the life of the process, or of the cycle.
    pub(super) unsafe fn watch(&self, descriptor: c_int, handler: EventHandler) -> bool {
        let cycle = self.cycle.load(Ordering::Relaxed);
        // SAFETY: as of this function; `cycle` is the running one.
        unsafe { (self.add_channel_event)(cycle, descriptor, READ_EVENT, handler) == 0 }
    }

    /// Lets the coroutine that waits for the semaphore run, in this round of the event loop.
    ///
    /// # Safety
    ///
    /// Called on the thread of nginx's event loop; the semaphore has not been freed.
    pub(super) unsafe fn post(&self, semaphore: Semaphore) {
        // SAFETY: as of this function.
        unsafe { (self.post_semaphore)(semaphore.0.as_ptr(), 1) };
    }

    /// Whether a coroutine waits for the semaphore that nobody has posted.
    ///
    /// # Safety
    ///
    /// As of [`WakeSymbols::post`].
    pub(super) unsafe fn is_awaited(&self, semaphore: Semaphore) -> bool {
        // SAFETY: as of this function. It is what is there less what is waited for.
        unsafe { (self.count_semaphore)(semaphore.0.as_ptr()) < 0 }
    }
}

impl Semaphore {
    /// From what LuaJIT's FFI shows as the address.
    pub(super) fn at(address: usize) -> Option<Self> {
        at(address).map(Self)
    }
}

// SAFETY: an address, given to nginx on its own thread only (see the functions above).
unsafe impl Send for Semaphore {}
